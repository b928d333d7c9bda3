"""Folding: what the oldest history changed is written into the file of the base, so that its segments can go.

For each sector, in ascending order, the content at the oldest moment that stays, where the log and not the base has it.
No reader is disturbed. A sector that is written here has a version in the log which every reader of a moment at or
after that one finds, and so does not look into the base; a sector that readers find in the base is not changed.
Zeroes and trims become holes.

It may end at any call and begin anew: what it writes depends on the log alone.

Threading: one thread at a time.
"""
from __future__ import annotations

from cdpcore.base.errors import Unavailable
from cdpcore.index.view import View
from cdpcore.system.os import Os
from cdpcore.volume.after_images import AfterImages
from cdpcore.volume.core import VolumeCore

BLOCK_BYTES = 4096      # what is written has multiples of it, but for the end of the volume
SPAN_BYTES = 1 << 20    # the largest write
STEPS = 64              # of a look-up: as many pieces at most
_ZEROS = bytes(BLOCK_BYTES)


class Fold:
    """Args: os; path: of the base's file, as large as the volume; core, content: the volume; view: of the oldest moment
    that stays. Closed with close()."""

    def __init__(self, os: Os, path: str, core: VolumeCore, content: AfterImages, view: View):
        self._core, self._content, self._view = core, content, view
        self.size_bytes: int = core.size_bytes
        self.at = 0             # everything before it is written
        self.written_bytes = 0
        self._file = os.open(path, write=True)

    @property
    def closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        """Idempotent."""
        self._file.close()

    def step(self, most_bytes: int) -> bool:
        """Go on until about `most_bytes` are written. True: all of it is, and synced. Raises what a read or write
        raises; to be repeated then, or begun anew."""
        until = self.written_bytes + most_bytes
        while self.at < self.size_bytes:
            if self.written_bytes >= until:
                return False
            pieces, end = self._content.of_log(self._view, self.at, STEPS)
            for a, b, data in _spans(pieces):
                self._put(a, b, data)
            self.at = end
        self._content.base_changed()
        self._file.datasync()
        return True

    def _put(self, a: int, b: int, data: bool) -> None:
        """[a, b) becomes what the view shows; not `data`: zeros."""
        if not data:
            inner = -(-a // BLOCK_BYTES) * BLOCK_BYTES, b // BLOCK_BYTES * BLOCK_BYTES
            if inner[0] < inner[1]:
                self._erase(*inner)
                for x, y in ((a, inner[0]), (inner[1], b)):
                    self._write_blocks(x, y)
                return
        for at in range(a, b, SPAN_BYTES):
            self._write_blocks(at, min(b, at + SPAN_BYTES))

    def _write_blocks(self, a: int, b: int) -> None:
        """[a, b), in whole blocks: what those hold beside it stays."""
        if a == b:
            return
        first, end = a // BLOCK_BYTES * BLOCK_BYTES, min(-(-b // BLOCK_BYTES) * BLOCK_BYTES, self.size_bytes)
        buffer = bytearray(end - first)
        if first < a:
            buffer[:a - first] = self._read_base(first, a)
        if b < end:
            buffer[b - first:] = self._read_base(b, end)
        self._core.pread_into(memoryview(buffer)[a - first:b - first], a, self._view)
        for x, y, zero in _by_content(buffer):
            if zero:
                self._erase(first + x, first + y)
            else:
                self._file.pwrite(memoryview(buffer)[x:y], first + x)
        self.written_bytes += b - a

    def _read_base(self, a: int, b: int) -> bytes:
        got = bytes(self._file.pread(b - a, a))
        return got + bytes(b - a - len(got))

    def _erase(self, a: int, b: int) -> None:
        """[a, b), whole blocks, becomes a hole, or zeros where the file system has none."""
        while a < b and (found := self._file.next_data(a)) is not None and found[0] < b:
            x, y = max(a, found[0] // BLOCK_BYTES * BLOCK_BYTES), min(b, -(-found[1] // BLOCK_BYTES) * BLOCK_BYTES)
            try:
                self._file.punch(x, y - x)
            except Unavailable:
                for at in range(x, y, SPAN_BYTES):
                    self._file.pwrite(bytes(min(SPAN_BYTES, y - at)), at)
            a = y


def _spans(pieces: list[tuple[int, int, int]]) -> list[tuple[int, int, bool]]:
    """(start, end, data) of pieces of the log (offset, length, kind): neighbours with data are joined."""
    spans: list[tuple[int, int, bool]] = []
    for offset, length, kind in pieces:
        data = kind == 0
        if spans and spans[-1][1] == offset and data and spans[-1][2]:
            spans[-1] = spans[-1][0], offset + length, True
        else:
            spans.append((offset, offset + length, data))
    return spans


def _by_content(buffer: bytearray) -> list[tuple[int, int, bool]]:
    """(start, end, zero) of stretches of whole blocks that are all zeros, or not."""
    stretches: list[tuple[int, int, bool]] = []
    for at in range(0, len(buffer), BLOCK_BYTES):
        end = min(at + BLOCK_BYTES, len(buffer))
        zero = not buffer[at] and buffer[at:end] == _ZEROS[:end - at]
        if stretches and stretches[-1][2] == zero:
            stretches[-1] = stretches[-1][0], end, zero
        else:
            stretches.append((at, end, zero))
    return stretches
