"""Up to which record a protected disk holds everything, durably: VOLUME/disk.state (docs/format.md)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.errors cimport cdp_status
from cdpcore.osapi cimport Os, cdp_os


cdef class DiskState:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef int fd
    cdef uint8_t uuid[16]
    # whoever puts, one at a time
    cdef uint64_t generation
    cdef readonly uint64_t applied_seq

    cpdef close(self)
    cdef int put(self, uint64_t applied_seq, cdp_status *st) noexcept nogil     # durable at return
