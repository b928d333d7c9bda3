"""The files of a moment, for the process that has the disk: starts the reader's process, gives it the bytes that it
asks for, and checks what it answers.

Nothing that a file system says is believed here: places on the disk are checked, sizes are bounded, and a reader that
takes too long, or too much memory, is ended. Content does not go through the reader: it says where it is on the disk,
and it is read from there. One thread.
"""
from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from cdp.files.channel import (
    BYTES,
    COMMAND,
    END,
    ERROR,
    MAX_FRAME_BYTES,
    ROWS,
    WANTED,
    WANTED_RANGE,
    Ended,
    receive,
    send,
)
from cdp.files.model import Entry, Piece
from cdpcore.base.errors import CdpError, Closed, Corruption, InvalidRequest, NotFound, Unavailable

MEMORY_BYTES, CPU_SECONDS = 512 << 20, 60
SILENT_S = 300.0        # longer than CPU_SECONDS: on a busy machine it may wait
MAX_ROWS, RANGES_IN_COMMAND = 2_000_000, 100_000
CONTENT_BYTES, BUFFER_BYTES, MAX_READ_BYTES = 4 << 20, 1 << 16, 1 << 30
HINT = "read another moment, or check this one: cdp shell VOLUME@POINT; 'cdp bisect --fsck' finds when it broke"
_ERRORS: dict[str, type[CdpError]] = {one.__name__: one for one in (Corruption, InvalidRequest, NotFound, Unavailable)}
Read = Callable[[int, int], bytes]      # (length, offset), as TimeImage.pread


class _Answer(Exception):
    """An error that the reader answers."""

    def __init__(self, error: CdpError):
        super().__init__()
        self.error = error


class Session:
    """A reader's process, started when it is first asked. A context manager. One thread.

    Args: read: the bytes of the disk; size_bytes; partition: None: the whole disk, or the only one that can be read;
    memory_bytes, cpu_seconds: what the reader's process may take.
    """

    _process: subprocess.Popen[bytes] | None = None     # before __init__ is through, too

    def __init__(self, read: Read, size_bytes: int, partition: int | None = None, *, memory_bytes: int = MEMORY_BYTES,
                 cpu_seconds: int = CPU_SECONDS):
        if partition is not None and not 1 <= partition <= 1024:
            raise InvalidRequest(f"partition {partition}", "partitions count from 1")
        self._read, self._size, self._partition = read, size_bytes, partition or 0
        self._memory_bytes, self._cpu_seconds = memory_bytes, cpu_seconds
        self._fd, self._closed = -1, False

    def follow(self, path: str, changed: list[tuple[int, int]] | None
               ) -> tuple[Entry | None, str, list[tuple[int, int]], list[tuple[int, int]]]:
        """What is at a path at the moment that is read now, or why there is nothing; where its data is; on which ranges
        of the disk all that depends. `changed`: of these, since it was asked before; None: anything may have."""
        entry, why, pieces, depends = self._call("follow", path, changed=changed)[0]
        return None if entry is None else _entry(entry), _printable(why), self._ranges(pieces), self._ranges(depends)

    def _ranges(self, rows: Any) -> list[tuple[int, int]]:
        found = [(offset, length) for offset, length in rows if type(offset) is int and type(length) is int
                 and offset >= 0 and 0 < length <= self._size - offset]
        if len(found) != len(rows):
            raise Corruption("the reader of the file system names what is not on the disk")
        return found

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    # --- the reader's process -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(SILENT_S), 0))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cdp.files.worker", *map(str, (
                    theirs.fileno(), self._size, self._memory_bytes, self._cpu_seconds, self._partition))],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True)
        self._fd = ours.detach()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            os.close(self._fd)
            process.kill()
            process.wait()

    def _call(self, name: str, path: str = "/", **options: Any) -> list[Any]:
        if self._closed:
            raise Closed("the files are closed")
        if self._process is None:
            self._start()
        try:
            return self._conversation(json.dumps([name, path, options]).encode())
        except Ended:
            raise self._why_it_ended() from None
        except _Answer as answer:
            raise answer.error from None
        except BlockingIOError:
            self._end()
            raise Unavailable(f"the reader of the file system has said nothing for {SILENT_S:.0f} s",
                              "repeat where the machine is less busy") from None
        except BaseException:
            self._end()
            raise

    def _conversation(self, command: bytes) -> list[Any]:
        rows: list[Any] = []
        send(self._fd, COMMAND, command)
        while True:
            kind, payload = receive(self._fd)
            if kind == WANTED and len(payload) == WANTED_RANGE.size:
                offset, length = WANTED_RANGE.unpack(payload)
                if length > MAX_FRAME_BYTES or offset + length > self._size:
                    raise Ended
                send(self._fd, BYTES, self._read(length, offset))
            elif kind == ROWS:
                rows += json.loads(payload)
                if len(rows) > MAX_ROWS:
                    raise Unavailable(f"there are more than {MAX_ROWS} answers", "ask for a folder further down")
            elif kind == END:
                return rows
            elif kind == ERROR:
                name, message, hint = json.loads(payload)
                raise _Answer(_ERRORS.get(name, Corruption)(_printable(message), _printable(hint) or HINT))
            else:
                raise Ended

    def _why_it_ended(self) -> CdpError:
        process = self._process
        assert process is not None
        try:
            status = process.wait(5)
        except subprocess.TimeoutExpired:
            status = 0
        self._end()
        if status in (-signal.SIGXCPU, -signal.SIGKILL):
            return Unavailable(f"the file system takes its reader more than {self._cpu_seconds} s",
                               "it may be damaged; mount the moment: cdp shell VOLUME@POINT")
        return Corruption(f"the file system ends its reader (status {status})",
                          "it is damaged, or this is a bug: please report it")


class Files(Session):
    """The files of a disk as of one moment."""

    def about(self) -> dict[str, Any]:
        """kind: of the file system; partition: its number, or None; note: what is not as the kernel would show it;
        filtered: whether the system calls of the reader are."""
        kind, partition, note, filtered = self._call("about")[0]
        return {"kind": str(kind), "partition": partition, "note": str(note), "filtered": bool(filtered)}

    def stat(self, path: str = "/", follow: bool = False) -> Entry:
        """`follow`: where it is a symbolic link, what that leads to. Raises NotFound."""
        return _entry(self._call("stat", path, follow=follow)[0])

    def entries(self, path: str = "/", recursive: bool = False) -> list[Entry]:
        """What a directory contains, by name; `recursive`: also what is below, with names that are paths from there.
        Raises NotFound, InvalidRequest."""
        return [_entry(row) for row in self._call("entries", path, recursive=recursive)]

    def touched(self, path: str, ranges: list[tuple[int, int]]) -> set[str]:
        """The files below a directory whose data is, at least in part, in some ranges of the disk."""
        found: set[str] = set()
        for at in range(0, len(ranges), RANGES_IN_COMMAND):
            found.update(str(name) for (name,) in self._call("touched", path,
                                                             ranges=ranges[at:at + RANGES_IN_COMMAND]))
        return found

    def pieces(self, path: str) -> list[Piece]:
        """Where the content of a file is; links are followed. Raises NotFound, InvalidRequest."""
        found = []
        for length, disk, data in self._call("pieces", path):
            raw = None if data is None else base64.b64decode(data)
            if type(length) is not int or length < 0 or raw is not None and len(raw) != length or disk is not None and (
                    type(disk) is not int or not 0 <= disk <= self._size - length):
                raise Corruption(f"{path}: the file system says that it is where it cannot be")
            found.append(Piece(length, disk, raw))
        return found

    def open(self, path: str) -> io.BufferedReader:
        """A file, to read; valid as long as the disk is. Raises NotFound, InvalidRequest."""
        return io.BufferedReader(_File(self._read, self.pieces(path)), BUFFER_BYTES)

    def read(self, path: str) -> bytes:
        """All of a file of at most MAX_READ_BYTES: a damaged one may say that it has any size. Raises NotFound,
        InvalidRequest."""
        if (size := self.stat(path, follow=True).size_bytes) > MAX_READ_BYTES:
            raise InvalidRequest(f"{path}: {size} bytes are too many to read at once",
                                 "read it in parts: open(), content()")
        return b"".join(self.content(path))

    def content(self, path: str) -> Iterator[bytes]:
        """All of a file, in parts."""
        for piece in self.pieces(path):
            for at in range(0, piece.length, CONTENT_BYTES):
                n = min(CONTENT_BYTES, piece.length - at)
                yield _bytes(self._read, piece, at, n)


class _File(io.RawIOBase):
    """A file of a moment."""

    def __init__(self, read: Read, pieces: list[Piece]):
        super().__init__()
        self._read, self._pieces, self._at = read, pieces, 0
        self._starts = [0]
        for piece in pieces:
            self._starts.append(self._starts[-1] + piece.length)
        self._size = self._starts.pop()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if self._at >= self._size or not view:
            return 0
        i = bisect_right(self._starts, self._at) - 1
        piece, skip = self._pieces[i], self._at - self._starts[i]
        n = min(len(view), piece.length - skip, CONTENT_BYTES)
        view[:n] = _bytes(self._read, piece, skip, n)
        self._at += n
        return n


def _bytes(read: Read, piece: Piece, skip: int, length: int) -> bytes:
    if piece.data is not None:
        return piece.data[skip:skip + length]
    return bytes(length) if piece.disk is None else read(length, piece.disk + skip)


def _printable(text: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(text)[:1000])


def _entry(row: Any) -> Entry:
    try:
        entry = Entry(*row)
    except TypeError:
        raise Corruption("the reader of the file system answers what is no file") from None
    if not isinstance(entry.name, str) or not isinstance(entry.kind, str) or not all(
            type(n) is int for n in (entry.inode, entry.mode, entry.links, entry.uid, entry.gid, entry.size_bytes,
                                     entry.mtime_ns, entry.ctime_ns, entry.generation)):
        raise Corruption("the reader of the file system answers what is no file")
    return entry
