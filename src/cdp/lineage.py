"""Lineage: which seqs are visible at a point, range by range, given the restores.

A restore record R (seq r, target t, range) says: from r on, its range shows what it showed at t, until it is written again.
So what a sector shows at seq s is the newest version in (r, s] where r is the last restore at or before s that covers the
sector, else the newest in (r', t] where r' is the last such restore at or before t, and so on down to the base.

Pure functions of small lists; a view is computed when an image is opened and when a restore is made, never per request.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NOW = (1 << 64) - 1
"""A seq above all seqs: the view of the current content, which later writes join by themselves."""

Interval = tuple[int, int]
Piece = tuple[int, int, list[Interval]]


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


def view(seq: int, restores: Iterable[RestoreRecord], sectors: int) -> list[Piece]:
    """Pieces (start, end, [(lo, hi), ...]) of [0, sectors) as cdpcore.view.View takes them; `restores` in seq order."""
    past = [r for r in restores if r.seq <= seq]
    edges = sorted({0, sectors, *(r.start for r in past), *(r.end for r in past)})
    pieces: list[Piece] = []
    for start, end in zip(edges, edges[1:]):
        intervals = _chain(seq, [r for r in past if r.start <= start and end <= r.end])
        if pieces and pieces[-1][2] == intervals:
            pieces[-1] = (pieces[-1][0], end, intervals)
        else:
            pieces.append((start, end, intervals))
    return pieces


def _chain(seq: int, covering: list[RestoreRecord]) -> list[Interval]:
    intervals: list[Interval] = []
    hi = seq
    for r in reversed(covering):
        if r.seq <= hi:
            if hi > r.seq:
                intervals.append((r.seq, hi))
            hi = r.target_seq
    if hi > 0:
        intervals.append((0, hi))
    return intervals


def view_before(seq: int, restores: Iterable[RestoreRecord], sectors: int) -> list[tuple[int, int, list[Interval], list[Interval]]]:
    """The same for before-images (c/index.h, cdp_lookup_before): the last interval is always there, and one above it stands for a
    restore that was not written back at its `hi`. Fourth: the intervals that destructive restores freed."""
    past = list(restores)
    edges = sorted({0, sectors, *(r.start for r in past), *(r.end for r in past)})
    pieces: list[tuple[int, int, list[Interval], list[Interval]]] = []
    for start, end in zip(edges, edges[1:]):
        covering = [r for r in past if r.start <= start and end <= r.end]
        intervals: list[Interval] = []
        hi = seq
        for r in reversed(covering):
            if r.seq <= hi and not 0 < r.done_seq <= hi:
                if hi > r.seq:
                    intervals.append((r.seq, hi))
                hi = r.target_seq
        intervals.append((0, hi))
        freed_here = _joined((r.target_seq, r.seq) for r in covering if r.destructive and r.done_seq)
        if pieces and pieces[-1][2:] == (intervals, freed_here):
            pieces[-1] = (pieces[-1][0], end, intervals, freed_here)
        else:
            pieces.append((start, end, intervals, freed_here))
    return pieces


def _joined(intervals: Iterable[Interval]) -> list[Interval]:
    joined: list[Interval] = []
    for lo, hi in sorted(intervals):
        if joined and lo <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(hi, joined[-1][1]))
        else:
            joined.append((lo, hi))
    return joined


def gaps(restores: Iterable[RestoreRecord]) -> list[Interval]:
    """Seq ranges (lo, hi), ends openable and everything between freed by destructive restores; joined, ascending."""
    found = sorted((r.target_seq, r.seq) for r in restores if r.destructive and r.seq - r.target_seq > 1)
    joined: list[Interval] = []
    for lo, hi in found:
        if joined and lo < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(hi, joined[-1][1]))
        else:
            joined.append((lo, hi))
    return joined


def freed(seq: int, gap_list: Iterable[Interval]) -> Interval | None:
    """The gap that `seq` lies in, if any."""
    return next(((lo, hi) for lo, hi in gap_list if lo < seq < hi), None)
