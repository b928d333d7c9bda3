"""The process that readers run in: it has one socket, and asks over it for the bytes of the disk.

    python -m cdp.files.worker FD SIZE MEMORY_BYTES CPU_SECONDS PARTITION

A command is a JSON array [name, path, options]; what it answers is rows (JSON arrays), then the end, or an error
[class, message, hint]. One command at a time.
"""
from __future__ import annotations

import base64
import json
import sys
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from typing import Any

from cdp.files.channel import BYTES, COMMAND, END, ERROR, ROWS, WANTED, WANTED_RANGE, Ended, receive, send
from cdp.files.detect import opened
from cdp.files.follow import Follower, merged
from cdp.files.model import Entry, FileSystem, Piece, Source
from cdp.files.sandbox import lock_down
from cdpcore.base.errors import CdpError, Corruption

CHUNK_BYTES, CHUNKS = 64 << 10, 256     # what is kept of the disk: 16 MiB
LARGEST_READ_BYTES = 4 << 20
ROWS_IN_FRAME = 256
MAX_DEPTH = 4096
FAULTS = (ImportError, NameError, AttributeError, AssertionError, OSError)      # of this program, not of a disk


class Asked(Source):
    """The disk, through the socket; with a cache."""

    def __init__(self, fd: int, size_bytes: int, kept: int = CHUNKS):
        self._fd, self.size_bytes, self._kept = fd, size_bytes, kept
        self._chunks: OrderedDict[int, bytes] = OrderedDict()

    def pread(self, length: int, offset: int) -> bytes:
        self.check(length, offset)
        if length > LARGEST_READ_BYTES:
            return b"".join(self._ask(at, min(LARGEST_READ_BYTES, offset + length - at))
                            for at in range(offset, offset + length, LARGEST_READ_BYTES))
        if not self._kept:
            return self._ask(offset, length)
        first, last = offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES
        if first == last:
            skip = offset % CHUNK_BYTES
            return self._chunk(first)[skip:skip + length]
        if length > CHUNK_BYTES:
            return self._ask(offset, length)
        data = b"".join(self._chunk(i) for i in range(first, last + 1))
        return data[offset - first * CHUNK_BYTES:][:length]

    def _chunk(self, number: int) -> bytes:
        found = self._chunks.get(number)
        if found is None:
            at = number * CHUNK_BYTES
            found = self._chunks[number] = self._ask(at, min(CHUNK_BYTES, self.size_bytes - at))
            if len(self._chunks) > self._kept:
                self._chunks.popitem(last=False)
        else:
            self._chunks.move_to_end(number)
        return found

    def _ask(self, offset: int, length: int) -> bytes:
        send(self._fd, WANTED, WANTED_RANGE.pack(offset, length))
        kind, data = receive(self._fd)
        if kind != BYTES or len(data) != length:
            raise Ended
        return data


def walk(fs: FileSystem, path: str, recursive: bool) -> Iterator[Entry]:
    """What is below a directory, by name; `recursive`: with names that are paths from there. A directory that is met
    a second time, which only a damaged file system has, is not entered."""
    seen, left = {fs.stat(path, True).inode}, [("", path)]
    while left:
        prefix, at = left.pop()
        below = []
        for entry in sorted(fs.entries(at), key=lambda one: one.name):
            name = prefix + entry.name
            yield Entry(name, *astuple(entry)[1:])
            if recursive and entry.kind == "directory" and entry.inode not in seen:
                seen.add(entry.inode)
                if name.count("/") > MAX_DEPTH:
                    raise Corruption(f"directories are more than {MAX_DEPTH} deep")
                below.append((f"{name}/", f"{path}/{name}"))
        left += reversed(below)


def touched(fs: FileSystem, path: str, ranges: list[tuple[int, int]]) -> Iterator[tuple[str]]:
    """The files below a path whose data is in some ranges of the disk."""
    ranges = merged(ranges)
    ends = [offset + length for offset, length in ranges]
    for entry in walk(fs, path, True):
        if entry.kind == "file" and any(
                piece.disk is not None and (i := bisect_right(ends, piece.disk)) < len(ranges)
                and ranges[i][0] < piece.disk + piece.length for piece in fs.pieces(f"{path}/{entry.name}")):
            yield (entry.name,)


def _rows(fs: FileSystem, name: str, path: str, options: dict[str, Any]) -> Iterable[tuple[Any, ...]]:
    if name == "stat":
        return [astuple(fs.stat(path, options["follow"]))]
    if name == "entries":
        return map(astuple, walk(fs, path, options["recursive"]))
    if name == "touched":
        return touched(fs, path, options["ranges"])
    if name == "pieces":
        return map(_packed, fs.pieces(path))
    raise ValueError(name)


def _packed(piece: Piece) -> tuple[Any, ...]:
    return piece.length, piece.disk, None if piece.data is None else base64.b64encode(piece.data).decode()


def _answer(fd: int, rows: Iterable[tuple[Any, ...]]) -> None:
    batch: list[tuple[Any, ...]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS_IN_FRAME:
            send(fd, ROWS, json.dumps(batch).encode())
            batch = []
    send(fd, ROWS, json.dumps(batch).encode())
    send(fd, END)


def _error(error: Exception) -> list[str]:
    if isinstance(error, CdpError):
        return [type(error).__name__, error.message, error.hint]
    if isinstance(error, MemoryError):
        return ["Unavailable", "the file system needs more memory than its reader may have",
                "mount the moment: cdp shell VOLUME@POINT"]
    if isinstance(error, FAULTS) or type(error) is LookupError:     # the latter: a codec that is not loaded
        return ["Unavailable", f"the reader failed: {type(error).__name__}: {error}",
                "report it; meanwhile mount the moment: cdp shell VOLUME@POINT"]
    return ["Corruption", f"the file system is damaged: {type(error).__name__}: {error}", ""]


def main(argv: list[str]) -> None:
    fd, size_bytes, memory_bytes, cpu_seconds, partition = map(int, argv)
    fs: FileSystem | None = None
    follower: Follower | None = None
    filtered = lock_down(memory_bytes, cpu_seconds)
    while True:
        kind, command = receive(fd)
        if kind != COMMAND:
            raise Ended
        try:
            name, path, options = json.loads(command)
            if name == "follow":
                follower = follower or Follower(Asked(fd, size_bytes, 0), partition or None, path)
                _answer(fd, [follower.look(options["changed"])])
                continue
            if fs is None:
                fs, number = opened(Asked(fd, size_bytes), partition or None)
                about = (fs.kind, number, fs.note, filtered)
            _answer(fd, [about] if name == "about" else _rows(fs, name, path, options))
        except Ended:
            raise
        except (Exception, RecursionError) as error:  # noqa: BLE001  (whatever a damaged file system leads to)
            send(fd, ERROR, json.dumps(_error(error)).encode())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Ended, KeyboardInterrupt):
        pass
