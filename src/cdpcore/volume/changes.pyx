"""What differs between two moments of a volume: first by the index, then by content.

written() is about versions: a range is WRITTEN where one of the moments shows a version that the other does not. What
both show alike is passed over by the index, run by run, so it costs what was changed between them and not what the
volume holds. differences() then reads what was written at both, and keeps what is not the same, sector by sector;
zeros, holes and data that is zeros are the same content.

Threading: written() and map(): any thread, no GIL. differences(): one thread at a time for each object; the GIL is
released.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport ENOMEM
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_LOC_BASE, CDP_SECTOR
from cdpcore.base.gate cimport cdp_gate_leave
from cdpcore.base.status cimport CDP_OK, cdp_fail_os
from cdpcore.base.target cimport CDP_EXTENT_HOLE, CDP_EXTENT_ZERO
from cdpcore.base.zeros cimport cdp_is_zero
from cdpcore.index.index cimport cdp_view_changes
from cdpcore.index.snapshot cimport cdp_snapshot, cdp_snapshot_unref
from cdpcore.index.versions cimport drop, pieces
from cdpcore.volume.extents cimport FULL, add_extent

cdef enum:
    CHUNK = 1 << 20         # bytes that are compared at a time
    MOST = 1024             # steps of the index at a time: the index lock is held for them, some 50 us
    EXTENTS = 64            # of written() at a time
    MAX_ROWS = 1 << 16


cdef void free_view(cdp_view *v) noexcept nogil:
    free(<void *>v.pieces)
    free(<void *>v.intervals)


cdef int add_row(extents *out, uint64_t a, uint64_t b, uint32_t kind) noexcept nogil:
    """[a, b), which lies behind what is there, but perhaps not next to it. CDP_OK or FULL."""
    cdef cdp_extent *last
    if out.n:
        last = &out.at[out.n - 1]
        if last.kind == kind and last.offset + last.length == a:
            last.length += b - a
            return CDP_OK
    if out.n == out.cap:
        return FULL
    out.at[out.n].offset = a
    out.at[out.n].length = b - a
    out.at[out.n].kind = kind
    out.at[out.n].reserved = 0
    out.n += 1
    return CDP_OK


cdef int map_changes(void *ctx, uint64_t off, uint64_t n, cdp_extent *out, uint32_t cap, uint32_t *got,
                     cdp_status *st) noexcept nogil:
    return (<Changes>ctx).map(off, n, out, cap, got, st)


cdef void release_capsule(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))


@cython.final
cdef class Changes:
    """Args: core: of the volume; first, second: views of two of its moments; second None: now, whatever comes; pin:
    kept alive. The views keep what they show only where their maker sees to that (cdp.volume.volume)."""

    def __cinit__(self, VolumeCore core not None, View first not None, View second=None, pin=None):
        self.core = core
        self.pin = pin
        self.as_map.ctx = <void *>self
        self.as_map.map = map_changes
        self.first = first
        self.second = second
        if second is not None and cdp_view_changes(&first.v, &second.v, &self.between) != 0:
            raise MemoryError()

    def __dealloc__(self):
        free_view(&self.between)
        free(self.one)
        free(self.other)

    cdef int written(self, uint64_t off, uint64_t end, uint64_t most, extents *out, uint64_t *reached,
                     cdp_status *st) noexcept nogil:
        cdef cdp_view fresh
        cdef cdp_view *view = &self.between
        cdef cdp_snapshot *snap
        cdef pieces p
        cdef uint64_t i, a, b
        cdef int rc
        if self.second is None:
            # The lineage of now changes with each restore. One that comes after this line counts as after the look.
            snap = self.core.versions.reference()
            rc = cdp_view_changes(&self.first.v, &snap.view, &fresh)
            cdp_snapshot_unref(snap)
            if rc != 0:
                return cdp_fail_os(st, -ENOMEM, off, b"looking up changes")
            view = &fresh
        rc = self.core.versions.resolve(view, off // CDP_SECTOR, (end + CDP_SECTOR - 1) // CDP_SECTOR, most, &p, st)
        if rc == CDP_OK:
            out.steps += p.steps
            reached[0] = min(p.end * CDP_SECTOR, end)
            for i in range(p.n):
                a = max(p.at[i].start * CDP_SECTOR, off)
                b = min(p.at[i].end * CDP_SECTOR, end)
                rc = add_extent(out, a, b, UNCHANGED if p.at[i].loc == CDP_LOC_BASE else WRITTEN)
                if rc != CDP_OK:
                    break
            drop(&p)
        if self.second is None:
            free_view(&fresh)
        return rc

    cdef int map(self, uint64_t off, uint64_t n, cdp_extent *out, uint32_t cap, uint32_t *got,
                 cdp_status *st) noexcept nogil:
        cdef uint64_t at = off, most = EXTENTS
        cdef extents found = extents(at=out, cap=cap, n=0, steps=0, seeks=0)
        cdef int rc = self.core.enter(off, n, st)
        got[0] = 0
        if rc != CDP_OK:
            return rc
        while rc == CDP_OK and at < off + n:
            rc = self.written(at, off + n, most, &found, &at, st)
            most = min(2 * most, <uint64_t>MOST)
        cdp_gate_leave(&self.core.gate)
        got[0] = found.n
        return CDP_OK if rc == FULL else rc

    cdef const cdp_view *second_view(self) noexcept nogil:
        return NULL if self.second is None else &self.second.v

    # --- comparing ----------------------------------------------------------------------------------------------------

    cdef int add_kinds(self, uint64_t at, uint64_t end, extents *out, uint64_t *reached,
                       cdp_status *st) noexcept nogil:
        """[at, end) of the second moment, by kind; *reached: how far there was room."""
        cdef cdp_extent some[EXTENTS]
        cdef uint32_t n, i
        cdef int rc
        reached[0] = at
        while at < end:
            rc = self.core.map(self.second_view(), at, end - at, some, EXTENTS, &n, st)
            if rc != CDP_OK:
                return rc
            for i in range(n):
                rc = add_row(out, some[i].offset, some[i].offset + some[i].length, some[i].kind)
                if rc != CDP_OK:
                    return rc
                reached[0] = at = some[i].offset + some[i].length
        return CDP_OK

    cdef int compare(self, uint64_t at, uint64_t end, extents *out, uint64_t *reached, cdp_status *st) noexcept nogil:
        """What differs of [at, end), which was written."""
        cdef cdp_extent a, b
        cdef uint32_t n
        cdef uint64_t stop, x, y
        cdef bint no_a, no_b
        cdef int rc = CDP_OK
        reached[0] = at
        while rc == CDP_OK and at < end:
            stop = min(end, at + CHUNK)
            no_a = no_b = False
            if end - at > EXTENTS * CDP_SECTOR:     # a look for holes costs as much as to compare so little
                rc = self.core.map(&self.first.v, at, end - at, &a, 1, &n, st)
                if rc == CDP_OK:
                    rc = self.core.map(self.second_view(), at, end - at, &b, 1, &n, st)
                if rc != CDP_OK:
                    return rc
                no_a = a.kind == CDP_EXTENT_ZERO or a.kind == CDP_EXTENT_HOLE       # what is not known is to be read
                no_b = b.kind == CDP_EXTENT_ZERO or b.kind == CDP_EXTENT_HOLE
                stop = min(at + a.length, at + b.length)
                if no_a and no_b:
                    reached[0] = at = stop
                    continue
                stop = min(stop, at + CHUNK)
            if not no_a:
                rc = self.core.read(&self.first.v, self.one, at, stop - at, True, st)
            if rc == CDP_OK and not no_b:
                rc = self.core.read(self.second_view(), self.other, at, stop - at, True, st)
            if rc != CDP_OK:
                return rc
            x = at
            while rc == CDP_OK and x < stop:
                if self.same(no_a, no_b, x - at, stop - x):
                    break
                while x < stop and self.same(no_a, no_b, x - at, min(stop, x + CDP_SECTOR) - x):
                    x += CDP_SECTOR
                y = x
                while y < stop and not self.same(no_a, no_b, y - at, min(stop, y + CDP_SECTOR) - y):
                    y += CDP_SECTOR
                rc = self.add_kinds(x, min(y, stop), out, reached, st)
                x = y
            if rc == CDP_OK:
                reached[0] = at = stop
        return rc

    cdef bint same(self, bint no_a, bint no_b, uint64_t at, uint64_t n) noexcept nogil:
        if no_a:
            return cdp_is_zero(self.other + at, n)
        if no_b:
            return cdp_is_zero(self.one + at, n)
        return memcmp(self.one + at, self.other + at, n) == 0

    # --- for Python ---------------------------------------------------------------------------------------------------

    def differences(self, uint64_t offset, uint64_t length, bint compared, uint32_t most=MAX_ROWS):
        """(rows, reached): up to `most` (at most 65536) ranges of [offset, reached) that differ, in order; `reached` is
        offset + length unless there was no room for more. A row is offset and length in bytes, 8 each, and kind (0
        data, 1 zero, 2 hole; at the second moment) and 0, 4 each. Not `compared`: what was written, whatever."""
        cdef cdp_status st
        cdef cdp_extent some[EXTENTS]
        cdef extents seen
        cdef extents out = extents(at=NULL, cap=min(max(most, 1u), <uint32_t>MAX_ROWS), n=0, steps=0, seeks=0)
        cdef uint64_t at = offset, end = offset + length, to
        cdef uint32_t i
        cdef int rc = CDP_OK
        check(self.core.enter(offset, length, &st), &st, None)
        try:
            out.at = <cdp_extent *>malloc(out.cap * sizeof(cdp_extent))
            if compared and self.one == NULL:
                self.one = <uint8_t *>malloc(CHUNK)
                self.other = <uint8_t *>malloc(CHUNK)
            if out.at == NULL or compared and (self.one == NULL or self.other == NULL):
                raise MemoryError()
            with nogil:
                while rc == CDP_OK and at < end:
                    seen.at = &some[0]
                    seen.cap = EXTENTS
                    seen.n = 0
                    seen.steps = seen.seeks = 0
                    rc = self.written(at, end, MOST, &seen, &to, &st)
                    if rc == FULL:
                        rc = CDP_OK
                    for i in range(seen.n):
                        if rc == CDP_OK:
                            at = some[i].offset + some[i].length
                            if some[i].kind == WRITTEN and compared:
                                rc = self.compare(some[i].offset, at, &out, &at, &st)
                            elif some[i].kind == WRITTEN:
                                rc = self.add_kinds(some[i].offset, at, &out, &at, &st)
            if rc != FULL:
                check(rc, &st, None)
            return (<const char *>out.at)[:out.n * sizeof(cdp_extent)], at
        finally:
            free(out.at)
            cdp_gate_leave(&self.core.gate)

    def capsule(self):
        """PyCapsule "cdpcore.map" with a cdp_map*: what was written, for a front end; it keeps this object alive."""
        capsule = PyCapsule_New(&self.as_map, b"cdpcore.map", release_capsule)
        Py_INCREF(self)
        PyCapsule_SetContext(capsule, <void *>self)
        return capsule
