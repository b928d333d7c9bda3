"""Zeros where a file has something else (system/zero_range.h)."""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from cdpcore.system.os_table cimport cdp_os


cdef extern from "system/zero_range.h" nogil:
    int64_t cdp_zero_range(const cdp_os *os, int fd, uint64_t at, uint64_t n, uint8_t *buffer, uint64_t step)
