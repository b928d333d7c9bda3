"""The entries of a write log from a position on, in pieces that hold their data, while the log grows.

Invariants
  1. A piece has whole entries, in order, that the super block counts; only an entry longer than SLICE_BYTES is given in
     slices, which make up a piece each.
  2. An entry that is counted but not there yet is waited for and never taken for one: its sector still reads as zeros
     (as "a write of nothing", which no writer logs), or the log ends before its data does. QEMU counts an entry before
     it has written it, so this happens in every busy log.
  3. Memory: one piece, of PIECE_BYTES or of one entry up to SLICE_BYTES.
One thread.
"""
from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from cdp.capture.source import LogSource, Super
from cdp.trace.model import RECORD, Flag, Kind, Records
from cdpcore.base.errors import Corruption
from cdpcore.trace import parse as traceparse

PIECE_BYTES = 4 << 20
SLICE_BYTES = 32 << 20  # the longest request that a volume keeps as one record
MAX_RECORDS = 16_384
ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, data_len


@dataclass(frozen=True)
class Place:
    """Where in a log: `entries` are done with, the next begins at byte `position`, and of that one `inside` bytes of
    data are done with too."""

    entries: int
    position: int
    inside: int = 0


@dataclass
class Piece:
    """Records with their data: `payload` counts from the beginning of `data`. marks: the texts of those of kind OTHER,
    in order. ends: the place behind each record."""

    records: Records
    data: memoryview
    ends: list[Place]
    start: Place
    marks: list[str] = field(default_factory=list)


class Tail:
    """Reads the log of `source`, whose super block is `head`, from `place` on."""

    def __init__(self, source: LogSource, head: Super, place: Place | None = None):
        self.source = source
        self.sector_bytes = head.sector_bytes
        self.place = place or Place(0, head.sector_bytes)
        self.waiting = ""  # what an entry that is counted is waiting for
        self._parser = traceparse.DmLogParser(head.raw)

    def next(self, entries: int) -> Piece | None:
        """What there is of the first `entries` entries, behind what was given before; None: nothing yet. Raises
        Corruption."""
        self.waiting = ""
        if self.place.entries >= entries:
            return None
        if self.place.inside:
            return self._slice()
        data = self.source.read(self.place.position, PIECE_BYTES)
        records = self._parse(data, entries)
        whole, ends = self._whole(records, len(data))
        if whole == 0:
            return self._alone(records)
        return self._piece(records[:whole], data, ends)

    def _parse(self, data: memoryview, entries: int) -> Records:
        out = np.empty(MAX_RECORDS, RECORD)
        self._parser.resume(self.place.entries, self.place.position)
        self._parser.promise(entries)
        step, _, made = self._parser.run(data, out.view(np.uint8))
        records = out[:made]
        writes = records["kind"] == Kind.WRITE
        blank = np.flatnonzero(writes & (records["length_bytes"] == 0) & (records["flags"] == 0))
        if len(blank):
            self.waiting = f"entry {self.place.entries + int(blank[0]) + 1} is counted, but not written yet"
            return records[:blank[0]]
        if step == traceparse.BAD:
            number, byte, expected = self._parser.bad()
            if made == 0:
                raise Corruption(f"{self.source.path}: entry {number} at byte {byte}: expected {expected}",
                                 "everything before it is in the volume; what follows in the log cannot be found")
        return records

    def _whole(self, records: Records, have: int) -> tuple[int, list[Place]]:
        """How many of them have all of their data in `have` bytes, and the places behind them."""
        taken = self.sector_bytes + np.where(records["kind"] == Kind.WRITE, records["length_bytes"], 0)
        behind = self.place.position + np.cumsum(taken, dtype=np.uint64)
        whole = int(np.searchsorted(behind, np.uint64(self.place.position + have), side="right"))
        ends = [Place(self.place.entries + i + 1, int(at)) for i, at in enumerate(behind[:whole].tolist())]
        return whole, ends

    def _piece(self, records: Records, data: memoryview, ends: list[Place]) -> Piece:
        start, marks = self.place, []
        begins = [start.position, *(end.position for end in ends[:-1])]
        for i in np.flatnonzero(records["kind"] == Kind.OTHER).tolist():
            at = begins[i] - start.position
            size = ENTRY.unpack_from(data, at)[3]
            marks.append(bytes(data[at + ENTRY.size:at + ENTRY.size + size]).rstrip(b"\0").decode("utf-8", "replace"))
        records["payload"] -= np.minimum(records["payload"], np.uint64(start.position))
        self.place = ends[-1]
        return Piece(records, data, ends, start, marks)

    def _alone(self, records: Records) -> Piece | None:
        """The next entry does not fit into a piece, or is not all there."""
        if not len(records):
            if not self.waiting:
                self.waiting = (f"entry {self.place.entries + 1} is counted, "
                                f"but the log ends at byte {self.place.position}")
            return None
        return self._slice(records[0])

    def _slice(self, record: np.void | None = None) -> Piece | None:
        """The next SLICE_BYTES of an entry's data."""
        start = self.place
        if record is None:
            head = self.source.read(start.position, self.sector_bytes)
            self._parser.resume(start.entries, start.position)
            self._parser.promise(start.entries + 1)
            out = np.empty(1, RECORD)
            self._parser.run(head, out.view(np.uint8))
            record = out[0]
        length = int(record["length_bytes"])
        size = min(SLICE_BYTES, length - start.inside)
        data = self.source.read(start.position + self.sector_bytes + start.inside, size)
        if len(data) < size:
            self.waiting = f"entry {start.entries + 1} is counted, but its data is not all there yet"
            return None
        part = np.array([record], RECORD)
        part["offset_bytes"] += np.uint64(start.inside)
        part["length_bytes"] = size
        part["payload"] = 0
        if start.inside:
            part["flags"] &= np.uint8(0xFF ^ Flag.PREFLUSH)
        if start.inside + size == length:
            self.place = Place(start.entries + 1, start.position + self.sector_bytes + length)
        else:
            self.place = Place(start.entries, start.position, start.inside + size)
        return Piece(part, data, [self.place], start)
