"""Deltas out of a volume and into another: an incremental copy, checked from end to end.

A copy that is at a moment of its source says so by a bookmark (DeltaHeader.bookmark), made when a delta was imported. A
delta is refused where that bookmark is missing, where the copy was written to since, and where a range that it changes
does not hold what the source held there. What fails halfway is taken back by a restore.
One thread.
"""
from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from shlex import quote
from typing import BinaryIO

from cdp.cli.delta_file import NOTHING, PIECE_BYTES, DeltaHeader, DeltaReader, Piece, bookmark_name, write_delta
from cdp.cli.transfer import data_pieces, nonzero_ranges
from cdp.service.files_at import ranges
from cdp.views import InfoView, MomentView, Service
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Corruption, InvalidRequest

Done = Callable[[int], None]


def header_of(info: InfoView, since: MomentView | None, at: MomentView) -> DeltaHeader:
    if since is not None and since["seq"] > at["seq"]:
        raise InvalidRequest(f"--since #{since['seq']} is after #{at['seq']}, which is exported", "exchange the two")
    first = (NOTHING, 0) if since is None else (since["seq"], since["ts_ns"])
    return DeltaHeader(uuid.UUID(info["uuid"]), info["size_bytes"], *first, at["seq"], at["ts_ns"])


def export_delta(service: Service, header: DeltaHeader, write: Callable[[bytes], object],
                 progress: Done) -> tuple[int, int, int]:
    """Write what changed. Returns (pieces, bytes of content that they change, bytes of the file)."""
    changed = 0

    def counted() -> Iterator[Piece]:
        nonlocal changed
        for piece in _all(service, header) if header.since_seq == NOTHING else _changed(service, header):
            yield piece
            changed += piece.length
            progress(piece.offset + piece.length)

    count, size = write_delta(write, header, counted())
    return count, changed, size


def _changed(service: Service, header: DeltaHeader) -> Iterator[Piece]:
    old, new = f"#{header.since_seq}!", f"#{header.seq}!"
    for found in ranges(service, header.since_seq, header.seq):
        for offset, length in _cut(found["offset"], found["length"]):
            data = service.read(offset, length, at=new) if found["kind"] not in ("zero", "hole") else b""
            yield Piece(offset, length, found["kind"], crc32c(service.read(offset, length, at=old)), data)


def _all(service: Service, header: DeltaHeader) -> Iterator[Piece]:
    """All that is not zeros."""
    at = f"#{header.seq}!"
    for begin, size in data_pieces(service, header.size_bytes, at):
        data = service.read(begin, size, at=at)
        for run, n in nonzero_ranges(data, begin):
            for offset, length in _cut(run, n):
                yield Piece(offset, length, "data", crc32c(bytes(length)), data[offset - begin:offset - begin + length])


def _cut(offset: int, length: int) -> Iterator[tuple[int, int]]:
    for at in range(offset, offset + length, PIECE_BYTES):
        yield at, min(PIECE_BYTES, offset + length - at)


def check_base(service: Service, header: DeltaHeader, volume: str) -> None:
    """Raises InvalidRequest where a volume is not what the delta begins with."""
    info = service.info()
    if info["size_bytes"] != header.size_bytes:
        raise InvalidRequest(f"{volume} has {info['size_bytes']} bytes, the delta's volume {header.size_bytes}",
                             "import it into a copy of that volume")
    if header.since_seq == NOTHING:
        if any(extent["kind"] == "data" for extent in service.map(limit=1024)["extents"]):
            raise InvalidRequest(f"{volume} has content, and the delta begins with an empty disk",
                                 "import it into a new volume")
        return
    name, last = header.base_bookmark(), None
    for mark in service.bookmarks():
        if mark["name"] == name:
            last = mark
    if last is None:
        start = bookmark_name(header.volume_uuid, 0)[:-1]
        has = [mark["name"] for mark in service.bookmarks() if mark["name"].startswith(start)]
        raise InvalidRequest(
            f"{volume} is not known to be at #{header.since_seq} of the delta's volume {header.volume_uuid}"
            + (f": it is at #{has[-1].removeprefix(start)}" if has else ""),
            f"import the deltas before it first; if {volume} was copied from that moment some other way, say so: "
            f"cdp bookmark {quote(volume)} {name}")
    now = info["window"]["newest"]["seq"]
    written = service.diff(f"#{last['at']['seq']}!", f"#{now}!", limit=1)["ranges"]
    if written:
        raise InvalidRequest(
            f"{volume} was changed since it was at #{header.since_seq} of its source, first at byte "
            f"{written[0]['offset']}", f"go back first: cdp restore {quote(volume + '@' + name)}")


def _check_old(service: Service, piece: Piece) -> None:
    if crc32c(service.read(piece.offset, piece.length)) != piece.old_crc:
        raise InvalidRequest(f"the volume does not hold, at byte {piece.offset}, what the delta begins with",
                             "import it into a copy of the volume that it was exported from, at that moment")


def import_delta(service: Service, file: BinaryIO, reader: DeltaReader, volume: str,
                 progress: Done) -> tuple[int, int]:
    """Apply a delta, whole or not at all. Returns (pieces, bytes that they change)."""
    header = reader.header
    check_base(service, header, volume)
    if twice := file.seekable():    # nothing is written before all of it is known to be right
        for piece in reader.pieces():
            _check_old(service, piece)
        file.seek(0)
        reader = DeltaReader(file, reader.name)
    before = service.info()["window"]["newest"]["seq"]
    count = size = 0
    try:
        if reader.header != header:
            raise Corruption(f"{reader.name}: was changed while it was read", "repeat, with nobody writing to it")
        for piece in reader.pieces():
            if not twice:
                _check_old(service, piece)
            if piece.kind == "data":
                service.write(piece.offset, piece.data)
            else:
                service.zero(piece.offset, piece.length, hole=piece.kind == "hole")
            count, size = count + 1, size + piece.length
            progress(piece.offset + piece.length)
        service.flush()
        service.bookmark(header.bookmark())
    except BaseException:
        if service.info()["window"]["newest"]["seq"] != before:
            service.restore(f"#{before}!", force=True)
        raise
    return count, size
