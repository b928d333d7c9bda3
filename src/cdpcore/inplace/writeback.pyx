"""Putting a restore on the disk, piece by piece: the volume shows it already, from its log.

A restore that keeps history puts its content there as any write does, as WRITEBACK records whose before-images are what
the disk held; so it can be undone, and killed. A destructive one overwrites without a record: it discards what was
there.

Threading: any thread, beside the volume's requests. When and how fast is the caller's (cdp.volume.writeback).
"""
cimport cython
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_KIND_WRITEBACK, CDP_LOC_BASE, CDP_SECTOR
from cdpcore.base.gate cimport cdp_gate_leave
from cdpcore.base.status cimport CDP_CORRUPT, CDP_OK, cdp_fail, cdp_fail_os
from cdpcore.base.target cimport CDP_EXTENT_DATA, CDP_EXTENT_UNKNOWN
from cdpcore.index.versions cimport ALL, drop, moment
from cdpcore.inplace.reader cimport AGAIN
from cdpcore.inplace.spans cimport data_bytes, set_span
from cdpcore.log.record cimport MAX_PARTS
from cdpcore.volume.extents cimport kind_of


@cython.final
cdef class RestoreWriter:
    """Args: core: the volume's; images: its content."""

    def __cinit__(self, VolumeCore core not None, BeforeImages images not None):
        self.core = core
        self.images = images

    def not_on_disk(self, uint64_t offset, uint64_t length):
        """(first offset, bytes) of what the current lineage shows in a range (whole sectors, some MiB) and the disk
        does not have; the offset is the range's end where there is nothing."""
        cdef cdp_status st
        cdef pieces p
        cdef moment m
        cdef uint64_t i, first = offset + length, n = 0
        cdef int rc = self.core.enter(offset, length, &st)
        check(rc, &st, None)
        with nogil:
            rc = self.images.versions.resolve_before(NULL, offset // CDP_SECTOR, (offset + length) // CDP_SECTOR, ALL,
                                                     &p, &m, &st)
            if rc == CDP_OK:
                for i in range(p.n):
                    if p.at[i].loc != CDP_LOC_BASE:
                        first = min(first, p.at[i].start * CDP_SECTOR)
                        n += (p.at[i].end - p.at[i].start) * CDP_SECTOR
                drop(&p)
        cdp_gate_leave(&self.core.gate)
        check(rc, &st, None)
        return first, n

    def write_back(self, uint64_t offset, uint64_t length, uint32_t max_records):
        """Bring a range of the disk (whole sectors) to what the current lineage shows of it. Stops after `max_records`.
        Returns (up to where, bytes that were not on the disk yet)."""
        cdef cdp_status st
        cdef uint64_t n = 0, at = offset // CDP_SECTOR
        cdef int rc = self.core.enter(offset, length, &st)
        check(rc, &st, None)
        with nogil:
            rc = self.write_range(&at, (offset + length) // CDP_SECTOR, max_records, &n, &st)
        cdp_gate_leave(&self.core.gate)
        check(rc, &st, None)
        return at * CDP_SECTOR, n

    cdef int write_range(self, uint64_t *at, uint64_t end, uint32_t max_records, uint64_t *n,
                         cdp_status *st) noexcept nogil:
        cdef pieces p
        cdef moment m
        cdef uint64_t start = at[0], stop, i, generation
        cdef uint32_t ticket, n_records = 0
        cdef int rc = CDP_OK
        while start < end and rc == CDP_OK and n_records < max_records:
            stop = min(start + self.images.max_request_bytes // CDP_SECTOR, end)
            ticket = self.images.ranges.acquire(start, stop)
            generation = self.images.reader.current_generation()
            rc = self.images.versions.resolve_before(NULL, start, stop, ALL, &p, &m, st)
            if rc == CDP_OK:
                i = 0
                while rc == CDP_OK and i < p.n and n_records < max_records:
                    if p.at[i].loc == CDP_LOC_BASE:
                        i += 1
                        continue
                    rc = self.write_pieces(&p, &i, generation, n, st)
                    if rc == CDP_OK:
                        n_records += 1
                if rc == CDP_OK:
                    start = p.at[i].start if i < p.n else stop
                drop(&p)
            self.images.ranges.release(ticket)
            if rc == AGAIN:         # another restore came: look again
                rc = CDP_OK
        at[0] = start
        return rc

    cdef int write_pieces(self, const pieces *p, uint64_t *i, uint64_t generation, uint64_t *n,
                          cdp_status *st) noexcept nogil:
        cdef span s[MAX_PARTS]
        cdef uint32_t n_spans = 0
        cdef uint64_t size = 0, k = i[0], seq
        cdef uint8_t *content
        cdef uint8_t *at
        cdef int rc = CDP_OK
        while k < p.n and k - i[0] < MAX_PARTS and p.at[k].loc != CDP_LOC_BASE:
            size += (p.at[k].end - p.at[k].start) * CDP_SECTOR
            k += 1
        content = at = <uint8_t *>malloc(size)
        if content == NULL:
            return cdp_fail_os(st, -ENOMEM, p.at[i[0]].start * CDP_SECTOR, b"writing a restore back")
        while rc == CDP_OK and i[0] < k:
            set_span(&s[n_spans], p.at[i[0]].start, p.at[i[0]].end, kind_of(p.at[i[0]].loc), at)
            if s[n_spans].kind == CDP_EXTENT_UNKNOWN:       # restores to such a moment are refused
                rc = cdp_fail(st, CDP_CORRUPT, 0, s[n_spans].start * CDP_SECTOR,
                              b"a restore to what is not known since the disk was changed outside cdp")
            elif s[n_spans].kind == CDP_EXTENT_DATA:
                rc = self.images.log_data.read(at, p.at[i[0]].loc, 0, (s[n_spans].end - s[n_spans].start) * CDP_SECTOR,
                                               True, st)
            at += (s[n_spans].end - s[n_spans].start) * CDP_SECTOR
            n_spans += 1
            i[0] += 1
        if rc == CDP_OK and self.images.discarding:
            rc = self.overwrite_held(s, n_spans, generation, st)
        elif rc == CDP_OK:
            rc = self.images.change_held(CDP_KIND_WRITEBACK, s, n_spans, 0, generation, &seq, st)
        free(content)
        if rc == CDP_OK:
            n[0] += size
        return rc

    cdef int overwrite_held(self, const span *s, uint32_t n, uint64_t generation, cdp_status *st) noexcept nogil:
        """As change_held, but no record and no before-image. Nobody reads this from Pending or the disk before it is
        there: the versions that it comes from are shown until the restore is done."""
        cdef uint64_t bytes = data_bytes(s, n)
        cdef uint32_t i
        cdef int rc = self.images.cover_restore(st)
        if rc == CDP_OK:
            rc = self.images.claim(bytes, n, st)
        if rc != CDP_OK:
            return rc
        self.images.log.lock_append()
        if generation == self.images.reader.generation:
            for i in range(n):
                self.images.pending.push(self.images.log.last_seq, False, s[i].start, s[i].end, s[i].kind, s[i].data)
        else:
            self.images.pending.unclaim(bytes, n)
            rc = AGAIN
        self.images.log.unlock_append()
        return rc
