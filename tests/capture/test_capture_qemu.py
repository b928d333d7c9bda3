"""`cdp capture --log` on the log of a real QEMU that is being written: mkfs.ext4 and copies of files through NBD, the
capture killed with SIGKILL in the middle again and again. Each flush of the source is a moment of the volume, as an
independent replay of the log has it."""
import json
import os
import signal
import struct
import subprocess
import time

import pytest
from support.interop import PATH, cdp_argv, environ, need, run, wait

import cdp
from cdp.check import check
from cdp.service.serving_file import read_serving

pytestmark = pytest.mark.interop

SETTLE = "100ms"
DISK_BYTES = 24 << 20


def replayed(log):
    """What the format says that the log means, independently of our parser: the changes (kind, offset, length), and
    (changes so far, disk) at each flush and at the end."""
    data = log.read_bytes()
    _, _, entries, size = struct.unpack_from("<QQQI", data)
    disk, at, changes, flushes = bytearray(DISK_BYTES), size, [], []
    for _ in range(entries):
        sector, sectors, flags, _ = struct.unpack_from("<QQQQ", data, at)
        at += size
        start, length = sector * size, sectors * size
        if flags & 1:  # a flush comes before the data of its entry
            flushes.append((len(changes), bytes(disk)))
        if length:
            changes.append((3 if flags & 4 else 1, start, length))
            disk[start:start + length] = bytes(length) if flags & 4 else data[at:at + length]
            at += 0 if flags & 4 else length
    return changes, [*flushes, (len(changes), bytes(disk))]


class Source:
    """A disk of QEMU whose writes are logged, through a file that is NBD inside (nbdfuse)."""

    def __init__(self, folder, sector=512, interval=16):
        self.folder = folder
        self.disk, self.log, self.socket, self.mount = (folder / n for n in ("disk", "w.log", "qemu", "mnt"))
        self.disk.touch()
        os.truncate(self.disk, DISK_BYTES)
        self.log.touch()
        self.mount.mkdir()
        self.server = subprocess.Popen(
            ["qemu-nbd", "-k", self.socket, "-t", "--discard=unmap", "--image-opts",
             (f"driver=blklogwrites,file.driver=raw,file.file.driver=file,file.file.filename={self.disk},"
              f"file.discard=unmap,log.driver=file,log.filename={self.log},log-sector-size={sector},"
              f"log-super-update-interval={interval}")])
        wait(self.socket.exists, self.server)
        # debugfs writes single bytes of the super block; QEMU's log takes sectors.
        aligned = ["nbdkit", "-s", "--exit-with-parent", "--filter=blocksize", "nbd", f"socket={self.socket}",
                   "minblock=4096"]
        self.fuse = subprocess.Popen(["nbdfuse", self.mount / "nbd", "--command", *aligned])
        wait((self.mount / "nbd").exists, self.fuse)

    def mkfs(self):
        run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", self.mount / "nbd")

    def copy(self, n):
        """A file into the file system, and a flush."""
        (self.folder / f"file{n}").write_bytes(os.urandom(7000 * (n + 1)))
        run("debugfs", "-w", "-R", f"write {self.folder}/file{n} file{n}", self.mount / "nbd")
        fd = os.open(self.mount / "nbd", os.O_RDWR)
        os.fsync(fd)
        os.close(fd)

    def unmount(self):
        """qemu-nbd has one client at a time."""
        self.fuse.terminate()
        self.fuse.wait(30)

    def close(self):
        self.unmount()
        self.server.terminate()
        self.server.wait(30)


class Capture:
    """A `cdp capture` of the log into `web`."""

    def __init__(self, folder, log, *args):
        env = environ() | {"XDG_RUNTIME_DIR": str(folder), "PATH": PATH}
        self.errors = open(folder / "capture.log", "a+b")  # noqa: SIM115  (closed in end)
        begun = self.errors.seek(0, os.SEEK_END)
        self.process = subprocess.Popen(cdp_argv("capture", folder / "web", "--log", log, "--settle", SETTLE, *args),
                                        env=env, stdout=subprocess.DEVNULL, stderr=self.errors)

        def ready():
            self.errors.seek(begun)
            return b"cdp: ready" in self.errors.read()

        wait(ready, self.process)

    def end(self, number):
        self.process.send_signal(number)
        status = self.process.wait(60)
        self.errors.close()
        return status


@pytest.fixture
def folder(tmp_path, monkeypatch):
    need("qemu-nbd", "qemu-io", "nbdkit", "nbdfuse", "mke2fs", "debugfs")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    cdp.create(tmp_path / "web", size=DISK_BYTES).close()
    return tmp_path


def test_killed_while_an_ext4_is_made_and_filled(folder):
    source = Source(folder)
    try:
        capture, kills, taken = Capture(folder, source.log), 0, []
        source.mkfs()
        for n in range(6):
            source.copy(n)
            if n % 2 == 0:
                time.sleep(0.25)
                assert capture.end(signal.SIGKILL) == -signal.SIGKILL
                kills += 1
                with cdp.open(folder / "web") as volume:
                    taken.append(volume.window().newest.seq)
                source.copy(10 + n)  # meanwhile the log is the queue
                capture = Capture(folder, source.log)
        time.sleep(0.3)
        told = json.loads(run(*cdp_argv("capture", folder / "web", "--status", "--json")).stdout)
        assert told["running"] and told["kind"] == "log" and told["entries"] + told["behind_entries"] >= taken[-1]
        assert run(*cdp_argv("bookmark", folder / "web", "half-way")).stdout
        assert "so it cannot be restored; 'cdp image create'" in run(*cdp_argv("restore", folder / "web@half-way"),
                                                                     status=7).stderr
        run(*cdp_argv("image", "create", folder / "web@half-way", "trial"))
        run("qemu-io", "-f", "raw", "-r", "-c", "read 0 4k", f"nbd+unix:///web@half-way?socket={folder}/cdp/web.sock")
        source.unmount()
        run("qemu-io", "-f", "raw", f"nbd+unix:///?socket={source.socket}", "-c", "discard 1M 64k", "-c", "flush", "-c",
            "write -z 20M 32k", "-c", "write -f -P 9 8k 4k", "-c", "write -P 3 12M 9M", "-c", "flush")
    finally:
        source.close()
    time.sleep(0.5)
    assert capture.end(signal.SIGTERM) == 0
    assert read_serving(folder / "web") is None
    run(*cdp_argv("capture", folder / "web", "--log", source.log, "--once", "--settle", SETTLE))
    changes, flushes = replayed(source.log)
    with cdp.open(folder / "web") as volume:
        assert volume.pread(DISK_BYTES, 0) == source.disk.read_bytes() == flushes[-1][1]
        records = volume.records()
        records = records[records["kind"] <= 3]
        assert records[["kind", "offset", "length"]].tolist() == changes
        for n, state in flushes:
            seq = int(records["seq"][n - 1]) if n else 0
            with volume.at(seq) as image:
                assert image.pread(DISK_BYTES, 0) == state, f"#{seq}, after change {n}"
        assert len(flushes) > 12 and kills == 3 and taken == sorted(taken) and taken[0] < taken[-1] < len(changes)
        with volume.open_image("trial") as trial, volume.at("half-way") as image:
            assert trial.pread(DISK_BYTES, 0) == image.pread(DISK_BYTES, 0)
    assert check.check(folder / "web").ok
