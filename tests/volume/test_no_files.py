"""No file can be made: no inode is left, a quota of files is used up, or the process has no descriptor. Volumes open,
history can be looked at and freed, a server starts; what needs a file waits for it."""
from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import interop
from support.simcatalog import on
from support.sizes import KIB, tuning

import cdp
from cdp.check import check
from cdp.store import creation
from cdp.volume.volume import Volume
from cdpcore.base.errors import OutOfSpace, Unavailable
from cdpcore.system.os import SimOs

MIB = 1 << 20
SETTINGS = cdp.Settings(segment_bytes=16 * MIB, pool_bytes=16 * MIB)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with few inodes, mounted."""
    interop.need("mount", "umount")
    if os.geteuid():
        pytest.skip("mounting needs root")
    at = tmp_path / "disk"
    at.mkdir()
    if interop.run("mount", "-t", "tmpfs", "-o", "size=400m,nr_inodes=40", "tmpfs", at, status=None).returncode:
        pytest.skip("cannot mount tmpfs here")
    try:
        yield at
    finally:
        interop.run("umount", "-l", at)


def take_all(disk: Path) -> list[Path]:
    """Files until none can be made."""
    made = []
    with suppress(OSError):
        for number in range(1000):
            path = disk / f"filler.{len(list(disk.iterdir()))}.{number}"
            path.touch()
            made.append(path)
    assert os.statvfs(disk).f_ffree == 0
    return made


def write_until_refused(volume: cdp.Volume, most: int = 3000) -> None:
    with pytest.raises(OutOfSpace, match=r"creating a log segment|run: create"):
        for number in range(most):
            volume.pwrite(bytes([number % 251 + 1]) * (64 << 10), number % 64 * (64 << 10))


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_a_volume_that_is_opened_then(disk: Path, killed: bool) -> None:
    child = f"""
import cdp, os
settings = cdp.Settings(segment_bytes={16 * MIB}, pool_bytes={16 * MIB})
volume = cdp.create({str(disk / 'v')!r}, size={4 * MIB}, settings=settings)
volume.pwrite(b"first" * 100, 0)
volume.bookmark("begin")
for i in range(1200):
    volume.pwrite(b"x" * 65536, i % 64 * 65536)
volume.flush()
for i in range(1000):
    try:
        open({str(disk)!r} + f"/filler.{{i}}", "x").close()
    except OSError:
        break
try:
    for i in range(3000):
        volume.pwrite(b"y" * 65536, i % 64 * 65536)
except cdp.OutOfSpace as e:
    assert "df -i" in str(e) or "indexing the previous segment failed" in str(e), e
    volume.flush()
{'os._exit(0)' if killed else 'volume.close()'}
"""
    interop.run(*interop.cdp_argv()[:1], "-c", child)
    take_all(disk)
    for args in (("info", disk / "v"), ("window", disk / "v"), ("records", disk / "v", "--limit", "3"),
                 ("explain", f"{disk}/v@begin")):
        interop.run(*interop.cdp_argv(*args))
        take_all(disk)
    done = interop.run(*interop.cdp_argv("export", f"{disk}/v@begin", disk.parent / "out.img"))
    assert (disk.parent / "out.img").read_bytes()[:500] == b"first" * 100, done
    take_all(disk)
    interop.run(*interop.cdp_argv("restore", f"{disk}/v@begin", "--destructive"))
    assert os.statvfs(disk).f_ffree > 0
    assert "no problems" in interop.run(*interop.cdp_argv("check", disk / "v")).stdout
    for path in disk.glob("filler.*"):
        path.unlink()
    with cdp.open(disk / "v", settings=SETTINGS) as volume:
        volume.pwrite(b"again" * 100, 0)
    assert len(list((disk / "v").glob("spare.*"))) == 4
    assert check.check(disk / "v").ok


def test_the_reserve_is_the_last_spare_file(disk: Path) -> None:
    """Of a volume that was killed before it had spare files."""
    interop.run(*interop.cdp_argv()[:1], "-c", f"""
import cdp, os
volume = cdp.create({str(disk / 'v')!r}, size={4 * MIB}, settings=cdp.Settings(segment_bytes={16 * MIB},
                    pool_bytes={16 * MIB}))
volume.pwrite(b"first" * 100, 0, fua=True)
os._exit(0)
""")
    for path in (disk / "v").glob("spare.*"):
        path.unlink()
    take_all(disk)
    assert "#1" in interop.run(*interop.cdp_argv("info", disk / "v")).stdout


def test_two_segments_to_recover_and_one_reserve(disk: Path) -> None:
    """Of a served volume that was killed before it had spare files: what the server left is the second one."""
    interop.run(*interop.cdp_argv()[:1], "-c", f"""
import cdp, os, time
from cdp.store.maintenance import Maintainer
Maintainer._seal = lambda *args: time.sleep(60)
volume = cdp.create({str(disk / 'v')!r}, size={4 * MIB}, settings=cdp.Settings(segment_bytes={16 * MIB},
                    pool_bytes={16 * MIB}))
for i in range(260):
    volume.pwrite(b"x" * 65536, i % 64 * 65536)
volume.flush()
assert len(os.listdir({str(disk / 'v/log')!r})) >= 2 and not os.listdir({str(disk / 'v/runs')!r})
open({str(disk / 'v/serving.json')!r}, "x").close()
os._exit(0)
""")
    for path in (disk / "v").glob("spare.*"):
        path.unlink()
    take_all(disk)
    assert "#261" in interop.run(*interop.cdp_argv("info", disk / "v")).stdout
    assert len(list((disk / "v/runs").iterdir())) == 2


def test_an_open_volume(disk: Path) -> None:
    """Writes are refused; a destructive restore frees files, and then they go on."""
    with cdp.create(disk / "v", size=4 * MIB, settings=SETTINGS) as volume:
        volume.pwrite(b"first" * 100, 0)
        volume.bookmark("begin")
        for number in range(600):
            volume.pwrite(b"x" * 65536, number % 64 * 65536)
        volume.flush()
        take_all(disk)
        write_until_refused(volume)
        volume.flush()
        volume.bookmark("full")
        volume.delete_bookmark("full")
        volume.restore("begin", destructive=True)
        assert volume.pread(500, 0) == b"first" * 100
        until_s = time.monotonic() + 20
        while True:
            try:
                volume.pwrite(b"again" * 100, 0)
                break
            except OutOfSpace:
                assert time.monotonic() < until_s
                time.sleep(0.05)
    assert check.check(disk / "v").ok


def test_a_server_starts_and_is_found(disk: Path) -> None:
    cdp.create(disk / "v", size=4 * MIB, settings=SETTINGS).close()
    world = interop.World(disk)
    world.log = disk.parent / "serve.log"
    try:
        take_all(disk)
        world.serve("v")
        interop.run("qemu-io", "-f", "raw", "-c", "read 0 64k", world.uri("v"))
        assert "served" in world.cdp("info", "v") and world.json("info", "v")["served"]["name"] == "v"
        world.stop()
        for path in (disk / "v").glob("spare.*"):
            path.unlink()
        take_all(disk)
        world.serve("v")
        interop.run("qemu-io", "-f", "raw", "-c", "read 0 64k", world.uri("v"))
        assert "other commands do not find this server" in world.log.read_text()
        world.stop()
    finally:
        world.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
@pytest.mark.parametrize("threads", [True, False])
def test_simulated(error: int, threads: bool) -> None:
    """Files cannot be made for a while: writes are refused or go on, never lost, and go on when it is over."""
    sim = SimOs(3)
    small = tuning(128 * KIB, 1024 * KIB, slots=4)
    creation.create("/v", 2048 * KIB, small, os=sim, catalog=on(sim))
    volume = Volume("/v", _tuning=small, _os=sim, _catalog=on(sim))
    volume.pwrite(b"first" * 100, 0)
    sim.fail("create", n=1, times=40, error=error)
    refused = 0
    for number in range(200):
        try:
            volume.pwrite(bytes([number + 1]) * (32 * KIB), number % 64 * (32 * KIB))
            model = number
        except (OutOfSpace, Unavailable):
            refused += 1
    assert refused
    for number in range(64):
        volume.pwrite(bytes([number + 101]) * (32 * KIB), number * (32 * KIB))
    volume.flush()
    assert model
    for number in range(64):
        assert volume.pread(32 * KIB, number * 32 * KIB) == bytes([number + 101]) * (32 * KIB)
    volume.close()
    volume = Volume("/v", _tuning=small, _os=sim, _catalog=on(sim))
    assert volume.pread(32 * KIB, 0) == bytes([101]) * (32 * KIB)
    volume.close()


def test_a_command_without_a_descriptor_says_what_to_do(tmp_path: Path) -> None:
    cdp.create(tmp_path / "v", size=4 * MIB).close()
    argv = " ".join(interop.cdp_argv("info", "v"))
    done = interop.run("sh", "-c", f"ulimit -n 8; exec {argv}", cwd=tmp_path, status=8)
    assert "Too many open files" in done.stderr and "raise the limit (ulimit -n)" in done.stderr


def test_no_descriptor(tmp_path: Path) -> None:
    """Nothing more can be opened for a while: writes that need a file are refused, and go on afterwards."""
    child = f"""
import cdp, os, resource, time
volume = cdp.create({str(tmp_path / 'v')!r}, size={4 * MIB}, settings=cdp.Settings(segment_bytes={16 * MIB},
                    pool_bytes={16 * MIB}))
volume.pwrite(b"first" * 100, 0)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
refused = 0
for number in range(2000):
    try:
        volume.pwrite(bytes([number % 251 + 1]) * 65536, number % 64 * 65536)
    except cdp.CdpError as error:
        assert "Too many open files" in str(error) or "indexing the previous segment" in str(error), error
        refused += 1
        break
assert refused, "never needed a file"
volume.flush()
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
for fd in taken:
    os.close(fd)
until = time.monotonic() + 20
while True:
    try:
        volume.pwrite(b"again" * 100, 0)
        break
    except cdp.CdpError:
        assert time.monotonic() < until
        time.sleep(0.05)
volume.close()
"""
    interop.run(*interop.cdp_argv()[:1], "-c", child)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100
    with cdp.open(tmp_path / "v", settings=SETTINGS) as volume:
        assert volume.pread(500, 0) == b"again" * 100
    assert check.check(tmp_path / "v").ok
