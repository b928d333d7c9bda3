"""cdp shell and cdp bisect --mount with the kernel: the moment is mounted, what is written stays in a throw-away image,
and nothing stays, however it ends."""
import json
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.interop import MIB, cdp_argv, cdp_done, cdp_here, environ, need
from support.mounted import make, need_a_kernel

import cdp
from cdp.cli import exits

pytestmark = [pytest.mark.interop, pytest.mark.once]
SIZE = 24 * MIB


def need_mounts():
    need_a_kernel("nbdfuse", "mke2fs")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):     # pytest's own folder is made first
    """Where the mounts of this test are, and of no other."""
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder:
        os.chmod(folder, 0o711)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield folder


@pytest.fixture
def web(tmp_path):
    """#1: a file system with `text`; #2: its content is another."""
    need("mke2fs")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "text").write_bytes(b"first\n" * 1000)
    disk = make(tmp_path / "disk", SIZE, "-t", "ext4", "-d", str(tree)).read_bytes()
    with cdp.create(tmp_path / "web", size=SIZE) as volume:
        volume.pwrite(disk, 0)
        volume.pwrite(b"other\n" * 1000, disk.index(b"first\n" * 1000))
        volume.flush()
    return tmp_path / "web"


def traces(web):
    """What a shell could leave: mounts, loop devices, images, folders, servers."""
    loops = subprocess.run(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], env=environ(),
                           capture_output=True, text=True, check=False).stdout
    with cdp.open(web) as volume:       # no server has it
        images = volume.images()
    own = f"{tempfile.gettempdir()}/cdp-mount-"
    return ([line for line in Path("/proc/mounts").read_text().splitlines() if own in line],
            [line for line in loops.splitlines() if own in line], images)


def test_a_command_in_a_moment(web, tmp_path):
    need_mounts()
    before = traces(web)
    script = ("pwd; head -1 text; echo more >> text; sync; echo $CDP_SEQ; test $PWD = $CDP_DIR; "
              "test $0 = $CDP_DIR || exit 9; test -n \"$CDP_URI\"; sleep 1000 & exit 7")
    done = subprocess.run(cdp_argv("shell", f"{web}@#1", "--", "sh", "-c", script, "{dir}"), env=environ(),
                          capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 7, done
    folder, first, seq = done.stdout.splitlines()
    assert (first, seq) == ("first", "1") and not Path(folder).exists()
    assert traces(web) == before and before[2] == []
    with cdp.open(web) as volume, volume.at("#1") as image, image.files() as files:
        assert files.stat("text").size_bytes == 6000 and volume.window().newest.seq == 3


def test_nbd_only(web):
    need("nbdinfo")
    cdp_done("shell", f"{web}@#2", "--no-mount", "--", "sh", "-c",
             f"test -z \"$CDP_DIR\" && test $(nbdinfo --size $CDP_URI) = {SIZE}")
    cdp_done("shell", f"{web}@#2", "--no-mount", "--", "./none", status=exits.USAGE)
    cdp_done("shell", f"{web}@#2", "--no-mount", "--", "sh", "-c", "kill -9 $$", status=137)
    with cdp.open(web) as volume:
        assert volume.images() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.long)])
def test_ended_by_a_signal(web, tmp_path, number):
    need_mounts()
    before = traces(web)
    there = tmp_path / "there"
    # A shell that ignores SIGTERM, with a process of its own that has left its group.
    script = f"trap '' TERM; setsid sleep 999 & echo $! > {there}.tmp; mv {there}.tmp {there}; while :; do sleep 1; " \
        "done"
    process = subprocess.Popen(cdp_argv("shell", f"{web}@#1", "--", "sh", "-c", script), env=environ(),
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not there.exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(120) == exits.INTERRUPTED, process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    with suppress(FileNotFoundError):   # it may not be reaped yet
        assert Path(f"/proc/{there.read_text().strip()}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    assert traces(web) == before


def test_no_file_system(web):
    need_mounts()
    before = traces(web)
    done = cdp_done("shell", f"{web}@#0", "--", "true", status=exits.UNAVAILABLE)
    assert "mount:" in done.stderr
    assert traces(web) == before


def test_bisect_mounted(web):
    need_mounts()
    before = traces(web)
    found = json.loads(cdp_here("bisect", web, "#1", "now", "--mount", "--json", "--", "grep", "-q", "first",
                                "{dir}/text"))
    assert (found["good"]["seq"], found["bad"]["seq"]) == (1, 2)
    assert traces(web) == before


