"""Amounts over time, of a span that is not known in advance: a fixed number of bins whose width doubles as needed."""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 1024
_MAX_WIDTH = 1 << 62


class Timeline:
    """Sums in BINS bins from the first time met; earlier times count in the first bin. All exact integers."""

    def __init__(self, first_width: int = 1):
        self.width = first_width
        self.start: int | None = None
        self._sums: dict[str, NDArray[np.uint64]] = {}

    def add(self, name: str, at: NDArray[np.uint64], amount: NDArray[np.uint64]) -> None:
        """Adds amount[i] at time at[i] to the series `name`."""
        if not len(at):
            return
        if self.start is None:
            self.start = int(at[0])
        since = at - np.minimum(at, np.uint64(self.start))
        latest = int(since.max())
        while latest // self.width >= BINS and self.width < _MAX_WIDTH:
            self._double()
        sums = self._sums.setdefault(name, np.zeros(BINS, np.uint64))
        np.add.at(sums, np.minimum(since // np.uint64(self.width), np.uint64(BINS - 1)).astype(np.intp), amount)

    def _double(self) -> None:
        self.width *= 2
        for name, sums in self._sums.items():
            folded = np.zeros(BINS, np.uint64)
            folded[: BINS // 2] = sums[0::2] + sums[1::2]
            self._sums[name] = folded

    def used(self) -> int:
        """Bins up to the last one that holds anything."""
        return max((int(np.flatnonzero(sums)[-1]) + 1 for sums in self._sums.values() if sums.any()), default=0)

    def series(self, name: str) -> NDArray[np.uint64]:
        """Sums of the used bins."""
        sums: NDArray[np.uint64] = self._sums.get(name, np.zeros(BINS, np.uint64))[: self.used()]
        return sums
