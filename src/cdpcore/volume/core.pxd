"""The core of one volume: where a write goes.

    VolumeCore.write -> Log.append_record (frame in a pool slot) -> Log.publish (extent tree) -> acknowledged

Lock order: Log's append lock, then Versions' mutex, then Log's io lock.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from cdpcore.base.gate cimport cdp_gate
from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport cdp_extent
from cdpcore.index.index cimport cdp_view
from cdpcore.index.versions cimport Versions
from cdpcore.index.view cimport View
from cdpcore.log.log cimport Log
from cdpcore.log.segment_fds cimport SegmentFds
from cdpcore.log.record cimport part, room
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os
from cdpcore.volume.extents cimport extents


cdef class VolumeCore:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef readonly Log log
    cdef SegmentFds segments
    cdef readonly Versions versions # which version is visible where
    cdef readonly uint64_t size_bytes
    cdef uint64_t part_bytes        # a long write is kept in descriptors of this much data
    cdef readonly uint64_t max_request_bytes    # a longer one becomes several records
    cdef VolumeCore parent          # of a writable image: the base is parent at parent_view
    cdef View parent_view
    cdef int base_fd                # -1: none, the base is all holes
    cdef object parent_pin          # keeps whatever owns the parent alive
    cdef bint reads_first           # expect() is worth calling

    # atomic
    cdef cdp_gate gate

    # counters; atomic adds would cost more than they tell: each is guarded by the append lock
    cdef uint64_t n_writes, n_zeroes, n_flushes, bytes_written

    # --- requests: any thread, no GIL. Offsets and lengths in bytes, inside the volume.
    # *seq: see target.h, pwrite_seq.
    cdef int write(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq, cdp_status *st) noexcept nogil
    cdef int zero(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq, cdp_status *st) noexcept nogil
    cdef int flush(self, cdp_status *st) noexcept nogil
    # Records up to it survive the end of this process; and: return when that is more than `beyond`, or all records so far do.
    cdef uint64_t kept_seq(self) noexcept nogil
    cdef int keep(self, uint64_t beyond, cdp_status *st) noexcept nogil
    # A write of this range comes soon; it need not be valid.
    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil
    cdef int read(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil
    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t n, cdp_extent *out, uint32_t cap, uint32_t *got,
                 cdp_status *st) noexcept nogil

    # --- what a kind of volume does in its own way
    # One record: at most max_request_bytes from the beginning of the first sector on.
    cdef int write_record(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                          cdp_status *st) noexcept nogil
    # n > 0; *seq: of the last record.
    cdef int zero_range(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq, cdp_status *st) noexcept nogil
    # Record `seq` and all before it survive a power cut.
    cdef int make_durable(self, uint64_t seq, cdp_status *st) noexcept nogil
    cdef int read_inside(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil
    cdef int map_window(self, const cdp_view *view, uint64_t at, uint64_t end, extents *out, cdp_status *st) noexcept nogil

    # --- internal
    # Counted by the gate until leave(), or cdp_gate_leave; or not let in: closed, or the range is not inside the volume.
    cdef int enter(self, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil
    cdef int leave(self, int rc, uint64_t n, uint32_t flags, const uint64_t *seq, cdp_status *st) noexcept nogil
    cdef int write_bytes(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                         cdp_status *st) noexcept nogil
    # Up to MAX_PARTS parts of a WRITE of whole sectors, with checksums; how many.
    cdef uint32_t cut(self, const uint8_t *buf, uint64_t start, uint64_t end, uint32_t flags, part *parts) noexcept nogil
    # Append lock held: one WRITE record, then visible.
    cdef int append_write(self, part *parts, uint32_t n, uint64_t *seq, cdp_status *st) noexcept nogil
    # Append lock held: one record that changes nothing. `data` is n bytes, a multiple of 512.
    cdef int append_event_held(self, uint16_t kind, uint64_t start, uint64_t sectors, const uint8_t *data, uint32_t n, room space,
                               uint64_t *seq, cdp_status *st) noexcept nogil
    cdef int read_data(self, uint8_t *buf, uint64_t loc, uint64_t skip, uint64_t n, cdp_status *st) noexcept nogil
    cdef int read_base(self, uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil
    cdef int map_parent(self, uint64_t a, uint64_t b, extents *out, cdp_status *st) noexcept nogil
