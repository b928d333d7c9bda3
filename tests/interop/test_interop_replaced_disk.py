"""The disk of a served volume is replaced while fio writes to it and verifies: no flush that begins after that is
acknowledged, and what was acknowledged is on the disk that the path named then. What is refused leaves fio alone."""
import json
import os
import shutil
import subprocess
import threading
import time

import pytest
from support.interop import MIB, cdp_argv, environ, need, run, wait, world  # noqa: F401

from cdp.nbd import client
from cdpcore.base.errors import CdpError

pytestmark = pytest.mark.interop
SIZE_MIB = 16
COUNTER = 12 * MIB      # fio has the first 8 MiB


def another(disk):
    beside = disk.with_name("beside")
    beside.write_bytes(bytes(SIZE_MIB * MIB))
    return beside


REPLACED = {
    "mv": lambda disk: disk.rename(disk.with_name("away")),
    "rm": lambda disk: disk.unlink(),
    "mv over it": lambda disk: another(disk).rename(disk),
    "cp --remove-destination": lambda disk: run("cp", "--remove-destination", another(disk), disk),
    "mv away, another in": lambda disk: (disk.rename(disk.with_name("away")), another(disk).rename(disk)),
    "a link to another": lambda disk: (another(disk), disk.unlink(), disk.symlink_to("beside")),
    "a folder": lambda disk: (disk.unlink(), disk.mkdir()),
    "mv of its folder": lambda disk: disk.parent.rename(disk.parent.with_name("elsewhere")),
    "truncate": lambda disk: os.truncate(disk, MIB),
    "cp of a shorter one": lambda disk: shutil.copyfile(os.devnull, disk),
}


@pytest.fixture
def served(world):  # noqa: F811
    """A served volume `blk`, which protects disks/disk.img."""
    need("fio")
    (world.path / "disks").mkdir()
    with (world.path / "disks/disk.img").open("wb") as file:
        file.truncate(SIZE_MIB * MIB)
    world.cdp("create", "blk", "--mode", "before", "--base", "disks/disk.img")
    world.serve("blk")
    return world


def start_fio(world, *options):  # noqa: F811
    argv = ["fio", "--name=x", "--ioengine=nbd", f"--uri={world.uri('blk')}", "--rw=randwrite", "--bs=4k",
            "--iodepth=8", "--size=8M", "--verify=crc32c", "--verify_fatal=1", "--fsync=4",
            "--output-format=json", *options]
    return subprocess.Popen(argv, cwd=world.path, env=environ(), text=True, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


class Flusher(threading.Thread):
    """Writes 1, 2, ... to one place and flushes each, until that fails: `acknowledged` (number, when it was begun)."""

    def __init__(self, uri):
        super().__init__()
        self.client = client.Client(uri)
        self.acknowledged, self.error = [], None

    def run(self):
        with self.client as client:
            for number in range(1, 1 << 30):
                begun_s = time.monotonic()
                try:
                    client.pwrite(number.to_bytes(8, "little") * 64, COUNTER)
                    client.flush()
                except (CdpError, OSError) as error:
                    self.error = error
                    return
                self.acknowledged.append((number, begun_s))


@pytest.mark.parametrize("how", REPLACED)
def test_no_flush_is_acknowledged_any_more(served, how):
    disk = served.path / "disks/disk.img"
    kept = disk.with_name("kept")
    os.link(disk, kept)     # what the path named
    fio = start_fio(served, "--time_based", "--runtime=60")
    flusher = Flusher(served.uri("blk"))
    flusher.start()
    try:
        time.sleep(1)       # fio writes by then
        wait(lambda: len(flusher.acknowledged) > 5, fio)
        REPLACED[how](disk)
        replaced_s = time.monotonic()
        flusher.join(10)
        assert flusher.error is not None, "the server goes on"
        late = [number for number, begun_s in flusher.acknowledged if begun_s > replaced_s]
        assert late == [], f"{len(late)} flushes acknowledged, the first of them {late[0]}"
        assert fio.wait(20) != 0        # it cannot flush either
    finally:
        fio.kill()
        fio.communicate()
    if how not in ("truncate", "cp of a shorter one"):
        if how == "mv of its folder":
            kept = served.path / "elsewhere/kept"
        with kept.open("rb") as file:
            file.seek(COUNTER)
            assert int.from_bytes(file.read(8), "little") >= flusher.acknowledged[-1][0]
    wait(lambda: f"{disk}: the disk of this open volume was" in served.log.read_text(), served.server)


def test_what_is_refused_disturbs_nobody(served):
    """Every writer of files, by every name of the disk, while fio runs; then it verifies all."""
    disks = served.path / "disks"
    (disks / "link.img").symlink_to("disk.img")
    os.link(disks / "disk.img", disks / "hard.img")
    (served.path / "t.csv").write_text("128166372003061629,hm,0,Write,1048576,32768,0\n")
    served.cdp("bookmark", "blk", "a")
    inode = (disks / "disk.img").stat().st_ino
    fio = start_fio(served, "--time_based", "--runtime=8", "--rate_iops=1000", "--do_verify=1")
    for out in ("disks/disk.img", "disks/link.img", "disks/hard.img"):
        for args in (("export", "blk@a", out, "--force"), ("trace", "convert", "t.csv", out, "--force"),
                     ("trace", "info", "t.csv", "--plot", out)):
            done = run(*cdp_argv(*args), cwd=served.path, status=None)
            assert done.returncode in (2, 7), (args, done)
    done = run(*cdp_argv("create", "second", "--mode", "before", "--base", "disks/hard.img"), cwd=served.path, status=7)
    assert "has this disk open" in done.stderr
    said = fio.communicate(timeout=120)[0]
    assert fio.returncode == 0 and json.loads(said[said.index("{"):])["jobs"][0]["error"] == 0, said[:2000]
    assert (disks / "disk.img").stat().st_ino == inode
    served.stop()
    assert served.json("check", "blk")["ok"]
    run("fio", "--name=x", "--filename=disks/disk.img", "--rw=randwrite", "--bs=4k", "--size=8M", "--verify=crc32c",
        "--verify_only", cwd=served.path)
