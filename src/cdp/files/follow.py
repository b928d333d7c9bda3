"""The state of one file, from moment to moment: what it is, and on which bytes of the disk that depends.

The answer at a later moment is the same for as long as none of those bytes changes. So whoever follows a file asks the
index when they change next, and looks at no moment between. Where only the journal went on, what it held is not read
again; where no block that the answer depends on has another version in it, the answer is not worked out again.

Runs in the reader's process. One thread.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple
from typing import Any

from cdp.files.detect import opened
from cdp.files.ext4.filesystem import Ext4
from cdp.files.ext4.journal import Journal
from cdp.files.model import Source
from cdpcore.base.errors import CdpError, InvalidRequest, NotFound

Range = tuple[int, int]     # offset, length
MAX_PIECES = 4096           # of a file whose data is followed, too


class Noted(Source):
    """A source that notes what is read of it, and keeps that."""

    def __init__(self, source: Source):
        self._source, self.size_bytes = source, source.size_bytes
        self._kept: dict[Range, bytes] = {}
        self.read: set[Range] = set()

    def pread(self, length: int, offset: int) -> bytes:
        self.check(length, offset)
        key = offset, length
        self.read.add(key)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._source.pread(length, offset)
        return found

    def forget(self, changed: list[Range] | None, needed: set[Range]) -> None:
        """What changed, and what is not needed: nobody would say that it changes."""
        self._kept = {} if changed is None else {
            key: data for key, data in self._kept.items() if key in needed and not overlap([key], changed)}


class Follower:
    """`source`: the disk, as of the moment that is asked about."""

    def __init__(self, source: Source, partition: int | None, path: str):
        self._disk, self._partition, self._path = Noted(source), partition, path
        self._journal: Journal | None = None
        self._answer: tuple[Any, ...] = ()
        self._answer_reads: set[Range] = set()      # of the disk
        self._blocks: dict[int, Any] = {}           # of the file system: where the journal has them
        self._depends: set[Range] = set()

    def look(self, changed: list[Range] | None) -> tuple[Any, ...]:
        """(state, why there is none, its data's pieces, what all of it depends on) at the moment; `changed`: of what
        the last answer depends on, None: anything may have."""
        disk = self._disk
        disk.forget(changed, self._depends)
        if self._journal is not None and (changed is None or overlap(self._journal.taken(), changed)):
            self._journal = None
        disk.read = set()
        fs: Ext4 | None = None
        try:
            found, _ = opened(disk, self._partition, self._journal)
            if not isinstance(found, Ext4):
                raise InvalidRequest("versions are found of ext4 only", "compare moments: cdp diff --files")
            fs = found
            self._journal = fs.journal
        except CdpError as error:
            self._answer = None, error.message, []
            self._answer_reads, self._blocks = set(), {}
        opening = disk.read
        if fs is not None and (changed is None or not self._answer_reads or overlap(self._answer_reads, changed)
                               or any(fs.where(block) != held for block, held in self._blocks.items())):
            disk.read, fs.blocks_read = set(), {}
            self._answer = self._state(fs)
            self._answer_reads, self._blocks = disk.read, fs.blocks_read
        self._depends = opening | self._answer_reads | set(self._journal.taken() if self._journal else ())
        return (*self._answer, merged(self._depends))

    def _state(self, fs: Ext4) -> tuple[Any, ...]:
        try:
            entry = fs.stat(self._path)
        except NotFound as error:
            return None, error.message, []
        except CdpError as error:
            return None, error.message, []
        pieces: list[Range] = []
        try:
            if entry.kind == "file":
                for piece in fs.pieces(self._path):
                    if piece.disk is not None and len(pieces) < MAX_PIECES:
                        pieces.append((piece.disk, piece.length))
        except CdpError as error:
            return astuple(entry), error.message, []
        return astuple(entry), "", pieces


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same bytes in as few ranges as can be, in order."""
    found: list[Range] = []
    for offset, length in sorted(ranges):
        if found and offset <= found[-1][0] + found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], offset + length - found[-1][0])
        else:
            found.append((offset, length))
    return found


def overlap(ranges: Iterable[Range], others: list[Range]) -> bool:
    return any(offset < at + n and at < offset + length for offset, length in ranges for at, n in others)
