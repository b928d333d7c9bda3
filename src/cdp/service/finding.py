"""Finding the right moment: the versions of a range, what differs between two moments, and what was done when, as plain
JSON.

Any thread.
"""
import itertools
from typing import TYPE_CHECKING, Any

from cdp.text.timestamps import utc
from cdp.views import (
    MAX_PAGE_EXTENTS,
    MAX_PAGE_RECORDS,
    MAX_PLACED_INTERVALS,
    ActivityView,
    DiffPage,
    ExtentView,
    VersionsPage,
    VersionView,
)
from cdpcore.base.errors import InvalidRequest

if TYPE_CHECKING:
    from cdp import Volume


def _bounded(limit: int, most: int) -> None:
    if not 1 <= limit <= most:
        raise InvalidRequest(f"limit {limit} is out of range", f"write 1 .. {most}")


def versions(volume: "Volume", offset: int, length: int, since: str | None, until: str, limit: int) -> VersionsPage:
    _bounded(limit, MAX_PAGE_RECORDS)
    from cdp.moments.records import FUA, KIND_NAMES, META, RESTORE

    rows = volume.history(offset, length, since, until, limit + 1)
    found = [
        VersionView(seq=seq, ts_ns=ts_ns, time=utc(ts_ns), kind=KIND_NAMES.get(kind, str(kind)), fua=bool(flags & FUA),
                    meta=bool(flags & META), offset=start, length=n, bytes=changed, present=bool(present),
                    target=target if kind == RESTORE else None)
        for seq, ts_ns, kind, flags, start, n, changed, present, target in rows[:limit].tolist()]
    return VersionsPage(versions=found, next=f"#{found[-1]['seq']}" if len(rows) > limit else None)


def diff(volume: "Volume", a: str, b: str, offset: int, length: int | None, compared: bool, limit: int) -> DiffPage:
    _bounded(limit, MAX_PAGE_EXTENTS)
    from cdp.moments.records import EXTENT_KINDS

    batches: Any = volume.iter_diff(a, b, offset, length, compared=compared)
    rows = itertools.chain.from_iterable(batch.tolist() for batch in batches)
    page = [ExtentView(offset=at, length=n, kind=EXTENT_KINDS[kind]) for at, n, kind in itertools.islice(rows, limit)]
    following = next(rows, None)
    return DiffPage(ranges=page, next_offset=None if following is None else following[0])


def activity(volume: "Volume", since: str | None, until: str, by_ns: int | None, places: bool) -> ActivityView:
    found = volume.activity(since, until, by_ns)
    rows, n = found.intervals, len(found.intervals)
    if places and n > MAX_PLACED_INTERVALS:
        raise InvalidRequest(f"{n} intervals by place", f"ask for at most {MAX_PLACED_INTERVALS}: longer ones, or a "
                             "shorter time")
    begin_ns = int(rows["ts_ns"][0])
    return ActivityView(
        begin_ns=begin_ns, begin=utc(begin_ns), by_ns=found.by_ns, resolution_ns=found.resolution_ns,
        missing=found.missing, written_bytes=rows["written"].tolist(), overwritten_bytes=rows["overwritten"].tolist(),
        zeroed_bytes=rows["zeroed"].tolist(), trimmed_bytes=rows["trimmed"].tolist(), writes=rows["writes"].tolist(),
        zeroes=rows["zeroes"].tolist(), trims=rows["trims"].tolist(), flushes=rows["flushes"].tolist(),
        place_bytes=found.place_bytes, places=found.places.round().astype("<i8").tolist() if places else None)
