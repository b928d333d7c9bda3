# cython: autotestdict=False, auto_pickle=False
"""Extent trees, runs and look-ups for Python: thin owners of the C index. `cdp check` and `cdp check --rebuild` verify
runs with them; tests and benchmarks use the rest. The data path does not.

Seqs, sectors and locations are integers 0 <= x < 2**64. An interval (lo, hi) makes lo < seq <= hi visible; a sequence
of intervals is disjoint and newest first. A view is a sequence of (start, end, intervals) that covers the sectors from
0 on without gaps. `os` is a PyCapsule named "cdpcore.os" around a cdp_os table; None is the operating system itself.

Threading: an ExtentTree belongs to one thread at a time. Runs may be used and closed by any threads; the file stays
mapped until the operations that use it have ended.
"""
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.string cimport memcpy, memset
cimport cython

import os as _os

from cdpcore.base.errors cimport check
from cdpcore.base.format cimport (CDP_LOC_BASE, CDP_LOC_HOLE, CDP_LOC_ZERO, CDP_MAX_SECTORS, cdp_run_header,
                                  cdp_run_version)
from cdpcore.base.status cimport cdp_status
from cdpcore.index.index cimport (CDP_MAX_RUNS, CDP_MAX_TREES, cdp_hit, cdp_interval, cdp_lookup, cdp_lookup_runs,
                                  cdp_piece, cdp_run_close, cdp_run_find, cdp_run_header_of, cdp_run_merge,
                                  cdp_run_meta, cdp_run_open, cdp_run_verify, cdp_run_write_tree, cdp_tree_bytes,
                                  cdp_tree_find, cdp_tree_free, cdp_tree_has_room, cdp_tree_insert, cdp_tree_iter,
                                  cdp_tree_iter_init, cdp_tree_iter_next, cdp_tree_new, cdp_view, cdp_view_piece)
from cdpcore.index.index_impl cimport cdp_run_cursor, cdp_run_cursor_init, cdp_run_cursor_next
from cdpcore.system.os_table cimport cdp_os, cdp_os_posix
from cdpcore.base.errors import Busy, Closed, InvalidRequest

LOC_ZERO = CDP_LOC_ZERO
LOC_HOLE = CDP_LOC_HOLE
LOC_BASE = CDP_LOC_BASE
MAX_SECTORS = CDP_MAX_SECTORS
MAX_RUNS = CDP_MAX_RUNS
MAX_TREES = CDP_MAX_TREES


# --- arguments ------------------------------------------------------------------------------------------------------

cdef const cdp_os *_table(object os) except NULL:
    return cdp_os_posix() if os is None else <const cdp_os *>PyCapsule_GetPointer(os, "cdpcore.os")


cdef void *_alloc(size_t n) except NULL:
    cdef void *p = PyMem_Malloc(n + 1)
    if p == NULL:
        raise MemoryError
    return p


# Intervals as a C array in memory of its own.
@cython.internal
@cython.final
cdef class _Intervals:
    cdef cdp_interval *items
    cdef uint32_t n

    def __cinit__(self, intervals, bint descending):
        intervals = list(intervals)
        self.items = <cdp_interval *>_alloc(len(intervals) * sizeof(cdp_interval))
        for lo, hi in intervals:
            if lo > hi or (descending and self.n > 0 and hi > self.items[self.n - 1].lo):
                raise InvalidRequest("intervals are (lo, hi] with lo <= hi, disjoint, newest first")
            self.items[self.n].lo = lo
            self.items[self.n].hi = hi
            self.n += 1

    def __dealloc__(self):
        PyMem_Free(self.items)


@cython.internal
@cython.final
cdef class _View:
    cdef cdp_view_piece *pieces
    cdef _Intervals intervals
    cdef cdp_view view

    def __cinit__(self, view):
        cdef uint64_t at = 0
        view = [(start, end, list(intervals)) for start, end, intervals in view]
        self.pieces = <cdp_view_piece *>_alloc(len(view) * sizeof(cdp_view_piece))
        flat = []
        for start, end, intervals in view:
            if start != at or end <= start:
                raise InvalidRequest("the pieces of a view are adjacent and ascending from sector 0")
            _Intervals(intervals, True)  # checks them
            at = end
            self.pieces[self.view.n_pieces].start = start
            self.pieces[self.view.n_pieces].end = end
            self.pieces[self.view.n_pieces].first = len(flat)
            self.pieces[self.view.n_pieces].count = len(intervals)
            self.view.n_pieces += 1
            flat += intervals
        self.intervals = _Intervals(flat, False)
        self.view.n_intervals = self.intervals.n
        self.view.pieces = self.pieces
        self.view.intervals = self.intervals.items

    def __dealloc__(self):
        PyMem_Free(self.pieces)


cdef int _meta(cdp_run_meta *meta, object uuid, object seqs, object segments) except -1:
    cdef bytes b = bytes(uuid)
    if len(b) != 16:
        raise InvalidRequest("a volume's uuid has 16 bytes")
    memset(meta, 0, sizeof(cdp_run_meta))
    memcpy(meta.uuid, <const char *>b, 16)
    meta.first_seq, meta.last_seq = seqs
    meta.first_segment, meta.last_segment = segments
    return 0


# --- owners ---------------------------------------------------------------------------------------------------------

@cython.final
cdef class ExtentTree:
    """The mutable index of at most `max_records` (1 <= max_records <= 2**28) records, in memory.

    Raises MemoryError. About 80 bytes a record, committed as it fills.
    """

    def __cinit__(self, uint32_t max_records=262144):
        self.tree = cdp_tree_new(max_records)
        if self.tree == NULL:
            raise MemoryError("no tree of this size")

    def __dealloc__(self):
        cdp_tree_free(self.tree)

    cdef int idle(self) except -1:
        if self.readers:
            raise Busy("the tree is being read")
        return 0

    @property
    def has_room(self):
        """True while a further insert is sure to fit."""
        return cdp_tree_has_room(self.tree, 1) != 0

    @property
    def bytes(self):
        """Memory in use, bytes."""
        return cdp_tree_bytes(self.tree)

    def insert(self, uint64_t seq, uint64_t start, uint64_t end, uint64_t loc):
        """Record `seq` covers sectors [start, end); its data begins at location `loc`.

        seq: >= 1, >= every earlier one; parts that repeat one do not overlap. Raises InvalidRequest; Busy while the
        tree is being written to a run.
        """
        self.idle()
        if seq == 0 or seq < self.last_seq or start >= end or end > CDP_MAX_SECTORS:
            raise InvalidRequest(f"insert: seq {seq} after {self.last_seq}, sectors [{start}, {end})")
        if not cdp_tree_has_room(self.tree, 1):
            raise InvalidRequest("insert: the tree is full")
        self.last_seq = seq
        cdp_tree_insert(self.tree, seq, start, end, loc)

    def find(self, uint64_t sector, intervals):
        """The newest visible version at a sector: (seq, loc, until), or (None, None, until) where there is none.

        The answer holds for the sectors up to `until`, exclusive; loc is that of `sector` itself.
        """
        cdef _Intervals iv = _Intervals(intervals, True)
        cdef cdp_hit hit
        cdp_tree_find(self.tree, sector, iv.items, iv.n, &hit)
        return (hit.seq, hit.loc, hit.until) if hit.found else (None, None, hit.until)

    def extents(self):
        """A list of (start, end, [(seq, loc), ...]), ascending; versions oldest first. A copy."""
        cdef cdp_tree_iter it
        cdef uint64_t start, end, n, i
        cdef const cdp_run_version *versions
        self.idle()  # the column lies in the tree's own memory
        out = []
        cdp_tree_iter_init(&it, self.tree)
        while cdp_tree_iter_next(&it, &start, &end, &versions, &n):
            out.append((start, end, [(versions[i].seq, versions[i].loc) for i in range(n)]))
        return out


@cython.final
cdef class Run:
    """An open run file.

    path: str, bytes or PathLike; uuid: 16 bytes that the file must name, or None for any volume's.
    Raises NotFound, Corruption, Unavailable. Closing is safe at any time and from any thread.
    """

    def __cinit__(self, path, uuid=None, os=None):
        cdef const cdp_os *table = _table(os)
        cdef bytes name = _os.fsencode(path), b = bytes(uuid) if uuid is not None else b"\0" * 16
        cdef const char *c_name = name
        cdef const uint8_t *c_uuid = <const uint8_t *><const char *>b
        cdef cdp_status st
        cdef int rc
        if len(b) != 16:
            raise InvalidRequest("a volume's uuid has 16 bytes")
        if uuid is None:
            c_uuid = NULL
        self.os = os
        self.path = path
        with nogil:
            rc = cdp_run_open(table, c_name, c_uuid, &self.run, &st)
        check(rc, &st, path)

    def __dealloc__(self):
        cdp_run_close(self.run)

    cdef cdp_run *enter(self) except NULL:
        if self.run == NULL or self.closing:
            raise Closed("the run was closed")
        self.users += 1
        return self.run

    cdef void leave(self) noexcept:
        self.users -= 1
        if self.closing and self.users == 0:
            cdp_run_close(self.run)
            self.run = NULL

    def close(self):
        """Unmaps the file, as soon as no operation uses it. May be repeated."""
        if self.run != NULL and not self.closing:
            self.users += 1
            self.closing = True
            self.leave()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    @property
    def header(self):
        """What the file says of itself: uuid, seqs, segments, n_extents, n_versions, n_blocks, file_bytes."""
        cdef const cdp_run_header *h = cdp_run_header_of(self.enter())
        out = {
            "uuid": <bytes>(<const char *>h.volume_uuid)[:16],
            "seqs": (h.first_seq, h.last_seq),
            "segments": (h.first_segment, h.last_segment),
            "n_extents": h.n_extents,
            "n_versions": h.n_versions,
            "n_blocks": h.n_blocks,
            "file_bytes": h.file_bytes,
        }
        self.leave()
        return out

    def find(self, uint64_t sector, intervals):
        """As ExtentTree.find. Raises Corruption, Closed."""
        cdef _Intervals iv = _Intervals(intervals, True)
        cdef cdp_run *run = self.enter()
        cdef cdp_status st
        cdef cdp_hit hit
        cdef int rc
        with nogil:
            rc = cdp_run_find(run, sector, iv.items, iv.n, &hit, &st)
        self.leave()
        check(rc, &st, self.path)
        return (hit.seq, hit.loc, hit.until) if hit.found else (None, None, hit.until)

    def extents(self):
        """A list as ExtentTree.extents gives it; a copy. Raises Corruption, Closed."""
        cdef cdp_run_cursor cursor
        cdef cdp_status st
        cdef uint64_t i
        cdef int rc
        out = []
        cdp_run_cursor_init(&cursor, self.enter())
        try:
            while True:
                rc = cdp_run_cursor_next(&cursor, &st)
                check(rc, &st, self.path)
                if cursor.start == <uint64_t>-1:
                    return out
                out.append((cursor.start, cursor.end,
                            [(cursor.versions[i].seq, cursor.versions[i].loc) for i in range(cursor.n_versions)]))
        finally:
            self.leave()

    def verify(self):
        """Checks every checksum and every rule of the file. Raises Corruption, Closed."""
        cdef cdp_run *run = self.enter()
        cdef cdp_status st
        cdef int rc
        with nogil:
            rc = cdp_run_verify(run, &st)
        self.leave()
        check(rc, &st, self.path)


# --- operations on several ------------------------------------------------------------------------------------------

def write_tree(path, ExtentTree tree not None, uuid, seqs, segments, os=None):
    """Writes a tree as a run file, synced and renamed into place; the caller syncs the directory.

    uuid: 16 bytes; seqs, segments: (first, last) that the run stands for. Raises InvalidRequest where a seq lies
    outside, OutOfSpace, Unavailable; nothing is left of a failed attempt.
    """
    cdef const cdp_os *table = _table(os)
    cdef bytes name = _os.fsencode(path)
    cdef const char *c_name = name
    cdef cdp_run_meta meta
    cdef cdp_status st
    cdef int rc
    _meta(&meta, uuid, seqs, segments)
    tree.idle()
    tree.readers += 1
    with nogil:
        rc = cdp_run_write_tree(table, c_name, &meta, tree.tree, &st)
    tree.readers -= 1
    check(rc, &st, path)


# Runs in use, as a C array.
@cython.internal
@cython.final
cdef class _Runs:
    cdef cdp_run *items[64]
    cdef list runs
    cdef uint32_t n

    def __cinit__(self, runs):
        self.runs = []
        runs = list(runs)
        if len(runs) > 64:
            raise InvalidRequest("too many runs")
        for run in runs:
            self.items[self.n] = (<Run?>run).enter()
            self.n += 1
            self.runs.append(run)

    def __dealloc__(self):
        for run in self.runs:
            (<Run>run).leave()


def merge(path, runs, uuid, seqs, segments, dropped=(), os=None):
    """Merges runs, oldest first, into one run file; versions whose seq lies in a `dropped` interval are left out.

    runs: 1 to 64 Run objects; the rest as for write_tree. Raises also Corruption, Closed.
    """
    cdef const cdp_os *table = _table(os)
    cdef bytes name = _os.fsencode(path)
    cdef const char *c_name = name
    cdef _Intervals iv = _Intervals(dropped, False)
    cdef _Runs used = _Runs(runs)
    cdef cdp_run_meta meta
    cdef cdp_status st
    cdef int rc
    _meta(&meta, uuid, seqs, segments)
    with nogil:
        rc = cdp_run_merge(table, c_name, &meta, used.items, used.n, iv.items, iv.n, &st)
    check(rc, &st, path)


cdef list _pieces(const cdp_piece *p, int64_t n):
    cdef int64_t i
    return [(p[i].start, p[i].end, p[i].loc) for i in range(n)]


def lookup(view, trees, runs, uint64_t start, uint64_t end, uint64_t cap=4096):
    """The pieces of sectors [start, end) at a view: (list of (start, end, loc), the sector that was reached).

    trees and runs: newest first, trees newer than runs; cap: the most pieces to give. loc is a location in the log,
    LOC_ZERO, LOC_HOLE or LOC_BASE. Raises Corruption, InvalidRequest, Busy, Closed.
    """
    cdef cdp_tree *c_trees[64]
    cdef _View v = _View(view)
    cdef _Runs used = _Runs(runs)
    cdef uint32_t n_trees = 0
    cdef uint64_t reached = start
    cdef cdp_piece *out
    cdef cdp_status st
    cdef int64_t n
    trees = list(trees)
    if len(trees) > 64:
        raise InvalidRequest("too many trees")
    for tree in trees:
        c_trees[n_trees] = (<ExtentTree?>tree).tree
        n_trees += 1
    out = <cdp_piece *>_alloc(cap * sizeof(cdp_piece))
    try:
        for tree in trees:
            (<ExtentTree>tree).readers += 1
        with nogil:
            n = cdp_lookup(&v.view, c_trees, n_trees, used.items, used.n, start, end, out, cap, NULL, &reached, &st)
        for tree in trees:
            (<ExtentTree>tree).readers -= 1
        check(<int>-n if n < 0 else 0, &st, "lookup")
        return _pieces(out, n), reached
    finally:
        PyMem_Free(out)


def lookup_runs(view, runs, pieces, uint64_t cap=4096):
    """Refines the LOC_BASE pieces of a look-up that asked no runs: returns and raises as lookup does."""
    cdef _View v = _View(view)
    cdef _Runs used = _Runs(runs)
    cdef uint64_t reached = 0, n_in = 0
    cdef cdp_piece *out
    cdef cdp_piece *known
    cdef cdp_status st
    cdef int64_t n
    pieces = list(pieces)
    known = <cdp_piece *>_alloc((len(pieces) + cap) * sizeof(cdp_piece))
    out = known + len(pieces)
    try:
        for start, end, loc in pieces:
            if start >= end:
                raise InvalidRequest("a piece is not empty")
            known[n_in].start = start
            known[n_in].end = end
            known[n_in].loc = loc
            n_in += 1
        with nogil:
            n = cdp_lookup_runs(&v.view, used.items, used.n, 0, known, n_in, out, cap, NULL, &reached, &st)
        check(<int>-n if n < 0 else 0, &st, "lookup")
        return _pieces(out, n), reached
    finally:
        PyMem_Free(known)
