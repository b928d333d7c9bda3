"""Write logs: made by QEMU's blklogwrites from real requests; by the format's definition, what QEMU never writes."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard

from cdp.trace import Flag, Kind, Trace, open_trace
from cdp.trace.samples import write_log
from cdpcore.base.errors import Closed, InvalidRequest

pytestmark = pytest.mark.interop

DISK_BYTES = 24 << 20


def independent(path: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """(flags, offset, length, data) of each entry, straight from the format's definition."""
    log = path.read_bytes()
    _, version, entries, size = struct.unpack_from("<QQQI", log)
    assert version == 1
    at = size
    for _ in range(entries):
        sector, sectors, flags, _ = struct.unpack_from("<QQQQ", log, at)
        at += size
        length = 0 if flags & 12 else sectors * size
        yield flags, sector * size, sectors * size, log[at : at + length]
        at += length


@pytest.fixture(scope="module", params=[512, 4096])
def qemu_log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(log, disk): a file system made and filled through blklogwrites."""
    for tool in ("qemu-nbd", "qemu-io", "mkfs.ext4"):
        if not shutil.which(tool) and not Path("/usr/sbin", tool).exists():
            pytest.skip(f"no {tool}")
    folder = tmp_path_factory.mktemp(f"log{request.param}")
    disk, log, socket, filesystem = (folder / n for n in ("disk", "log", "socket", "fs"))
    for path in (disk, log, filesystem):
        path.touch()
    disk.open("r+b").truncate(DISK_BYTES)
    filesystem.open("r+b").truncate(DISK_BYTES)
    source = folder / "tree"
    source.mkdir()
    for i in range(12):
        (source / f"file{i}").write_bytes(bytes([i]) * (7000 * i))
    subprocess.run(
        ["mkfs.ext4", "-q", "-d", source, filesystem],
        check=True,
        env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
        capture_output=True,
    )
    image = (
        f"driver=blklogwrites,file.driver=raw,file.file.driver=file,file.file.filename={disk},"
        f"file.discard=unmap,log.driver=file,log.filename={log},log-sector-size={request.param}"
    )
    server = subprocess.Popen(["qemu-nbd", "-k", socket, "-t", "--discard=unmap", "--image-opts", image])
    try:
        deadline = 500
        while not socket.exists() and server.poll() is None and deadline:
            deadline -= 1
            subprocess.run(["sleep", "0.02"], check=True)
        uri = f"nbd+unix:///?socket={socket}"
        subprocess.run(["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", filesystem, uri], check=True)
        scattered = [
            a for i in range(60) for a in ("-c", f"write -P {i} {(i * 37 % 500) * 40960} {4096 * (1 + i % 5)}")
        ]
        subprocess.run(["qemu-io", "-f", "raw", uri, *scattered], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            [
                "qemu-io",
                "-f",
                "raw",
                uri,
                "-c",
                "write -P 7 64k 12k",
                "-c",
                "flush",
                "-c",
                "discard 1M 64k",
                "-c",
                "write -z 2M 32k",
                "-c",
                "write -f -P 9 8k 4k",
                "-c",
                "write -P 3 20M 1M",
                "-c",
                "flush",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    finally:
        server.terminate()
        server.wait(30)
    return log, disk


def apply(trace: Trace) -> bytearray:
    disk = bytearray(DISK_BYTES)
    for records in trace:
        for record in records:
            start, length = int(record["offset_bytes"]), int(record["length_bytes"])
            if record["kind"] == Kind.WRITE:
                disk[start : start + length] = trace.payload(record)
            elif record["kind"] == Kind.TRIM:
                disk[start : start + length] = bytes(length)
    return disk


def test_log_of_a_real_file_system_equals_an_independent_parse(qemu_log: tuple[Path, Path]) -> None:
    log, _ = qemu_log
    with open_trace(log) as trace:
        assert trace.format == "dm-log-writes" and trace.clock == "none" and trace.has_payload
        records = np.concatenate(list(trace))
        wanted = list(independent(log))
        assert len(records) == len(wanted) > 70
        kinds = set()
        for record, (flags, offset, length, data) in zip(records, wanted, strict=True):
            kinds.add(Kind(record["kind"]))
            assert (record["kind"] == Kind.FLUSH) == (flags & 1 and not length)
            assert (record["kind"] == Kind.TRIM) == bool(flags & 4)
            assert (int(record["offset_bytes"]), int(record["length_bytes"])) == (offset, length)
            assert trace.payload(record) == data
            if len(data) > 1000:
                assert trace.payload(record, 500, 400) == data[500:900]
        assert kinds == {Kind.WRITE, Kind.FLUSH, Kind.TRIM}


def test_replayed_log_is_the_disk(qemu_log: tuple[Path, Path]) -> None:
    log, disk = qemu_log
    with open_trace(log) as trace:
        assert apply(trace) == disk.read_bytes()


def test_moment_at_every_flush_equals_an_independent_replay(qemu_log: tuple[Path, Path]) -> None:
    log, _ = qemu_log
    ours, theirs, moments = bytearray(DISK_BYTES), bytearray(DISK_BYTES), 0
    with open_trace(log, batch_records=3) as trace:
        entries = independent(log)
        for records in trace:
            for record in records:
                _, offset, length, data = next(entries)
                theirs[offset : offset + length] = data or bytes(length)
                start, size = int(record["offset_bytes"]), int(record["length_bytes"])
                if size:
                    ours[start : start + size] = trace.payload(record) or bytes(size)
                if record["kind"] == Kind.FLUSH:
                    moments += 1
                    assert ours == theirs
    assert moments >= 2


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gzip", "zstd"])
def test_compressed_log_with_payload(qemu_log: tuple[Path, Path], pack: object, tmp_path: Path) -> None:
    log, disk = qemu_log
    path = tmp_path / "log.packed"
    path.write_bytes(pack(log.read_bytes()))  # type: ignore[operator]
    with open_trace(path, batch_records=10) as trace:
        assert apply(trace) == disk.read_bytes()
        assert apply(trace) == disk.read_bytes()  # from the start again
        records = np.concatenate(list(trace))
        writes = records[records["payload"] > 0]
        backwards = [trace.payload(record) for record in writes[:6][::-1]]
        assert backwards[::-1] == [data for *_, data in independent(log) if data][:6]


def test_flags_marks_and_metadata(tmp_path: Path) -> None:
    """What the kernel's target logs and QEMU does not: FUA, preflush with data, metadata, marks."""
    block = bytes(range(256)) * 2
    path = tmp_path / "log"
    path.write_bytes(
        write_log(
            [
                (8, 1, 0, block),
                (9, 2, 1 | 2, block * 2),
                (0, 0, 1, b""),
                (4, 1, 16, block),
                (0, 0, 8, b"mark: mkfs done"),
                (100, 8, 4, b""),
                (7, 1, 2 | 16, block),
            ]
        )
    )
    with open_trace(path) as trace:
        records = np.concatenate(list(trace))
        assert [Kind(k) for k in records["kind"]] == [
            Kind.WRITE,
            Kind.WRITE,
            Kind.FLUSH,
            Kind.WRITE,
            Kind.OTHER,
            Kind.TRIM,
            Kind.WRITE,
        ]
        assert [Flag(int(f)) for f in records["flags"]] == [
            Flag(0),
            Flag.FUA | Flag.PREFLUSH,
            Flag(0),
            Flag.META,
            Flag(0),
            Flag(0),
            Flag.FUA | Flag.META,
        ]
        assert [int(o) for o in records["offset_bytes"]] == [4096, 4608, 0, 2048, 0, 51200, 3584]
        assert [trace.payload(r) for r in records] == [block, block * 2, b"", block, b"", b"", block]
        assert [int(n) for n in records["number"]] == list(range(1, 8))
        for skip, size in ((0, 513), (513, None), (-1, 4), (4, -1)):
            with pytest.raises(InvalidRequest):
                trace.payload(records[0], skip, size)
        assert trace.payload(records[0], 512) == b""
    with pytest.raises(Closed):
        from cdp.trace.dmlog import PayloadSource
        from cdp.trace.stream import TraceFile

        source = PayloadSource(TraceFile(str(path)))
        source.close()
        source.read(0, 1)


@pytest.mark.parametrize(
    "damage, expected",
    [
        (lambda log: log[: 512 * 4 + 100], "expected 3 entries as its super block says, but the log ends"),
        (lambda log: log[: 512 * 3], "record 2 at byte 1536: expected 3 entries"),
        (
            lambda log: log[: 512 * 3 + 16] + b"\xff" + log[512 * 3 + 17 :],
            "record 2 at byte 1536: expected an entry: flags below 32",
        ),
        (
            lambda log: log[: 512 * 3] + b"\xff" * 8 + log[512 * 3 + 8 :],
            "record 2 at byte 1536: expected an entry: offset + size",
        ),
        (
            lambda log: log[: 512 * 3 + 8] + b"\xff" * 8 + log[512 * 3 + 16 :],
            "record 2 at byte 1536: expected an entry: offset + size",
        ),
    ],
)
def test_damaged_log(damage: object, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = write_log([(i, 1, 0, letter * 512) for i, letter in enumerate((b"a", b"b", b"c"))])
    path.write_bytes(damage(log))  # type: ignore[operator]
    with open_trace(path) as trace, pytest.raises(InvalidRequest) as caught:
        got = []
        for records in trace:
            got.extend(records)
    assert expected in str(caught.value) and str(path) in str(caught.value)
    assert len(got) == 1 and trace.payload(got[0]) == b"a" * 512
    with open_trace(path, skip_bad=True) as trace:
        assert sum(map(len, trace)) == 1 and trace.tally.bad == 1


@pytest.mark.parametrize(
    "at, value, expected",
    [
        (0, b"\0", "the magic"),
        (8, b"\2", "version 1"),
        (24, b"\x01", "a sector size"),
        (24, b"\0\0\0\0", "a sector size"),
    ],
)
def test_damaged_super_block(at: int, value: bytes, expected: str, tmp_path: Path) -> None:
    log = bytearray(write_log([(0, 1, 0, b"a" * 512)]))
    log[at : at + len(value)] = value
    path = tmp_path / "log"
    path.write_bytes(log)
    with open_trace(path, "dm-log-writes") as trace, pytest.raises(InvalidRequest, match=expected):
        list(trace)
    path.write_bytes(log[:20])
    with open_trace(path, "dm-log-writes") as trace, pytest.raises(InvalidRequest, match="20 bytes"):
        list(trace)


def test_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(write_log([]))
    with open_trace(path) as trace:
        assert list(trace) == [] and trace.devices == []
