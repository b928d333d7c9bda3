"""What a limit of the history does to writes with `refuse` and `throttle`: the floor holds against any flood, nothing
that a rule or a pin keeps goes, and when space comes back everything goes on by itself."""
from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machine import NS, Machine

import cdp
from cdp.moments.limit import GO_ON, REFUSED, SLOWED, admitted
from cdp.moments.policy import parse
from cdp.service.local import VolumeService
from cdpcore.base.errors import OutOfSpace

MIB = 1 << 20
LIMIT = 640 << 10       # eight segments of the simulated volume
REFUSING = f'keep = ["all for 30s"]\nfloor = "30s"\nlimit = "{LIMIT}"\nwhen_full = "refuse"'


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdp.moments.policy.LEAST_LIMIT_BYTES", 1)


@pytest.fixture(params=["after", "before"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield Machine(monkeypatch, request.param == "before")


def flood(machine: Machine, most: int = 1000) -> int:
    """Write until it is refused; how many were taken."""
    for count in range(most):
        seq = machine.volume.window().newest.seq + 1
        try:
            machine.volume.pwrite(seq.to_bytes(8, "little") * 64, seq % 128 * 512, fua=True)
        except OutOfSpace as error:
            assert error.message.startswith("the history has reached the limit of its policy")
            assert "cdp policy" in error.hint and "device" not in str(error)
            return count
    return most


def look(machine: Machine, seconds: int = 1) -> None:
    for _ in range(seconds):
        machine.go(NS)
        machine.keeper.upkeep()
        machine.volume._store.step()


def test_a_flood_is_refused_and_takes_nothing(machine: Machine, caplog: pytest.LogCaptureFixture):
    machine.volume.set_policy(REFUSING)
    machine.write(10)
    assert 30 < flood(machine) < 170        # one or two blocks of log each, and a segment's end now and then
    look(machine)
    view = VolumeService(machine.volume).policy()
    assert (view["writes"], view["room_bytes"], view["rate_bytes"]) == (REFUSED, 0, None) and view["refused"] > 0
    assert "writes are refused: the history has reached its limit" in caplog.text
    newest = machine.volume.window().newest.seq
    for change in (lambda v: v.pwrite(b"x" * 512, 0), lambda v: v.zero(512, 0), lambda v: v.trim(512, 0)):
        with pytest.raises(OutOfSpace):
            change(machine.volume)
    look(machine, 25)                       # the floor is thirty
    assert machine.volume.window().newest.seq == newest and machine.oldest() == 0
    machine.check()
    look(machine, 10)
    assert machine.oldest() > 0 and machine.keeper.admitted.writes == GO_ON
    assert flood(machine, 20) == 20         # by itself
    machine.check()


def test_what_is_not_a_write_goes_on_at_the_limit(machine: Machine):
    machine.volume.set_policy(REFUSING)
    machine.volume.bookmark("begin")
    flood(machine)
    look(machine)
    volume, shown = machine.volume, machine.volume.pread(64 << 10, 0)
    volume.flush()
    volume.bookmark("full")
    volume.restore("begin")
    assert volume.pread(64 << 10, 0) == bytes(64 << 10)
    volume.undo()
    assert volume.pread(64 << 10, 0) == shown
    with volume.at("begin") as image:
        assert image.pread(512, 0) == bytes(512)


def test_a_pin_keeps_writes_refused_until_it_goes(machine: Machine):
    machine.volume.set_policy(REFUSING)
    machine.write(5)
    machine.volume.bookmark("mine", keep_ns=3600 * NS)
    image = machine.volume.at("#4")
    flood(machine)
    look(machine, 100)
    assert flood(machine, 1) == 0 and machine.oldest() == 0
    machine.volume.delete_bookmark("mine")
    look(machine, 2)
    assert flood(machine, 1) == 0           # the time image is open
    assert image.pread(512, 4 * 512)[:8] == (4).to_bytes(8, "little")
    image.close()
    look(machine, 10)                       # what was held is folded, and its files go
    assert flood(machine, 20) == 20


@pytest.mark.parametrize("becomes", [None, 'keep = ["all for 30s"]', REFUSING.replace(f'"{LIMIT}"', f'"{4 * LIMIT}"')])
def test_another_policy_lets_writes_go_on_at_once(machine: Machine, becomes: str | None):
    machine.volume.set_policy(REFUSING)
    flood(machine)
    machine.volume.set_policy(becomes)
    assert flood(machine, 20) == 20


def test_a_limit_holds_from_the_opening_on(machine: Machine):
    machine.volume.set_policy(REFUSING)
    flood(machine)
    machine.reopen()
    assert flood(machine, 20) < 5           # what was open is sealed, and smaller


def test_one_segment_with_everything_does_not_refuse_for_ever(machine: Machine):
    """The limit is less than a segment: nothing can be freed before writes go on, and they do."""
    machine.volume.set_policy(REFUSING.replace(f'"{LIMIT}"', f'"{LIMIT // 16}"'))
    flood(machine)
    look(machine, 60)
    assert flood(machine, 3) == 3
    for _ in range(5):
        flood(machine)
        look(machine, 60)
    assert machine.oldest() > 0 and flood(machine, 3) == 3


def test_throttle_slows_before_it_refuses(machine: Machine, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "cdp.retention")
    machine.volume.set_policy(REFUSING.replace("refuse", "throttle"))
    states = []
    for _ in range(200):
        if flood(machine, 2) < 2:
            break
        look(machine, 0)
        machine.go(NS // 100)
        machine.keeper._looked_ns = 0
        machine.keeper.upkeep()
        states.append(machine.keeper.admitted.writes)
    assert states == sorted(states, key=[GO_ON, SLOWED, REFUSED].index) and states.count(SLOWED) > 3
    stats = machine.volume.stats()
    assert stats["limit_slowed_writes"] > 0 and stats["limit_slowed_ns"] <= stats["limit_slowed_writes"] * 200_000_000
    assert "writes are slowed down to" in caplog.text
    look(machine, 40)
    assert machine.keeper.admitted.writes == GO_ON and "writes go on" in caplog.text


def test_a_slowed_writer_holds_up_nobody(tmp_path: Path):
    """It waits without a lock: reads, flushes, bookmarks of its volume, and other volumes, go on meanwhile."""
    with cdp.create(tmp_path / "v", size=MIB) as volume, cdp.create(tmp_path / "w", size=MIB) as other:
        volume._core.admission.set(0, 1 << 20, 1 << 21, 3600 * NS)      # 18 s for each write, if it could wait so long
        done = threading.Event()

        def write() -> None:
            for _ in range(5):
                volume.pwrite(b"x" * 4096, 0)
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not volume.stats()["limit_slowed_writes"] and not done.is_set():
            pass
        counts = []
        for i in range(10):
            volume.pread(4096, 0)
            volume.bookmark(f"b{i}")
            other.pwrite(b"y" * 4096, 0, fua=True)
            counts.append(volume.stats()["limit_slowed_writes"])
        assert done.wait(60)
        writer.join()
        assert volume.stats()["limit_slowed_ns"] >= 4 * 200_000_000 and volume.stats()["limit_slowed_writes"] == 5
        volume._core.admission.set(0, None)
        volume.pwrite(b"x" * 4096, 0)
        assert volume.stats()["limit_slowed_writes"] == 5


@given(st.integers(1, 1 << 50), st.integers(0, 1 << 51), st.sampled_from(["refuse", "throttle", "thin"]))
def test_the_rule(limit: int, taken: int, when_full: str):
    policy = parse(f'keep = ["all for 1h"]\nlimit = "{limit + (64 << 20)}"\nwhen_full = "{when_full}"')
    assert policy.limit_bytes is not None
    got, room = admitted(policy, taken), policy.limit_bytes - taken
    if when_full == "thin":
        assert got.room_bytes is None and got.writes == GO_ON
    else:
        assert got.room_bytes == max(0, room) and (got.writes == REFUSED) == (room <= 0)
        assert (got.writes == SLOWED) == (when_full == "throttle" and 0 < room < policy.limit_bytes // 5)
        assert not got.rate_bytes or got.rate_bytes == max(1, room // 60)
    assert admitted(None, taken).writes == GO_ON
