"""What is not here of an archive that is read where it lies: fetched when it is read, checked, and dropped again.

Segments are read in ranges, whose blocks are compared with the segment's own table of checksums; parts of the base
whole, because only their digest says whether they are sound. What does not match is never put into the file: whoever
reads it gets an error, and the log says which object it was.

Invariants
  1. At most `limit_bytes` are in the files, but for what is just being read; the oldest goes first.
  2. A range is fetched by one thread at a time; others wait for it.

Threading: any thread.
"""
from __future__ import annotations

import logging
import os
import struct
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

from cdp.archive.manifest import ArchivedSegment, BasePart, Part
from cdp.archive.outline import BLOCK
from cdp.archive.reader import Archive, Deleted
from cdp.store.attached import FAILED
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import CdpError, Corruption
from cdpcore.system.partial import PartialOs

log = logging.getLogger("cdp.archive")
CHUNK = 64                      # blocks: the least that is fetched of a segment
MOST_CHUNKS = 16                # ... that are fetched ahead of who reads on and on
BASE_CHUNK = 256                # blocks of the base that are put together at a time
AT_ONCE = 8                     # requests, for what somebody reads
BASE_PARTS = 4                  # of the base that are kept in memory
SUMS_PER_PAGE = 1023
LIMIT_BYTES = 1 << 30
_TRAILER = struct.Struct("<48xQII4xIQ")     # directory_offset, n_frames, directory_crc, crc, sums_offset


@dataclass
class _File:
    """A partial file. ahead: so many chunks were fetched last time, up to the block `upto`."""

    path: str
    size: int
    ahead: int = 0
    upto: int = -1


@dataclass
class _Segment(_File):
    parts: tuple[Part, ...] = ()
    salt: int = 0
    n_blocks: int = 0
    sums_offset: int = 0        # 0: it has no table


@dataclass
class _Base(_File):
    parts: list[BasePart] = field(default_factory=list)


class Missing:
    """Args: archive: its manifest is the one that everything here is of. `os` reads the files."""

    def __init__(self, archive: Archive, limit_bytes: int = LIMIT_BYTES):
        self._archive, self._limit = archive, limit_bytes
        self.os = PartialOs(self._fetch)
        self._files: dict[int, _Segment | _Base] = {}
        self._changed = threading.Condition()
        self._fetching: set[tuple[int, int]] = set()        # file, chunk; as all below guarded by _changed
        self._kept: deque[tuple[int, int, int]] = deque()   # file, blocks
        self._kept_bytes = 0
        self._parts: OrderedDict[str, bytes] = OrderedDict()
        self.failed: CdpError | None = None                 # what went wrong last
        self._sums = lru_cache(256)(self._read_sums)

    def add_segment(self, path: str, segment: ArchivedSegment, here: list[tuple[int, int]]) -> None:
        """Its file has the ranges `here`: (offset, length)."""
        salt, = struct.unpack("<56xQ", _read(path, 64, 0))
        end, _, _, _, sums_offset = _TRAILER.unpack(_read(path, _TRAILER.size, segment.size - BLOCK))
        number = self.os.add(path, [(0, segment.size)])
        with self._changed:
            self._files[number] = _Segment(path, segment.size, parts=segment.parts, salt=salt, n_blocks=end // BLOCK,
                                           sums_offset=sums_offset)
        for offset, length in here:
            self.os.have(number, offset // BLOCK, (offset + length) // BLOCK)

    def add_base(self, path: str, parts: list[BasePart]) -> None:
        spans: list[tuple[int, int]] = []
        for start, end in sorted((laid.offset // BLOCK * BLOCK, -(-(laid.offset + laid.part.size) // BLOCK) * BLOCK)
                                 for laid in parts):
            if spans and start <= spans[-1][1]:
                spans[-1] = spans[-1][0], max(end, spans[-1][1])
            else:
                spans.append((start, end))
        self._files[self.os.add(path, spans)] = _Base(path, os.path.getsize(path), parts=parts)

    # --- fetching -----------------------------------------------------------------------------------------------------

    def _fetch(self, number: int, first: int, end: int) -> int:
        """As PartialOs says."""
        try:
            file = self._files[number]
            chunk = CHUNK if isinstance(file, _Segment) else BASE_CHUNK
            chunks, reads_on = self._take(number, file, first // chunk, -(-end // chunk), chunk)
            least, most = 0, -(-file.size // BLOCK)
            if isinstance(file, _Segment) and not reads_on:
                least, most = _around(file.parts, first, end)
            wrong: list[int] = []
            try:
                for a, b in _runs(chunks):
                    wrong += self._bring(number, file, max(a * chunk, least), min(b * chunk, most))
            finally:
                with self._changed:
                    self._fetching -= {(number, c) for c in chunks}
                    self._changed.notify_all()
            self._make_room()
            return FAILED if any(first <= block < end for block in wrong) else 0
        except CdpError as error:
            self._note(error)
        except OSError as error:
            log.warning("%s: %s", self._archive.store.url, error)
            return error.errno or FAILED
        return FAILED

    def _note(self, error: CdpError) -> None:
        self.failed = error
        log.warning("%s", error.message)

    def _take(self, number: int, file: _File, first: int, end: int, chunk: int) -> tuple[list[int], bool]:
        """The chunks that the caller fetches: those that nobody does, and some more for who reads on, as it seems.
        Waits for what others fetch."""
        with self._changed:
            while any((number, c) in self._fetching for c in range(first, end)):
                self._changed.wait()
            file.ahead = min(max(2 * file.ahead, end - first), MOST_CHUNKS) if first == file.upto else 0
            file.upto = end = max(end, min(end + file.ahead, -(-file.size // (chunk * BLOCK))))
            chunks = [c for c in range(first, end) if (number, c) not in self._fetching
                      and self.os.missing(number, c * chunk, (c + 1) * chunk)]
            self._fetching |= {(number, c) for c in chunks}
            return chunks, file.ahead > 0

    def _bring(self, number: int, file: _Segment | _Base, first: int, end: int) -> list[int]:
        """Blocks of a file, into it. Returns those that are damaged, which are not."""
        if first >= end:
            return []
        start, stop = first * BLOCK, min(end * BLOCK, file.size)
        data = self._of_segment(file, start, stop) if isinstance(file, _Segment) else self._of_base(file, start, stop)
        wrong: list[int] = []
        for a, b in self.os.missing(number, first, end):
            sound = a
            for block in range(a, b):
                if isinstance(file, _Segment) and not self._sound(number, file, block, data, first):
                    self._put(number, file, data, first, sound, block)
                    wrong.append(block)
                    sound = block + 1
            self._put(number, file, data, first, sound, b)
        return wrong

    def _put(self, number: int, file: _File, data: bytes, first: int, a: int, b: int) -> None:
        """The blocks a..b - 1 of `data`, which begins with the block `first`."""
        if a >= b:
            return
        piece = memoryview(data)[(a - first) * BLOCK:(b - first) * BLOCK]
        with open(file.path, "r+b", buffering=0) as out:
            out.seek(a * BLOCK)
            while piece:
                piece = piece[out.write(piece):]
        self.os.have(number, a, b)
        with self._changed:
            self._kept.append((number, a, b))
            self._kept_bytes += (b - a) * BLOCK

    def _make_room(self) -> None:
        with self._changed:
            tries = len(self._kept)
        for _ in range(tries):
            with self._changed:
                if self._kept_bytes <= self._limit or len(self._kept) < 2:
                    return
                number, a, b = self._kept.popleft()
                self._kept_bytes -= (b - a) * BLOCK
            if not self.os.drop(number, self._files[number].path, a, b):
                with self._changed:     # somebody waits for it: it is as good as new
                    self._kept.append((number, a, b))
                    self._kept_bytes += (b - a) * BLOCK

    # --- segments -----------------------------------------------------------------------------------------------------

    def _of_segment(self, file: _Segment, start: int, stop: int) -> bytes:
        pieces = list(_overlapping(file.parts, start, stop))
        if len(pieces) == 1:
            return self._range(*pieces[0])
        with ThreadPoolExecutor(min(len(pieces), AT_ONCE), "cdp-archive") as pool:
            return b"".join(pool.map(lambda piece: self._range(*piece), pieces))

    def _range(self, part: Part, at: int, length: int) -> bytes:
        data = self._archive.store.get(part.name, at, length)
        where = f"{self._archive.store.url}/{part.name}"
        if data is None:
            raise Deleted(f"{where}: is missing", "open the archive again; then see 'cdp check'")
        if len(data) != length:
            raise Corruption(f"{where}: ends after byte {at + len(data)}, and should have {part.size}",
                             "see whether the store has an earlier version of it")
        return data

    def _sound(self, number: int, file: _Segment, block: int, data: bytes, first: int) -> bool:
        """Whether a block matches the segment's table of checksums; where that says nothing of it, the engine looks at
        its frame."""
        if not file.sums_offset or block >= file.n_blocks:
            return True
        sums = self._sums(number, block // SUMS_PER_PAGE)
        content = memoryview(data)[(block - first) * BLOCK:(block - first + 1) * BLOCK]
        if sums is None or crc32c(content) == sums[block % SUMS_PER_PAGE] or not any(content):
            return True     # of zeros: freed before it was archived, which the engine knows
        (part, at, _), *_ = _overlapping(file.parts, block * BLOCK, (block + 1) * BLOCK)
        self._note(Corruption(f"{self._archive.store.url}/{part.name}: byte {at}: damaged: a block does not match its "
                              "checksum", "see whether the store has an earlier version of it"))
        return False

    def _read_sums(self, number: int, page: int) -> tuple[int, ...] | None:
        """A page of a segment's table; None where it is not valid."""
        file = self._files[number]
        assert isinstance(file, _Segment)
        data = _read(file.path, BLOCK, file.sums_offset + page * BLOCK)
        *sums, crc = struct.unpack("<1024I", data)
        return tuple(sums) if crc32c(struct.pack("<QQ", file.salt, page) + data[:-4]) == crc else None

    # --- the base -----------------------------------------------------------------------------------------------------

    def _of_base(self, file: _Base, start: int, stop: int) -> bytes:
        out = bytearray(-(-(stop - start) // BLOCK) * BLOCK)
        for laid in file.parts:         # later ones are laid over earlier ones
            a, b = max(start, laid.offset), min(stop, laid.offset + laid.part.size)
            if a < b:
                out[a - start:b - start] = self._part(laid.part)[a - laid.offset:b - laid.offset]
        return bytes(out)

    def _part(self, part: Part) -> bytes:
        with self._changed:
            if part.name in self._parts:
                self._parts.move_to_end(part.name)
                return self._parts[part.name]
        data = self._archive.content(part)
        with self._changed:
            self._parts[part.name] = data
            while len(self._parts) > BASE_PARTS:
                self._parts.popitem(last=False)
        return data


def _read(path: str, length: int, offset: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        return file.read(length)


def _runs(chunks: list[int]) -> Iterator[tuple[int, int]]:
    """(first, end) of those that follow each other."""
    for n, chunk in enumerate(chunks):
        if n == 0 or chunks[n - 1] + 1 != chunk:
            first = chunk
        if n + 1 == len(chunks) or chunks[n + 1] != chunk + 1:
            yield first, chunk + 1


def _around(parts: tuple[Part, ...], first: int, end: int) -> tuple[int, int]:
    """Which blocks the parts have, whole, in which these lie: so a read does not begin with requests for what was sent
    at other times."""
    at, least, most = 0, first, end
    for part in parts:
        if at < end * BLOCK and at + part.size > first * BLOCK:
            least, most = min(least, -(-at // BLOCK)), max(most, (at + part.size) // BLOCK)
        at += part.size
    return least, most


def _overlapping(parts: tuple[Part, ...], start: int, stop: int) -> Iterator[tuple[Part, int, int]]:
    """(part, offset in it, length) of a range of the file that they make."""
    at = 0
    for part in parts:
        a, b = max(start, at), min(stop, at + part.size)
        if a < b:
            yield part, a - at, b - a
        at += part.size
