"""The way of new content to a disk that is written in place."""
from libc.stdint cimport uint64_t
from cdpcore.diskread cimport DiskReader
from cdpcore.diskstate cimport DiskState
from cdpcore.errors cimport cdp_status
from cdpcore.ring cimport pthread_cond_t, pthread_mutex_t


cdef class DiskSettler(DiskReader):
    # constant after attach()
    cdef DiskState state

    cdef pthread_mutex_t settling   # guards the rest
    cdef pthread_cond_t settled
    cdef bint busy                  # somebody writes to the disk or syncs it
    cdef uint64_t applied_seq       # the disk holds everything up to it
    cdef uint64_t synced_seq        # ... durably, and DiskState says so
    cdef uint64_t next_change       # of Pending: the first that is not on the disk
    cdef bint stopping

    cdef int settle(self, uint64_t upto, bint sync, cdp_status *st) noexcept nogil
    cdef int settle_now(self, bint sync, cdp_status *st) noexcept nogil
    cdef int round(self, bint sync, cdp_status *st) noexcept nogil
    cdef int apply(self, uint64_t upto, cdp_status *st) noexcept nogil
    cdef int zero_disk(self, uint64_t off, uint64_t n, bint hole, cdp_status *st) noexcept nogil
