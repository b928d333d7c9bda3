"""A volume's retention policy: kept, refused where it cannot be carried out, and applied: to the record, by a clock
that is never set, and never against the floor or a pin."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.machine import NS, Machine

import cdp
from cdp.service import retention as answers
from cdp.service.local import VolumeService
from cdpcore.base.errors import InvalidRequest, RefusedPoint

DAY, YEAR = 86400 * NS, 365 * 86400 * NS


@pytest.fixture(params=["after", "before"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch, request.param == "before")


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_a_policy_is_kept_and_carried_out(machine: Machine):
    machine.volume.set_policy('keep = ["all for 30s"]')
    machine.write(100)
    assert machine.oldest() == 70       # what was shown 30 s ago, before #100 came
    machine.check()
    machine.reopen()
    assert machine.volume.policy() == 'keep = ["all for 30s"]\nfloor = "30s"\nundo = "7d"\n'
    machine.write(12)
    assert machine.oldest() == 80
    machine.volume.set_policy(None)
    machine.write(50)
    assert machine.oldest() == 80 and machine.volume.policy() is None
    machine.check()


def test_what_is_planned_is_what_is_done(after: Machine):
    after.write(95)
    service = VolumeService(after.volume)
    plan = service.simulate('keep = ["all for 30s"]')
    assert (plan["start"]["seq"], plan["needed"]["seq"], plan["records_lost"]) == (60, 65, 60)
    assert plan["bytes_a_day"] and not plan["held_by"] and plan["cannot"] is None
    with pytest.raises(RefusedPoint, match=r"would give up .* everything before #60.*") as refused:
        service.set_policy('keep = ["all for 30s"]')
    assert refused.value.hint == "look at it with --simulate; --yes sets it"
    service.set_policy('keep = ["all for 30s"]', yes=True)
    dry = service.prune(dry_run=True)
    assert (dry["start"]["seq"], dry["before"]["seq"], dry["freed_bytes"]) == (60, 0, plan["freed_bytes"])
    assert after.oldest() == 0
    done = service.prune()
    assert {**done, "dry_run": True} == dry and after.oldest() == 60
    assert service.prune()["freed_bytes"] == 0
    assert service.policy()["freed_bytes"] == plan["freed_bytes"] and service.policy()["last_run"]


def test_what_tiers_would_thin_is_counted(machine: Machine):
    """A block a second, always the same one, and a point every ten seconds before the last thirty."""
    for second in range(95):
        machine.go(NS)
        machine.volume.pwrite(bytes([second + 1]) * 4096, 0, fua=True)
    machine.volume._store.core.set_aside()
    machine.volume._store.step()
    service = VolumeService(machine.volume)
    plan = service.simulate('keep = ["all for 30s", "10s for 1h"]')
    whole, points = plan["whole"]["seq"], plan["kept"][1]["points"]
    assert whole == 65 and points == 10 and plan["start"]["seq"] == 0
    inside = 7 if plan["kept"][1]["newest"]["seq"] > whole else points      # the last three slots are within 'all'
    assert plan["thinned_bytes"] in [n * 4096 for n in range(whole - inside - 1, whole - inside + 2)]
    assert service.simulate('keep = ["all for 30s"]')["thinned_bytes"] is None


def test_a_policy_that_frees_little_needs_no_confirmation(after: Machine):
    after.write(95)
    service = VolumeService(after.volume)
    assert service.set_policy('keep = ["all for 94s"]')["keep"] == ["all for 94s"]


@pytest.mark.parametrize(("kind", "policy", "says"), [
    ("before", 'keep = ["all for 30s", "1m for 1h"]', "gives up the oldest history only: .*'1m for 1h'"),
    ("after", 'keep = ["all"]', "'all' is not a rule")])
def test_what_cannot_be_kept_is_not_promised(monkeypatch: pytest.MonkeyPatch, kind: str, policy: str, says: str):
    volume = Machine(monkeypatch, kind == "before").volume
    for setting in (lambda: VolumeService(volume).set_policy(policy, yes=True), lambda: volume.set_policy(policy)):
        with pytest.raises(InvalidRequest, match=says):
            setting()
    assert volume.policy() is None
    with pytest.raises(InvalidRequest, match="has no retention policy"):
        volume.prune()


def test_no_clock_that_is_set_expires_anything(machine: Machine, caplog: pytest.LogCaptureFixture):
    machine.volume.set_policy('keep = ["all for 60s"]')
    machine.write(50)
    watch = machine.volume.watch(kinds=["clock_stepped"])
    for by_ns in (YEAR, -YEAR - 3600 * NS, 3600 * NS):
        machine.set(by_ns)
        machine.write(2)
        machine.volume.prune()
        assert machine.oldest() == 0
        event = watch.get(0)        # each step once, whichever way, and whoever finds it
        assert event is not None and watch.get(0) is None
        found_ns = event.details["after_ns"] - event.details["before_ns"]
        assert abs(found_ns - by_ns) <= 2 * NS
    assert "the clock was set forward by 365 d" in caplog.text
    assert "the clock was set back by 365 d" in caplog.text
    machine.write(104)
    assert machine.oldest() in (90, 100)    # seconds in which the clock was set count as the last of them


def test_time_without_a_clock_that_can_be_trusted_does_not_count(machine: Machine):
    machine.volume.set_policy('keep = ["all for 60s"]')
    machine.write(50)
    machine.volume.close()
    machine.set(YEAR)                   # off, or so the clock says
    machine.steady = ("boot 2", 10 * NS)    # the machine has been on for ten seconds
    machine.open()
    machine.volume.prune()
    assert machine.oldest() == 0
    machine.write(25)
    machine.volume.prune()
    assert machine.oldest() == 20       # 50 + 10 + 25 s
    machine.volume.close()
    machine.go(40 * NS)                 # closed, while the machine is on: that counts
    machine.open()
    machine.volume.prune()
    assert machine.oldest() == 50       # 125 s in all, less 60: #55


def test_pins_hold_until_they_end(machine: Machine):
    volume = machine.volume
    volume.set_policy("""keep = ["all for 20s", "bookmarks 'keep-*' forever", "bookmarks 'while-*' for 50s"]""")
    machine.write(12)
    volume.bookmark("name")
    volume.bookmark("mine", at="#12", keep_ns=100 * NS)
    volume.bookmark("while-1", at="#12")
    assert [(pin.kind, pin.owner, pin.at.seq, pin.left_ns) for pin in volume.pins()] == [
        ("bookmark", "mine", 12, 100 * NS), ("bookmark", "while-1", 12, 50 * NS)]
    machine.write(80)
    assert machine.oldest() == 10 and "while-1" not in {pin.owner for pin in volume.pins()}
    held = VolumeService(volume).prune(dry_run=True)["held_by"]
    assert held == ["bookmark mine"]
    explained = VolumeService(volume).explain("mine")
    assert explained["kept_by"] == ["bookmark mine, which holds #12 and what came after, for 20 s yet"]
    machine.reopen()
    machine.write(25)
    assert machine.oldest() > 50 and not machine.volume.bookmarks()
    machine.volume.bookmark("keep-1", at=machine.oldest() + 1)
    machine.write(60)
    assert machine.oldest() <= machine.volume.bookmarks()[0].at.seq
    machine.volume.delete_bookmark("keep-1")
    machine.write(3)
    assert machine.oldest() > 100


def test_images_hold_and_undo_does_for_a_while(after: Machine):
    volume = after.volume
    volume.set_policy('keep = ["all for 20s"]\nundo = "60s"')
    after.write(12)
    with volume.at("#12"):
        after.write(40)
        assert after.oldest() == 10
        assert [(pin.kind, pin.at.seq) for pin in volume.pins()] == [("time image", 12)]
    after.write(2)
    assert after.oldest() == 30
    volume.create_image("trial", at="#40")
    after.write(40)
    assert after.oldest() == 40
    volume.delete_image("trial")
    restore = volume.restore("now", length=512, offset=0)
    assert [(pin.kind, pin.owner, pin.at.seq) for pin in volume.pins()] == [
        ("undo", f"of restore #{restore.seq}", restore.seq - 1)]
    after.write(55)
    assert after.oldest() <= restore.seq - 1
    after.write(30)
    assert after.oldest() > restore.seq


def test_the_limit_takes_more_than_the_rules_and_never_the_floor(after: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cdp.moments.policy.LEAST_LIMIT_BYTES", 1)
    after.write(100)
    each = after.volume._store.timeline.rows()[0].file_bytes
    after.volume.set_policy(f'keep = ["all for 90s"]\nfloor = "20s"\nlimit = "{6 * each}"')
    after.volume.prune()
    view = VolumeService(after.volume).simulate()
    assert 20 < after.oldest() <= 60 and view["limit_bytes"] == 6 * each
    after.volume.set_policy(f'keep = ["all for 90s"]\nfloor = "45s"\nlimit = "{each}"')
    after.volume.prune()
    assert after.oldest() == 50         # 45 s are #55
    assert VolumeService(after.volume).simulate()["over_bytes"] > 0


def test_a_damaged_file_expires_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with cdp.create(tmp_path / "v", size=1 << 20) as volume:
        volume.set_policy('keep = ["all for 1s"]')
    file = tmp_path / "v/retention.json"
    line = json.loads(file.read_text())
    assert line["format"] == 1 and line["retention"]["policy"].startswith('keep = ["all for 1s"]')
    file.write_text(file.read_text().replace("1s", "2s"))
    with cdp.open(tmp_path / "v") as volume:
        view = VolumeService(volume).info()["retention"]
        assert view["policy"] is None and "retention.json: damaged (checksum" in str(view["failed"])
        assert "retention.json: damaged" in caplog.text
        volume.set_policy('keep = ["all for 5s"]')
        assert VolumeService(volume).policy()["failed"] is None
    with cdp.open(tmp_path / "v", read_only=True) as volume:
        assert volume.policy() and VolumeService(volume).simulate()["freed_bytes"] == 0
        assert VolumeService(volume).policy()["next_run_ns"] is None


def test_an_image_has_no_policy(tmp_path: Path):
    with cdp.create(tmp_path / "v", size=1 << 20) as volume:
        volume.create_image("i")
        with volume.open_image("i") as image, pytest.raises(InvalidRequest, match="is a writable image, whose history"):
            answers.set_policy(image, 'keep = ["all for 1s"]', yes=True)


def test_space_adds_up(tmp_path: Path):
    with cdp.create(tmp_path / "v", size=1 << 20) as volume:
        volume.pwrite(b"x" * (1 << 20), 0)
        volume.create_image("i")
        volume.flush()
        got = VolumeService(volume).space()
        parts = ("log", "index", "base", "images", "catalog", "reserve", "other")
        assert got["total_bytes"] == sum(got[f"{part}_bytes"] for part in parts)
        assert got["history_bytes"] >= 1 << 20 and got["images_bytes"] > 0 and got["reserve_bytes"] >= 1 << 20
        assert got["log_bytes"] - got["log_ahead_bytes"] >= 1 << 20
        files = sum(path.lstat().st_blocks * 512 for path in [tmp_path / "v", *(tmp_path / "v").rglob("*")])
        assert abs(got["total_bytes"] - files) <= 64 << 10      # files may come and go meanwhile
