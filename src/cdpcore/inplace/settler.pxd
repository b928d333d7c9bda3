"""The way of new content to a disk that is written in place."""
from libc.stdint cimport uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_cond_t, pthread_mutex_t
from cdpcore.inplace.disk_state cimport DiskState
from cdpcore.inplace.reader cimport DiskReader


cdef struct reached:
    uint64_t seq            # every record up to it
    uint64_t change         # of Pending: every one before it


cdef class DiskSettler(DiskReader):
    # constant after attach()
    cdef DiskState state

    cdef pthread_mutex_t settling   # guards the rest
    cdef pthread_cond_t settled
    cdef bint busy                  # somebody writes to the disk or syncs it
    cdef reached applied            # the disk holds it
    cdef reached synced             # ... durably, and DiskState says so
    cdef bint stopping

    cdef int settle(self, uint64_t seq, uint64_t change, bint sync, cdp_status *st) noexcept nogil
    cdef int settle_now(self, bint sync, cdp_status *st) noexcept nogil
    cdef int round(self, bint sync, cdp_status *st) noexcept nogil
    cdef void give_room(self) noexcept nogil
    cdef int apply(self, reached *now, cdp_status *st) noexcept nogil
    cdef int zero_disk(self, uint64_t off, uint64_t n, bint hole, cdp_status *st) noexcept nogil
    cdef bint all_synced(self) noexcept nogil
