"""Which moments of the middle of a history can be opened: the list that thinning keeps. Worked out, and nothing done.

From kept[0] to kept[-1] only the moments of the list can be opened; before and after it, every one that the window has.
A seq inside means the kept moment at or before it. A *round* of thinning gives a new list, and says in which spans data
may have become unseen (cdp.store.unseen finds it): `todo`. The list has to be durable before any of that goes.

Invariants
  1. What cannot be opened once, cannot be opened later: a round takes moments away, and never brings one back.
  2. A version that some moment showed before a round, and none shows after it, lies in a span (lo, hi] of todo.
  3. A span is in todo only if moments in it went, or if it was there before.

Pure functions.
"""
from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cdpcore.base.errors import InvalidRequest

MOST_KEPT = 200_000     # some MiB of JSON
Span = tuple[int, int]


@dataclass(frozen=True)
class Thinned:
    """kept: ascending; none: nothing was thinned yet. todo: (lo, hi], ascending, disjoint: what may hold data that
    nobody sees and that is still to be freed."""

    kept: tuple[int, ...] = ()
    todo: tuple[Span, ...] = ()

    @property
    def upto(self) -> int:
        """From here on every moment can be opened."""
        return self.kept[-1] if self.kept else 0

    def at(self, seq: int) -> int:
        """What `seq` means: itself, or the kept moment before it."""
        if not self.kept or not self.kept[0] < seq < self.upto:
            return seq
        return self.kept[bisect.bisect_right(self.kept, seq) - 1]

    def following(self, seq: int) -> int:
        """The first moment at or after `seq` that can be opened: where the history may start instead of `seq`."""
        if not self.kept or not self.kept[0] < seq < self.upto:
            return seq
        return self.kept[bisect.bisect_left(self.kept, seq)]

    def openable(self, first: int, last: int) -> int:
        """How many of the moments first to last can be opened."""
        if first > last:
            return 0
        if not self.kept:
            return last - first + 1
        before = max(0, min(last, self.kept[0] - 1) - first + 1)
        behind = max(0, last - max(first, self.upto + 1) + 1)
        return before + behind + bisect.bisect_right(self.kept, last) - bisect.bisect_left(self.kept, first)

    def thinned_to(self, moments: Sequence[int]) -> Thinned:
        """After a round that keeps only `moments` (ascending, from the oldest moment of the history on) up to the last
        of them. Where they end before `upto`, what is behind them stays as it is. Raises InvalidRequest where one of
        them cannot be opened any more, or there are too many."""
        gone = next((seq for seq in moments if self.at(seq) != seq), None)
        if gone is not None:
            raise InvalidRequest(f"moment #{gone} was thinned already", f"#{self.at(gone)} is kept instead")
        kept = (*moments, *self.kept[bisect.bisect_right(self.kept, moments[-1]):])
        if len(kept) > MOST_KEPT:
            raise InvalidRequest(f"the tiers keep {len(kept)} points, {MOST_KEPT} are the most",
                                 "keep longer intervals, or for shorter spans")
        changed = [(lo, hi) for lo, hi in itertools.pairwise(kept) if self.following(lo + 1) < hi]
        left = [(max(lo, kept[0]), hi) for lo, hi in self.todo if hi > kept[0]]
        return Thinned(kept, _joined([*changed, *left]))

    def done(self, upto: int) -> Thinned:
        """All that lies in records up to `upto` is freed."""
        return replace(self, todo=tuple((max(lo, upto), hi) for lo, hi in self.todo if hi > upto))


def _joined(spans: list[Span]) -> tuple[Span, ...]:
    """The same, ascending and disjoint."""
    found: list[Span] = []
    for lo, hi in sorted(spans):
        if found and lo <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], hi)
        else:
            found.append((lo, hi))
    return tuple(found)
