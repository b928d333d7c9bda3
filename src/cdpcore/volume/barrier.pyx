"""One moment of several volumes.

Invariants
 1. The positions are read while no record can be appended to any of the volumes. So a request that was acknowledged
    before the first lock was taken is in them, one that is acknowledged after the last was released and begins after
    it is not, and of two requests to two volumes, the second of which was sent after the first was acknowledged, the
    first is in them where the second is.
 2. While a lock is held, others are only tried, and for a short time: then all are let go, and the one that could not
    be had is waited for first. So a slow device, or a thread that was preempted, holds up its own volume only, and two
    barriers cannot wait for one another. Each try takes twice as long as the one before, up to the limit.
Threading: any thread.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from cdpcore.base.clock cimport cdp_monotonic_ns, cdp_nap_us
from cdpcore.base.gate cimport cdp_gate_enter, cdp_gate_leave
from cdpcore.base.thread cimport pthread_mutex_lock, pthread_mutex_t, pthread_mutex_trylock, pthread_mutex_unlock
from cdpcore.volume.core cimport VolumeCore

from cdpcore.base.errors import Closed, Unavailable

cdef extern from "<sched.h>" nogil:
    int sched_yield()


cdef enum:
    PATIENCE_NS = 50000
    NAP_US = 20
    WAIT = 8        # times the limit, for a lock while none is held


cdef struct held:
    pthread_mutex_t *lock           # appending
    const uint64_t *seq             # of the last record; guarded by lock
    const uint64_t *ts_ns
    uint64_t at, at_ns              # what they were


cdef bint look(held *all, Py_ssize_t n, uint64_t limit_ns, uint64_t *pause_ns) noexcept nogil:
    """Whether all could be held at once."""
    cdef Py_ssize_t first = 0, got = 0, i
    cdef uint64_t begun = cdp_monotonic_ns(), began, patience_ns = PATIENCE_NS
    pause_ns[0] = 0
    if n == 0:
        return True
    while True:
        while pthread_mutex_trylock(all[first].lock) != 0:      # nobody is held up meanwhile
            if cdp_monotonic_ns() - begun > WAIT * limit_ns:
                return False
            cdp_nap_us(NAP_US)
        began = cdp_monotonic_ns()
        got = 1
        while got < n:
            if pthread_mutex_trylock(all[(first + got) % n].lock) == 0:
                got += 1
            elif cdp_monotonic_ns() - began > patience_ns:
                break
            else:
                sched_yield()
        if got == n:
            for i in range(n):
                all[i].at = all[i].seq[0]
                all[i].at_ns = all[i].ts_ns[0]
        for i in range(got):
            pthread_mutex_unlock(all[(first + i) % n].lock)
        pause_ns[0] = max(pause_ns[0], cdp_monotonic_ns() - began)
        if got == n:
            return True
        if patience_ns >= limit_ns:
            return False
        first = (first + got) % n
        patience_ns = min(2 * patience_ns, limit_ns)


def positions(list cores not None, uint64_t limit_ns):
    """([(seq, ts_ns)] of different volumes, of one moment; for how many ns their writers were held up). Raises Closed;
    Unavailable where not all of them could be held within `limit_ns`, and none is then."""
    cdef Py_ssize_t n = len(cores), entered = 0, i
    cdef VolumeCore core
    cdef held *all = <held *>malloc(max(n, 1) * sizeof(held))
    cdef uint64_t pause
    cdef bint done
    if all == NULL:
        raise MemoryError()
    try:
        for i in range(n):
            core = <VolumeCore?>cores[i]
            if not cdp_gate_enter(&core.gate):
                raise Closed("a volume is closed")
            entered += 1
            all[i] = held(lock=&core.log.append_mutex, seq=&core.log.last_seq, ts_ns=&core.log.last_ts_ns, at=0,
                          at_ns=0)
        with nogil:
            done = look(all, n, limit_ns, &pause)
        if not done:
            raise Unavailable(f"not all volumes could be held within {limit_ns // 1000000} ms",
                              "a device is slow: repeat it, or give it longer")
        return [(all[i].at, all[i].at_ns) for i in range(n)], pause
    finally:
        for i in range(entered):
            core = <VolumeCore>cores[i]
            cdp_gate_leave(&core.gate)
        free(all)
