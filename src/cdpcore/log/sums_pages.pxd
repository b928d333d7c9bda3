"""Pages of checksums in memory, found without a lock (log/sums_slots.h)."""
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "log/sums_slots.h" nogil:
    enum:
        CDP_BREAK_TURN
        CDP_BREAK_SLOW
    ctypedef struct cdp_sums_slots:
        uint32_t broken
    int cdp_sums_slots_init(cdp_sums_slots *t)
    void cdp_sums_slots_free(cdp_sums_slots *t)
    int cdp_sums_slots_find(const cdp_sums_slots *t, uint32_t number, uint64_t page, uint32_t first, uint32_t n,
                            uint32_t *out)
    void cdp_sums_slots_fetch(const cdp_sums_slots *t, uint32_t number, uint64_t page, uint32_t first)
    int cdp_sums_slots_put(cdp_sums_slots *t, uint32_t number, uint64_t page, const uint32_t *sums)
    void cdp_sums_slots_drop(cdp_sums_slots *t, uint32_t number)


cdef class SumsPages:
    # found without a lock; changed by one thread at a time
    cdef cdp_sums_slots t
