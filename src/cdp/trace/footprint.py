"""How many different bytes a trace touches: a union of intervals per device, exact while it fits, bounded always.

Intervals are collected and now and then sorted and merged into disjoint ones, all in NumPy. Should more than
`max_intervals` disjoint ones remain, everything is widened to a coarser granule (4 KiB, then eight times that, and so
on) until they fit; the result is then an upper bound, and says so. Cost: each interval is merged O(log n) times, as
new ones are only merged once they are as many as half of the old ones.

Memory: 20 bytes an interval, 4 M intervals at most by default, and twice that while merging.
"""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]
MAX_INTERVALS = 4 << 20
_FRESH = 1 << 19
_COARSE_BYTES = 4096
_SPAN = 1 << 63


class IntervalUnion:
    """Union of byte intervals [start, end) of many devices. One thread."""

    def __init__(self, max_intervals: int = MAX_INTERVALS):
        self.granule_bytes = 1  # 1: exact
        self._max = max(64, max_intervals)
        self._device: U32 = np.empty(0, np.uint32)
        self._start: U64 = np.empty(0, np.uint64)
        self._end: U64 = np.empty(0, np.uint64)
        self._fresh: list[tuple[U32, U64, U64]] = []
        self._fresh_count = 0

    @property
    def exact(self) -> bool:
        return self.granule_bytes == 1

    def add(self, device: U32, start: U64, end: U64) -> None:
        """Arrays of one length; empty intervals are left out. end <= 2^63."""
        some = end > start
        if not some.all():
            device, start, end = device[some], start[some], end[some]
        if not len(start):
            return
        self._fresh.append((device.copy(), start.copy(), end.copy()))
        self._fresh_count += len(start)
        if self._fresh_count >= max(min(_FRESH, self._max), len(self._start) // 2):
            self._settle()

    def bytes_by_device(self, devices: int) -> U64:
        """Size of the union for each device number below `devices`."""
        self._settle()
        total = np.zeros(devices, np.uint64)
        np.add.at(total, self._device, self._end - self._start)
        return total

    def __len__(self) -> int:
        """Disjoint intervals kept."""
        self._settle()
        return len(self._start)

    def _settle(self) -> None:
        if not self._fresh:
            return
        device = np.concatenate([self._device, *(part[0] for part in self._fresh)])
        start = np.concatenate([self._start, *(part[1] for part in self._fresh)])
        end = np.concatenate([self._end, *(part[2] for part in self._fresh)])
        self._fresh, self._fresh_count = [], 0
        self._device, self._start, self._end = self._union(device, start, end)
        while len(self._start) > self._max and self.granule_bytes < _SPAN:
            self.granule_bytes = _COARSE_BYTES if self.granule_bytes == 1 else self.granule_bytes * 8
            self._device, self._start, self._end = self._union(self._device, self._start, self._end)

    def _union(self, device: U32, start: U64, end: U64) -> tuple[U32, U64, U64]:
        """Disjoint intervals, sorted by device and start."""
        if self.granule_bytes > 1:
            mask = np.uint64(self.granule_bytes - 1)
            start, end = start & ~mask, (end + mask) & ~mask
        parts = [_union_linear(device[part], start[part], end[part], base)
                 for part, base in _lines(device, end)]
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
