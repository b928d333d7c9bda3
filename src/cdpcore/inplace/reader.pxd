"""The read path of a before-image volume: the content of now, and of any earlier moment."""
from libc.stdint cimport uint8_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.index.index cimport cdp_view
from cdpcore.index.versions cimport Versions, moment
from cdpcore.inplace.disk cimport Disk
from cdpcore.inplace.disk_sums cimport DiskSums
from cdpcore.inplace.pending cimport Pending
from cdpcore.inplace.range_lock cimport RangeLock
from cdpcore.log.log_reader cimport LogReader
from cdpcore.volume.extents cimport extents


cdef enum:
    AGAIN = -2              # the range, or the current lineage, changed meanwhile: look again


cdef class DiskReader:
    # constant after construction
    cdef Disk disk
    cdef DiskSums sums
    cdef Versions versions
    cdef LogReader log_data
    cdef Pending pending
    cdef RangeLock ranges

    # append lock; read without it, and checked again under it
    cdef uint64_t generation        # how often the current lineage was replaced
    cdef bint restoring             # a restore is being written back: the disk and Pending hold less than is shown

    # --- whole requests, offsets and lengths in bytes; view NULL: now
    cdef int read(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                  cdp_status *st) noexcept nogil
    # As map() of Content.
    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t end, uint64_t most, extents *out, uint64_t *reached,
                 cdp_status *st) noexcept nogil

    # --- one look; *m: when it was. Right if nothing changed the range since: the caller holds it, or checks after it.
    cdef uint64_t current_generation(self) noexcept nogil
    # The current content. May return AGAIN.
    cdef int read_now(self, uint8_t *buf, uint64_t off, uint64_t n, bint wait, moment *m,
                       cdp_status *st) noexcept nogil
    # What the disk holds, or will hold when Pending is on it.
    # `checked`: against the table of checksums, as far as it knows them.
    cdef int read_disk(self, uint8_t *buf, uint64_t off, uint64_t n, bint wait, bint checked, moment *m,
                       cdp_status *st) noexcept nogil
    # [start, *until), sectors, is a hole of the disk and nothing is pending there; *until == start: not known.
    cdef int known_hole(self, uint64_t start, uint64_t end, uint64_t *until, cdp_status *st) noexcept nogil

    # --- internal
    cdef int read_once(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                       moment *m, cdp_status *st) noexcept nogil
    cdef int read_view(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                       moment *m, cdp_status *st) noexcept nogil
    cdef int read_pending(self, uint64_t seq, uint8_t *buf, uint64_t off, uint64_t end, cdp_status *st) noexcept nogil
    cdef int map_disk(self, uint64_t off, uint64_t end, uint64_t most, bint last, extents *out, uint64_t *reached,
                      cdp_status *st) noexcept nogil
    cdef int map_view(self, const cdp_view *view, uint64_t off, uint64_t end, uint64_t most, bint last, extents *out,
                      uint64_t *reached, cdp_status *st) noexcept nogil
