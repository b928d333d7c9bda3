"""What a clock on the wall showed, as instants: a reading of it can have happened once, twice, or never.

A zone's clock is put back (a stretch of readings comes twice) and forward (a stretch never comes). What is ambiguous or
never was is refused, with both readings to choose from; it is never guessed, because a restore to the wrong hour looks
like one to the right hour. The zone is that of the process (TZ), with all the rules that the system knows of it.

Pure functions, but for the zone: any thread.
"""
from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as time_of_day

from cdpcore.base.errors import InvalidRequest

NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def readings(wall: datetime) -> list[int]:
    """The unix seconds at which the clock showed `wall` (naive, whole seconds): one, two, or none."""
    both = {_seconds(wall, fold) for fold in (0, 1)}
    return sorted(at for at in both if datetime.fromtimestamp(at).replace(fold=0) == wall.replace(fold=0))


def instant(wall: datetime, rest_ns: int, text: str) -> int:
    """The ns since 1970 UTC at which the clock showed `wall` and rest_ns. Refuses what it showed twice or never; `text`
    is what the user gave."""
    found = readings(wall)
    if len(found) == 1:
        return found[0] * NS + rest_ns
    if found:
        raise InvalidRequest(f"{text}: the clock here showed this time twice",
                             f"write {_utc(found[0], rest_ns, wall)} or {_utc(found[1], rest_ns, wall)}")
    before, after = (_seconds(wall, fold) for fold in (0, 1))
    raise InvalidRequest(f"{text}: the clock here never showed this time, it was put forward over it",
                         f"by the clock before that it is {_utc(before, rest_ns, wall)}, by the clock after it "
                         f"{_utc(after, rest_ns, wall)}")


def last_shown(shown: time_of_day, rest_ns: int, zone: timezone | None, now_ns: int) -> int:
    """The last instant up to now_ns, in ns since 1970 UTC, at which the clock showed `shown` and rest_ns. zone None:
    the clock here."""
    today = day(now_ns, zone)
    found: list[int] = []
    for days in (1, 0, -1, -2):     # tomorrow's date comes back where a clock is put back over midnight
        wall = datetime.combine(today + timedelta(days=days), shown)
        seconds = readings(wall) if zone is None else [in_zone(wall, zone)]
        found += [at * NS + rest_ns for at in seconds if at * NS + rest_ns <= now_ns]
    return max(found)


def day(now_ns: int, zone: timezone | None) -> date:
    """The date at now_ns."""
    return datetime.fromtimestamp(now_ns // NS, zone).date()


def in_zone(wall: datetime, zone: timezone) -> int:
    """The unix seconds of a reading in a zone of a fixed offset."""
    return (wall.replace(tzinfo=zone) - _EPOCH) // timedelta(seconds=1)


def _seconds(wall: datetime, fold: int) -> int:
    return int(wall.replace(fold=fold).timestamp())


def _utc(at: int, rest_ns: int, wall: datetime) -> str:
    """`2026-10-25T00:30:00Z (02:30:00+02:00)`."""
    fraction = f".{rest_ns:09d}".rstrip("0") if rest_ns else ""
    instant = _EPOCH + timedelta(seconds=at)
    zone = timezone(wall.replace(tzinfo=UTC) - instant)
    offset = wall.replace(tzinfo=zone).isoformat()[19:]
    return f"{instant:%Y-%m-%dT%H:%M:%S}{fraction}Z ({wall:%H:%M:%S}{fraction}{offset})"
