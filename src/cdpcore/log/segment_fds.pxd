"""Read handles of segment files, bounded."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_mutex_t
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os


cdef struct open_segment_file:
    uint32_t number         # 0: empty
    uint32_t pins
    int fd


cdef class SegmentFds:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef bytes directory
    cdef const char *directory_c
    cdef uint32_t n_slots
    # guarded by mutex
    cdef pthread_mutex_t mutex
    cdef open_segment_file *slots   # segment N lives in slot N mod n_slots, or is open for one call only

    cdef int acquire(self, uint32_t number, int *fd, bint *cached, cdp_status *st) noexcept nogil
    cdef void release(self, uint32_t number, int fd, bint cached) noexcept nogil
