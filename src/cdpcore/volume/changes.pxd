"""What differs between two moments of a volume."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport CDP_EXTENT_CHANGED, CDP_EXTENT_DATA, cdp_extent, cdp_map
from cdpcore.index.index cimport cdp_view
from cdpcore.index.view cimport View
from cdpcore.volume.core cimport VolumeCore
from cdpcore.volume.extents cimport extents

cdef enum:
    UNCHANGED = CDP_EXTENT_DATA     # kinds of extents that written() gives: the same version at both moments, or
    WRITTEN = CDP_EXTENT_CHANGED    # one that the other does not show


cdef class Changes:
    # constant after construction
    cdef VolumeCore core
    cdef View first
    cdef View second                # None: now
    cdef object pin                 # kept alive
    cdef cdp_map as_map
    cdef cdp_view between           # where there is a second: what only one of the two shows
    cdef uint8_t *one               # of CHUNK bytes each: the content of both
    cdef uint8_t *other

    # As map() of Content: extents of [off, *reached) follow in `out`, of the kinds above.
    cdef int written(self, uint64_t off, uint64_t end, uint64_t most, extents *out, uint64_t *reached,
                     cdp_status *st) noexcept nogil
    # As map() of VolumeCore, for a front end.
    cdef int map(self, uint64_t off, uint64_t n, cdp_extent *out, uint32_t cap, uint32_t *got,
                 cdp_status *st) noexcept nogil
    cdef const cdp_view *second_view(self) noexcept nogil
    cdef int compare(self, uint64_t at, uint64_t end, extents *out, uint64_t *reached, cdp_status *st) noexcept nogil
    cdef bint same(self, bint no_a, bint no_b, uint64_t at, uint64_t n) noexcept nogil
    cdef int add_kinds(self, uint64_t at, uint64_t end, extents *out, uint64_t *reached, cdp_status *st) noexcept nogil
