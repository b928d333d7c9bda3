"""What a time means where the clock was wrong.

Records are ordered by seq alone, and each has the time that the clock showed. Where that went back is known: between
two steps back, times ascend with seq: such a part of the history is a *stretch*. The first one begins with the volume
itself: its oldest moment, at first #0 and created_ns. A time that lies in several stretches has several *readings*.

Not all of them are as good. A clock that is set ahead by mistake and back later leaves two records between which it
jumped, and what lies between them was never shown, though it looks like a pause. So a reading is *doubtful* where it
lies between two records that are as far apart as a step back beside it: the jump ahead that this step undid (or that
undid it) may be there. Records that were made meanwhile have times of the wrong clock; who asks for a time between the
last right one before them and the first right one after them gets both, to choose from.

A step is known from the records beside it, and was made in the pause between them. So within a second after the time of
the record before it, and within a second before the time of the record after it, the clock may have shown a time while
that pause lasted: who notes the time when a write is done, or before the next one, notes such a time. The last record
before the step is a doubtful reading then. What a longer pause showed is not known.

    one reading that is not doubtful    is meant
    one with exactly a record's time    is meant
    several                             refused, with all of them: to guess would be to restore the wrong state

Ages are counted back through the stretches, by what the clock showed in each. Where that is in the last stretch and not
doubtful, it is meant.

Pure functions.
"""
from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cdp.moments.model import ClockStep, Moment
from cdp.text.timestamps import NS
from cdpcore.log.clock_steps import CLOCK_STEP_NS

NO_END = (1 << 64) - 1
BESIDE_NS = NS


@dataclass(frozen=True)
class Stretch:
    """Records first_seq..last_seq (the oldest moment counts as one), with times ascending from start_ns to end_ns.
    back_ns: how far the clock went back where it begins, and where it ends; NO_END: it did not."""

    first_seq: int
    last_seq: int
    start_ns: int
    end_ns: int
    back_before_ns: int = NO_END
    back_after_ns: int = NO_END


@dataclass(frozen=True)
class Freed:
    """A destructive restore at record `seq` freed what follows `target`."""

    target: Moment
    seq: int
    ts_ns: int


@dataclass(frozen=True)
class Reading:
    """What a time means in one stretch."""

    moment: Moment
    doubtful: bool = False
    exact: bool = False     # it is the time of that record


def stretches_of(steps: Sequence[ClockStep], oldest: Moment, newest: Moment, now_ns: int) -> list[Stretch]:
    """In order; the last one goes on, and ends now. `steps` ascend, after `oldest` and up to `newest`. A clock that is
    behind `newest` now has begun a stretch without records."""
    end_ns = max(now_ns, newest.ts_ns)
    if newest.ts_ns >= now_ns + CLOCK_STEP_NS:
        steps, end_ns = [*steps, ClockStep(newest.seq + 1, newest.ts_ns, now_ns)], now_ns
    starts = [(oldest.seq, oldest.ts_ns), *((s.seq, s.after_ns) for s in steps)]
    ends = [*((s.seq - 1, s.before_ns) for s in steps), (NO_END, end_ns)]
    backs = [NO_END, *(s.before_ns - s.after_ns for s in steps), NO_END]
    return [Stretch(starts[i][0], ends[i][0], starts[i][1], ends[i][1], backs[i], backs[i + 1])
            for i in range(len(starts))]


def showing(stretches: Iterable[Stretch], ts_ns: int) -> list[Stretch]:
    """Those in which the clock may have shown that time; the last one first."""
    return [e for e in stretches if e.start_ns <= ts_ns <= e.end_ns][::-1]


def in_pauses(stretches: Sequence[Stretch], ts_ns: int) -> list[int]:
    """The last records before the steps in whose pauses the clock may have shown that time, though no stretch has it;
    the last one first."""
    return [before.last_seq for before, after in itertools.pairwise(stretches)
            if before.end_ns < ts_ns <= before.end_ns + BESIDE_NS
            or after.start_ns - BESIDE_NS <= ts_ns < after.start_ns][::-1]


def counted_back(stretches: Sequence[Stretch], ts_ns: int) -> tuple[Stretch, int] | None:
    """The stretch of as long ago as `ts_ns` is by the clock of the last one, and what the clock showed then; None: that
    is before the first."""
    later = None
    for stretch in reversed(stretches):
        if later is not None:
            ts_ns += stretch.end_ns - later.start_ns
        if ts_ns >= stretch.start_ns:
            return stretch, ts_ns
        later = stretch
    return None


def is_freed(stretch: Stretch, ts_ns: int, freed: Iterable[Freed]) -> bool:
    """Whether the moment that a time means in a stretch can't be opened any more."""
    return any(f.target.seq <= stretch.last_seq and f.seq > stretch.first_seq
               and (f.target.seq < stretch.first_seq or f.target.ts_ns < ts_ns)
               and (f.seq > stretch.last_seq or ts_ns < f.ts_ns) for f in freed)


def meant(readings: Sequence[Reading]) -> list[Moment]:
    """The one that is meant, or all that may be. `readings`: at least one."""
    exact = [r for r in readings if r.exact]
    sure = [r for r in readings if not r.doubtful]
    return distinct(exact or sure or readings)


def distinct(readings: Iterable[Reading]) -> list[Moment]:
    """The moments, each once."""
    return list(dict.fromkeys(r.moment for r in readings))
