"""A test of zeros (base/zeros.h)."""
from libc.stdint cimport uint64_t


cdef extern from "base/zeros.h" nogil:
    bint cdp_is_zero(const void *bytes, uint64_t n)
