"""The binary format of blktrace(8) (trace/trace_blktrace.h)."""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from cdpcore.trace.trace_devices cimport cdp_trace_devices
from cdpcore.trace.trace_rec cimport cdp_trace_rec


cdef extern from "trace/trace_blktrace.h" nogil:
    ctypedef struct cdp_trace_blk:
        int32_t skip_bad
        uint32_t stages
        cdp_trace_devices *devices
        cdp_trace_devices *census
        uint64_t events, bad, epoch_ns
        uint32_t have_epoch, swapped
        uint64_t bad_event, bad_at
        const char *bad_expected
    int cdp_trace_blk_run(cdp_trace_blk *t, const unsigned char *p, size_t n, int final, cdp_trace_rec *out, size_t cap,
                          size_t *consumed, size_t *produced)
