"""Writes the first inputs of each target into tests/fuzz/corpus: from golden files, and from what the formats' own
writers make.

    python tests/fuzz/first_inputs.py          from the root of the checkout, with src and tests on PYTHONPATH

What fuzzing adds to them comes from `campaign.py --keep`. Nothing is written over.
"""
from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
BLOCK, MOST_BLOCKS = 4096, 64
MEND = 1


def packed(raw: bytes) -> bytes:
    """A file as harness/fuzz.h has it: its blocks without the zeros at their ends."""
    out = b""
    for at in range(0, min(len(raw), MOST_BLOCKS * BLOCK), BLOCK):
        block = raw[at:at + BLOCK].rstrip(b"\0")
        out += struct.pack("<H", len(block)) + block
    return out


def missing(raw: bytes) -> bytes:
    """How much of the last block is not there, as the harnesses take it."""
    return struct.pack("<H", -len(raw) % BLOCK)


def whole_segment(raw: bytes) -> bytes:
    """Without what lies between the frames and the end that sealing wrote; a segment that fits."""
    return raw if len(raw) <= MOST_BLOCKS * BLOCK else raw[:MOST_BLOCKS * BLOCK]


def segments() -> Iterator[bytes]:
    for path in sorted(GOLDEN.glob("*/log/*.log")):
        yield whole_segment(path.read_bytes())


def text_traces() -> Iterator[bytes]:
    from cdp.trace import FORMATS, samples
    from cdp.trace.formats import FORMATS as KNOWN

    for name, known in KNOWN.items():
        if known.shape == "text" and name in FORMATS:
            data = samples.encode(name, samples.random_requests(name, 6))
            yield bytes([known.text, 0, 40, 0x11, 0x11, 1]) + data
            yield bytes([known.text, 1, 9, 0x11, 0x11, 1]) + data + b"\nx,y\n"


def binary_traces() -> Iterator[bytes]:
    from cdp.trace import samples

    for order in "<>":
        yield b"\0" + samples.blktrace(samples.random_requests("blktrace", 6), order, clock=(5, 6))
    yield b"\x08" + samples.write_log([(i, 1, (0, 2, 1, 16)[i % 4], bytes(512)) for i in range(4)])


def requests_of() -> Iterator[bytes]:
    one = struct.Struct(">IHHQQI")
    rules = struct.pack("<QB", 1 << 20, 14)
    yield rules + b"".join(one.pack(0x25609513, flags, kind, 7, 4096, 4096 * (kind != 3))
                           for kind in range(8) for flags in (0, 1))
    yield rules + one.pack(0x25609513, 4, 0, 1, (1 << 20) - 512, 512)


def packets() -> Iterator[bytes]:
    group = struct.pack("<IIII", 1, 1, 0, 4096)
    for op in range(1, 7):
        ranged = op < 5
        n = 1 if op <= 2 else 0
        yield struct.pack("<Q", 1 << 30) + struct.pack(
            "<BBHIQQQQQHBBHHHHI", 1, op, 0, 0, 8 * ranged, 4096 * ranged, 9, 1, 0, 0, n, 0, 0, 0, 1, 1, 0,
        ) + group * n + bytes(16 * (4 - n))


def json_files() -> Iterator[bytes]:
    """Of each kind the file as its writer makes it, and its inner object."""
    import json
    from dataclasses import asdict

    from targets.json_files import KINDS

    from cdp.archive.manifest import Listing, Manifest, encode
    from cdp.capture.log_entries import Place
    from cdp.capture.position import LogPosition, MirrorPosition, Witness
    from cdp.moments.ages import Sample
    from cdp.moments.model import GroupMoment, GroupRestore, Moment
    from cdp.store import checked_json, group_file
    from cdp.store.description import Geometry
    from cdp.store.protected_disk import Stamp
    from cdp.store.retention_file import Kept
    from cdp.store.scrub_file import ScrubState

    uuid = "00" * 16
    geometry = Geometry(uuid, 1 << 20, 5, 1 << 20, "none")
    group = group_file.Definition(
        uuid, 5, (group_file.Member("a", uuid),), (GroupMoment("n", 5, 6, (Moment(1, 2),)),),
        (GroupRestore("p", 5, (Moment(1, 2),), (3,)),),
        group_file.Pending("image", "x", (1,), (Moment(1, 2),), (3,)))
    kept = asdict(Kept("keep", {"p": 5}, (Sample(1, 2, 3),), "boot"))
    scrub = asdict(ScrubState(5, problems=(("a", "b", "c"),)))
    inner: list[tuple[int, object]] = [
        (0, {name: value for name, value in asdict(geometry).items()
             if name != "disk" and not name.startswith("start_")}),
        (0, asdict(Geometry(uuid, 1 << 20, 5, 1 << 20, "disk", format=6, disk="/d", start_seq=4, start_ts_ns=5))),
        (1, {**kept, "samples": [[1, 2, 3]]}),
        (2, {**{name: value for name, value in scrub.items() if name != "place"}, **scrub["place"]}),
        (3, {"kept": [3, 9], "todo": [[1, 2]]}), (4, asdict(Stamp(1 << 20, 1, 2, 3, 4))), (5, asdict(group)),
        (6, asdict(LogPosition("/l", 512, Place(1, 2), 3, [Witness(1, 2, 3)]))),
        (6, asdict(MirrorPosition("m", 1, [(1, 2, 3)], (1, 2, 3))))]
    for which, fields in inner:
        name, version = KINDS[which][:2]
        yield bytes([which | 16]) + json.dumps(fields, sort_keys=True).encode()
        yield bytes([which]) + checked_json.packed(name, fields, version)  # type: ignore[arg-type]
    written = encode(Manifest(1, 1, "n", asdict(geometry), True, (3, 4), Listing(), Listing()))
    yield b"\x0f" + written
    yield b"\x1f" + json.dumps(json.loads(written)["manifest"]).encode()


def catalog_rows() -> Iterator[bytes]:
    from cdp.moments.model import ClockStep
    from cdp.store import catalog as c

    rows = [c.Segment(1, 1, 2, 3, 4, 5), c.Run(1, 1, 2, 3, 4, 0, 6), c.BookmarkRow("b", 1, 2, 3, 4),
            c.RestoreRow(5, 6, 1, 2, 0, 8, False, 0), c.WritebackRow(1, 2), ClockStep(1, 3, 2), c.Punched(1, 2)]
    for row in rows:
        yield bytes([list(c.TABLES).index(type(row))]) + c.value_of(row)


def nbd_sessions() -> Iterator[bytes]:
    begin = struct.pack(">I", 3)

    def option(number: int, data: bytes = b"") -> bytes:
        return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data

    named = struct.pack(">I", 4) + b"disk"
    go, context = named + struct.pack(">HH", 1, 3), named + struct.pack(">II", 1, 15) + b"base:allocation"
    requests = next(iter(requests_of()))[9:]
    yield begin + option(3) + option(8) + option(9, context) + option(10, context) + option(6, go) + option(5)
    yield begin + option(8) + option(10, context) + option(7, go) + requests
    yield begin + option(1, b"disk") + requests
    yield begin + option(7, go) + struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 512) + bytes(512) + requests
    yield begin + option(99, b"x") + option(2)


def trace_files() -> Iterator[bytes]:
    from cdp.trace import FORMATS, samples

    for number, name in enumerate(FORMATS, 1):
        try:
            data = samples.encode(name, samples.random_requests(name, 6))
        except (KeyError, ValueError):
            continue
        yield bytes([0, 0]) + data
        yield bytes([number, 1]) + data


def messages() -> Iterator[bytes]:
    lun = b'{"lun": [1, "/v", false]}'
    calls = [b'{"call": "send", "args": [{"group": ["a", 1]}, {"bytes": "00"}, {"ref": [1, 1, 0, 8]}]}',
             b'{"call": "assign", "args": [' + lun + b', {"assignment": [1, [' + lun + b'], 0]}, {"dict": {"a": 1}}]}',
             b'{"error": {"kind": "Busy", "message": "m", "hint": "h"}}',
             b'{"call": "x", "args": [{"packet": "' + b"00" * 128 + b'"}, {"error": {"kind": "NotFound"}}]}',
             b'{"call": "y", "args": [{"message": [null, {"group": ["b", 2]}, true, 2]}]}']
    for call in calls:
        yield b"\1" + call
        yield b"\0" + struct.pack("<I", len(call)) + call
    yield b"\2" + b"\n".join([
        b'{"op": "offer", "version": 1, "pid": 1, "addresses": []}',
        b'{"op": "listener", "address": ["tcp", "::", 1]}', b'{"op": "connection", "received_bytes": 0}',
        b'{"op": "control", "address": ["unix", "p", 384], "inode": [1, 2]}', b'{"op": "open", "paused_s": 1.5}'])
    yield b"\2" + b'{"op": "refused", "error": {"kind": "Busy"}}'


def file_systems() -> Iterator[bytes]:
    yield b""
    yield struct.pack("<I", 1024 + 0x5C)[:3] + b"\2\x10\0"
    yield struct.pack("<I", 510)[:3] + b"\2\x55\xaa" + struct.pack("<I", 446)[:3] + b"\x10" + bytes(
        [0, 0, 0, 0, 0x83, 0, 0, 0]) + struct.pack("<II", 0, 512)


def seeds() -> Iterator[tuple[str, bytes]]:
    for raw in segments():
        yield "frames", bytes([MEND | 2 | 4]) + missing(raw) + packed(raw)
        yield "segments", bytes([MEND | 2]) + missing(raw) + b"\0" + packed(raw)
    for path in sorted(GOLDEN.glob("*/runs/*.run")):
        raw = path.read_bytes()
        yield "runs", bytes([MEND]) + missing(raw) + struct.pack("<QB", 100, 0) + packed(raw)
    for path in sorted(GOLDEN.glob("*/*.sums")):
        raw = path.read_bytes()
        yield "segments", bytes([0]) + missing(raw) + b"\0" + packed(raw)
    for name, make in (("text_traces", text_traces), ("binary_traces", binary_traces), ("nbd_requests", requests_of),
                       ("packets", packets), ("json_files", json_files), ("catalog_rows", catalog_rows),
                       ("nbd_sessions", nbd_sessions), ("trace_files", trace_files), ("messages", messages),
                       ("file_systems", file_systems)):
        for data in make():
            yield name, data


def main() -> None:
    for target, data in seeds():
        path = HERE / "corpus" / target / hashlib.sha1(data).hexdigest()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(data)
            print(f"{target}: {path.name}, {len(data)} bytes")


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    main()
