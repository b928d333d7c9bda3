"""The outline of a sealed segment: its file without the data of writes (docs/archive-format.md, *Outlines*).

Who has the outlines can make catalog and index, and resolve any point, with no byte of data; and the checksums in it
are what data that is read later is compared with. Compressed, it is some 0.5 % of a segment of 4 KiB writes.

Invariant: whatever text comes in, decoded() gives pieces that lie in the file and do not overlap, or raises Corruption;
it holds 1 MiB of content, and a list of ranges, of which there are at most as many as the file has blocks.
"""
from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing

from cdp.moments.records import BOOKMARK
from cdpcore.base.errors import Corruption
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import File, Os

BLOCK = 4096
PIECE_BYTES = 1 << 20
_ENTRY = struct.Struct("<QQQII")            # of the directory: ..., offset in blocks, descriptors
_SIZES = struct.Struct("<II")               # of a frame, at byte 48: of its data and of its tail
_DESCRIPTOR = struct.Struct("<QQQIIHHI")    # ts, start, sectors, data_sector, crc, kind, flags, data_bytes
_CHANGES = bytes(range(BOOKMARK))           # kinds of records whose data is not part of an outline
Range = tuple[int, int]                     # offset, length


def encoded(os: Os, path: str, uuid: bytes, number: int) -> bytes:
    """Of the sealed segment in the file at `path`. Raises Corruption, NotFound."""
    with closing(SegmentFile(os, path, uuid, number)) as segment, os.open(path) as file:
        ranges = joined(_ranges(segment, file))
        size = segment.file_bytes
        packer = zlib.compressobj(6)
        head = json.dumps({"bytes": size, "ranges": ranges}, separators=(",", ":")).encode() + b"\n"
        out = [packer.compress(head)]
        for offset, length in ranges:
            for at in range(offset, offset + length, PIECE_BYTES):
                out.append(packer.compress(file.pread(min(PIECE_BYTES, offset + length - at), at)))
        out.append(packer.flush())
        return b"".join(out)


def _ranges(segment: SegmentFile, file: File) -> Iterator[Range]:
    """Header, each frame's descriptors, what is not data of writes, and the end, in order."""
    yield 0, BLOCK
    end = BLOCK
    for frame, (_, _, _, block, _) in enumerate(_ENTRY.iter_unpack(segment.directory())):
        offset = block * BLOCK
        data_bytes, tail_bytes = _SIZES.unpack(file.pread(_SIZES.size, offset + 48))
        yield offset, BLOCK
        _, descriptors = segment.records(offset, frame)
        if descriptors[32::_DESCRIPTOR.size].translate(None, _CHANGES):
            for _, _, _, sector, _, kind, _, n_bytes in _DESCRIPTOR.iter_unpack(descriptors):
                if kind >= BOOKMARK and n_bytes:
                    first = sector * 512 // BLOCK * BLOCK
                    yield first, -(-(sector * 512 + n_bytes) // BLOCK) * BLOCK - first
        end = offset + BLOCK + data_bytes + tail_bytes
        if tail_bytes:
            yield offset + BLOCK + data_bytes, tail_bytes
    yield end, segment.file_bytes - end


def joined(ranges: Iterator[Range]) -> list[Range]:
    """Ascending ranges, those that touch or overlap made one."""
    found: list[Range] = []
    for offset, length in ranges:
        if found and offset <= sum(found[-1]):
            found[-1] = found[-1][0], max(sum(found[-1]), offset + length) - found[-1][0]
        elif length:
            found.append((offset, length))
    return found


def decoded(data: bytes, size: int, where: str) -> tuple[list[Range], Iterator[tuple[int, bytes]]]:
    """The ranges of a file of `size` bytes, and pieces (offset, content) of them. Raises Corruption, also while the
    pieces are taken."""
    try:
        unpacker = zlib.decompressobj()
        most = 100 + 50 * (size // BLOCK + 1)
        text = unpacker.decompress(data, most)
        head, newline, rest = text.partition(b"\n")
        inner = json.loads(head)
        ranges = [(int(offset), int(length)) for offset, length in inner["ranges"]]
        at = 0
        for offset, length in ranges:
            if offset < at or length <= 0 or offset % BLOCK or length % BLOCK or offset + length > size:
                raise ValueError("ranges that no segment has")
            at = offset + length
        if not newline or inner["bytes"] != size:
            raise ValueError("it is of another segment")
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(where, error) from None
    return ranges, _pieces(unpacker, rest, ranges, where)


def _pieces(unpacker: zlib._Decompress, rest: bytes, ranges: list[Range], where: str) -> Iterator[tuple[int, bytes]]:
    try:
        for offset, length in ranges:
            while length:
                while len(rest) < min(length, PIECE_BYTES):
                    more = unpacker.decompress(unpacker.unconsumed_tail, PIECE_BYTES)
                    if not more:
                        break
                    rest += more
                piece = rest[:min(length, PIECE_BYTES)]
                if not piece:
                    raise ValueError("it ends too early")
                yield offset, piece
                rest = rest[len(piece):]
                offset, length = offset + len(piece), length - len(piece)
    except (zlib.error, ValueError) as error:
        raise _damaged(where, error) from None


def _damaged(where: str, error: Exception) -> Corruption:
    return Corruption(f"{where}: damaged ({error})", "see whether the store has an earlier version of it")
