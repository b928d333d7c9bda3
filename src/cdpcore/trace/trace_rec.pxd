"""One record of a block trace (trace/trace_rec.h)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


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

        CDP_TRACE_MORE
        CDP_TRACE_FULL
        CDP_TRACE_DONE
        CDP_TRACE_BAD
        CDP_TRACE_GROW

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
