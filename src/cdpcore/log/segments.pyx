"""The files of the log: the segment that receives frames, a spare one, and one that was set aside for sealing.

A file grows in steps, so that a volume with few writes takes little; the steps follow the rate (pace.pxd), so
that a stream has whole segments: growing a file of ext4 waits for the direct writes that are in flight.

Invariants
 1. At most one segment waits for its run; an appender that needs the next segment waits for that. It bounds memory and
    recovery.
 2. Nothing is appended that does not lie in space which is allocated, directory and trailer included, so running out
    of space is noticed when nothing is lost by it. A segment is made, and grows, ahead of its need where it can. For
    records that free space, and for small ones, the reserve becomes a segment where no other can be made.
 3. A file is grown or cut by one thread at a time. What is cut off was promised to nobody; a growth that no sync has
    made durable is lost in a power cut with the frames that lie in it.
 4. After a failed write or sync of the log nothing waits here: the failure is returned.

Threading: see the fields. Appenders hold the append lock; one maintenance thread waits, seals and prepares the spare.
"""
cimport cython
from libc.errno cimport EDQUOT, EIO, ENOMEM, ENOSPC
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from cdpcore.base.bell cimport ring
from cdpcore.base.clock cimport cdp_monotonic_ms
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_BLOCK, CDP_SEGMENT_BEFORE, cdp_segment_header
from cdpcore.base.status cimport CDP_NOSPACE, CDP_OK, cdp_fail_os
from cdpcore.base.thread cimport (pthread_cond_broadcast, pthread_cond_wait, pthread_mutex_lock,
                                  pthread_mutex_unlock)
from cdpcore.log.pace cimport KEPT_SHARE, RUN_BYTES, pace_look, pace_start
from cdpcore.log.record cimport ROOM_WRITE
from cdpcore.log.segment cimport cdp_segment_create, cdp_segment_of_reserve
from cdpcore.base.errors import InvalidRequest

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint32_t sealed_get(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void sealed_put(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    """
    uint32_t sealed_get(const uint32_t *p) noexcept nogil
    void sealed_put(uint32_t *p, uint32_t v) noexcept nogil


@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class LogFiles:
    """The segment files of one log.

    Args:
        os, ring: where they are and whose frames they receive.
        directory: VOLUME/log, must exist.
        uuid: 16 bytes; volume_bytes, created_ns: go into every segment's header.
        segment_bytes: size of a segment file; at least 8 slots.
        next_number: number of the first segment it will create (> 0).
        direct: direct I/O. inline_maintenance: there is no maintenance thread to wait for.
        reserve: path of the reserve file (it need not exist); "": none is used.
        before: the log's data are before-images.
    """

    def __cinit__(self, Os os not None, FrameRing ring not None, directory: str, *, bytes uuid, uint64_t volume_bytes,
                  uint64_t created_ns, uint64_t segment_bytes, uint32_t next_number, bint direct,
                  bint inline_maintenance, reserve: str = "", bint before=False):
        cdef uint64_t slot_bytes = ring.slot_bytes
        if len(uuid) != 16:
            raise InvalidRequest("a volume's uuid has 16 bytes")
        if segment_bytes < 8 * slot_bytes or segment_bytes > 1 << 40:
            raise InvalidRequest(f"segment size of {segment_bytes} bytes", f"use at least {8 * slot_bytes}")
        self.os = os
        self.table = os.table
        self.directory = directory.encode()
        self.directory_c = self.directory
        memcpy(self.uuid, <const uint8_t *><char *>uuid, 16)
        self.volume_bytes = volume_bytes
        self.created_ns = created_ns
        self.segment_bytes = segment_bytes
        self.reserve = reserve.encode()
        self.reserve_c = self.reserve
        self.next_number = next_number
        self.sealed_upto = next_number - 1
        self.direct = direct
        self.before = before
        self.inline_maintenance = inline_maintenance
        self.ring = ring
        memset(&self.current, 0, sizeof(segment))
        memset(&self.spare, 0, sizeof(segment))
        memset(&self.sealing, 0, sizeof(segment))
        pace_start(&self.pace, segment_bytes, self.now_ms())

    def __dealloc__(self):
        self.let_go(&self.current)
        self.let_go(&self.spare)
        self.let_go(&self.sealing)

    # --- the next segment (append lock held) --------------------------------------------------------------------------

    cdef int next_segment(self, room kind, cdp_status *st) noexcept nogil:
        cdef segment fresh
        cdef uint32_t number
        cdef int rc
        pthread_mutex_lock(&self.ring.mutex)
        while self.sealing.number or self.spare_busy:
            if self.ring.failed:
                pthread_mutex_unlock(&self.ring.mutex)
                return self.ring.fail_sticky(st)
            if self.sealing.number and (self.inline_maintenance or self.maintenance_errno):
                rc = -(self.maintenance_errno or EIO)
                pthread_mutex_unlock(&self.ring.mutex)
                return cdp_fail_os(st, rc, 0, b"indexing the previous segment failed")
            pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
        if self.spare.number:
            fresh = self.spare
            memset(&self.spare, 0, sizeof(segment))
        else:
            number = self.next_number
            self.spare_busy = True      # keeps the number for us
            pthread_mutex_unlock(&self.ring.mutex)
            rc = self.open_segment(&fresh, number, kind, st)
            pthread_mutex_lock(&self.ring.mutex)
            self.spare_busy = False
            if rc != CDP_OK:
                pthread_cond_broadcast(&self.ring.changed)
                pthread_mutex_unlock(&self.ring.mutex)
                return rc
            self.next_number = number + 1
        if self.current.number:
            self.move_aside()
        self.current = fresh
        if self.broken:
            self.note_sealed(fresh.number)
        pthread_cond_broadcast(&self.ring.changed)
        pthread_mutex_unlock(&self.ring.mutex)
        return CDP_OK

    cdef bint put_aside(self) noexcept nogil:
        cdef bint some
        pthread_mutex_lock(&self.ring.mutex)
        some = self.current.number and self.current.n_frames and not self.sealing.number and not self.ring.failed
        if some:
            self.move_aside()
        pthread_mutex_unlock(&self.ring.mutex)
        return some

    cdef void move_aside(self) noexcept nogil:
        """io lock held, nothing waits for sealing: the current segment does from now on, and none is current."""
        self.rolled_bytes += self.current.tail_bytes
        self.growth_asked = False
        self.current.end_frame = self.ring.queued
        self.sealing = self.current
        self.sealing_dirty = self.current_dirty
        self.sealing_published = False
        memset(&self.current, 0, sizeof(segment))
        self.current_dirty = False

    cdef void publish_sealing(self) noexcept nogil:
        pthread_mutex_lock(&self.ring.mutex)
        self.sealing_published = True
        self.call()
        pthread_mutex_unlock(&self.ring.mutex)

    cdef int open_segment(self, segment *s, uint32_t number, room kind, cdp_status *st) noexcept nogil:
        """Create log/N.log: its first step allocated, its header durable. A failure leaves no file behind. Without
        space for it the reserve becomes the segment, but not for a write."""
        cdef cdp_segment_header h
        cdef cdp_status other
        cdef int rc
        memset(s, 0, sizeof(segment))
        memset(&h, 0, sizeof(h))
        memcpy(h.volume_uuid, self.uuid, 16)
        h.volume_bytes = self.volume_bytes
        h.created_ns = self.created_ns
        h.segment = number
        h.flags = CDP_SEGMENT_BEFORE if self.before else 0
        s.capacity_bytes = self.segment_bytes
        s.sums = <uint32_t *>calloc(self.segment_bytes // CDP_BLOCK + 1, sizeof(uint32_t))   # paged in as it is used
        if s.sums == NULL:
            return cdp_fail_os(st, -ENOMEM, 0, b"memory for a log segment")
        s.allocated_bytes = self.pace.step      # a word: no lock
        rc = cdp_segment_create(self.table, self.directory_c, &h, s.allocated_bytes, self.direct, &s.fd, st)
        if rc == CDP_NOSPACE and s.allocated_bytes > self.pace.least:
            s.allocated_bytes = self.pace.least
            rc = cdp_segment_create(self.table, self.directory_c, &h, s.allocated_bytes, self.direct, &s.fd, st)
        if rc == CDP_NOSPACE and kind != ROOM_WRITE and self.reserve_c[0]:
            if cdp_segment_of_reserve(self.table, self.reserve_c, self.directory_c, &h, self.direct, &s.capacity_bytes,
                                      &s.fd, &other) == CDP_OK:
                s.allocated_bytes = s.capacity_bytes
                rc = CDP_OK         # else st keeps the first failure
        if rc != CDP_OK:
            free(s.sums)
            s.sums = NULL
            return rc
        s.capacity_bytes = min(s.capacity_bytes, self.segment_bytes)
        s.number = number
        s.salt = h.salt
        s.tail_bytes = CDP_BLOCK
        s.first_seq = 1
        s.last_seq = 0
        return CDP_OK

    cdef void let_go(self, segment *s) noexcept nogil:
        """Its handle and memory; it is none then."""
        if s.number:
            self.table.close(self.table.ctx, s.fd)
        free(s.frames)
        free(s.sums)
        free(s.activity)
        memset(s, 0, sizeof(segment))

    cdef bint sums_of(self, uint32_t number, uint64_t block, uint32_t n, uint32_t *out) noexcept nogil:
        cdef const segment *s
        if number <= sealed_get(&self.sealed_upto):
            return False
        pthread_mutex_lock(&self.ring.mutex)
        s = &self.current if self.current.number == number else &self.sealing
        if s.number == number:
            memcpy(out, s.sums + block, n * sizeof(uint32_t))
            pthread_mutex_unlock(&self.ring.mutex)
            return True
        pthread_mutex_unlock(&self.ring.mutex)
        return False

    cdef void note_sealed(self, uint32_t number) noexcept nogil:
        # Release, and acquire in sums_of(): who sees the number goes to the file, and finds the directory and the table
        # that were written there before. Who does not yet see it takes the lock.
        sealed_put(&self.sealed_upto, number)

    def break_rule(self, rule: str):
        """For tests of the tests: from now on a segment counts as sealed when it is begun ("sealed")."""
        self.broken = rule == "sealed"

    # --- growing ------------------------------------------------------------------------------------------------------

    cdef uint64_t now_ms(self) noexcept nogil:
        """Without threads the clock of the table, so that a history is the same each time."""
        return self.table.now_ns(self.table.ctx) // 1000000 if self.inline_maintenance else cdp_monotonic_ms()

    cdef int reach(self, uint64_t bytes, cdp_status *st) noexcept nogil:
        cdef int rc = CDP_OK
        pthread_mutex_lock(&self.ring.mutex)
        while rc == CDP_OK and self.current.allocated_bytes < bytes:
            if self.ring.failed:
                pthread_mutex_unlock(&self.ring.mutex)
                return self.ring.fail_sticky(st)
            if self.grow_busy:
                pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
            else:
                rc = self.grow(bytes, bytes - self.pace.least // KEPT_SHARE, st)
        pthread_mutex_unlock(&self.ring.mutex)
        return rc

    cdef void ask_growth(self, uint64_t bytes) noexcept nogil:
        cdef const segment *s = &self.current
        if s.allocated_bytes == s.capacity_bytes or bytes + self.pace.step // 4 <= s.allocated_bytes or \
                self.growth_asked or self.inline_maintenance:
            return
        pthread_mutex_lock(&self.ring.mutex)
        self.growth_asked = True
        self.asked_bytes = bytes - self.pace.least // KEPT_SHARE
        self.call()
        pthread_mutex_unlock(&self.ring.mutex)

    cdef int grow(self, uint64_t bytes, uint64_t used, cdp_status *st) noexcept nogil:
        """A step, or less where there is less space, but `bytes` at least; `used` of it are in use. The io lock is
        released meanwhile, and the segment may be set aside then, but not sealed."""
        cdef segment s = self.current
        cdef uint64_t upto, owed = 0
        cdef int64_t rc
        if self.sealing.number:     # its run needs space: what sealing frees is not for us
            owed = max(self.pace.least // 2, (self.sealing.last_seq + 1 - self.sealing.first_seq) * RUN_BYTES)
            owed = owed // CDP_BLOCK * CDP_BLOCK
        pace_look(&self.pace, self.now_ms(), self.rolled_bytes + used)
        bytes = min((bytes + CDP_BLOCK - 1) // CDP_BLOCK * CDP_BLOCK, s.capacity_bytes)
        upto = min(max(s.allocated_bytes + self.pace.step, bytes), s.capacity_bytes)
        self.grow_busy = True
        pthread_mutex_unlock(&self.ring.mutex)
        upto += owed
        rc = self.allocate(s.fd, s.allocated_bytes, bytes + owed, &upto)
        upto -= owed
        if rc >= 0 and owed:
            self.table.truncate(self.table.ctx, s.fd, upto)
        pthread_mutex_lock(&self.ring.mutex)
        self.grow_busy = self.growth_asked = False
        if rc >= 0 and self.current.number == s.number:
            self.current.allocated_bytes = upto
        pthread_cond_broadcast(&self.ring.changed)
        return CDP_OK if rc >= 0 else cdp_fail_os(st, rc, s.allocated_bytes, b"allocating space for the log")

    cdef int64_t allocate(self, int fd, uint64_t old, uint64_t least, uint64_t *upto) noexcept nogil:
        cdef int64_t rc
        while True:
            rc = self.table.allocate(self.table.ctx, fd, old, upto[0] - old)
            if rc >= 0:
                return rc
            self.table.truncate(self.table.ctx, fd, old)    # some of it may have been allocated
            if upto[0] <= least or rc != -ENOSPC and rc != -EDQUOT:
                return rc
            upto[0] = least + (upto[0] - least) // 2 // CDP_BLOCK * CDP_BLOCK

    cdef bint begin_cut(self, uint64_t used) noexcept nogil:
        cdef segment *s = &self.current
        cdef uint64_t keep
        pace_look(&self.pace, self.now_ms(), self.rolled_bytes + used - self.pace.least // KEPT_SHARE)
        keep = (used + self.pace.step + CDP_BLOCK - 1) // CDP_BLOCK * CDP_BLOCK
        if s.number == 0 or self.grow_busy or self.spare_busy:
            return False
        self.cut_fd = self.cut_spare_fd = -1
        if s.allocated_bytes >= keep + self.pace.step + self.pace.least:
            self.cut_fd = s.fd
            s.allocated_bytes = self.cut_bytes = keep
            s.zeroed_bytes = min(s.zeroed_bytes, keep)
            self.grow_busy = True
        if self.spare.number and self.spare.allocated_bytes >= 2 * (self.pace.step + self.pace.least):
            self.cut_spare_fd = self.spare.fd
            self.spare.allocated_bytes = self.cut_spare_bytes = self.pace.step
            self.spare_busy = True
        return self.grow_busy or self.spare_busy

    cdef void end_cut(self) noexcept nogil:
        """Where a file can't be cut, the space stays used."""
        if self.cut_fd >= 0:
            self.table.truncate(self.table.ctx, self.cut_fd, self.cut_bytes)
        if self.cut_spare_fd >= 0:
            self.table.truncate(self.table.ctx, self.cut_spare_fd, self.cut_spare_bytes)
        pthread_mutex_lock(&self.ring.mutex)
        self.grow_busy = self.grow_busy and self.cut_fd < 0
        self.spare_busy = self.spare_busy and self.cut_spare_fd < 0
        pthread_cond_broadcast(&self.ring.changed)
        pthread_mutex_unlock(&self.ring.mutex)

    # --- maintenance --------------------------------------------------------------------------------------------------

    cdef void call(self) noexcept nogil:
        """io lock held: there is something for the maintenance thread."""
        if not self.inline_maintenance:
            ring()

    def has_work(self):
        """A segment is to be sealed or grown, or a spare is wanted."""
        cdef bint some
        with nogil:
            pthread_mutex_lock(&self.ring.mutex)
            some = not self.ring.stopping and (self.sealing_published or self.wants_spare() or self.growth_asked)
            pthread_mutex_unlock(&self.ring.mutex)
        return bool(some)

    cdef bint wants_spare(self) noexcept nogil:
        """io lock held. Half a segment ahead: early enough for the device, and a volume with few writes has one
        file."""
        return self.current.number and self.current.tail_bytes > self.segment_bytes // 2 and not self.spare.number and \
            not self.spare_busy and not self.ring.stopping

    def grow_ahead(self):
        """Grow the current segment by a step, where an appender has asked for it, so that no write waits for it."""
        cdef cdp_status st
        cdef int rc = CDP_OK
        with nogil:
            pthread_mutex_lock(&self.ring.mutex)
            if self.growth_asked and not self.grow_busy and self.current.number:
                rc = self.grow(self.current.allocated_bytes + self.pace.least, self.asked_bytes, &st)
            pthread_mutex_unlock(&self.ring.mutex)
        check(rc, &st, self.directory.decode())

    def prepare_spare(self):
        """Create the next segment ahead of its need, so that no write waits for it. No-op where none is wanted."""
        cdef segment fresh
        cdef cdp_status st
        cdef int rc = CDP_OK
        cdef uint32_t number = 0
        with nogil:
            pthread_mutex_lock(&self.ring.mutex)
            if self.wants_spare():
                self.spare_busy = True
                number = self.next_number   # next_segment() waits while spare_busy, so nobody else takes it
            pthread_mutex_unlock(&self.ring.mutex)
            if number:
                rc = self.open_segment(&fresh, number, ROOM_WRITE, &st)
                pthread_mutex_lock(&self.ring.mutex)
                self.spare_busy = False
                if rc == CDP_OK:
                    self.spare = fresh
                    self.next_number = number + 1
                pthread_cond_broadcast(&self.ring.changed)
                pthread_mutex_unlock(&self.ring.mutex)
        check(rc, &st, self.directory.decode())

    def disown(self):
        """In the child of a fork: close its copies of the handles, which would keep the files' locks."""
        cdef segment *s
        for which in range(3):
            s = &self.current if which == 0 else &self.spare if which == 1 else &self.sealing
            if s.number:
                self.table.close(self.table.ctx, s.fd)
                s.number = 0

    def close(self):
        """Close the open segment, the spare, and one that could not be sealed: the next opening waits for their locks.
        Returns the numbers of files that hold no frame, to be removed."""
        empty = []
        cdef segment *s
        for which in range(3):
            s = &self.current if which == 0 else &self.spare if which == 1 else &self.sealing
            if s.number:
                if s.n_frames == 0:
                    empty.append(s.number)
                self.let_go(s)
        return empty
