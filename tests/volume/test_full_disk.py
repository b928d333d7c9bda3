"""A full disk, a real one: an ext4 or a tmpfs that is filled to the last block. Writes are refused; bookmarks,
restores, undo, and above all the destructive restore that frees space go on, with the volume open and from the command
line, also when it was full before it was opened. Of both kinds: what protects a disk in place has its log there, and
the disk, all of whose blocks are allocated."""
from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import interop
from support.simcatalog import on, simulated
from support.sizes import KIB, tuning

import cdp
from cdp.check import check, rebuild
from cdp.cli import exits
from cdp.volume.volume import Volume
from cdpcore.base.errors import OutOfSpace
from cdpcore.system.os import SimOs

MIB = 1 << 20
SETTINGS = cdp.Settings(segment_bytes=16 * MIB, pool_bytes=16 * MIB)


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, mounted."""
    interop.need("mount", "umount", "mkfs.ext4")
    if os.geteuid():
        pytest.skip("mounting needs root")
    at = tmp_path / "disk"
    at.mkdir()
    kind = getattr(request, "param", "ext4")
    if kind == "ext4":
        with open(tmp_path / "ext4.img", "wb") as file:
            file.truncate(128 * MIB)
        interop.run("mkfs.ext4", "-q", "-F", "-m", "0", tmp_path / "ext4.img")
        argv = ["mount", "-o", "loop", tmp_path / "ext4.img", at]
    else:
        argv = ["mount", "-t", "tmpfs", "-o", "size=112m", "tmpfs", at]
    if interop.run(*argv, status=None).returncode:
        pytest.skip(f"cannot mount {kind} here")
    try:
        yield at
    finally:
        interop.run("umount", "-l", at)


def create(disk: Path, kind: str) -> cdp.Volume:
    if kind == "after":
        return cdp.create(disk / "v", size=4 * MIB, settings=SETTINGS)
    (disk / "disk.img").write_bytes(bytes(4 * MIB))
    return cdp.create(disk / "v", disk=disk / "disk.img", settings=SETTINGS)


def written_back(volume: cdp.Volume) -> None:
    eventually(lambda: volume.writeback is None or volume.writeback.progress() is None)


def fill(disk: Path, in_use: bool = False) -> None:
    """Take all that is left, to the last block; again while a volume that is `in_use` tries to make a segment, and
    gives something back."""
    with open(disk / "filler", "ab", buffering=0) as file:
        while shutil.disk_usage(disk).free > 32 * MIB:
            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, 16 * MIB)
        for _ in range(3 if in_use else 1):
            for size in (16 * MIB, MIB, 4096, 512):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
            if in_use:
                time.sleep(0.1)
    assert shutil.disk_usage(disk).free < 128 << 10


def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def write_until_full(volume: cdp.Volume, number: int) -> int:
    """Write 64 KiB pieces until the disk refuses; how many were taken."""
    count = 0
    with pytest.raises(OutOfSpace):
        while True:
            volume.pwrite(bytes([number]) * (64 << 10), count % 64 * (64 << 10))
            count += 1
    return count


@pytest.mark.parametrize("kind", ["after", "before"])
@pytest.mark.parametrize("disk", ["ext4", "tmpfs"], indirect=True)
def test_open_volume(disk: Path, kind: str) -> None:
    """The disk fills while the volume is in use."""
    with create(disk, kind) as volume:
        volume.pwrite(b"first" * 100, 0)
        volume.bookmark("begin")
        assert write_until_full(volume, 1) > 100
        fill(disk, in_use=True)
        write_until_full(volume, 2)
        volume.flush()
        state = volume.pread(4 * MIB, 0)
        for i in range(5):
            volume.bookmark(f"b{i}")
            volume.delete_bookmark(f"b{i}")
        volume.restore("begin")
        assert volume.pread(500, 0) == b"first" * 100
        volume.undo()
        assert volume.pread(4 * MIB, 0) == state
        written_back(volume)
        volume.restore("begin", destructive=True)
        assert volume.pread(500, 0) == b"first" * 100
        eventually(lambda: shutil.disk_usage(disk).free > 16 * MIB)
        eventually(lambda: all(r.reclaimed for r in volume._store.restores if r.destructive))
        volume.pwrite(b"again" * 100, 0)
        volume.flush()
    report = check.check(disk / "v")
    assert report.ok, report.problems
    with cdp.open(disk / "v", settings=SETTINGS) as volume:
        assert volume.pread(500, 0) == b"again" * 100


@pytest.mark.parametrize("killed, kind", [(False, "after"), (True, "after"), (True, "before")],
                         ids=["closed", "killed", "killed-before"])
def test_volume_that_is_opened_then(disk: Path, killed: bool, kind: str) -> None:
    """The disk is full when the volume is opened: every command is a new opening, and a server that was killed left no
    sealed segment."""
    create(disk, kind).close()
    child = f"""
import cdp, os
volume = cdp.open({str(disk / 'v')!r}, settings=cdp.Settings(segment_bytes={16 * MIB}, pool_bytes={16 * MIB}))
volume.pwrite(b"first" * 100, 0)
volume.bookmark("begin")
try:
    for i in range(10000):
        volume.pwrite(b"x" * 65536, i % 64 * 65536)
except cdp.OutOfSpace:
    volume.flush()
    {'os._exit(0)' if killed else 'volume.close()'}
"""
    interop.run(*interop.cdp_argv()[:1], "-c", child)
    fill(disk)

    def command(*args: str) -> subprocess.CompletedProcess[str]:
        done = interop.run(*interop.cdp_argv(*args))
        fill(disk)      # whoever takes what a command gives back
        return done

    command("info", str(disk / "v"))
    for i in range(3):
        command("bookmark", str(disk / "v"), f"b{i}")
        command("bookmark", str(disk / "v"), f"b{i}", "--delete")
    command("restore", f"{disk}/v@begin")
    command("undo", str(disk / "v"))
    interop.run(*interop.cdp_argv("restore", f"{disk}/v@begin", "--destructive"))
    assert shutil.disk_usage(disk).free > 16 * MIB
    assert "no problems" in interop.run(*interop.cdp_argv("check", str(disk / "v"))).stdout
    with cdp.open(disk / "v", settings=SETTINGS) as volume:
        assert volume.pread(500, 0) == b"first" * 100
        volume.pwrite(b"again" * 100, 0)


@pytest.mark.parametrize("disk", ["ext4", "tmpfs"], indirect=True)
@pytest.mark.parametrize("free", [0, 4 * KIB, 8 * KIB, 12 * KIB, 16 * KIB, 24 * KIB])
def test_a_volume_that_is_made_then(disk: Path, free: int) -> None:
    """Wherever the space ends: it says so, and what to do. (LMDB maps its lock file: that a block of it could not be
    had was a SIGBUS; that the catalog could not be written, a corruption to rebuild.)"""
    fill(disk)
    filler = disk / "filler"
    os.truncate(filler, filler.stat().st_size // 4096 * 4096 - free)
    os.sync()
    done = interop.run(*interop.cdp_argv("create", disk / "new", "--size", "1M"), status=None)
    assert done.returncode in (0, exits.NO_SPACE), (done.returncode, done.stderr)
    if done.returncode:
        assert "No space left on device; free space" in done.stderr and done.stderr.count("\n") == 1
        assert not (disk / "new").exists()


@pytest.mark.parametrize("kind", ["after", "before"])
@pytest.mark.parametrize("again", [False, True], ids=["open", "opened then"])
def test_simulated(again: bool, kind: str) -> None:
    """The same on the simulated disk, where nothing is left but a few blocks for its catalog; then power is lost."""
    sim = SimOs(3)
    small = tuning(128 * KIB, 1024 * KIB, slots=4)
    volume = simulated(sim, kind, 2048 * KIB, small)
    volume.pwrite(b"first" * 100, 0)
    begin = volume.bookmark("begin").at
    sim.set_space((8 << 20) + (2056 * KIB if kind == "before" else 0))      # the disk, and its table of checksums
    with pytest.raises(OutOfSpace):
        for i in range(10_000):
            volume.pwrite(bytes([i % 251 + 1]) * (32 * KIB), i % 64 * (32 * KIB))
    volume.flush()
    if again:
        volume.close()
        volume = Volume("/v", _tuning=small, _os=sim, _catalog=on(sim))
    sim.set_space(sim.space_used_bytes + 32 * KIB)
    state = volume.pread(2048 * KIB, 0)
    volume.bookmark("full")
    volume.delete_bookmark("full")
    # it is made, and without threads the call goes on to write it back
    succeeds_but_for_space(lambda: volume.restore(begin.seq))
    assert volume.pread(500, 0) == b"first" * 100
    volume.undo()
    assert volume.pread(2048 * KIB, 0) == state
    if kind == "before":
        volume.writeback.finish()
    volume.restore(begin.seq, destructive=True)
    assert volume.pread(500, 0) == b"first" * 100
    if kind == "before":
        volume.writeback.finish()
    for i in range(20):
        volume.pwrite(bytes([i + 1]) * (32 * KIB), 0)
    volume.flush()
    state = volume.pread(2048 * KIB, 0)
    del volume
    sim.power_on("drop")
    volume = Volume("/v", _tuning=small, _os=sim, _catalog=on(sim))
    assert volume.pread(2048 * KIB, 0) == state
    assert volume.at("begin").pread(500, 0) == b"first" * 100
    volume.close()


def succeeds_but_for_space(call: Callable[[], object]) -> None:
    with suppress(OutOfSpace):
        call()


@pytest.mark.sanitize
@pytest.mark.parametrize("part", ["log", "runs"])
def test_recovery_has_the_reserve(part: str) -> None:
    """For the directory of a segment whose growth a power cut took back, and for a run where what the segment had left
    for it was cut off and is somebody else's."""
    sim = SimOs(5)
    small = tuning(128 * KIB, 1024 * KIB)
    volume = simulated(sim, "after", 64 * KIB, small)
    volume.pwrite(b"kept" * 1000, 0)
    volume.flush()
    volume._store.disown()
    sim.power_on("keep")
    sim.fail("pwrite", part=part, error=errno.ENOSPC)
    volume = Volume("/v", _tuning=small, _os=sim, _catalog=on(sim))
    assert volume.pread(4000, 0) == b"kept" * 1000
    volume.close()
    assert sim.exists("/v/reserve")     # it was made again


def test_freed_before_sealed(tmp_path: Path) -> None:
    """What a destructive restore frees at once is gone before its own segment is sealed: opening and rebuilding know
    why."""
    path = tmp_path / "v"
    child = f"""
import cdp, os
settings = cdp.Settings(segment_bytes={16 * MIB}, pool_bytes={16 * MIB})
volume = cdp.create({str(path)!r}, size={4 * MIB}, settings=settings)
volume.pwrite(b"first" * 100, 0)
for i in range(800):
    volume.pwrite(b"x" * 65536, i % 64 * 65536)
volume.flush()
while len(volume._store.timeline.rows()) < 3:
    pass
os.rename({str(path / "runs")!r}, {str(path / "runs.away")!r})    # no run can be made: no segment can be sealed
volume.restore("#1", destructive=True)
os._exit(7)
"""
    interop.run(*interop.cdp_argv()[:1], "-c", child, status=7)
    os.rename(path / "runs.away", path / "runs")
    numbers = [p.name for p in sorted((path / "log").iterdir())]
    assert numbers[0] == "0000000001.log" and "0000000002.log" not in numbers, f"nothing was freed: {numbers}"
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    shutil.rmtree(copy / "catalog.lmdb")
    report = rebuild.rebuild(copy)
    assert report.ok, report.problems
    for place in (path, copy):
        with cdp.open(place, settings=SETTINGS) as volume:
            assert volume.pread(500, 0) == b"first" * 100
            assert [r.destructive for r in volume.restores()] == [True]
            eventually(lambda volume=volume: all(r.reclaimed for r in volume._store.restores))
        assert check.check(place).ok
