"""Points: how a user names a moment.

    now                     the present
    #123                    after record 123 (#0: the base)
    -90s -10m -2h -3d -1w   an age, from now
    @NAME or NAME           a bookmark
    2026-11-23T10:00:00Z    RFC 3339; no zone: local time; fractions to nanoseconds
    10:04 10:04:30          local time of day: the last time that the clock showed it

The rule for times: the last write acknowledged at or before it.
"""
from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from cdpcore.base.errors import InvalidRequest

UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9, "w": 7 * 86400 * 10**9}
_AGE = re.compile(r"-(\d{1,12})(?:\.(\d{1,9}))?(ms|s|m|h|d|w)", re.ASCII)
_SEQ = re.compile(r"#(\d{1,20})", re.ASCII)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d)?)?)(?:[.,](\d{1,9}))?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII)
_CLOCK = re.compile(r"(\d\d):(\d\d)(?::(\d\d))?", re.ASCII)
_NAME = re.compile(r"[^\W_][\w.+-]*", re.UNICODE)
HINT = "use now, #SEQ, an age like -10m, a bookmark's name, or a time like 2026-11-23T10:00:00Z"


@dataclass(frozen=True)
class Point:
    """A parsed point. kind: now, seq, age, time or bookmark; ts_ns for age and time, seq, name likewise."""

    text: str
    kind: str
    ts_ns: int | None = None
    seq: int | None = None
    name: str | None = None


PointLike = str | int | datetime | Point
"""What the public methods take for a moment: text, a seq, or a datetime (naive: local time)."""


def parse(point: PointLike, now_ns: int) -> Point:
    """A Point from what a user gave: text, a seq, or a datetime (naive: local). Raises InvalidRequest."""
    if isinstance(point, Point):
        return point
    if isinstance(point, bool):
        raise InvalidRequest(f"not a point: {point!r}", HINT)
    if hasattr(point, "__index__"):     # numpy's integers too: records() gives them
        point = operator.index(point)
        if not 0 <= point < 1 << 64:
            raise InvalidRequest(f"not a seq: {point}", "a seq is a number from 0 up")
        return Point(f"#{point}", "seq", seq=point)
    if isinstance(point, datetime):
        whole = int(point.replace(microsecond=0).timestamp())
        return Point(point.isoformat(), "time", ts_ns=whole * 10**9 + point.microsecond * 1000)
    if not isinstance(point, str):
        raise InvalidRequest(f"not a point: {point!r}", HINT)
    text = point.strip()
    if text == "now":
        return Point(text, "now")
    if m := _SEQ.fullmatch(text):
        if int(m[1]) >= 1 << 64:
            raise InvalidRequest(f"not a seq: {text}", "a seq has at most 64 bits")
        return Point(text, "seq", seq=int(m[1]))
    if m := _AGE.fullmatch(text):
        unit = UNITS_NS[m[3]]
        age = int(m[1]) * unit + (int(m[2]) * unit // 10 ** len(m[2]) if m[2] else 0)
        return Point(text, "age", ts_ns=now_ns - age)
    if m := _TIME.fullmatch(text):
        return Point(text, "time", ts_ns=_time(text, m))
    if m := _CLOCK.fullmatch(text):
        return Point(text, "time", ts_ns=_clock(text, m, now_ns))
    name = text.removeprefix("@")
    if valid_name(name):
        return Point(text, "bookmark", name=name)
    raise InvalidRequest(f"not a point: {text!r}", HINT)


NAMES = ("use at most 200 bytes of letters, digits, . _ + -, beginning with a letter or digit; "
         "not 'now', nor what reads like a time")


def valid_name(name: str) -> bool:
    """May a bookmark or an image be called so? Letters, digits and . _ + -, at most 200 bytes, not like another
    point."""
    return (isinstance(name, str) and bool(_NAME.fullmatch(name)) and name != "now" and not _TIME.fullmatch(name)
            and len(name.encode()) <= 200)


def _time(text: str, m: re.Match[str]) -> int:
    zone = (m[3] or "").upper().replace("Z", "+00:00")
    try:
        whole = datetime.fromisoformat(m[1].upper().replace(" ", "T") + zone)
        seconds = int(whole.timestamp())
    except (ValueError, OverflowError, OSError) as e:
        raise InvalidRequest(f"not a time: {text!r} ({e})", HINT) from None
    return seconds * 10**9 + (int(m[2].ljust(9, "0")) if m[2] else 0)


def _clock(text: str, m: re.Match[str], now_ns: int) -> int:
    try:
        today = datetime.fromtimestamp(now_ns // 10**9)
        at = today.replace(hour=int(m[1]), minute=int(m[2]), second=int(m[3] or 0))
        if at > today:
            at -= timedelta(days=1)
        return int(at.timestamp()) * 10**9
    except (ValueError, OverflowError, OSError) as e:
        raise InvalidRequest(f"not a time: {text!r} ({e})", HINT) from None
