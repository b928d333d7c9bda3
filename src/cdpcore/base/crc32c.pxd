"""CRC-32C (base/crc32c.h)."""
from libc.stdint cimport uint32_t


cdef extern from "base/crc32c.h" nogil:
    enum:
        CDP_CRC32C_BLOCK
    uint32_t cdp_crc32c(uint32_t crc, const void *p, size_t n)
    uint32_t cdp_crc32c_blocks(const void *p, size_t n, uint32_t *sums)
    uint32_t cdp_crc32c_portable(uint32_t crc, const void *p, size_t n)
    ctypedef uint32_t (*cdp_crc32c_fn)(uint32_t crc, const void *p, size_t n) noexcept nogil
    const char *cdp_crc32c_implementation(uint32_t i, cdp_crc32c_fn *fn)
