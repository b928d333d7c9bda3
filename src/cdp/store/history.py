"""A volume's history as retention looks at it: cdp.moments.retention.History over a store's timeline.

Threading: any thread; it is what the store has when it is made.
"""
from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from cdp.moments import clock, lineage
from cdp.moments.clock import Stretch
from cdp.moments.model import Moment
from cdp.store.store import Store
from cdpcore.base.errors import NotFound


class StoreHistory:
    """newest: the newest moment; now_ns: what the clock shows."""

    def __init__(self, store: Store, newest: Moment, now_ns: int):
        self._timeline = store.timeline
        self._gaps, self.thinned = store.gaps(), store.thinned
        self.newest = newest
        self.oldest = store.timeline.start
        self.steps = store.timeline.clock_steps(newest.seq)
        self.stretches: Sequence[Stretch] = clock.stretches_of(self.steps, self.oldest, newest, now_ns)
        rows = [r for r in store.timeline.rows() if r.last_seq > self.oldest.seq]   # others are on their way out
        self.segments: Sequence[tuple[int, int]] = [(r.last_seq, store.log_bytes(r)) for r in rows[:-1]]
        self.stays_seq = rows[-1].last_seq if rows else 0
        self.total_bytes = (sum(map(store.log_bytes, rows)) + int(store.core.stats()["open_log_bytes"])
                            + sum(r.file_bytes for r in store.maintainer.runs))
        self.restores: Sequence[tuple[int, int]] = [
            (r.target_seq, store.done_seq(r.seq) or lineage.NOW) for r in store.restores if r.seq > self.oldest.seq]

    def moment(self, seq: int) -> Moment:
        """Of `seq`; where that was freed or thinned, of the last one before that was not."""
        if gap := lineage.freed(seq, self._gaps):
            seq = gap[0]
        return self._timeline.moment(max(self.thinned.at(seq), self.oldest.seq))

    def at_time(self, ts_ns: int, stretch: Stretch) -> Moment:
        """The last one of a stretch at or before a time; one with a lower seq than the stretch has: none."""
        none = Moment(stretch.first_seq - 1, 0)
        if ts_ns < stretch.start_ns:
            return none
        try:
            found = self._timeline.at_time(ts_ns, stretch.first_seq, stretch.last_seq)
            if not lineage.freed(found.seq, self._gaps):
                return self._kept(found, none)
        except NotFound:
            pass
        for seq in sorted((lo for lo, _ in self._gaps if stretch.first_seq <= lo <= stretch.last_seq), reverse=True):
            before = self._timeline.moment(seq)
            if before.ts_ns <= ts_ns:
                return self._kept(before, none)
        return none

    def _kept(self, found: Moment, none: Moment) -> Moment:
        """The kept moment at or before one of a stretch; `none`: it lies before the stretch."""
        seq = self.thinned.at(found.seq)
        if seq == found.seq:
            return found
        return none if seq <= none.seq else self.moment(seq)

    def last_flush(self, seq: int) -> int:
        """The last FLUSH or FUA record up to `seq`; 0: none that is known."""
        with suppress(NotFound):
            return self._timeline.last_flush(seq)
        return 0
