"""The devices met in a trace (trace/trace_devices.h)."""
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "trace/trace_devices.h" nogil:
    ctypedef struct cdp_trace_device:
        uint64_t number
        uint32_t name_at, name_bytes
    ctypedef struct cdp_trace_seen:
        uint64_t *events
        uint32_t stages
    ctypedef struct cdp_trace_devices:
        cdp_trace_device *devices
        char *names
        uint32_t count
        cdp_trace_seen *seen
    enum:
        CDP_TRACE_MAX_DEVICES
        CDP_TRACE_MAX_NAME
        CDP_SEEN_SLOTS
    int cdp_trace_devices_init(cdp_trace_devices *t, int census)
    void cdp_trace_devices_free(cdp_trace_devices *t)
    int cdp_trace_devices_grow(cdp_trace_devices *t)
    int cdp_trace_devices_find(cdp_trace_devices *t, const void *name, size_t n, uint64_t number, uint32_t *index)
