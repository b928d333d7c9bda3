"""Does a disk hold what a replay must have left there? The comparison itself, and the painting of who wrote what last.

The model is a row of cells (byte ranges, ascending, disjoint) and for each the last change that covered it; Python
decides which cells are looked at, and when (cdp.replay.verify). Nothing here knows the engine: a disk is a cdp_target.
Threading: any thread; no state. Arrays are the caller's and are not kept.
"""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset
from cdpcore.base.errors cimport check
from cdpcore.base.status cimport CDP_OK, cdp_status
from cdpcore.base.target cimport cdp_target
from cdpcore.trace.replay_content cimport cdp_replay_claim, cdp_replay_fill, cdp_replay_match, cdp_replay_zeros

from cdpcore.base.errors import InvalidRequest

cdef enum:
    BUFFER_BYTES = 1 << 20
    MAX_TOLD = 16

_BASE = 0
_ZERO = (1 << 64) - 1
BASE, ZERO = _BASE, _ZERO   # what a cell holds: the content from before, zeros, or else the number of a change


def fill(uint8_t[::1] out not None, uint64_t offset, uint64_t key, uint64_t change):
    """The pattern of [offset, offset + len(out)) into a writable buffer (trace/replay_content.h)."""
    if out.shape[0]:
        cdp_replay_fill(&out[0], offset, out.shape[0], key, change)


def paint(uint64_t[::1] owner not None, uint8_t[::1] touched not None, const int64_t[::1] low not None,
          const int64_t[::1] high not None, uint64_t first, uint64_t stop):
    """For pieces first..stop-1, in order: owner[low:high] = piece + 1, touched[low:high] = 1. Raises InvalidRequest for
    a range outside the arrays, before anything is painted."""
    cdef uint64_t i, cells = owner.shape[0]
    cdef int64_t c
    if <uint64_t>touched.shape[0] != cells or low.shape[0] != high.shape[0] or stop > <uint64_t>low.shape[0] or \
            first > stop:
        raise InvalidRequest("cells and pieces do not fit together")
    for i in range(first, stop):
        if not 0 <= low[i] <= high[i] or <uint64_t>high[i] > cells:
            raise InvalidRequest(f"piece {i} covers cells {low[i]} to {high[i]} of {cells}")
    with nogil:
        for i in range(first, stop):
            for c in range(low[i], high[i]):
                owner[c] = i + 1
            if high[i] > low[i]:
                memset(&touched[low[i]], 1, high[i] - low[i])


def compare(target, const uint64_t[::1] start not None, const uint64_t[::1] end not None,
            const uint64_t[::1] what not None,
            uint64_t key, base=None):
    """Read the cells of a disk and compare.

    Args:
        target, base: PyCapsules "cdpcore.target": the disk, and what it was before (for cells that are BASE; None:
        zeros). start, end: bytes; ascending, disjoint, inside the disk. what: BASE, ZERO or the number of a change.
    Returns (bytes compared, cells that differ, the first MAX_TOLD of them as (cell, byte offset, change found there or
    0)).
    Raises what reading raises, InvalidRequest for cells that are not in order.
    """
    cdef cdp_target *t = <cdp_target *>PyCapsule_GetPointer(target, b"cdpcore.target")
    cdef cdp_target *b = NULL
    cdef uint64_t n = start.shape[0], i, bad = 0, done = 0
    cdef uint64_t bad_cell[MAX_TOLD]
    cdef uint64_t bad_at[MAX_TOLD]
    cdef uint64_t bad_claim[MAX_TOLD]
    cdef cdp_status st
    cdef int rc = CDP_OK
    cdef uint8_t *buf
    if base is not None:
        b = <cdp_target *>PyCapsule_GetPointer(base, b"cdpcore.target")
    if <uint64_t>end.shape[0] != n or <uint64_t>what.shape[0] != n:
        raise InvalidRequest("cells are not of one length")
    for i in range(n):
        if end[i] < start[i] or end[i] > t.size_bytes or (i and start[i] < end[i - 1]) or \
                (b != NULL and end[i] > b.size_bytes):
            raise InvalidRequest(f"cell {i}, bytes {start[i]} to {end[i]}, is out of order or outside the disk")
    buf = <uint8_t *>malloc(2 * BUFFER_BYTES + 1024)
    if buf == NULL:
        raise MemoryError
    with nogil:
        if n:
            rc = compare_all(t, b, &start[0], &end[0], &what[0], n, key, buf, &done, &bad, bad_cell, bad_at, bad_claim,
                             &st)
    free(buf)
    check(rc, &st, "verify")
    return done, bad, [(bad_cell[i], bad_at[i], bad_claim[i]) for i in range(min(bad, <uint64_t>MAX_TOLD))]


def differs(target, uint64_t offset, const uint8_t[::1] expected not None):
    """The first byte of a disk, from `offset` on, that is not as expected; None: all are. Raises what reading
    raises."""
    cdef cdp_target *t = <cdp_target *>PyCapsule_GetPointer(target, b"cdpcore.target")
    cdef uint64_t n = expected.shape[0], at = 0, step, i
    cdef cdp_status st
    cdef int rc = CDP_OK
    cdef bint same = True
    cdef uint8_t *buf
    if offset > t.size_bytes or n > t.size_bytes - offset:
        raise InvalidRequest(f"bytes {offset} to {offset + n} are outside the disk")
    buf = <uint8_t *>malloc(BUFFER_BYTES)
    if buf == NULL:
        raise MemoryError
    with nogil:
        while at < n and same:
            step = min(n - at, <uint64_t>BUFFER_BYTES)
            rc = t.pread(t.ctx, buf, offset + at, step, &st)
            if rc != CDP_OK:
                break
            i = 0
            while i < step and buf[i] == expected[at + i]:
                i += 1
            same = i == step
            at += i
    free(buf)
    check(rc, &st, "verify")
    return None if same else offset + at


cdef int compare_all(cdp_target *t, cdp_target *b, const uint64_t *start, const uint64_t *end, const uint64_t *what,
                     uint64_t n, uint64_t key, uint8_t *buf, uint64_t *done, uint64_t *bad, uint64_t *bad_cell,
                     uint64_t *bad_at, uint64_t *bad_claim, cdp_status *st) noexcept nogil:
    """Reads up to BUFFER_BYTES of adjacent cells at once, then looks at each."""
    cdef uint64_t i = 0, j, at = start[0], stop, a, z, same, sector
    cdef uint64_t last_bad = 0
    cdef int rc
    while i < n:
        stop = at
        j = i
        while j < n and stop - at < BUFFER_BYTES and (j == i or start[j] == stop):
            stop = end[j] if end[j] - at < BUFFER_BYTES else at + BUFFER_BYTES
            if stop < end[j]:
                break
            j += 1
        if stop > at:
            rc = t.pread(t.ctx, buf, at, stop - at, st)
            if rc != CDP_OK:
                return rc
        a = at
        while i < n and a < stop:
            z = end[i] if end[i] < stop else stop
            if what[i] == <uint64_t>-1 or (what[i] == 0 and b == NULL):
                same = cdp_replay_zeros(buf + (a - at), z - a)
            elif what[i] == 0:
                rc = b.pread(b.ctx, buf + BUFFER_BYTES, a, z - a, st)
                if rc != CDP_OK:
                    return rc
                same = z - a
                if memcmp(buf + BUFFER_BYTES, buf + (a - at), z - a):
                    same = 0
                    while buf[BUFFER_BYTES + same] == buf[a - at + same]:
                        same += 1
            else:
                same = cdp_replay_match(buf + (a - at), a, z - a, key, what[i])
            done[0] += z - a
            if same < z - a and (bad[0] == 0 or last_bad != i + 1):
                last_bad = i + 1
                if bad[0] < MAX_TOLD:
                    bad_cell[bad[0]] = i
                    bad_at[bad[0]] = a + same
                    bad_claim[bad[0]] = 0
                    sector = (a + same) // 512
                    if (sector + 1) * 512 <= t.size_bytes:
                        rc = t.pread(t.ctx, buf + 2 * BUFFER_BYTES, sector * 512, 512, st)
                        if rc != CDP_OK:
                            return rc
                        bad_claim[bad[0]] = cdp_replay_claim(buf + 2 * BUFFER_BYTES, sector, key)
                bad[0] += 1
            a = z
            if z == end[i]:
                i += 1
        while i < n and end[i] == start[i]:
            i += 1
        if i < n:
            at = a if a > start[i] and a < end[i] else start[i]
    return CDP_OK
