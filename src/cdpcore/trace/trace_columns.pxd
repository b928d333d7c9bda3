"""A table that the user describes (trace/trace_columns.h)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "trace/trace_columns.h" nogil:
    enum:
        CDP_TRACE_MAX_COLUMNS
        CDP_TRACE_MAX_WORDS
        CDP_TRACE_MAX_WORD
    ctypedef struct cdp_trace_columns:
        uint32_t time, op, device, offset, size, last
        uint32_t time_scale
        uint64_t time_base_ns, offset_unit_bytes, size_unit_bytes
        uint32_t kind, words
        char word[64][32]
        uint8_t word_bytes[64]
        uint8_t word_kind[64]
