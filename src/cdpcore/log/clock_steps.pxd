"""The times of a log's records: what the clock showed, and where it went back."""
from libc.stdint cimport uint64_t
from cdpcore.base.thread cimport pthread_mutex_t


cdef enum:
    CDP_CLOCK_STEP_NS = 100000000   # the clock was set back, if it shows so much less than the last record's time


# The clock went back between two records.
cdef struct clock_step:
    uint64_t seq            # the first record after it
    uint64_t before_ns      # ts of the record before
    uint64_t after_ns       # ts of that record; not above before_ns


cdef class ClockSteps:
    # guarded by mutex
    cdef pthread_mutex_t mutex
    cdef clock_step *steps
    cdef size_t n, cap
    cdef bint follows       # a record's time may be below the one before it

    # A record's time where the clock shows no more than the last record's. Nothing fails: without memory for the step,
    # the time does not go back.
    cdef uint64_t date(self, uint64_t now_ns, uint64_t last_ts_ns) noexcept nogil
    # The record with that time is in the log. Needs a date() before it.
    cdef void note(self, uint64_t seq, uint64_t before_ns, uint64_t after_ns) noexcept nogil
