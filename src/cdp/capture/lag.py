"""How far a follower is behind, in entries and in time, from when it saw the log count what.

Invariants
  1. What counts as settled has been counted for SETTLE at least: its writer counts an entry before it has written it
     (cdp.capture.log_entries), so the newest ones may still be on their way.
  2. At most MAX_SEEN observations, one in EVERY_NS; when there are more, every second one goes, so that times get
     coarser, not wrong.
Pure: times are given, in ns of one monotonic clock.
"""
from __future__ import annotations

MAX_SEEN = 4096
EVERY_NS = 20_000_000


class Lag:
    """settle_ns: how long an entry must have been counted before it is taken."""

    def __init__(self, settle_ns: int):
        self.settle_ns = settle_ns
        self._seen: list[tuple[int, int]] = []  # (when, entries), both ascending

    def observe(self, now_ns: int, entries: int) -> None:
        """The log counts so many."""
        if self._seen and (entries == self._seen[-1][1] or now_ns - self._seen[-1][0] < EVERY_NS):
            return
        self._seen.append((now_ns, entries))
        if len(self._seen) > MAX_SEEN:
            del self._seen[1::2]

    def settled(self, now_ns: int) -> int:
        """How many entries may be taken."""
        return max((entries for when, entries in self._seen if now_ns - when >= self.settle_ns), default=0)

    def behind_ns(self, now_ns: int, done: int) -> int:
        """How long the oldest entry that is not taken has been counted; 0: all are taken."""
        return next((now_ns - when for when, entries in self._seen if entries > done), 0)

    def forget(self, done: int) -> None:
        """So many are taken: what was seen of them is not needed, but for the last."""
        old = sum(1 for _, entries in self._seen if entries <= done)
        del self._seen[:max(0, old - 1)]
