"""A lineage in the shape the index reads: for each range of the volume, the seq intervals that are visible."""
from libc.stdint cimport uint64_t
from cdpcore.index.index cimport cdp_interval, cdp_view, cdp_view_piece


cdef class View:
    cdef object __weakref__         # a moment is in use as long as a view of it lives
    cdef cdp_view v                 # constant after construction; arrays owned
    cdef cdp_view_piece *pieces
    cdef cdp_interval *intervals
    cdef cdp_interval *freed

    cdef void set_pending(self, uint64_t seq) noexcept nogil
