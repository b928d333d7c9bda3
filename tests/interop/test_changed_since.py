"""What was written since a moment, over NBD, from cdp serve and cdp ha serve: seen by libnbd and QEMU, compared with
Volume.diff(), and used by both to take an increment, which is put together elsewhere."""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
from support.interop import cdp_argv, run

import cdp
from cdp.nbd.client import Client, unix_address

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


COPY = """
import nbd, sys
uri, copy, context = sys.argv[1:]
h = nbd.NBD()
h.add_meta_context(context)
h.connect_uri(uri)
taken = at = 0
with open(copy, "r+b") as out:
    while at < h.get_size():
        found = []
        h.block_status(h.get_size() - at, at, lambda name, offset, entries, error: found.extend(entries))
        for length, dirty in zip(found[::2], found[1::2]):
            if dirty:
                out.seek(at)
                out.write(h.pread(length, at))
                taken += length
            at += length
h.shutdown()
print(taken)
"""


@pytest.mark.parametrize("how", COMMANDS)
def test_libnbd_takes_an_increment(web, tmp_path, how):
    """Into a copy of the bookmark elsewhere: what it reads is what was written, and the copy is the later moment."""
    python = with_libnbd()
    for name in ("mon", "tue"):
        with Client(web.uri(f"web@{name}")) as disk:
            (tmp_path / name).write_bytes(disk.pread(SIZE, 0))
    taken = run(python, "-c", COPY, web.uri("web@tue"), tmp_path / "mon", "qemu:dirty-bitmap:mon").stdout
    assert int(taken) == sum(length for _, length in web.written("mon", "tue")) < SIZE // 2
    assert (tmp_path / "mon").read_bytes() == (tmp_path / "tue").read_bytes()


class Qmp:
    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rw")
        self.until("QMP")
        self("qmp_capabilities")

    def until(self, key, value=None):
        for line in self._file:
            got = json.loads(line)
            assert "error" not in got, got
            if key in got and value in (None, got[key]):
                return got
        raise AssertionError(f"no {key} {value or ''}")

    def __call__(self, command, **arguments):
        self._file.write(json.dumps({"execute": command, "arguments": arguments}))
        self._file.flush()
        self.until("return")

    def close(self):
        self._file.close()
        self._socket.close()


@pytest.mark.parametrize("how", COMMANDS)
def test_a_block_job_puts_an_increment_into_a_backup(web, tmp_path, how):
    """What qemu-img reads of the bitmap goes into a qcow2 file on top of a full backup, both in QEMU's storage daemon,
    whose job then commits one into the other."""
    if not shutil.which("qemu-storage-daemon") or not shutil.which("qemu-img"):
        pytest.skip("needs qemu-storage-daemon and qemu-img")
    full, increment = tmp_path / "full.qcow2", tmp_path / "increment.qcow2"
    run("qemu-img", "convert", "-O", "qcow2", web.uri("web@mon"), full)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", full, "-F", "qcow2", increment)
    options = (f"driver=nbd,server.type=unix,server.path={web.socket},export=web@tue,"
               "x-dirty-bitmap=qemu:dirty-bitmap:mon")
    dirty = json.loads(run("qemu-img", "map", "--output=json", "--image-opts", options).stdout)
    with tempfile.TemporaryDirectory(prefix="cdp-q") as sockets:
        argv = ["qemu-storage-daemon", "--chardev", f"socket,id=c,path={sockets}/qmp,server=on,wait=off", "--monitor",
                "chardev=c", "--nbd-server", f"addr.type=unix,addr.path={sockets}/nbd"]
        for name, path, more in ("full", full, ""), ("increment", increment, ",backing=full"):
            argv += ["--blockdev", f"driver=file,node-name={name}-file,filename={path}",
                     "--blockdev", f"driver=qcow2,node-name={name},file={name}-file{more}"]
        argv += ["--export", "type=nbd,id=e,node-name=increment,name=increment,writable=on"]
        with subprocess.Popen(argv) as daemon:
            try:
                until_s = time.monotonic() + 60
                while not os.path.exists(f"{sockets}/nbd"):
                    assert daemon.poll() is None and time.monotonic() < until_s
                    time.sleep(0.02)
                with Client(web.uri("web@tue")) as disk, Client(unix_address(f"{sockets}/nbd", "increment")) as out:
                    for row in dirty:
                        if not row["data"]:
                            out.pwrite(disk.pread(row["length"], row["start"]), row["start"])
                    out.flush()
                qmp = Qmp(f"{sockets}/qmp")
                qmp("block-export-del", id="e", mode="hard")
                qmp("block-commit", **{"job-id": "j", "device": "increment"})
                qmp.until("event", "BLOCK_JOB_READY")
                qmp("block-job-complete", device="j")
                qmp.until("event", "BLOCK_JOB_COMPLETED")
                qmp("quit")
                qmp.close()
                assert daemon.wait(60) == 0
            finally:
                daemon.kill()
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", full, web.uri("web@tue"))


def with_libnbd():
    python = next((p for p in (sys.executable, "/usr/bin/python3") if subprocess.run(
        [p, "-c", "import nbd"], check=False, capture_output=True).returncode == 0), None)
    if python is None:
        pytest.skip("needs Debian's python3-libnbd")
    return python


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
    python = with_libnbd()
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
