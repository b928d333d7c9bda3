"""Traces of fixed-size binary records, through NumPy: CloudPhysics vscsi version 1 and 2, oracleGeneral."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from cdp.trace import complaints
from cdp.trace.formats import Format
from cdp.trace.model import END_BYTES, RECORD, Kind, Records, Tally
from cdp.trace.stream import PIECE_BYTES, ByteStream, TraceFile
from cdpcore.trace import parse as traceparse

VSCSI_1 = np.dtype([("sn", "<u4"), ("len", "<u4"), ("nsg", "<u4"), ("cmd", "<u2"), ("ver", "<u2"), ("lbn", "<u8"),
                    ("ts", "<u8")])
VSCSI_2 = np.dtype([("cmd", "<u2"), ("ver", "<u2"), ("sn", "<u4"), ("len", "<u4"), ("nsg", "<u4"), ("lbn", "<u8"),
                    ("ts", "<u8"), ("rt", "<u8")])
ORACLE = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])

Bools = NDArray[np.bool_]
Rule = tuple[str, Callable[[Records], Bools]]  # what is expected, and where it holds
_SCSI_KIND = np.array([traceparse.scsi_kind(op) for op in range(256)], np.uint8)
_END_SECTORS = np.uint64(END_BYTES // 512)


def _in_range(raw: Records, offset: str, length: str) -> Bools:
    """Sector and byte count end at most at 2^63; a u32 length cannot overflow the sum."""
    start = raw[offset]
    ok: Bools = start < _END_SECTORS
    ok &= (np.where(ok, start, 0) * np.uint64(512) + raw[length]) <= np.uint64(END_BYTES)
    return ok


def _vscsi_rules(version: int) -> tuple[Rule, ...]:
    return (
        (f"version {version} in the high byte of 'ver'", lambda raw: (raw["ver"] >> 8) == version),
        ("a SCSI operation code below 256", lambda raw: raw["cmd"] < 256),
        ("a time below 2^64 ns", lambda raw: raw["ts"] <= np.uint64((2**64 - 1) // 1000)),
        ("offset + size of at most 2^63 bytes", lambda raw: _in_range(raw, "lbn", "len")),
    )


def _vscsi_fill(raw: Records, out: Records, kind: int) -> None:
    out["ts_ns"] = raw["ts"] * np.uint64(1000)
    out["kind"] = _SCSI_KIND[raw["cmd"]]
    ranged = out["kind"] != Kind.FLUSH
    out["offset_bytes"] = np.where(ranged, raw["lbn"] * np.uint64(512), np.uint64(0))
    out["length_bytes"] = np.where(ranged, raw["len"], np.uint32(0))


def _oracle_fill(raw: Records, out: Records, kind: int) -> None:
    out["ts_ns"] = raw["time"].astype(np.uint64) * np.uint64(10**9)
    out["kind"] = kind
    out["offset_bytes"] = raw["id"] * np.uint64(512)
    out["length_bytes"] = raw["size"]


_ORACLE_RULES: tuple[Rule, ...] = (
    ("offset + size of at most 2^63 bytes", lambda raw: _in_range(raw, "id", "size")),
    ("next access: -1 or not negative", lambda raw: raw["next"] >= -1),
)
LAYOUTS: dict[str, tuple[np.dtype[np.void], tuple[Rule, ...], Callable[[Records, Records, int], None]]] = {
    "vscsi-v1": (VSCSI_1, _vscsi_rules(1), _vscsi_fill),
    "vscsi-v2": (VSCSI_2, _vscsi_rules(2), _vscsi_fill),
    "oracle-general": (ORACLE, _ORACLE_RULES, _oracle_fill),
}


class FixedReader:
    """A TraceReader of fixed-size records. assume: the kind of every request of a format without operations."""

    epoch_ns: int | None = None

    def __init__(self, file: TraceFile, format: Format, *, skip_bad: bool = False, assume: Kind = Kind.WRITE,
                 piece_bytes: int = PIECE_BYTES):
        self.file = file
        self.path = file.path
        self.format = format
        self.tally = Tally()
        self.devices = traceparse.DeviceTable()
        self._skip_bad = skip_bad
        self._assume = int(assume)
        self._piece_bytes = piece_bytes
        self._stream: ByteStream | None = None

    def done_bytes(self) -> int:
        return self._stream.done_bytes() if self._stream else 0

    def read(self, batch_records: int) -> Iterator[Records]:
        self.tally = Tally()
        layout, rules, fill = LAYOUTS[self.format.name]
        size = layout.itemsize
        step = max(1, min(batch_records, self._piece_bytes // size)) * size
        device = self.devices.index(b"", 0)
        seen = 0
        with self.file.open() as stream:
            self._stream = stream
            if not stream.peek(1):
                raise complaints.empty(self.path, self.format.title)
            while piece := stream.read(step):
                raw = np.frombuffer(piece, layout, len(piece) // size)
                good, wrong = _apply(rules, raw)
                if not good.all():
                    first = int(np.argmin(good))
                    self._meet_bad(seen + first, size, wrong[first], int(np.count_nonzero(~good)))
                    numbers = np.flatnonzero(good) if self._skip_bad else np.arange(first)
                    raw = raw[numbers]
                else:
                    numbers = np.arange(len(raw))
                out = np.zeros(len(raw), RECORD)
                fill(raw, out, self._assume)
                out["number"] = numbers + (seen + 1)
                out["device"] = device
                seen += len(piece) // size
                self.tally.events += len(out)
                self.tally.records += len(out)
                if len(out):
                    yield out
                if self.tally.bad and not self._skip_bad:
                    raise complaints.bad(self.tally.first_bad)
                if len(piece) % size:
                    self._meet_bad(seen, size, f"a whole record of {size} bytes, found {len(piece) % size}", 1)
                    if not self._skip_bad:
                        raise complaints.bad(self.tally.first_bad)

    def _meet_bad(self, index: int, size: int, expected: str, count: int) -> None:
        if not self.tally.bad:
            self.tally.first_bad = complaints.record_place(self.path, self.format.name, index + 1, index * size,
                                                           expected)
        self.tally.bad += count


def _apply(rules: tuple[Rule, ...], raw: Records) -> tuple[Bools, dict[int, str]]:
    """Which records keep all rules, and for the first one that does not, which rule it breaks."""
    good = np.ones(len(raw), np.bool_)
    wrong: dict[int, str] = {}
    for expected, rule in rules:
        ok = rule(raw)
        if not ok.all():
            wrong.setdefault(int(np.argmin(ok)), expected)
            good &= ok
    return good, wrong
