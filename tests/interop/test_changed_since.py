"""What was written since a moment, over NBD, from cdp serve and cdp ha serve: seen by libnbd and QEMU, compared with
Volume.diff(), and used by both to take an increment, which is put together elsewhere."""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
from support.interop import cdp_argv, run

import cdp
from cdp.nbd.client import Client

pytestmark = pytest.mark.interop
SIZE = 4 << 20


class Served:
    def __init__(self, folder, *command):
        self.path, self.socket, self.admin = folder / "web", folder / "s", folder / "a"
        argv = cdp_argv(*command, self.path, "--unix", self.socket, "--admin-socket", self.admin,
                        *(["--control", folder / "ha"] if "ha" in command else []))
        self.server = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        while self.server.stderr.readline() != "cdp: ready\n":
            assert self.server.poll() is None

    def uri(self, name="web"):
        return f"nbd+unix:///{name}?socket={self.socket}"

    def cdp(self, *args):
        return run(*cdp_argv(*args)).stdout

    def ha(self):
        return json.loads(self.cdp("ha", "status", "--control", self.path.parent / "ha", "--json"))

    def written(self, a, b=None):
        """[(offset, length)] by 'cdp diff --written', ranges that touch joined."""
        found = []
        second = str(self.path) if b is None else f"{self.path}@{b}"
        for line in self.cdp("diff", f"{self.path}@{a}", second, "--written", "--json").splitlines():
            row = json.loads(line)
            if found and sum(found[-1]) == row["offset"]:
                found[-1] = (found[-1][0], found[-1][1] + row["length"])
            else:
                found.append((row["offset"], row["length"]))
        return found

    def close(self):
        self.server.terminate()
        self.server.communicate(timeout=60)


COMMANDS = {"serve": ("serve",), "ha": ("ha", "serve")}


@pytest.fixture
def how():
    return "serve"


@pytest.fixture
def web(tmp_path, how):
    rnd = random.Random(7)
    with cdp.create(tmp_path / "web", size=SIZE) as volume:
        for n in range(40):
            at = rnd.randrange(SIZE // 4096 - 16) * 4096
            volume.pwrite(rnd.randbytes(4096 * rnd.randint(1, 8)), at)
            if n == 25:
                volume.bookmark("mon")
        volume.trim(65536, 1 << 20)
        volume.bookmark("tue")
        volume.pwrite(b"later" * 100, SIZE - 4096)
        volume.restore("mon", offset=0, length=65536)
        volume.create_image("copy", at="mon")
        with volume.open_image("copy") as image:
            image.bookmark("start")
            image.pwrite(b"image" * 200, 8192)
    served = Served(tmp_path, *COMMANDS[how])
    try:
        yield served
    finally:
        served.close()


def nbdinfo(uri, context):
    if not shutil.which("nbdinfo"):
        pytest.skip("no nbdinfo")
    rows = json.loads(run("nbdinfo", "--json", f"--map={context}", uri).stdout)
    assert sum(row["length"] for row in rows) == SIZE
    return [(row["offset"], row["length"]) for row in rows if row["type"] == 1]


@pytest.mark.parametrize("how", COMMANDS)
def test_libnbd_sees_what_was_written(web, how):
    assert nbdinfo(web.uri(), "qemu:dirty-bitmap:mon") == web.written("mon") != []
    assert nbdinfo(web.uri(), "cdp:since:#1") == web.written("#1")
    assert nbdinfo(web.uri("web@tue"), "qemu:dirty-bitmap:mon") == web.written("mon", "tue")
    assert nbdinfo(web.uri("web/copy"), "qemu:dirty-bitmap:start") == [(8192, 1024)]
    listed = json.loads(run("nbdinfo", "--json", web.uri()).stdout)["exports"][0]["contexts"]
    assert listed == ["base:allocation", "qemu:dirty-bitmap:mon", "qemu:dirty-bitmap:tue"]
    # It follows writes and restores that come while a client is connected.
    with Client(web.uri()) as disk:
        disk.pwrite(b"now", 3 << 20)
        disk.flush()
    assert nbdinfo(web.uri(), "qemu:dirty-bitmap:mon") == web.written("mon")
    web.cdp("restore", f"{web.path}@mon")
    assert nbdinfo(web.uri(), "qemu:dirty-bitmap:mon") == []


@pytest.mark.parametrize("how", COMMANDS)
def test_qemu_takes_an_increment(web, tmp_path, how):
    if not shutil.which("qemu-img"):
        pytest.skip("no qemu-img")
    run("qemu-img", "convert", "-O", "raw", web.uri("web@mon"), tmp_path / "backup")
    options = (f"driver=nbd,server.type=unix,server.path={web.socket},export=web@tue,"
               "x-dirty-bitmap=qemu:dirty-bitmap:mon")
    dirty = json.loads(run("qemu-img", "map", "--output=json", "--image-opts", options).stdout)
    # In its dialect a dirty range is one without data.
    ranges = [(row["start"], row["length"]) for row in dirty if not row["data"]]
    assert ranges == web.written("mon", "tue")
    with Client(web.uri("web@tue")) as disk, open(tmp_path / "backup", "r+b") as backup:
        for offset, length in ranges:
            backup.seek(offset)
            backup.write(disk.pread(length, offset))
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", tmp_path / "backup", web.uri("web@tue"))


@pytest.mark.parametrize("how", COMMANDS)
def test_several_at_once_and_a_new_server(web, how):
    """Raw: a reply has a chunk for each context; what is not known is left out; a replaced server goes on, and so does
    the process that takes over from one that was killed."""
    script = """
import nbd, sys
h = nbd.NBD()
for name in sys.argv[2].split(","):
    h.add_meta_context(name)
h.connect_uri(sys.argv[1])
def look():
    found = {}
    def extent(context, offset, entries, error):
        found.setdefault(context, []).extend(entries)
    h.block_status(1 << 20, 0, extent)
    return found
a = look()
print([h.can_meta_context(name) for name in sys.argv[2].split(",")], sorted(a), flush=True)
sys.stdin.readline()
assert look() == a
h.shutdown()
print("same")
"""
    python = next((p for p in (sys.executable, "/usr/bin/python3") if subprocess.run(
        [p, "-c", "import nbd"], check=False, capture_output=True).returncode == 0), None)
    if python is None:
        pytest.skip("no module nbd")
    names = ["base:allocation", "qemu:dirty-bitmap:none", "cdp:since:#3", "qemu:dirty-bitmap:tue", "cdp:since:#999999"]
    client = subprocess.Popen([python, "-c", script, web.uri(), ",".join(names)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline().strip() == str([True, False, True, True, False]) + " " + str(
        ["base:allocation", "cdp:since:#3", "qemu:dirty-bitmap:tue"])
    if how == "ha":
        owner = next(one["pid"] for one in web.ha()["processes"] if one["state"] == "active")
        os.kill(owner, signal.SIGKILL)
        assert client.communicate("\n", timeout=60)[0].strip() == "same" and client.returncode == 0
        assert len(web.ha()["failovers"]) == 1
        return
    new = subprocess.Popen(cdp_argv("serve", web.path, "--replace"), stderr=subprocess.PIPE, text=True)
    try:
        while new.stderr.readline() != "cdp: ready\n":
            assert new.poll() is None
        assert client.communicate("\n", timeout=60)[0].strip() == "same" and client.returncode == 0
    finally:
        new.terminate()
        new.communicate(timeout=60)
