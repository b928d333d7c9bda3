"""The way of new content to a disk that is written in place: the settling part of a before-image volume's core (inplace.pyx).

Rounds, as in the log: whoever needs something on the disk leads one for all that is durable in the log by then, those that come
meanwhile share the next. The applier thread keeps Pending from filling up, and makes everything durable once a commit interval.

Invariants
 1. The disk is changed only by round(), one at a time, in the order of Pending, and only with changes whose before-images are durable.
 2. DiskState names a record up to which the disk holds everything, durably; it ends its frame.
 3. What was reached, records and changes, only grows. Changes of no record (a destructive restore's) are waited for by their
    number; a flush, which asks for records, never waits for those that are pushed while it does.

Threading: any thread, no GIL. The mutex `settling` is taken with no other lock held but the append lock, Pending's after it.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from cdpcore.base.clock cimport cdp_monotonic_ms
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_SECTOR
from cdpcore.base.status cimport CDP_OK, cdp_fail_os
from cdpcore.base.target cimport CDP_EXTENT_DATA, CDP_EXTENT_HOLE
from cdpcore.base.thread cimport (cdp_cond_init, cdp_cond_wait_ms, pthread_cond_broadcast, pthread_cond_destroy,
                                  pthread_cond_wait, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock,
                                  pthread_mutex_unlock)
from cdpcore.inplace.pending cimport pending_change


cdef enum:
    PAUSE_MS = 50
    ZEROS_BYTES = 65536

cdef uint8_t ZEROS[ZEROS_BYTES]


cdef class DiskSettler(DiskReader):
    """See inplace.InPlaceCore, which is complete."""

    def __cinit__(self, *args, **kwargs):
        pthread_mutex_init(&self.settling, NULL)
        cdp_cond_init(&self.settled)

    def __dealloc__(self):
        pthread_cond_destroy(&self.settled)
        pthread_mutex_destroy(&self.settling)

    cdef uint64_t kept_seq(self) noexcept nogil:
        """What recovery does not put back: a word that only grows."""
        return (<const volatile uint64_t *>&self.state.applied_seq)[0]

    cdef int keep(self, uint64_t beyond, cdp_status *st) noexcept nogil:
        return CDP_OK if self.kept_seq() > beyond else self.settle_now(True, st)

    cdef int make_durable(self, uint64_t seq, cdp_status *st) noexcept nogil:
        cdef int rc = self.log.wait_durable(seq, st)
        return self.settle(seq, 0, True, st) if rc == CDP_OK else rc

    cdef int settle_now(self, bint sync, cdp_status *st) noexcept nogil:
        """Every record and change so far is on the disk at return; `sync`: durably."""
        cdef uint64_t seq, change
        cdef int rc
        self.log.lock_append()
        self.log.close_frame()
        seq = self.log.last_seq
        change = self.pending.pushed()
        self.log.unlock_append()
        rc = self.log.wait_durable(seq, st)
        return self.settle(seq, change, sync, st) if rc == CDP_OK else rc

    cdef int settle(self, uint64_t seq, uint64_t change, bint sync, cdp_status *st) noexcept nogil:
        """Records up to `seq`, durable in the log, and changes before number `change` are on the disk at return. The first to come
        leads a round for all that is durable by then; who comes meanwhile shares the next one. Takes no lock of the log's while it
        leads: a writer that holds the append lock may be waiting for a segment to be sealed, which waits for this."""
        cdef const reached *got = &self.synced if sync else &self.applied
        cdef int rc
        pthread_mutex_lock(&self.settling)
        while got.seq < seq or got.change < change:
            if self.log.ring.failed:
                pthread_mutex_unlock(&self.settling)
                return self.log.ring.fail_sticky(st)
            if self.busy:
                pthread_cond_wait(&self.settled, &self.settling)
                continue
            self.busy = True
            pthread_mutex_unlock(&self.settling)
            rc = self.round(sync, st)
            pthread_mutex_lock(&self.settling)
            self.busy = False
            pthread_cond_broadcast(&self.settled)
            if rc != CDP_OK:
                pthread_mutex_unlock(&self.settling)
                return rc
        pthread_mutex_unlock(&self.settling)
        return CDP_OK

    cdef int round(self, bint sync, cdp_status *st) noexcept nogil:
        cdef reached now
        cdef int64_t os_rc
        cdef int rc
        now.seq = self.log.durable()
        now.change = self.applied.change        # the leader's own
        rc = self.apply(&now, st)
        if rc == CDP_OK and sync:
            os_rc = self.table.datasync(self.table.ctx, self.base_fd)
            if os_rc < 0:
                rc = cdp_fail_os(st, os_rc, 0, b"making the disk durable")
            else:
                rc = self.state.put(now.seq, st)
        if rc != CDP_OK:    # as a failed write of the log: nothing more is acknowledged; recovery puts the disk right
            self.log.ring.fail(st.sys_errno)
            return rc
        pthread_mutex_lock(&self.settling)
        self.applied = now
        if sync:
            self.synced = now
        pthread_mutex_unlock(&self.settling)
        self.pending.release(now.seq, now.change)
        return CDP_OK

    cdef void give_room(self) noexcept nogil:
        """Nothing to be written, and no room in Pending all the same: a reader has a change pinned, or had when it was to go."""
        pthread_mutex_lock(&self.settling)
        cdp_cond_wait_ms(&self.settled, &self.settling, 1)
        if not self.busy:
            self.pending.release(self.applied.seq, self.applied.change)
        pthread_mutex_unlock(&self.settling)

    cdef int apply(self, reached *now, cdp_status *st) noexcept nogil:
        """Changes from now.change on to the disk, in order, while records up to now.seq are all that they wait for. A leader only.
        Ends: room is given back after the round, so no more come than Pending has room for."""
        cdef pending_change *c
        cdef const uint8_t *p
        cdef uint64_t skip, n, size
        cdef int64_t os_rc
        cdef int rc
        while True:
            c = self.pending.ready(now.change, now.seq)
            if c == NULL:
                return CDP_OK
            size = (c.end - c.start) * CDP_SECTOR
            if c.kind != CDP_EXTENT_DATA:
                rc = self.zero_disk(c.start * CDP_SECTOR, size, c.kind == CDP_EXTENT_HOLE, st)
                if rc != CDP_OK:
                    return rc
                size = 0
            skip = 0
            while skip < size:
                n = size - skip
                p = self.pending.piece(c, skip, &n)
                os_rc = self.table.pwrite(self.table.ctx, self.base_fd, p, n, c.start * CDP_SECTOR + skip)
                if os_rc < 0:
                    return cdp_fail_os(st, os_rc, c.start * CDP_SECTOR + skip, b"writing the disk")
                skip += n
            now.change += 1

    cdef int zero_disk(self, uint64_t off, uint64_t n, bint hole, cdp_status *st) noexcept nogil:
        cdef uint64_t step
        cdef int64_t rc
        if hole and self.table.punch(self.table.ctx, self.base_fd, off, n) >= 0:
            return CDP_OK
        while n:
            step = min(n, <uint64_t>ZEROS_BYTES)
            rc = self.table.pwrite(self.table.ctx, self.base_fd, ZEROS, step, off)
            if rc < 0:
                return cdp_fail_os(st, rc, off, b"writing zeros to the disk")
            off += step
            n -= step
        return CDP_OK

    def run_applier(self, uint32_t commit_interval_ms):
        """A thread's life: keeps Pending from filling up, and makes everything durable once per `commit_interval_ms` (0: only
        when asked). Returns after stop_applier() or a failure."""
        cdef cdp_status st
        cdef uint64_t now, first, due = cdp_monotonic_ms() + commit_interval_ms
        cdef int rc = CDP_OK
        cdef bint sync
        with nogil:
            while rc == CDP_OK and not self.log.ring.failed:
                pthread_mutex_lock(&self.settling)
                now = cdp_monotonic_ms()
                while not self.stopping and self.pending.used_bytes() <= self.pending.data_bytes // 4 and \
                        (not commit_interval_ms or now < due):
                    cdp_cond_wait_ms(&self.settled, &self.settling, PAUSE_MS)
                    now = cdp_monotonic_ms()
                sync = commit_interval_ms and now >= due
                pthread_mutex_unlock(&self.settling)
                if self.stopping:
                    break
                if sync:
                    due = now + commit_interval_ms
                if not sync or not self.all_synced():
                    first = self.pending.gone()
                    rc = self.settle_now(sync, &st)
                    if rc == CDP_OK and not sync and self.pending.gone() == first:
                        self.give_room()

    def stop_applier(self):
        """Let run_applier return."""
        with nogil:
            pthread_mutex_lock(&self.settling)
            self.stopping = True
            pthread_cond_broadcast(&self.settled)
            pthread_mutex_unlock(&self.settling)

    def settle_disk(self, upto: int | None = None):
        """Everything (or records up to `upto`, which are durable in the log) is on the disk, durably; of everything nothing is left in
        Pending either, where a look for what a destructive restore put over it would find it."""
        cdef cdp_status st
        cdef uint64_t change
        cdef uint64_t seq = 0 if upto is None else upto
        cdef bint all_of_it = upto is None
        cdef int rc
        with nogil:
            change = self.pending.pushed() if all_of_it else 0
            rc = self.settle_now(True, &st) if all_of_it else self.settle(seq, 0, True, &st)
            while rc == CDP_OK and self.pending.gone() < change:
                self.give_room()
        check(rc, &st, None)

    cdef bint all_synced(self) noexcept nogil:
        return self.synced.seq == self.versions.visible_seq and self.synced.change == self.pending.pushed()

    def on_disk(self) -> bool:
        """Whether the disk holds every record and change, durably."""
        return self.all_synced() and not self.log.ring.failed
