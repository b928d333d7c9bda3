"""The core of one volume: where a write goes, and what a read at any point sees.

Way of a write: checked -> CRC of its data (no lock) -> append lock: room in the segment, seq and ts, descriptor and data
into the open frame, extent tree (index lock) -> visible -> returned, or durable first with FUA. The append lock covers one
copy of the data, so records are in the log in seq order, whole, and overlapping writes have one serial order: the one that
recovery and every image show.

Way of a read: what is visible (Versions) -> data from a pool slot that still has it, a segment file, or the base, without a
lock; what a destructive restore frees is freed when the reads that began before it have ended.

Invariant: a record is in one segment, whole; if it can't be, for want of space, nothing of it is in the log.
"""
cimport cython
from libc.errno cimport ENOMEM, ESHUTDOWN
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from cdpcore.base.crc32c cimport cdp_crc32c
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport (CDP_BLOCK, CDP_KIND_FLUSH, CDP_KIND_TRIM, CDP_KIND_WRITE, CDP_KIND_ZERO,
                                  CDP_LOC_BASE, CDP_LOC_HOLE, CDP_LOC_ZERO, CDP_REC_FUA, CDP_REC_META, CDP_SECTOR,
                                  cdp_loc_is_data)
from cdpcore.base.gate cimport cdp_gate_close, cdp_gate_enter, cdp_gate_is_closed, cdp_gate_leave, cdp_gate_shut
from cdpcore.base.status cimport CDP_CLOSED, CDP_CORRUPT, CDP_INVALID, CDP_OK, cdp_fail, cdp_fail_os
from cdpcore.base.target cimport CDP_FUA, CDP_HOLE, CDP_META
from cdpcore.index.index cimport cdp_piece
from cdpcore.index.versions cimport drop, pieces
from cdpcore.log.frame cimport CDP_FRAME_TAIL_BYTES
from cdpcore.log.record cimport MAX_PARTS, ROOM_EVENT, ROOM_FREEING, ROOM_WRITE
from cdpcore.system.os_table cimport CDP_OPEN_RDONLY
from cdpcore.volume.extents cimport FULL, add_extent, add_file, kind_of
from cdpcore.base.errors import Busy, Closed


@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class VolumeCore:
    """One volume's engine.

    Args:
        log: its Log, at the end of what recovery found.
        segments: read handles of the log's files.
        size_bytes: a multiple of 512.
        base: path of the base file; "" where the base is all holes.
        parent, parent_view, parent_pin: for a writable image, instead of base.
    Threading: requests come from any thread. The def methods release the GIL where they may block.
    """

    def __cinit__(self, Log log not None, SegmentFds segments not None, *, uint64_t size_bytes, base: str,
                  VolumeCore parent=None, View parent_view=None, parent_pin=None):
        self.os = log.os
        self.table = log.table
        self.log = log
        self.versions = log.versions
        self.segments = segments
        self.size_bytes = size_bytes
        # Three parts of 1 MiB to a slot of 4 MiB; at least two to a smaller one, so that little of it is left empty.
        cdef uint64_t usable = log.pool.slot_bytes - 2 * CDP_BLOCK - CDP_FRAME_TAIL_BYTES
        cdef uint64_t half = usable // 2 // CDP_BLOCK * CDP_BLOCK, mib = 1 << 20, most = 32 << 20
        self.part_bytes = max(<uint64_t>CDP_BLOCK, min(half, mib))
        self.max_request_bytes = min(min(most, MAX_PARTS * self.part_bytes), log.files.segment_bytes // 8 // CDP_SECTOR * CDP_SECTOR)
        cdef cdp_status st
        self.base_fd = -1
        if base:
            self.base_fd = self.table.open(self.table.ctx, base.encode(), CDP_OPEN_RDONLY)
            if self.base_fd < 0:
                check(cdp_fail_os(&st, self.base_fd, 0, b"opening the base"), &st, base)
        self.parent = parent
        self.parent_view = parent_view
        self.parent_pin = parent_pin

    def __dealloc__(self):
        if self.base_fd >= 0 and self.table != NULL:
            self.table.close(self.table.ctx, self.base_fd)

    # --- the way of a write -------------------------------------------------------------------------------------------

    cdef int enter(self, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil:
        cdef int rc
        if not cdp_gate_enter(&self.gate):
            return cdp_fail(st, CDP_CLOSED, ESHUTDOWN, 0, b"the volume is closed")
        if off > self.size_bytes or n > self.size_bytes - off:
            cdp_gate_leave(&self.gate)
            rc = cdp_fail(st, CDP_INVALID, 0, off, b"request reaches past the end of the volume")
            st.expected = self.size_bytes
            st.actual = off + n
            return rc
        return CDP_OK

    cdef int write(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                   cdp_status *st) noexcept nogil:
        """*seq: that of the last record, stored under the append lock before that record is in the log; 0, or as it was, where none
        was appended."""
        cdef uint64_t done = 0, step, part_seq = 0
        cdef int rc = self.enter(off, n, st)
        if rc != CDP_OK:
            return rc
        while rc == CDP_OK and done < n:
            step = min(n - done, self.max_request_bytes - (off + done) % CDP_SECTOR)
            # *seq not before the whole request is in the log.
            rc = self.write_record(buf + done, off + done, step, flags, seq if done + step == n else &part_seq, st)
            done += step
        return self.leave(rc, n, flags, seq, st)

    cdef int zero(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq, cdp_status *st) noexcept nogil:
        cdef int rc = self.enter(off, n, st)
        if rc != CDP_OK:
            return rc
        if n:
            rc = self.zero_range(off, n, flags, seq, st)
        return self.leave(rc, n, flags, seq, st)

    cdef int leave(self, int rc, uint64_t n, uint32_t flags, const uint64_t *seq, cdp_status *st) noexcept nogil:
        """A change has come to its end, its last record is *seq."""
        if rc == CDP_OK and n and flags & CDP_FUA:
            rc = self.make_durable(seq[0], st)
        cdp_gate_leave(&self.gate)
        return rc

    cdef int flush(self, cdp_status *st) noexcept nogil:
        """Everything acknowledged before is durable at return. A flush with nothing new behind it leaves no record."""
        cdef uint64_t seq
        cdef int rc = self.enter(0, 0, st)
        if rc != CDP_OK:
            return rc
        self.log.lock_append()
        seq = self.log.last_seq
        if self.log.unflushed:
            rc = self.append_event_held(CDP_KIND_FLUSH, 0, 0, NULL, 0, ROOM_FREEING, &seq, st)
            self.n_flushes += rc == CDP_OK
        self.log.unlock_append()
        if rc == CDP_OK:
            rc = self.make_durable(seq, st)
        cdp_gate_leave(&self.gate)
        return rc

    cdef int make_durable(self, uint64_t seq, cdp_status *st) noexcept nogil:
        return self.log.wait_durable(seq, st)

    cdef int write_record(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                          cdp_status *st) noexcept nogil:
        """Checksums first: the append lock covers one copy of the data and no more."""
        cdef part parts[MAX_PARTS]
        cdef uint32_t n_parts
        cdef int rc
        if off % CDP_SECTOR or n % CDP_SECTOR:
            return self.write_bytes(buf, off, n, flags, seq, st)
        n_parts = self.cut(buf, off // CDP_SECTOR, (off + n) // CDP_SECTOR, flags, parts)
        self.log.lock_append()
        rc = self.append_write(parts, n_parts, seq, st)
        self.log.unlock_append()
        return rc

    cdef uint32_t cut(self, const uint8_t *buf, uint64_t start, uint64_t end, uint32_t flags, part *parts) noexcept nogil:
        cdef uint32_t n = 0, step
        while start < end:
            step = <uint32_t>min(self.part_bytes, (end - start) * CDP_SECTOR)
            set_part(&parts[n], CDP_KIND_WRITE, flags, start, start + step // CDP_SECTOR, buf, step)
            start = parts[n].end
            buf += step
            n += 1
        return n

    cdef int append_write(self, part *parts, uint32_t n, uint64_t *seq, cdp_status *st) noexcept nogil:
        cdef int rc = self.log.append_record(parts, n, ROOM_WRITE, seq, st)
        if rc == CDP_OK:
            self.log.publish(parts, n)
            self.n_writes += 1
            self.bytes_written += (parts[n - 1].end - parts[0].start) * CDP_SECTOR
        return rc

    cdef int write_bytes(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                         cdp_status *st) noexcept nogil:
        """A write that does not begin and end on sectors: the rest of those sectors is read and logged with it, under the
        append lock, so that it is one step in the serial order."""
        cdef uint64_t start = off // CDP_SECTOR, end = (off + n + CDP_SECTOR - 1) // CDP_SECTOR
        cdef uint64_t head = off - start * CDP_SECTOR, whole = (end - start) * CDP_SECTOR
        cdef part parts[MAX_PARTS]
        cdef uint8_t *merged = <uint8_t *>malloc(whole)
        cdef int rc
        if merged == NULL:
            return cdp_fail_os(st, -ENOMEM, off, b"merging an unaligned write")
        memcpy(merged + head, buf, n)
        self.log.lock_append()
        rc = self.read_inside(NULL, merged, start * CDP_SECTOR, head, st)
        if rc == CDP_OK:
            rc = self.read_inside(NULL, merged + head + n, off + n, whole - head - n, st)
        if rc == CDP_OK:
            rc = self.append_write(parts, self.cut(merged, start, end, flags, parts), seq, st)
        self.log.unlock_append()
        free(merged)
        return rc

    cdef int zero_range(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq, cdp_status *st) noexcept nogil:
        """One record: whole sectors without data, a sector that is zeroed in part with its new content."""
        cdef uint64_t end = off + n, at = off, stop
        cdef uint16_t kind = CDP_KIND_TRIM if flags & CDP_HOLE else CDP_KIND_ZERO
        cdef part parts[3]
        cdef uint8_t edge[3][512]
        cdef uint32_t n_parts = 0
        cdef int rc = CDP_OK
        self.log.lock_append()
        while at < end and rc == CDP_OK:
            if at % CDP_SECTOR == 0 and end - at >= CDP_SECTOR:
                stop = end // CDP_SECTOR * CDP_SECTOR
                set_part(&parts[n_parts], kind, flags & CDP_FUA, at // CDP_SECTOR, stop // CDP_SECTOR, NULL, 0)
                parts[n_parts].loc = CDP_LOC_HOLE if kind == CDP_KIND_TRIM else CDP_LOC_ZERO
            else:
                stop = min(end, (at // CDP_SECTOR + 1) * CDP_SECTOR)
                rc = self.read_inside(NULL, edge[n_parts], at // CDP_SECTOR * CDP_SECTOR, CDP_SECTOR, st)
                memset(edge[n_parts] + at % CDP_SECTOR, 0, stop - at)
                set_part(&parts[n_parts], CDP_KIND_WRITE, flags & CDP_FUA, at // CDP_SECTOR, at // CDP_SECTOR + 1, edge[n_parts],
                         CDP_SECTOR)
            n_parts += 1
            at = stop
        if rc == CDP_OK:
            rc = self.log.append_record(parts, n_parts, ROOM_WRITE, seq, st)
        if rc == CDP_OK:
            self.log.publish(parts, n_parts)
            self.n_zeroes += 1
        self.log.unlock_append()
        return rc

    cdef int append_event_held(self, uint16_t kind, uint64_t start, uint64_t sectors, const uint8_t *data, uint32_t n, room space,
                               uint64_t *seq, cdp_status *st) noexcept nogil:
        cdef part p
        cdef int rc
        set_part(&p, kind, 0, start, start + sectors, data, n)
        rc = self.log.append_record(&p, 1, space, seq, st)
        if rc == CDP_OK:
            self.log.publish(&p, 1)
        return rc

    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil:
        pass

    cdef uint64_t kept_seq(self) noexcept nogil:
        return self.log.written()

    cdef int keep(self, uint64_t beyond, cdp_status *st) noexcept nogil:
        return self.log.write_out(beyond, st)

    # --- the way of a read --------------------------------------------------------------------------------------------

    cdef int read(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil:
        cdef uint64_t done = 0, step
        cdef int rc = self.enter(off, n, st)
        if rc != CDP_OK:
            return rc
        while rc == CDP_OK and done < n:
            step = min(n - done, <uint64_t>(32 << 20))
            rc = self.read_inside(view, buf + done, off + done, step, st)
            done += step
        cdp_gate_leave(&self.gate)
        return rc

    cdef int read_inside(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil:
        cdef pieces p
        cdef cdp_piece *q
        cdef uint64_t i, a, b
        cdef int rc
        if n == 0:
            return CDP_OK
        rc = self.versions.resolve(view, off // CDP_SECTOR, (off + n + CDP_SECTOR - 1) // CDP_SECTOR, &p, st)
        if rc != CDP_OK:
            return rc
        for i in range(p.n):
            q = &p.at[i]
            a = max(q.start * CDP_SECTOR, off)
            b = min(q.end * CDP_SECTOR, off + n)
            if q.loc == CDP_LOC_BASE:
                rc = self.read_base(buf + (a - off), a, b - a, st)
            elif cdp_loc_is_data(q.loc):
                rc = self.read_data(buf + (a - off), q.loc, a - q.start * CDP_SECTOR, b - a, st)
            else:
                memset(buf + (a - off), 0, b - a)
            if rc != CDP_OK:
                break
        drop(&p)
        return rc

    cdef int read_data(self, uint8_t *buf, uint64_t loc, uint64_t skip, uint64_t n, cdp_status *st) noexcept nogil:
        cdef uint64_t token, off
        cdef int fd, rc
        cdef bint cached
        cdef int64_t got
        cdef uint8_t *resident = self.log.ring.pin(loc, &token)
        if resident != NULL:
            memcpy(buf, resident + skip, n)
            self.log.ring.unpin(token)
            return CDP_OK
        rc = self.segments.acquire(<uint32_t>(loc >> 32), &fd, &cached, st)
        if rc != CDP_OK:
            return rc
        off = <uint64_t><uint32_t>loc * CDP_SECTOR + skip
        got = self.table.pread(self.table.ctx, fd, buf, n, off)
        self.segments.release(<uint32_t>(loc >> 32), fd, cached)
        if got < 0:
            return cdp_fail_os(st, got, off, b"reading a log segment")
        if <uint64_t>got != n:
            rc = cdp_fail(st, CDP_CORRUPT, 0, off, b"a log segment ends before its data")
            st.expected = n
            st.actual = <uint64_t>got
            return rc
        return CDP_OK

    cdef int read_base(self, uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil:
        cdef int64_t got
        if self.parent is not None:
            return self.parent.read(&self.parent_view.v, buf, off, n, st)
        if self.base_fd < 0:
            memset(buf, 0, n)
            return CDP_OK
        got = self.table.pread(self.table.ctx, self.base_fd, buf, n, off)
        if got < 0:
            return cdp_fail_os(st, got, off, b"reading the base")
        memset(buf + got, 0, n - <uint64_t>got)
        return CDP_OK

    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t n, cdp_extent *out, uint32_t cap, uint32_t *got,
                 cdp_status *st) noexcept nogil:
        """As cdp_target.map. Works in windows of 1 GiB, so a huge fragmented range costs no more than is asked for."""
        cdef uint64_t at = off, end = off + n, stop
        cdef extents found = extents(at=out, cap=cap, n=0)
        cdef int rc = self.enter(off, n, st)
        got[0] = 0
        if rc != CDP_OK:
            return rc
        while rc == CDP_OK and at < end:
            stop = min(end, (at // (1 << 30) + 1) * (1 << 30))
            rc = self.map_window(view, at, stop, &found, st)
            at = stop
        cdp_gate_leave(&self.gate)
        got[0] = found.n
        return CDP_OK if rc == FULL else rc

    cdef int map_window(self, const cdp_view *view, uint64_t at, uint64_t end, extents *out, cdp_status *st) noexcept nogil:
        cdef pieces p
        cdef uint64_t i, a, b
        cdef int rc = self.versions.resolve(view, at // CDP_SECTOR, (end + CDP_SECTOR - 1) // CDP_SECTOR, &p, st)
        if rc != CDP_OK:
            return rc
        for i in range(p.n):
            a = max(p.at[i].start * CDP_SECTOR, at)
            b = min(p.at[i].end * CDP_SECTOR, end)
            if p.at[i].loc != CDP_LOC_BASE:
                rc = add_extent(out, a, b, kind_of(p.at[i].loc))
            elif self.parent is None:
                rc = add_file(out, self.table, self.base_fd, a, b, st)
            else:
                rc = self.map_parent(a, b, out, st)
            if rc != CDP_OK:
                break
        drop(&p)
        return rc

    cdef int map_parent(self, uint64_t a, uint64_t b, extents *out, cdp_status *st) noexcept nogil:
        cdef cdp_extent some[64]
        cdef uint32_t got, i
        cdef int rc = CDP_OK
        while rc == CDP_OK and a < b:
            rc = self.parent.map(&self.parent_view.v, a, b - a, some, 64, &got, st)
            if rc != CDP_OK:
                break
            for i in range(got):
                if rc == CDP_OK:
                    a = some[i].offset + some[i].length
                    rc = add_extent(out, some[i].offset, a, some[i].kind)
        return rc

    # --- for the Python shell -----------------------------------------------------------------------------------------

    def pread_into(self, unsigned char[::1] buffer not None, uint64_t offset, View view=None):
        """Fill `buffer` from `offset` at `view` (None: now)."""
        cdef cdp_status st
        cdef int rc = CDP_OK
        cdef const cdp_view *v = NULL
        if view is not None:
            v = &view.v
        cdef uint64_t n = buffer.shape[0]
        if n:
            with nogil:
                rc = self.read(v, &buffer[0], offset, n, &st)
        check(rc, &st, None)

    def pwrite(self, const unsigned char[::1] buffer not None, uint64_t offset, bint fua=False):
        """Write `buffer` at `offset`."""
        cdef cdp_status st
        cdef int rc = CDP_OK
        cdef uint64_t n = buffer.shape[0], seq
        if n:
            with nogil:
                rc = self.write(&buffer[0], offset, n, CDP_FUA if fua else 0, &seq, &st)
        check(rc, &st, None)

    def pzero(self, uint64_t length, uint64_t offset, bint hole, bint fua=False):
        """Zero a range; `hole`: a trim."""
        cdef cdp_status st
        cdef uint64_t seq
        cdef int rc
        with nogil:
            rc = self.zero(offset, length, (CDP_HOLE if hole else 0) | (CDP_FUA if fua else 0), &seq, &st)
        check(rc, &st, None)

    def pflush(self):
        """Everything acknowledged is durable at return."""
        cdef cdp_status st
        cdef int rc
        with nogil:
            rc = self.flush(&st)
        check(rc, &st, None)

    def extents(self, uint64_t offset, uint64_t length, View view=None) -> list:
        """Up to 1024 (offset, length, kind) from `offset`; kind 0 data, 1 zero, 2 hole."""
        cdef cdp_status st
        cdef int rc
        cdef uint32_t n = 0, i
        cdef const cdp_view *v = NULL
        if view is not None:
            v = &view.v
        cdef cdp_extent *out = <cdp_extent *>malloc(1024 * sizeof(cdp_extent))
        if out == NULL:
            raise MemoryError()
        try:
            with nogil:
                rc = self.map(v, offset, length, out, 1024, &n, &st)
            check(rc, &st, None)
            return [(out[i].offset, out[i].length, out[i].kind) for i in range(n)]
        finally:
            free(out)

    def freeze(self):
        """Hold the append lock: no record is appended until thaw(). For a restore: the lineage is computed and installed
        together with its record. Only for moments."""
        if not cdp_gate_enter(&self.gate):
            raise Closed("the volume is closed")
        with nogil:
            self.log.lock_append()

    def thaw(self):
        self.log.unlock_append()
        cdp_gate_leave(&self.gate)

    def append_event(self, uint16_t kind, uint64_t start, uint64_t sectors, bytes data, View view=None, bint freeing=False):
        """Between freeze() and thaw(): append a record of `kind` whose data is `data` (padded to a sector with zeros) and, with
        `view`, make that the current lineage (in which the record's own seq may be PENDING still). `freeing`: it frees space, and
        may use the last there is. Returns (seq, ts_ns). Not durable before the next flush."""
        cdef cdp_status st
        cdef bytes padded = data + bytes((CDP_SECTOR - len(data) % CDP_SECTOR) % CDP_SECTOR)
        cdef const uint8_t *p = <const uint8_t *><char *>padded
        cdef uint32_t n = len(padded)
        cdef uint64_t seq
        cdef bint out_of_memory = False
        cdef int rc
        with nogil:
            rc = self.append_event_held(kind, start, sectors, p, n, ROOM_FREEING if freeing else ROOM_EVENT, &seq, &st)
            if rc == CDP_OK and view is not None:
                view.set_pending(seq)
                out_of_memory = self.versions.install(&view.v, NULL, 0, False) != CDP_OK
        check(rc, &st, None)
        if out_of_memory:
            raise MemoryError()
        return seq, self.log.last_ts_ns

    def close(self):
        """Refuse new requests, wait for those inside. The log is stopped and closed by the owner. Idempotent."""
        with nogil:
            cdp_gate_close(&self.gate)

    def disown(self):
        """In the child of a fork, where the volume's threads are not: refuse everything. The parent goes on."""
        cdp_gate_shut(&self.gate)

    def adopt_base(self, path: str):
        """The base, so far all holes, is now the file at `path`. The volume has no records yet."""
        cdef cdp_status st
        cdef int fd = self.table.open(self.table.ctx, path.encode(), CDP_OPEN_RDONLY)
        if fd < 0:
            check(cdp_fail_os(&st, fd, 0, b"opening the base"), &st, path)
        self.base_fd = fd       # one store; readers see none or the file

    def forget_segment(self, uint32_t number):
        """A segment file is about to be deleted."""
        self.segments.forget(number)

    def set_aside(self, uint64_t seq=0xFFFFFFFFFFFFFFFF):
        """Hand the open segment, if it has records up to `seq`, to maintenance for sealing; not while another one waits for that."""
        self.log.set_aside(seq)

    def release(self):
        """After close(): let go of files, mappings and the parent."""
        if not self.closed:
            raise Busy("the volume is open", "close it first")
        self.versions.release()
        self.segments.close()
        if self.base_fd >= 0:
            self.table.close(self.table.ctx, self.base_fd)
            self.base_fd = -1
        self.parent_pin = None

    @property
    def closed(self) -> bool:
        return bool(cdp_gate_is_closed(&self.gate))

    def position(self):
        """(last_seq, last_ts_ns), of one moment."""
        return self.versions.position()

    def stats(self) -> dict:
        """Counters since opening, and the memory of the extent trees in bytes."""
        return {"writes": self.n_writes, "zeroes": self.n_zeroes, "flushes": self.n_flushes,
                "bytes_written": self.bytes_written, "tree_bytes": self.versions.tree_bytes(), **self.log.stats()}


cdef void set_part(part *p, uint16_t kind, uint32_t flags, uint64_t start, uint64_t end, const uint8_t *data, uint32_t n) noexcept nogil:
    """`flags`: of the request. The checksum is that of the data's n bytes."""
    p.start = start
    p.end = end
    p.data = data
    p.data_bytes = n
    p.crc = cdp_crc32c(0, data, n) if n else 0
    p.kind = kind
    p.flags = (CDP_REC_FUA if flags & CDP_FUA else 0) | (CDP_REC_META if flags & CDP_META else 0)
    p.loc = 0
