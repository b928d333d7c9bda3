"""Ranges of a disk that are being changed: overlapping changes wait for each other.

A plain array: a volume has as many changes under way as it has connections, and looking through 64 places costs less than
keeping them in order. Nobody who holds a range waits for another one, so nothing can lock up.

Threading: any thread, no GIL.
"""
from cdpcore.ring cimport (pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_wait, pthread_mutex_destroy,
                           pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock)

cdef extern from "thread.h" nogil:
    void cdp_cond_init(pthread_cond_t *c)


cdef class RangeLock:
    """Exclusive holds of ranges [start, end), in any unit."""

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)
        cdp_cond_init(&self.freed)

    def __dealloc__(self):
        pthread_cond_destroy(&self.freed)
        pthread_mutex_destroy(&self.mutex)

    cdef uint32_t acquire(self, uint64_t start, uint64_t end) noexcept nogil:
        cdef uint32_t i, place
        pthread_mutex_lock(&self.mutex)
        while True:
            place = RANGES_MAX
            for i in range(RANGES_MAX):
                if self.ends[i] == 0:
                    place = i
                elif self.starts[i] < end and start < self.ends[i]:
                    place = RANGES_MAX
                    break
            if place < RANGES_MAX:
                break
            pthread_cond_wait(&self.freed, &self.mutex)
        self.starts[place] = start
        self.ends[place] = end
        pthread_mutex_unlock(&self.mutex)
        return place

    cdef void release(self, uint32_t ticket) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        self.ends[ticket] = 0
        pthread_cond_broadcast(&self.freed)
        pthread_mutex_unlock(&self.mutex)
