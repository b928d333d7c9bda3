"""Histograms of times that many threads share (base/histogram.h)."""
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "base/histogram.h" nogil:
    enum:
        CDP_HISTOGRAM_BUCKETS

    ctypedef struct cdp_histogram:
        uint64_t total_ns
        uint64_t max_ns
        uint64_t counts[CDP_HISTOGRAM_BUCKETS]

    uint32_t cdp_histogram_bucket(uint64_t ns)
    uint64_t cdp_histogram_upper(uint32_t bucket)
    void cdp_histogram_add(cdp_histogram *h, uint64_t ns, uint64_t n)
    void cdp_histogram_copy(const cdp_histogram *source, cdp_histogram *to)


cdef class Histogram:
    cdef cdp_histogram h            # atomic


# count, total_ns, quantiles as the upper end of a bucket, max_ns; with `buckets` those that are not empty.
cdef dict describe(const cdp_histogram *h, bint buckets)
