"""Ranges of a disk that are being changed: overlapping changes wait for each other, and go in the order in which they
came."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.thread cimport pthread_cond_t, pthread_mutex_t


cdef enum:
    RANGES_MAX = 64         # held or waited for at once; who comes then waits for a place


cdef struct range_place:
    uint64_t turn
    uint64_t start, end     # end 0: nobody's


cdef class RangeLock:
    cdef pthread_mutex_t mutex      # guards the rest
    cdef pthread_cond_t changed
    cdef range_place places[RANGES_MAX]
    cdef uint32_t top               # places from there on are nobody's
    cdef uint64_t turns, placed     # the next turn; the next one that gets a place
    cdef uint32_t n_waiting

    cdef uint32_t acquire(self, uint64_t start, uint64_t end) noexcept nogil    # its place, for release
    cdef void release(self, uint32_t place) noexcept nogil
    cdef bint look(self, uint64_t turn, uint64_t start, uint64_t end, uint32_t *place) noexcept nogil
