"""How old a record is, by clocks that do not jump: what retention decides by.

A wall clock that is set forward by a year would make everything a year old. So a volume with a policy counts *elapsed*
time: by the machine's steady clock, which runs while the machine is on and is never set. It counts less than what
passed, never more: what cannot be proved (the machine was off) does not count, so history is kept longer for it.

A *sample* says which record was the newest at an elapsed time, and what the wall clock showed. Between two samples the
two clocks either agree, and then a record's own time says where in between it lies; or the wall clock was set, and then
all records between the samples (after a step back: all after it) count as young as the later sample. Records from
before the first sample have their times only: a record counts as made at the latest time up to it, and not later than
the first sample.

Invariants
  1. elapsed() ascends with seq.
  2. After the first sample no record counts as older than it is by more than JUMP_NS, however the wall clock is set.

Pure functions.
"""
from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from cdp.moments.model import ClockStep, Moment

JUMP_NS = 10**9         # wall and steady clock drift apart by less: slewing, the time between two readings
MOST_SAMPLES = 500      # kept: one for each time that the clock was set, of the last so many


@dataclass(frozen=True)
class Sample:
    """When record `seq` was the newest: elapsed_ns by the steady clock, since an arbitrary beginning; wall_ns: what the
    wall clock showed."""

    seq: int
    elapsed_ns: int
    wall_ns: int


def agree(a: Sample, b: Sample) -> bool:
    """Whether the wall clock was not set between two samples."""
    return abs((b.wall_ns - a.wall_ns) - (b.elapsed_ns - a.elapsed_ns)) <= JUMP_NS


def joined(samples: Sequence[Sample], new: Sample, last_step_seq: int = 0) -> list[Sample]:
    """With one more sample, which is not older than the last. One that says nothing that its neighbours do not say is
    left out, so a clock that is not set needs two. last_step_seq: where the wall clock went back last."""
    kept = list(samples)
    if len(kept) > 1 and last_step_seq <= kept[-2].seq and all(
            agree(a, b) for a, b in ((kept[-2], kept[-1]), (kept[-1], new), (kept[-2], new))):
        kept.pop()
    kept.append(new)
    while len(kept) > MOST_SAMPLES:
        del kept[1]         # what lay beside it counts as younger from now on
    return kept


class Ages:
    """Of the records of one volume. samples: ascending; now: the present, with the newest record; steps: where the wall
    clock went back, ascending."""

    def __init__(self, samples: Sequence[Sample], now: Sample, steps: Sequence[ClockStep] = ()):
        self.now = now
        self._samples = [*samples, now]
        self._seqs = [s.seq for s in self._samples]
        self._steps, self._step_seqs = steps, [s.seq for s in steps]
        self._latest: list[int] = []        # up to each step: the latest time that the clock had shown
        for step in steps:
            self._latest.append(max(step.before_ns, self._latest[-1] if self._latest else 0))

    def elapsed(self, at: Moment) -> int:
        """The elapsed time at which this record was made; it may be negative. Not more than now's."""
        i = bisect.bisect_left(self._seqs, at.seq)
        if i == len(self._samples):
            return self.now.elapsed_ns
        upper = self._samples[i]
        if i == 0:
            behind = bisect.bisect_right(self._step_seqs, at.seq)
            shown_ns = max(at.ts_ns, self._latest[behind - 1] if behind else 0)
            return upper.elapsed_ns - max(0, upper.wall_ns - shown_ns)
        lower = self._samples[i - 1]
        if not agree(lower, upper):
            return upper.elapsed_ns
        since = self._shown(at, lower.seq)
        if since is None:
            return upper.elapsed_ns
        return min(max(lower.elapsed_ns, lower.elapsed_ns + since - lower.wall_ns), upper.elapsed_ns)

    def _shown(self, at: Moment, after: int) -> int | None:
        """Its time; where the clock went back a little since `after`, the latest that it had shown; None: it went back
        by more."""
        shown_ns = at.ts_ns
        for step in reversed(self._steps[:bisect.bisect_right(self._step_seqs, at.seq)]):
            if step.seq <= after:
                break
            if step.before_ns - step.after_ns > JUMP_NS:
                return None
            shown_ns = max(shown_ns, step.before_ns)
        return shown_ns

    def age_ns(self, at: Moment) -> int:
        """How long ago it was made, at least."""
        return self.now.elapsed_ns - self.elapsed(at)
