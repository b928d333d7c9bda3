"""What a reader of file systems reads, what it is, and what it answers.

File systems are hostile input. A reader checks each number that it takes from the disk before it uses it, and raises
Corruption where that is impossible; it visits bounded numbers of blocks; it never answers content that the disk does
not say (what it does not know, it refuses).
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from cdpcore.base.errors import Corruption

KINDS = {0o010000: "fifo", 0o020000: "char", 0o040000: "directory", 0o060000: "block", 0o100000: "file",
         0o120000: "symlink", 0o140000: "socket"}
MAX_LINKS = 40      # symbolic links that one path may go through, as the kernel has it


@dataclass(frozen=True)
class Entry:
    """A file, directory or other entry. `mode`: the permission bits; times in ns since 1970; `target`: of a symbolic
    link."""

    name: str
    kind: str
    inode: int
    mode: int
    links: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    generation: int
    target: str | None = None


@dataclass(frozen=True)
class Piece:
    """A part of a file's content, `length` bytes: at `disk` bytes of the disk, or `data`, or (neither) zeros."""

    length: int
    disk: int | None = None
    data: bytes | None = None


class Source(ABC):
    """The bytes of a disk, read-only. One thread."""

    size_bytes: int

    @abstractmethod
    def pread(self, length: int, offset: int) -> bytes:
        """All of [offset, offset + length). Raises Corruption where that is not inside."""

    def check(self, length: int, offset: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise Corruption(f"the file system refers to bytes {offset} to {offset + length} of a disk of "
                             f"{self.size_bytes}")

    def place(self, length: int, offset: int) -> Iterator[Piece]:
        """Where [offset, offset + length) is on the disk that this source is a part of."""
        self.check(length, offset)
        yield Piece(length, disk=offset)


class Window(Source):
    """A part of another source: a partition."""

    def __init__(self, source: Source, offset: int, size_bytes: int):
        source.check(size_bytes, offset)
        self._source, self._offset, self.size_bytes = source, offset, size_bytes

    def pread(self, length: int, offset: int) -> bytes:
        self.check(length, offset)
        return self._source.pread(length, self._offset + offset)

    def place(self, length: int, offset: int) -> Iterator[Piece]:
        self.check(length, offset)
        yield from self._source.place(length, self._offset + offset)


class FileSystem(ABC):
    """A reader of one kind of file system. Paths begin at the root of the file system, with or without /; names that
    are not UTF-8 have surrogates (os.fsdecode)."""

    kind: str
    note = ""       # what is not as the kernel would show it

    @abstractmethod
    def stat(self, path: str, follow: bool = False) -> Entry:
        """`follow`: where it is a symbolic link, what that leads to. Raises NotFound."""

    @abstractmethod
    def entries(self, path: str) -> Iterator[Entry]:
        """What a directory contains, but for . and .., in the order of the disk. Raises NotFound, InvalidRequest."""

    @abstractmethod
    def pieces(self, path: str) -> Iterator[Piece]:
        """The content of a file, in order; links are followed. Raises NotFound, InvalidRequest."""
