"""Ranges of a disk that are being changed: overlapping changes wait for each other."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.ring cimport pthread_cond_t, pthread_mutex_t


cdef enum:
    RANGES_MAX = 64     # held at once; more wait


cdef class RangeLock:
    cdef pthread_mutex_t mutex      # guards the rest
    cdef pthread_cond_t freed
    cdef uint64_t starts[RANGES_MAX]
    cdef uint64_t ends[RANGES_MAX]  # 0: a free place

    cdef uint32_t acquire(self, uint64_t start, uint64_t end) noexcept nogil    # a ticket for release
    cdef void release(self, uint32_t ticket) noexcept nogil
