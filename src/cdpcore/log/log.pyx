"""The log: records -> frames in pool slots -> large direct writes, group commit.

A frame is the group commit: it fills while an earlier one is being written, and is closed when it is full, when somebody
waits for durability, or after the commit interval. Whoever needs I/O done does it (a flusher becomes the leader, an
appender without a free slot writes the oldest frame), so there is no hand-off to a thread on any path that a request
waits on; the writer thread only keeps the device busy while nobody has to wait.

Invariants
 1. Records are appended in seq order; frames are written in order; durable_seq only grows. So what a crash leaves is a
    prefix in seq order that holds everything that was flushed.
 2. After a failed write or sync nothing more is appended or acknowledged (the kernel may have dropped the pages): the
    failure is sticky until the volume is opened again, which recovers from what is on disk. Running out of space while a
    segment is created is not such a failure: nothing was lost, and the next write may succeed; flushes, bookmarks and restores
    go into what writes leave of the open segment, or into the reserve.
"""
cimport cython
from libc.errno cimport EBUSY, EIO, ENOMEM, EROFS
from libc.stdlib cimport realloc
from cdpcore.base.clock cimport cdp_monotonic_ms
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_BLOCK, CDP_REC_MORE, cdp_frame_entry
from cdpcore.base.status cimport CDP_OK, CDP_UNAVAILABLE, cdp_fail, cdp_fail_os
from cdpcore.base.thread cimport (cdp_cond_init, cdp_cond_wait_ms, pthread_cond_broadcast, pthread_cond_destroy,
                                  pthread_cond_signal, pthread_cond_wait, pthread_mutex_destroy, pthread_mutex_init,
                                  pthread_mutex_lock, pthread_mutex_unlock)
from cdpcore.log.frame cimport (CDP_FRAME_TAIL_BYTES, cdp_frame_add, cdp_frame_bound, cdp_frame_finish, cdp_frame_fits,
                                cdp_frame_size_with, cdp_frame_start)
from cdpcore.log.ring cimport ring_frame
from cdpcore.log.segments cimport ROOM_EVENT, ROOM_WRITE, segment
from cdpcore.system.os cimport Os


cdef enum:
    HELD_READ_ONLY = 1
    HELD_IMPORT = 2
    HELD_MOVED = 4


@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class Log(LogFiles):
    """The log of one volume. (Its files: logfiles.pyx.)

    Args:
        os, pool: where it runs and what it builds frames in; both are kept.
        directory: VOLUME/log, must exist.
        uuid: 16 bytes; volume_bytes, created_ns: go into every segment's header.
        segment_bytes: size of a segment file; at least 8 pool slots.
        next_number: number of the first segment it will create (> 0); next_seq: seq of the first record.
        last_flush_seq: the last flush in the log so far, or 0.
        reserve: path of the reserve file (it need not exist); "": none is used.
        before: its data are before-images.
    Threading: the def methods are for the maintenance and writer threads and for the owner; they release the GIL.
    """

    def __cinit__(self, Os os, BufferPool pool, directory, *, uint64_t next_seq, uint64_t last_flush_seq, **_of_files):
        self.pool = pool
        self.reserve_bytes = max(self.segment_bytes // 16, min(self.segment_bytes // 8, <uint64_t>(128 << 10)))
        self.last_bytes = min(self.reserve_bytes // 4, <uint64_t>(64 << 10))
        self.next_seq = next_seq
        self.flush_seq = last_flush_seq
        self.written_seq = self.durable_seq = next_seq - 1
        pthread_mutex_init(&self.append_mutex, NULL)
        cdp_cond_init(&self.work)

    def __dealloc__(self):
        pthread_cond_destroy(&self.work)
        pthread_mutex_destroy(&self.append_mutex)

    cdef void lock_append(self) noexcept nogil:
        pthread_mutex_lock(&self.append_mutex)

    cdef void unlock_append(self) noexcept nogil:
        pthread_mutex_unlock(&self.append_mutex)

    # --- appending (append lock held) --------------------------------------------------------------------------------

    cdef int make_room(self, uint64_t data_bytes, room kind, bint *rolled, cdp_status *st) noexcept nogil:
        """Make sure that a record of this size goes into the current segment as a whole; *rolled: a segment was set
        aside for sealing, and the caller must set its tree aside and call publish_sealing."""
        cdef int rc, held = (<const volatile int *>&self.held)[0]
        rolled[0] = False
        if self.failed:
            return self.fail_sticky(st)
        if held:
            return cdp_fail(st, CDP_UNAVAILABLE, EROFS if held & HELD_READ_ONLY else EBUSY, 0,
                            b"the volume is open read-only" if held & HELD_READ_ONLY else
                            b"the volume's folder was moved or deleted while it is open" if held & HELD_MOVED else
                            b"the base of the volume is being filled")
        if self.has_room(data_bytes, kind):
            return CDP_OK
        rolled[0] = self.current.number != 0
        rc = self.roll(kind, st)
        if rc != CDP_OK:
            rolled[0] = False
        return rc

    cdef bint has_room(self, uint64_t data_bytes, room kind) noexcept nogil:
        cdef uint64_t slot = self.pool.slot_bytes, used = self.current.tail_bytes, frames
        if self.current.number == 0:
            return False
        if kind == ROOM_WRITE:
            if self.current.capacity_bytes < self.segment_bytes:
                return False        # the reserve
            if used == CDP_BLOCK and not self.frame_open:
                return True         # an empty segment takes anything that the door lets in
            if self.frame_open:
                used += cdp_frame_bound(&self.ring.last().f)
            frames = 2 * (data_bytes // (slot - CDP_BLOCK - CDP_FRAME_TAIL_BYTES) + 1)      # they may be left half empty
            return used + frames * slot + self.reserve_bytes <= self.segment_bytes
        if self.frame_open:
            used += cdp_frame_size_with(&self.ring.last().f, <uint32_t>data_bytes)
        used += CDP_BLOCK + (data_bytes + CDP_BLOCK - 1) // CDP_BLOCK * CDP_BLOCK       # it may need a frame of its own
        used += (self.current.n_frames + 4) * sizeof(cdp_frame_entry) + 2 * CDP_BLOCK   # directory and trailer
        if kind == ROOM_EVENT and self.current.capacity_bytes == self.segment_bytes:
            used += self.last_bytes
        return used <= self.current.capacity_bytes

    cdef int append(self, uint64_t seq, uint64_t ts_ns, uint64_t start, uint64_t sectors, uint16_t kind, uint16_t flags,
                    const uint8_t *data, uint32_t data_bytes, uint32_t crc, uint64_t *loc, cdp_status *st) noexcept nogil:
        """One descriptor with its data (at most a quarter of a slot). make_room was called for the whole record."""
        cdef ring_frame *r
        cdef int rc
        if self.frame_open:
            r = self.ring.last()
            if not cdp_frame_fits(&r.f, data_bytes):
                self.close_frame()
                if self.frame_open:                 # no memory to note it
                    return self.fail_sticky(st)
                pthread_cond_signal(&self.work)     # full: somebody should write it while we go on
        if not self.frame_open:
            self.next_seq = seq
            rc = self.open_frame(st)
            if rc != CDP_OK:
                return rc
        r = self.ring.last()
        loc[0] = cdp_frame_add(&r.f, seq, ts_ns, start, sectors, kind, flags, data, data_bytes, crc)
        self.flush_seq = r.f.flush_seq
        if not flags & CDP_REC_MORE:
            r.whole_seq = seq
        if self.current.last_seq < self.current.first_seq:
            self.current.first_seq = seq
            self.current.first_ts_ns = ts_ns
        self.current.last_seq = seq
        self.current.last_ts_ns = ts_ns
        return CDP_OK

    cdef int open_frame(self, cdp_status *st) noexcept nogil:
        cdef ring_frame *r = self.ring.at(self.ring.opened)
        cdef int rc
        pthread_mutex_lock(&self.ring.mutex)
        while not self.ring.next_is_free():
            if self.failed:
                pthread_mutex_unlock(&self.ring.mutex)
                return self.fail_sticky(st)
            if self.io_busy or r.pins:
                pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
                continue
            pthread_mutex_unlock(&self.ring.mutex)
            rc = self.io_round(0, st)
            if rc != CDP_OK:
                return rc
            pthread_mutex_lock(&self.ring.mutex)
        cdp_frame_start(&r.f, self.pool.slot(<uint32_t>(self.ring.opened % self.pool.n_slots)), <uint32_t>self.pool.slot_bytes,
                        self.current.number, self.current.n_frames, self.current.tail_bytes, self.current.salt,
                        self.next_seq, self.flush_seq)
        r.fd = self.current.fd
        r.whole_seq = self.next_seq - 1
        self.ring.opened += 1
        self.frame_open = True
        pthread_mutex_unlock(&self.ring.mutex)
        return CDP_OK

    cdef void close_frame(self) noexcept nogil:
        cdef ring_frame *r
        cdef segment *s = &self.current
        cdef cdp_frame_entry *grown
        if not self.frame_open:
            return
        r = self.ring.last()
        if r.f.n_desc == 0:
            return
        pthread_mutex_lock(&self.ring.mutex)    # over all of it: cdpcore.log.tail looks at descriptors and directory
        if s.n_frames == s.frames_cap:
            grown = <cdp_frame_entry *>realloc(s.frames, (2 * s.frames_cap + 64) * sizeof(cdp_frame_entry))
            if grown == NULL:
                pthread_mutex_unlock(&self.ring.mutex)
                self.fail(ENOMEM)
                return
            s.frames = grown
            s.frames_cap = 2 * s.frames_cap + 64
        cdp_frame_finish(&r.f, self.durable_seq)
        s.frames[s.n_frames].first_seq = r.f.first_seq
        s.frames[s.n_frames].first_ts_ns = r.f.first_ts_ns
        s.frames[s.n_frames].flush_seq = r.f.flush_seq
        s.frames[s.n_frames].offset_blocks = <uint32_t>(r.f.file_off // CDP_BLOCK)
        s.frames[s.n_frames].n_desc = r.f.n_desc
        s.n_frames += 1
        s.tail_bytes += r.f.total_bytes
        self.frame_open = False
        self.ring.queued = self.ring.opened
        if self.wants_spare():
            pthread_cond_signal(&self.upkeep)
        pthread_mutex_unlock(&self.ring.mutex)

    cdef int roll(self, room kind, cdp_status *st) noexcept nogil:
        """Set the current segment aside for sealing and go on in the next one."""
        self.close_frame()
        if self.failed:
            return self.fail_sticky(st)
        pthread_cond_signal(&self.work)
        return self.next_segment(kind, st)

    cdef bint set_aside(self, uint64_t seq) noexcept nogil:
        """As roll, but without a next segment, where the current one has records up to `seq`. True: there is something to seal."""
        if self.current.number == 0 or self.current.first_seq > seq:
            return False
        self.close_frame()
        return self.put_aside()

    # --- writing (no lock held) --------------------------------------------------------------------------------------

    cdef int take_io(self, cdp_status *st) noexcept nogil:
        pthread_mutex_lock(&self.ring.mutex)
        while self.io_busy:
            pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
        if self.failed:
            pthread_mutex_unlock(&self.ring.mutex)
            return self.fail_sticky(st)
        self.io_busy = True
        pthread_mutex_unlock(&self.ring.mutex)
        return CDP_OK

    cdef void give_io(self, int rc, cdp_status *st) noexcept nogil:
        pthread_mutex_lock(&self.ring.mutex)
        self.io_busy = False
        if rc != CDP_OK and not self.failed:
            self.failed = st.sys_errno if st.sys_errno else EIO
        if self.ring.queued > self.ring.written:
            pthread_cond_signal(&self.work)
        pthread_cond_broadcast(&self.ring.changed)
        pthread_mutex_unlock(&self.ring.mutex)

    cdef int io_round(self, uint64_t sync_seq, cdp_status *st) noexcept nogil:
        """Write every finished frame; with sync_seq also make them durable, unless somebody already did up to it."""
        cdef uint64_t upto
        cdef int rc = self.take_io(st)
        if rc != CDP_OK:
            return rc
        pthread_mutex_lock(&self.ring.mutex)
        upto = self.ring.queued
        if sync_seq and self.durable_seq >= sync_seq:
            sync_seq = 0
            upto = self.ring.written
        pthread_mutex_unlock(&self.ring.mutex)
        rc = self.write_frames(upto, st)
        if rc == CDP_OK and sync_seq:
            rc = self.sync_segments(st)
        self.give_io(rc, st)
        return rc

    cdef int write_frames(self, uint64_t upto, cdp_status *st) noexcept nogil:
        """Frames [written, upto), in order. io_busy held: nobody else writes, and unwritten slots are not reused."""
        cdef ring_frame *r
        cdef int64_t rc
        cdef uint64_t k = self.ring.written
        while k < upto:
            r = self.ring.at(k)
            rc = self.table.pwrite(self.table.ctx, r.fd, r.f.slot, r.f.total_bytes, r.f.file_off)
            if rc < 0:
                return cdp_fail_os(st, rc, r.f.file_off, b"writing the log")
            k += 1
            pthread_mutex_lock(&self.ring.mutex)
            self.ring.written = k
            self.written_seq = r.whole_seq      # half a record is neither written nor durable
            if r.f.segment == self.current.number:
                self.current_dirty = True
            else:
                self.sealing_dirty = True
            self.bytes_written += r.f.total_bytes
            self.frames_written += 1
            pthread_cond_broadcast(&self.ring.changed)
            pthread_mutex_unlock(&self.ring.mutex)
        return CDP_OK

    cdef int sync_segments(self, cdp_status *st) noexcept nogil:
        """io_busy held. The older segment first: what a crash leaves must be a prefix."""
        cdef int old_fd = -1, new_fd = -1
        cdef uint64_t seq
        cdef int rc = 0
        pthread_mutex_lock(&self.ring.mutex)
        seq = self.written_seq
        if self.sealing_dirty:
            old_fd = self.sealing.fd
        if self.current_dirty:
            new_fd = self.current.fd
        self.sealing_dirty = self.current_dirty = False
        pthread_mutex_unlock(&self.ring.mutex)
        if old_fd >= 0:
            rc = self.table.datasync(self.table.ctx, old_fd)
        if rc >= 0 and new_fd >= 0:
            rc = self.table.datasync(self.table.ctx, new_fd)
        if rc < 0:
            return cdp_fail_os(st, rc, 0, b"making the log durable")
        pthread_mutex_lock(&self.ring.mutex)
        self.durable_seq = seq
        self.syncs += 1
        pthread_cond_broadcast(&self.ring.changed)
        pthread_mutex_unlock(&self.ring.mutex)
        return CDP_OK

    cdef uint64_t durable(self) noexcept nogil:
        cdef uint64_t seq
        pthread_mutex_lock(&self.ring.mutex)
        seq = self.durable_seq
        pthread_mutex_unlock(&self.ring.mutex)
        return seq

    cdef int wait_durable(self, uint64_t seq, cdp_status *st) noexcept nogil:
        """Return when everything up to `seq` is durable. The first to come leads; those that come while it writes and
        syncs share the next round."""
        cdef int rc
        pthread_mutex_lock(&self.ring.mutex)
        while self.durable_seq < seq:
            if self.failed:
                pthread_mutex_unlock(&self.ring.mutex)
                return self.fail_sticky(st)
            if self.io_busy:
                pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
                continue
            pthread_mutex_unlock(&self.ring.mutex)
            self.lock_append()
            if self.frame_open and self.ring.last().f.first_seq <= seq:
                self.close_frame()
            self.unlock_append()
            rc = self.io_round(seq, st)
            if rc != CDP_OK:
                return rc
            pthread_mutex_lock(&self.ring.mutex)
        pthread_mutex_unlock(&self.ring.mutex)
        return CDP_OK

    # --- threads -----------------------------------------------------------------------------------------------------

    def run_writer(self, uint32_t commit_interval_ms):
        """The writer thread's life: write finished frames at once, and make everything durable once per
        `commit_interval_ms` (0: only when asked). Returns after stop() or a device failure."""
        cdef cdp_status st
        cdef uint64_t seq, now, due = cdp_monotonic_ms() + commit_interval_ms
        cdef int rc = CDP_OK
        with nogil:
            while rc == CDP_OK:
                pthread_mutex_lock(&self.ring.mutex)
                now = cdp_monotonic_ms()
                while not self.stopping and not self.failed and (self.ring.queued == self.ring.written or self.io_busy) and \
                        (not commit_interval_ms or now < due):
                    if commit_interval_ms:
                        cdp_cond_wait_ms(&self.work, &self.ring.mutex, <uint32_t>(due - now))
                        now = cdp_monotonic_ms()
                    else:
                        pthread_cond_wait(&self.work, &self.ring.mutex)
                if self.stopping or self.failed:
                    pthread_mutex_unlock(&self.ring.mutex)
                    break
                pthread_mutex_unlock(&self.ring.mutex)
                if not commit_interval_ms or now < due:
                    rc = self.io_round(0, &st)
                else:
                    self.lock_append()
                    seq = 0
                    if self.ring.opened:
                        seq = self.ring.last().f.last_seq
                    self.unlock_append()
                    rc = self.wait_durable(seq, &st)
                    due = cdp_monotonic_ms() + commit_interval_ms

    def stop(self):
        """Let the writer and maintenance threads return. Appending is over; flush first."""
        with nogil:
            pthread_mutex_lock(&self.ring.mutex)
            self.stopping = True
            pthread_cond_broadcast(&self.ring.changed)
            pthread_cond_broadcast(&self.work)
            pthread_cond_broadcast(&self.upkeep)
            pthread_mutex_unlock(&self.ring.mutex)

    def hold(self, why: str, bint on=True):
        """While any reason is on, every record is refused, as Unavailable: "read-only", "import" (the base is being filled), "moved". At
        return those that were being appended are in the log; but for "moved", which the thread says that seals, and for which an
        appender may be waiting."""
        cdef int reason = {"read-only": HELD_READ_ONLY, "import": HELD_IMPORT, "moved": HELD_MOVED}[why]
        with nogil:
            pthread_mutex_lock(&self.ring.mutex)
            self.held = self.held | reason if on else self.held & ~reason
            pthread_mutex_unlock(&self.ring.mutex)
            if reason != HELD_MOVED:
                self.lock_append()
                self.unlock_append()

    # --- looking -----------------------------------------------------------------------------------------------------

    def sync_all(self):
        """Make every record durable."""
        cdef cdp_status st
        cdef uint64_t seq = 0
        cdef int rc
        with nogil:
            self.lock_append()
            if self.ring.opened:
                seq = self.ring.last().f.last_seq
            self.unlock_append()
            rc = self.wait_durable(seq, &st)
        check(rc, &st, self.directory.decode())

    cdef uint64_t written(self) noexcept nogil:
        """The last record that is in a file as a whole, with all before it. A word that only grows: no lock."""
        return self.written_seq

    cdef int put_out(self, uint64_t beyond, cdp_status *st) noexcept nogil:
        """No lock held: return when written() is more than `beyond`, or all records so far are written. What is on its way to the
        device is waited for; only where nothing is, the open frame is closed before it is full."""
        cdef bint on_its_way
        pthread_mutex_lock(&self.ring.mutex)
        while self.written_seq <= beyond and self.ring.queued > self.ring.written and self.io_busy and not self.failed:
            pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
        on_its_way = self.written_seq > beyond
        pthread_mutex_unlock(&self.ring.mutex)
        return CDP_OK if on_its_way else self.put_all_out(st)

    cdef int put_all_out(self, cdp_status *st) noexcept nogil:
        self.lock_append()
        self.close_frame()
        self.unlock_append()
        return self.io_round(0, st)

    def stats(self) -> dict:
        """Counters since opening: bytes and frames written, syncs; durable_seq; sticky failure errno; bytes in use of the
        segments that are not sealed (their files are larger: preallocated)."""
        return {"log_bytes_written": self.bytes_written, "frames_written": self.frames_written, "syncs": self.syncs,
                "durable_seq": self.durable_seq, "failed_errno": self.failed,
                "open_log_bytes": self.current.tail_bytes + self.sealing.tail_bytes}
