"""What a volume must do, in the least code that says it: a list of records, each of which puts new bytes somewhere.

The engine's rules that are modelled: one serial order; a request is merged into whole sectors; a long write is several
records; a zero or trim of no whole sector is a write; a flush with nothing new behind it leaves no record; a restore
puts back what its range showed at its target. Beside the bytes, one letter a sector: b base, d data, z zero, h hole.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SECTOR, KEYFRAME = 512, 64
WRITE, ZERO, TRIM, FLUSH, BOOKMARK, RESTORE, UNBOOKMARK, WRITEBACK, RESTORED = 1, 2, 3, 4, 5, 6, 7, 8, 9
Patch = tuple[int, bytes, bytes]        # offset in bytes, new bytes, new letters


@dataclass(frozen=True)
class Row:
    """Record seq i + 1 is rows[i]. note: what a bookmark or restore says."""

    kind: int
    fua: bool
    offset: int
    length: int
    patches: tuple[Patch, ...] = ()
    note: Any = None


class Model:
    """A volume of `size` bytes whose base is `base` (None: all holes)."""

    def __init__(self, size: int, max_request: int, base: tuple[bytes, bytes] | None = None):
        self.size, self.max_request = size, max_request
        self.zero_step = 0      # bytes; a zero or trim that is longer is several records. 0: it never is
        self.now, self.letters = map(bytearray, base or (bytes(size), b"h" * (size // SECTOR)))
        self.rows: list[Row] = []
        self.notes: list[tuple[int, Row]] = []      # (seq, row) of bookmarks and restores
        self.keys = [(bytes(self.now), bytes(self.letters))]
        self.flushed = self.durable = 0     # the last seq with nothing to flush; what a power cut must leave

    def add(self, kind: int, offset: int = 0, length: int = 0, patches: tuple[Patch, ...] = (), fua: bool = False,
            note: Any = None) -> int:
        self.rows.append(Row(kind, fua, offset, length, patches, note))
        if note is not None:
            self.notes.append((len(self.rows), self.rows[-1]))
        _apply(self.now, self.letters, patches)
        if len(self.rows) % KEYFRAME == 0:
            self.keys.append((bytes(self.now), bytes(self.letters)))
        if fua or kind == FLUSH:
            self.flushed = self.durable = len(self.rows)
        return len(self.rows)

    def write(self, offset: int, data: bytes, fua: bool = False) -> None:
        while data:
            part, data = data[:(n := self.max_request - offset % SECTOR)], data[n:]
            a, b = offset // SECTOR * SECTOR, -(-(offset + len(part)) // SECTOR) * SECTOR
            whole = bytes(self.now[a:offset]) + part + bytes(self.now[offset + len(part):b])
            self.add(WRITE, a, b - a, ((a, whole, b"d" * ((b - a) // SECTOR)),), fua)
            offset += len(part)

    def zero(self, offset: int, n: int, hole: bool, fua: bool = False) -> None:
        while self.zero_step and n > self.zero_step - offset % SECTOR:
            step = self.zero_step - offset % SECTOR
            self._zero(offset, step, hole, fua)
            offset, n = offset + step, n - step
        if n:
            self._zero(offset, n, hole, fua)

    def _zero(self, offset: int, n: int, hole: bool, fua: bool) -> None:
        end = offset + n
        a, b = -(-offset // SECTOR) * SECTOR, end // SECTOR * SECTOR      # the whole sectors
        low, high = offset // SECTOR * SECTOR, -(-end // SECTOR) * SECTOR
        content = bytes(self.now[low:offset]) + bytes(n) + bytes(self.now[end:high])
        kinds = bytearray(b"d" * len(range(low, high, SECTOR)))
        if a < b:
            kinds[(a - low) // SECTOR:(b - low) // SECTOR] = (b"h" if hole else b"z") * ((b - a) // SECTOR)
        self.add((TRIM if hole else ZERO) if a < b else WRITE, low, high - low, ((low, content, bytes(kinds)),), fua)

    def flush(self) -> None:
        if self.flushed != len(self.rows):
            self.add(FLUSH)
        self.durable = len(self.rows)

    def restore(self, target: int, offset: int, n: int, note: Any = None) -> int:
        content, letters = self.at(target)
        patch = offset, content[offset:offset + n], letters[offset // SECTOR:(offset + n) // SECTOR]
        return self.add(RESTORE, offset, n, (patch,), note=note)

    def at(self, seq: int) -> tuple[bytes, bytes]:
        key = min(seq // KEYFRAME, len(self.keys) - 1)
        now, letters = map(bytearray, self.keys[key])
        for row in self.rows[key * KEYFRAME:seq]:
            _apply(now, letters, row.patches)
        return bytes(now), bytes(letters)

    def cut(self, seq: int, durable: bool = True) -> None:
        """Only the first `seq` records are there: the volume was opened like this, or the others were refused."""
        content, letters = self.at(seq)
        del self.rows[seq:], self.keys[seq // KEYFRAME + 1:]
        self.notes = [n for n in self.notes if n[0] <= seq]
        self.now, self.letters = bytearray(content), bytearray(letters)
        if durable:
            self.flushed = self.durable = seq
        elif self.flushed > seq:
            self.flushed = next((i for i in range(seq, 0, -1) if self.rows[i - 1].fua
                                 or self.rows[i - 1].kind == FLUSH), 0)


def _apply(now: bytearray, letters: bytearray, patches: tuple[Patch, ...]) -> None:
    for offset, content, kinds in patches:
        now[offset:offset + len(content)] = content
        letters[offset // SECTOR:offset // SECTOR + len(kinds)] = kinds
