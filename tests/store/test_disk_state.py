"""What says how far a disk in place is (disk.state), how it looked (disk.json), and the disk: check names what does not
fit, opening refuses what it could not mend, and neither takes for damage what a crash leaves."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cdp
from cdp.check import check
from cdpcore.base.errors import Corruption, NotFound

MIB = 1 << 20
BEHIND = """
volume.pwrite(b"flushed" * 1000, 0)
volume.flush()
for at in range(20):
    volume.pwrite(b"not flushed" * 1000, at * 20_000)
volume.sync()           # the log is durable, the disk is behind
"""
IDLE = "volume.pwrite(b'x' * 512, 0); volume.flush()"


class Place:
    """A volume v of the disk disk.img; closed cleanly, after some writes."""

    def __init__(self, path: Path):
        self.v, self.disk = path / "v", path / "disk.img"
        self.state, self.json = self.v / "disk.state", self.v / "disk.json"
        self.disk.write_bytes(os.urandom(MIB))
        with cdp.create(self.v, disk=self.disk) as volume:
            volume.pwrite(b"a" * 4096, 0)
            volume.flush()
            volume.pwrite(b"b" * 4096, 0)

    def crash(self, code: str) -> None:
        script = f"""
import os, sys, cdp
volume = cdp.open(sys.argv[1], settings=cdp.Settings(commit_interval_ms=60_000, restore_rate_bytes=64 << 10))
{code}
os._exit(9)
"""
        assert subprocess.run([sys.executable, "-c", script, str(self.v)], check=False).returncode == 9

    def flip(self, path: Path, at: int) -> None:
        raw = bytearray(path.read_bytes())
        raw[at] ^= 4
        path.write_bytes(raw)

    def newer(self) -> int:
        """Where the newer copy of the state is."""
        raw = self.state.read_bytes()
        return max((0, 4096), key=lambda at: int.from_bytes(raw[at + 32:at + 40], "little"))

    def files(self) -> dict[str, bytes]:
        """All but what opening may write: the state, as it was found, and LMDB's own."""
        return {str(p): p.read_bytes() for p in [*self.v.rglob("*"), self.disk]
                if p.is_file() and p.parent.name != "catalog.lmdb" and p != self.state
                and p.name != "scrub.json"}     # what a check found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def one_problem(place: Place, where: Path, what: str, hint: str) -> None:
    report = check.check(place.v)
    assert sum(p.where == str(where) and what in p.what and hint in p.hint
               for p in report.problems) == 1 and not report.ok, report.problems


def sound(place: Place) -> None:
    assert check.check(place.v).problems == []


def test_what_a_close_and_a_crash_leave_is_sound(place: Place):
    sound(place)
    for code in (IDLE, BEHIND, "volume.restore(0)", "volume.restore(0, destructive=True)"):
        place.crash(code)
        sound(place)
        cdp.open(place.v).close()
        sound(place)


@pytest.mark.parametrize("which", ["newer", "older"])
def test_a_damaged_copy_of_a_closed_volume_is_told_and_written_anew(place: Place, which: str):
    at = place.newer() if which == "newer" else 4096 - place.newer()
    place.flip(place.state, at + 20)
    if which == "newer":    # what was flushed before the last write is all that is known
        one_problem(place, place.state, "log is sealed up to #", "from a copy")
        before = place.files()
        with pytest.raises(Corruption, match="sealed up to"):
            cdp.open(place.v)
        assert place.files() == before
        place.flip(place.state, at + 20)
    else:
        one_problem(place, place.state, f"copy at byte {at} is damaged", "next flush")
        with cdp.open(place.v) as volume:
            volume.pwrite(b"c", 0)
            volume.flush()
    cdp.open(place.v).close()
    sound(place)


def test_a_damaged_copy_after_a_crash_does_not_cost_what_was_flushed(place: Place):
    """It may be the newer one: then the disk would be put back by the older."""
    place.crash(BEHIND)
    kept, before = place.state.read_bytes(), place.files()
    for at in (0, 4096):
        place.flip(place.state, at + 40)
        one_problem(place, place.state, f"copy at byte {at} is damaged", "from a copy")
        with pytest.raises(Corruption, match=f"the copy at byte {at} is damaged"):
            cdp.open(place.v)
        assert place.files() == before
        place.state.write_bytes(kept)
    with cdp.open(place.v) as volume:
        assert volume.pread(7000, 0) == b"flushed" * 1000


def test_no_valid_copy(place: Place):
    place.state.write_bytes(bytes(8192))
    one_problem(place, place.state, "no valid copy", "from a copy")
    with pytest.raises(Corruption, match="no valid copy"):
        cdp.open(place.v)
    place.state.unlink()
    one_problem(place, place.state, "open", "")


def test_a_log_that_ends_before_the_disk(place: Place):
    place.crash(IDLE)
    newest = max((place.v / "log").iterdir())
    newest.rename(place.v / "away")
    one_problem(place, place.state, "the log ends at", "log back from a copy")
    with pytest.raises(Corruption):
        cdp.open(place.v)
    (place.v / "away").rename(newest)
    cdp.open(place.v).close()
    sound(place)


def test_the_description_of_the_disk(place: Place):
    whole = place.json.read_bytes()
    place.json.unlink()
    one_problem(place, place.json, "missing", "open the volume and close it")
    place.json.write_bytes(whole.replace(b'"clean": true', b'"clean": false'))
    one_problem(place, place.json, "damaged", "from a copy")
    place.json.write_bytes(whole)
    sound(place)
    place.crash(BEHIND)
    place.json.write_bytes(whole)
    one_problem(place, place.json, "closed cleanly", "together")


def test_the_disk_itself(place: Place):
    place.flip(place.disk, 5000)
    one_problem(place, place.disk, "other content", "cdp adopt")
    place.disk.unlink()
    one_problem(place, place.disk, "no such disk", "path of a raw disk")


# --- after a crash ----------------------------------------------------------------------------------------------------

def shifted(place: Place) -> None:
    os.utime(place.disk, ns=(0, place.disk.stat().st_mtime_ns - 10**9))


@pytest.mark.parametrize("code, read_only", [(IDLE, False), ("pass", False), ("pass", True),
                                             ("volume.restore(0); volume.writeback._thread.join()", False)])
def test_a_write_from_outside_after_a_crash_is_noticed(place: Place, code: str, read_only: bool):
    """Every time where nothing was under way when it crashed; and it goes on being noticed, and can be vouched for."""
    place.crash(code)
    sound(place)
    place.flip(place.disk, MIB // 2 + 5)
    one_problem(place, place.disk, "was not closed cleanly", "cdp adopt")
    for _ in range(2):
        with pytest.raises(Corruption, match="written to at") as told:
            cdp.open(place.v, read_only=read_only)
    assert "--keep-history" in told.value.hint
    place.flip(place.disk, MIB // 2 + 5)
    cdp.adopt(place.v, keep_history=True).close()
    sound(place)


def test_what_is_not_a_write_from_outside(place: Place):
    """A crash in the middle of work, recovery that puts the disk back, a crash right after, a time that a power cut has
    lost, a disk that was touched and vouched for, a destructive restore that was killed while it was written back."""
    opening: list[Callable[[], None]] = [
        lambda: place.crash(BEHIND),
        lambda: place.crash("pass"),
        lambda: (place.crash(IDLE), shifted(place))[0],
        lambda: place.crash("pass"),
        lambda: place.crash("import time; volume.restore(0, destructive=True); time.sleep(0.4)"),
    ]
    for turn in opening:
        turn()
        sound(place)
        cdp.open(place.v).close()
    os.utime(place.disk)
    cdp.adopt(place.v, keep_history=True).close()
    place.crash("pass")
    cdp.open(place.v).close()


# --- letting go -------------------------------------------------------------------------------------------------------

def test_detach_tells_where_a_restore_could_not_be_written_back(place: Place):
    """No segment can be made, so nothing is put on the disk: it is not what the volume shows, which reading it through
    the volume is."""
    with cdp.open(place.v) as volume, volume.at(0) as image:
        old = image.pread(MIB, 0)
    place.crash("volume.restore(0)")
    cramped = f"""
import resource, signal, sys, cdp
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({MIB // 2}, {MIB // 2}))
try:
    cdp.detach({str(place.v)!r})
except cdp.CdpError as e:
    print(type(e).__name__, e)
"""
    done = subprocess.run([sys.executable, "-c", cramped], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Unavailable") and "is not what" in done.stdout, done
    assert place.disk.read_bytes() != old
    with cdp.open(place.v, read_only=True) as volume:
        assert volume.pread(MIB, 0) == old
    assert cdp.detach(place.v) == str(place.disk)
    assert place.disk.read_bytes() == old
    place.disk.unlink()
    with pytest.raises(NotFound, match="no such disk"):
        cdp.open(place.v, read_only=True)
