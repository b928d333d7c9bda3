"""The core of one volume: every request enters and leaves here, whatever the volume's kind makes of it.

A request is counted by the gate and checked, cut into records, carried out by the volume's Content, made durable if it
says so (FUA, or it is a flush), and answered. Here are also the records that are no change of content: flushes,
bookmarks, restores, all in one serial order with the writes, that of the append lock.

Invariant: a record is in one segment, whole; if it can't be, for want of space, nothing of it is in the log.
"""
cimport cython
from libc.stdlib cimport free, malloc
from cdpcore.base.clock cimport cdp_monotonic_ns
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_KIND_FLUSH, CDP_SECTOR
from cdpcore.base.gate cimport cdp_gate_close, cdp_gate_enter, cdp_gate_is_closed, cdp_gate_leave, cdp_gate_shut
from cdpcore.base.stages cimport (CDP_STAGE_FLUSH, CDP_STAGE_READ, CDP_STAGE_WRITE, Stages, cdp_count, cdp_stage_add)
from cdpcore.base.status cimport CDP_CLOSED, CDP_INVALID, CDP_OK, cdp_fail
from cdpcore.base.target cimport CDP_AGAIN, CDP_FUA, CDP_HOLE
from cdpcore.index.view cimport View
from cdpcore.log.record cimport ROOM_EVENT, ROOM_FREEING, part, set_part
from cdpcore.log.rewrites cimport cdp_rewrites_read
from cdpcore.volume.content cimport LOOK_AGAIN
from cdpcore.volume.extents cimport FULL, extents
from cdpcore.base.errors import Busy, Closed

cdef extern from * nogil:
    uint64_t atomic_add "__atomic_fetch_add"(uint64_t *p, uint64_t n, int order)
    uint64_t atomic_load "__atomic_load_n"(const uint64_t *p, int order)
    int RELAXED "__ATOMIC_RELAXED"

cdef uint64_t READ_BYTES = 32 << 20     # of one moment

# Steps of the index at a time, for a block status: few at first, because the first change may be all that is asked for,
# and twice as many each time, so that what was looked up too much is no more than what was needed. The index lock is
# held for them: the most take some 50 us.
cdef enum:
    MAP_EXTENTS = 1024
    MAP_FIRST = 64
    MAP_MOST = 1024


@cython.final
@cython.no_gc_clear   # its threads and readers may still be inside
cdef class VolumeCore:
    """One volume's engine.

    Args: content: what it holds, after recovery; of one kind.
    Threading: requests come from any thread. The def methods release the GIL where they may block.
    """

    def __cinit__(self, Content content not None):
        self.content = content
        self.log = content.log
        self.versions = content.versions
        self.size_bytes = content.size_bytes
        self.admission = Admission(content.log)

    # --- the write path -----------------------------------------------------------------------------------------------

    cdef int enter(self, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil:
        cdef int rc
        if not cdp_gate_enter(&self.gate):
            return cdp_fail(st, CDP_CLOSED, 0, 0, b"the volume is closed")
        if off > self.size_bytes or n > self.size_bytes - off:
            cdp_gate_leave(&self.gate)
            rc = cdp_fail(st, CDP_INVALID, 0, off, b"a request reaches past the end of the volume")
            st.expected = self.size_bytes
            st.actual = off + n
            return rc
        return CDP_OK

    cdef int write(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                   cdp_status *st) noexcept nogil:
        return self.change(buf, off, n, flags, seq, st)

    cdef int zero(self, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq, cdp_status *st) noexcept nogil:
        return self.change(NULL, off, n, flags, seq, st)

    cdef int change(self, const uint8_t *buf, uint64_t off, uint64_t n, uint32_t flags, uint64_t *seq,
                    cdp_status *st) noexcept nogil:
        """`buf` NULL: zeros. *seq: that of the last record, stored under the append lock before that record is in the
        log; 0, or as it was, where none was appended."""
        cdef uint64_t done = 0, size, part_seq = 0
        cdef int rc = self.enter(off, n, st)
        if rc != CDP_OK:
            return rc
        if not flags & CDP_AGAIN:       # before any lock: it may wait
            rc = self.admission.admit(CDP_SECTOR + (n if buf != NULL or self.content.reads_first else 0), st)
        while rc == CDP_OK and done < n:
            if buf != NULL:
                size = min(n - done, self.content.max_request_bytes - (off + done) % CDP_SECTOR)
            else:
                rc = self.content.zero_size(off + done, n - done, flags, &size, st)
                if rc != CDP_OK:
                    break
            # *seq not before the whole request is in the log.
            rc = self.content.change(buf + done if buf != NULL else NULL, off + done, size, flags,
                                     seq if done + size == n else &part_seq, st)
            if rc == LOOK_AGAIN:
                rc = CDP_OK
                continue
            done += size
        if rc == CDP_OK and n and flags & CDP_FUA:
            rc = self.content.make_durable(seq[0], st)
        cdp_gate_leave(&self.gate)
        return rc

    cdef int flush(self, cdp_status *st) noexcept nogil:
        cdef uint64_t seq
        cdef int rc = self.enter(0, 0, st)
        if rc != CDP_OK:
            return rc
        self.log.lock_append()
        seq = self.log.last_seq
        if self.log.unflushed:
            rc = self.append_held(CDP_KIND_FLUSH, 0, 0, NULL, 0, ROOM_FREEING, &seq, st)
            self.n_flushes += rc == CDP_OK
        else:
            rc = self.log.flushed(st)
        self.log.unlock_append()
        if rc == CDP_OK:
            rc = self.content.make_durable(seq, st)
        cdp_gate_leave(&self.gate)
        return rc

    cdef int append_held(self, uint16_t kind, uint64_t start, uint64_t sectors, const uint8_t *data, uint32_t n,
                         room space, uint64_t *seq, cdp_status *st) noexcept nogil:
        cdef part p
        cdef int rc
        set_part(&p, kind, 0, start, start + sectors, data, n, 0)
        rc = self.log.append_record(&p, 1, space, seq, st)
        if rc == CDP_OK:
            self.log.publish(&p, 1)
        return rc

    cdef void expect(self, uint64_t off, uint64_t n) noexcept nogil:
        self.content.expect(off, n)

    cdef uint64_t written_seq(self) noexcept nogil:
        return self.content.written_seq()

    cdef int write_out(self, uint64_t beyond, cdp_status *st) noexcept nogil:
        cdef int rc = self.enter(0, 0, st)
        if rc != CDP_OK:
            return rc
        rc = self.content.write_out(beyond, st)
        cdp_gate_leave(&self.gate)
        return rc

    # --- the read path ------------------------------------------------------------------------------------------------

    cdef int read(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                  cdp_status *st) noexcept nogil:
        cdef uint64_t done = 0, step
        cdef int rc = self.enter(off, n, st)
        if rc != CDP_OK:
            return rc
        if view == NULL and self.log.rewrites != NULL and n:
            cdp_rewrites_read(self.log.rewrites, off // CDP_SECTOR, (off + n + CDP_SECTOR - 1) // CDP_SECTOR)
        while rc == CDP_OK and done < n:
            step = min(n - done, READ_BYTES)
            rc = self.content.read(view, buf + done, off + done, step, wait, st)
            done += step
        cdp_gate_leave(&self.gate)
        return rc

    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t n, cdp_extent *out, uint32_t cap, uint32_t *got,
                 cdp_status *st) noexcept nogil:
        cdef uint64_t at = off, end = off + n, most = min(2 * <uint64_t>cap, <uint64_t>MAP_FIRST)
        cdef extents found = extents(at=out, cap=cap, n=0, steps=0, seeks=0)
        cdef int rc = self.enter(off, n, st)
        got[0] = 0
        if rc != CDP_OK:
            return rc
        while rc == CDP_OK and at < end:
            rc = self.content.map(view, at, end, most, &found, &at, st)
            most = min(2 * most, <uint64_t>MAP_MOST)
        atomic_add(&self.n_map_steps, found.steps, RELAXED)
        atomic_add(&self.n_map_seeks, found.seeks, RELAXED)
        cdp_gate_leave(&self.gate)
        got[0] = found.n
        return CDP_OK if rc == FULL else rc

    # --- for Python -----------------------------------------------------------------------------------------------

    cdef void done(self, uint32_t stage, uint64_t began, uint64_t n) noexcept nogil:
        """A request of n bytes that came through Python. An NBD connection counts its own."""
        cdp_stage_add(self.log.stages.s, stage, cdp_monotonic_ns() - began)
        if n:
            cdp_count(&self.log.stages.s.read_bytes if stage == CDP_STAGE_READ else
                      &self.log.stages.s.written_bytes, n)

    def pread_into(self, unsigned char[::1] buffer not None, uint64_t offset, View view=None):
        """Fill `buffer` from `offset` at `view` (None: now)."""
        cdef cdp_status st
        cdef int rc = CDP_OK
        cdef const cdp_view *v = NULL
        if view is not None:
            v = &view.v
        cdef uint64_t n = buffer.shape[0]
        cdef uint64_t began = cdp_monotonic_ns()
        if n:
            with nogil:
                rc = self.read(v, &buffer[0], offset, n, True, &st)
                self.done(CDP_STAGE_READ, began, n)
        check(rc, &st, None)

    def pwrite(self, const unsigned char[::1] buffer not None, uint64_t offset, bint fua=False):
        """Write `buffer` at `offset`."""
        cdef cdp_status st
        cdef int rc = CDP_OK
        cdef uint64_t n = buffer.shape[0], seq
        cdef uint64_t began = cdp_monotonic_ns()
        if n:
            with nogil:
                rc = self.write(&buffer[0], offset, n, CDP_FUA if fua else 0, &seq, &st)
                self.done(CDP_STAGE_WRITE, began, n)
        check(rc, &st, None)

    def pzero(self, uint64_t length, uint64_t offset, bint hole, bint fua=False):
        """Zero a range; `hole`: a trim."""
        cdef cdp_status st
        cdef uint64_t seq, began = cdp_monotonic_ns()
        cdef int rc
        with nogil:
            rc = self.zero(offset, length, (CDP_HOLE if hole else 0) | (CDP_FUA if fua else 0), &seq, &st)
            self.done(CDP_STAGE_WRITE, began, 0)
        check(rc, &st, None)

    def pflush(self):
        """Everything acknowledged is durable at return."""
        cdef cdp_status st
        cdef uint64_t began = cdp_monotonic_ns()
        cdef int rc
        with nogil:
            rc = self.flush(&st)
            self.done(CDP_STAGE_FLUSH, began, 0)
        check(rc, &st, None)

    def extents(self, uint64_t offset, uint64_t length, View view=None, uint32_t most=MAP_EXTENTS) -> list:
        """Up to `most` (1 to 1024) of (offset, length, kind) from `offset`; kind 0 data, 1 zero, 2 hole. Costs what is
        returned, not the length that is asked for."""
        cdef cdp_status st
        cdef int rc
        cdef uint32_t n = 0, i
        cdef const cdp_view *v = NULL
        if view is not None:
            v = &view.v
        most = min(max(most, 1u), <uint32_t>MAP_EXTENTS)
        cdef cdp_extent *out = <cdp_extent *>malloc(most * sizeof(cdp_extent))
        if out == NULL:
            raise MemoryError()
        try:
            with nogil:
                rc = self.map(v, offset, length, out, most, &n, &st)
            check(rc, &st, None)
            return [(out[i].offset, out[i].length, out[i].kind) for i in range(n)]
        finally:
            free(out)

    def freeze(self):
        """Hold the append lock: no record is appended until thaw(). For a restore: the lineage is computed and
        installed together with its record. Only for moments."""
        if not cdp_gate_enter(&self.gate):
            raise Closed("the volume is closed")
        with nogil:
            self.log.lock_append()

    def thaw(self):
        self.log.unlock_append()
        cdp_gate_leave(&self.gate)

    def append_event(self, uint16_t kind, uint64_t start, uint64_t sectors, bytes data, View view=None,
                     bint freeing=False):
        """Between freeze() and thaw(): append a record of `kind` whose data is `data` (padded to a sector with zeros)
        and, with `view`, make that the current lineage (in which the record's own seq may be PENDING still). `freeing`:
        it frees space, and may use the last there is. Returns (seq, ts_ns). Not durable before the next flush."""
        cdef cdp_status st
        cdef bytes padded = data + bytes((CDP_SECTOR - len(data) % CDP_SECTOR) % CDP_SECTOR)
        cdef const uint8_t *p = <const uint8_t *><char *>padded
        cdef uint32_t n = len(padded)
        cdef uint64_t seq
        cdef bint out_of_memory = False
        cdef int rc
        with nogil:
            rc = self.append_held(kind, start, sectors, p, n, ROOM_FREEING if freeing else ROOM_EVENT, &seq, &st)
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

    def forget_segment(self, uint32_t number):
        """A segment file is about to be deleted."""
        self.content.segments.forget(number)

    def set_aside(self, uint64_t seq=0xFFFFFFFFFFFFFFFF):
        """Hand the open segment, if it has records up to `seq`, to maintenance for sealing; not while another one waits
        for that."""
        self.log.set_aside(seq)

    def release(self):
        """After close(): let go of files, mappings and the parent."""
        if not self.closed:
            raise Busy("the volume is open", "close it first")
        self.content.release()

    @property
    def max_request_bytes(self) -> int:
        """A longer write becomes several records."""
        return self.content.max_request_bytes

    @property
    def closed(self) -> bool:
        return bool(cdp_gate_is_closed(&self.gate))

    def position(self):
        """(last_seq, last_ts_ns), of one moment."""
        return self.versions.position()

    @property
    def stages(self) -> Stages:
        """Where the time of requests goes."""
        return self.log.stages

    def stats(self) -> dict:
        """Counters since opening; see also the stats of its kind."""
        return {"flushes": self.n_flushes, "map_steps": atomic_load(&self.n_map_steps, RELAXED),
                "map_seeks": atomic_load(&self.n_map_seeks, RELAXED), **self.admission.stats(), **self.content.stats()}
