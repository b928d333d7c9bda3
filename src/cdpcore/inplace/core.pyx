"""The core of a before-image volume: a disk that is written in place, and a log of what each write overwrote.

Way of a write: its range is held (overlapping changes wait) -> the old content is read -> append lock: the old content goes into
the open frame, the new one into Pending, the extent tree learns the version -> visible, the request is answered. Once
the frame is durable the new content goes to the disk. So no write waits for a device, many share one sync, and the disk never
holds what the log could not take back. A flush waits until the disk is durable too.

How the disk is read is in diskread.pyx, how it is written in disksettle.pyx; here is what changes, and what a restore puts back.

Invariants
 1. The disk is changed only in rounds (disksettle), in seq order, and only with changes whose before-images are durable; DiskState names a
    record up to which it holds everything. Recovery puts back what later records overwrote, and cuts the log behind that one.
 2. A segment is sealed only when DiskState covers it, so what recovery may have to put back is in segments that are not sealed.
 3. Nothing that comes after a destructive restore reaches the log before DiskState covers the restore: its before-images are what the
    restore shows, which is not what the disk held at the restore.
 4. A version's data is what the disk (with Pending) held, not what another restore that is still being written back makes of it; so
    images of the time before the restore stay right.

Threading: requests from any thread, no GIL. Order of locks: a range, append lock, Versions' mutex; settling after them, then
Pending's. Whoever waits for room in Pending holds a range and nothing else, and a round needs no range.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from cdpcore.base.clock cimport cdp_monotonic_ns
from cdpcore.base.crc32c cimport cdp_crc32c
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport (CDP_BLOCK, CDP_KIND_TRIM, CDP_KIND_WRITE, CDP_KIND_WRITEBACK, CDP_KIND_ZERO,
                                  CDP_LOC_BASE, CDP_LOC_HOLE, CDP_LOC_ZERO, CDP_REC_BEFORE, CDP_REC_FUA, CDP_REC_HOLE,
                                  CDP_REC_META, CDP_REC_SAME, CDP_SECTOR)
from cdpcore.base.gate cimport cdp_gate_leave
from cdpcore.base.status cimport CDP_OK, cdp_fail_os
from cdpcore.base.target cimport CDP_EXTENT_DATA, CDP_EXTENT_HOLE, CDP_EXTENT_ZERO, CDP_FUA, CDP_HOLE, CDP_META
from cdpcore.base.thread cimport pthread_cond_signal
from cdpcore.base.zeros cimport cdp_is_zero
from cdpcore.index.versions cimport drop, moment, pieces
from cdpcore.inplace.disk_state cimport DiskState
from cdpcore.inplace.pending cimport Pending
from cdpcore.inplace.range_lock cimport RangeLock
from cdpcore.inplace.reader cimport AGAIN
from cdpcore.log.record cimport MAX_PARTS, ROOM_WRITE, part
from cdpcore.system.os_table cimport CDP_OPEN_RDONLY, CDP_OPEN_RDWR
from cdpcore.volume.extents cimport kind_of


cdef enum:
    TOO_LONG = -3           # a long hole is none any more
    COLD_NS = 30000         # reading old content takes a few microseconds from memory, and from 60 on from a device
    COLD_FOR = 1024         # ... and so long the next ones are announced to the system
    EXPECT_MOST = 1 << 20

cdef uint64_t HOLE_STEP = 64 << 20      # a hole at least so long is trimmed as one record, unread


cdef class InPlaceCore(DiskSettler):
    """As VolumeCore, for before-images; attach() the disk before use."""

    def attach(self, path: str, DiskState state not None, *, uint64_t pending_bytes, uint32_t pending_changes, bint skip_same,
               bint read_only=False):
        """Before the first request: the disk at `path` holds what `state` says, which is the end of the log. At most
        `pending_bytes` (a multiple of 4096) of new content in `pending_changes` changes wait to be written to it. `read_only`: the log
        takes no records, and the disk need not be writable."""
        cdef cdp_status st
        cdef uint64_t seq = self.log.last_seq
        self.base_fd = self.table.open(self.table.ctx, path.encode(), CDP_OPEN_RDONLY if read_only else CDP_OPEN_RDWR)
        if self.base_fd < 0:
            check(cdp_fail_os(&st, self.base_fd, 0, b"opening the disk"), &st, path)
        self.state = state
        self.skip_same = skip_same
        self.reads_first = True
        self.ranges = RangeLock()
        self.pending = Pending(self.os, data_bytes=pending_bytes, n_changes=pending_changes, released_seq=seq)
        self.applied.seq = self.synced.seq = seq
        # Eight descriptors more than a record's data needs, so that zeros can be told from data in the longest one, too.
        self.max_request_bytes = min(self.max_request_bytes, min(pending_bytes // 2 // CDP_SECTOR * CDP_SECTOR,
                                                                 (MAX_PARTS - 8) * self.part_bytes))

    cdef int write_record(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                          cdp_status *st) noexcept nogil:
        if off % CDP_SECTOR or n % CDP_SECTOR:
            return self.change_bytes(CDP_KIND_WRITE, buf, off, n, flags, seq, st)
        return self.change_sectors(CDP_KIND_WRITE, CDP_EXTENT_DATA, buf, off, n, flags, seq, st)

    cdef int zero_range(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq, cdp_status *st) noexcept nogil:
        """What is trimmed is read and kept, but for long holes; so it takes as long as there is data."""
        cdef uint16_t kind = CDP_KIND_TRIM if flags & CDP_HOLE else CDP_KIND_ZERO
        cdef uint64_t at = off, end = off + n, step, until, part_seq = 0
        cdef uint64_t *told
        cdef int rc = CDP_OK
        while rc == CDP_OK and at < end:
            step = min(end - at, self.max_request_bytes - at % CDP_SECTOR)
            if at % CDP_SECTOR == 0 and end - at >= HOLE_STEP and kind == CDP_KIND_TRIM:
                rc = self.known_hole(at // CDP_SECTOR, end // CDP_SECTOR, &until, st)
                if rc != CDP_OK:
                    break
                if until * CDP_SECTOR - at >= HOLE_STEP:
                    step = until * CDP_SECTOR - at
            told = seq if at + step == end else &part_seq
            if at % CDP_SECTOR or step % CDP_SECTOR:
                rc = self.change_bytes(kind, NULL, at, step, flags, told, st)
            else:
                rc = self.change_sectors(kind, zeros_of(kind), NULL, at, step, flags, told, st)
                if rc == TOO_LONG:      # look again
                    rc = CDP_OK
                    continue
            at += step
        return rc

    cdef int change_sectors(self, uint16_t kind, uint32_t new, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags,
                            uint64_t *seq, cdp_status *st) noexcept nogil:
        """One record: [off, off + n) becomes what `new` says."""
        cdef span s
        cdef uint32_t ticket
        cdef int rc = AGAIN
        set_span(&s, off // CDP_SECTOR, (off + n) // CDP_SECTOR, new, buf)
        ticket = self.ranges.acquire(s.start, s.end)
        while rc == AGAIN:
            rc = self.change_held(kind, &s, 1, flags, self.current_epoch(), seq, st)
        self.ranges.release(ticket)
        return rc

    cdef int change_bytes(self, uint16_t kind, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                          cdp_status *st) noexcept nogil:
        """A change that does not begin and end on sectors: those are read, and changed whole. `buf` NULL: zeros."""
        cdef uint64_t start = off // CDP_SECTOR, end = (off + n + CDP_SECTOR - 1) // CDP_SECTOR, epoch
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
            epoch = self.current_epoch()
            rc = self.read_now(merged, start * CDP_SECTOR, CDP_SECTOR, &m, st)
            if rc == CDP_OK and end - start > 1:
                rc = self.read_now(merged + size - CDP_SECTOR, (end - 1) * CDP_SECTOR, CDP_SECTOR, &m, st)
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
            rc = self.change_held(kind, s, n_spans, flags, epoch, seq, st)
            if rc != AGAIN:
                break
        self.ranges.release(ticket)
        free(merged)
        return rc

    cdef int known_hole(self, uint64_t start, uint64_t end, uint64_t *until, cdp_status *st) noexcept nogil:
        """[start, *until) is a hole of the disk and nothing is pending there; *until == start: not known."""
        cdef uint64_t a, b
        cdef moment m
        cdef pieces p
        cdef int rc
        until[0] = start
        if self.restoring:
            return CDP_OK
        rc = self.versions.resolve_seqs(self.pending.released(), start, end, &p, &m, st)
        if rc != CDP_OK:
            return rc
        b = p.at[0].end if p.at[0].loc == 0 else start
        drop(&p)
        if b == start:
            return CDP_OK
        rc = self.table.next_data(self.table.ctx, self.base_fd, start * CDP_SECTOR, &a, until)
        if rc < 0:
            return cdp_fail_os(st, rc, start * CDP_SECTOR, b"looking for data on the disk")
        until[0] = b if rc == 0 or a // CDP_SECTOR >= b else max(start, a // CDP_SECTOR)
        return CDP_OK

    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil:
        """While old content has to be read from a device, one request after the other would wait for it: 4 k/s instead of what
        the device does at depth. What is in memory already costs half a microsecond, so only then."""
        if self.cold and off < self.size_bytes and n and n <= self.size_bytes - off:
            self.table.expect(self.table.ctx, self.base_fd, off, min(n, <uint64_t>EXPECT_MOST))

    cdef int change_held(self, uint16_t kind, const span *s, uint32_t n, uint32_t flags, uint64_t epoch, uint64_t *seq,
                         cdp_status *st) noexcept nogil:
        """The range is held: one record. AGAIN: the lineage is not that of `epoch` any more. TOO_LONG: for what is not a hole."""
        cdef part old[MAX_PARTS]
        cdef uint64_t start = s[0].start, end = s[n - 1].end, size = (end - start) * CDP_SECTOR, until = start, new_bytes = 0
        cdef uint32_t n_old = 0, i
        cdef moment m
        cdef uint8_t *content = NULL
        cdef bint same = False
        cdef uint64_t began
        cdef int rc = CDP_OK
        rc = self.cover_restore(st)
        if rc != CDP_OK:
            return rc
        if size >= HOLE_STEP:
            rc = self.known_hole(start, end, &until, st)
            if rc != CDP_OK:
                return rc
        if until == end:
            set_old(&old[0], start, end, NULL, CDP_LOC_HOLE)
            n_old = 1
        elif size > self.max_request_bytes:     # somebody wrote there since zero() looked, or a restore came
            return TOO_LONG
        else:
            content = <uint8_t *>malloc(size)
            if content == NULL:
                return cdp_fail_os(st, -ENOMEM, start * CDP_SECTOR, b"reading what a write overwrites")
            rc = AGAIN
            began = cdp_monotonic_ns()
            while rc == AGAIN:
                if self.old_is_logical:
                    rc = self.read_now(content, start * CDP_SECTOR, size, &m, st)
                else:
                    rc = self.read_disk(content, start * CDP_SECTOR, size, &m, st)
            if cdp_monotonic_ns() - began > COLD_NS + size // 4:
                self.cold = COLD_FOR
            elif self.cold:
                self.cold -= 1
            if rc != CDP_OK:
                free(content)
                return rc
            # While a restore is written back, what the disk holds is not what the volume shows.
            same = self.skip_same and not self.restoring and is_same(s, n, content)
            if same:
                set_old(&old[0], start, end, NULL, 0)
                n_old = 1
            else:
                n_old = split(content, start, end, self.part_bytes, old)
        for i in range(n_old):
            old[i].kind = kind
            old[i].flags = CDP_REC_BEFORE | (CDP_REC_FUA if flags & CDP_FUA else 0) | (CDP_REC_META if flags & CDP_META else 0) | \
                (CDP_REC_SAME if same else 0) | (CDP_REC_HOLE if old[i].loc == CDP_LOC_HOLE else 0)
            if old[i].data != NULL:
                old[i].data_bytes = <uint32_t>((old[i].end - old[i].start) * CDP_SECTOR)
                old[i].crc = cdp_crc32c(0, old[i].data, old[i].data_bytes)
        if same:
            n = 0
        for i in range(n):
            new_bytes += (s[i].end - s[i].start) * CDP_SECTOR if s[i].kind == CDP_EXTENT_DATA else 0
        while rc == CDP_OK and not self.pending.reserve(new_bytes, n):
            rc = self.make_room(st)
        if rc != CDP_OK:
            free(content)
            return rc
        self.log.lock_append()
        if epoch != self.epoch:
            rc = AGAIN
        else:
            rc = self.append_change(kind, s, n, old, n_old, seq, st)
        self.log.unlock_append()
        if rc != CDP_OK:
            self.pending.unreserve(new_bytes, n)
        elif self.pending.used_bytes() > self.pending.data_bytes // 4 and not self.busy:
            pthread_cond_signal(&self.settled)
        free(content)
        return rc

    cdef int append_change(self, uint16_t kind, const span *s, uint32_t n, part *old, uint32_t n_old, uint64_t *seq,
                           cdp_status *st) noexcept nogil:
        """Append lock held, room in Pending reserved. n == 0: the record changed nothing."""
        cdef uint32_t i
        cdef int rc = self.log.append_record(old, n_old, ROOM_WRITE, seq, st)
        if rc != CDP_OK:
            return rc
        for i in range(n):      # before it is visible: a reader that sees the version looks for the content
            self.pending.push(seq[0], True, s[i].start, s[i].end, s[i].kind, s[i].data)
            if kind == CDP_KIND_WRITE:
                self.bytes_written += (s[i].end - s[i].start) * CDP_SECTOR
        self.log.publish(old, n_old)
        if n == 0:
            self.n_same += 1
        if kind == CDP_KIND_WRITE:
            self.n_writes += 1
        elif kind != CDP_KIND_WRITEBACK:
            self.n_zeroes += 1
        return CDP_OK

    cdef int cover_restore(self, cdp_status *st) noexcept nogil:
        """While a destructive restore is written back, what is changed may not be put back to before it: DiskState covers it first."""
        return self.settle_now(True, st) if self.old_is_logical and self.kept_seq() < self.discards_at else CDP_OK

    cdef int overwrite_held(self, const span *s, uint32_t n, uint64_t epoch, cdp_status *st) noexcept nogil:
        """As change_held, but no record and no before-image: a destructive restore discards what the disk holds. Nobody reads this
        from Pending or the disk before it is there: the versions that it comes from are shown until the restore is done."""
        cdef uint64_t bytes = 0
        cdef uint32_t i
        cdef int rc = self.cover_restore(st)
        for i in range(n):
            bytes += (s[i].end - s[i].start) * CDP_SECTOR if s[i].kind == CDP_EXTENT_DATA else 0
        while rc == CDP_OK and not self.pending.reserve(bytes, n):
            rc = self.make_room(st)
        if rc != CDP_OK:
            return rc
        self.log.lock_append()
        if epoch == self.epoch:
            for i in range(n):
                self.pending.push(self.log.last_seq, False, s[i].start, s[i].end, s[i].kind, s[i].data)
        else:
            self.pending.unreserve(bytes, n)
            rc = AGAIN
        self.log.unlock_append()
        return rc

    cdef int make_room(self, cdp_status *st) noexcept nogil:
        """Pending is full: what is in it goes to the disk, by us or by whoever is at it."""
        cdef uint64_t before = self.pending.released()
        cdef int rc = self.settle_now(False, st)
        if rc == CDP_OK and self.pending.released() == before:      # a reader had a change pinned, or others have reserved
            self.give_room()
        return rc

    def lineage_changed(self, bint restoring, bint discards=False):
        """Between freeze() and thaw(), after the current lineage was replaced. `restoring`: it shows more than the disk.
        `discards`: a destructive restore does, so what the disk still holds of before is kept by nobody."""
        self.epoch += 1
        self.restoring = restoring
        self.old_is_logical = restoring and discards
        self.discards_at = self.log.last_seq

    def write_back(self, uint64_t offset, uint64_t length, uint32_t max_records):
        """Put a range of the disk (whole sectors) to what the current lineage shows of it, keeping what was there as any write does.
        Stops after `max_records`. Returns (up to where, bytes that were not on the disk yet)."""
        cdef cdp_status st
        cdef uint64_t n = 0, at = offset // CDP_SECTOR
        cdef int rc = self.enter(offset, length, &st)
        check(rc, &st, None)
        with nogil:
            rc = self.write_back_range(&at, (offset + length) // CDP_SECTOR, max_records, &n, &st)
        cdp_gate_leave(&self.gate)
        check(rc, &st, None)
        return at * CDP_SECTOR, n

    cdef int write_back_range(self, uint64_t *at, uint64_t end, uint32_t max_records, uint64_t *n, cdp_status *st) noexcept nogil:
        cdef pieces p
        cdef uint64_t i, k, epoch, seq, step = self.max_request_bytes // CDP_SECTOR, size, start = at[0]
        cdef span s[MAX_PARTS]
        cdef uint32_t n_spans, ticket, n_records = 0
        cdef moment m
        cdef uint8_t *content
        cdef int rc = CDP_OK
        while start < end and rc == CDP_OK and n_records < max_records:
            ticket = self.ranges.acquire(start, min(start + step, end))
            epoch = self.current_epoch()
            rc = self.versions.resolve_before(NULL, start, min(start + step, end), &p, &m, st)
            if rc != CDP_OK:
                self.ranges.release(ticket)
                break
            i = 0
            while rc == CDP_OK and i < p.n and n_records < max_records:
                if p.at[i].loc == CDP_LOC_BASE:
                    i += 1
                    continue
                # Neighbours that are not on the disk: one record.
                size = 0
                k = i
                while k < p.n and k - i < MAX_PARTS and p.at[k].loc != CDP_LOC_BASE:
                    size += (p.at[k].end - p.at[k].start) * CDP_SECTOR
                    k += 1
                content = <uint8_t *>malloc(size)
                if content == NULL:
                    rc = cdp_fail_os(st, -ENOMEM, start * CDP_SECTOR, b"writing a restore back")
                    break
                n_spans = 0
                size = 0
                while i < k and rc == CDP_OK:
                    set_span(&s[n_spans], p.at[i].start, p.at[i].end, kind_of(p.at[i].loc), content + size)
                    if s[n_spans].kind == CDP_EXTENT_DATA:
                        rc = self.read_data(content + size, p.at[i].loc, 0, (p.at[i].end - p.at[i].start) * CDP_SECTOR, st)
                    size += (p.at[i].end - p.at[i].start) * CDP_SECTOR
                    n_spans += 1
                    i += 1
                if rc == CDP_OK and self.old_is_logical:
                    rc = self.overwrite_held(s, n_spans, epoch, st)
                elif rc == CDP_OK:
                    rc = self.change_held(CDP_KIND_WRITEBACK, s, n_spans, 0, epoch, &seq, st)
                free(content)
                if rc == CDP_OK:
                    n[0] += size
                    n_records += 1
            k = p.at[i].start if i < p.n else min(start + step, end)
            drop(&p)
            self.ranges.release(ticket)
            if rc == AGAIN:         # another restore came: look again
                rc = CDP_OK
            elif rc == CDP_OK:
                start = k
        at[0] = start
        return rc

    def not_on_disk(self, uint64_t offset, uint64_t length):
        """(first offset, bytes) of what the current lineage shows in a range (whole sectors, some MiB) and the disk does not have;
        the offset is the range's end where there is nothing."""
        cdef cdp_status st
        cdef pieces p
        cdef moment m
        cdef uint64_t i, first = offset + length, n = 0
        cdef int rc = self.enter(offset, length, &st)
        check(rc, &st, None)
        with nogil:
            rc = self.versions.resolve_before(NULL, offset // CDP_SECTOR, (offset + length) // CDP_SECTOR, &p, &m, &st)
            if rc == CDP_OK:
                for i in range(p.n):
                    if p.at[i].loc != CDP_LOC_BASE:
                        first = min(first, p.at[i].start * CDP_SECTOR)
                        n += (p.at[i].end - p.at[i].start) * CDP_SECTOR
                drop(&p)
        cdp_gate_leave(&self.gate)
        check(rc, &st, None)
        return first, n

    def stats(self) -> dict:
        """As VolumeCore.stats; and what waits for the disk in bytes, what is on it, and writes that changed nothing."""
        return {**DiskSettler.stats(self), "pending_bytes": self.pending.used_bytes(), "applied_seq": self.applied.seq,
                "synced_seq": self.synced.seq, "unchanged_writes": self.n_same}


cdef uint32_t zeros_of(uint16_t kind) noexcept nogil:
    return CDP_EXTENT_HOLE if kind == CDP_KIND_TRIM else CDP_EXTENT_ZERO


cdef void set_span(span *s, uint64_t start, uint64_t end, uint32_t kind, const uint8_t *data) noexcept nogil:
    s.start = start
    s.end = end
    s.kind = kind
    s.data = data


cdef void set_old(part *o, uint64_t start, uint64_t end, const uint8_t *data, uint64_t loc) noexcept nogil:
    """Old content of a range; `loc`: of content without data, 0 for none."""
    o.start = start
    o.end = end
    o.data = data
    o.data_bytes = 0
    o.crc = 0
    o.loc = loc


cdef bint is_same(const span *s, uint32_t n, const uint8_t *old) noexcept nogil:
    """Whether the new content equals the old. Turning data into a hole is a change even where it read as zeros."""
    cdef uint32_t i
    cdef uint64_t size
    for i in range(n):
        size = (s[i].end - s[i].start) * CDP_SECTOR
        if s[i].kind != CDP_EXTENT_DATA or memcmp(s[i].data, old, size) != 0:
            return False
        old += size
    return True


cdef uint32_t split(const uint8_t *old, uint64_t start, uint64_t end, uint64_t part_bytes, part *out) noexcept nogil:
    """Old content (at most MAX_PARTS times part_bytes) as at most MAX_PARTS parts: blocks of zeros need no data, while there is room to
    name them apart."""
    cdef uint64_t at = start, stop, most = part_bytes // CDP_SECTOR
    cdef uint32_t n = 0
    cdef const uint8_t *p
    cdef bint zero
    while at < end:
        stop = min(end, (at // (CDP_BLOCK // CDP_SECTOR) + 1) * (CDP_BLOCK // CDP_SECTOR))
        p = old + (at - start) * CDP_SECTOR
        # Two more parts, and enough for all the rest as data, must fit.
        zero = (n and out[n - 1].data == NULL) or n + 3 + (end - at) // most <= MAX_PARTS
        zero = zero and cdp_is_zero(p, (stop - at) * CDP_SECTOR)
        if n and zero == (out[n - 1].data == NULL) and (zero or at - out[n - 1].start < most):
            if not zero:
                stop = min(stop, out[n - 1].start + most)       # to the sector: parts that are not full would be too many
            out[n - 1].end = stop
        else:
            set_old(&out[n], at, stop, NULL if zero else p, CDP_LOC_ZERO if zero else 0)
            n += 1
        at = stop
    return n
