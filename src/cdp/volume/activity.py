"""Volume.activity(): what was done, in intervals, from the summaries that the store keeps (cdp.store.activity)."""
from __future__ import annotations

import numbers
from typing import Any

from cdp.moments.model import Activity
from cdpcore.base.errors import InvalidRequest

MAX_INTERVALS = 10_000
ABOUT_INTERVALS = 120       # where no length is asked for
DAY_NS = 86400 * 10**9


def activity(store: Any, since_ns: int, until_ns: int, by_ns: int | None, lived_ns: tuple[int, int]) -> Activity:
    """[since, until] in UTC ns; in whole intervals, the first with `since` in it and the last with `until`, each
    beginning at a multiple of by_ns. lived_ns: the times of the oldest moment and the newest."""
    from cdp.store.activity_cells import intervals

    by_ns = length(since_ns, until_ns) if by_ns is None else by_ns
    if isinstance(by_ns, bool) or not isinstance(by_ns, numbers.Integral) or by_ns < 1:
        raise InvalidRequest(f"an interval of {by_ns!r} ns", "give a whole number of nanoseconds above 0")
    by_ns = int(by_ns)
    begin_ns = since_ns // by_ns * by_ns
    n = max(1, until_ns // by_ns + 1 - since_ns // by_ns)
    if n > MAX_INTERVALS:
        raise InvalidRequest(f"{n} intervals", f"ask for at most {MAX_INTERVALS}: longer ones, or a shorter time")
    kept, place_sectors = store.activity, store.activity.place_sectors
    found, missing = kept.cells(begin_ns, begin_ns + n * by_ns, by_ns)
    rows, places = intervals(found, begin_ns, by_ns, n, place_sectors, (lived_ns[0], lived_ns[1] + 1))
    used = -(-(store.geometry.size_bytes // 512) // place_sectors)
    return Activity(by_ns, rows, place_sectors * 512, places[:, :used],
                    max((summary.width_ns for summary in found), default=0), missing)


def length(since_ns: int, until_ns: int, most: int = ABOUT_INTERVALS) -> int:
    """The least usual length by which that is at most `most` intervals."""
    from cdpcore.log.summaries import WIDTHS_NS

    for width in WIDTHS_NS:
        if (until_ns - since_ns) // width < most:
            return int(width)
    return (until_ns - since_ns) // most // DAY_NS * DAY_NS + DAY_NS
