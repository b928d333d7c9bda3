"""Write logs replayed with their own data: the disk at the end, and the volume's moment at every flush against an
independent replay."""

import json
import os
import shutil
import struct
import subprocess

import pytest
from click.testing import CliRunner
from support.interop import wait

import cdp
from cdp.cli import cli

pytestmark = pytest.mark.interop

DISK_BYTES = 24 << 20


def flushes_of(log):
    """(changes so far, disk) at each flush, and at the end: straight from the format's definition (super block, then
    entries of one sector each, and data). A write counts once for each 8 MiB, as replay issues it."""
    data = log.read_bytes()
    _, _, entries, size = struct.unpack_from("<QQQI", data)
    disk, at, changes = bytearray(DISK_BYTES), size, 0
    for _ in range(entries):
        sector, sectors, flags, _ = struct.unpack_from("<QQQQ", data, at)
        at += size
        if flags & 1:  # a flush comes before the data of its entry
            yield changes, bytes(disk)
        length = sectors * size
        if flags & 4:
            disk[sector * size : sector * size + length] = bytes(length)
            changes += length > 0
        elif not flags & 8:
            disk[sector * size : sector * size + length] = data[at : at + length]
            at += length
            changes += -(-length // (8 << 20))
    yield changes, bytes(disk)


@pytest.fixture(scope="module", params=[512, 4096])
def made(request, tmp_path_factory):
    """(log, disk): mkfs.ext4 and copies of files on a disk that QEMU logs, through NBD as a file (nbdfuse)."""
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    for tool in ("qemu-nbd", "qemu-io", "nbdkit", "nbdfuse", "mke2fs", "debugfs"):
        if not shutil.which(tool, path=path):
            pytest.skip(f"no {tool}")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")
    folder = tmp_path_factory.mktemp(f"dmlog{request.param}")
    disk, log, socket, mount = (folder / n for n in ("disk", "log", "socket", "mnt"))
    disk.touch()
    os.truncate(disk, DISK_BYTES)
    log.touch()
    mount.mkdir()
    server = subprocess.Popen(
        [
            "qemu-nbd",
            "-k",
            socket,
            "-t",
            "--discard=unmap",
            "--image-opts",
            (
                f"driver=blklogwrites,file.driver=raw,file.file.driver=file,file.file.filename={disk},"
                f"file.discard=unmap,log.driver=file,log.filename={log},log-sector-size={request.param}"
            ),
        ]
    )
    fuse = None
    try:
        wait(socket.exists, server)
        # debugfs writes single bytes of the super block; QEMU's log takes sectors.
        aligned = [
            "nbdkit",
            "-s",
            "--exit-with-parent",
            "--filter=blocksize",
            "nbd",
            f"socket={socket}",
            "minblock=4096",
        ]
        fuse = subprocess.Popen(["nbdfuse", mount / "nbd", "--command", *map(str, aligned)])
        wait((mount / "nbd").exists, fuse)
        tools = {"env": {"PATH": path}, "capture_output": True}
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", mount / "nbd"], check=True, **tools)
        for i in range(6):
            (folder / f"file{i}").write_bytes(os.urandom(9000 * (i + 1)))
            subprocess.run(
                ["debugfs", "-w", "-R", f"write {folder}/file{i} file{i}", mount / "nbd"], check=True, **tools
            )
            fd = os.open(mount / "nbd", os.O_RDWR)
            os.fsync(fd)
            os.close(fd)
        subprocess.run(["debugfs", "-w", "-R", "rm file2", mount / "nbd"], check=True, **tools)
        # What ext4 tools do not ask for: discard, zeroes, FUA.
        fuse.terminate()  # and it unmounts
        fuse.wait(30)
        subprocess.run(
            [
                "qemu-io",
                "-f",
                "raw",
                f"nbd+unix:///?socket={socket}",
                "-c",
                "discard 1M 64k",
                "-c",
                "flush",
                "-c",
                "write -z 20M 32k",
                "-c",
                "write -f -P 9 8k 4k",
                "-c",
                "write -P 3 21M 1M",
                "-c",
                "flush",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    finally:
        if fuse is not None:
            fuse.terminate()
            fuse.wait(30)
        server.terminate()
        server.wait(30)
    return log, disk


def test_a_log_of_ext4_is_replayed_exactly(made, tmp_path):
    log, disk = made
    result = CliRunner().invoke(
        cli,
        [
            "replay",
            str(log),
            "--volume",
            str(tmp_path / "v"),
            "--create",
            "--size",
            str(DISK_BYTES),
            "--verify",
            "--json",
        ],
        prog_name="cdp",
    )
    assert result.exit_code == 0, result.output
    got = json.loads(result.stdout)
    assert got["verify"][0]["ok"] and got["verify"][0]["bytes_compared"] > 1 << 20
    states = list(flushes_of(log))
    with cdp.open(tmp_path / "v") as volume:
        assert volume.pread(DISK_BYTES, 0) == disk.read_bytes() == states[-1][1]
        logged = volume.records(got["disks"][0]["start_seq"], got["disks"][0]["end_seq"])
        changed = logged["seq"][logged["kind"] <= 3].tolist()
        durable = logged["seq"][(logged["kind"] == 4) | (logged["flags"] & 2 != 0)].tolist()
        assert len(changed) == states[-1][0]
        for changes, state in states:
            # The flush stands between its change and the next one; one with nothing new before it left no record.
            after = changed[changes - 1] if changes else got["disks"][0]["start_seq"]
            before = changed[changes] if changes < len(changed) else got["disks"][0]["end_seq"] + 1
            seq = next(seq for seq in durable if after <= seq < before)
            with volume.at(seq) as image:
                assert image.pread(DISK_BYTES, 0) == state, f"#{seq}, after change {changes}"
    assert len(states) > 8
    again = CliRunner().invoke(
        cli, ["replay", "--volume", str(tmp_path / "v"), "--verify-only", "--json"], prog_name="cdp"
    )
    assert json.loads(again.stdout)["verify"][0]["flush_moments"] >= 8


def test_a_compressed_log_and_one_that_is_cut(made, tmp_path):
    zstandard = pytest.importorskip("zstandard")
    log, disk = made
    packed = tmp_path / "log.zst"
    packed.write_bytes(zstandard.compress(log.read_bytes()))
    args = ["replay", str(packed), "--volume", str(tmp_path / "v"), "--create", "--size", str(DISK_BYTES)]
    assert CliRunner().invoke(cli, args, prog_name="cdp").exit_code == 0
    with cdp.open(tmp_path / "v") as volume:
        assert volume.pread(DISK_BYTES, 0) == disk.read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    result = CliRunner().invoke(cli, ["replay", str(cut), "--volume", str(tmp_path / "w"), "--create"], prog_name="cdp")
    assert result.exit_code == 2 and str(cut) in result.stderr and not (tmp_path / "w").exists()
