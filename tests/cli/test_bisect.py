"""bisect: the search against brute force, and the command on volumes, served and not, with commands that exit in every
way."""
import hashlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from support.interop import Started, cdp_here

import cdp
from cdp.cli import cli, exits
from cdp.moments.bisection import BAD, GOOD, SKIP, search

CLI = [sys.executable, "-m", "cdp"]
SIZE = 1 << 20
# Good while byte 4096 of the image is not "b"; it writes to the image, which nobody else must see.
CHECK = """
import sys
from cdp.nbd.client import Client
with Client(sys.argv[1]) as disk:
    found = disk.pread(1, 4096)
    disk.pwrite(b"bbbbb", 4096)
sys.exit({b"b": 7, b"?": 125, b"!": 126}.get(found, 0))
"""


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_the_search(jobs):
    rnd = random.Random(jobs)
    for n in [*range(9), *(rnd.randrange(1, 3000) for _ in range(40))]:
        first_bad = rnd.randrange(n + 1)
        skipped = {i for i in range(n) if rnd.random() < rnd.choice((0, 0.1, 0.9))}
        asked, calls = [], 0

        def probe(wanted, first_bad=first_bad, skipped=skipped, asked=asked):
            nonlocal calls
            calls += 1
            assert 0 < len(wanted) <= jobs and not set(wanted) & set(asked)
            asked.extend(wanted)
            return [SKIP if i in skipped else BAD if i >= first_bad else GOOD for i in wanted]

        found = search(n, probe, jobs)
        known = [i for i in range(n) if i not in skipped]
        assert found.good == max((i for i in known if i < first_bad), default=-1)
        assert found.bad == min((i for i in known if i >= first_bad), default=n)
        if not skipped:
            assert calls <= math.ceil(math.log(n + 1, jobs + 1)) + 1


REFUSED = [
    (("#1", "#1", "--", "true"), exits.USAGE, "exchange the two"),
    (("#1", "now", "--", "true"), exits.USAGE, "is good, and was given as bad"),
    (("#1", "now", "--", "false"), exits.USAGE, "is bad, and was given as good"),
    (("#1", "now", "--", "sh", "-c", "exit 126"), exits.UNAVAILABLE, "exit status 126"),
    (("#1", "now", "--", "./none"), exits.USAGE, "give a command that can be run"),
    (("#1", "now"), exits.USAGE, "one of: a command"), (("#1", "now", "--file", "x"), exits.USAGE, "go together")]


def run(*args, status=exits.OK, env=None):
    result = subprocess.run([*CLI, *map(str, args)], check=False, capture_output=True, text=True, timeout=300,
                            stdin=subprocess.DEVNULL, env=env)
    assert result.returncode == status, result
    return result


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """Good up to #25, bad from #26 on: the write, not the flush after it."""
    path = tmp_path_factory.mktemp("bisect") / "web"
    check = path.parent / "check.py"
    check.write_text(CHECK)
    with cdp.create(path, size=SIZE) as volume:
        for n in range(40):
            if n % 3 == 2:
                volume.flush()
            else:
                volume.pwrite(b"b" if n == 25 else b"x", 4096 if n == 25 else 8192)
    return path


@contextmanager
def serving(path):
    """A bisection of a volume that nobody serves starts a server of its own, which takes longer than all else."""
    with Started([*CLI, "serve", str(path), "--unix", str(path.parent / "s"), "--admin-socket", str(path.parent / "a")],
                 stderr=subprocess.PIPE, text=True) as server:
        while server.stderr.readline() != "cdp: ready\n":
            assert server.poll() is None
        yield
        server.terminate()
        server.communicate(timeout=60)


def test_first_bad_record(web):
    check = web.parent / "check.py"
    found = json.loads(run("bisect", web, "#1", "now", "--json", "--", sys.executable, check, "{uri}").stdout)
    assert (found["good"]["seq"], found["bad"]["seq"], found["unknown"]) == (25, 26, [])
    assert found["bookmarks"] == ["bisect-25-good", "bisect-26-bad"] and len(found["probes"]) <= 8
    with cdp.open(web) as volume:
        assert volume.images() == [] and {b.name for b in volume.bookmarks()} == set(found["bookmarks"])
        assert volume.pread(1, 4096) == b"b"        # and no probe wrote to the volume


def test_the_command_gets_the_environment_of_the_user(web, tmp_path):
    """Not what the command line sets for itself."""
    out, name = tmp_path / "out", "OPENBLAS_NUM_THREADS"
    ours = {key: value for key, value in os.environ.items() if key != name}
    command = ("sh", "-c", f'echo "${{{name}-none}}" >> {out}; test $CDP_SEQ -lt 20')
    with serving(web):
        run("bisect", web, "#1", "now", "--flushes", "--name", "e1", "--", *command, env=ours)
        assert set(out.read_text().split()) == {"none"}
        out.unlink()
        run("bisect", web, "#1", "now", "--flushes", "--name", "e2", "--", *command, env={**ours, name: "3"})
    assert set(out.read_text().split()) == {"3"}


def test_served(web):
    """In parallel, flushes only; and everything that is refused."""
    check = web.parent / "check.py"
    with serving(web):
        said = cdp_here("bisect", web, "#1", "now", "--jobs", "3", "--flushes", "--name", "f", "--", "sh", "-c",
                        f"{sys.executable} {check} $CDP_URI")
        assert "good up to #24" in said and "bad from #27" in said and "f-24-good" in said
        marks = json.loads(cdp_here("bookmarks", web, "--json"))
        for args, status, says in REFUSED:
            result = CliRunner().invoke(cli, ["bisect", str(web), *args], prog_name="cdp")
            assert result.exit_code == status and says in result.stderr, args
        assert json.loads(cdp_here("image", "list", web, "--json")) == []
        assert json.loads(cdp_here("bookmarks", web, "--json")) == marks


@pytest.mark.skipif(not all(map(shutil.which, ("mkfs.ext4", "debugfs", "nbdcopy", "e2fsck"))),
                    reason="e2fsprogs and libnbd are needed")
def test_a_file_of_a_file_system(tmp_path):
    disk, text = tmp_path / "disk", tmp_path / "text"
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(disk), "4M"], check=True)
    text.write_bytes(b"right\n" * 1000)
    sha256 = hashlib.sha256(text.read_bytes()).hexdigest()
    subprocess.run(["debugfs", "-w", "-R", f"write {text} text", str(disk)], check=True, capture_output=True)
    right = disk.read_bytes()
    place = right.index(b"right\n" * 100)
    with cdp.create(tmp_path / "v", size=4 << 20) as volume:
        volume.pwrite(right, 0)
        volume.pwrite(b"free" * 128, 3 << 20)
        volume.pwrite(b"wrong", place)              # 3
        volume.pwrite(b"\xff" * 64, 1024 + 0x60)    # 4: the superblock
        volume.flush()
    with serving(tmp_path / "v"):
        found = json.loads(run("bisect", tmp_path / "v", "#1", "#4", "--file", "/text", "--sha256", sha256,
                               "--json").stdout)
        assert (found["good"]["seq"], found["bad"]["seq"]) == (2, 3)
        found = json.loads(run("bisect", tmp_path / "v", "#2", "#5", "--fsck", "--json").stdout)
    assert found["bad"]["seq"] == 4
