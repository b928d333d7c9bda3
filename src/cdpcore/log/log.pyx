"""The log: records -> frames in slots -> large direct writes, group commit.

A frame is the group commit: it fills while an earlier one is being written, and is closed when it is full, when a
caller waits for durability, or after the commit interval. In the log, the thread that waits does the I/O
(cdpcore.log.writer); the writer thread only keeps the device busy meanwhile.

Invariants
 1. Records are appended in seq order; frames are written in order; durable_seq only grows. So what a crash leaves is a
    prefix in seq order that holds everything that was flushed.
 2. The log numbers and dates records: seq is one more than the last one's, ts as cdpcore.log.clock_steps says. Versions
    has the last record that is visible: between append_record() and publish() that is the one before.
 3. The current segment and the current extent tree belong together: they are exchanged under one append lock.
 4. After a failed write or sync nothing more is appended or acknowledged (the kernel may have dropped the pages): the
    failure is sticky until the volume is opened again, which recovers from what is on disk. Running out of space while
    a segment is created is not such a failure: nothing was lost, and the next write may succeed; flushes, bookmarks and
    restores go into what writes leave of the open segment, or into the reserve.
"""
from os import strerror
from libc.errno cimport EBUSY, ENOMEM, EROFS
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from cdpcore.base.clock cimport cdp_monotonic_ms, cdp_monotonic_ns
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport (CDP_BLOCK, CDP_KIND_TRIM, CDP_KIND_WRITE, CDP_REC_MORE, cdp_frame_entry,
                                  cdp_kind_changes, cdp_loc, cdp_loc_is_data)
from cdpcore.base.stages cimport CDP_STAGE_COMMIT, Stages, cdp_stage_add
from cdpcore.base.status cimport CDP_NOSPACE, CDP_OK, CDP_UNAVAILABLE, cdp_fail, cdp_fail_os
from cdpcore.base.thread cimport (cdp_cond_init, cdp_cond_wait_ms, pthread_cond_broadcast, pthread_cond_destroy,
                                  pthread_cond_signal, pthread_cond_wait, pthread_mutex_destroy, pthread_mutex_init,
                                  pthread_mutex_lock, pthread_mutex_trylock, pthread_mutex_unlock)
from cdpcore.index.versions cimport change
from cdpcore.log.activity cimport cdp_activity, cdp_activity_add, cdp_activity_start
from cdpcore.log.clock_steps cimport ClockSteps
from cdpcore.log.frame cimport (CDP_FRAME_TAIL_BYTES, cdp_frame_add, cdp_frame_bound, cdp_frame_finish, cdp_frame_fits,
                                cdp_frame_size_with, cdp_frame_start)
from cdpcore.log.pace cimport KEPT_SHARE, RUN_BYTES
from cdpcore.log.record cimport MAX_PARTS, ROOM_EVENT, ROOM_WRITE
from cdpcore.log.rewrites cimport cdp_rewrites_add
from cdpcore.log.ring cimport ring_frame
from cdpcore.log.segment cimport cdp_segment_seal_bytes
from cdpcore.log.segments cimport segment


cdef enum:
    HELD_READ_ONLY = 1
    HELD_IMPORT = 2
    HELD_MOVED = 4
    LOOK_MS = 30_000        # how often run_writer() looks for memory that is idle

cdef uint64_t NOW = 0xFFFFFFFFFFFFFFFF     # later than any record
cdef const char *MOVED = b"the volume's folder or disk was moved or deleted while it is open, or cut short"


cdef class Log:
    """The log of one volume.

    Args:
        os, ring: where it runs and what it builds frames in; both are kept. The ring is of this log only.
        versions: its index; says what the last record is.
        directory: VOLUME/log, must exist.
        last_flush_seq: the last flush in the log so far, or 0.
        of_files: as LogFiles.
    Threading: the def methods are for the maintenance and writer threads and for the owner; they release the GIL.
    """

    def __cinit__(self, Os os not None, FrameRing ring not None, Versions versions not None, directory: str, *,
                  uint64_t last_flush_seq, **of_files):
        pthread_mutex_init(&self.append_mutex, NULL)
        pthread_mutex_init(&self.counting, NULL)
        cdp_cond_init(&self.rounds)
        self.os = os
        self.table = os.table
        self.versions = versions
        self.ring = ring
        self.clock = ClockSteps()
        self.files = LogFiles(os, self.ring, directory, **of_files)
        self.stages = Stages()
        self.writer = LogWriter(self.ring, self.files, self.stages, versions.visible_seq)
        cdef uint64_t size = self.files.segment_bytes
        self.kept_free_bytes = max(size // 16, min(size // 8, <uint64_t>(128 << 10)))
        self.last_bytes = min(self.kept_free_bytes // 4, <uint64_t>(64 << 10))
        self.last_seq = versions.visible_seq
        self.last_ts_ns = versions.visible_ts_ns
        self.flush_seq = last_flush_seq

    def __dealloc__(self):
        pthread_cond_destroy(&self.rounds)
        pthread_mutex_destroy(&self.counting)
        pthread_mutex_destroy(&self.append_mutex)
        free(self.rewrites)

    cdef void lock_append(self) noexcept nogil:
        pthread_mutex_lock(&self.append_mutex)

    cdef void unlock_append(self) noexcept nogil:
        pthread_mutex_unlock(&self.append_mutex)

    # --- appending (append lock held) --------------------------------------------------------------------------------

    cdef int append_record(self, part *parts, uint32_t n, room kind, uint64_t *seq, cdp_status *st) noexcept nogil:
        cdef uint64_t data_bytes = 0, ts_ns
        cdef uint32_t i
        cdef int rc
        for i in range(n):
            data_bytes += parts[i].data_bytes
        rc = self.make_room(data_bytes, kind, st)
        if rc == CDP_OK:
            seq[0] = self.last_seq + 1
            ts_ns = self.table.now_ns(self.table.ctx)
            if ts_ns <= self.last_ts_ns:
                ts_ns = self.clock.date(ts_ns, self.last_ts_ns)
            for i in range(n):
                rc = self.append_part(&parts[i], seq[0], ts_ns, i + 1 < n, st)
                if rc != CDP_OK:
                    if i:       # a part of it is in the log
                        self.ring.fail(st.sys_errno, st.where)
                    break
        if rc != CDP_OK:
            seq[0] = 0      # the next record may get it
            return rc
        if ts_ns <= self.last_ts_ns:
            self.clock.note(seq[0], self.last_ts_ns, ts_ns)
        if self.files.current.last_seq < self.files.current.first_seq:
            self.files.current.first_seq = seq[0]
            self.files.current.first_ts_ns = ts_ns
        self.unframed_bytes += data_bytes
        self.files.current.last_seq = self.last_seq = seq[0]
        self.files.current.last_ts_ns = self.last_ts_ns = ts_ns
        self.unflushed = self.flush_seq != seq[0]
        self.count(parts, n, seq[0], ts_ns)
        return CDP_OK

    cdef void count(self, const part *parts, uint32_t n, uint64_t seq, uint64_t ts_ns) noexcept nogil:
        """Into the activity of the current segment. Without memory for that there is none: it is made later then."""
        cdef cdp_activity *a = self.files.current.activity
        cdef uint64_t sectors = 0, held = 0
        cdef uint16_t kind = 0
        cdef uint32_t i
        for i in range(n):
            sectors += parts[i].end - parts[i].start
            held += parts[i].data_bytes // 512
            kind = max(kind, parts[i].kind)
        if self.rewrites != NULL and CDP_KIND_WRITE <= kind <= CDP_KIND_TRIM:
            cdp_rewrites_add(self.rewrites, kind != CDP_KIND_WRITE, parts[0].start, parts[0].start + sectors)
        if a == NULL:
            if self.files.current.first_seq != seq:
                return
            a = <cdp_activity *>malloc(sizeof(cdp_activity))
            if a == NULL:
                return
            cdp_activity_start(a, self.files.volume_bytes // 512, self.files.before)
            pthread_mutex_lock(&self.ring.mutex)
            self.files.current.activity = a
            pthread_mutex_unlock(&self.ring.mutex)
        pthread_mutex_lock(&self.counting)
        cdp_activity_add(a, seq, ts_ns, kind, parts[0].start, sectors, held)
        pthread_mutex_unlock(&self.counting)

    cdef void publish(self, const part *parts, uint32_t n) noexcept nogil:
        """Parts whose data lie one behind the other become one extent."""
        cdef change changes[MAX_PARTS]
        cdef change *last
        cdef uint32_t n_changes = 0, i
        for i in range(n):
            if parts[i].loc == 0 or not cdp_kind_changes(parts[i].kind):
                continue
            last = &changes[n_changes - 1] if n_changes else NULL
            if last != NULL and cdp_loc_is_data(parts[i].loc) and last.end == parts[i].start and \
                    last.loc + (last.end - last.start) == parts[i].loc:
                last.end = parts[i].end
            else:
                changes[n_changes].start = parts[i].start
                changes[n_changes].end = parts[i].end
                changes[n_changes].loc = parts[i].loc
                n_changes += 1
        self.versions.add(self.last_seq, self.last_ts_ns, changes, n_changes)

    cdef uint64_t added_bytes(self) noexcept nogil:
        return (<const volatile uint64_t *>&self.framed_bytes)[0] + (<const volatile uint64_t *>&self.unframed_bytes)[0]

    cdef int make_room(self, uint64_t data_bytes, room kind, cdp_status *st) noexcept nogil:
        """Room for a whole record of so much data in the current segment and tree, or in the next ones."""
        cdef int held = (<const volatile int *>&self.held)[0], rc
        if self.ring.failed:
            return self.ring.fail_sticky(st)
        if held & HELD_MOVED:
            return cdp_fail(st, CDP_UNAVAILABLE, EBUSY, 0, MOVED)
        if held:
            return cdp_fail(st, CDP_UNAVAILABLE, EROFS if held & HELD_READ_ONLY else EBUSY, 0,
                            b"the volume is open read-only" if held & HELD_READ_ONLY else
                            b"the base of the volume is being filled")
        if self.has_room(data_bytes, kind) and (kind != ROOM_WRITE or self.versions.has_room(MAX_PARTS)):
            rc = self.allocated(data_bytes, kind, st)
            # Without space to grow there may be a spare, and for events the reserve.
            if rc != CDP_NOSPACE or not self.frame_open and not self.files.current.n_frames or \
                    kind == ROOM_WRITE and not self.files.spare.number:
                return rc
        rc = self.next_segment(kind, st)
        return rc if rc != CDP_OK else self.allocated(data_bytes, kind, st)

    cdef int flushed(self, cdp_status *st) noexcept nogil:
        """A flush that finds nothing to do: all is durable, but maybe not where the client takes it to be."""
        if (<const volatile int *>&self.held)[0] & HELD_MOVED:
            return cdp_fail(st, CDP_UNAVAILABLE, EBUSY, 0, MOVED)
        return CDP_OK

    cdef bint has_room(self, uint64_t data_bytes, room kind) noexcept nogil:
        cdef const segment *s = &self.files.current
        cdef uint64_t slot = self.ring.slot_bytes, used = s.tail_bytes, frames
        if s.number == 0:
            return False
        if kind == ROOM_WRITE:
            if s.capacity_bytes < self.files.segment_bytes:
                return False        # the reserve
            if used == CDP_BLOCK and not self.frame_open:
                return True         # an empty segment takes the longest request
            if self.frame_open:
                used += cdp_frame_bound(&self.ring.last().f)
            frames = 2 * (data_bytes // (slot - CDP_BLOCK - CDP_FRAME_TAIL_BYTES) + 1)  # they may be left half empty
            return used + frames * slot + self.kept_free_bytes <= self.files.segment_bytes
        return self.event_end(data_bytes, kind) <= s.capacity_bytes

    cdef int allocated(self, uint64_t data_bytes, room kind, cdp_status *st) noexcept nogil:
        """What a record for which the current segment has room needs of its file, and has to leave there, is."""
        cdef uint64_t end = self.write_end(data_bytes) if kind == ROOM_WRITE else self.event_end(data_bytes, kind)
        end = min(end, self.files.current.capacity_bytes)
        if end > self.files.current.allocated_bytes:
            return self.files.reach(end, st)
        self.files.ask_growth(end)
        return CDP_OK

    cdef uint64_t event_end(self, uint64_t data_bytes, room kind) noexcept nogil:
        cdef const segment *s = &self.files.current
        cdef uint64_t end = s.tail_bytes
        if self.frame_open:
            end += cdp_frame_size_with(&self.ring.last().f, <uint32_t>data_bytes)
        end += CDP_BLOCK + (data_bytes + CDP_BLOCK - 1) // CDP_BLOCK * CDP_BLOCK        # it may need a frame of its own
        end += cdp_segment_seal_bytes(end, s.n_frames + 4)
        if kind == ROOM_EVENT and s.capacity_bytes == self.files.segment_bytes:
            end += self.last_bytes
        return end

    cdef uint64_t write_end(self, uint64_t data_bytes) noexcept nogil:
        """With what it leaves to events, and to the run, which can be written when the file is cut behind its end."""
        cdef const segment *s = &self.files.current
        cdef uint64_t end = s.tail_bytes, records = s.last_seq + 1 - s.first_seq, kept
        # One more where a part does not fit into what is left of a frame; each has a header and its data padded.
        cdef uint64_t frames = 2 * (data_bytes // (self.ring.slot_bytes - CDP_BLOCK - CDP_FRAME_TAIL_BYTES) + 1)
        if self.frame_open:
            end += cdp_frame_size_with(&self.ring.last().f, 0) + CDP_BLOCK      # its tail may grow by a block
        end += data_bytes + frames * 2 * CDP_BLOCK
        end += cdp_segment_seal_bytes(end, s.n_frames + <uint32_t>frames + 4)
        kept = max(self.files.pace.least // KEPT_SHARE, max(s.tail_bytes // 16, records * RUN_BYTES))
        return end + min(kept, self.kept_free_bytes)

    cdef int next_segment(self, room kind, cdp_status *st) noexcept nogil:
        """The current segment and its tree wait for sealing; records go on in the next ones."""
        cdef bint first = self.files.current.number == 0
        cdef int rc
        self.close_frame()
        if self.ring.failed:
            return self.ring.fail_sticky(st)
        self.writer.call()
        rc = self.files.next_segment(kind, st)
        return rc if rc != CDP_OK or first else self.seal_tree(st)

    cdef int seal_tree(self, cdp_status *st) noexcept nogil:
        """A segment was set aside for sealing: so is its tree. Then maintenance may begin with it."""
        if self.versions.swap_trees() != CDP_OK:
            self.ring.fail(ENOMEM, b"memory for an index tree")
            return cdp_fail_os(st, -ENOMEM, 0, b"extent tree of the next segment")
        self.files.publish_sealing()
        return CDP_OK

    cdef int append_part(self, part *p, uint64_t seq, uint64_t ts_ns, bint more, cdp_status *st) noexcept nogil:
        """One descriptor with its data."""
        cdef ring_frame *r
        cdef uint64_t loc
        cdef int rc
        if self.frame_open and not cdp_frame_fits(&self.ring.last().f, p.data_bytes):
            self.close_frame()
            if self.frame_open:                 # no memory to note it
                return self.ring.fail_sticky(st)
            self.writer.call()     # full: the writer thread can write it while we go on
        if not self.frame_open:
            rc = self.open_frame(p.data_bytes, st)
            if rc != CDP_OK:
                return rc
        r = self.ring.last()
        if r.f.used_bytes % CDP_BLOCK == 0:     # its blocks are those of the file
            if p.sums != NULL:
                memcpy(r.sums + r.f.used_bytes // CDP_BLOCK, p.sums, p.data_bytes // CDP_BLOCK * sizeof(uint32_t))
            elif p.data_bytes == CDP_BLOCK:
                r.sums[r.f.used_bytes // CDP_BLOCK] = p.crc
        loc = cdp_frame_add(&r.f, seq, ts_ns, p.start, p.end - p.start, p.kind,
                            p.flags | (CDP_REC_MORE if more else 0), p.data, p.data_bytes, p.crc)
        if p.data_bytes:
            p.loc = loc
        self.flush_seq = r.f.flush_seq
        if not more:
            r.whole_seq = seq
        return CDP_OK

    cdef int open_frame(self, uint64_t data_bytes, cdp_status *st) noexcept nogil:
        """Its first record is the one that is being appended."""
        cdef ring_frame *r = self.ring.at(self.ring.opened)
        cdef const segment *s = &self.files.current
        cdef uint64_t upto
        cdef int rc
        pthread_mutex_lock(&self.ring.mutex)
        while not self.ring.make_room(cdp_loc(s.number, s.tail_bytes), CDP_BLOCK + data_bytes + CDP_FRAME_TAIL_BYTES):
            if self.ring.failed:
                pthread_mutex_unlock(&self.ring.mutex)
                return self.ring.fail_sticky(st)
            upto = self.ring.in_the_way()
            if not upto and not self.ring.slots.n:
                pthread_mutex_unlock(&self.ring.mutex)
                return cdp_fail_os(st, -ENOMEM, 0, b"memory for a frame of the log")
            if self.writer.write_busy or not upto:
                pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
                continue
            pthread_mutex_unlock(&self.ring.mutex)
            rc = self.writer.write(upto, True, st)
            if rc != CDP_OK:
                return rc
            pthread_mutex_lock(&self.ring.mutex)
        cdp_frame_start(&r.f, self.ring.place(r), <uint32_t>(self.ring.slot_bytes - self.ring.covered_bytes),
                        s.number, s.n_frames, s.tail_bytes, s.salt, self.last_seq + 1, self.flush_seq)
        r.fd = s.fd
        r.sums = s.sums + s.tail_bytes // CDP_BLOCK
        r.whole_seq = self.last_seq
        self.frame_open = True
        pthread_mutex_unlock(&self.ring.mutex)
        return CDP_OK

    cdef void close_frame(self) noexcept nogil:
        cdef ring_frame *r
        cdef segment *s = &self.files.current
        cdef cdp_frame_entry *grown
        if not self.frame_open:
            return
        r = self.ring.last()
        if r.f.n_desc == 0:
            return
        pthread_mutex_lock(&self.ring.mutex)    # throughout: cdpcore.log.tail reads descriptors and directory
        if s.n_frames == s.frames_cap:
            grown = <cdp_frame_entry *>realloc(s.frames, (2 * s.frames_cap + 64) * sizeof(cdp_frame_entry))
            if grown == NULL:
                pthread_mutex_unlock(&self.ring.mutex)
                self.ring.fail(ENOMEM, b"memory for the directory of a segment")
                return
            s.frames = grown
            s.frames_cap = 2 * s.frames_cap + 64
        cdp_frame_finish(&r.f, self.writer.durable_seq)
        s.frames[s.n_frames].first_seq = r.f.first_seq
        s.frames[s.n_frames].first_ts_ns = r.f.first_ts_ns
        s.frames[s.n_frames].flush_seq = r.f.flush_seq
        s.frames[s.n_frames].offset_blocks = <uint32_t>(r.f.file_off // CDP_BLOCK)
        s.frames[s.n_frames].n_desc = r.f.n_desc
        s.n_frames += 1
        s.tail_bytes += r.f.total_bytes
        self.framed_bytes += r.f.total_bytes
        self.unframed_bytes = 0
        self.frame_open = False
        self.ring.finished()
        if self.files.wants_spare():
            self.files.call()
        pthread_mutex_unlock(&self.ring.mutex)

    # --- writing (no lock held) --------------------------------------------------------------------------------------

    cdef uint64_t durable(self) noexcept nogil:
        cdef uint64_t seq
        pthread_mutex_lock(&self.ring.mutex)
        seq = self.writer.durable_seq
        pthread_mutex_unlock(&self.ring.mutex)
        return seq

    cdef uint64_t written(self) noexcept nogil:
        return self.writer.written_seq      # a word that only grows: no lock

    cdef uint64_t queued(self) noexcept nogil:
        cdef uint64_t k
        pthread_mutex_lock(&self.ring.mutex)
        k = self.ring.queued
        pthread_mutex_unlock(&self.ring.mutex)
        return k

    cdef int wait_durable(self, uint64_t seq, cdp_status *st) noexcept nogil:
        """The first caller leads a round; those that come meanwhile share the next one: a frame and a sync for all of
        them, and one wake-up each."""
        cdef uint64_t began = 0
        cdef int rc = CDP_OK
        pthread_mutex_lock(&self.ring.mutex)
        while rc == CDP_OK and self.writer.durable_seq < seq:
            if not began:
                began = cdp_monotonic_ns()
            if self.round_busy:
                pthread_cond_wait(&self.rounds, &self.ring.mutex)
                continue
            if self.ring.failed:
                pthread_mutex_unlock(&self.ring.mutex)
                return self.ring.fail_sticky(st)
            self.round_busy = True
            pthread_mutex_unlock(&self.ring.mutex)
            if self.written() < seq:
                rc = self.write_record(seq, st)
            if rc == CDP_OK:
                rc = self.writer.sync(seq, st)
            pthread_mutex_lock(&self.ring.mutex)
            self.round_busy = False
            pthread_cond_broadcast(&self.rounds)
        pthread_mutex_unlock(&self.ring.mutex)
        if began:
            cdp_stage_add(self.stages.s, CDP_STAGE_COMMIT, cdp_monotonic_ns() - began)
        if self.files.inline_maintenance:
            self.writer.write_zeros()
        return rc

    cdef int write_record(self, uint64_t seq, cdp_status *st) noexcept nogil:
        self.lock_append()
        if self.frame_open and self.ring.last().f.first_seq <= seq:
            self.close_frame()
        self.unlock_append()
        return self.writer.write(self.queued(), False, st)

    cdef int write_out(self, uint64_t beyond, cdp_status *st) noexcept nogil:
        """Waits for what is being written; the open frame is closed early only where nothing is."""
        cdef bint enough
        pthread_mutex_lock(&self.ring.mutex)
        while self.writer.written_seq <= beyond and self.ring.queued > self.ring.written and self.writer.write_busy \
                and not self.ring.failed:
            pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
        enough = self.writer.written_seq > beyond
        pthread_mutex_unlock(&self.ring.mutex)
        return CDP_OK if enough else self.write_record(NOW, st)

    # --- threads -----------------------------------------------------------------------------------------------------

    def run_writer(self, uint32_t commit_interval_ms, uint32_t linger_ms, uint32_t turn_ms):
        """The writer thread: write finished frames at once, zeros ahead of the tail where they pay, and make everything
        durable and give back memory that is idle when that is due (wants_writer). Returns when there was nothing to do
        for `linger_ms`, after `turn_ms`, so that the thread can do the same for others, after stop(), or after a device
        failure."""
        cdef cdp_status st
        cdef uint64_t now, until, turn = cdp_monotonic_ms() + turn_ms
        cdef int rc = CDP_OK
        cdef bint commit, look, some
        with nogil:
            pthread_mutex_lock(&self.ring.mutex)
            self.ring.max_wait_ms = commit_interval_ms
            pthread_mutex_unlock(&self.ring.mutex)
            while rc == CDP_OK:
                pthread_mutex_lock(&self.ring.mutex)
                self.writer.attended = True
                now = cdp_monotonic_ms()
                until = min(now + linger_ms, turn)
                while True:
                    self.note_due(commit_interval_ms, 0)
                    commit = self.writer.commit_due_ms and now >= self.writer.commit_due_ms
                    some = commit or self.is_look_due(now) or self.has_frames() or self.writer.wants_zeros()
                    if some or self.ring.stopping or self.ring.failed or now >= until:
                        break
                    cdp_cond_wait_ms(&self.writer.work, &self.ring.mutex, <uint32_t>(until - now))
                    now = cdp_monotonic_ms()
                if self.ring.stopping or self.ring.failed or not some or now >= turn:
                    self.writer.attended = False
                    pthread_mutex_unlock(&self.ring.mutex)
                    break
                if commit:
                    self.writer.commit_due_ms = 0
                look = self.is_look_due(now)
                if look:
                    self.look_due_ms = 0
                pthread_mutex_unlock(&self.ring.mutex)
                if look:
                    self.ring.give_back()
                if commit:
                    rc = self.wait_durable(self.newest(), &st)
                else:
                    rc = self.writer.write(self.queued(), True, &st)
                    self.writer.write_zeros()
            if rc != CDP_OK:
                pthread_mutex_lock(&self.ring.mutex)
                self.writer.attended = False
                pthread_mutex_unlock(&self.ring.mutex)

    cdef bint has_frames(self) noexcept nogil:
        """io lock held: finished frames that nobody writes."""
        return self.ring.queued > self.ring.written and not self.writer.write_busy

    cdef void note_due(self, uint32_t interval_ms, uint32_t look_ms) noexcept nogil:
        """io lock held. Looked at every look_ms: what was appended since may be that old."""
        cdef uint64_t newest = (<const volatile uint64_t *>&self.last_seq)[0]   # a word: no append lock
        if not self.writer.commit_due_ms and interval_ms and newest > self.writer.durable_seq:
            self.writer.commit_due_ms = cdp_monotonic_ms() + interval_ms - min(look_ms, interval_ms - 1)

    cdef bint is_look_due(self, uint64_t now_ms) noexcept nogil:
        """io lock held: some of the log's memory may be idle."""
        if not self.ring.slots.n:
            self.look_due_ms = 0
        elif not self.look_due_ms:
            self.look_due_ms = now_ms + LOOK_MS
        return self.look_due_ms and now_ms >= self.look_due_ms

    def wants_writer(self, uint32_t commit_interval_ms, uint32_t look_ms):
        """Whether there is something for run_writer(), and no thread in it. To be asked every `look_ms`: what was
        appended since is durable after commit_interval_ms (0: only when asked)."""
        cdef bint wanted
        cdef uint64_t now
        with nogil:
            pthread_mutex_lock(&self.ring.mutex)
            now = cdp_monotonic_ms()
            self.note_due(commit_interval_ms, look_ms)
            wanted = not self.writer.attended and not self.ring.stopping and not self.ring.failed and (
                self.has_frames() or self.writer.wants_zeros() or self.is_look_due(now) or
                self.writer.commit_due_ms and now >= self.writer.commit_due_ms)
            pthread_mutex_unlock(&self.ring.mutex)
        return bool(wanted)

    def give_back(self):
        """Give back memory that was neither written nor read since the last call; run_writer() does so every
        LOOK_MS."""
        with nogil:
            self.ring.give_back()

    def stop(self):
        """Let the writer and maintenance threads return. Appending is over; flush first."""
        with nogil:
            pthread_mutex_lock(&self.ring.mutex)
            self.ring.stopping = True
            pthread_cond_broadcast(&self.ring.changed)
            pthread_cond_broadcast(&self.writer.work)
            pthread_cond_broadcast(&self.writer.shipped)
            pthread_mutex_unlock(&self.ring.mutex)
            self.writer.drain()

    def hold(self, why: str, bint on=True):
        """While any reason is on, every record is refused, as Unavailable. `why`: "read-only", "import" (the base is
        being filled) or "moved" (the folder, or the disk of before-images). At return no record is being appended;
        except for "moved", which the maintenance thread sets while an appender may be waiting for it."""
        cdef int reason = {"read-only": HELD_READ_ONLY, "import": HELD_IMPORT, "moved": HELD_MOVED}[why]
        with nogil:
            pthread_mutex_lock(&self.ring.mutex)
            self.held = self.held | reason if on else self.held & ~reason
            pthread_mutex_unlock(&self.ring.mutex)
            if reason != HELD_MOVED:
                self.lock_append()
                self.unlock_append()

    def set_aside(self, uint64_t seq=0xFFFFFFFFFFFFFFFF):
        """Give the open segment, if it has records up to `seq`, to maintenance for sealing, without beginning another;
        not while one waits for that already."""
        cdef cdp_status st
        with nogil:
            self.lock_append()
            if self.files.current.number and self.files.current.first_seq <= seq:
                self.close_frame()
                if self.files.put_aside():
                    self.seal_tree(&st)
            self.unlock_append()

    def cut_ahead(self):
        """Cut off what is allocated of the open segment beyond what its rate asks for. Waits for no lock: an appender
        that holds it may be waiting for this thread to seal."""
        cdef bint cut = False
        with nogil:
            if pthread_mutex_trylock(&self.append_mutex) == 0:
                pthread_mutex_lock(&self.ring.mutex)
                if not self.writer.zero_segment and not self.ring.failed and \
                        self.files.current.capacity_bytes == self.files.segment_bytes:
                    cut = self.files.begin_cut(self.write_end(0))
                pthread_mutex_unlock(&self.ring.mutex)
                self.unlock_append()
                if cut:
                    self.files.end_cut()

    # --- state -------------------------------------------------------------------------------------------------------

    def sync_all(self):
        """Make every record durable."""
        cdef cdp_status st
        cdef int rc
        with nogil:
            rc = self.wait_durable(self.newest(), &st)
        check(rc, &st, self.files.directory.decode())

    cdef uint64_t newest(self) noexcept nogil:
        """The last record; no lock held."""
        cdef uint64_t seq
        self.lock_append()
        seq = self.last_seq
        self.unlock_append()
        return seq

    def failure(self) -> str:
        """Which write or sync failed, after which nothing more is acknowledged, what to do, and why; "": none."""
        return f"{self.ring.failed_text.decode()}: {strerror(self.ring.failed)}" if self.ring.failed else ""

    def stats(self) -> dict:
        """Counters since opening: bytes and frames written, bytes of zeros written ahead of them, syncs; durable_seq;
        sticky failure errno; frames that are being written, and that are finished and not written yet; bytes in use of
        the segments that are not sealed, and bytes allocated of their files and a spare one."""
        cdef LogWriter w = self.writer
        return {"log_bytes_written": w.bytes_written, "frames_written": w.frames_written,
                "zero_bytes_written": w.zeros_written, "syncs": w.syncs, "durable_seq": w.durable_seq,
                "failed_errno": self.ring.failed,
                "frames_in_flight": w.in_flight, "frames_waiting": self.ring.queued - self.ring.written,
                "open_log_bytes": self.files.current.tail_bytes + self.files.sealing.tail_bytes,
                "allocated_log_bytes": self.files.current.allocated_bytes + self.files.sealing.allocated_bytes +
                self.files.spare.allocated_bytes}
