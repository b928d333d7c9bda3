"""A raw disk image that comes through a pipe: read once, in order, its size known when it has ended.

Memory: one piece. Called from one thread.
"""
import os
import select
from collections.abc import Iterator

from cdp.cli.transfer import PIECE_BYTES, SECTOR_BYTES, Content, Done, Range, nonzero_ranges
from cdpcore.base.errors import InvalidRequest


class Stream(Content):
    """The bytes of a descriptor up to its end; its first piece is read at once. `limit_bytes`: so many and no more."""

    def __init__(self, fd: int, path: str):
        self.path = path
        self.limit_bytes: int | None = None
        self._fd = fd
        self._piece, self._piece_at = b"", 0
        self._next()

    @property
    def file_bytes(self) -> int:    # type: ignore[override]
        """So far."""
        return self._piece_at + len(self._piece)

    @property
    def size_bytes(self) -> int:    # type: ignore[override]
        """So far, in whole sectors."""
        return -(-self.file_bytes // SECTOR_BYTES) * SECTOR_BYTES

    def close(self) -> None:
        """The descriptor is not ours."""

    def pread(self, length: int, offset: int) -> bytes:
        """Of the first piece, before nonzero(); zeros beyond it."""
        return self._piece[offset:offset + length].ljust(length, b"\0")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Inside a range that nonzero() has just given."""
        begin = offset - self._piece_at
        buffer[:] = self._piece[begin:begin + len(buffer)].ljust(len(buffer), b"\0")

    def nonzero(self, scanned: Done) -> Iterator[Range]:
        """As Content's. Raises InvalidRequest beyond limit_bytes."""
        while self._piece:
            if self.limit_bytes is not None and self.file_bytes > self.limit_bytes:
                raise InvalidRequest(f"{self.path} has more than {self.limit_bytes} bytes",
                                     "import it into a larger volume, or into a new one")
            for offset, part in nonzero_ranges(self._piece, self._piece_at):
                yield offset, -(-part // SECTOR_BYTES) * SECTOR_BYTES
            scanned(self.file_bytes)
            self._next()

    def _next(self) -> None:
        """A whole piece, unless it is the last: pieces begin where blocks do."""
        piece = bytearray(PIECE_BYTES)
        filled = 0
        while filled < PIECE_BYTES:
            try:
                got = os.readv(self._fd, [memoryview(piece)[filled:]])
            except BlockingIOError:     # a pipe that somebody has set so, as ssh does
                select.select([self._fd], [], [])
                continue
            if not got:
                break
            filled += got
        self._piece_at += len(self._piece)
        self._piece = bytes(piece[:filled])
