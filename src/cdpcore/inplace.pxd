"""The core of a before-image volume: a disk that is written in place, and a log of what each write overwrote.

    write -> old content read -> Log.append (before-image) + Pending (new content) -> visible -> (acknowledged)
          -> the log is durable -> the disk is written -> (flush) the disk is durable, DiskState says so
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.diskstate cimport DiskState
from cdpcore.errors cimport cdp_status
from cdpcore.index cimport cdp_view
from cdpcore.pending cimport Pending
from cdpcore.rangelock cimport RangeLock
from cdpcore.ring cimport pthread_cond_t, pthread_mutex_t
from cdpcore.versions cimport moment, pieces
from cdpcore.volume cimport VolumeCore


# New content of a range.
cdef struct span:
    uint64_t start, end     # sectors
    uint32_t kind           # enum cdp_extent_kind
    const uint8_t *data     # where DATA


# Old content of a range, one descriptor of a record.
cdef struct old_part:
    uint64_t start, end     # sectors
    const uint8_t *data     # NULL: it read as zeros
    uint32_t crc
    bint hole


cdef class InPlaceCore(VolumeCore):
    # constant after attach()
    cdef Pending pending
    cdef RangeLock ranges           # of sectors; held from reading the old content until the record is visible
    cdef DiskState state
    cdef uint32_t cold              # writes for which reading old content is taken to be slow; a hint, any thread
    cdef bint skip_same             # a write of what is there already keeps no before-image

    # append lock
    cdef uint64_t epoch             # how often the lineage changed
    cdef bint restoring             # the current view is more than "the disk": a restore is being written back
    cdef bint old_is_logical        # ... a destructive one: what it discards is not kept
    cdef uint64_t discards_at       # ... its record
    cdef uint64_t n_same

    cdef pthread_mutex_t settling   # guards the rest
    cdef pthread_cond_t settled
    cdef bint busy                  # somebody writes to the disk or syncs it
    cdef uint64_t applied_seq       # the disk holds everything up to it
    cdef uint64_t synced_seq        # ... durably, and DiskState says so
    cdef uint64_t next_change       # of Pending: the first that is not on the disk
    cdef bint stopping

    # --- internal: the way of a write
    cdef int change_aligned(self, uint16_t kind, span *s, uint32_t n, uint32_t flags, uint64_t *seq, cdp_status *st) noexcept nogil
    cdef int change_bytes(self, uint16_t kind, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                          cdp_status *st) noexcept nogil
    cdef int change_held(self, uint16_t kind, const span *s, uint32_t n, uint32_t flags, uint64_t epoch, uint64_t *seq,
                         cdp_status *st) noexcept nogil
    cdef int append_change(self, uint16_t kind, const span *s, uint32_t n, old_part *old, uint32_t n_old, uint32_t flags,
                           uint64_t *seq, cdp_status *st) noexcept nogil
    cdef int finish(self, uint64_t seq, uint32_t flags, int rc, cdp_status *st) noexcept nogil
    cdef int overwrite_held(self, const span *s, uint32_t n, uint64_t epoch, cdp_status *st) noexcept nogil
    cdef int make_room(self, cdp_status *st) noexcept nogil
    cdef int known_hole(self, uint64_t start, uint64_t end, uint64_t *until, cdp_status *st) noexcept nogil
    cdef uint64_t current_epoch(self) noexcept nogil
    # --- internal: reading
    cdef int read_disk(self, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil
    cdef int read_once(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil
    cdef int read_now(self, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil
    cdef int read_view(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil
    cdef int map_disk(self, uint64_t off, uint64_t end, void *out, uint32_t cap, uint32_t *count, cdp_status *st) noexcept nogil
    cdef int map_view(self, const cdp_view *view, uint64_t off, uint64_t end, void *out, uint32_t cap, uint32_t *count, moment *m,
                      cdp_status *st) noexcept nogil
    # --- internal: restores
    cdef int write_back_range(self, uint64_t *at, uint64_t end, uint32_t max_records, uint64_t *n, cdp_status *st) noexcept nogil
    # --- internal: the way to the disk
    cdef int settle(self, uint64_t upto, bint sync, cdp_status *st) noexcept nogil
    cdef int settle_now(self, bint sync, cdp_status *st) noexcept nogil
    cdef int round(self, bint sync, cdp_status *st) noexcept nogil
    cdef int apply(self, uint64_t upto, cdp_status *st) noexcept nogil
    cdef int zero_disk(self, uint64_t off, uint64_t n, bint hole, cdp_status *st) noexcept nogil
