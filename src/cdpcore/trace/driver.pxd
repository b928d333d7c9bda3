"""What the drivers of a replay share: the record of a trace, the shape of a request, counters, acknowledgements."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from cdpcore.base.errors cimport cdp_status
from cdpcore.volume.volume_target cimport cdp_target


cdef extern from "trace/trace_rec.h" nogil:
    enum:
        CDP_TRACE_READ
        CDP_TRACE_WRITE
        CDP_TRACE_TRIM
        CDP_TRACE_ZERO
        CDP_TRACE_FLUSH
        CDP_TRACE_OTHER
        CDP_TRACE_FUA
        CDP_TRACE_META
        CDP_TRACE_PREFLUSH
    ctypedef struct cdp_trace_rec:
        uint64_t ts_ns
        uint64_t offset_bytes
        uint64_t length_bytes
        uint64_t number
        uint64_t payload
        uint32_t device
        uint8_t kind
        uint8_t flags
        uint16_t source

cdef extern from "trace/replay_content.h" nogil:
    void cdp_replay_fill(uint8_t *out, uint64_t offset, uint64_t length, uint64_t key, uint64_t change)
    uint64_t cdp_replay_match(const uint8_t *buf, uint64_t offset, uint64_t length, uint64_t key, uint64_t change)
    uint64_t cdp_replay_claim(const uint8_t *sector_bytes, uint64_t sector, uint64_t key)
    uint64_t cdp_replay_zeros(const uint8_t *buf, uint64_t length)

cdef extern from "base/latency.h" nogil:
    enum:
        CDP_LATENCY_BUCKETS
    uint64_t cdp_monotonic_ns()
    uint32_t cdp_latency_bucket(uint64_t ns)
    uint64_t cdp_latency_upper(uint32_t bucket)

cdef enum:
    KINDS = 5                       # CDP_TRACE_READ .. CDP_TRACE_FLUSH

ctypedef struct kind_stats:
    uint64_t count, length_bytes, total_ns, max_ns
    uint64_t histogram[1920]


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
    cdef int settle(self, uint64_t until_ns) noexcept nogil
    cdef dict of_kind(self, int kind)


cdef class TargetDriver(Driver):
    # constant after construction
    cdef object capsule
    cdef cdp_target *t

    cdef int flush(self) noexcept nogil
