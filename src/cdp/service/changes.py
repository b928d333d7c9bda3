"""Looks at what is being changed in a served volume, for cdp.service.suspicion, and bookmarks the moment before what is
suspicious: the last flush-durable one, kept for KEEP_NS whatever the policy says.

Threading: one thread at a time.
"""
from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cdp.service.suspicion import Look, Suspicion, described
from cdpcore.base.errors import CdpError
from cdpcore.volume.rewrites import BLOCK_BYTES, ONE_IN, Rewrites

if TYPE_CHECKING:
    from cdp import Volume

log = logging.getLogger("cdp.alerts")
KEEP_NS = 30 * 86_400 * 10**9
PREFIX = "before-suspicious-change-"
MOST_BOOKMARKS = 8          # of those, at once: the oldest is what matters
TICK_NS = 8 * 10**9         # a read counts as shortly before for 75 of them: ten minutes


class Changes:
    """Of one volume, which others may close. threshold_bytes 0: nothing is counted."""

    def __init__(self, volume: Volume, threshold_bytes: float):
        self._volume = volume
        self.suspicion = Suspicion(int(threshold_bytes))
        self._rewrites: Rewrites | None = None
        if threshold_bytes and not volume.read_only:
            self._rewrites = Rewrites(volume._core)
        self._before: tuple[int, int] | None = None     # seq, steady ns
        self._marked = ""
        self.words = ""

    def look(self, steady_ns: int, now_ns: int) -> None:
        """What was done since the last look."""
        if self._rewrites is None:
            return
        seq, sets = self._rewrites.take(steady_ns // TICK_NS)
        before, self._before = self._before, (seq, steady_ns)
        if before is None:
            return
        try:
            look = self._looked(before[0], seq, (steady_ns - before[1]) / 1e9, sets)
        except CdpError as error:       # a destructive restore took it, or the volume is closed
            log.info("%s: what was changed is not looked at: %s", self._volume.path, error)
            return
        self.suspicion.add(look)
        run = self.suspicion.found
        if run is None:
            self._marked = self.words = ""
            return
        if not self._marked:
            self._mark(run.begin_seq, now_ns)
        self.words = f"{described(run)}; {self._marked or 'the moment before it could not be bookmarked'}"

    def _looked(self, first_seq: int, seq: int, seconds: float, sets: list[tuple[int, list[int]]]) -> Look:
        (rewritten, again), (retrimmed, gone), (others, new), (trims, _) = sets
        scale = float(BLOCK_BYTES * ONE_IN)
        found: list[tuple[float, ...]] = [(0.0,) * 5] * 3
        if rewritten or retrimmed or others:
            assert self._rewrites is not None
            first, last = self._volume._view(f"#{first_seq}")[1], self._volume._view(f"#{seq}")[1]
            for i, (blocks, samples) in enumerate(((rewritten, again), (retrimmed, gone), (others, new))):
                if samples:
                    found[i] = tuple(n * scale * blocks / len(samples)
                                     for n in self._rewrites.compare(first, last, samples))
        return Look(first_seq, seconds, (rewritten + others) * scale, (retrimmed + trims) * scale, rewritten * scale,
                    found[0][0] + found[2][0], found[0][2], found[0][3], found[1][1], found[2][4])

    def _mark(self, seq: int, now_ns: int) -> None:
        name = f"{PREFIX}{datetime.fromtimestamp(now_ns // 10**9, UTC):%Y%m%dT%H%M%SZ}"
        try:
            if sum(mark.name.startswith(PREFIX) for mark in self._volume.bookmarks()) >= MOST_BOOKMARKS:
                self._marked = f"there are {MOST_BOOKMARKS} bookmarks {PREFIX}... already, and no other is made"
                return
            got = self._volume.explain(f"#{seq}")
            if not got.flush_durable and got.last_flush is not None:
                seq = got.last_flush.seq
            self._volume.bookmark(name, at=f"#{seq}", keep_ns=KEEP_NS)
            self._marked = f"the moment before it is @{name}"
        except CdpError as error:       # tried again with the next look
            log.warning("%s: the moment before a suspicious change could not be bookmarked: %s", self._volume.path,
                        error)
