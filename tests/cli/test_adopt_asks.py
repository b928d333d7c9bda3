"""adopt on a terminal: what is lost is said, and the answer is the user's."""
import os
import pty
import subprocess
import sys

import pytest
from support.interop import MIB, World, cdp_argv, environ

from cdp.volume.adopt import look


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path, "before")
    made.create("web", 8)
    made.cdp("bookmark", "web", "one")
    yield made
    made.close()


def adopt(world, answer):
    """(status, standard error) of `cdp adopt web` with that typed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(cdp_argv("adopt", "web"), cwd=world.path, env=environ(), stdin=theirs,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    os.write(ours, answer)
    _, said = process.communicate(timeout=60)
    os.close(ours)
    assert "Traceback" not in said
    return process.returncode, said


def marks(world):
    return [mark["name"] for mark in world.json("bookmarks", "web")]


@pytest.mark.parametrize("answer", [b"\n", b"keep\n"])
def test_touched_it_is_kept(world, answer):
    os.utime(world.path / "web.img", (1, 1))
    status, said = adopt(world, answer)
    assert status == 0 and "written or touched since" in said and "bookmarks one" in said and "[keep]" in said
    assert marks(world) == ["one"]


def change(world):
    with (world.path / "web.img").open("r+b") as disk:
        disk.seek(8 * MIB - 512)
        disk.write(b"x" * 512)


def test_with_other_content_it_goes_on_where_there_are_checksums(world):
    change(world)
    status, said = adopt(world, b"\n")
    assert status == 0 and "4 KiB of 8 MiB differ, in 1 ranges" in said and "[keep]" in said
    assert marks(world) == ["one"]
    assert "foreign" in world.cdp("records", "web")


@pytest.mark.parametrize("answer, status", [(b"\n", 130), (b"keep\nnothing\n", 130), (b"discard\n", 0)])
def test_with_other_content_it_cannot_be_kept(world, answer, status):
    (world.path / "web" / "disk.sums").unlink()
    change(world)
    found = look(str(world.path / "web"))
    assert not found.may_keep and "other content" in found.difference and "bookmarks one" in found.lost
    got, said = adopt(world, answer)
    assert got == status and "cannot be kept" in said and "(discard, nothing) [nothing]" in said
    assert look(str(world.path / "web")).lost == ("" if status == 0 else found.lost)
    if status == 0:
        assert marks(world) == []


def test_what_cannot_be_compared_is_not_kept_by_default(world):
    crash = "import cdp, os; v = cdp.open('web'); v.pwrite(b'1' * 512, 0); v.flush(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", crash], cwd=world.path, env=environ(), check=False).returncode == 9
    (world.path / "web" / "disk.sums").unlink()
    found = look(str(world.path / "web"))
    assert found.may_keep and not found.compared
    status, said = adopt(world, b"\n")
    assert status == 130 and "only you know" in said and "[nothing]" in said
    assert "#2" in world.cdp("records", "web")


def test_without_a_terminal_it_does_not_ask(world):
    os.utime(world.path / "web.img", (1, 1))
    done = subprocess.run(cdp_argv("adopt", "web"), cwd=world.path, env=environ(), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "a new history would delete the records up to #" in done.stderr
