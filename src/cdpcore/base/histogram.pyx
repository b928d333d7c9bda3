"""Histograms of times that many threads share, for Python: what is in them, and one by itself."""
from libc.string cimport memset

from cdpcore.base.errors import InvalidRequest

QUANTILES = {"p50_ns": 500, "p90_ns": 900, "p99_ns": 990, "p999_ns": 999}    # of 1000
BUCKETS = CDP_HISTOGRAM_BUCKETS


cdef dict describe(const cdp_histogram *h, bint buckets):
    cdef cdp_histogram c
    cdef uint64_t count = 0, seen, wanted
    cdef uint32_t i
    cdp_histogram_copy(h, &c)
    for i in range(CDP_HISTOGRAM_BUCKETS):
        count += c.counts[i]
    found = {"count": count, "total_ns": c.total_ns}
    seen = i = 0
    for name, q in QUANTILES.items():
        wanted = count // 1000 * <uint64_t>q + (count % 1000 * <uint64_t>q + 999) // 1000
        while seen < wanted:
            seen += c.counts[i]
            i += 1
        found[name] = min(cdp_histogram_upper(i - 1), c.max_ns) if count else 0
    found["max_ns"] = c.max_ns
    if buckets:
        found["buckets"] = [[upper(i), c.counts[i]] for i in range(CDP_HISTOGRAM_BUCKETS) if c.counts[i]]
    return found


def upper(uint32_t bucket):
    """The largest time in ns that is counted in a bucket (0 to BUCKETS - 1); of the last one 2^64 - 1."""
    if bucket >= CDP_HISTOGRAM_BUCKETS:
        raise InvalidRequest(f"bucket {bucket}", f"0 to {CDP_HISTOGRAM_BUCKETS - 1}")
    return cdp_histogram_upper(bucket)


cdef class Histogram:
    """Times in ns. Any thread, any number of them."""

    def __cinit__(self):
        memset(&self.h, 0, sizeof(self.h))

    def add(self, uint64_t ns, uint64_t n=1):
        """n events that took so long each."""
        cdp_histogram_add(&self.h, ns, n)

    def add_all(self, const uint64_t[::1] times not None):
        """One event for each, without the GIL."""
        cdef Py_ssize_t i
        with nogil:
            for i in range(times.shape[0]):
                cdp_histogram_add(&self.h, times[i], 1)

    def describe(self, bint buckets=False) -> dict:
        """count, total_ns, p50_ns, p90_ns, p99_ns, p999_ns (each at most 12.5 % too high, and not above the largest)
        and max_ns; with `buckets` also those that are not empty, as [upper end in ns, count]. Not all of one moment."""
        return describe(&self.h, buckets)
