"""What a disk that is written in place holds, and held: the reading half of a before-image volume's core (inplace.pyx).

What is newer than the disk comes from Pending, the rest from the disk; a time image takes the oldest version after its moment from the
log, and the rest as a read of now does. Reading takes no lock that a write waits for: it looks afterwards whether its range was
changed meanwhile, and then reads again; after some times it holds the range. Block status says less instead.

Threading: any thread, no GIL.
"""
from libc.errno cimport EIO
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from cdpcore.base.format cimport CDP_LOC_BASE, CDP_SECTOR, cdp_loc_is_data
from cdpcore.base.status cimport CDP_OK, CDP_UNAVAILABLE, cdp_fail, cdp_fail_os
from cdpcore.base.target cimport CDP_EXTENT_DATA
from cdpcore.index.versions cimport drop, pieces
from cdpcore.inplace.pending cimport pending_change
from cdpcore.volume.extents cimport FULL, add_extent, add_file, cut_extents, kind_of


cdef enum:
    READ_TRIES = 8          # then a reader holds its range
    MAP_TRIES = 4           # then what changes is called data; a look-up of a fragmented gigabyte takes some milliseconds


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
                    if <uint64_t>got != b - a:
                        drop(&p)
                        rc = cdp_fail(st, CDP_UNAVAILABLE, EIO, a, b"the disk ends before its data: it was cut while it was open")
                        st.expected = b - a
                        st.actual = <uint64_t>got
                        return rc
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

    cdef int map_window(self, const cdp_view *view, uint64_t at, uint64_t end, extents *out, cdp_status *st) noexcept nogil:
        """What is changed again and again while it is looked at is called data, which is never wrong, only less than could be told.
        Holding the range, as a reader does, would let all its writers wait for a look at a gigabyte."""
        cdef uint32_t tries
        cdef int rc = AGAIN
        for tries in range(MAP_TRIES):
            if rc != AGAIN:
                break
            cut_extents(out, at)
            if view != NULL or self.restoring:
                rc = self.map_view(view, at, end, tries + 1 == MAP_TRIES, out, st)
            else:
                rc = self.map_disk(at, end, tries + 1 == MAP_TRIES, out, st)
        return rc

    cdef int map_disk(self, uint64_t off, uint64_t end, bint last, extents *out, cdp_status *st) noexcept nogil:
        """AGAIN, but not the `last` time: what was pending has come to the disk meanwhile."""
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
                rc = add_file(out, self.table, self.base_fd, a, b, st)
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

    cdef int map_view(self, const cdp_view *view, uint64_t off, uint64_t end, bint last, extents *out, cdp_status *st) noexcept nogil:
        cdef pieces p
        cdef uint64_t i, a, b
        cdef moment m
        cdef int rc = self.versions.resolve_before(view, off // CDP_SECTOR, (end + CDP_SECTOR - 1) // CDP_SECTOR, &p, &m, st)
        if rc != CDP_OK:
            return rc
        for i in range(p.n):
            a = max(p.at[i].start * CDP_SECTOR, off)
            b = min(p.at[i].end * CDP_SECTOR, end)
            if p.at[i].loc != CDP_LOC_BASE:
                rc = add_extent(out, a, b, kind_of(p.at[i].loc))
            else:
                rc = self.map_disk(a, b, last, out, st)
                if (rc == CDP_OK or rc == FULL) and not self.versions.untouched(&m, p.at[i].start, p.at[i].end):
                    rc = AGAIN
                    if last:
                        cut_extents(out, a)
                        rc = add_extent(out, a, b, CDP_EXTENT_DATA)
            if rc != CDP_OK:
                break
        drop(&p)
        return rc
