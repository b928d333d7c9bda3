"""A real file system on a served volume, by the kernel: nbdfuse, losetup, mkfs.ext4, mount; then lost, found by time,
tried out in a writable image, restored, and the restore taken back. Every step by commands and real tools.

Needs root, /dev/fuse and loop devices; what was mounted or attached goes away whatever happens.
"""
import random
import subprocess
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import pytest
from support.interop import MIB, both, environ, library_files, run, sha256
from support.mounted import need_a_kernel

from cdp.nbd.client import Client, unix_address

pytestmark = pytest.mark.interop

__all__ = ["both"]

SIZE_MIB = 96
FILES_BYTES = 6 * MIB
GARBAGE_MIB = 24
TOOLS = "nbdfuse", "mkfs.ext4", "fsck.ext4", "nbdcopy", "blockdev", "dd"


@contextmanager
def block_device(world, export):
    """A loop device over a file that nbdfuse makes of an export."""
    folder = world.path / "fuse"
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        with (world.path / "nbdfuse.log").open("ab") as log:
            fuse = subprocess.Popen(["nbdfuse", str(folder / "disk"), world.uri(export)], env=environ(),
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(end, fuse)
        stack.callback(run, "umount", "--lazy", folder, status=None)
        deadline_s = time.monotonic() + 60
        while not (folder / "disk").exists():
            assert fuse.poll() is None and time.monotonic() < deadline_s, (world.path / "nbdfuse.log").read_text()
            time.sleep(0.05)
        device = run("losetup", "--find", "--show", folder / "disk").stdout.strip()
        stack.callback(run, "losetup", "--detach", device, status=None)
        yield device
        run("blockdev", "--flushbufs", device)


def end(process):
    """nbdfuse ends by itself once it is unmounted; its connection is closed then."""
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def mounted(world, device):
    folder = world.path / "mnt"
    folder.mkdir(exist_ok=True)
    run("mount", "-t", "ext4", device, folder)
    try:
        yield folder
    finally:
        if run("umount", folder, status=None).returncode:
            run("umount", "--lazy", folder, status=None)


def checksums(folder):
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(folder):
    for inside, source in library_files(FILES_BYTES):
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())


def repaired(world, export, expected):
    """The file system of a writable export, after replay of its journal: faultless, mountable, every file right."""
    with block_device(world, export) as device:
        replay = run("fsck.ext4", "-fy", device, status=None)
        assert replay.returncode in (0, 1), replay.stdout  # 1: the journal was replayed
        assert "recovering journal" in replay.stdout + replay.stderr
        run("fsck.ext4", "-fn", device)
        with mounted(world, device) as folder:
            assert checksums(folder) == expected
    with block_device(world, export) as device:
        run("fsck.ext4", "-fn", device)


def content_of(world, export):
    out = world.path / "content.img"
    run("nbdcopy", "--connections=4", world.uri(export), out)
    try:
        return sha256(out)
    finally:
        out.unlink()


def test_lost_found_restored(both):
    need_a_kernel(*TOOLS)
    world = both
    world.create("web", SIZE_MIB)
    world.serve("web")
    with block_device(world, "web") as device:
        # All at once, so that nothing is written in the background after the sync below.
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        with mounted(world, device) as folder:
            fill(folder)
            run("sync")
            good = checksums(folder)
            assert len(good) > 100
            # The moment that someone remembers: a time, to the second, while the file system is mounted and in use.
            time.sleep(1.1)
            when = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            time.sleep(1.1)
            for number, inside in enumerate(sorted(good)):
                if number % 3 != 1:
                    (folder / inside).unlink()
            (folder / "after.txt").write_text("written after the moment\n")
            run("sync")
            after_deletion = checksums(folder)
            assert len(after_deletion) < len(good)
        garbage = world.path / "garbage"
        garbage.write_bytes(random.Random(1).randbytes(GARBAGE_MIB * MIB))
        run("dd", f"if={garbage}", f"of={device}", "bs=1M", "conv=fsync,notrunc")
        assert run("fsck.ext4", "-fn", device, status=None).returncode not in (0, 1)
    ruined = content_of(world, "web")

    # The moment: what it is, and that it stays what it is whatever is done next.
    explained = world.json("explain", f"web@{when}")
    seq, window = explained["resolved"]["seq"], world.json("window", "web")
    assert window["oldest"]["seq"] < seq < window["newest"]["seq"]
    later = world.json("records", "web", "--since", when, "--limit", "1")
    assert later[0]["seq"] == seq + 1 and later[0]["ts_ns"] > explained["asked_ts_ns"]
    moment = content_of(world, f"web@{when}")
    assert moment != ruined

    world.cdp("image", "create", f"web@{when}", "trial")
    repaired(world, "web/trial", good)
    # The kernel wrote some metadata after its last flush before the moment. A disk that lost power then might not have
    # had it, and must have been repairable as well.
    world.cdp("image", "create", f"web@#{explained['last_flush']['seq']}", "flushed")
    repaired(world, "web/flushed", good)
    assert content_of(world, "web") == ruined and content_of(world, f"web@{when}") == moment

    # In service: a client is connected before and after, and sees the change.
    with Client(unix_address(world.socket, "web")) as client:
        before = client.pread(4 * MIB, 0)
        restored = world.json("restore", f"web@{when}", "--force")
        assert client.pread(4 * MIB, 0) != before
    assert restored["target"]["seq"] == seq and restored["undoable"]
    assert content_of(world, "web") == moment
    repaired(world, "web", good)
    assert content_of(world, f"web@{when}") == moment

    world.cdp("undo", "web")
    assert content_of(world, "web") == ruined
    with block_device(world, "web") as device:
        assert run("fsck.ext4", "-fn", device, status=None).returncode not in (0, 1)
    # And the undo can be taken back as well: to the second the volume was right.
    world.cdp("restore", f"web@{when}")
    assert content_of(world, "web") == moment
    world.stop()
    assert world.json("check", "web")["ok"]
    if world.kind == "before":      # the disk itself, read without us
        assert sha256(world.path / "web.img") == moment
