"""What a kind of volume does with a request: the seam between a volume's core and its kind.

    Content
      AfterImages    volume/after_images    the log holds what was written; under it lies a base that never changes
      BeforeImages   inplace/before_images  a disk holds what was written; the log holds what that overwrote

Nothing above asks which one it is.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.base.format cimport CDP_REC_FUA, CDP_REC_META
from cdpcore.base.stages cimport cdp_stages
from cdpcore.base.status cimport cdp_status
from cdpcore.base.target cimport CDP_FUA, CDP_META
from cdpcore.index.index cimport cdp_view
from cdpcore.index.versions cimport Versions
from cdpcore.log.log cimport Log
from cdpcore.log.damage cimport Damage
from cdpcore.log.log_reader cimport LogReader
from cdpcore.log.segment_fds cimport SegmentFds
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport cdp_os
from cdpcore.volume.extents cimport extents

cdef enum:
    LOOK_AGAIN = -3         # change(): nothing was done, because zero_size() does not hold any more


# What a record keeps of a request's flags.
cdef inline uint16_t record_flags(uint32_t flags) noexcept nogil:
    return (CDP_REC_FUA if flags & CDP_FUA else 0) | (CDP_REC_META if flags & CDP_META else 0)


cdef class Content:
    # constant after construction
    cdef Os os
    cdef const cdp_os *table
    cdef readonly Log log
    cdef SegmentFds segments
    cdef readonly LogReader log_data
    cdef readonly Damage damage
    cdef readonly Versions versions             # which version of a sector is visible
    cdef readonly uint64_t size_bytes
    cdef uint64_t part_bytes                    # of data in one descriptor; a multiple of 4096
    cdef readonly uint64_t max_request_bytes    # of data in one record; a multiple of 512
    cdef cdp_stages *stages                     # the log's
    cdef bint reads_first                       # a write reads what it overwrites: to announce it pays

    # append lock
    cdef uint64_t n_writes, n_zeroes, bytes_written

    # --- any thread, no GIL; offsets and lengths in bytes, inside the volume, n > 0
    # One record, visible at return: [off, off + n) becomes `buf`, or zeros where that is NULL; flags: CDP_FUA
    # (durability is the caller's), CDP_HOLE, CDP_META. At most max_request_bytes from the beginning of the first sector
    # on, or what zero_size() said. *seq: as in pwrite_seq of base/target.h. May return LOOK_AGAIN.
    cdef int change(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                    cdp_status *st) noexcept nogil
    # *size: how much of a zero or trim of [off, off + n) becomes one record.
    cdef int zero_size(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *size, cdp_status *st) noexcept nogil
    # Record `seq` and all before it survive a power cut.
    cdef int make_durable(self, uint64_t seq, cdp_status *st) noexcept nogil
    # The last record that survives the end of this process, with all before it; and: return when that is more than
    # `beyond`, or all records so far do.
    cdef uint64_t written_seq(self) noexcept nogil
    cdef int write_out(self, uint64_t beyond, cdp_status *st) noexcept nogil
    # A change of this range comes soon. It need not be valid.
    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil
    # As of `view`; NULL: now. Without `wait`: CDP_WOULD_WAIT where some of it has to come from a device.
    cdef int read(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                  cdp_status *st) noexcept nogil
    # Extents of [off, *reached) follow in `out`: at least the first of [off, end), and not more than the index finds in
    # `most` (> 0) steps; also FULL, see extents.pxd.
    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t end, uint64_t most, extents *out, uint64_t *reached,
                 cdp_status *st) noexcept nogil

    cpdef release(self)
