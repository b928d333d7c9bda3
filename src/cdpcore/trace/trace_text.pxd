"""Text traces: lines in, records out (trace/trace_text.h)."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from cdpcore.trace.trace_columns cimport cdp_trace_columns
from cdpcore.trace.trace_devices cimport cdp_trace_devices
from cdpcore.trace.trace_rec cimport cdp_trace_rec


cdef extern from "trace/trace_text.h" nogil:
    enum:
        CDP_FMT_COLUMNS
        CDP_FMT_COUNT
    ctypedef struct cdp_trace_text:
        int32_t format, skip_bad
        uint32_t stages
        cdp_trace_devices *devices
        const cdp_trace_columns *columns
        cdp_trace_devices *census
        uint64_t line, events, comments, bad, skipped
        uint32_t header, absolute, bad_fields
        uint64_t bad_line, bad_column
        const char *bad_expected
        uint32_t bad_text_bytes
        unsigned char *bad_text
    int cdp_trace_text_run(cdp_trace_text *t, const unsigned char *text, size_t n, int final, cdp_trace_rec *out,
                           size_t cap, size_t *consumed, size_t *produced)
    uint8_t cdp_trace_scsi_kind(uint64_t op)
