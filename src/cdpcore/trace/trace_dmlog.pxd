"""The log of dm-log-writes and of blklogwrites (trace/trace_dmlog.h)."""
from libc.stdint cimport uint32_t, uint64_t
from cdpcore.trace.trace_rec cimport cdp_trace_rec


cdef extern from "trace/trace_dmlog.h" nogil:
    enum:
        CDP_DMLOG_SUPER
    ctypedef struct cdp_trace_dmlog:
        uint64_t entries, done, position, marks, bad_at
        uint32_t sector_bytes
        const char *bad_expected
    int cdp_trace_dmlog_super(cdp_trace_dmlog *t, const unsigned char *p)
    int cdp_trace_dmlog_run(cdp_trace_dmlog *t, const unsigned char *p, size_t n, cdp_trace_rec *out, size_t cap,
                            uint64_t *consumed, size_t *produced)
