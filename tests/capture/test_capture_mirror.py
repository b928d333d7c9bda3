"""`cdp capture --mirror` as the target of QEMU's blockdev-mirror and of nbdcopy: which moments are whole, and that they
are."""
import json
import os
import signal
import socket
import subprocess
import time

import pytest
from support.interop import cdp_argv, cdp_here, environ, need, run, wait

import cdp
from cdp.capture import position as positions

pytestmark = pytest.mark.interop

MIB = 1 << 20
SIZE = 16 * MIB


class Daemon:
    """A qemu-storage-daemon with a raw disk `src.img`, exported as `src`, and its QMP."""

    def __init__(self, folder):
        self.folder = folder
        self.events = []
        self.process = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"driver=file,filename={folder}/src.img,node-name=file", "--blockdev",
             "driver=raw,file=file,node-name=src", "--nbd-server", f"addr.type=unix,addr.path={folder}/qsd", "--export",
             "type=nbd,id=export,node-name=src,name=src,writable=on", "--chardev",
             f"socket,path={folder}/qmp,server=on,wait=off,id=qmp", "--monitor", "chardev=qmp"])
        wait(lambda: (folder / "qmp").exists() and (folder / "qsd").exists(), self.process)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(folder / "qmp"))
        # Not one file "rw" for both ways: its write() drops the lines that were read ahead, events among them.
        self.lines = self.sock.makefile("r")
        self.lines.readline()
        self.do("qmp_capabilities")

    def do(self, command, **arguments):
        self.sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while "event" in (got := json.loads(self.lines.readline())):
            self.events.append(got["event"])
        assert "return" in got, got
        return got["return"]

    def until(self, event):
        while event not in self.events:
            self.do("query-jobs")
            time.sleep(0.02)

    def mirror(self, mode):
        self.do("blockdev-add", driver="nbd",
                **{"node-name": "web", "server": {"type": "unix", "path": f"{self.folder}/mirror"}, "export": "web"})
        self.do("blockdev-mirror", device="src", target="web", sync="full", **{"job-id": "job", "copy-mode": mode})

    def io(self, *commands):
        run("qemu-io", "-f", "raw", f"nbd+unix:///src?socket={self.folder}/qsd",
            *(arg for c in commands for arg in ("-c", c)))

    def close(self):
        self.sock.close()
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With the volume `web`, its capture running on the socket `mirror`, and a disk src.img half full."""
    need("qemu-storage-daemon", "qemu-io", "nbdcopy")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    cdp.create(tmp_path / "web", size=SIZE).close()
    (tmp_path / "src.img").write_bytes(os.urandom(SIZE // 2))
    os.truncate(tmp_path / "src.img", SIZE)
    process = capture(tmp_path)
    yield tmp_path
    if process.poll() is None and (tmp_path / "web" / "serving.json").exists():     # else it is told, and ends
        process.terminate()
    assert process.wait(60) in (0, -signal.SIGKILL)


def capture(folder):
    (folder / "mirror").unlink(missing_ok=True)
    process = subprocess.Popen(cdp_argv("capture", folder / "web", "--mirror", "--unix", folder / "mirror"),
                               env=environ() | dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait(lambda: (folder / "web" / "serving.json").exists(), process)
    return process


def status(folder):
    return json.loads(cdp_here("capture", folder / "web", "--status", "--json"))


def told(folder, condition):
    """The status, as soon as it is so."""
    deadline = time.monotonic() + 20
    while not condition(got := status(folder)):
        assert time.monotonic() < deadline, got
        time.sleep(0.02)
    return got


def at(folder, point):
    cdp_here("export", f"{folder}/web@{point}", folder / "out.img", "--force")
    return (folder / "out.img").read_bytes()


def marks(folder):
    return {b["name"]: b["at"]["seq"] for b in json.loads(cdp_here("bookmarks", folder / "web", "--json"))}


def test_qemu_in_the_background(folder):
    assert status(folder)["note"] == "no client has written yet"
    before = (folder / "src.img").read_bytes()
    daemon = Daemon(folder)
    try:
        daemon.mirror("background")
        daemon.until("BLOCK_JOB_READY")
        first = told(folder, lambda s: s["synced"])
        assert (
            first["running"]
            and first["whole"] == first["synced"]
            and marks(folder) == {"mirror-synced": first["synced"]["seq"]}
        )
        assert at(folder, "mirror-synced") == before
        daemon.io("write -P 1 0 1M", "write -P 2 5M 64k", "discard 6M 1M", "flush", "write -P 3 0 4k")
        # a guest's flush is not passed on: it makes nothing whole
        told(folder, lambda s: s["note"].endswith("changed since"))
        assert status(folder)["whole"] == first["whole"]
        daemon.do("job-complete", id="job")
        daemon.until("BLOCK_JOB_COMPLETED")
        last = told(folder, lambda s: s["whole"] != first["whole"])
        assert last["note"] == f"whole at #{last['whole']['seq']}"
        assert at(folder, f"#{last['whole']['seq']}") == (folder / "src.img").read_bytes() != before
        assert at(folder, "mirror-synced") == before
    finally:
        daemon.close()


def test_qemu_write_blocking_every_moment_is_one_of_the_source(folder):
    daemon = Daemon(folder)
    try:
        daemon.mirror("write-blocking")
        daemon.until("BLOCK_JOB_READY")
        synced = told(folder, lambda s: s["synced"])["synced"]["seq"]
        disk = bytearray((folder / "src.img").read_bytes())
        writes = [(i, 65536 * ((i * 37) % 200), 4096 * (1 + i % 3)) for i in range(1, 40)]
        daemon.io(*(f"write -P {i} {offset} {length}" for i, offset, length in writes))
    finally:
        daemon.close()
    told(folder, lambda s: s["connections"] == 0)
    process = capture_end(folder)
    assert process["whole"]["seq"] > synced
    with cdp.open(folder / "web") as volume:
        assert volume.at("mirror-synced").pread(SIZE, 0) == disk
        changes = [r for r in volume.records(since=synced) if r["kind"] <= 3]
        assert [(int(r["offset"]), int(r["length"])) for r in changes] == [(offset, length)
                                                                           for _, offset, length in writes]
        for (i, offset, length), r in zip(writes, changes, strict=True):
            disk[offset:offset + length] = bytes([i]) * length
            with volume.at(int(r["seq"])) as image:
                assert image.pread(SIZE, 0) == disk


def capture_end(folder):
    """SIGTERM to the capture; its last word."""
    os.kill(json.loads((folder / "web" / "serving.json").read_text())["pid"], signal.SIGTERM)
    deadline = time.monotonic() + 30
    while (folder / "web" / "serving.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return status(folder)


def copy(folder, *args, status=0):
    return run("nbdcopy", *args, folder / "src.img", f"nbd+unix:///web?socket={folder}/mirror", status=status)


def test_nbdcopy_and_a_sync_that_broke_off(folder):
    copy(folder, "--flush")
    first = told(folder, lambda s: s["synced"])
    assert at(folder, "mirror-synced") == (folder / "src.img").read_bytes()
    image = (folder / "src.img").read_bytes()
    (folder / "src.img").write_bytes(image[::-1])
    # A copy that is cut off: what it wrote is in the history, and no moment of it is said to be whole.
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(folder / "mirror"))
        sock.recv(18)
        sock.sendall(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x03web")
        sock.recv(10, socket.MSG_WAITALL)
        sock.sendall(b"\x25\x60\x95\x13\0\0\0\x01cookie!!" + bytes(8) + (4096).to_bytes(4) + image[-4096:])
        assert sock.recv(16, socket.MSG_WAITALL)[:8] == b"\x67\x44\x66\x98\0\0\0\0"
    broken = told(folder, lambda s: s["note"].startswith("not whole"))
    assert broken["whole"] == first["whole"]
    copy(folder, "--flush")
    second = told(folder, lambda s: s["whole"] != first["whole"])
    assert marks(folder) == {"mirror-synced": first["synced"]["seq"], "mirror-synced-2": second["whole"]["seq"]}
    assert at(folder, "mirror-synced-2") == image[::-1] and at(folder, "mirror-synced") == image
    assert "cannot be written to" in run(*cdp_argv("import", folder / "src.img", folder / "web"), status=None).stderr
    # kill -9, and on: what was said to be whole is still said.
    os.kill(json.loads((folder / "web" / "serving.json").read_text())["pid"], signal.SIGKILL)
    told(folder, lambda s: not s["running"])
    kept = positions.load(str(folder / "web"))
    # (nbdcopy's connections are one session where they overlap, which they need not on a busy machine.)
    assert kept.sessions == kept.whole[-1][2] >= 3 and [seq for seq, _, _ in kept.whole] == [
        first["synced"]["seq"],
        second["whole"]["seq"],
    ]
    with cdp.open(folder / "web") as volume:
        assert volume.pread(SIZE, 0) == image[::-1]


def test_a_mirror_is_no_log(folder, tmp_path):
    told(folder, lambda s: s["running"])
    capture_end(folder)
    (tmp_path / "w.log").write_bytes(bytes(512))
    refused = run(*cdp_argv("capture", folder / "web", "--log", tmp_path / "w.log"), status=4).stderr
    assert "is a mirror of" in refused and "volume of its own" in refused
