"""Points in time as users type them: local times around clock changes, forms that other programs print, and what is
refused."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

import cdp
from cdp.moments import points, wall_clock
from cdpcore.base.errors import InvalidRequest, NotFound

NS = 10**9
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kolkata", "America/Havana",
         "Pacific/Apia"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """here(zone): the zone of this process."""
    def move(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
    yield move
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> int:
    """RFC 3339 with an offset, as ns."""
    return int(datetime.fromisoformat(text).timestamp()) * NS


def parsed(text: points.PointLike, now: str = "2026-11-29T12:00:00Z") -> int:
    got = points.parse(text, at(now)).ts_ns
    assert got is not None
    return got


@pytest.mark.parametrize(("zone", "asked_at", "clock", "wanted"), [
    ("Europe/Berlin", "2026-10-25T02:10:00Z", "02:36", "2026-10-25T01:36:00Z"),     # after both: the second
    ("Europe/Berlin", "2026-10-25T01:10:00Z", "02:35", "2026-10-25T00:35:00Z"),     # in the second: the first
    ("Europe/Berlin", "2026-10-25T01:10:00Z", "02:05", "2026-10-25T01:05:00Z"),
    ("Europe/Berlin", "2026-10-25T00:10:00Z", "02:35", "2026-10-24T00:35:00Z"),     # in the first: yesterday's
    ("Europe/Berlin", "2026-03-29T10:00:00Z", "02:30", "2026-03-28T01:30:00Z"),     # never on this day
    ("Europe/Berlin", "2026-03-29T10:00:00Z", "03:30", "2026-03-29T01:30:00Z"),
    ("America/New_York", "2026-11-01T07:10:00Z", "01:30", "2026-11-01T06:30:00Z"),
    ("America/New_York", "2026-11-01T06:10:00Z", "01:30", "2026-11-01T05:30:00Z"),
    ("America/New_York", "2026-03-08T12:00:00Z", "02:30", "2026-03-07T07:30:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T16:00:00Z", "01:45", "2026-04-04T15:15:00Z"),   # from 01:30 to 02:00
    ("Australia/Lord_Howe", "2026-04-04T15:05:00Z", "01:45", "2026-04-04T14:45:00Z"),
    ("Australia/Lord_Howe", "2026-10-04T12:00:00Z", "02:15", "2026-10-02T15:45:00Z"),   # never on the 4th
    ("UTC", "2026-10-25T02:10:00Z", "02:36", "2026-10-24T02:36:00Z"),
])
def test_a_time_of_day_is_the_last_time_that_the_clock_showed_it(here, zone, asked_at, clock, wanted):
    here(zone)
    assert parsed(clock, asked_at) == at(wanted)
    assert parsed(clock + ":00.25", asked_at) == at(wanted) + NS // 4


@pytest.mark.parametrize("zone", ZONES)
def test_a_time_of_day_against_a_clock_that_is_watched(here, zone):
    """For every minute of days on which this year's clocks change: what was on the clock, minute by minute, before."""
    here(zone)
    rules = ZoneInfo(zone)
    hour = datetime(2026, 1, 1, tzinfo=UTC)
    changes = [h for h in (hour + timedelta(hours=i) for i in range(365 * 24))
               if h.astimezone(rules).utcoffset() != (h + timedelta(hours=1)).astimezone(rules).utcoffset()]
    for change in changes:
        shown: dict[str, int] = {}
        for minute in range(-60 * 26, 60 * 4):
            moment = change + timedelta(minutes=minute)
            shown[f"{moment.astimezone(rules):%H:%M}"] = int(moment.timestamp())
            if minute > 0 and minute % 17 == 0:
                now_ns = int(moment.timestamp()) * NS + 5
                for text, seconds in list(shown.items())[::7]:
                    assert points.parse(text, now_ns).ts_ns == seconds * NS, (zone, moment, text)


TWICE = [("Europe/Berlin", "2026-10-25T02:30:00", "2026-10-25T00:30:00Z (02:30:00+02:00)",
          "2026-10-25T01:30:00Z (02:30:00+01:00)"),
         ("America/New_York", "2026-11-01T01:30:00", "2026-11-01T05:30:00Z (01:30:00-04:00)",
          "2026-11-01T06:30:00Z (01:30:00-05:00)"),
         ("Australia/Lord_Howe", "2026-04-05T01:45:00", "2026-04-04T14:45:00Z (01:45:00+11:00)",
          "2026-04-04T15:15:00Z (01:45:00+10:30)")]
NEVER = [("Europe/Berlin", "2026-03-29T02:30:00", "2026-03-29T01:30:00Z (02:30:00+01:00)",
          "2026-03-29T00:30:00Z (02:30:00+02:00)"),
         ("America/New_York", "2026-03-08T02:30:00", "2026-03-08T07:30:00Z (02:30:00-05:00)",
          "2026-03-08T06:30:00Z (02:30:00-04:00)"),
         ("Australia/Lord_Howe", "2026-10-04T02:15:00", "2026-10-03T15:45:00Z (02:15:00+10:30)",
          "2026-10-03T15:15:00Z (02:15:00+11:00)")]


@pytest.mark.parametrize(("zone", "text", "one", "other"), TWICE + NEVER)
@pytest.mark.parametrize("form", [str, datetime.fromisoformat, lambda t: t.replace("T", " ")[:16],
                                  lambda t: t.replace("-", "").replace(":", "")],
                         ids=["text", "datetime", "blank", "basic"])
def test_a_date_that_the_clock_showed_twice_or_never_is_refused_with_both_readings(here, zone, text, one, other, form):
    here(zone)
    with pytest.raises(InvalidRequest) as caught:
        points.parse(form(text), at("2026-11-29T12:00:00Z"))
    assert one in caught.value.hint and other in caught.value.hint
    assert ("twice" in str(caught.value)) == ((zone, text, one, other) in TWICE)
    for reading in (one, other):        # each is a point as it is printed
        parsed(reading.split(" ")[0])


def test_the_second_time_of_a_datetime(here):
    here("Europe/Berlin")
    assert parsed(datetime(2026, 10, 25, 2, 30, fold=1)) == at("2026-10-25T01:30:00Z")
    assert parsed(datetime(2026, 10, 25, 3, 30, fold=1)) == at("2026-10-25T02:30:00Z")
    with pytest.raises(InvalidRequest, match="never showed"):
        parsed(datetime(2026, 3, 29, 2, 30, fold=1))
    assert parsed(datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))) == at("2026-10-25T00:30:00Z")
    with_offset = datetime(2026, 10, 25, 2, 30, 0, 250, tzinfo=timezone(timedelta(hours=1)))
    assert parsed(with_offset) == at("2026-10-25T01:30:00Z") + 250_000


@pytest.mark.parametrize(("text", "wanted", "rest_ns"), [
    ("2026-11-28 10:00:00.123456+00", "2026-11-28T10:00:00Z", 123_456_000),     # PostgreSQL
    ("2026-11-28 10:00:00+05:30", "2026-11-28T04:30:00Z", 0),
    ("2026-11-28 10:00:00-02", "2026-11-28T12:00:00Z", 0),
    ("2026-11-28 10:00:00 UTC", "2026-11-28T10:00:00Z", 0),                     # journalctl, date
    ("2026-11-28 11:00:00 +0100", "2026-11-28T10:00:00Z", 0),                   # git
    ("20261128T100000Z", "2026-11-28T10:00:00Z", 0),
    ("20261128T110000,5+0100", "2026-11-28T10:00:00Z", 500_000_000),
    ("20261128", "2026-11-27T23:00:00Z", 0),
    ("2026-11-28", "2026-11-27T23:00:00Z", 0),
    ("1764324000", "2025-11-28T10:00:00Z", 0),
    ("1764324000.000000001", "2025-11-28T10:00:00Z", 1),
    ("17:01:30.5", "2026-11-28T16:01:30Z", 500_000_000),
    ("10:04 UTC", "2026-11-29T10:04:00Z", 0),
    ("yesterday 14:00", "2026-11-28T13:00:00Z", 0),
    ("Yesterday, 14:00:01.25", "2026-11-28T13:00:01Z", 250_000_000),
    ("today 09:30Z", "2026-11-29T09:30:00Z", 0),
    ("  2026-11-28   10:00Z ", "2026-11-28T10:00:00Z", 0),
    ("-1h30m", "2026-11-29T10:30:00Z", 0),
    ("-1d2h3m4.5s", "2026-11-28T09:56:55Z", 500_000_000),
    ("-90min", "2026-11-29T10:30:00Z", 0),
    ("10 minutes ago", "2026-11-29T11:50:00Z", 0),
    ("1 hour and 30 minutes ago", "2026-11-29T10:30:00Z", 0),
    ("2 days, 3h ago", "2026-11-27T09:00:00Z", 0),
])
def test_forms(here, text, wanted, rest_ns):
    here("Europe/Berlin")
    assert parsed(text) == at(wanted) + rest_ns


@pytest.mark.parametrize(("text", "said"), [
    ("2026-11-28T10:00:00.1234567890Z", "at most nine digits"), ("17:01:30.1234567890", "at most nine digits"),
    ("1764324000.1234567890", "at most nine digits"), ("-1.1234567890s", "at most nine digits"),
    ("17:01.5", "not a time"), ("2026-11-28T10:00.5Z", "not a time"), ("2026-11-28 10:00 CET", "not a time"),
    ("20261328T100000Z", "month must be"), ("2026-11-28 25:00", "hour must be"), ("12:99", "minute must be"),
    ("2026-11-28T10:00+01:75", "no offset"), ("2026-11-28-05", "offset is written"), ("-30m1h", "larger units first"),
    ("-1h1h", "larger units first"), ("-1.5h30m", "only the last"), ("-10", "not a time"), ("-10y", "not a time"),
    ("tomorrow 10:00", "not a time"), ("10 parsecs ago", "not a time"), ("10:00:00:00", "not a time"),
    ("next tuesday", "not a point"), ("0001-01-01T00:00", "not a time"),
])
def test_what_is_not_read_is_refused_and_says_why(here, text, said):
    here("Europe/Berlin")
    with pytest.raises(InvalidRequest, match=said) as caught:
        points.parse(text, at("2026-11-29T12:00:00Z"))
    assert caught.value.hint


def test_readings_of_a_day_that_was_skipped(here):
    """Samoa had no 30 December 2011."""
    here("Pacific/Apia")
    assert wall_clock.readings(datetime(2011, 12, 30, 12)) == []
    assert len(wall_clock.readings(datetime(2011, 12, 31, 12))) == 1
    assert parsed("23:00", "2011-12-30T12:00:00Z") == at("2011-12-30T09:00:00Z")            # on the 29th there


LIKE_TIMES = ["20261128T100000Z", "20261128", "1764324000", "1764324000123", "2026-11-28T10", "10m", "1h30m",
              "yesterday", "2026-11"]


@pytest.mark.parametrize("name", LIKE_TIMES)
def test_what_looks_like_a_time_is_no_new_bookmark(tmp_path: Path, name: str) -> None:
    with cdp.create(tmp_path / "v", size=4096) as volume:
        with pytest.raises(InvalidRequest, match="bookmark name"):
            volume.bookmark(name)
        for point in (name, "@" + name):
            with pytest.raises((InvalidRequest, NotFound, cdp.RefusedPoint)):
                volume.resolve(point)
        volume.bookmark(name + "-nightly")
        assert volume.resolve(name + "-nightly").seq == 0


def test_an_old_bookmark_that_is_also_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was allowed once: neither of the two is chosen silently."""
    with cdp.create(tmp_path / "v", size=4096) as volume:
        with monkeypatch.context() as once:
            once.setattr(points, "valid_new_name", points.valid_name)
            volume.bookmark("20261128T100000Z")
            volume.bookmark("10m")
        with pytest.raises(InvalidRequest, match="is a time, and a bookmark") as caught:
            volume.resolve("20261128T100000Z")
        assert "@20261128T100000Z" in caught.value.hint and "2026-11-28T10:00:00.000000000Z" in caught.value.hint
        assert volume.resolve("@20261128T100000Z").seq == 0
        assert volume.resolve("10m") == volume.resolve("@10m")


@pytest.mark.parametrize(("name", "hint"), [("123", "a record is written #123"), ("10m", "an age is written -10m"),
                                            ("2026-11-28T10", "write 2026-11-23T10:00:00Z"),
                                            ("nosuch", "use now, #SEQ")])
def test_a_bookmark_that_is_not_there_says_what_else_was_meant(tmp_path: Path, name: str, hint: str) -> None:
    with cdp.create(tmp_path / "v", size=4096) as volume, pytest.raises(NotFound) as caught:
        volume.resolve(name)
    assert hint in caught.value.hint


def test_records_since_what_is_later(tmp_path: Path) -> None:
    """Also where no record lies between the two."""
    with cdp.create(tmp_path / "v", size=4096) as volume:
        volume.pwrite(b"x" * 512, 0)
        now = datetime.now(UTC)
        assert len(volume.records(since="#0", until="#1")) == 1 and len(volume.records(since="#1", until="#1")) == 0
        for since, until in (("#1", "#0"), ("now", "#0"), (now, now - timedelta(microseconds=1))):
            with pytest.raises(InvalidRequest, match="the first is the later one"):
                volume.records(since=since, until=until)
