"""The kind of volume whose content is in its log: after-images over a base that never changes."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.index.view cimport View
from cdpcore.log.record cimport part
from cdpcore.volume.content cimport Content
from cdpcore.volume.core cimport VolumeCore
from cdpcore.volume.extents cimport data_place, extents


cdef class AfterImages(Content):
    # constant after construction, but for one store of base_fd by set_base()
    cdef int base_fd                # of the base's file; -1: the base is all holes, or the parent's
    cdef uint64_t base_table        # counts the tables of its checksums; odd: there is one. Atomic
    cdef data_place base_data       # ... where block status found its data
    cdef VolumeCore parent          # of a writable image: the base is the parent as of parent_view
    cdef View parent_view
    cdef object parent_pin          # keeps alive whatever owns the parent

    # --- internal
    cdef int open_base(self, str path) except -1
    cdef int write_bytes(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                         cdp_status *st) noexcept nogil
    cdef int zero(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq, cdp_status *st) noexcept nogil
    # Parts of at most part_bytes, with their checksums; returns how many.
    cdef uint32_t cut(self, const uint8_t *buf, uint64_t start, uint64_t end, uint32_t flags, part *parts,
                      uint32_t *sums) noexcept nogil
    # Append lock held: one WRITE record, then visible.
    cdef int append_write(self, part *parts, uint32_t n, uint64_t began, uint64_t *seq, cdp_status *st) noexcept nogil
    cdef int read_base(self, uint8_t *buf, uint64_t off, uint64_t n, bint wait, cdp_status *st) noexcept nogil
    cdef int map_parent(self, uint64_t a, uint64_t b, extents *out, cdp_status *st) noexcept nogil
