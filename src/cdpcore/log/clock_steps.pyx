"""The times of a log's records: what the clock showed, and where it went back.

A record's time is what the clock shows when the record is appended. Where the clock shows less than the last record's
time, by under CDP_CLOCK_STEP_NS (several records in one tick of a coarse clock; the jitter of a virtual machine's), the
time is the last one's plus 1 ns. Where it shows less than that, it was set: the record gets the lower time, and the
step is noted here. A log does not follow the clock back before it is made to, since format 1 and 2 say that times
ascend: until then every time is at least the last one's plus 1 ns.

Only a step back is noted. A step ahead looks like a pause.

Threading: date() and note() under the log's append lock; the def methods from any thread.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from cdpcore.base.thread cimport (pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock)


# 100 ms: what sets clocks (ntpd, chronyd, timesyncd) slews by what is less, and a slew never goes back.
CLOCK_STEP_NS = CDP_CLOCK_STEP_NS


cdef class ClockSteps:
    """Of one log, since it was opened."""

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)

    def __dealloc__(self):
        free(self.steps)
        pthread_mutex_destroy(&self.mutex)

    cdef uint64_t date(self, uint64_t now_ns, uint64_t last_ts_ns) noexcept nogil:
        cdef uint64_t ts_ns = last_ts_ns + 1
        cdef clock_step *grown
        if last_ts_ns - now_ns < CDP_CLOCK_STEP_NS:
            return ts_ns
        pthread_mutex_lock(&self.mutex)
        if self.follows:
            if self.n == self.cap:
                grown = <clock_step *>realloc(self.steps, (2 * self.cap + 16) * sizeof(clock_step))
                if grown != NULL:
                    self.steps = grown
                    self.cap = 2 * self.cap + 16
            if self.n < self.cap:
                ts_ns = now_ns
        pthread_mutex_unlock(&self.mutex)
        return ts_ns

    cdef void note(self, uint64_t seq, uint64_t before_ns, uint64_t after_ns) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        self.steps[self.n] = clock_step(seq, before_ns, after_ns)
        self.n += 1
        pthread_mutex_unlock(&self.mutex)

    def follow(self):
        """From here on, times follow the clock back. The volume's description says so already, durably."""
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.follows = True
            pthread_mutex_unlock(&self.mutex)

    def since(self, size_t n) -> list:
        """[(seq, before_ns, after_ns)] of the steps since opening, without the first `n`; the last one's record may not
        be visible yet."""
        cdef size_t i
        out = []
        with nogil:
            pthread_mutex_lock(&self.mutex)
        try:
            for i in range(n, self.n):
                out.append((self.steps[i].seq, self.steps[i].before_ns, self.steps[i].after_ns))
        finally:
            pthread_mutex_unlock(&self.mutex)
        return out
