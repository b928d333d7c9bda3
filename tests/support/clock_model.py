"""What the clock of a simulated machine showed, and what a time means then: by the lists, without any search.

`Shown` knows the truth, which no volume can know: where the clock was set, and how many records there were at each
reading of it. `meant` says what cdp.moments.clock's rules make of the times of the records alone.
"""
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from cdpcore.log.clock_steps import CLOCK_STEP_NS
from cdpcore.system.os import SimOs

SECOND = 10**9
SIZES_NS = (2 * 10**6, SECOND // 2, SECOND, 7 * SECOND, 300 * SECOND, 3600 * SECOND, 26 * 3600 * SECOND,
            400 * 86400 * SECOND)


@dataclass
class Stretch:
    """Between two settings of the clock, what it showed: (reading, newest seq), both ascending."""

    samples: list[tuple[int, int]] = field(default_factory=list)

    def between(self, ts_ns: int) -> tuple[int, int] | None:
        """The state at that reading is one of these; None: it was not shown, or before the first record of the stretch
        or after its last one, where nobody can know."""
        first, last = self.samples[0][1], self.samples[-1][1]
        began = next((ts for ts, seq in self.samples if seq > first), None)
        ended = next(ts for ts, seq in self.samples if seq == last)
        if began is None or not began <= ts_ns <= ended:
            return None
        return (max(seq for ts, seq in self.samples if ts <= ts_ns),
                min(seq for ts, seq in self.samples if ts >= ts_ns))


class Shown:
    """The clock of `sim`, and the states of one volume."""

    def __init__(self, sim: SimOs):
        self.sim, self.stretches = sim, [Stretch()]

    def sample(self, seq: int) -> None:
        self.stretches[-1].samples.append((self.sim.now_ns(), seq))

    def set(self, change_ns: int) -> None:
        self.sim.set_clock(max(1, self.sim.now_ns() + change_ns))
        self.stretches.append(Stretch())

    def truths(self, ts_ns: int) -> list[tuple[int, int]]:
        return [found for s in self.stretches if s.samples and (found := s.between(ts_ns)) is not None]


def change(rnd: random.Random) -> int:
    """By how much a clock is set."""
    return int(rnd.choice((-1, 1)) * rnd.choice(SIZES_NS) * rnd.uniform(0.5, 1.5))


def steps(times: list[int]) -> list[int]:
    """The records at which the clock had been set back. times: of all records, #0 first."""
    return [seq for seq in range(1, len(times)) if times[seq] <= times[seq - 1]]


def meant(times: list[int], gaps: list[tuple[int, int]], ts_ns: int, now_ns: int) -> tuple[list[int], list[int]] | None:
    """(the seqs that are meant: several: refused, all seqs that are readings); None: freed, or outside."""
    freed = [any(lo < seq < hi for lo, hi in gaps) for seq in range(len(times))]
    bounds = [0, *steps(times), len(times)]
    behind = times[-1] >= now_ns + CLOCK_STEP_NS
    found: list[tuple[int, bool, bool]] = []        # seq, doubtful, exact
    for i in reversed(range(len(bounds) - 1)):
        first, last = bounds[i], bounds[i + 1] - 1
        is_last = i == len(bounds) - 2 and not behind
        end = max(now_ns, times[last]) if is_last else times[last]
        if not times[first] <= ts_ns <= end:
            continue
        at = max(seq for seq in range(first, last + 1) if times[seq] <= ts_ns)
        if freed[at] or any(lo <= at < hi and (lo < first or times[lo] < ts_ns) for lo, hi in gaps):
            if not found:
                return None
            continue
        if times[at] == ts_ns:
            found.append((at, False, True))
            continue
        later = next((seq for seq in range(at + 1, last + 1) if not freed[seq]), None)
        apart = (end if later is None else times[later]) - times[at]
        doubts = []
        if i + 1 < len(bounds) - 1 or behind:
            after = now_ns if i == len(bounds) - 2 else times[last + 1]
            if apart >= times[last] - after:
                doubts.append(last if ts_ns < after else None)
        if first and apart >= times[first - 1] - times[first]:
            doubts.append(first - 1 if ts_ns > times[first - 1] else None)
        found.append((at, bool(doubts), False))
        found += [(seq, True, False) for seq in doubts if seq is not None and not freed[seq]]
    if not found:
        return None
    for i in range(1, len(bounds) - 1 + behind):        # the clock was set in the pause before that record
        before = bounds[i] - 1
        after = now_ns if bounds[i] == len(times) else times[bounds[i]]
        if not freed[before] and (0 < ts_ns - times[before] <= SECOND or 0 < after - ts_ns <= SECOND):
            found.append((before, True, False))

    def pick(holds: Callable[[tuple[int, bool, bool]], bool]) -> list[int]:
        return list(dict.fromkeys(f[0] for f in found if holds(f)))
    every = pick(lambda f: True)
    return pick(lambda f: f[2]) or pick(lambda f: not f[1]) or every, every
