"""What the drivers of a replay share: the record of a trace, the shape of a request, counters, acknowledgements."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from cdpcore.base.latency cimport CDP_LATENCY_BUCKETS
from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport cdp_target
from cdpcore.trace.trace_rec cimport cdp_trace_rec


cdef enum:
    KINDS = 5                       # CDP_TRACE_READ .. CDP_TRACE_FLUSH

ctypedef struct kind_stats:
    uint64_t count, length_bytes, total_ns, max_ns
    uint64_t histogram[CDP_LATENCY_BUCKETS]


cdef class Driver:
    # constant after construction
    cdef readonly uint64_t size_bytes       # of the disk
    cdef readonly uint64_t key
    cdef readonly uint64_t max_bytes        # of one request with data
    cdef bint pattern                       # content is the pattern; else the trace's own data

    # the thread in run() only; readable between runs
    cdef uint8_t *buffer                    # max_bytes
    cdef kind_stats stats[5]
    cdef readonly uint64_t changes          # issued and acknowledged: the number of the last one
    cdef readonly uint64_t numbered         # changes issued, answered or not
    cdef readonly uint64_t durable          # of them, known to be durable
    cdef readonly uint64_t issued           # records of the last run() that were issued, also where it raised
    cdef readonly uint64_t late_ns          # worst delay behind the pace
    cdef readonly uint64_t sectors_checked, sectors_foreign
    cdef public bint check_reads            # of whole sectors, as long as no change began or ended inside one
    cdef const uint8_t[::1] acks_view
    cdef uint64_t *acks                     # 2 words of shared memory: changes, durable; or NULL
    cdef cdp_status failure

    cdef void acknowledge(self) noexcept nogil
    cdef void count(self, uint32_t kind, uint64_t length, uint64_t ns) noexcept nogil
    cdef int check_sectors(self, const uint8_t *buf, uint64_t offset, uint64_t length) noexcept nogil
    cdef int check_shape(self, const cdp_trace_rec *r, uint64_t data_bytes) noexcept nogil
    cdef int issue(self, const cdp_trace_rec *r, const uint8_t *data, uint64_t data_bytes) noexcept nogil
    cdef int drain(self) noexcept nogil
    cdef int take_answers(self, uint64_t until_ns) noexcept nogil
    cdef dict of_kind(self, int kind)


cdef class TargetDriver(Driver):
    # constant after construction
    cdef object capsule
    cdef cdp_target *t

    cdef int flush(self) noexcept nogil
