"""A device that runs out of space is reported before a write is refused, once, with the time that is left."""
from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

import cdp
from cdp.store import space_watch
from cdp.store.space_watch import DeviceWatch

GIB = 1 << 30


def test_low_with_hysteresis() -> None:
    watch = DeviceWatch(4 * GIB)
    seen = []
    for at_s, free in enumerate([9, 4, 3.9, 4.1, 3.9, 4.9, 4.99, 5, 4.1, 4, 3]):
        seen.append((watch.note(at_s * 10, int(free * GIB)), watch.space().state))
    assert seen == [(False, "ok"), (False, "ok"), (True, "low"), (False, "low"), (False, "low"), (False, "low"),
                    (False, "low"), (True, "ok"), (False, "ok"), (False, "ok"), (True, "low")]
    watch.note(200, 1 << 20)
    assert watch.space().state == "full"


def test_time_left_at_the_present_rate() -> None:
    watch = DeviceWatch(4 * GIB)
    for minute in range(20):        # ten minutes at 1 GiB a minute, then at 2
        watch.note(60 * minute, (60 - minute - max(0, minute - 10)) * GIB)
    assert watch.space().left_s == 32 / 2 * 60
    for minute in range(20, 30):
        watch.note(60 * minute, 32 * GIB)
    assert watch.space().left_s is None
    assert str(watch.space()) == "32 GiB free"


def test_nothing_is_said_of_a_rate_after_a_moment() -> None:
    watch = DeviceWatch(4 * GIB)
    watch.note(0, 10 * GIB)
    watch.note(5, 9 * GIB)
    assert watch.space().left_s is None


def test_one_warning_for_all_volumes_of_a_device(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    free = os.statvfs(tmp_path)
    low = free.f_bavail * free.f_frsize * 2
    with caplog.at_level(logging.INFO, "cdp.space"):
        for _ in range(3):
            assert space_watch.look(str(tmp_path), low).state == "low"
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "running out of space" in caplog.text and "free" in caplog.text


def test_those_who_listen_hear_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []
    end = space_watch.listen(lambda path, space: heard.append(space_watch.report(path, space)))
    try:
        space_watch.look(str(tmp_path), 1 << 59)
        space_watch.look(str(tmp_path), 1 << 59)
    finally:
        end()
    assert len(heard) == 1 and str(tmp_path) in heard[0] and not caplog.records


def test_a_volume_shows_it(tmp_path: Path) -> None:
    with cdp.create(tmp_path / "v", size=1 << 20, settings=cdp.Settings(low_space_bytes=1 << 50)) as volume:
        assert volume._store.space().state in ("low", "full")
        assert volume.stats()["device_low"] == 1
    with cdp.open(tmp_path / "v", settings=cdp.Settings(low_space_bytes=0)) as volume:
        assert volume._store.space().state == "ok"
        assert volume.stats()["device_low"] == 0
        assert volume.stats()["device_free_bytes"] > 0
