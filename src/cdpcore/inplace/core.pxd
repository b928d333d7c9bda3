"""The core of a before-image volume: a disk that is written in place, and a log of what each write overwrote.

    write -> old content read -> Log.append_record (before-image) + Pending (new content) -> visible -> (acknowledged)
          -> the log is durable -> the disk is written -> (flush) the disk is durable, DiskState says so
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.log.record cimport part
from cdpcore.inplace.settler cimport DiskSettler


# New content of a range.
cdef struct span:
    uint64_t start, end     # sectors
    uint32_t kind           # enum cdp_extent_kind
    const uint8_t *data     # where DATA


cdef class InPlaceCore(DiskSettler):
    # constant after attach()
    cdef uint32_t cold              # writes for which reading old content is taken to be slow; a hint, any thread
    cdef bint skip_same             # a write of what is there already keeps no before-image

    # append lock
    cdef bint old_is_logical        # ... a destructive one: what it discards is not kept
    cdef uint64_t discards_at       # ... its record
    cdef uint64_t n_same

    # --- internal: the way of a write
    cdef int change_sectors(self, uint16_t kind, uint32_t new, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags,
                            uint64_t *seq, cdp_status *st) noexcept nogil
    cdef int change_bytes(self, uint16_t kind, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                          cdp_status *st) noexcept nogil
    cdef int change_held(self, uint16_t kind, const span *s, uint32_t n, uint32_t flags, uint64_t epoch, uint64_t *seq,
                         cdp_status *st) noexcept nogil
    cdef int append_change(self, uint16_t kind, const span *s, uint32_t n, part *old, uint32_t n_old, uint64_t *seq,
                           cdp_status *st) noexcept nogil
    cdef int cover_restore(self, cdp_status *st) noexcept nogil
    cdef int overwrite_held(self, const span *s, uint32_t n, uint64_t epoch, cdp_status *st) noexcept nogil
    cdef int make_room(self, cdp_status *st) noexcept nogil
    cdef int known_hole(self, uint64_t start, uint64_t end, uint64_t *until, cdp_status *st) noexcept nogil
    # --- internal: restores
    cdef int write_back_range(self, uint64_t *at, uint64_t end, uint32_t max_records, uint64_t *n, cdp_status *st) noexcept nogil
