"""Latency histograms of one thread (base/latency.h)."""
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "base/latency.h" nogil:
    enum:
        CDP_LATENCY_BUCKETS
    uint32_t cdp_latency_bucket(uint64_t ns)
    uint64_t cdp_latency_upper(uint32_t bucket)
