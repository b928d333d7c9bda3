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


def requests() -> Iterator[bytes]:
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
    for name, make in (("text_traces", text_traces), ("binary_traces", binary_traces), ("nbd_requests", requests),
                       ("packets", packets)):
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
    sys.path.insert(0, str(HERE.parent))
    main()
