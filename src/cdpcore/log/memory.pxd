"""The memory that the logs of a process share, and its bound (log/memory_bound.h)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.log.slots cimport cdp_slots


cdef extern from "log/memory_bound.h" nogil:
    ctypedef struct cdp_memory:
        uint64_t limit_bytes, used_bytes, most_bytes
    void cdp_memory_destroy(cdp_memory *m)
    uint8_t *cdp_memory_prepared(cdp_memory *m, const cdp_slots *t, int for_reads)
    void cdp_memory_init(cdp_memory *m, uint64_t limit_bytes)
    void cdp_memory_join(cdp_memory *m, cdp_slots *t)
    void cdp_memory_leave(cdp_memory *m, cdp_slots *t)
    uint8_t *cdp_memory_new(cdp_memory *m, cdp_slots *t, int beyond)
    uint8_t *cdp_memory_from_others(cdp_memory *m, cdp_slots *t, uint32_t has)
    void cdp_memory_free(cdp_memory *m, const cdp_slots *t, uint8_t *mem)
    int cdp_memory_is_over(cdp_memory *m)
    uint64_t cdp_memory_limit(const cdp_memory *m)


cdef class Memory:
    cdef cdp_memory m       # log/memory_bound.h says what guards it
