"""The buffer pool: one anonymous mapping, cut into equal slots. Bounded for life."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os


cdef class BufferPool:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef uint8_t *base          # n_slots * slot_bytes, aligned to CDP_DIRECT_ALIGN; huge pages where there are any
    cdef readonly uint64_t slot_bytes
    cdef readonly uint32_t n_slots

    cdef uint8_t *slot(self, uint32_t i) noexcept nogil
