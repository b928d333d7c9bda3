"""Nothing that a user has written to a file replaces the disk, the base or the files of a volume: each writer, each way
to name a disk that is in use. Real servers hold the locks."""
import os
import subprocess

import pytest
from support.interop import PATH, cdp_argv, cdp_done, environ, run, world  # noqa: F401

import cdp
from cdp.store import block_devices
from cdp.store.output_files import output_file
from cdpcore.base.errors import Busy, InvalidRequest

MIB = 1 << 20
TRACE = "128166372003061629,hm,0,Write,383496192,32768,0\n128166372016382155,hm,0,Read,2822144,4096,0\n"


@pytest.fixture
def served(world):  # noqa: F811
    """A served volume `blk` that protects disk.img, and another volume, `web`, with a base."""
    (world.path / "disk.img").write_bytes(b"A" * 4 * MIB)
    (world.path / "raw").write_bytes(b"B" * MIB)
    (world.path / "hm.csv").write_text(TRACE)
    world.cdp("create", "blk", "--mode", "before", "--base", "disk.img")
    world.cdp("bookmark", "blk", "a")
    world.cdp("import", "raw", "web")
    world.serve("blk", "web")
    return world


def unchanged(where, inode, status, *args, said):
    """The command is refused, and disk.img is the file that it was."""
    done = cdp_done(*args, cwd=where, status=status)
    assert done.stderr.count("\n") == 1 and said in done.stderr, done.stderr
    assert (where / "disk.img").stat().st_ino == inode and (where / "disk.img").stat().st_size == 4 * MIB
    assert [p.name for p in where.iterdir() if ".part-" in p.name] == []


def test_every_writer_is_refused_the_disk_of_a_served_volume(served):
    inode = (served.path / "disk.img").stat().st_ino
    (served.path / "link.img").symlink_to("disk.img")
    os.link(served.path / "disk.img", served.path / "hard.img")
    for out in ("disk.img", "link.img", "hard.img"):
        unchanged(served.path, inode, 2, "export", "blk@a", out, "--force",
                  said=f"{out} is the disk or base of the volume itself")
        unchanged(served.path, inode, 7, "export", "web", out, "--force",
                  said=f"{out} is in use: a volume that is open has it")
        unchanged(served.path, inode, 7, "trace", "convert", "hm.csv", out, "--force", said=f"{out} is in use")
        unchanged(served.path, inode, 7, "trace", "info", "hm.csv", "--plot", out, said=f"{out} is in use")
    assert (served.path / "link.img").is_symlink()
    served.cdp("restore", "blk@a")
    served.stop()
    served.cdp("info", "blk")


def test_the_base_of_a_served_volume_by_a_second_name(served):
    os.link(served.path / "web/base.img", served.path / "second")
    for volume in ("blk", "web"):
        done = cdp_done("export", volume, "second", "--force", cwd=served.path, status=None)
        assert done.returncode in (2, 7) and "base" in done.stderr
    assert (served.path / "web/base.img").read_bytes() == b"B" * MIB


def test_nothing_is_made_in_the_folder_of_a_volume(served):
    before = sorted(p.name for p in (served.path / "web").rglob("*"))
    (served.path / "to").symlink_to("web")
    for args in (("export", "blk", "web/log/x.img"), ("trace", "convert", "hm.csv", "web/x.iolog"),
                 ("trace", "info", "hm.csv", "--plot", "to/x.png"),
                 ("replay", "hm.csv", "--volume", "web/x", "--create", "--mode", "before")):
        done = cdp_done(*args, cwd=served.path, status=2)
        assert "lies in the volume" in done.stderr
    assert sorted(p.name for p in (served.path / "web").rglob("*")) == before


def test_the_disk_of_a_volume_that_nobody_has_open(tmp_path):
    """Its own export knows it; another one's cannot."""
    (tmp_path / "disk.img").write_bytes(b"A" * MIB)
    cdp_done("create", "blk", "--mode", "before", "--base", "disk.img", cwd=tmp_path)
    done = cdp_done("export", "blk", "disk.img", "--force", cwd=tmp_path, status=2)
    assert "disk.img is the disk or base of the volume itself" in done.stderr and "cdp restore" in done.stderr
    assert (tmp_path / "disk.img").read_bytes() == b"A" * MIB


def test_an_export_follows_links(tmp_path):
    """The link stays, and what it names is written: as for a device."""
    with cdp.create(tmp_path / "web", size=MIB) as volume:
        volume.pwrite(b"1" * 4096, 0)
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    cdp_done("export", "web", "link", cwd=tmp_path, status=2)
    cdp_done("export", "web", "link", "--force", cwd=tmp_path)
    (tmp_path / "dangling").symlink_to("new")
    cdp_done("export", "web", "dangling", "--force", cwd=tmp_path)
    for link, target in (("link", "target"), ("dangling", "new")):
        assert (tmp_path / link).is_symlink() and (tmp_path / target).read_bytes()[:4096] == b"1" * 4096


def test_the_lock_is_kept_until_the_output_is_complete(tmp_path):
    """A volume cannot take a file that is about to be replaced."""
    (tmp_path / "disk.img").write_bytes(bytes(MIB))
    with output_file(str(tmp_path / "disk.img")) as real, output_file(real), pytest.raises(Busy):
        cdp.create(tmp_path / "v", disk=tmp_path / "disk.img")
    with (cdp.create(tmp_path / "v", disk=tmp_path / "disk.img"), pytest.raises(Busy, match="in use"),
          output_file(str(tmp_path / "disk.img"))):
        pass
    with output_file("/dev/null") as real:
        assert real == "/dev/null"
    with pytest.raises(InvalidRequest), output_file(str(tmp_path / "v/x")):
        pass


@pytest.fixture
def loop(tmp_path):
    """loop(file) makes a loop device. Skips where this user cannot."""
    made = []

    def attach(path, *options):
        done = subprocess.run(["losetup", "--find", "--show", *options, path], capture_output=True, text=True,
                              check=False, env={**environ(), "PATH": PATH})
        if done.returncode:
            pytest.skip(f"losetup: {done.stderr.strip()}")
        made.append(done.stdout.strip())
        return made[-1]

    yield attach
    for device in made:
        subprocess.run(["losetup", "--detach", device], check=True, env={**environ(), "PATH": PATH})


def test_loop_devices(tmp_path, loop):
    """Onto the loop device of a protected file, and onto the file of a protected loop device."""
    file, other = tmp_path / "disk.img", tmp_path / "other.img"
    for path in (file, other):
        path.write_bytes(b"A" * MIB)
    device, protected = loop(file), loop(other)
    assert list(block_devices.beneath(device)) == [(str(file), True)]
    assert list(block_devices.above(str(file))) == [device]
    with cdp.create(tmp_path / "v", disk=file), cdp.create(tmp_path / "w", disk=protected):
        for out in (device, str(other), protected, str(file)):
            with pytest.raises(Busy, match="in use"), output_file(out):
                pass
        done = run(*cdp_argv("create", "x", "--mode", "before", "--base", device), cwd=tmp_path, status=7)
        assert "another volume has" in done.stderr
        run(*cdp_argv("create", "x", "--mode", "before", "--base", other), cwd=tmp_path, status=7)
        run(*cdp_argv("export", "v", device, "--force"), cwd=tmp_path, status=7)
    with output_file(device):
        pass
