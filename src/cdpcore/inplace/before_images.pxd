"""The kind of volume whose content is on a disk that is written in place: its log holds what each change overwrote.

    write -> old content read -> log (before-image) + Pending (new content) -> visible -> (acknowledged)
          -> the log is durable -> the disk is written -> (flush) the disk is durable, DiskState says so
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.base.status cimport cdp_status
from cdpcore.inplace.disk cimport Disk
from cdpcore.inplace.disk_sums cimport DiskSums
from cdpcore.inplace.old_content cimport OldContent
from cdpcore.inplace.pending cimport Pending
from cdpcore.inplace.range_lock cimport RangeLock
from cdpcore.inplace.reader cimport DiskReader
from cdpcore.inplace.settler cimport DiskSettler
from cdpcore.inplace.spans cimport span
from cdpcore.log.record cimport part
from cdpcore.volume.content cimport Content


cdef class BeforeImages(Content):
    # constant after construction
    cdef Disk disk
    cdef RangeLock ranges           # of sectors; held from reading the old content until the record is visible
    cdef Pending pending            # new content on its way to the disk
    cdef DiskReader reader
    cdef readonly OldContent old
    cdef readonly DiskSettler settler
    cdef readonly DiskSums sums     # of what is on the disk
    cdef bint skip_same             # a write of what is there already keeps no before-image

    # any thread, without a lock: a hint
    cdef uint32_t cold              # for so many more writes, reading old content is taken to be slow

    # append lock; read without it, and checked again under it
    cdef bint discarding            # a destructive restore is being written back: what it discards is not kept
    cdef uint64_t discards_seq      # ... its record

    # append lock
    cdef uint64_t n_same            # writes that changed nothing

    # --- the range is held: one record, of what `s` puts there. AGAIN: the lineage is of another generation by now.
    # LOOK_AGAIN: too long for what is not a hole.
    cdef int change_held(self, uint16_t kind, const span *s, uint32_t n, uint32_t flags, uint64_t generation,
                         uint64_t *seq, cdp_status *st) noexcept nogil
    # Before anything is changed while a destructive restore is written back: DiskState covers the restore first.
    cdef int cover_restore(self, cdp_status *st) noexcept nogil
    # Room in Pending for n changes with `bytes` of data is claimed at return.
    cdef int claim(self, uint64_t bytes, uint32_t n, cdp_status *st) noexcept nogil

    # --- internal
    cdef int change_sectors(self, uint16_t kind, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags,
                            uint64_t *seq, cdp_status *st) noexcept nogil
    cdef int change_bytes(self, uint16_t kind, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags,
                          uint64_t *seq, cdp_status *st) noexcept nogil
    cdef int read_old(self, uint8_t *content, uint64_t start, uint64_t end, cdp_status *st) noexcept nogil
    cdef int append_change(self, uint16_t kind, const span *s, uint32_t n, part *old, uint32_t n_old,
                           uint64_t began, uint64_t *seq, cdp_status *st) noexcept nogil
