"""A clock that was wrong: the times of records, the volume's description, what points mean, and what is reported."""
from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.garbage import set_apart
from support.simcatalog import on
from support.sizes import KIB, tuning

from cdp.check import check, rebuild
from cdp.cli import cli
from cdp.moments.model import ClockStep
from cdp.service.local import VolumeService
from cdp.store import catalog as catalogs
from cdp.store import creation
from cdp.volume.volume import Volume
from cdpcore.base.errors import InvalidRequest, RefusedPoint
from cdpcore.system.os import SimOs

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]
GOLDEN = Path(__file__).parent.parent / "golden/v3"
TEN = 1795168800 * 10**9            # 2026-11-20T10:00:00Z
MINUTE, DAY = 60 * 10**9, 24 * 60
TUNING = tuning(80 * KIB, 640 * KIB)
CONTENT = [b"right", b"a day ahead", b"right again", b"set back while it was closed"]


class Machine:
    """A volume on a simulated machine, where the clock is what a test says. Minutes count from ten o'clock."""

    def __init__(self, before: bool = False, seed: int = 1):
        set_apart()     # cut() collects
        self.sim = SimOs(seed)
        self.at(0)
        disk = "/disk" if before else ""
        if before:
            with self.sim.open(disk, write=True, create=True) as file:
                file.truncate(64 * KIB)
                file.datasync()
        creation.create("/v", 64 * KIB, TUNING, os=self.sim, catalog=on(self.sim), disk=disk)
        self.open()

    def open(self) -> None:
        self.volume = Volume("/v", _tuning=TUNING, _os=self.sim, _catalog=on(self.sim))

    def reopen(self) -> None:
        self.volume.close()
        self.open()

    def cut(self, mode: str) -> None:
        """The power goes and comes back."""
        self.sim.cut_at(0)
        del self.volume
        gc.collect()
        self.sim.power_on(mode)

    def changed(self) -> float:
        with self.sim.open("/disk") as file:
            return (file.changed_ns() - TEN) / MINUTE

    def at(self, minute: float) -> None:
        self.sim.set_clock(int(TEN + minute * MINUTE))

    def write(self, minute: float, watched: bool = True) -> int:
        """One record. Its seq. watched: the volume's thread has looked at the clock since that was set."""
        self.at(minute)
        if watched:
            self.volume._store.clock.look()
        self.volume.pwrite(b"x" * 512, 0)
        return self.volume._core.position()[0]

    def minutes(self) -> list[float]:
        return [round((int(ts) - TEN) / MINUTE, 3) for ts in self.volume.records()["ts_ns"]]

    def format(self) -> int:
        return json.loads(self.sim.read_file("/v/volume.json"))["volume"]["format"]


def time_of(minute: float, digits: int = 0) -> str:
    seconds, part = divmod(round(minute * 60 * 10**digits), 10**digits)
    day, second = divmod(seconds, 86400)
    fraction = f".{part:0{digits}}" if digits else ""
    return f"2026-11-{20 + day}T{10 + second // 3600}:{second % 3600 // 60:02}:{second % 60:02}{fraction}Z"


@pytest.fixture
def ahead() -> Machine:
    """#1 at 10:05, #2 at 10:10 with the clock a day ahead, #3 at 10:15, #4 at 10:45; it is 10:50."""
    machine = Machine()
    for minute in (5, DAY + 10, 15, 45):
        machine.write(minute)
    machine.at(50)
    return machine


@pytest.mark.parametrize("reopened", [False, True])
def test_one_write_with_the_clock_ahead(ahead: Machine, reopened: bool):
    if reopened:
        ahead.reopen()
    assert ahead.minutes() == [5, DAY + 10, 15, 45]
    seq = {point: ahead.volume.resolve(point).seq for point in (
        "-1m", "-34m", "-46m", time_of(49), time_of(20), time_of(4), "#2")}
    assert seq == {"-1m": 4, "-34m": 3, "-46m": 0, time_of(49): 4, time_of(20): 3, time_of(4): 0, "#2": 2}
    step = ahead.volume.window().clock_steps
    assert [(s.seq, s.before_ns - s.after_ns) for s in step] == [(3, (DAY - 5) * MINUTE)]


def test_a_clock_that_is_set_back_is_an_event_once():
    machine = Machine()
    with machine.volume.watch(kinds=["clock_stepped"]) as watch:
        for minute in (5, DAY + 10):
            machine.write(minute)
        assert watch.get(0) is None
        for minute in (15, 16):
            machine.write(minute)
        event = watch.get(0)
        assert event is not None and watch.get(0) is None
    assert event.details["seq"] == 3
    found = [(event.details[name] - TEN) // MINUTE for name in ("before_ns", "after_ns")]
    assert found == [DAY + 10, 15]


def test_what_is_doubtful_is_said(ahead: Machine, caplog: pytest.LogCaptureFixture):
    found = ahead.volume.explain(time_of(49))
    assert found.resolved.seq == 4 and [m.seq for m in found.other_readings] == [1]
    assert ahead.volume.explain("-1m").other_readings == []
    ahead.volume.resolve(time_of(49))
    assert "is taken as #4 (2026-11-20T10:45" in caplog.text and "not as #1" in caplog.text
    for point in (time_of(12), "-38m"):         # #2 may have been written before that, or after
        with pytest.raises(InvalidRequest, match=r"may mean #1 \(.*\) or #2 \("):
            ahead.volume.resolve(point)
    with pytest.raises(RefusedPoint, match="before the oldest"):
        ahead.volume.resolve("-51m")


def test_a_time_that_was_shown_twice_is_refused_with_both_readings():
    machine = Machine()
    seqs = [machine.write(minute) for minute in (*range(1, 60), *(30.25 + i for i in range(10)))]   # set back by 29 min
    machine.at(40)
    with pytest.raises(InvalidRequest, match=r"set back at #60, .* may mean #65 \(.*10:35:15.* or #35 \(.*10:35:00"):
        machine.volume.restore(time_of(35.5))
    with pytest.raises(InvalidRequest, match="may mean"):
        machine.volume.explain("-15.5m")        # by the clock 10:24, counted back 10:53 of the first hour
    assert machine.volume.resolve("-9m").seq == 60 and machine.volume.resolve(time_of(50.5)).seq == 50
    exact = machine.volume.records()[34]
    assert machine.volume.resolve(f"{int(exact['ts_ns']) // 10**9}.{int(exact['ts_ns']) % 10**9:09}").seq == 35
    assert len(machine.volume.records(since="#1", until="#69")) == len(seqs) - 1


def test_a_clock_that_was_behind_once():
    machine = Machine()
    for minute in (*range(100, 110), 3, *range(111, 120)):
        machine.write(minute)
    machine.at(120)
    assert machine.volume.resolve(time_of(105.5)).seq == 6      # not #11, which is dated 10:03
    assert machine.volume.resolve("-14.5m").seq == 6
    assert machine.volume.resolve("-5.5m").seq == 15
    with pytest.raises(InvalidRequest, match=r"may mean #11 .* or #10 "):
        machine.volume.resolve(time_of(110.5))


def test_a_time_that_the_pause_before_a_step_showed_too():
    """A write is done, or comes next: who notes that time, beside a step back, gets what the volume held."""
    machine = Machine()
    for minute in (*range(1, 11), *(5.5 + i / 2 for i in range(20))):      # set back at #11
        machine.write(minute)
    machine.at(15.5)
    second = 1 / 60
    for minute, meant, pause in ((10 + second / 2, 20, 10), (10 + second, 20, 10), (5.5 - second / 2, 5, 10)):
        found = machine.volume.explain(time_of(minute, 9))
        assert (found.resolved.seq, [m.seq for m in found.other_readings]) == (meant, [pause])
    for minute in (10 + 3 * second, 5.5 - 3 * second):
        assert machine.volume.explain(time_of(minute, 9)).other_readings == []
    machine.volume.restore("#12", destructive=True)      # the pause's record stays, what came later is gone
    with pytest.raises(RefusedPoint):
        machine.volume.explain(time_of(10 + second / 2, 9))


@pytest.mark.parametrize("before", [False, True])
def test_the_format_changes_with_the_first_step(before: bool):
    machine = Machine(before)
    first = 2 if before else 1
    machine.write(5)
    machine.sim.set_clock(TEN + 5 * MINUTE - 50 * 10**6)        # jitter, or a slew
    machine.volume._store.clock.look()
    machine.volume.pwrite(b"y" * 512, 0)
    assert machine.minutes() == [5, 5] and machine.format() == first
    assert machine.write(3, watched=False) == 3                  # before it was seen
    assert machine.minutes()[-1] == 5
    assert machine.write(4) == 4
    assert machine.minutes()[-1] == 4 and machine.format() == 3
    machine.reopen()
    assert machine.minutes() == [5, 5, 5, 4] and len(machine.volume.window().clock_steps) == 1
    machine.volume.close()


def test_what_the_description_cannot_say_is_not_written(caplog: pytest.LogCaptureFixture):
    machine = Machine()
    machine.write(5)
    machine.sim.set_space(machine.sim.space_used_bytes)
    machine.at(3)
    machine.volume._store.clock.look()
    machine.volume._store.clock.look()
    assert machine.format() == 1 and caplog.text.count("do not follow the clock back yet") == 1
    machine.sim.set_space(1 << 30)
    machine.write(4)
    assert machine.format() == 3 and machine.minutes() == [5, 4]


def test_a_volume_of_format_1_whose_newest_record_is_in_the_future(caplog: pytest.LogCaptureFixture):
    machine = Machine()
    machine.write(DAY)
    machine.at(5)
    machine.reopen()
    assert "the clock is 23 h 55 min behind the newest record (#1, 2026-11-21T10:00:00" in caplog.text
    assert machine.format() == 3 and machine.volume.window().clock_behind_ns == pytest.approx(DAY * MINUTE - 5 * MINUTE)
    assert machine.write(6) == 2 and machine.minutes() == [DAY, 6]
    assert "the clock was set back at #2, from 2026-11-21T10:00:00" in caplog.text
    assert machine.volume.window().clock_behind_ns == 0


@pytest.mark.parametrize("recovering", [False, True])
def test_a_power_cut_brings_back_a_time_of_the_disk_from_before_a_step(recovering: bool):
    """The file's times are not synced: after the cut it may have any that it had."""
    n_back = 0
    for seed in range(16):
        machine = Machine(before=True, seed=seed)
        machine.write(10)
        machine.volume.flush()
        for _ in range(70):         # more than Pending holds: to the disk, and no flush
            machine.write(20)
        if recovering:
            machine.cut("keep")
            assert machine.changed() > 19
            machine.at(5)           # what was not flushed is taken back now
            machine.open()
        machine.write(6)
        machine.volume.flush()
        machine.cut("seeded")
        n_back += machine.changed() > 19
        machine.open()              # not changed by anybody else
        machine.volume.close()
    assert n_back


# --- golden file of format 3, and what is said of it ------------------------------------------------------------------

@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "golden"
    shutil.copytree(GOLDEN, path)
    (path / "images").mkdir()
    (path / "lock").touch()
    assert rebuild.rebuild(path).ok
    return path


def test_golden_file(golden: Path):
    with Volume(golden) as v:
        assert [v.at(f"#{seq}").pread(512, 4096).rstrip(b"\0") for seq in (1, 2, 3, 5)] == CONTENT
        found = v.window().clock_steps
        assert [(s.seq, (s.before_ns - TEN) // MINUTE, (s.after_ns - TEN) // MINUTE) for s in found] == [
            (3, DAY + 10, 15), (5, 15, 14)]
        with pytest.raises(InvalidRequest, match="may mean #6 .* or #1 .* or #2 "):
            v.resolve("2026-11-20T10:14:30Z")
    assert check.check(golden).ok


@pytest.mark.parametrize("change", ["lost", "other", "too many"])
def test_check_compares_the_steps(golden: Path, change: str):
    catalog = catalogs.lmdb_catalog(str(golden))
    step = catalog.rows(ClockStep)[0 if change == "lost" else 1]
    with catalog.write() as txn:
        if change == "lost":
            txn.remove(ClockStep, step.seq)
        else:
            txn.put(ClockStep(step.seq - (change == "too many"), step.before_ns + 1, step.after_ns))
    catalog.close()
    report = check.check(golden)
    assert ["other steps of the clock" in p.what for p in report.problems] == [True]
    assert rebuild.rebuild(golden).ok and check.check(golden).ok


def test_a_catalog_of_an_older_release_has_no_such_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalogs, "TABLES", {k: name for k, name in catalogs.TABLES.items() if k is not ClockStep})
    catalogs.LmdbCatalog(tmp_path / "c", create=True).close()
    monkeypatch.undo()
    step = ClockStep(7, 2, 1)
    for read_only in (True, False):
        catalog = catalogs.LmdbCatalog(tmp_path / "c", read_only=read_only)
        assert catalog.rows(ClockStep) == []
        if not read_only:
            with catalog.write() as txn:
                txn.put(step)
            assert catalog.rows(ClockStep) == [step]
        catalog.close()
    catalog = catalogs.LmdbCatalog(tmp_path / "c", read_only=True)
    assert catalog.rows(ClockStep) == [step]
    catalog.close()


@pytest.mark.parametrize("command", ["window", "info", "explain"])
def test_commands_say_it(golden: Path, command: str):
    point = "@#3" if command == "explain" else ""
    got = CliRunner().invoke(cli, [command, f"{golden}{point}"])
    assert got.exit_code == 0, got.output
    assert "clock set back  at #3  2026-11-20T10:15:00" in got.output
    assert "after 2026-11-21T10:10:00" in got.output


def test_the_view(golden: Path):
    with Volume(golden) as v:
        window = VolumeService(v).window()
        assert window["clock_steps"][1] == {
            "seq": 5, "before": {"seq": 4, "ts_ns": TEN + 15 * MINUTE + 3000, "time": "2026-11-20T10:15:00.000003000Z"},
            "after": {"seq": 5, "ts_ns": TEN + 14 * MINUTE + 1000, "time": "2026-11-20T10:14:00.000001000Z"}}
        assert window["clock_behind_ns"] >= 0 and VolumeService(v).explain("#3")["other_readings"] == []
