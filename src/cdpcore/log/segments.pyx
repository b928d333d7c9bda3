"""The files of the log: the segment that receives frames, a spare one, and one that was set aside for sealing.

Invariants
 1. At most one segment waits for its run; an appender that needs the next segment waits for that. It bounds memory and
    recovery.
 2. A segment is made ahead of its need where it can be, so running out of space is noticed when nothing is lost by it.
    For records that free space, and for small ones, the reserve becomes a segment where no other can be made.
 3. After a failed write or sync of the log nothing waits here: the failure is returned.

Threading: see the fields. Appenders hold the append lock; one maintenance thread waits, seals and prepares the spare.
"""
cimport cython
from libc.errno cimport EIO, ENOMEM
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from cdpcore.base.bell cimport ring
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_BLOCK, CDP_SEGMENT_BEFORE, cdp_segment_header
from cdpcore.base.status cimport CDP_NOSPACE, CDP_OK, cdp_fail_os
from cdpcore.base.thread cimport (pthread_cond_broadcast, pthread_cond_wait, pthread_mutex_lock,
                                  pthread_mutex_unlock)
from cdpcore.log.record cimport ROOM_WRITE
from cdpcore.log.segment cimport cdp_segment_create, cdp_segment_of_reserve
from cdpcore.base.errors import InvalidRequest


@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class LogFiles:
    """The segment files of one log.

    Args:
        os, ring: where they are and whose frames they receive.
        directory: VOLUME/log, must exist.
        uuid: 16 bytes; volume_bytes, created_ns: go into every segment's header.
        segment_bytes: size of a segment file; at least 8 pool slots.
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
        self.direct = direct
        self.before = before
        self.inline_maintenance = inline_maintenance
        self.ring = ring
        memset(&self.current, 0, sizeof(segment))
        memset(&self.spare, 0, sizeof(segment))
        memset(&self.sealing, 0, sizeof(segment))

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
        """Create log/N.log: allocated, its header durable. A failure leaves no file behind. Without space for it the
        reserve becomes the segment, but not for a write."""
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
        rc = cdp_segment_create(self.table, self.directory_c, &h, self.segment_bytes, self.direct, &s.fd, st)
        if rc == CDP_NOSPACE and kind != ROOM_WRITE and self.reserve_c[0]:
            if cdp_segment_of_reserve(self.table, self.reserve_c, self.directory_c, &h, self.direct, &s.capacity_bytes,
                                      &s.fd, &other) == CDP_OK:
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
        memset(s, 0, sizeof(segment))

    cdef bint sums_of(self, uint32_t number, uint64_t block, uint32_t n, uint32_t *out) noexcept nogil:
        cdef const segment *s
        pthread_mutex_lock(&self.ring.mutex)
        s = &self.current if self.current.number == number else &self.sealing
        if s.number == number:
            memcpy(out, s.sums + block, n * sizeof(uint32_t))
            pthread_mutex_unlock(&self.ring.mutex)
            return True
        pthread_mutex_unlock(&self.ring.mutex)
        return False

    # --- maintenance --------------------------------------------------------------------------------------------------

    cdef void call(self) noexcept nogil:
        """io lock held: there is something for the maintenance thread."""
        if not self.inline_maintenance:
            ring()

    def has_work(self):
        """A segment is to be sealed, or a spare is wanted."""
        cdef bint some
        with nogil:
            pthread_mutex_lock(&self.ring.mutex)
            some = not self.ring.stopping and (self.sealing_published or self.wants_spare())
            pthread_mutex_unlock(&self.ring.mutex)
        return bool(some)

    cdef bint wants_spare(self) noexcept nogil:
        """io lock held. Half a segment ahead: early enough for the device, and a volume with few writes has one
        file."""
        return self.current.number and self.current.tail_bytes > self.segment_bytes // 2 and not self.spare.number and \
            not self.spare_busy and not self.ring.stopping

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
