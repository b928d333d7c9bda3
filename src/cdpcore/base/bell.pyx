"""A bell for the process's maintenance: the engine rings it, without the GIL, where work has come up and no thread
attends; one thread waits for it and looks where (cdp.store.shared_threads).

Threading: any thread. A child of a fork has a bell of its own.
"""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.base.clock cimport cdp_monotonic_ms
from cdpcore.base.thread cimport (cdp_cond_init, cdp_cond_wait_ms, pthread_cond_signal, pthread_cond_t,
                                  pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t, pthread_mutex_unlock)
import os

cdef pthread_mutex_t mutex
cdef pthread_cond_t waiting     # guarded by mutex, as is the count
cdef uint64_t count = 0


cdef void ring() noexcept nogil:
    global count
    pthread_mutex_lock(&mutex)
    count += 1
    pthread_cond_signal(&waiting)
    pthread_mutex_unlock(&mutex)


def rung() -> None:
    """Ring it."""
    ring()


def wait(uint64_t seen, uint32_t timeout_ms):
    """Return when the bell was rung more often than `seen` times, or after timeout_ms; how often it was."""
    cdef uint64_t now = cdp_monotonic_ms(), until = now + timeout_ms, got
    with nogil:
        pthread_mutex_lock(&mutex)
        while count == seen and now < until:
            cdp_cond_wait_ms(&waiting, &mutex, <uint32_t>(until - now))
            now = cdp_monotonic_ms()
        got = count
        pthread_mutex_unlock(&mutex)
    return got


def _begin():
    pthread_mutex_init(&mutex, NULL)
    cdp_cond_init(&waiting)


_begin()
os.register_at_fork(after_in_child=_begin)
