"""Lineage: which seqs are visible at a point, range by range, given the restores.

A restore record R (seq r, target t, range) says: from r on, its range shows what it showed at t, until it is written
again. So what a sector shows at seq s is the newest version in (r, s] where r is the last restore at or before s that
covers the sector, else the newest in (r', t] where r' is the last such restore at or before t, and so on down to the
base.

Pure functions of small lists; a view is computed when an image is opened and when a restore is made, never per request.
"""
from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

NOW = (1 << 64) - 1
"""A seq above all seqs: the view of the current content, which later writes join automatically."""

Interval = tuple[int, int]
Piece = tuple[int, int, list[Interval]]
BeforePiece = tuple[int, int, list[Interval], list[Interval]]


@dataclass(frozen=True)
class RestoreRecord:
    """A restore as the log has it. `start`, `end` in sectors."""

    seq: int
    ts_ns: int
    target_seq: int
    start: int
    end: int
    destructive: bool = False
    done_seq: int = 0
    """Before-images: the record from which on the disk holds it; 0: it is being written back."""


PENDING = NOW - 1
"""Stands for the seq of a restore that has none yet: a view can be worked out before the record is appended
(set_pending() of cdpcore.index.view.View)."""


def view(seq: int, restores: Iterable[RestoreRecord], sectors: int) -> list[Piece]:
    """Pieces (start, end, [(lo, hi), ...]) of [0, sectors) as cdpcore.index.view.View takes them; `restores` in seq
    order.

    A sweep over the sectors with the restores that cover the place, in seq order: O(n log n), and what the intervals
    themselves take.
    """
    return _sweep([r for r in restores if r.seq <= seq], sectors, lambda past, covering: (_chain(seq, past, covering),))


def _sweep(past: list[RestoreRecord], sectors: int,
           chain: Callable[[list[RestoreRecord], list[int]], tuple[Any, ...]]) -> list[Any]:
    changes = sorted([(r.start, i, True) for i, r in enumerate(past)] + [(r.end, i, False) for i, r in enumerate(past)])
    covering: list[int] = []        # indices into past, ascending
    pieces: list[Any] = []
    at = 0
    for place, i, begins in [*changes, (sectors, -1, False)]:
        if place > at:
            shown = chain(past, covering)
            if pieces and pieces[-1][2:] == shown:
                pieces[-1] = (pieces[-1][0], place, *shown)
            else:
                pieces.append((at, place, *shown))
            at = place
        if begins:
            bisect.insort(covering, i)
        elif i >= 0:
            del covering[bisect.bisect_left(covering, i)]
    return pieces


def _chain(seq: int, past: list[RestoreRecord], covering: list[int]) -> list[Interval]:
    intervals: list[Interval] = []
    hi, k = seq, len(covering)
    while k:
        r = past[covering[k - 1]]
        if hi > r.seq:
            intervals.append((r.seq, hi))
        hi = r.target_seq           # the next one is the last restore at or before that
        k = bisect.bisect_right(covering, hi, hi=k - 1, key=lambda i: past[i].seq)
    if hi > 0:
        intervals.append((0, hi))
    return intervals


def restores_shown(seq: int, restores: Iterable[RestoreRecord], sectors: int) -> list[tuple[int, int, list[int]]]:
    """Pieces (start, end, [seq of a restore, ...]) of [0, sectors): the restores that what is shown at `seq` came
    through, newest first. One that a later one took back is not among them."""
    past = [r for r in restores if r.seq <= seq]
    return _sweep(past, sectors, lambda past, covering: (_through(past, covering),))


def _through(past: list[RestoreRecord], covering: list[int]) -> list[int]:
    found: list[int] = []
    k = len(covering)
    while k:
        r = past[covering[k - 1]]
        found.append(r.seq)
        k = bisect.bisect_right(covering, r.target_seq, hi=k - 1, key=lambda i: past[i].seq)
    return found


def view_before(seq: int, restores: Iterable[RestoreRecord], sectors: int) -> list[BeforePiece]:
    """The same for before-images (cdp_lookup_before in cdpcore/index/index.h): the last interval is always there, and
    one above it stands for a restore that was not written back at its `hi`. Fourth: the intervals that destructive
    restores freed."""
    return _sweep(list(restores), sectors, lambda past, covering: _chain_before(seq, [past[i] for i in covering]))


def _chain_before(seq: int, covering: list[RestoreRecord]) -> tuple[list[Interval], list[Interval]]:
    intervals: list[Interval] = []
    hi = seq
    for r in reversed(covering):
        if r.seq <= hi and not 0 < r.done_seq <= hi:
            if hi > r.seq:
                intervals.append((r.seq, hi))
            hi = r.target_seq
    return [*intervals, (0, hi)], _joined(
        ((r.target_seq, r.seq) for r in covering if r.destructive and r.done_seq), touching=True)


def _joined(intervals: Iterable[Interval], touching: bool) -> list[Interval]:
    """Ascending and disjoint; `touching`: (1, 5) and (5, 9) become one."""
    joined: list[Interval] = []
    for lo, hi in sorted(intervals):
        if joined and (lo < joined[-1][1] or touching and lo == joined[-1][1]):
            joined[-1] = (joined[-1][0], max(hi, joined[-1][1]))
        else:
            joined.append((lo, hi))
    return joined


def gaps(restores: Iterable[RestoreRecord]) -> list[Interval]:
    """Seq ranges (lo, hi), ends openable and everything between freed by destructive restores; ascending. Two that
    touch stay two: the seq between them can be opened."""
    return _joined(((r.target_seq, r.seq) for r in restores if r.destructive and r.seq - r.target_seq > 1),
                   touching=False)


def freed(seq: int, gap_list: Iterable[Interval]) -> Interval | None:
    """The gap that `seq` lies in, if any."""
    return next(((lo, hi) for lo, hi in gap_list if lo < seq < hi), None)
