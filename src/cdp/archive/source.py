"""A volume, as the writer of its archive sees it: segments that are complete or grow, and a base.

The folder must be readable here; what the volume is asked goes through cdp.views.Service, to its server or to a volume
that is open in this process. One thread.
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cdp.archive import outline
from cdp.moments.lineage import RestoreRecord, gaps
from cdp.moments.model import Moment
from cdp.store import description
from cdp.store.layout import segment_numbers
from cdp.store.volume_files import VolumeFiles
from cdp.views import MAX_PAGE_RECORDS, SegmentView, Service
from cdpcore.base.errors import Corruption, NotFound, RefusedPoint
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import posix

SECTOR_BYTES = 512


class Gone(Exception):
    """What was listed was freed meanwhile: look again."""


@dataclass(frozen=True)
class SourceSegment:
    """A sealed segment, or the durable beginning (`size` bytes) of one that is not."""

    number: int
    first_seq: int
    last_seq: int
    last_ts_ns: int
    sealed: bool
    size: int


class Source(Protocol):
    """What a writer needs of a volume. volume(): the fields of volume.json, as it is now."""

    def volume(self) -> dict[str, Any]: ...

    def look(self, after: int) -> list[SourceSegment]:
        """The segments with a number above `after` that have records, in order; what they hold is durable."""

    def check(self, segment: SourceSegment) -> None:
        """Raises Corruption where what is stored of it is damaged; Gone."""

    def read(self, segment: SourceSegment, offset: int, length: int) -> bytes:
        """Raises Gone."""

    def outline(self, segment: SourceSegment) -> bytes:
        """Of a sealed one (cdp.archive.outline). Raises Gone."""

    def freed(self) -> list[tuple[int, int]]:
        """(t, r) of destructive restores: segments with records in between may be gone."""

    def shows(self, seq: int, ts_ns: int) -> bool | None:
        """Whether that moment is one of this history; None: it cannot be said any more."""

    def oldest(self) -> Moment:
        """The oldest moment that can be opened."""

    def base_ranges(self, since: int) -> Iterator[tuple[int, int]]:
        """(offset, length) from byte `since` on of what the base holds besides zeros, in order."""

    def read_base(self, offset: int, length: int) -> bytes: ...

    def retention(self) -> str | None:
        """The text of retention.json."""


class VolumeSource:
    """Args: service: the volume; folder: its folder; tail: read the open segment where it is, without sealing it."""

    def __init__(self, service: Service, folder: str, tail: bool = False):
        self._service, self._tail = service, tail
        self._os, self._files = posix(), VolumeFiles(folder)
        self._uuid = bytes.fromhex(description.load(self._os, self._files).uuid)

    def volume(self) -> dict[str, Any]:
        """Raises RefusedPoint where it was thinned."""
        return asdict(description.load_unthinned(self._os, self._files, "archives"))

    def look(self, after: int) -> list[SourceSegment]:
        if not self._tail:
            self._service.seal()
        rows = [SourceSegment(row["number"], row["first_seq"], row["last_seq"], row["last_ts_ns"], True,
                              row["file_bytes"]) for row in self._rows(after)]
        if self._tail:
            rows += self._open_ones(max([after, *(row.number for row in rows)]))
        return [row for row in rows if row.first_seq <= row.last_seq]

    def _rows(self, after: int) -> Iterator[SegmentView]:
        at: int | None = after
        while at is not None:
            page = self._service.segments(at, MAX_PAGE_RECORDS)
            yield from page["segments"]
            at = page["next"]

    def _open_ones(self, after: int) -> Iterator[SourceSegment]:
        """Those that the catalog does not name yet: what is in whole frames now, made durable."""
        for number in segment_numbers(self._os, self._files):
            if number <= after:
                continue
            path = self._files.segment(number)
            try:
                with closing(SegmentFile(self._os, path, self._uuid, number)) as segment:
                    segment.scan(0, verify_data=True)
                    if not segment.n_records or segment.last_seq < segment.first_seq:
                        continue
                    found = SourceSegment(number, segment.first_seq, segment.last_seq, segment.last_ts_ns,
                                          segment.sealed, segment.file_bytes if segment.sealed else segment.end_bytes)
                _sync(path)
            except (Corruption, NotFound, FileNotFoundError):   # it is being made, or was freed
                return
            yield found

    def check(self, segment: SourceSegment) -> None:
        if not segment.sealed:
            return              # its frames were
        path = self._files.segment(segment.number)
        try:
            with closing(SegmentFile(self._os, path, self._uuid, segment.number)) as file:
                if not file.sealed or (file.last_seq, file.file_bytes) != (segment.last_seq, segment.size):
                    raise Corruption(f"{path}: is not the segment that it should be", "run 'cdp check' on the volume")
                for offset, what in file.wrong_blocks(freed=True):
                    raise Corruption(f"{path}: byte {offset}: {what}", "run 'cdp check' on the volume")
        except NotFound:
            raise Gone from None

    def read(self, segment: SourceSegment, offset: int, length: int) -> bytes:
        try:
            data = _read(self._files.segment(segment.number), offset, length)
        except FileNotFoundError:
            raise Gone from None
        self.volume()           # afterwards: volume.json says it before the first byte goes
        if len(data) != length:
            raise Gone
        return data

    def outline(self, segment: SourceSegment) -> bytes:
        try:
            return outline.encoded(self._os, self._files.segment(segment.number), self._uuid, segment.number)
        except NotFound:
            raise Gone from None

    def freed(self) -> list[tuple[int, int]]:
        rows = (RestoreRecord(r["seq"], r["ts_ns"], r["target"]["seq"], r["offset"] // SECTOR_BYTES,
                              (r["offset"] + r["length"]) // SECTOR_BYTES, r["destructive"])
                for r in self._service.restores())
        return [(lo, hi) for lo, hi in gaps(rows)]

    def shows(self, seq: int, ts_ns: int) -> bool | None:
        if not seq:
            return True
        newest = self._service.window()["newest"]
        if newest["seq"] < seq:
            return False
        try:
            found = self._service.explain(f"#{seq}")["resolved"]
        except RefusedPoint:
            return None
        return (found["seq"], found["ts_ns"]) == (seq, ts_ns)

    def oldest(self) -> Moment:
        found = self._service.window()["oldest"]
        return Moment(found["seq"], found["ts_ns"])

    def base_ranges(self, since: int) -> Iterator[tuple[int, int]]:
        if not os.path.exists(self._files.base):
            return
        fd = os.open(self._files.base, os.O_RDONLY | os.O_CLOEXEC)
        try:
            end = os.fstat(fd).st_size
            while since < end:
                try:
                    begin = os.lseek(fd, since, os.SEEK_DATA)
                    stop = os.lseek(fd, begin, os.SEEK_HOLE)
                except OSError:     # nothing but a hole up to the end, or a system without holes
                    with suppress(OSError):
                        os.lseek(fd, 0, os.SEEK_HOLE)
                        return
                    begin, stop = since, end
                yield begin, stop - begin
                since = stop
        finally:
            os.close(fd)

    def read_base(self, offset: int, length: int) -> bytes:
        return _read(self._files.base, offset, length)

    def retention(self) -> str | None:
        if not os.path.exists(self._files.retention):
            return None
        return self._os.read_file(self._files.retention).decode()


def _read(path: str, offset: int, length: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        pieces, left = [], length
        while left and (piece := file.read(left)):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


