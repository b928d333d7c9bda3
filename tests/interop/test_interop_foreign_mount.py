"""A read-only mount of a protected ext4 replays its journal: the disk is changed, and adopted with its history."""
import os
import shutil
from contextlib import contextmanager

import pytest
from support.interop import MIB, World, need, run

import cdp

pytestmark = pytest.mark.interop


@pytest.fixture
def world(tmp_path):
    need("losetup", "mkfs.ext4", "fsck.ext4", "mount", "umount")
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    made = World(tmp_path, "before")
    yield made
    made.close()


@contextmanager
def mounted(world, image, *options):
    """By a loop device that can be written: a mount that only reads replays the journal on one."""
    folder = world.path / "mnt"
    folder.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", image, status=None).stdout.strip()
    if not device:
        pytest.skip("this machine has no usable loop device")
    try:
        if run("mount", *options, device, folder, status=None).returncode:
            pytest.skip("this machine cannot mount an ext4")
        try:
            yield folder
        finally:
            run("umount", folder)
    finally:
        run("losetup", "--detach", device)


def test_a_read_only_mount_costs_some_blocks_and_not_the_history(world):
    image, disk = world.path / "fs.img", world.path / "web.img"
    with image.open("xb") as file:
        file.truncate(48 * MIB)
    run("mkfs.ext4", "-q", "-F", image)
    with disk.open("xb") as file:       # room behind the file system, for what the volume itself writes
        file.truncate(64 * MIB)
    with mounted(world, image) as folder:
        for i in range(40):
            (folder / f"file{i}").write_bytes(os.urandom(20_000))
        run("sync")
        (folder / "file3").unlink()
        with (folder / "late").open("wb") as late:      # in the journal, and nowhere else yet
            late.write(b"late" * 5000)
            os.fsync(late.fileno())
        with image.open("rb") as source, disk.open("r+b") as copy:      # as a power cut leaves it
            shutil.copyfileobj(source, copy)
    world.cdp("create", "web", "--mode", "before", "--base", "web.img")
    was = disk.read_bytes()
    with cdp.open(world.path / "web") as volume:
        volume.pwrite(b"1" * MIB, 50 * MIB)
        volume.bookmark("one")
        volume.pwrite(b"2" * MIB, 50 * MIB)
    with mounted(world, disk, "-o", "ro"):
        pass
    assert disk.read_bytes()[:48 * MIB] != was[:48 * MIB], "the journal was not replayed"
    world.cdp("info", "web", status=5)
    world.cdp("adopt", "web", "--keep-history", "--yes")
    assert [mark["name"] for mark in world.json("bookmarks", "web")] == ["one"]
    world.cdp("export", "web@one", "refused.img", status=5)
    skipped = world.json("export", "web@one", "one.img", "--skip-unknown")["skipped"]
    lost = sum(piece["length"] for piece in skipped)
    assert 0 < lost < 2 * MIB
    expected = bytearray(was)
    expected[50 * MIB:51 * MIB] = b"1" * MIB
    for piece in skipped:
        at, n = piece["offset"], piece["length"]
        expected[at:at + n] = bytes(n)
    assert (world.path / "one.img").read_bytes() == expected
    world.cdp("export", "web", "now.img")
    assert (world.path / "now.img").read_bytes() == disk.read_bytes()
    run("fsck.ext4", "-f", "-n", world.path / "now.img")
    world.cdp("check", "web")
