"""Which writes a limit of the history lets in, and when."""
from libc.stdint cimport uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.thread cimport pthread_mutex_t
from cdpcore.log.log cimport Log


cdef class Admission:
    # constant after construction
    cdef Log log

    # one store each; looked at without the lock
    cdef bint on                    # there is a limit

    # guarded by the mutex
    cdef pthread_mutex_t mutex
    cdef uint64_t most_bytes        # of log since opening: beyond it, writes are refused
    cdef uint64_t slow_bytes        # with less than that left, they are slowed ...
    cdef uint64_t within_ns         # ... so that what is left lasts for so long
    cdef uint64_t next_ns           # up to there, others are waiting their turn
    cdef uint64_t n_refused, n_slowed, slowed_ns

    # Any thread, no lock held. A write that adds about n bytes to the log may go on; CDP_NOSPACE: it may not. It may
    # have waited, for SLOWED_MOST_MS at most.
    cdef int admit(self, uint64_t n, cdp_status *st) noexcept nogil
