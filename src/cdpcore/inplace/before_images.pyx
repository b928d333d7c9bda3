"""The kind of volume whose content is on a disk that is written in place: its log holds what each change overwrote.

Write path: the range is held (overlapping changes wait) -> the old content is read -> append lock: the old content goes
into the open frame, the new one into Pending, the extent tree learns the version -> visible, the request is answered.
Once the frame is durable the new content goes to the disk. So no write waits for a device, many share one sync, and the
disk never holds what the log could not take back. A flush waits until the disk is durable too.

The parts: reader.pyx reads, old_content.pyx reads for several changes at once, settler.pyx writes the disk,
writeback.pyx writes a restore back, and this file changes.

Invariants
 1. The disk is changed only in rounds (settler.pyx), in seq order, and only with changes whose before-images are
    durable; DiskState names a record up to which it holds everything. Recovery puts back what later records overwrote,
    and cuts the log behind that one.
 2. A segment is sealed only when DiskState covers it, so what recovery may have to put back is in segments that are not
    sealed.
 3. Nothing that comes after a destructive restore reaches the log before DiskState covers the restore: its
    before-images are what the restore shows, which is not what the disk held at the restore.
 4. A version's data is what the disk (with Pending) held, not what another restore that is still being written back
    makes of it; so images of the time before the restore stay right.

Threading: requests from any thread, no GIL. Order of locks: a range, append lock, Versions' mutex; settling after them,
then Pending's. A writer that waits for room in Pending holds a range and nothing else, and a round needs no range.
"""
cimport cython
from libc.errno cimport ENOMEM
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from cdpcore.base.clock cimport cdp_monotonic_ns
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport (CDP_KIND_FOREIGN, CDP_KIND_TRIM, CDP_KIND_WRITE, CDP_KIND_WRITEBACK, CDP_KIND_ZERO,
                                  CDP_LOC_HOLE, CDP_LOC_UNKNOWN, CDP_REC_BEFORE, CDP_REC_HOLE, CDP_REC_SAME,
                                  CDP_SECTOR)
from cdpcore.base.stages cimport (CDP_STAGE_APPEND, CDP_STAGE_OLD_READ, CDP_STAGE_PUBLISH, cdp_stage_add,
                                  cdp_stage_add_sampled, cdp_stage_sampled)
from cdpcore.base.status cimport CDP_OK, cdp_fail_os
from cdpcore.base.target cimport CDP_EXTENT_DATA, CDP_HOLE
from cdpcore.index.index cimport cdp_view
from cdpcore.index.versions cimport moment
from cdpcore.inplace.disk_state cimport DiskState
from cdpcore.inplace.old_content cimport OldContent
from cdpcore.inplace.reader cimport AGAIN
from cdpcore.inplace.spans cimport data_bytes, is_same, set_span, split, zeros_of
from cdpcore.log.record cimport MAX_PARTS, ROOM_WRITE, SUMMED, set_part
from cdpcore.volume.content cimport LOOK_AGAIN, record_flags
from cdpcore.volume.extents cimport extents

cdef enum:
    COLD_NS = 30000         # reading old content takes a few microseconds from memory, and from 60 on from a device
    COLD_FOR = 1024         # ... and so long the next ones are announced to the system
    SPARE_PARTS = 8         # more descriptors than the longest record's data needs: its zeros can be kept apart, too

cdef uint64_t HOLE_STEP = 64 << 20      # a hole at least so long is trimmed as one record, unread


@cython.final
@cython.no_gc_clear
cdef class BeforeImages(Content):
    """Args, besides those of Content:
        disk: path of the disk, which holds what `state` says, and that is the end of the log.
        pending_bytes, pending_changes: at most so much new content (a multiple of 4096) in so many changes waits to be
            written to the disk.
        skip_same: a write of what is there already keeps no before-image.
        read_only: the log takes no records, and the disk need not be writable.
    """

    def __cinit__(self, log, segments, *, disk: str, DiskState state not None, uint64_t pending_bytes,
                  uint32_t pending_changes, bint skip_same, bint read_only=False, **_of_content):
        cdef uint64_t seq = self.log.last_seq
        self.disk = Disk(self.os, disk, log.stages, read_only)
        self.skip_same = skip_same
        self.reads_first = True
        self.ranges = RangeLock()
        self.pending = Pending(self.os, data_bytes=pending_bytes, n_changes=pending_changes, released_seq=seq)
        self.max_request_bytes = min(self.max_request_bytes, min(pending_bytes // 2 // CDP_SECTOR * CDP_SECTOR,
                                                                 (MAX_PARTS - SPARE_PARTS) * self.part_bytes))
        self.reader = DiskReader()
        self.reader.disk = self.disk
        self.reader.versions = self.versions
        self.reader.log_data = self.log_data
        self.reader.pending = self.pending
        self.reader.ranges = self.ranges
        self.old = OldContent(self.os, self.reader)
        self.settler = DiskSettler()
        self.settler.log = self.log
        self.settler.disk = self.disk
        self.settler.pending = self.pending
        self.settler.state = state
        self.settler.sums = self.reader.sums = self.sums = DiskSums(self.os, self.disk, self.size_bytes)
        self.settler.applied.seq = self.settler.synced.seq = seq

    # --- what the parts do --------------------------------------------------------------------------------------------

    cdef int read(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                  cdp_status *st) noexcept nogil:
        return self.reader.read(view, buf, off, n, wait, st)

    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t end, uint64_t most, extents *out, uint64_t *reached,
                 cdp_status *st) noexcept nogil:
        return self.reader.map(view, off, end, most, out, reached, st)

    cdef int make_durable(self, uint64_t seq, cdp_status *st) noexcept nogil:
        cdef int rc = self.log.wait_durable(seq, st)
        if rc == CDP_OK:
            rc = self.settler.settle(seq, 0, True, st)
        # After the sync, 2 us beside it: what is looked at twice a second would let half a second of flushes through.
        return self.disk.still_there(st) if rc == CDP_OK else rc

    cdef uint64_t written_seq(self) noexcept nogil:
        return self.settler.covered_seq()

    cdef int write_out(self, uint64_t beyond, cdp_status *st) noexcept nogil:
        return CDP_OK if self.settler.covered_seq() > beyond else self.settler.settle_all(True, st)

    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil:
        """While old content has to be read from a device, one request after the other would wait for it: 4 k/s instead
        of what the device does at depth. What is in memory already costs half a microsecond, so only then."""
        if self.cold and off < self.size_bytes and n and n <= self.size_bytes - off:
            self.old.expect(off, n)

    # --- a change: its range ------------------------------------------------------------------------------------------

    cdef int zero_size(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *size, cdp_status *st) noexcept nogil:
        """What is trimmed is read and kept, but for long holes; so it takes as long as there is data."""
        cdef uint64_t until
        cdef int rc
        size[0] = min(n, self.max_request_bytes - off % CDP_SECTOR)
        if not flags & CDP_HOLE or off % CDP_SECTOR or n < HOLE_STEP:
            return CDP_OK
        rc = self.reader.known_hole(off // CDP_SECTOR, (off + n) // CDP_SECTOR, &until, st)
        if rc == CDP_OK and until * CDP_SECTOR - off >= HOLE_STEP:
            size[0] = until * CDP_SECTOR - off
        return rc

    cdef int change(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                    cdp_status *st) noexcept nogil:
        cdef uint16_t kind = CDP_KIND_WRITE
        if buf == NULL:
            kind = CDP_KIND_TRIM if flags & CDP_HOLE else CDP_KIND_ZERO
        if off % CDP_SECTOR or n % CDP_SECTOR:
            return self.change_bytes(kind, buf, off, n, flags, seq, st)
        return self.change_sectors(kind, buf, off, n, flags, seq, st)

    cdef int change_sectors(self, uint16_t kind, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags,
                            uint64_t *seq, cdp_status *st) noexcept nogil:
        cdef span s
        cdef uint32_t ticket
        cdef int rc = AGAIN
        set_span(&s, off // CDP_SECTOR, (off + n) // CDP_SECTOR, CDP_EXTENT_DATA if buf != NULL else zeros_of(kind),
                 buf)
        ticket = self.ranges.acquire(s.start, s.end)
        while rc == AGAIN:
            rc = self.change_held(kind, &s, 1, flags, self.reader.current_generation(), seq, st)
        self.ranges.release(ticket)
        return rc

    cdef int change_bytes(self, uint16_t kind, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags,
                          uint64_t *seq, cdp_status *st) noexcept nogil:
        """A change that does not begin and end on sectors: those are read, and changed whole. `buf` NULL: zeros."""
        cdef uint64_t start = off // CDP_SECTOR, end = (off + n + CDP_SECTOR - 1) // CDP_SECTOR, generation
        cdef uint64_t whole_start = (off + CDP_SECTOR - 1) // CDP_SECTOR, whole_end = (off + n) // CDP_SECTOR
        cdef uint64_t head = off - start * CDP_SECTOR, size = (end - start) * CDP_SECTOR
        cdef span s[3]
        cdef uint32_t n_spans, ticket
        cdef moment m
        cdef uint8_t *merged = <uint8_t *>malloc(size)
        cdef int rc
        if merged == NULL:
            return cdp_fail_os(st, -ENOMEM, off, b"merging an unaligned write")
        ticket = self.ranges.acquire(start, end)
        while True:
            generation = self.reader.current_generation()
            rc = self.reader.read_now(merged, start * CDP_SECTOR, CDP_SECTOR, True, &m, st)
            if rc == CDP_OK and end - start > 1:
                rc = self.reader.read_now(merged + size - CDP_SECTOR, (end - 1) * CDP_SECTOR, CDP_SECTOR, True, &m,
                                          st)
            if rc == AGAIN:
                continue
            if rc != CDP_OK:
                break
            if buf != NULL:
                memcpy(merged + head, buf, n)
            else:
                memset(merged + head, 0, n)
            if kind == CDP_KIND_WRITE or whole_start >= whole_end:
                kind = CDP_KIND_WRITE
                n_spans = 1
                set_span(&s[0], start, end, CDP_EXTENT_DATA, merged)
            else:
                n_spans = 0
                if start < whole_start:
                    set_span(&s[n_spans], start, whole_start, CDP_EXTENT_DATA, merged)
                    n_spans += 1
                set_span(&s[n_spans], whole_start, whole_end, zeros_of(kind), NULL)
                n_spans += 1
                if whole_end < end:
                    set_span(&s[n_spans], whole_end, end, CDP_EXTENT_DATA, merged + size - CDP_SECTOR)
                    n_spans += 1
            rc = self.change_held(kind, s, n_spans, flags, generation, seq, st)
            if rc != AGAIN:
                break
        self.ranges.release(ticket)
        free(merged)
        return rc

    # --- a change: its record -----------------------------------------------------------------------------------------

    cdef int change_held(self, uint16_t kind, const span *s, uint32_t n, uint32_t flags, uint64_t generation,
                         uint64_t *seq, cdp_status *st) noexcept nogil:
        cdef part old[MAX_PARTS]
        cdef uint32_t sums[SUMMED]
        cdef uint64_t start = s[0].start, end = s[n - 1].end, until = start, new_bytes, began
        cdef uint64_t size = (end - start) * CDP_SECTOR
        cdef uint16_t rec_flags = CDP_REC_BEFORE | record_flags(flags)
        cdef uint32_t n_old = 1
        cdef uint8_t *content = NULL
        cdef int rc = self.cover_restore(st)
        if rc == CDP_OK and size >= HOLE_STEP:
            rc = self.reader.known_hole(start, end, &until, st)
        if rc != CDP_OK:
            return rc
        if until == end:
            set_part(&old[0], kind, rec_flags | CDP_REC_HOLE, start, end, NULL, 0, CDP_LOC_HOLE)
        elif size > self.max_request_bytes:     # somebody wrote there since zero_size(), or a restore came
            return LOOK_AGAIN
        else:
            content = <uint8_t *>malloc(size)
            if content == NULL:
                return cdp_fail_os(st, -ENOMEM, start * CDP_SECTOR, b"reading what a write overwrites")
            rc = self.read_old(content, start, end, st)
            if rc != CDP_OK:
                free(content)
                return rc
            # While a restore is written back, what the disk holds is not what the volume shows.
            if self.skip_same and not self.reader.restoring and is_same(s, n, content):
                n = 0
                set_part(&old[0], kind, rec_flags | CDP_REC_SAME, start, end, NULL, 0, 0)
            else:
                n_old = split(content, start, end, self.part_bytes, kind, rec_flags, old, sums)
        new_bytes = data_bytes(s, n)
        rc = self.claim(new_bytes, n, st)
        if rc == CDP_OK:
            began = cdp_monotonic_ns() if cdp_stage_sampled(self.stages) else 0
            self.log.lock_append()
            rc = AGAIN
            if generation == self.reader.generation:
                rc = self.append_change(kind, s, n, old, n_old, began, seq, st)
            self.log.unlock_append()
            if rc != CDP_OK:
                self.pending.unclaim(new_bytes, n)
            else:
                self.settler.wake_if_full()
        free(content)
        return rc

    cdef int read_old(self, uint8_t *content, uint64_t start, uint64_t end, cdp_status *st) noexcept nogil:
        """What the disk holds, with Pending; of a range that a destructive restore discards, what the volume shows."""
        cdef uint64_t size = (end - start) * CDP_SECTOR, began = cdp_monotonic_ns()
        cdef moment m
        cdef int rc = AGAIN
        if self.cold and self.old.take(content, start, end):
            rc = CDP_OK
        while rc == AGAIN:
            if self.discarding:
                rc = self.reader.read_now(content, start * CDP_SECTOR, size, True, &m, st)
            else:
                rc = self.reader.read_disk(content, start * CDP_SECTOR, size, True, False, &m, st)
        began = cdp_monotonic_ns() - began
        cdp_stage_add(self.stages, CDP_STAGE_OLD_READ, began)
        if began > COLD_NS + size // 4:
            self.cold = COLD_FOR
        elif self.cold:
            self.cold -= 1
        return rc

    cdef int claim(self, uint64_t bytes, uint32_t n, cdp_status *st) noexcept nogil:
        cdef int rc = CDP_OK
        while rc == CDP_OK and not self.pending.claim(bytes, n):
            rc = self.settler.make_room(st)
        return rc

    cdef int cover_restore(self, cdp_status *st) noexcept nogil:
        if self.discarding and self.settler.covered_seq() < self.discards_seq:
            return self.settler.settle_all(True, st)
        return CDP_OK

    cdef int append_change(self, uint16_t kind, const span *s, uint32_t n, part *old, uint32_t n_old,
                           uint64_t began, uint64_t *seq, cdp_status *st) noexcept nogil:
        """Append lock held, room in Pending claimed. n == 0: the record changed nothing. began: of its appending, where
        that is measured; else 0."""
        cdef uint64_t appended
        cdef uint32_t i
        cdef int rc = self.log.append_record(old, n_old, ROOM_WRITE, seq, st)
        if rc != CDP_OK:
            return rc
        for i in range(n):      # before it is visible: a reader that sees the version looks for the content
            self.pending.push(seq[0], True, s[i].start, s[i].end, s[i].kind, s[i].data)
        appended = cdp_monotonic_ns() if began else 0
        self.log.publish(old, n_old)
        if began:
            cdp_stage_add_sampled(self.stages, CDP_STAGE_APPEND, appended - began)
            cdp_stage_add_sampled(self.stages, CDP_STAGE_PUBLISH, cdp_monotonic_ns() - appended)
        if n == 0:
            self.n_same += 1
        if kind == CDP_KIND_WRITE:
            self.n_writes += 1
            self.bytes_written += (s[n - 1].end - s[0].start) * CDP_SECTOR if n else 0
        elif kind != CDP_KIND_WRITEBACK:
            self.n_zeroes += 1
        return CDP_OK

    # --- for Python ---------------------------------------------------------------------------------------------------

    def lineage_changed(self, bint restoring, bint discards=False):
        """Between freeze() and thaw(), after the current lineage was replaced. `restoring`: it shows more than the
        disk. `discards`: because of a destructive restore, so what the disk still holds of before is not kept."""
        self.reader.generation += 1
        self.reader.restoring = restoring
        self.discarding = restoring and discards
        self.discards_seq = self.log.last_seq

    def append_foreign(self, list ranges):
        """Records that others changed these ranges of the disk before now: (offset, length, whether the range lay
        behind the end of the volume), in bytes, whole sectors. They are durable at return, and the disk is taken to
        hold what it holds. Nobody reads or writes meanwhile."""
        cdef part p
        cdef cdp_status st
        cdef uint64_t seq, offset, length
        cdef bint behind
        cdef int rc
        for offset, length, behind in ranges:
            set_part(&p, CDP_KIND_FOREIGN, CDP_REC_BEFORE | (CDP_REC_HOLE if behind else 0), offset // CDP_SECTOR,
                     (offset + length) // CDP_SECTOR, NULL, 0, CDP_LOC_HOLE if behind else CDP_LOC_UNKNOWN)
            with nogil:
                self.log.lock_append()
                rc = self.log.append_record(&p, 1, ROOM_WRITE, &seq, &st)
                if rc == CDP_OK:
                    self.log.publish(&p, 1)
                self.log.unlock_append()
            check(rc, &st, None)
        with nogil:
            rc = self.settler.settle_all(True, &st)
        check(rc, &st, None)

    def expect_changes(self, ranges):
        """Announce changes of (offset, length) in bytes, as an NBD connection does that has received several, and as if
        the disk were slow. For tests: a simulated device is not."""
        self.cold = COLD_FOR
        for off, n in ranges:
            self.expect(off, n)

    cpdef release(self):
        Content.release(self)
        self.sums.close()
        self.disk.close()

    def stats(self) -> dict:
        """As Content.stats; and what waits for the disk in bytes, what is on it, and writes that changed nothing."""
        return {**Content.stats(self), "pending_bytes": self.pending.used_bytes(),
                "applied_seq": self.settler.applied.seq, "synced_seq": self.settler.synced.seq,
                "unchanged_writes": self.n_same}
