"""From a point, as a user names it, to the moment that it means: the one place where points are resolved.

    now          the newest record
    #SEQ         that record
    @NAME        what the bookmark names
    a time, age  the last record at or before it, by what the clock showed (cdp.moments.clock)

What a destructive restore freed is refused, and so is what lies before the oldest moment or after the newest record;
the error names the nearest moments that can be opened. A time that the clock showed more than once is refused, too,
with all that it may mean. What thinning took means the kept moment before it; but a span of records goes from the very
record that is named, since records are not thinned. cdp.moments.points parses the text; cdp.store.timeline finds the
record.

Threading: any thread.
"""
from __future__ import annotations

import logging
import threading

from cdp.moments import clock, lineage, points
from cdp.moments.model import Bookmark, Explanation, Moment, Thinning, Window
from cdp.moments.points import Point, PointLike
from cdp.moments.records import changes_content
from cdp.store.store import Store
from cdp.text.timestamps import utc
from cdp.volume.bookmarks import Bookmarks
from cdp.volume.times import Times
from cdpcore.base.errors import InvalidRequest, NotFound, RefusedPoint

log = logging.getLogger("cdp.volume")
_FREED = "is in history that a destructive restore freed"
_BEFORE = "is before the oldest moment"


class Resolver:
    """The moments of one open volume. lock: the volume's; no restore changes the window while that is put together."""

    def __init__(self, store: Store, bookmarks: Bookmarks, lock: threading.RLock):
        self._store, self._bookmarks, self._lock = store, bookmarks, lock

    def window(self) -> Window:
        """Which moments can be opened."""
        with self._lock:
            timeline, newest = self._store.timeline, self._newest()
            gaps = [(timeline.moment(lo), timeline.moment(hi)) for lo, hi in self._store.gaps()]
            return Window(timeline.start, newest, gaps, timeline.clock_steps(newest.seq),
                          self._store.clock.behind_ns(), self._thinning())

    def _thinning(self) -> Thinning | None:
        """Where only some moments can be opened."""
        timeline, thinned, gaps = self._store.timeline, self._store.thinned, self._store.gaps()
        first, last = max(timeline.start.seq, *thinned.kept[:1], 0), thinned.upto
        if gap := lineage.freed(last, gaps):
            last = gap[0]
        if first >= last or lineage.freed(first, gaps):
            return None
        freed = sum(thinned.openable(max(lo + 1, first), min(hi - 1, last)) for lo, hi in gaps)
        return Thinning(timeline.moment(first), timeline.moment(last), thinned.openable(first, last) - freed)

    def resolve(self, point: PointLike) -> Moment:
        """The moment that a point means; logs a warning where it has another, doubtful reading. Raises InvalidRequest
        (also of a time that was shown more than once), NotFound (no such bookmark), RefusedPoint (outside the
        window)."""
        parsed, asked, others = self._resolve(point)
        at = self._kept(parsed, asked)
        if others:
            log.warning("%s: the clock was set back: %s is taken as %s, not as %s", self._store.directory, parsed.text,
                        _name(at), _either(others))
        if at != asked:
            log.info("%s: %s means %s, which was thinned: it is taken as %s", self._store.directory, parsed.text,
                     _name(asked), _name(at))
        return at

    def _kept(self, parsed: Point, asked: Moment) -> Moment:
        """What can be opened of it: the moment itself, or the kept one before it."""
        thinned = self._store.thinned
        seq = thinned.at(asked.seq)
        if seq == asked.seq:
            return asked
        if parsed.exact:
            nearest = [self._store.timeline.moment(one) for one in (seq, thinned.following(asked.seq))]
            raise RefusedPoint(f"{self._store.directory}: #{asked.seq} was thinned",
                               f"nearest kept: {_either(nearest)}")
        return self._store.timeline.moment(seq)

    def span(self, since: PointLike | None, until: PointLike) -> tuple[int, int]:
        """The seqs of two moments, the first not later than the second; since None: the oldest. Raises as resolve()."""
        if since is None:
            since = self._store.timeline.start.seq
        (asked_since, first, _), (asked_until, last, _) = self._resolve(since), self._resolve(until)
        times = asked_since.ts_ns, asked_until.ts_ns
        backwards = times[0] is not None and times[1] is not None and times[0] > times[1]
        if first.seq > last.seq or first == last and backwards:
            raise InvalidRequest(
                f"records since {asked_since.text} until {asked_until.text}: the first is the later one",
                "exchange the two")
        return first.seq, last.seq

    def times(self, since: PointLike | None, until: PointLike) -> tuple[int, int]:
        """As span(), in UTC ns: a time is itself, and where it is outside the window the window's end; "now" is what
        the clock shows, and None the oldest moment."""
        start_ns, newest_ns = self.lived_ns()
        now_ns = max(self._store.os.now_ns(), newest_ns)
        found = []
        for point in (since, until):
            parsed = points.parse("now" if point is None else point, now_ns)
            at_ns = start_ns if point is None else now_ns if parsed.kind == "now" else parsed.ts_ns
            found.append(self._resolve(point)[1].ts_ns if at_ns is None and point is not None else
                         min(max(at_ns or 0, start_ns), now_ns))
        if found[0] > found[1]:
            raise InvalidRequest(f"from {utc(found[0])} until {utc(found[1])}: the first is the later one",
                                 "exchange the two")
        return found[0], found[1]

    def lived_ns(self) -> tuple[int, int]:
        """The least and the greatest time of a moment in the window, however often the clock was set."""
        newest = self._newest()
        steps = self._store.timeline.clock_steps(newest.seq)
        return (min(self._store.timeline.start.ts_ns, *(step.after_ns for step in steps), newest.ts_ns),
                max(newest.ts_ns, *(step.before_ns for step in steps), newest.ts_ns))

    def explain(self, point: PointLike) -> Explanation:
        """How a point is resolved: which record, which one comes next, and whether it was flush-durable (every write
        that the point shows had been followed by a flush)."""
        parsed, asked, others = self._resolve(point)
        at = self._kept(parsed, asked)
        others = [other for reading in others if (other := self._kept(parsed, reading)) != at]
        timeline, gaps = self._store.timeline, self._store.gaps()
        following = None
        if at.seq < self._newest().seq and not lineage.freed(at.seq + 1, gaps):
            following = timeline.moment(self._store.thinned.following(at.seq + 1))
        flushed, durable = self.flushed(at.seq)
        note = "the base, before the first write" if at.seq == 0 else "the last record at or before the point"
        if at != asked:
            note = f"#{asked.seq} was thinned; this is the kept moment before it"
        if others:
            note += "; the clock was set back, and may have shown that time more than once"
        if not durable:
            note += "; writes after the last flush are shown, as a disk that loses power might not have kept them"
        return Explanation(parsed.text, parsed.kind, parsed.ts_ns, at, following, durable,
                           timeline.moment(flushed) if flushed else None, note, self._durability(at, durable),
                           others, None if at == asked else asked)

    def flushed(self, seq: int) -> tuple[int, bool]:
        """The last flush at or before an openable `seq` that is known, 0: none; and whether that moment is
        flush-durable."""
        start = self._store.timeline.start.seq
        flushed = self._store.timeline.last_flush(seq)
        if flushed < start:     # what lies between is not known any more, but for what it came to
            return 0, self._store.geometry.start_flushed and not self._changes_between(start, seq)
        if lineage.freed(flushed, self._store.gaps()):
            flushed = 0
        return flushed, seq == 0 or flushed == seq or not self._changes_between(max(flushed, start), seq)

    def _durability(self, at: Moment, flushed: bool) -> str:
        if flushed:
            return "flushed"
        return "stored" if at.seq <= self._store.durable_seq() else "memory"

    def _newest(self) -> Moment:
        return Moment(*self._store.core.position())

    def _resolve(self, point: PointLike) -> tuple[Point, Moment, list[Moment]]:
        """The point, its moment, and doubtful readings of it."""
        now_ns = self._store.os.now_ns()
        parsed = points.parse(point, now_ns)
        if parsed.kind == "now":
            return parsed, self._newest(), []
        if parsed.name is not None:
            return parsed, self._bookmark(parsed, parsed.name), []
        if parsed.seq is not None:
            return parsed, self._seq(parsed, parsed.seq), []
        assert parsed.ts_ns is not None
        found, *others = self._time(parsed, parsed.ts_ns, now_ns)
        return parsed, found, others

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
        if seq < self._store.timeline.start.seq:
            raise self._refusal(parsed, _BEFORE)
        self._check_not_freed(parsed, seq)
        return self._store.timeline.moment(seq)

    def _time(self, parsed: Point, ts_ns: int, now_ns: int) -> list[Moment]:
        """The moment, and doubtful readings."""
        if points.valid_name(parsed.text) and self._find(parsed.text) is not None:
            raise InvalidRequest(f"{self._store.directory}: {parsed.text!r} is a time, and a bookmark is called so",
                                 f"write @{parsed.text} for the bookmark, or {utc(ts_ns)} for the time")
        times = Times(self._store, self._newest(), now_ns)
        try:
            readings = (times.of_age if parsed.kind == "age" else times.of_time)(ts_ns)
        except LookupError:
            raise self._refusal(parsed, _FREED) from None
        if not readings:
            raise self._refusal(parsed, _BEFORE if ts_ns < times.earliest_ns else
                                "is in the future")
        found = clock.meant(readings)
        if len(found) > 1:
            at = " at " + ", ".join(f"#{step.seq}" for step in times.steps[-3:]) if times.steps else ""
            raise InvalidRequest(f"{self._store.directory}: the clock was set back{at}, and {parsed.text} may mean "
                                 f"{_either(found)}", "write the number of the one that is meant")
        return [*found, *(m for m in clock.distinct(readings) if m not in found)]

    def _check_not_freed(self, parsed: Point, seq: int) -> None:
        if lineage.freed(seq, self._store.gaps()):
            raise self._refusal(parsed, _FREED)

    def _refusal(self, parsed: Point, why: str) -> RefusedPoint:
        window = self.window()

        def distance(moment: Moment) -> int:
            return abs(moment.seq - parsed.seq) if parsed.seq is not None else abs(moment.ts_ns - (parsed.ts_ns or 0))

        ends = [window.oldest, *(moment for gap in window.gaps for moment in gap), window.newest]
        nearest = sorted(set(sorted(ends, key=distance)[:2]), key=lambda moment: moment.seq)
        return RefusedPoint(
            f"{self._store.directory}: {parsed.text} {why}: the window is {utc(window.oldest.ts_ns)} "
            f"(#{window.oldest.seq}) to {utc(window.newest.ts_ns)} (#{window.newest.seq})",
            f"nearest valid: {_either(nearest)}")

    def _changes_between(self, after: int, upto: int) -> bool:
        return any(bool(changes_content(batch["kind"]).any()) for batch in self._store.timeline.records(after, upto))


def _name(moment: Moment) -> str:
    return f"#{moment.seq} ({utc(moment.ts_ns)})"


def _either(moments: list[Moment]) -> str:
    return " or ".join(map(_name, moments))
