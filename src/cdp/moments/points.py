"""Points: how a user names a moment.

    now                           the present
    #123                          after record 123 (#0: the base); where thinning took it, the kept moment before it
    #123!                         the same, refused where it was thinned: for who wants this record and no other
    -90s -10m -1h30m -3d -1w      an age, from now; also `10 minutes ago`; a day is 24 hours
    @NAME or NAME                 a bookmark
    2026-11-23T10:00:00Z          RFC 3339; no zone: local time; fractions to nanoseconds
    2026-11-23 10:00:00+00        as PostgreSQL, journalctl (` UTC`) and git (` +0100`) print it; also 20261123T100000Z
    1764324000.25                 seconds since 1970 UTC, ten digits
    10:04 10:04:30.5              local time of day: the last time that the clock showed it
    yesterday 14:00               a date, in local time or with a zone; also `today`

The rule for times: the last write acknowledged at or before it.

The grammar is closed, on purpose. Parsers that take any date (dateutil, dateparser) fill in what is missing and choose
between day and month; for a restore a refusal is better. What is left to parse needs no more than the standard library,
whose import takes a tenth of theirs (5 ms of 50).
"""
from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone
from typing import NoReturn

from cdp.moments import wall_clock
from cdpcore.base.errors import InvalidRequest

_WORDS = {"ms": "ms millisecond milliseconds", "s": "s sec secs second seconds", "m": "m min mins minute minutes",
          "h": "h hr hrs hour hours", "d": "d day days", "w": "w week weeks"}
UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9, "w": 7 * 86400 * 10**9}
_UNIT_NS = {word: UNITS_NS[unit] for unit, words in _WORDS.items() for word in words.split()}
_ANY_UNIT = "|".join(sorted(_UNIT_NS, key=len, reverse=True))
_PART = re.compile(rf"(\d{{1,12}})(?:\.(\d+))? ?({_ANY_UNIT})(?![^\W\d])", re.ASCII)
_PARTS = rf"\d{{1,12}}(?:\.\d+)? ?(?:{_ANY_UNIT})"
_AGE = re.compile(rf"-({_PARTS}(?: ?{_PARTS})*)", re.ASCII)
_AGO = re.compile(rf"({_PARTS}(?:(?:,| and|,? )? ?{_PARTS})*) ago", re.ASCII | re.IGNORECASE)
_SEQ = re.compile(r"#(\d{1,20})(!?)", re.ASCII)
_OFFSET = r"[+-]\d\d(?::?\d\d(?::?\d\d)?)?"
_ZONE = rf"(?: ?(?P<zone>Z|UTC|GMT|{_OFFSET}))?"
_OF_DAY = r"(?P<clock>\d\d:\d\d(?::\d\d(?:[.,](?P<rest>\d+))?)?)"
_FLAGS = re.ASCII | re.IGNORECASE
_TIME = re.compile(rf"(?P<date>\d{{4}}-\d\d-\d\d|\d{{8}})"
                   rf"(?:[T ](?P<clock>\d\d:?\d\d(?::?\d\d(?:[.,](?P<rest>\d+))?)?))?{_ZONE}", _FLAGS)
_CLOCK = re.compile(rf"{_OF_DAY}{_ZONE}", _FLAGS)
_DAY = re.compile(rf"(?P<day>yesterday|today),? {_OF_DAY}{_ZONE}", _FLAGS)
_EPOCH = re.compile(r"(\d{10})(?:\.(\d+))?", re.ASCII)
_NAME = re.compile(r"[^\W_][\w.+-]*", re.UNICODE)
# What no name could be from the first day on.
_NO_NAME = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d)?)?(?:[.,]\d{1,9})?(?:[Zz]|[+-]\d\d:?\d\d)?", re.ASCII)
# What is meant as a time though it is none, and could be a name: a time cut off, an age without its minus.
_LIKE_TIME = re.compile(rf"\d{{4}}-?\d\d-?\d\d[T_][\d.TZ_+-]*|\d{{4}}-\d\d(?:-[\d.TZ+-]*)?|\d{{9,}}[\d.TZ+-]*"
                        rf"|(?:{_PARTS})+|yesterday|today|tomorrow|noon|midnight", _FLAGS)
TIMES = ("write 2026-11-23T10:00:00Z, 10:04:30, 'yesterday 14:00', -1h30m, '10 minutes ago', or ten digits of seconds "
         "since 1970; a bookmark is @NAME")
HINT = "use now, #SEQ, an age like -10m, a bookmark's name, or a time like 2026-11-23T10:00:00Z"


@dataclass(frozen=True)
class Point:
    """A parsed point. kind: now, seq, age, time or bookmark; ts_ns for age and time, seq, name likewise. exact: that
    record and no other (#123!)."""

    text: str
    kind: str
    ts_ns: int | None = None
    seq: int | None = None
    name: str | None = None
    exact: bool = False


PointLike = str | int | datetime | Point
"""What the public methods take for a moment: text, a seq, or a datetime (naive: local time)."""


def parse(point: PointLike, now_ns: int) -> Point:
    """A Point from what a user gave: text, a seq, or a datetime (naive: local; fold=1 is the second time that the clock
    showed it). Raises InvalidRequest."""
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
        return Point(point.isoformat(), "time", ts_ns=_datetime(point))
    if not isinstance(point, str):
        raise InvalidRequest(f"not a point: {point!r}", HINT)
    return _text(" ".join(point.split()), now_ns)


def _text(text: str, now_ns: int) -> Point:
    if text == "now":
        return Point(text, "now")
    if m := _SEQ.fullmatch(text):
        if int(m[1]) >= 1 << 64:
            raise InvalidRequest(f"not a seq: {text}", "a seq has at most 64 bits")
        return Point(text, "seq", seq=int(m[1]), exact=bool(m[2]))
    if m := _AGE.fullmatch(text) or _AGO.fullmatch(text):
        return Point(text, "age", ts_ns=now_ns - _age(text, m[1].lower()))
    try:
        if (ts_ns := _time(text, now_ns)) is not None:
            return Point(text, "time", ts_ns=ts_ns)
    except (ValueError, OverflowError, OSError) as e:
        _refuse(text, str(e))
    name = text.removeprefix("@")
    if valid_name(name):
        return Point(text, "bookmark", name=name)
    if text[:1].isdigit() or text[:1] in "+-" or _LIKE_TIME.fullmatch(text) or _LIKE_TIME.fullmatch(text.split(" ")[0]):
        _refuse(text, "this form is not read")
    raise InvalidRequest(f"not a point: {text!r}", HINT)


def _time(text: str, now_ns: int) -> int | None:
    if m := _EPOCH.fullmatch(text):
        return int(m[1]) * wall_clock.NS + _rest_ns(text, m[2])
    if m := _TIME.fullmatch(text):
        digits = m["date"].replace("-", "")
        date = datetime(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
        clock = m["clock"]
        if clock is None and m["zone"] and re.fullmatch(r"[+-]\d\d", m["zone"]):
            raise ValueError("without a time of day, an offset is written +HH:MM")
        return _instant(text, datetime.combine(date, _of_day(clock) if clock else time()), m)
    if m := _DAY.fullmatch(text):
        date_ = wall_clock.day(now_ns, _zone(m["zone"])) - timedelta(days=m["day"].lower() == "yesterday")
        return _instant(text, datetime.combine(date_, _of_day(m["clock"])), m)
    if m := _CLOCK.fullmatch(text):
        return wall_clock.last_shown(_of_day(m["clock"]), _rest_ns(text, m["rest"]), _zone(m["zone"]), now_ns)
    return None


def _instant(text: str, wall: datetime, m: re.Match[str]) -> int:
    zone, rest_ns = _zone(m["zone"]), _rest_ns(text, m["rest"])
    if zone is None:
        return wall_clock.instant(wall, rest_ns, text)
    return wall_clock.in_zone(wall, zone) * wall_clock.NS + rest_ns


def _datetime(point: datetime) -> int:
    rest_ns = point.microsecond * 1000 + int(getattr(point, "nanosecond", 0))   # pandas' has them
    try:
        whole = datetime(*point.timetuple()[:6], tzinfo=point.tzinfo, fold=point.fold)
        if whole.utcoffset() is not None:
            return int(whole.timestamp()) * wall_clock.NS + rest_ns
        whole = whole.replace(tzinfo=None)
        if point.fold and len(found := wall_clock.readings(whole)) == 2:
            return found[1] * wall_clock.NS + rest_ns
        return wall_clock.instant(whole, rest_ns, point.isoformat())
    except (ValueError, OverflowError, OSError) as e:
        _refuse(point.isoformat(), str(e))


def _of_day(text: str) -> time:
    digits = re.split("[.,]", text)[0].replace(":", "").ljust(6, "0")
    return time(int(digits[:2]), int(digits[2:4]), int(digits[4:6]))


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text[0] not in "+-":
        return UTC
    digits = text[1:].replace(":", "").ljust(6, "0")
    if int(digits[2:4]) > 59 or int(digits[4:]) > 59:
        raise ValueError(f"no offset: {text}")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:4]), seconds=int(digits[4:]))
    return timezone(-offset if text[0] == "-" else offset)


def _rest_ns(text: str, digits: str | None) -> int:
    if digits is not None and len(digits) > 9:
        raise InvalidRequest(f"{text}: a second has at most nine digits behind the point",
                             "leave off what is less than a nanosecond")
    return int(digits.ljust(9, "0")) if digits else 0


def _age(text: str, parts: str) -> int:
    """-1h30m, 1 hour and 30 minutes: larger units first; a fraction in the last."""
    age, before = 0, 10**30
    found = list(_PART.finditer(parts))
    for i, (whole, rest, word) in enumerate(m.groups() for m in found):
        unit = _UNIT_NS[word]
        if unit >= before:
            raise InvalidRequest(f"not an age: {text!r}", "write larger units first, each once: -1h30m")
        if rest and i + 1 < len(found):
            raise InvalidRequest(f"not an age: {text!r}", "only the last number may have a fraction: -1h30.5m")
        before = unit
        age += int(whole) * unit + _rest_ns(text, rest) * unit // wall_clock.NS
    return age


def _refuse(text: str, why: str) -> NoReturn:
    raise InvalidRequest(f"not a time: {text!r} ({why})", TIMES) from None


def other_than_name(point: Point) -> str:
    """What to write where a bookmark was not found, and another kind of point may have been meant."""
    name = point.name or ""
    if point.text != name:
        return HINT
    if name.isascii() and name.isdigit() and len(name) < 10:
        return f"a record is written #{name}"
    if _PART.match(name) and like_time(name):
        return f"an age is written -{name}"
    return TIMES if like_time(name) else HINT


NAMES = ("use at most 200 bytes of letters, digits, . _ + -, beginning with a letter or digit; "
         "not 'now', nor what reads like a time")


def valid_name(name: str) -> bool:
    """May a bookmark or an image be called so? Letters, digits and . _ + -, at most 200 bytes, not like another
    point."""
    return (isinstance(name, str) and bool(_NAME.fullmatch(name)) and name != "now" and not _NO_NAME.fullmatch(name)
            and len(name.encode()) <= 200)


def valid_new_name(name: str) -> bool:
    """May a new bookmark be called so? As valid_name, and it does not look like a time either. Older ones that do are
    found; where one is a time, too, the point is refused."""
    return valid_name(name) and not like_time(name)


def like_time(name: str) -> bool:
    """Is it a time, or meant as one?"""
    return any(form.fullmatch(name) for form in (_TIME, _EPOCH, _LIKE_TIME))
