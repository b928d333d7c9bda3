"""What times and ages mean in a volume's history; cdp.moments.clock says by which rules.

Threading: any thread.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cdp.moments import clock, lineage
from cdp.moments.clock import Freed, Reading, Stretch
from cdp.moments.model import ClockStep, Moment
from cdp.store.store import Store


class Times:
    """Of one open volume, as it is now. newest: its newest moment; now_ns: what the clock shows."""

    def __init__(self, store: Store, newest: Moment, now_ns: int):
        self._store, self._newest = store, newest
        self.steps: list[ClockStep] = store.timeline.clock_steps(newest.seq)
        self._stretches = clock.stretches_of(self.steps, store.timeline.start, newest, now_ns)
        self._gaps = store.gaps()
        self._freed = [Freed(Moment(r.target_seq, r.target_ts_ns), r.seq, r.ts_ns)
                       for r in store.restores if r.destructive and r.seq > store.timeline.start.seq]

    @property
    def earliest_ns(self) -> int:
        """No time before it means anything."""
        return min(stretch.start_ns for stretch in self._stretches)

    def of_time(self, ts_ns: int) -> list[Reading]:
        """All readings of a time, the last one first; none: it is before the first stretch, or in the future. Raises
        LookupError where the last one was freed."""
        shown = [self._readings(stretch, ts_ns) for stretch in clock.showing(self._stretches, ts_ns)]
        if shown and not shown[0]:
            raise LookupError
        beside = [self._doubtful(seq) for seq in clock.in_pauses(self._stretches, ts_ns)
                  if shown and not lineage.freed(seq, self._gaps)]
        return [reading for readings in (*shown, beside) for reading in readings]

    def of_age(self, ts_ns: int) -> list[Reading]:
        """The same for so long ago as `ts_ns` is, by the clock of now."""
        found = clock.counted_back(self._stretches, ts_ns)
        counted = self._readings(*found) if found is not None else []
        if found is not None and not counted:
            raise LookupError
        sure = bool(counted) and not counted[0].doubtful
        if sure and found is not None and found[0] == self._stretches[-1]:
            return list(counted)
        readings = [*(counted if sure else []), *self.of_time(ts_ns)]
        return [replace(reading, exact=False) for reading in readings]      # an age is never meant to the ns

    def _readings(self, stretch: Stretch, ts_ns: int) -> Sequence[Reading]:
        """What a time means in a stretch; nothing where that was freed."""
        if clock.is_freed(stretch, ts_ns, self._freed):
            return ()
        if stretch.first_seq > self._newest.seq:
            return (Reading(self._newest),)
        timeline = self._store.timeline
        at = timeline.at_time(ts_ns, stretch.first_seq, stretch.last_seq)
        if lineage.freed(at.seq, self._gaps):
            return ()
        if at.ts_ns == ts_ns:
            return (Reading(at, exact=True),)
        if len(self._stretches) == 1:
            return (Reading(at),)
        following = at.seq + 1
        if gap := lineage.freed(following, self._gaps):
            following = gap[1]
        goes_on = following <= min(stretch.last_seq, self._newest.seq)
        apart_ns = (timeline.moment(following).ts_ns if goes_on else stretch.end_ns) - at.ts_ns
        jumped_before, jumped_after = apart_ns >= stretch.back_before_ns, apart_ns >= stretch.back_after_ns
        i = self._stretches.index(stretch)
        others = []     # while the clock was wrong
        if jumped_after and ts_ns < self._stretches[i + 1].start_ns:
            others.append(min(stretch.last_seq, self._newest.seq))
        if jumped_before and ts_ns > self._stretches[i - 1].end_ns:
            others.append(stretch.first_seq - 1)
        return (Reading(at, jumped_before or jumped_after),
                *(self._doubtful(seq) for seq in others if not lineage.freed(seq, self._gaps)))

    def _doubtful(self, seq: int) -> Reading:
        return Reading(self._store.timeline.moment(seq), True)
