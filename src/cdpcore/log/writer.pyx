"""Finished frames written to their segments, and the segments made durable.

A thread that needs I/O does it: it leads, and those that come meanwhile wait for what it does, or lead next. Writing
and syncing have leaders of their own, so a sync keeps no write waiting: a datasync took up to 220 ms on a device that
takes 1 GiB/s meanwhile.

The leader of writing has up to DEPTH frames in flight (four writes of 4 MiB at a time reach 1,696 MiB/s where one
reaches 998), and submits what is finished meanwhile. It leaves as soon as what it needs is written; who leads next
takes over what is in flight. A lone frame is written by a blocking call, which costs one system call less. A thread
that goes on to sync starts what it needs only: Linux completes an operation in the context of the thread that submitted
it, which is not before a blocking call such as a datasync returns.

In space that was allocated and never written, a small durable append changes metadata of the file system, which its
sync has to write: fio, 8 KiB and a datasync, 4,700 a second there and 7,900 over zeros. So while syncs are small, zeros
are written some MiB ahead of the tail. A stream goes into fresh space, so that nothing is written twice.

Invariants
 1. ring.written, written_seq and durable_seq only grow. Frames complete in any order, but `written` has no gap: all
    before it is in a file. Everything before durable_seq is durable.
 2. A sync covers what was written, as in 1, when it began, and no more.
 3. The older of two segments is synced first: what a crash leaves is a prefix.
 4. A failed write or sync is sticky (FrameRing.failed): nothing is written or durable after it. A leader that fails
    leaves nothing in flight.
 5. The slot, the handle and the io of a frame in flight stay as they are until it is written: a slot is not reused, a
    segment not closed before.
 6. Zeros are written behind all frames that are finished when they begin; a frame that comes to lie under them waits
    for their end. What they replace reads as zeros as well: they need no sync, and a crash finds the same without them.

Threading: any thread; see the fields.
"""
cimport cython
from libc.errno cimport EIO, ENOMEM
from libc.stdint cimport int64_t
from cdpcore.base.clock cimport cdp_monotonic_ns
from cdpcore.base.bell cimport ring
from cdpcore.base.format cimport CDP_BLOCK
from cdpcore.base.stages cimport CDP_STAGE_LOG_SYNC, CDP_STAGE_LOG_WRITE, cdp_stage_add
from cdpcore.base.status cimport CDP_OK, cdp_fail_os
from cdpcore.base.thread cimport (cdp_cond_init, pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_signal,
                                  pthread_cond_wait, pthread_mutex_lock, pthread_mutex_unlock)
from cdpcore.log.frame cimport cdp_frame_sums
from cdpcore.log.ring cimport ring_frame
from cdpcore.log.segments cimport segment
from cdpcore.system.io_queue cimport CDP_IO_WRITE, cdp_io


cdef enum:
    DEPTH = 8               # frames in flight
    BREAK_SYNC = 1          # see LogWriter.break_rule
    BREAK_GAP = 2
    BREAK_ZEROS = 4
    BREAK_UNSYNCED = 8
    SMALL_SYNCS = 4         # in a row: then zeros pay
    SMALL_BYTES = 256 << 10
    ZERO_BYTES = 4 << 20    # written ahead at once, or an eighth of a segment: metadata changes once for it
    ZERO_GAP = 64 << 10     # behind the tail: for frames that finish meanwhile; or an eighth of what is written

RULES = {"sync": BREAK_SYNC, "gap": BREAK_GAP, "zeros": BREAK_ZEROS, "unsynced": BREAK_UNSYNCED}


@cython.no_gc_clear   # what is in flight ends in __dealloc__
cdef class LogWriter:
    """Made by Log. ring, files: what is written and where; stages: where the time is counted; durable_seq: the last
    record of the log so far."""

    def __cinit__(self, FrameRing ring not None, LogFiles files not None, Stages stages not None,
                  uint64_t durable_seq):
        cdp_cond_init(&self.work)
        cdp_cond_init(&self.shipped)
        self.ring = ring
        self.files = files
        self.stages = stages
        self.os = files.os
        self.table = files.table
        self.written_seq = self.durable_seq = durable_seq
        self.written_whole = self.durable_whole = durable_seq
        self.zero_bytes = min(files.segment_bytes // 8, <uint64_t>ZERO_BYTES) // CDP_BLOCK * CDP_BLOCK
        self.zero_gap = min(self.zero_bytes // 8, <uint64_t>ZERO_GAP) // CDP_BLOCK * CDP_BLOCK

    def __dealloc__(self):
        cdef cdp_status st
        while self.in_flight:
            self.finish_some(&st)
        if self.queue != NULL:
            self.table.free_queue(self.table.ctx, self.queue)
        if self.zeros != NULL:
            self.table.free_pages(self.table.ctx, self.zeros, self.zero_bytes)
        pthread_cond_destroy(&self.shipped)
        pthread_cond_destroy(&self.work)

    def break_rule(self, rule: str):
        """For tests of the tests: from now on a sync covers frames that are in flight ("sync"), `written` goes over a
        gap ("gap"), frames do not wait for zeros, which come late ("zeros"), or nothing is synced ("unsynced")."""
        self.broken |= <uint32_t>RULES[rule]

    cdef void note_failure(self, int rc, const cdp_status *st) noexcept nogil:
        if rc != CDP_OK:
            self.ring.note_failure(st.sys_errno, st.where)

    cdef void call(self) noexcept nogil:
        pthread_cond_signal(&self.work)
        # What there is was queued under the io lock, and `attended` is cleared under it by who finds nothing.
        if not self.attended and not self.files.inline_maintenance:
            ring()

    # --- writing ------------------------------------------------------------------------------------------------------

    cdef int write(self, uint64_t upto, bint more, cdp_status *st) noexcept nogil:
        cdef int rc = CDP_OK
        pthread_mutex_lock(&self.ring.mutex)
        while rc == CDP_OK and not self.reached(upto, more):
            if self.ring.failed:
                pthread_mutex_unlock(&self.ring.mutex)
                return self.ring.fail_sticky(st)
            if self.write_busy:
                pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
                continue
            self.write_busy = True
            pthread_mutex_unlock(&self.ring.mutex)
            rc = self.write_frames(upto, more, st)
            pthread_mutex_lock(&self.ring.mutex)
            self.write_busy = False
            self.note_failure(rc, st)
            if self.ring.queued > self.ring.written:
                self.call()
            pthread_cond_broadcast(&self.ring.changed)
        pthread_mutex_unlock(&self.ring.mutex)
        return rc

    cdef void drain(self) noexcept nogil:
        cdef cdp_status st
        cdef int rc = CDP_OK
        pthread_mutex_lock(&self.ring.mutex)
        while self.write_busy:
            pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
        self.write_busy = True
        pthread_mutex_unlock(&self.ring.mutex)
        while self.in_flight:
            rc = self.finish_some(&st) or rc
        pthread_mutex_lock(&self.ring.mutex)
        self.write_busy = False
        self.note_failure(rc, &st)
        pthread_cond_broadcast(&self.ring.changed)
        pthread_mutex_unlock(&self.ring.mutex)

    cdef bint reached(self, uint64_t upto, bint more) noexcept nogil:
        """Of the leader, or io lock held."""
        if self.broken & BREAK_SYNC and not more and self.submitted >= upto and \
                self.ring.at(upto - 1).f.segment == self.files.current.number:
            return True
        return self.ring.written >= upto

    cdef int write_frames(self, uint64_t upto, bint more, cdp_status *st) noexcept nogil:
        cdef cdp_status other
        cdef uint64_t end = upto
        cdef int rc = CDP_OK, failed
        while rc == CDP_OK and not self.reached(upto, more):
            pthread_mutex_lock(&self.ring.mutex)
            if more:
                end = self.ring.queued
            while self.under_zeros(end):
                pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
            failed = self.ring.failed
            pthread_mutex_unlock(&self.ring.mutex)
            rc = self.ring.fail_sticky(st) if failed else self.start_some(end, st)
            if rc == CDP_OK and self.in_flight and not self.reached(upto, more):
                rc = self.finish_some(st)
        while rc != CDP_OK and self.in_flight:
            self.finish_some(&other)
        return rc

    cdef int start_some(self, uint64_t end, cdp_status *st) noexcept nogil:
        """Frames [submitted, end), as many as may be in flight."""
        cdef ring_frame *r
        cdef uint64_t n = end - self.submitted if end > self.submitted else 0, i, now
        cdef uint32_t taken
        if n == 1 and not self.in_flight:
            return self.write_one(st)
        if self.queue == NULL and not self.no_queue:
            self.queue = self.table.queue(self.table.ctx, DEPTH)
            self.no_queue = self.queue == NULL
        n = min(n, <uint64_t>(DEPTH - self.in_flight))
        if n == 0:
            return CDP_OK
        if self.queue != NULL:
            now = cdp_monotonic_ns()
            for i in range(n):
                r = self.ring.at(self.submitted + i)
                cdp_frame_sums(&r.f, r.sums)
                r.began_ns = now
                r.io.op = CDP_IO_WRITE
                r.io.durable = 0
                r.io.fd = r.fd
                r.io.buf = r.f.slot
                r.io.n = r.f.total_bytes
                r.io.off = r.f.file_off
                r.io.owner = r
                r.io.next = &self.ring.at(self.submitted + i + 1).io if i + 1 < n else NULL
            taken = self.table.submit(self.table.ctx, self.queue, &self.ring.at(self.submitted).io, <uint32_t>n)
            self.submitted += taken
            self.in_flight += taken
            if self.in_flight:
                return CDP_OK
        return self.write_one(st)

    cdef int write_one(self, cdp_status *st) noexcept nogil:
        """The next frame; nothing is in flight."""
        cdef ring_frame *r = self.ring.at(self.submitted)
        cdef uint64_t began
        cdef int64_t rc
        cdp_frame_sums(&r.f, r.sums)
        began = cdp_monotonic_ns()
        rc = self.table.pwrite(self.table.ctx, r.fd, r.f.slot, r.f.total_bytes, r.f.file_off)
        if rc < 0:
            return cdp_fail_os(st, rc, r.f.file_off, b"writing the log")
        cdp_stage_add(self.stages.s, CDP_STAGE_LOG_WRITE, cdp_monotonic_ns() - began)
        r.complete = True
        self.submitted += 1
        self.advance()
        return CDP_OK

    cdef int finish_some(self, cdp_status *st) noexcept nogil:
        """Waits for some of what is in flight. A failure: of one of them at least."""
        cdef cdp_io *done[DEPTH]
        cdef ring_frame *r
        cdef uint64_t k, now
        cdef uint32_t n = self.table.complete(self.table.ctx, self.queue, done, DEPTH, 1), i
        cdef int rc = CDP_OK
        if n == 0:      # in the child of a fork
            self.in_flight = 0
            return cdp_fail_os(st, -EIO, 0, b"writing the log")
        self.in_flight -= n
        now = cdp_monotonic_ns()
        for i in range(n):
            r = <ring_frame *>done[i].owner
            if done[i].result < 0:
                rc = cdp_fail_os(st, done[i].result, r.f.file_off, b"writing the log")
                continue
            cdp_stage_add(self.stages.s, CDP_STAGE_LOG_WRITE, now - r.began_ns)
            r.complete = True
            k = self.ring.written
            while self.broken & BREAK_GAP and k < self.submitted and self.ring.at(k) != r:
                self.ring.at(k).complete = True
                k += 1
        self.advance()
        return rc

    cdef void advance(self) noexcept nogil:
        """Over the frames that are complete, up to the first that is not."""
        cdef ring_frame *r
        cdef bint some = False
        pthread_mutex_lock(&self.ring.mutex)
        while self.ring.written < self.submitted and self.ring.at(self.ring.written).complete:
            r = self.ring.at(self.ring.written)
            self.ring.written += 1
            self.written_seq = r.whole_seq      # half a record is neither written nor durable
            if r.whole_seq == r.f.last_seq:
                self.written_segment = r.f.segment
                self.written_end = r.f.file_off + r.f.total_bytes
                self.written_whole = r.whole_seq
            if r.f.segment == self.files.current.number:
                self.files.current_dirty = True
            else:
                self.files.sealing_dirty = True
            self.bytes_written += r.f.total_bytes
            self.frames_written += 1
            some = True
        if some:
            pthread_cond_broadcast(&self.ring.changed)
        pthread_mutex_unlock(&self.ring.mutex)

    # --- making durable -----------------------------------------------------------------------------------------------

    cdef int sync(self, uint64_t seq, cdp_status *st) noexcept nogil:
        cdef uint64_t covered, end, whole
        cdef uint32_t segment_number
        cdef int old_fd, new_fd, rc = CDP_OK
        pthread_mutex_lock(&self.ring.mutex)
        while rc == CDP_OK and self.durable_seq < seq:
            if self.ring.failed:
                pthread_mutex_unlock(&self.ring.mutex)
                return self.ring.fail_sticky(st)
            if self.sync_busy:
                pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
                continue
            self.sync_busy = True
            self.small_syncs = self.small_syncs + 1 if self.bytes_written - self.synced_bytes < SMALL_BYTES else 0
            self.synced_bytes = self.bytes_written
            covered = self.written_seq
            segment_number, end, whole = self.written_segment, self.written_end, self.written_whole
            if self.broken & BREAK_SYNC and self.submitted > self.ring.written:
                covered = self.ring.at(self.submitted - 1).whole_seq
            # Neither is closed before this sync ends: a segment is sealed when its last record is durable.
            old_fd = self.files.sealing.fd if self.files.sealing_dirty else -1
            new_fd = self.files.current.fd if self.files.current_dirty else -1
            self.files.sealing_dirty = self.files.current_dirty = False
            pthread_mutex_unlock(&self.ring.mutex)
            rc = self.sync_segments(old_fd, new_fd, st)
            pthread_mutex_lock(&self.ring.mutex)
            self.sync_busy = False
            self.note_failure(rc, st)
            if not self.ring.failed:
                self.durable_seq = covered
                self.durable_segment, self.durable_end, self.durable_whole = segment_number, end, whole
                self.syncs += 1
                if self.shipping:
                    pthread_cond_broadcast(&self.shipped)
            if self.wants_zeros():
                self.call()
            pthread_cond_broadcast(&self.ring.changed)
        pthread_mutex_unlock(&self.ring.mutex)
        return rc

    cdef int sync_segments(self, int old_fd, int new_fd, cdp_status *st) noexcept nogil:
        cdef uint64_t began = cdp_monotonic_ns()
        cdef int rc = 0
        if self.broken & BREAK_UNSYNCED:
            return CDP_OK
        if old_fd >= 0:
            rc = self.table.datasync(self.table.ctx, old_fd)
        if rc >= 0 and new_fd >= 0:
            rc = self.table.datasync(self.table.ctx, new_fd)
        cdp_stage_add(self.stages.s, CDP_STAGE_LOG_SYNC, cdp_monotonic_ns() - began)
        return CDP_OK if rc >= 0 else cdp_fail_os(st, rc, 0, b"making the log durable")

    # --- zeros ahead of the tail --------------------------------------------------------------------------------------

    cdef bint wants_zeros(self) noexcept nogil:
        cdef const segment *s = &self.files.current
        return self.small_syncs >= SMALL_SYNCS and s.number != 0 and not self.zero_segment and not self.no_zeros and \
            s.zeroed_bytes < s.allocated_bytes and s.zeroed_bytes < s.tail_bytes + self.zero_bytes // 4 and \
            not self.ring.failed

    cdef bint under_zeros(self, uint64_t end) noexcept nogil:
        cdef const ring_frame *r
        cdef uint64_t k
        if not self.zero_segment or self.broken & BREAK_ZEROS:
            return False
        for k in range(self.submitted, end):
            r = self.ring.at(k)
            if r.f.segment == self.zero_segment and r.f.file_off < self.zero_to and \
                    r.f.file_off + r.f.total_bytes > self.zero_from:
                return True
        return False

    cdef void write_zeros(self) noexcept nogil:
        cdef segment *s = &self.files.current
        cdef int64_t rc = 0
        cdef int fd
        cdef bint late = False
        pthread_mutex_lock(&self.ring.mutex)
        if self.wants_zeros():
            self.zero_segment = s.number
            self.zero_from = max(s.zeroed_bytes, s.tail_bytes + self.zero_gap)
            self.zero_to = min(self.zero_from + self.zero_bytes, s.allocated_bytes)
            late = self.broken & BREAK_ZEROS
        elif self.broken & BREAK_ZEROS and self.zero_segment != s.number:
            self.zero_segment = 0
        if late or not self.zero_segment:
            pthread_mutex_unlock(&self.ring.mutex)
            return
        fd = s.fd       # not closed before zero_segment is 0 again
        pthread_mutex_unlock(&self.ring.mutex)
        if self.zeros == NULL:
            self.zeros = <uint8_t *>self.table.pages(self.table.ctx, self.zero_bytes)
            rc = 0 if self.zeros != NULL else -ENOMEM
        if rc >= 0 and self.zero_from < self.zero_to:
            rc = self.table.pwrite(self.table.ctx, fd, self.zeros, self.zero_to - self.zero_from, self.zero_from)
        pthread_mutex_lock(&self.ring.mutex)
        self.no_zeros = rc < 0
        if s.number == self.zero_segment:
            s.zeroed_bytes = self.zero_to
            self.zeros_written += self.zero_to - min(self.zero_from, self.zero_to)
        self.zero_segment = 0
        pthread_cond_broadcast(&self.ring.changed)
        pthread_mutex_unlock(&self.ring.mutex)

    cdef void wait_zeros(self, uint32_t segment) noexcept nogil:
        pthread_mutex_lock(&self.ring.mutex)
        while self.zero_segment == segment and not self.broken & BREAK_ZEROS:
            pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
        pthread_mutex_unlock(&self.ring.mutex)
