"""From a point, as a user names it, to the moment that it means: the one place where points are resolved.

    now          the newest record
    #SEQ         that record
    @NAME        what the bookmark names
    a time, age  the last record at or before it

What a destructive restore freed is refused, and so is what lies before the base or after the newest record; the error
names the nearest moments that can be opened. cdp.moments.points parses the text; cdp.store.timeline finds the record.

Threading: any thread.
"""
from __future__ import annotations

import threading

from cdp.moments import lineage, points
from cdp.moments.model import Bookmark, Explanation, Moment, Window
from cdp.moments.points import Point, PointLike
from cdp.moments.records import changes_content
from cdp.store.store import Store
from cdp.text.timestamps import utc
from cdp.volume.bookmarks import Bookmarks
from cdpcore.base.errors import InvalidRequest, NotFound, RefusedPoint

_FREED = "is in history that a destructive restore freed"


class Resolver:
    """The moments of one open volume. lock: the volume's; no restore changes the window while that is put together."""

    def __init__(self, store: Store, bookmarks: Bookmarks, lock: threading.RLock):
        self._store, self._bookmarks, self._lock = store, bookmarks, lock

    def window(self) -> Window:
        """Which moments can be opened."""
        with self._lock:
            moment = self._store.timeline.moment
            return Window(self._base(), self._newest(), [(moment(lo), moment(hi)) for lo, hi in self._store.gaps()])

    def resolve(self, point: PointLike) -> Moment:
        """The moment that a point means. Raises InvalidRequest, NotFound (no such bookmark), RefusedPoint (outside the
        window)."""
        return self._resolve(point)[1]

    def span(self, since: PointLike, until: PointLike) -> tuple[int, int]:
        """The seqs of two moments, the first not later than the second. Raises as resolve()."""
        (asked_since, first), (asked_until, last) = self._resolve(since), self._resolve(until)
        times = asked_since.ts_ns, asked_until.ts_ns
        if first.seq > last.seq or times[0] is not None and times[1] is not None and times[0] > times[1]:
            raise InvalidRequest(
                f"records since {asked_since.text} until {asked_until.text}: the first is the later one",
                "exchange the two")
        return first.seq, last.seq

    def explain(self, point: PointLike) -> Explanation:
        """How a point is resolved: which record, which one comes next, and whether it was flush-durable (every write
        that the point shows had been followed by a flush)."""
        parsed, at = self._resolve(point)
        timeline, gaps = self._store.timeline, self._store.gaps()
        following = None
        if at.seq < self._newest().seq and not lineage.freed(at.seq + 1, gaps):
            following = timeline.moment(at.seq + 1)
        flushed = timeline.last_flush(at.seq)
        if lineage.freed(flushed, gaps):
            flushed = 0
        durable = at.seq == 0 or flushed == at.seq or not self._changes_between(flushed, at.seq)
        note = "the base, before the first write" if at.seq == 0 else "the last record at or before the point"
        if not durable:
            note += "; writes after the last flush are shown, as a disk that loses power might not have kept them"
        return Explanation(parsed.text, parsed.kind, parsed.ts_ns, at, following, durable,
                           timeline.moment(flushed) if flushed else None, note, self._durability(at, durable))

    def _durability(self, at: Moment, flushed: bool) -> str:
        if flushed:
            return "flushed"
        return "stored" if at.seq <= self._store.durable_seq() else "memory"

    def _base(self) -> Moment:
        return Moment(0, self._store.geometry.created_ns)

    def _newest(self) -> Moment:
        return Moment(*self._store.core.position())

    def _resolve(self, point: PointLike) -> tuple[Point, Moment]:
        now_ns = self._store.os.now_ns()
        parsed = points.parse(point, now_ns)
        if parsed.kind == "now":
            return parsed, self._newest()
        if parsed.name is not None:
            return parsed, self._bookmark(parsed, parsed.name)
        if parsed.seq is not None:
            return parsed, self._seq(parsed, parsed.seq)
        assert parsed.ts_ns is not None
        return parsed, self._time(parsed, parsed.ts_ns, now_ns)

    def _bookmark(self, parsed: Point, name: str) -> Moment:
        found = self._find(name)
        if found is None:
            raise NotFound(f"{self._store.directory}: no bookmark {name!r}",
                           f"'cdp bookmarks' lists them; otherwise {points.other_than_name(parsed)}")
        return found.at

    def _find(self, name: str) -> Bookmark | None:
        with self._lock:        # close() holds it
            return self._bookmarks.find(name)

    def _seq(self, parsed: Point, seq: int) -> Moment:
        if seq > self._newest().seq:
            raise self._refusal(parsed, "is after the newest moment")
        self._check_not_freed(parsed, seq)
        return self._store.timeline.moment(seq)

    def _time(self, parsed: Point, ts_ns: int, now_ns: int) -> Moment:
        if points.valid_name(parsed.text) and self._find(parsed.text) is not None:
            raise InvalidRequest(f"{self._store.directory}: {parsed.text!r} is a time, and a bookmark is called so",
                                 f"write @{parsed.text} for the bookmark, or {utc(ts_ns)} for the time")
        if ts_ns < self._base().ts_ns:
            raise self._refusal(parsed, "is before the oldest moment")
        if ts_ns > max(now_ns, self._newest().ts_ns):
            raise self._refusal(parsed, "is in the future")
        if any(r.destructive and r.target_ts_ns < ts_ns < r.ts_ns for r in self._store.restores):
            raise self._refusal(parsed, _FREED)
        moment = self._store.timeline.at_time(ts_ns)
        self._check_not_freed(parsed, moment.seq)
        return moment

    def _check_not_freed(self, parsed: Point, seq: int) -> None:
        if lineage.freed(seq, self._store.gaps()):
            raise self._refusal(parsed, _FREED)

    def _refusal(self, parsed: Point, why: str) -> RefusedPoint:
        window = self.window()

        def distance(moment: Moment) -> int:
            return abs(moment.seq - parsed.seq) if parsed.seq is not None else abs(moment.ts_ns - (parsed.ts_ns or 0))

        ends = [window.oldest, *(moment for gap in window.gaps for moment in gap), window.newest]
        nearest = sorted(set(sorted(ends, key=distance)[:2]), key=lambda moment: moment.seq)
        text = " or ".join(f"#{moment.seq} ({utc(moment.ts_ns)})" for moment in nearest)
        return RefusedPoint(
            f"{self._store.directory}: {parsed.text} {why}: the window is {utc(window.oldest.ts_ns)} (#0) to "
            f"{utc(window.newest.ts_ns)} (#{window.newest.seq})", f"nearest valid: {text}")

    def _changes_between(self, after: int, upto: int) -> bool:
        return any(bool(changes_content(batch["kind"]).any()) for batch in self._store.timeline.records(after, upto))
