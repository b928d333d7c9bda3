"""Settling: new content goes from Pending to the disk, in rounds, once its before-images are durable.

As in the log, a thread that needs something on the disk leads a round for all that is durable in the log by then; those
that come meanwhile share the next one. So no write waits for a device of its own, and many share a sync. A sync has a
leader of its own and stops no round: it takes up to hundreds of ms, in which Pending would fill up and stop all writes.
The applier thread keeps Pending from filling up, and makes everything durable once a commit interval.

Invariants
 1. The disk is changed only by round(), one at a time, in the order of Pending, and only with changes whose
    before-images are durable: it never holds what the log could not take back.
 2. DiskState names a record up to which the disk holds everything, durably; that record ends its frame. A sync covers
    what was on the disk when it began, and no more; what goes there meanwhile, DiskState does not name.
 3. What was reached, records and changes, only grows. Changes of no record (a destructive restore's) are waited for by
    their number; a flush, which asks for records, never waits for those that are pushed meanwhile.
 4. A failed write or sync of the disk is as one of the log: sticky, nothing more is acknowledged, and recovery puts the
    disk right.

Threading: any thread, no GIL.
"""
cimport cython
from libc.stdint cimport uint8_t, uint32_t
from cdpcore.base.bell cimport ring
from cdpcore.base.clock cimport cdp_monotonic_ms
from cdpcore.base.crc32c cimport cdp_crc32c
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_BLOCK, CDP_SECTOR
from cdpcore.base.status cimport CDP_OK
from cdpcore.base.target cimport CDP_EXTENT_DATA, CDP_EXTENT_HOLE
from cdpcore.base.thread cimport (cdp_cond_init, cdp_cond_wait_ms, pthread_cond_broadcast, pthread_cond_destroy,
                                  pthread_cond_signal, pthread_cond_wait, pthread_mutex_destroy, pthread_mutex_init,
                                  pthread_mutex_lock, pthread_mutex_unlock)
from cdpcore.inplace.disk_sums cimport LONG_BYTES

cdef enum:
    PAUSE_MS = 50           # how often the applier thread looks without being woken
    WRITE_BYTES = 1 << 20   # at most so much of a stream, and a change, is written at once
    BREAK_EARLY = 1         # see DiskSettler.break_rule
    BREAK_SYNC = 2
    BREAK_SUMS = 4
    FULL_SHARE = 4          # it begins when a quarter of Pending's bytes are used
    SUMS_AT_ONCE = 64       # blocks whose checksums go into the table together

cdef uint8_t ZEROS[CDP_BLOCK]
cdef uint32_t ZERO_SUM = cdp_crc32c(0, ZEROS, CDP_BLOCK)

RULES = {"early": BREAK_EARLY, "sync": BREAK_SYNC, "sums": BREAK_SUMS}


@cython.final
cdef class DiskSettler:
    """Made by BeforeImages, which owns what is settled."""

    def __cinit__(self):
        pthread_mutex_init(&self.settling, NULL)
        cdp_cond_init(&self.settled)

    def __dealloc__(self):
        pthread_cond_destroy(&self.settled)
        pthread_mutex_destroy(&self.settling)

    def break_rule(self, rule: str):
        """For tests of the tests: from now on changes go to the disk before their before-images are durable ("early"),
        DiskState names what no sync of the disk covered ("sync"), or pages of the table of checksums go to its file
        before DiskState names the records that they are about ("sums")."""
        self.broken |= <uint32_t>RULES[rule]

    # --- asking -------------------------------------------------------------------------------------------------------

    cdef uint64_t covered_seq(self) noexcept nogil:
        return (<const volatile uint64_t *>&self.state.applied_seq)[0]      # a word that only grows: no lock

    cdef int settle_all(self, bint sync, cdp_status *st) noexcept nogil:
        cdef uint64_t seq, change
        cdef int rc = CDP_OK
        self.log.lock_append()
        self.log.close_frame()
        seq = self.log.last_seq
        change = self.pending.pushed()
        self.log.unlock_append()
        if sync or not self.broken & BREAK_EARLY:
            rc = self.log.wait_durable(seq, st)
        return self.settle(seq, change, sync, st) if rc == CDP_OK else rc

    cdef int settle(self, uint64_t seq, uint64_t change, bint sync, cdp_status *st) noexcept nogil:
        """The first to come leads a round for all that is durable by then, or a sync for all that is on the disk by
        then; those that come meanwhile share the next one. Takes no lock of the log's while it leads: a writer that
        holds the append lock may be waiting for a segment to be sealed, which waits for this."""
        cdef const reached *got = &self.synced if sync else &self.applied
        cdef reached now
        cdef bint applied
        cdef int rc = CDP_OK
        pthread_mutex_lock(&self.settling)
        while rc == CDP_OK and (got.seq < seq or got.change < change):
            if self.log.ring.failed:
                pthread_mutex_unlock(&self.settling)
                return self.log.ring.fail_sticky(st)
            applied = self.applied.seq >= seq and self.applied.change >= change
            if self.syncing if applied else self.busy:
                pthread_cond_wait(&self.settled, &self.settling)
                continue
            now = self.applied
            if applied:
                self.syncing = True
                pthread_mutex_unlock(&self.settling)
                rc = self.sync_disk(&now, st)
            else:
                self.busy = True
                pthread_mutex_unlock(&self.settling)
                rc = self.round(&now, st)
            if rc != CDP_OK:
                self.log.ring.fail(st.sys_errno, st.where)
            pthread_mutex_lock(&self.settling)
            if applied:
                self.syncing = False
            else:
                self.busy = False
            pthread_cond_broadcast(&self.settled)
        pthread_mutex_unlock(&self.settling)
        return self.put_sums(st) if rc == CDP_OK and self.sums.full else rc

    cdef int make_room(self, cdp_status *st) noexcept nogil:
        cdef uint64_t before = self.pending.released()
        cdef int rc = self.settle_all(False, st)
        if rc == CDP_OK and self.pending.released() == before:
            self.wait_for_readers()     # a reader had a change pinned, or others have claimed room
        return rc

    cdef void wake_if_full(self) noexcept nogil:
        if self.is_full() and not self.busy:
            pthread_cond_signal(&self.settled)
            if not self.attended and not self.log.files.inline_maintenance:
                ring()

    cdef void wait_for_readers(self) noexcept nogil:
        """Nothing is to be written, and yet Pending has no room: a reader pins a change, or did when it was to go."""
        pthread_mutex_lock(&self.settling)
        cdp_cond_wait_ms(&self.settled, &self.settling, 1)
        if not self.busy:
            self.pending.release(self.applied.seq, self.applied.change)
        pthread_mutex_unlock(&self.settling)

    cdef bint all_synced(self) noexcept nogil:
        return self.synced.seq == self.log.versions.visible_seq and self.synced.change == self.pending.pushed()

    # --- a sync, and a round: its leader only -------------------------------------------------------------------------

    cdef int sync_disk(self, const reached *now, cdp_status *st) noexcept nogil:
        """What the disk has reached becomes durable. Rounds go on meanwhile."""
        # Of a disk that was cut and made as long again nothing may say later that it holds everything.
        cdef int rc = CDP_OK
        if self.disk.cut:
            rc = self.disk.was_cut(st)
        elif not self.broken & BREAK_SYNC:
            rc = self.disk.sync(st)
        if rc == CDP_OK:
            rc = self.state.put(now.seq if not self.broken & BREAK_EARLY else min(now.seq, self.log.durable()), st)
        if rc == CDP_OK:
            pthread_mutex_lock(&self.settling)
            self.synced = now[0]
            pthread_mutex_unlock(&self.settling)
        return rc

    cdef int round(self, reached *now, cdp_status *st) noexcept nogil:
        """*now: where the last one ended."""
        cdef int rc
        now.seq = self.log.durable() if not self.broken & BREAK_EARLY else self.log.last_seq
        rc = self.apply(now, st)
        if self.broken & BREAK_SUMS and rc == CDP_OK and self.sums.on:
            self.sums.write(self.synced.seq)
        if rc != CDP_OK:
            return rc
        pthread_mutex_lock(&self.settling)
        self.applied = now[0]
        pthread_mutex_unlock(&self.settling)
        self.pending.release(now.seq, now.change)
        return CDP_OK

    cdef int apply(self, reached *now, cdp_status *st) noexcept nogil:
        """Changes from now.change on go to the disk, in order, while records up to now.seq are all that they wait for.
        It ends: room is given back after the round, so no more come than Pending has room for."""
        cdef pending_change *c = self.pending.ready(now.change, now.seq)
        cdef pending_change *next
        cdef uint64_t end
        cdef int rc = CDP_OK
        while rc == CDP_OK and c != NULL:
            now.change += 1
            end = c.end
            next = self.pending.ready(now.change, now.seq)
            # A stream: what follows it on the disk lies behind it in Pending, too.
            while next != NULL and c.kind == next.kind == CDP_EXTENT_DATA and next.start == end and \
                    (end - c.start) * CDP_SECTOR < WRITE_BYTES:
                now.change += 1
                end = next.end
                next = self.pending.ready(now.change, now.seq)
            rc = self.apply_changes(c, end, st)
            self.state.wrote()
            c = next
        return rc

    cdef int apply_changes(self, const pending_change *c, uint64_t end, cdp_status *st) noexcept nogil:
        """Change `c` and those behind it that go on up to sector `end`."""
        cdef uint64_t off = c.start * CDP_SECTOR, size = (end - c.start) * CDP_SECTOR, skip = 0, n
        cdef const uint8_t *p
        cdef int rc = CDP_OK
        if self.sums.on:
            self.sums.began(off, size)
        if c.kind != CDP_EXTENT_DATA:
            rc = self.disk.zero(off, size, c.kind == CDP_EXTENT_HOLE, st)
        while rc == CDP_OK and c.kind == CDP_EXTENT_DATA and skip < size:
            n = size - skip
            p = self.pending.piece(c.at + skip, &n)
            rc = self.disk.write(p, off + skip, n, st)
            skip += n
        if rc == CDP_OK and self.sums.on:
            self.sum_changes(c, end)
        return rc

    cdef void sum_changes(self, const pending_change *c, uint64_t end_sector) noexcept nogil:
        """They are on the disk: the table gets the checksums of their blocks."""
        cdef uint64_t off = c.start * CDP_SECTOR, end = end_sector * CDP_SECTOR, skip, n, left
        cdef uint64_t block = (off + CDP_BLOCK - 1) // CDP_BLOCK, stop = end // CDP_BLOCK
        cdef uint32_t sums[SUMS_AT_ONCE]
        cdef uint32_t i, k
        cdef const uint8_t *p
        cdef bint tail = end % CDP_BLOCK != 0 and stop >= block
        if c.kind != CDP_EXTENT_DATA and end - off >= LONG_BYTES:
            self.sums.unknown_from(off // CDP_BLOCK)
            self.sums.put(0, sums, 0, True)
            return
        if off % CDP_BLOCK or stop < block:
            self.sums.reread(off // CDP_BLOCK, stop <= block and not tail)
        while block < stop:
            k = <uint32_t>min(<uint64_t>SUMS_AT_ONCE, stop - block)
            for i in range(k):
                if c.kind != CDP_EXTENT_DATA:
                    sums[i] = ZERO_SUM if i == 0 else sums[0]
                    continue
                sums[i] = 0
                skip = (block + i) * CDP_BLOCK - off
                left = CDP_BLOCK
                while left:     # the ring may end inside a block
                    n = left
                    p = self.pending.piece(c.at + skip, &n)
                    sums[i] = cdp_crc32c(sums[i], p, n)
                    skip += n
                    left -= n
            block += k
            self.sums.put(block - k, sums, k, block == stop and not tail)
        if tail:
            self.sums.reread(stop, True)

    cdef int put_sums(self, cdp_status *st) noexcept nogil:
        """The table is written, between two rounds and two syncs: it is of the record that DiskState names."""
        cdef reached now
        cdef int rc = CDP_OK
        if not self.sums.on:
            return CDP_OK
        pthread_mutex_lock(&self.settling)
        while (self.busy or self.syncing) and not self.log.ring.failed:
            pthread_cond_wait(&self.settled, &self.settling)
        if self.log.ring.failed:
            pthread_mutex_unlock(&self.settling)
            return self.log.ring.fail_sticky(st)
        self.busy = self.syncing = True
        now = self.applied
        pthread_mutex_unlock(&self.settling)
        if now.seq != self.synced.seq or now.change != self.synced.change or self.disk.cut:
            rc = self.sync_disk(&now, st)
        if rc == CDP_OK:
            self.sums.write(now.seq)
        else:
            self.log.ring.fail(st.sys_errno, st.where)
        pthread_mutex_lock(&self.settling)
        self.busy = self.syncing = False
        pthread_cond_broadcast(&self.settled)
        pthread_mutex_unlock(&self.settling)
        return rc

    # --- for Python ---------------------------------------------------------------------------------------------------

    def run(self, uint32_t commit_interval_ms, uint32_t linger_ms, uint32_t turn_ms):
        """The applier thread: keeps Pending from filling up, and makes everything durable when that is due (wanted).
        Returns when there was nothing to do for `linger_ms`, after `turn_ms`, after stop(), or after a failure."""
        cdef cdp_status st
        cdef uint64_t now, until, first, turn = cdp_monotonic_ms() + turn_ms
        cdef int rc = CDP_OK
        cdef bint sync, full
        with nogil:
            while rc == CDP_OK:
                pthread_mutex_lock(&self.settling)
                self.attended = True
                now = cdp_monotonic_ms()
                until = min(now + linger_ms, turn)
                while True:
                    self.note_due(commit_interval_ms, 0)
                    sync = self.commit_due_ms and now >= self.commit_due_ms
                    full = self.is_full()
                    if sync or full or self.stopping or self.log.ring.failed or now >= until:
                        break
                    cdp_cond_wait_ms(&self.settled, &self.settling, <uint32_t>min(until - now, <uint64_t>PAUSE_MS))
                    now = cdp_monotonic_ms()
                if self.stopping or self.log.ring.failed or not sync and not full or now >= turn:
                    self.attended = False
                    pthread_mutex_unlock(&self.settling)
                    break
                if sync:
                    self.commit_due_ms = 0
                pthread_mutex_unlock(&self.settling)
                if full or not self.all_synced():
                    first = self.pending.gone()
                    rc = self.settle_all(sync, &st)
                    if rc == CDP_OK and not sync and self.pending.gone() == first:
                        self.wait_for_readers()
            if rc != CDP_OK:
                pthread_mutex_lock(&self.settling)
                self.attended = False
                pthread_mutex_unlock(&self.settling)

    cdef bint is_full(self) noexcept nogil:
        return self.pending.used_bytes() > self.pending.data_bytes // FULL_SHARE

    cdef void note_due(self, uint32_t interval_ms, uint32_t look_ms) noexcept nogil:
        """settling held; as Log.note_due()."""
        if not self.commit_due_ms and interval_ms and not self.all_synced():
            self.commit_due_ms = cdp_monotonic_ms() + interval_ms - min(look_ms, interval_ms - 1)

    def wanted(self, uint32_t commit_interval_ms, uint32_t look_ms):
        """As Log.wants_writer(), for run()."""
        cdef bint some
        cdef uint64_t now
        with nogil:
            pthread_mutex_lock(&self.settling)
            now = cdp_monotonic_ms()
            self.note_due(commit_interval_ms, look_ms)
            some = not self.attended and not self.stopping and not self.log.ring.failed and (
                self.is_full() or self.commit_due_ms and now >= self.commit_due_ms)
            pthread_mutex_unlock(&self.settling)
        return bool(some)

    def stop(self):
        """Let run() return."""
        with nogil:
            pthread_mutex_lock(&self.settling)
            self.stopping = True
            pthread_cond_broadcast(&self.settled)
            pthread_mutex_unlock(&self.settling)

    def settle_disk(self, upto: int | None = None):
        """Return when everything is on the disk, durably; or with `upto` the records up to that one, which are durable
        in the log. Of everything nothing is left in Pending either, where a look for what a destructive restore put
        over it would find it."""
        cdef cdp_status st
        cdef uint64_t change
        cdef uint64_t seq = 0 if upto is None else upto
        cdef bint all_of_it = upto is None
        cdef int rc
        with nogil:
            change = self.pending.pushed() if all_of_it else 0
            rc = self.settle_all(True, &st) if all_of_it else self.settle(seq, 0, True, &st)
            while rc == CDP_OK and self.pending.gone() < change:
                self.wait_for_readers()
        check(rc, &st, None)

    def write_sums(self):
        """Return when the table of checksums, where there is one, is of all that is on the disk by now, durably. A
        failure of the table is none of this."""
        cdef cdp_status st
        cdef int rc
        with nogil:
            rc = self.put_sums(&st)
        check(rc, &st, None)

    def on_disk(self) -> bool:
        """Whether the disk holds every record and change, durably."""
        return self.all_synced() and not self.log.ring.failed and not self.disk.cut
