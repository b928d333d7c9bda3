"""The monotonic clock (base/clock.h)."""
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "base/clock.h" nogil:
    uint64_t cdp_monotonic_ns()
    uint64_t cdp_monotonic_ms()
    void cdp_nap_us(uint32_t us)
