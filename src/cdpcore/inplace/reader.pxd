"""What a disk that is written in place holds, and held."""
from libc.stdint cimport uint8_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.index.index cimport cdp_view
from cdpcore.index.versions cimport moment
from cdpcore.inplace.pending cimport Pending
from cdpcore.inplace.range_lock cimport RangeLock
from cdpcore.volume.core cimport VolumeCore
from cdpcore.volume.extents cimport extents


cdef enum:
    AGAIN = -2              # the lineage or the range changed meanwhile


cdef class DiskReader(VolumeCore):
    # constant after attach()
    cdef Pending pending
    cdef RangeLock ranges           # of sectors; held from reading the old content until the record is visible

    # append lock
    cdef uint64_t epoch             # how often the lineage changed
    cdef bint restoring             # the current view is more than "the disk": a restore is being written back

    cdef uint64_t current_epoch(self) noexcept nogil
    cdef int read_disk(self, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil
    cdef int read_once(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil
    cdef int read_now(self, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil
    cdef int read_view(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil
    cdef int map_disk(self, uint64_t off, uint64_t end, bint last, extents *out, cdp_status *st) noexcept nogil
    cdef int map_view(self, const cdp_view *view, uint64_t off, uint64_t end, bint last, extents *out, cdp_status *st) noexcept nogil
