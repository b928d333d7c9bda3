"""Requests of a replay to an NBD server, many in flight."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport cdp_target
from cdpcore.trace.driver cimport Driver
from cdpcore.trace.trace_rec cimport cdp_trace_rec

cdef enum:
    MAX_DEPTH = 256

ctypedef struct in_flight:
    uint64_t offset, length, began_ns
    uint64_t change                 # it becomes acknowledged with this answer; 0: none
    uint32_t used, kind             # CDP_TRACE_*
    uint8_t *into                   # of a read that is not of the trace; NULL else


cdef class NbdDriver(Driver):
    # constant after construction
    cdef int fd
    cdef object sock                # keeps the descriptor open
    cdef uint16_t export_flags      # NBD_FLAG_* of the export
    cdef uint32_t depth
    cdef cdp_target facade
    cdef uint8_t *tx                # requests on their way out
    cdef uint64_t tx_bytes

    # the thread that drives
    cdef in_flight slots[256]
    cdef uint32_t n_used
    cdef uint64_t tx_head, tx_tail
    cdef uint8_t rx[16]
    cdef uint64_t rx_have           # of the reply's header, then of its data
    cdef int rx_slot                # whose data is being received; -1: a header
    cdef readonly uint64_t left_out # trims and flushes that the server does not offer

    cdef int begin(self, uint32_t kind, uint32_t command, uint32_t flags, uint64_t offset, uint64_t length,
                   const uint8_t *data, uint64_t change, uint8_t *into) noexcept nogil
    cdef int pump(self, uint64_t until_ns) noexcept nogil
    cdef int send_some(self) noexcept nogil
    cdef int receive_some(self) noexcept nogil
    cdef int completed(self, in_flight *s) noexcept nogil
    cdef bint overlaps(self, uint64_t offset, uint64_t length, bint changes) noexcept nogil
    cdef int flush(self) noexcept nogil
    cdef int ranged(self, const cdp_trace_rec *r, uint32_t command, uint32_t flags) noexcept nogil
    cdef int read_now(self, uint8_t *buf, uint64_t offset, uint64_t length, cdp_status *st) noexcept nogil
