"""Which writes a limit of the history lets in, and when: beyond a number of bytes of log they are refused, as on a full
device; before it they may be slowed down, the more the less is left.

What decides is how much log there is, at each write, so neither the number of clients nor their speed matters. Where
writes are slowed, n bytes take the turn of all writers for as long as n is of what is left, times within_ns: so what is
left shrinks by 1 - 1/e in that time at most. A write waits in its own thread, with no lock held, and for SLOWED_MOST_MS
at most; then it is let in. Where many clients together are faster than that, the limit refuses them.

Only writes, zeros and trims come here. Flushes, bookmarks and restores take what writes leave.

Threading: any thread. set() by one at a time.
"""
cimport cython
from libc.stdint cimport uint32_t
from cdpcore.base.clock cimport cdp_monotonic_ns, cdp_nap_us
from cdpcore.base.status cimport CDP_NOSPACE, CDP_OK, cdp_fail
from cdpcore.base.thread cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock)

cdef enum:
    SLOWED_MOST_MS = 200    # 128 requests in one connection's queue are then answered within half a minute

cdef uint64_t MOST_NS = <uint64_t>SLOWED_MOST_MS * 1000000
cdef const char *FULL = b"the history has reached the limit of its policy, which refuses writes"


@cython.final
cdef class Admission:
    """Args: log: what grows."""

    def __cinit__(self, Log log not None):
        pthread_mutex_init(&self.mutex, NULL)
        self.log = log

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    cdef int admit(self, uint64_t n, cdp_status *st) noexcept nogil:
        cdef uint64_t logged, now, left, wait_ns = 0
        cdef bint full
        if not (<const volatile bint *>&self.on)[0]:
            return CDP_OK
        logged = self.log.added_bytes() + n
        pthread_mutex_lock(&self.mutex)
        full = self.on and logged > self.most_bytes
        left = self.most_bytes - logged + n
        if full:
            self.n_refused += 1
        elif self.on and left < self.slow_bytes:
            now = cdp_monotonic_ns()
            self.next_ns = max(self.next_ns, now) + <uint64_t>(<double>n / <double>left * <double>self.within_ns)
            self.next_ns = min(self.next_ns, now + MOST_NS)
            wait_ns = self.next_ns - now
            self.n_slowed += 1
            self.slowed_ns += wait_ns
        pthread_mutex_unlock(&self.mutex)
        if full:
            return cdp_fail(st, CDP_NOSPACE, 0, 0, FULL)
        if wait_ns:
            cdp_nap_us(<uint32_t>(wait_ns // 1000))
        return CDP_OK

    def logged(self) -> int:
        """How much was added to the log since opening, in bytes, in whole frames."""
        return (<const volatile uint64_t *>&self.log.framed_bytes)[0]

    def set(self, logged: int, room_bytes: int | None, slow_bytes: int = 0, within_ns: int = 0):
        """From now on so much may be added to the log, in bytes, since logged() was `logged`; None: as much as comes.
        With less than slow_bytes of it left, writes are slowed so that it lasts for within_ns (an hour at most)."""
        cdef uint64_t most = logged, slow = max(slow_bytes, 0), within = min(max(within_ns, 0), 3600 * 10**9)
        if room_bytes is not None:
            most += min(max(room_bytes, 0), 1 << 62)
        pthread_mutex_lock(&self.mutex)
        self.on = room_bytes is not None
        self.most_bytes = most
        self.slow_bytes = slow
        self.within_ns = within
        pthread_mutex_unlock(&self.mutex)

    def stats(self) -> dict:
        """Since opening: writes that were refused for the limit, that were slowed down, and for how long."""
        return {"limit_refused_writes": self.n_refused, "limit_slowed_writes": self.n_slowed,
                "limit_slowed_ns": self.slowed_ns}
