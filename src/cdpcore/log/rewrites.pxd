"""What is read and then overwritten (log/rewrites.h)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "log/rewrites.h" nogil:
    enum:
        CDP_REWRITES_SETS
        CDP_REWRITES_BLOCK
        CDP_WATCHED_ONE_IN

    struct cdp_rewrites_count:
        uint64_t n
        uint32_t stride, n_samples
        uint64_t samples[64]

    struct cdp_rewrites:
        cdp_rewrites_count counts[4]

    void cdp_rewrites_read(cdp_rewrites *r, uint64_t start, uint64_t end)
    void cdp_rewrites_add(cdp_rewrites *r, bint trimmed, uint64_t start, uint64_t end)
    void cdp_rewrites_begin(cdp_rewrites *r, uint32_t tick)
    uint64_t cdp_unevenness(const uint8_t *block)
    uint32_t cdp_units_alike(const uint8_t *a, const uint8_t *b)
