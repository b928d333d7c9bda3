"""cdp list and cdp delete: which volumes are served, and the end of one."""
import os
import pty
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from support.interop import cdp_argv, cdp_done, environ, run, world  # noqa: F401

import cdp
from cdp.nbd.client import Client
from cdp.volume.deletion import delete

MIB = 1 << 20


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A runtime directory of the test's own, with a short path."""
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield folder


def listed(world):  # noqa: F811
    return world.json("list")


def test_list(world, runtime):  # noqa: F811
    assert listed(world) == [] and world.cdp("list") == "nothing is served\n"
    for name in ("web", "db", "third"):
        world.create(name, 1)
    world.serve("web", "db")        # its sockets are elsewhere
    other = subprocess.Popen(cdp_argv("ha", "serve", "third"), cwd=world.path, env=environ(), text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while "cdp: ready" not in (line := other.stderr.readline()):
            assert line
        until_s = time.monotonic() + 30
        while len(listed(world)) < 3:       # the daemon's administration begins after it serves
            assert time.monotonic() < until_s
        with Client(world.uri("web")), Client(world.uri("web@now")):
            found = listed(world)
        assert [(view["name"], view["state"], view["clients"], view["size_bytes"]) for view in found] == [
            ("db", "serving", 0, MIB), ("third", "serving", 0, MIB), ("web", "serving", 2, MIB)]
        assert found[2]["path"] == str(world.path / "web") and found[2]["pid"] == world.server.pid
        assert world.uri("web") in found[2]["uris"] and found[2]["admin_socket"].endswith("admin.sock")
        text = world.cdp("list")
        assert text.splitlines()[0].split() == ["VOLUME", "STATE", "PROCESS", "SIZE", "CLIENTS", "WHERE"]
        assert str(world.path / "db") in text
        world.server.send_signal(signal.SIGSTOP)
        while "\nState:\tT" not in Path(f"/proc/{world.server.pid}/status").read_text():
            time.sleep(0.01)        # it goes on for a moment, and could answer
        stuck = [view for view in listed(world) if view["state"] == "does not answer"]
        assert len(stuck) == 1 and stuck[0]["admin_socket"] == os.path.realpath(world.sockets / "admin.sock")
        world.server.send_signal(signal.SIGCONT)
    finally:
        other.terminate()
        other.communicate(timeout=60)
    world.kill()        # leaves a link to a socket where nobody listens
    assert listed(world) == []


def test_delete(world):  # noqa: F811
    world.create("web", 1)
    with cdp.open(world.path / "web") as volume:
        volume.pwrite(b"1" * 4096, 0)
        volume.bookmark("good")
    done = cdp_done("delete", "web", cwd=world.path, status=2)
    assert "the records up to #" in done.stderr and "the bookmarks good" in done.stderr and "--yes" in done.stderr
    assert "would lose the records" in world.cdp("delete", "web", "--dry-run")
    world.serve("web")
    done = cdp_done("delete", "web", "--yes", cwd=world.path, status=7)
    assert f"is served, by process {world.server.pid}" in done.stderr
    world.stop()
    with cdp.open(world.path / "web") as volume:
        run(*cdp_argv("delete", "web", "--yes"), cwd=world.path, status=7)
        volume.create_image("i")
    done = cdp_done("delete", "web", "--yes", cwd=world.path, status=4)
    assert "1 writable images show its history (i)" in done.stderr
    assert "cdp image delete web i" in cdp_done("delete", "web/i", "--yes", cwd=world.path, status=2).stderr
    world.cdp("image", "delete", "web", "i")
    (world.path / "web/notes.txt").write_text("mine")
    done = cdp_done("delete", "web", "--yes", cwd=world.path, status=2)
    assert "there is more in it than a volume: notes.txt" in done.stderr
    (world.path / "web/notes.txt").unlink()
    assert world.cdp("delete", "web", "--yes") == "web: deleted\n"
    assert not [p.name for p in world.path.iterdir() if p.name.startswith("web")]
    cdp_done("delete", "web", "--yes", cwd=world.path, status=3)


def test_a_protected_disk_stays(world):  # noqa: F811
    """With the current content, also after a kill and a restore that was not on it yet."""
    (world.path / "disk").write_bytes(b"0" * MIB)
    world.cdp("create", "web", "--mode", "before", "--base", "disk")
    world.serve("web")
    with Client(world.uri("web")) as client:
        client.pwrite(b"1" * 4096, 0)
        client.flush()
        client.pwrite(b"2" * 4096, 8192)
    world.kill()
    said = world.cdp("delete", "web", "--yes")
    assert f"{world.path / 'disk'} stays, a plain raw disk" in said
    data = (world.path / "disk").read_bytes()
    assert data[:8192] == b"1" * 4096 + b"0" * 4096 and data[12288:] == b"0" * (MIB - 12288)
    assert not (world.path / "web").exists()


def test_force_is_for_damage(world):  # noqa: F811
    (world.path / "disk").write_bytes(bytes(MIB))
    world.cdp("create", "web", "--mode", "before", "--base", "disk")
    with cdp.open(world.path / "web") as volume:
        volume.pwrite(b"1" * 4096, 0)
    (world.path / "disk").unlink()
    assert cdp_done("delete", "web", "--yes", cwd=world.path, status=None).returncode == 3
    assert (world.path / "web").exists()
    world.cdp("delete", "web", "--yes", "--force")
    assert not (world.path / "web").exists()


def test_a_deletion_that_was_killed(tmp_path):
    cdp.create(tmp_path / "web", size=MIB).close()
    (tmp_path / "web").rename(tmp_path / "web.deleted")
    cdp.create(tmp_path / "web", size=MIB).close()
    (tmp_path / "link").symlink_to("web")
    assert delete(tmp_path / "link") == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer, status", [(b"y\n", 0), (b"n\n", 130), (b"\n", 130)])
def test_it_asks(world, answer, status):  # noqa: F811
    world.create("web", 1)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(cdp_argv("delete", "web"), cwd=world.path, env=environ(), stdin=theirs,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    os.write(ours, answer)
    out, err = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == status, (out, err)
    assert "there is no undo" in err and (world.path / "web").exists() == (status != 0)
