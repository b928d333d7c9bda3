"""Checksums of the 4 KiB blocks of a file, and reads that are checked against them (log/block_sums.h)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.base.format cimport cdp_sums_header
from cdpcore.base.status cimport cdp_status
from cdpcore.system.os_table cimport cdp_os


cdef extern from "log/block_sums.h" nogil:
    ctypedef int (*cdp_sums_of)(void *ctx, uint64_t block, uint32_t n, uint32_t *out, bint wait,
                                cdp_status *st) noexcept nogil
    uint64_t cdp_sums_pages(uint64_t n_blocks)
    void cdp_sums_put(uint8_t *pages, const uint32_t *sums, uint64_t n_blocks, uint64_t salt, uint64_t first)
    void cdp_sums_header_put(uint8_t *block, cdp_sums_header *h)
    bint cdp_sums_header_get(const uint8_t *block, cdp_sums_header *h)
    bint cdp_sums_load(const cdp_os *os, int fd, const cdp_sums_header *h, uint64_t page, uint32_t *sums)
    void cdp_sums_zeros(uint32_t *sums)
    bint cdp_sums_page_ok(const uint8_t *page, uint64_t number, uint64_t salt)
    int cdp_read_checked(const cdp_os *os, int fd, void *buf, uint64_t n, uint64_t off, bint wait, cdp_sums_of sums,
                         void *ctx, const char *what, cdp_status *st)
