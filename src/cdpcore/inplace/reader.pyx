"""The read path of a before-image volume: the content of now, and of any earlier moment.

What is newer than the disk comes from Pending, the rest from the disk. A time image takes the oldest version after its
moment from the log, and the rest as a read of now does. A reader takes no lock that a write waits for: it checks
afterwards whether its range was changed meanwhile, and then reads again; after READ_TRIES times it holds the range.
Block status reports less instead.

Threading: any thread, no GIL.
"""
cimport cython
from libc.stdint cimport uint32_t
from libc.string cimport memset
from cdpcore.base.format cimport CDP_LOC_BASE, CDP_LOC_UNKNOWN, CDP_SECTOR, cdp_loc_is_data
from cdpcore.base.status cimport CDP_CORRUPT, CDP_OK, CDP_WOULD_WAIT, cdp_fail
from cdpcore.base.target cimport CDP_EXTENT_DATA
from cdpcore.index.versions cimport ALL, drop, pieces
from cdpcore.inplace.pending cimport pending_change
from cdpcore.log.damage cimport THE_DISK
from cdpcore.volume.extents cimport FULL, add_extent, cut_extents, kind_of

cdef enum:
    READ_TRIES = 8          # then a reader holds its range
    MAP_TRIES = 4           # then what changes is called data; a fragmented gigabyte takes some milliseconds

cdef const char *UNKNOWN = b"not known since the disk was changed outside cdp"


@cython.final
cdef class DiskReader:
    """Made by BeforeImages, which owns what is read."""

    # --- reading ------------------------------------------------------------------------------------------------------

    cdef int read(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                  cdp_status *st) noexcept nogil:
        cdef uint32_t tries, ticket
        cdef moment m
        cdef int rc
        if n == 0:
            return CDP_OK
        for tries in range(READ_TRIES):
            rc = self.read_once(view, buf, off, n, wait, &m, st)
            if rc != AGAIN:
                return rc
        if not wait:
            return CDP_WOULD_WAIT
        ticket = self.ranges.acquire(off // CDP_SECTOR, (off + n + CDP_SECTOR - 1) // CDP_SECTOR)
        rc = AGAIN
        while rc == AGAIN:
            rc = self.read_once(view, buf, off, n, wait, &m, st)
        self.ranges.release(ticket)
        return rc

    cdef uint64_t current_generation(self) noexcept nogil:
        return (<const volatile uint64_t *>&self.generation)[0]

    cdef int read_once(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                       moment *m, cdp_status *st) noexcept nogil:
        """AGAIN: the range was changed meanwhile."""
        cdef uint64_t generation = self.current_generation()
        cdef int rc
        if view != NULL:
            return self.read_view(view, buf, off, n, wait, m, st)
        rc = self.read_now(buf, off, n, wait, m, st)
        # What a destructive restore puts on the disk leaves no version: that it has begun is enough to look again.
        if rc == CDP_OK and (generation != self.current_generation() or not
                             self.versions.untouched(m, off // CDP_SECTOR, (off + n + CDP_SECTOR - 1) // CDP_SECTOR)):
            return AGAIN
        return rc

    cdef int read_now(self, uint8_t *buf, uint64_t off, uint64_t n, bint wait, moment *m,
                       cdp_status *st) noexcept nogil:
        if self.restoring:
            return self.read_view(NULL, buf, off, n, wait, m, st)
        return self.read_disk(buf, off, n, wait, False, m, st)

    cdef int read_disk(self, uint8_t *buf, uint64_t off, uint64_t n, bint wait, bint checked, moment *m,
                       cdp_status *st) noexcept nogil:
        cdef pieces p
        cdef uint64_t i, a, b
        cdef int rc = AGAIN
        while rc == AGAIN:
            rc = self.versions.resolve_seqs(self.pending.released(), off // CDP_SECTOR,
                                            (off + n + CDP_SECTOR - 1) // CDP_SECTOR, ALL, &p, m, st)
            if rc != CDP_OK:
                return rc
            for i in range(p.n):
                a = max(p.at[i].start * CDP_SECTOR, off)
                b = min(p.at[i].end * CDP_SECTOR, off + n)
                if p.at[i].loc == 0 and checked:
                    rc = self.sums.read_checked(buf + (a - off), a, b - a, wait, st)
                    if rc == CDP_CORRUPT:
                        self.log_data.damage.note(THE_DISK, st)
                elif p.at[i].loc == 0:
                    rc = self.disk.read(buf + (a - off), a, b - a, wait, st)
                else:
                    rc = self.read_pending(p.at[i].loc, buf + (a - off), a, b, st)
                if rc != CDP_OK:
                    break
            drop(&p)
        return rc

    cdef int read_pending(self, uint64_t seq, uint8_t *buf, uint64_t off, uint64_t end, cdp_status *st) noexcept nogil:
        """What record `seq` put into [off, end). AGAIN: it is on the disk by now."""
        cdef pending_change *c
        cdef uint64_t at = off, step
        while at < end:
            c = self.pending.pin(seq, at // CDP_SECTOR)
            if c == NULL:
                return AGAIN
            step = min(end, c.end * CDP_SECTOR) - at
            if c.kind == CDP_EXTENT_DATA:
                self.pending.copy_out(c, at - c.start * CDP_SECTOR, buf + (at - off), step)
            else:
                memset(buf + (at - off), 0, step)
            self.pending.unpin(c)
            at += step
        return CDP_OK

    cdef int read_view(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, bint wait,
                       moment *m, cdp_status *st) noexcept nogil:
        """As of `view`; AGAIN where the disk was to be read and has been changed there meanwhile."""
        cdef pieces p
        cdef uint64_t i, a, b
        cdef moment now
        cdef int rc = self.versions.resolve_before(view, off // CDP_SECTOR, (off + n + CDP_SECTOR - 1) // CDP_SECTOR,
                                                   ALL, &p, m, st)
        if rc != CDP_OK:
            return rc
        for i in range(p.n):
            a = max(p.at[i].start * CDP_SECTOR, off)
            b = min(p.at[i].end * CDP_SECTOR, off + n)
            if p.at[i].loc == CDP_LOC_BASE:
                rc = self.read_disk(buf + (a - off), a, b - a, wait, view != NULL, &now, st)
                if rc == CDP_OK and not self.versions.untouched(m, p.at[i].start, p.at[i].end):
                    rc = AGAIN
            elif cdp_loc_is_data(p.at[i].loc):
                rc = self.log_data.read(buf + (a - off), p.at[i].loc, a - p.at[i].start * CDP_SECTOR, b - a, wait,
                                        st)
            elif p.at[i].loc == CDP_LOC_UNKNOWN:
                rc = cdp_fail(st, CDP_CORRUPT, 0, a, UNKNOWN)
            else:
                memset(buf + (a - off), 0, b - a)
            if rc != CDP_OK:
                break
        drop(&p)
        return rc

    # --- block status -------------------------------------------------------------------------------------------------

    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t end, uint64_t most, extents *out, uint64_t *reached,
                 cdp_status *st) noexcept nogil:
        """What changes again and again while it is looked at is called data, which is never wrong, only imprecise.
        Holding the range, as a reader does, would let all its writers wait for a look at a gigabyte."""
        cdef uint32_t tries
        cdef int rc = AGAIN
        for tries in range(MAP_TRIES):
            if rc != AGAIN:
                break
            cut_extents(out, off)
            if view != NULL or self.restoring:
                rc = self.map_view(view, off, end, most, tries + 1 == MAP_TRIES, out, reached, st)
            else:
                rc = self.map_disk(off, end, most, tries + 1 == MAP_TRIES, out, reached, st)
        return rc

    cdef int map_disk(self, uint64_t off, uint64_t end, uint64_t most, bint last, extents *out, uint64_t *reached,
                      cdp_status *st) noexcept nogil:
        """AGAIN, but not the `last` time: what was pending has come to the disk meanwhile."""
        cdef pieces p
        cdef uint64_t i, a, b, step
        cdef pending_change *c
        cdef moment m
        cdef uint32_t kind
        cdef int rc = self.versions.resolve_seqs(self.pending.released(), off // CDP_SECTOR,
                                                 (end + CDP_SECTOR - 1) // CDP_SECTOR, most, &p, &m, st)
        if rc != CDP_OK:
            return rc
        out.steps += p.steps
        reached[0] = min(p.end * CDP_SECTOR, end)
        for i in range(p.n):
            a = max(p.at[i].start * CDP_SECTOR, off)
            b = min(p.at[i].end * CDP_SECTOR, end)
            if p.at[i].loc == 0:
                rc = self.disk.map(a, b, out, st)
                a = b
            while rc == CDP_OK and a < b:
                c = self.pending.pin(p.at[i].loc, a // CDP_SECTOR)
                if c != NULL:
                    step = min(b, c.end * CDP_SECTOR) - a
                    kind = c.kind
                    self.pending.unpin(c)
                elif last:
                    step = b - a
                    kind = CDP_EXTENT_DATA
                else:
                    rc = AGAIN
                    break
                rc = add_extent(out, a, a + step, kind)
                a += step
            if rc != CDP_OK:
                break
        drop(&p)
        return rc

    cdef int map_view(self, const cdp_view *view, uint64_t off, uint64_t end, uint64_t most, bint last, extents *out,
                      uint64_t *reached, cdp_status *st) noexcept nogil:
        cdef pieces p
        cdef uint64_t i, a, b, begin
        cdef moment m
        cdef int rc = self.versions.resolve_before(view, off // CDP_SECTOR, (end + CDP_SECTOR - 1) // CDP_SECTOR,
                                                   most, &p, &m, st)
        if rc != CDP_OK:
            return rc
        out.steps += p.steps
        reached[0] = min(p.end * CDP_SECTOR, end)
        for i in range(p.n):
            a = max(p.at[i].start * CDP_SECTOR, off)
            b = min(p.at[i].end * CDP_SECTOR, end)
            if p.at[i].loc != CDP_LOC_BASE:
                rc = add_extent(out, a, b, kind_of(p.at[i].loc))
                a = b
            while rc == CDP_OK and a < b:
                begin = a
                rc = self.map_disk(begin, b, most, last, out, &a, st)
                if (rc == CDP_OK or rc == FULL) and not \
                        self.versions.untouched(&m, begin // CDP_SECTOR, (a + CDP_SECTOR - 1) // CDP_SECTOR):
                    rc = AGAIN
                    if last:
                        cut_extents(out, begin)
                        rc = add_extent(out, begin, a, CDP_EXTENT_DATA)
            if rc != CDP_OK:
                break
        drop(&p)
        return rc

    cdef int known_hole(self, uint64_t start, uint64_t end, uint64_t *until, cdp_status *st) noexcept nogil:
        cdef uint64_t data, b
        cdef moment m
        cdef pieces p
        cdef int rc
        until[0] = start
        if self.restoring:
            return CDP_OK
        rc = self.versions.resolve_seqs(self.pending.released(), start, end, ALL, &p, &m, st)
        if rc != CDP_OK:
            return rc
        b = p.at[0].end if p.at[0].loc == 0 else start
        drop(&p)
        if b == start:
            return CDP_OK
        rc = self.disk.next_data(start * CDP_SECTOR, &data, st)
        if rc == CDP_OK:
            until[0] = max(start, min(b, data // CDP_SECTOR))
        return rc
