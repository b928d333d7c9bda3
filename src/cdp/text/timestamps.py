"""Moments as people read them: RFC 3339 with all nine digits of the nanoseconds.

A shortened time would name a moment before the record that it was taken from ("the last write at or before"), so a time
that is printed anywhere can be pasted back as a point and means the same record. Parsing is cdp.moments.points' work.
Pure functions: any thread.
"""
import time
from datetime import UTC, datetime, timedelta

from cdp.text.sizes import approx_age

NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc(ts_ns: int) -> str:
    """`2026-11-23T10:00:00.123456789Z`."""
    seconds, rest_ns = divmod(ts_ns, NS)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest_ns:09d}Z"


def local(ts_ns: int) -> str:
    """`2026-11-23T11:00:00.123456789+01:00`, in the zone of this process."""
    seconds, rest_ns = divmod(ts_ns, NS)
    text = (_EPOCH + timedelta(seconds=seconds)).astimezone().isoformat(timespec="seconds")
    return f"{text[:19]}.{rest_ns:09d}{text[19:]}"


def local_utc_and_age(ts_ns: int, now_ns: int | None = None) -> str:
    """Local time, the same in UTC, and the age: `2026-..T11:00:00.1+01:00 (10:00:00.1Z, 5 s ago)`."""
    now_ns = time.time_ns() if now_ns is None else now_ns
    here, there = local(ts_ns), utc(ts_ns)
    if here[:19] == there[:19]:
        return f"{there} ({approx_age(now_ns - ts_ns)})"
    echo = there[11:] if here[:10] == there[:10] else there
    return f"{here} ({echo}, {approx_age(now_ns - ts_ns)})"
