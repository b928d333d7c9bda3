"""How many different bytes a trace touches: a union of intervals per device, exact while it fits, bounded always.

Intervals are collected and now and then sorted and merged into disjoint ones, all in NumPy; each interval is merged
O(log n) times, as new ones are only merged once they are as many as half of the old ones.

Should more than `max_intervals` disjoint ones remain, only a sample of the address space is kept on: every second
window of WINDOW_BYTES, then every fourth, and so on until they fit; what is found there, times two, four, ..., is an
estimate without bias. Folding an address onto the kept windows is a monotone map, so an interval, however long, stays
one interval. The window is a prime number of sectors, so that it drifts through whatever repeats at a power of two
(block groups, stripes), and which of two windows is kept is drawn from a fixed sequence.

Memory: 20 bytes an interval and five times that while merging: for the two unions of cdp.trace.info at the default
bound 230 MiB at most, measured.
"""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]
MAX_INTERVALS = 1 << 20
WINDOW_BYTES = 2039 * 512
_FRESH = 1 << 18
_MOST_FOLDS = 40  # windows of a whole 2^63-byte device: then at most 2^3 remain
_KEEP = 0x9E3779B97F4A7C15  # bit i: which of two windows fold i keeps


class IntervalUnion:
    """Union of byte intervals [start, end) of many devices. One thread."""

    def __init__(self, max_intervals: int = MAX_INTERVALS):
        self._folds = 0
        self._max = max(64, max_intervals)
        self._device: U32 = np.empty(0, np.uint32)
        self._start: U64 = np.empty(0, np.uint64)
        self._end: U64 = np.empty(0, np.uint64)
        self._fresh: list[tuple[U32, U64, U64]] = []
        self._fresh_count = 0

    @property
    def one_in(self) -> int:
        """1: exact. N: one window in N was looked at, and sizes are estimates."""
        return 1 << self._folds

    def add(self, device: U32, start: U64, end: U64) -> None:
        """Arrays of one length; empty intervals are left out. end <= 2^63."""
        for i in range(self._folds):
            start, end = _fold(start, i), _fold(end, i)
        some = end > start
        device, start, end = device[some], start[some], end[some]
        if not len(start):
            return
        self._fresh.append((device, start, end))
        self._fresh_count += len(start)
        if self._fresh_count >= max(min(_FRESH, self._max), len(self._start) // 2):
            self._merge_fresh()

    def bytes_by_device(self, devices: int) -> U64:
        """Size of the union for each device number below `devices`; an estimate where one_in is above 1."""
        self._merge_fresh()
        total = np.zeros(devices, np.uint64)
        np.add.at(total, self._device, self._end - self._start)
        return total * np.uint64(self.one_in)

    def __len__(self) -> int:
        """Disjoint intervals kept."""
        self._merge_fresh()
        return len(self._start)

    def _merge_fresh(self) -> None:
        if not self._fresh:
            return
        device = np.concatenate([self._device, *(part[0] for part in self._fresh)])
        start = np.concatenate([self._start, *(part[1] for part in self._fresh)])
        end = np.concatenate([self._end, *(part[2] for part in self._fresh)])
        self._fresh, self._fresh_count = [], 0
        self._device, self._start, self._end = _union(device, start, end)
        while len(self._start) > self._max and self._folds < _MOST_FOLDS:
            start, end = _fold(self._start, self._folds), _fold(self._end, self._folds)
            self._folds += 1
            some = end > start
            self._device, self._start, self._end = _union(self._device[some], start[some], end[some])


def _fold(at: U64, fold: int) -> U64:
    """Addresses among the windows that fold number `fold` keeps of every two; monotone."""
    window = np.uint64(WINDOW_BYTES)
    pair, rest = np.divmod(at, window * np.uint64(2))
    if _KEEP >> fold & 1:
        rest = np.maximum(rest, window) - window
    return pair * window + np.minimum(rest, window)


def _union(device: U32, start: U64, end: U64) -> tuple[U32, U64, U64]:
    """Disjoint intervals, sorted by device and start."""
    if not len(device):
        return device, start, end
    parts = [_union_linear(device[part], start[part], end[part], base) for part, base in _lines(device, end)]
    if len(parts) == 1:
        return parts[0]
    return (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]),
            np.concatenate([p[2] for p in parts]))


def _lines(device: U32, end: U64) -> list[tuple[NDArray[np.bool_] | slice, U64]]:
    """Devices laid side by side on one u64 line, on several lines where one is too short: (which intervals, base of
    each device on that line)."""
    size = np.zeros(int(device.max()) + 1, np.uint64)
    np.maximum.at(size, device, end)
    lines, base, at, first = [], np.zeros(len(size), np.uint64), 0, 0
    for i in np.flatnonzero(size):
        length = int(size[i]) + 1  # a gap, so that neighbours do not join
        if at + length >= 1 << 64:
            lines.append((first, int(i)))
            at, first = 0, int(i)
        base[i] = at
        at += length
    lines.append((first, len(size)))
    if len(lines) == 1:
        return [(slice(None), base)]
    return [((device >= low) & (device < high), base) for low, high in lines]


def _union_linear(device: U32, start: U64, end: U64, base: U64) -> tuple[U32, U64, U64]:
    shift = base[device]
    low = start + shift
    order = np.argsort(low)
    low, high, device = low[order], (end + shift)[order], device[order]
    reach = np.maximum.accumulate(high)
    first = np.ones(len(low), np.bool_)
    np.greater(low[1:], reach[:-1], out=first[1:])
    heads = np.flatnonzero(first)
    tails = np.append(heads[1:], len(low)) - 1
    device = device[heads]
    shift = base[device]
    return device, low[heads] - shift, reach[tails] - shift
