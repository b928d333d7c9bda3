"""A delta: what changed between two moments of a volume, in one file (docs/format.md, "Deltas").

Invariants
  1. Everything that is read is checked before it is used: the header and each piece's header by a checksum of their
     own, content by the piece's, the whole by the number of pieces and bytes in the last one.
  2. A piece is at most PIECE_BYTES, so memory is bounded whatever a file says.
One thread.
"""
from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Corruption, InvalidRequest

MAGIC = b"cdpdelta"
VERSION = 1
PIECE_BYTES = 1 << 20
NOTHING = (1 << 64) - 1     # as since_seq: from nothing, a disk of zeros
END = 255
_HEADER = struct.Struct("<8sII16sQQQQQ56x")
_PIECE = struct.Struct("<QQIIII")
KINDS = ("data", "zero", "hole")
MAX_BYTES = 1 << 56         # the largest volume


@dataclass(frozen=True)
class DeltaHeader:
    """Whose content it changes, from which moment (since_seq NOTHING: from nothing) to which."""

    volume_uuid: uuid.UUID
    size_bytes: int
    since_seq: int
    since_ts_ns: int
    seq: int
    ts_ns: int

    def base_bookmark(self) -> str:
        """The name of the bookmark by which a copy says that it is what this delta begins with."""
        return bookmark_name(self.volume_uuid, self.since_seq)

    def bookmark(self) -> str:
        """The one that it has afterwards."""
        return bookmark_name(self.volume_uuid, self.seq)


def bookmark_name(volume_uuid: uuid.UUID, seq: int) -> str:
    return f"copy-{volume_uuid.hex[:12]}-{seq}"


@dataclass(frozen=True)
class Piece:
    """A range and its content at the later moment; old_crc: CRC-32C of what it held at the earlier one."""

    offset: int
    length: int
    kind: str
    old_crc: int
    data: bytes


def _sealed(fmt: struct.Struct, fields: tuple[object, ...], at: int) -> bytes:
    """The structure with the CRC-32C of itself, as if that were zero, in the field that begins at byte `at`."""
    raw = bytearray(fmt.pack(*fields))
    raw[at:at + 4] = struct.pack("<I", crc32c(bytes(raw)))
    return bytes(raw)


def _is_sealed(raw: bytes, at: int) -> bool:
    return crc32c(raw[:at] + bytes(4) + raw[at + 4:]) == int.from_bytes(raw[at:at + 4], "little")


def write_delta(write: Callable[[bytes], object], header: DeltaHeader, pieces: Iterator[Piece]) -> tuple[int, int]:
    """Write a delta, in order. Returns (pieces, bytes of the file)."""
    h = header
    head = _sealed(_HEADER, (MAGIC, VERSION, 0, h.volume_uuid.bytes, h.size_bytes, h.since_seq, h.since_ts_ns, h.seq,
                             h.ts_ns), 12)
    write(head)
    count, size = 0, len(head)
    for piece in pieces:
        write(_sealed(_PIECE, (piece.offset, piece.length, KINDS.index(piece.kind), piece.old_crc, crc32c(piece.data),
                               0), 28))
        write(piece.data)
        count, size = count + 1, size + _PIECE.size + len(piece.data)
    write(_sealed(_PIECE, (count, size, END, 0, 0, 0), 28))
    return count, size + _PIECE.size


class DeltaReader:
    """Reads one from a file or a pipe. Raises InvalidRequest (it is none), Corruption."""

    def __init__(self, file: BinaryIO, name: str):
        self._file, self.name, self._at = file, name, 0
        raw = self._take(_HEADER.size, first=True)
        if raw[:8] != MAGIC:
            raise InvalidRequest(f"{name} is not a delta", "give a file that 'cdp export --since' has written")
        _, version, _, identity, size_bytes, since, since_ts_ns, seq, ts_ns = _HEADER.unpack(raw)
        if version != VERSION:
            raise InvalidRequest(f"{name} is a delta of version {version}", "import it with the release that wrote it")
        if not _is_sealed(raw, 12) or size_bytes % 512 or not 0 < size_bytes <= MAX_BYTES:
            raise self._damaged("its header is damaged")
        self.header = DeltaHeader(uuid.UUID(bytes=identity), size_bytes, since, since_ts_ns, seq, ts_ns)

    def pieces(self) -> Iterator[Piece]:
        """All of them, in order; at the end nothing is missing."""
        count = end = 0
        while True:
            before = self._at
            raw = self._take(_PIECE.size)
            if not _is_sealed(raw, 28):
                raise self._damaged(f"the piece at byte {before} is damaged")
            offset, length, kind, old_crc, crc, _ = _PIECE.unpack(raw)
            if kind == END:
                if (offset, length) != (count, before):
                    raise self._damaged("pieces are missing")
                if self._file.read(1):
                    raise self._damaged("there is more behind its end")
                return
            if (kind >= len(KINDS) or offset % 512 or length % 512 or not 0 < length <= PIECE_BYTES or offset < end
                    or offset + length > self.header.size_bytes):
                raise self._damaged(f"the piece at byte {before} is not valid")
            data = self._take(length) if kind == 0 else b""
            if crc32c(data) != crc:
                raise self._damaged(f"the content of the piece at byte {before} is damaged")
            count, end = count + 1, offset + length
            yield Piece(offset, length, KINDS[kind], old_crc, data)

    def _take(self, size: int, first: bool = False) -> bytes:
        found = bytearray()
        while len(found) < size:
            part = self._file.read(size - len(found))
            if not part:
                if first:
                    raise InvalidRequest(f"{self.name} is not a delta",
                                         "give a file that 'cdp export --since' has written")
                raise self._damaged(f"it ends at byte {self._at + len(found)}")
            found += part
        self._at += size
        return bytes(found)

    def _damaged(self, what: str) -> Corruption:
        return Corruption(f"{self.name}: {what}", "export it again")
