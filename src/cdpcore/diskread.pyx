"""What a disk that is written in place holds, and held: the reading half of a before-image volume's core (inplace.pyx).

What is newer than the disk comes from Pending, the rest from the disk; a time image takes the oldest version after its moment from the
log, and the rest as a read of now does. Reading takes no lock that a write waits for: it looks afterwards whether its range was
changed meanwhile, and then reads again; after some times it holds the range.

Threading: any thread, no GIL.
"""
from libc.errno cimport ESHUTDOWN
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from cdpcore.errors cimport CDP_CLOSED, CDP_OK, cdp_fail, cdp_fail_os
from cdpcore.index cimport CDP_LOC_BASE, CDP_LOC_HOLE, cdp_loc_is_data
from cdpcore.pending cimport pending_change
from cdpcore.versions cimport drop
from cdpcore.volume cimport (CDP_EXTENT_DATA, CDP_EXTENT_HOLE, CDP_EXTENT_ZERO, add_extent, cdp_extent, cdp_gate_enter,
                             cdp_gate_leave, map_base)

cdef extern from "format.h" nogil:
    enum:
        CDP_SECTOR

cdef enum:
    READ_TRIES = 8          # then a reader holds its range
    FULL = -1               # of add_extent: the list is full


cdef class DiskReader(VolumeCore):
    """See inplace.InPlaceCore, which is complete."""

    cdef uint64_t current_epoch(self) noexcept nogil:
        return (<const volatile uint64_t *>&self.epoch)[0]      # checked again under the append lock

    cdef int read_inside(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, cdp_status *st) noexcept nogil:
        cdef uint64_t start = off // CDP_SECTOR, end = (off + n + CDP_SECTOR - 1) // CDP_SECTOR
        cdef uint32_t tries, ticket
        cdef moment m
        cdef int rc
        if n == 0:
            return CDP_OK
        for tries in range(READ_TRIES):
            rc = self.read_once(view, buf, off, n, &m, st)
            if rc != AGAIN:
                return rc
        ticket = self.ranges.acquire(start, end)
        rc = AGAIN
        while rc == AGAIN:
            rc = self.read_once(view, buf, off, n, &m, st)
        self.ranges.release(ticket)
        return rc

    cdef int read_once(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil:
        """AGAIN: the range was changed meanwhile."""
        cdef uint64_t epoch = self.current_epoch()
        cdef int rc
        if view != NULL:
            return self.read_view(view, buf, off, n, m, st)
        rc = self.read_now(buf, off, n, m, st)
        # What a destructive restore puts on the disk leaves no version: that it has begun is enough to look again.
        if rc == CDP_OK and (epoch != self.current_epoch() or
                             not self.versions.untouched(m, off // CDP_SECTOR, (off + n + CDP_SECTOR - 1) // CDP_SECTOR)):
            return AGAIN
        return rc

    cdef int read_now(self, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil:
        """The current content: of the moment m where nothing changed the range since (the caller looks, or holds it)."""
        if self.restoring:
            return self.read_view(NULL, buf, off, n, m, st)
        return self.read_disk(buf, off, n, m, st)

    cdef int read_disk(self, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil:
        """What the disk holds, or will hold when Pending is on it."""
        cdef pieces p
        cdef uint64_t i, a, b, step
        cdef pending_change *c
        cdef int64_t got
        cdef bint lost = True
        cdef int rc
        while lost:
            rc = self.versions.resolve_seqs(self.pending.released(), off // CDP_SECTOR, (off + n + CDP_SECTOR - 1) // CDP_SECTOR,
                                            &p, m, st)
            if rc != CDP_OK:
                return rc
            lost = False
            for i in range(p.n):
                a = max(p.at[i].start * CDP_SECTOR, off)
                b = min(p.at[i].end * CDP_SECTOR, off + n)
                if p.at[i].loc == 0:
                    got = self.table.pread(self.table.ctx, self.base_fd, buf + (a - off), b - a, a)
                    if got < 0:
                        drop(&p)
                        return cdp_fail_os(st, got, a, b"reading the disk")
                    memset(buf + (a - off) + got, 0, (b - a) - <uint64_t>got)
                    continue
                while a < b:
                    c = self.pending.pin(p.at[i].loc, a // CDP_SECTOR)
                    if c == NULL:       # it is on the disk by now
                        lost = True
                        break
                    step = min(b, c.end * CDP_SECTOR) - a
                    if c.kind == CDP_EXTENT_DATA:
                        self.pending.copy_out(c, a - c.start * CDP_SECTOR, buf + (a - off), step)
                    else:
                        memset(buf + (a - off), 0, step)
                    self.pending.unpin(c)
                    a += step
                if lost:
                    break
            drop(&p)
        return CDP_OK

    cdef int read_view(self, const cdp_view *view, uint8_t *buf, uint64_t off, uint64_t n, moment *m, cdp_status *st) noexcept nogil:
        """As of `view`; AGAIN where the disk was to be read and has been changed there meanwhile."""
        cdef pieces p
        cdef uint64_t i, a, b
        cdef moment now
        cdef int rc = self.versions.resolve_before(view, off // CDP_SECTOR, (off + n + CDP_SECTOR - 1) // CDP_SECTOR, &p, m, st)
        if rc != CDP_OK:
            return rc
        for i in range(p.n):
            a = max(p.at[i].start * CDP_SECTOR, off)
            b = min(p.at[i].end * CDP_SECTOR, off + n)
            if p.at[i].loc == CDP_LOC_BASE:
                rc = self.read_disk(buf + (a - off), a, b - a, &now, st)
                if rc == CDP_OK and not self.versions.untouched(m, p.at[i].start, p.at[i].end):
                    rc = AGAIN
            elif cdp_loc_is_data(p.at[i].loc):
                rc = self.read_data(buf + (a - off), p.at[i].loc, a - p.at[i].start * CDP_SECTOR, b - a, st)
            else:
                memset(buf + (a - off), 0, b - a)
            if rc != CDP_OK:
                break
        drop(&p)
        return rc

    cdef int map(self, const cdp_view *view, uint64_t off, uint64_t n, cdp_extent *out, uint32_t cap, uint32_t *got,
                 cdp_status *st) noexcept nogil:
        """As cdp_target.map, in windows of 1 GiB."""
        cdef uint64_t at = off, end = off + n, stop, last_bytes
        cdef uint32_t count = 0, before
        cdef moment m
        cdef int rc
        got[0] = 0
        if not cdp_gate_enter(&self.gate):
            return cdp_fail(st, CDP_CLOSED, ESHUTDOWN, 0, b"the volume is closed")
        rc = self.check_range(off, n, st)
        while rc == CDP_OK and at < end:
            stop = min(end, (at // (1 << 30) + 1) * (1 << 30))
            before = count
            last_bytes = out[count - 1].length if count else 0
            if view != NULL or self.restoring:
                rc = self.map_view(view, at, stop, out, cap, &count, &m, st)
            else:
                rc = self.map_disk(at, stop, out, cap, &count, st)
            if rc == AGAIN:
                count = before
                if count:
                    out[count - 1].length = last_bytes
                rc = CDP_OK
                continue
            at = stop
        cdp_gate_leave(&self.gate)
        got[0] = count
        return CDP_OK if rc == FULL else rc

    cdef int map_disk(self, uint64_t off, uint64_t end, void *out, uint32_t cap, uint32_t *count, cdp_status *st) noexcept nogil:
        cdef pieces p
        cdef uint64_t i, a, b, step
        cdef pending_change *c
        cdef moment m
        cdef uint32_t kind
        cdef int rc = self.versions.resolve_seqs(self.pending.released(), off // CDP_SECTOR, (end + CDP_SECTOR - 1) // CDP_SECTOR,
                                                 &p, &m, st)
        if rc != CDP_OK:
            return rc
        for i in range(p.n):
            a = max(p.at[i].start * CDP_SECTOR, off)
            b = min(p.at[i].end * CDP_SECTOR, end)
            if p.at[i].loc == 0:
                rc = map_base(self, a, b, <cdp_extent *>out, cap, count, st)
                a = b
            while rc == CDP_OK and a < b:
                c = self.pending.pin(p.at[i].loc, a // CDP_SECTOR)
                if c == NULL:
                    rc = AGAIN
                    break
                step = min(b, c.end * CDP_SECTOR) - a
                kind = c.kind
                self.pending.unpin(c)
                rc = add_extent(<cdp_extent *>out, cap, count, a, a + step, kind)
                a += step
            if rc != CDP_OK:
                break
        drop(&p)
        return rc

    cdef int map_view(self, const cdp_view *view, uint64_t off, uint64_t end, void *out, uint32_t cap, uint32_t *count, moment *m,
                      cdp_status *st) noexcept nogil:
        cdef pieces p
        cdef uint64_t i, a, b
        cdef uint32_t kind
        cdef int rc = self.versions.resolve_before(view, off // CDP_SECTOR, (end + CDP_SECTOR - 1) // CDP_SECTOR, &p, m, st)
        if rc != CDP_OK:
            return rc
        for i in range(p.n):
            a = max(p.at[i].start * CDP_SECTOR, off)
            b = min(p.at[i].end * CDP_SECTOR, end)
            if p.at[i].loc == CDP_LOC_BASE:
                rc = self.map_disk(a, b, out, cap, count, st)
                if (rc == CDP_OK or rc == FULL) and not self.versions.untouched(m, p.at[i].start, p.at[i].end):
                    rc = AGAIN
            else:
                kind = CDP_EXTENT_DATA
                if not cdp_loc_is_data(p.at[i].loc):
                    kind = CDP_EXTENT_HOLE if p.at[i].loc == CDP_LOC_HOLE else CDP_EXTENT_ZERO
                rc = add_extent(<cdp_extent *>out, cap, count, a, b, kind)
            if rc != CDP_OK:
                break
        drop(&p)
        return rc
