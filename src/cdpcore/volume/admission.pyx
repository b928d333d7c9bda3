"""Which writes a limit of the history lets in, and when: beyond a number of bytes of log they are refused, as on a full
device; before it they may be slowed down to a rate.

What decides is how much log there is, so it does not matter how many clients write. A write that comes too early for
the rate waits in its own thread, with no lock held, and for SLOWED_MOST_MS at most: then it is let in, and those after
it find that much more to wait for. So a client is never kept longer than that for a request, and where many clients
together are faster than the rate, the limit refuses them.

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

cdef uint64_t NS = 1000000000
cdef const char *FULL = b"the history has reached the limit of its policy, which refuses writes"


cdef uint64_t too_early_ns(uint64_t ahead, uint64_t rate) noexcept nogil:
    """How long until `ahead` bytes more are due; SLOWED_MOST_MS at most."""
    cdef uint64_t most = <uint64_t>SLOWED_MOST_MS * 1000000
    return most if ahead >= rate else min(most, ahead * NS // rate)     # below 2^63: a rate is at most 2^33


@cython.final
cdef class Admission:
    """Args: log: what grows."""

    def __cinit__(self, Log log not None):
        pthread_mutex_init(&self.mutex, NULL)
        self.log = log

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    cdef int admit(self, uint64_t n, cdp_status *st) noexcept nogil:
        cdef uint64_t logged, due, wait_ns = 0
        cdef bint full
        if not (<const volatile bint *>&self.on)[0]:
            return CDP_OK
        logged = self.log.added_bytes() + n
        pthread_mutex_lock(&self.mutex)
        full = self.on and logged > self.most_bytes
        if full:
            self.n_refused += 1
        elif self.on and self.rate_bytes:
            due = self.base_bytes + min(<uint64_t>60, (cdp_monotonic_ns() - self.base_ns) // NS) * self.rate_bytes
            due += (cdp_monotonic_ns() - self.base_ns) % NS * self.rate_bytes // NS
            if logged > due:
                wait_ns = too_early_ns(logged - due, self.rate_bytes)
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

    def set(self, logged: int, room_bytes: int | None, rate_bytes: int = 0):
        """From now on so much may be added to the log, in bytes, since logged() was `logged`; None: as much as comes.
        rate_bytes: a second; 0: as fast as it comes."""
        cdef uint64_t most = 0, rate = min(max(rate_bytes, 0), 1 << 33)
        if room_bytes is not None:
            most = min(max(room_bytes, 0), 1 << 62)
        pthread_mutex_lock(&self.mutex)
        self.on = room_bytes is not None
        self.base_bytes = logged
        self.base_ns = cdp_monotonic_ns()
        self.most_bytes = self.base_bytes + most
        self.rate_bytes = rate
        pthread_mutex_unlock(&self.mutex)

    def stats(self) -> dict:
        """Since opening: writes that were refused for the limit, that were slowed down, and for how long."""
        return {"limit_refused_writes": self.n_refused, "limit_slowed_writes": self.n_slowed,
                "limit_slowed_ns": self.slowed_ns}
