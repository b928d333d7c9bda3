"""Bytes of a trace file: plain, compressed (cdp.trace.packed) or a pipe, recognized by content; in bounded pieces.

Rules: nothing is ever held but the current piece; a cut or damaged compressed file is an error that names the file,
never a silent end. One thread.
"""
from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from cdp.trace import archive, packed
from cdpcore.base.errors import CdpError, InvalidRequest, NotFound, Unavailable

PIECE_BYTES = 4 << 20  # a columnar reader needs some MiB to use its threads: 16 M records/s at 4 MiB, 12 M at 1 MiB
HEAD_BYTES = 1 << 18  # what is looked at to recognize a format, and all that is looked at ahead in a pipe


class ByteStream:
    """Sequential reader. path "-" is standard input. Raises NotFound, InvalidRequest, Unavailable with the path."""

    def __init__(self, path: str):
        self.path = path
        self.position = 0  # of the next byte that read() gives, uncompressed
        self._ahead = b""
        self._done = 0
        try:
            self._source = _open(path)
        except OSError as error:  # also where opening it works and the kind of file is of no use
            raise _unreadable(path, error) from None
        try:
            member = self._source.raw if isinstance(self._source.raw, archive.Member) else None
            info = None if member else os.fstat(self._source.fileno())
            self.seekable = info is None or stat.S_ISREG(info.st_mode) or stat.S_ISBLK(info.st_mode)
            self.stored_bytes = member.size_bytes if member else self._size() if self.seekable else None
            start = self._source.peek(packed.HEAD_BYTES)
            if len(start) < packed.HEAD_BYTES and not self.seekable:  # a pipe gives what it has: wait for the rest
                start = self._source.read(packed.HEAD_BYTES)
                self._source = io.BufferedReader(_Prefixed(start, self._source), 1 << 16)
            compression = packed.kind(start[: packed.HEAD_BYTES])
            self._file = packed.reader(compression, self._source) if compression else self._source
            self.compression = compression or ("archived" if member else "")
        except OSError as error:
            self._source.close()
            raise _unreadable(path, error) from None
        except packed.DAMAGE as error:  # of an archive's member
            self._source.close()
            raise _damaged(path, "archived", 0, error) from None
        except BaseException:
            self._source.close()
            raise

    def _size(self) -> int:
        here = self._source.tell()
        end = self._source.seek(0, os.SEEK_END)  # also right for a block device, whose st_size is 0
        self._source.seek(here)
        return end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if not self._source.closed:
            self._done = self.done_bytes()
            self._source.close()

    def fileno(self) -> int:
        """Descriptor of the stored file, valid until close()."""
        return self._source.fileno()

    def _read(self, size: int) -> bytes:
        parts, have = [], 0
        try:
            while have < size:
                part = self._file.read(size - have)
                if not part:
                    break
                parts.append(part)
                have += len(part)
        except packed.DAMAGE as error:
            where = self.position + len(self._ahead) + have
            raise _damaged(self.path, self.compression, where, error) from None
        except OSError as error:
            raise _unreadable(self.path, error) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end; they stay to be read."""
        if len(self._ahead) < size:
            self._ahead += self._read(size - len(self._ahead))
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        if not self._ahead:
            data = self._read(size)
        else:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            if len(data) < size:
                data += self._read(size - len(data))
        self.position += len(data)
        return data

    def skip(self, size: int) -> int:
        """Passes over `size` bytes without reading them where the file allows. Returns how many there were."""
        taken = min(size, len(self._ahead))
        self._ahead = self._ahead[taken:]
        self.position += taken
        if not self.compression and self.stored_bytes is not None:
            step = max(0, min(size - taken, self.stored_bytes - self.position))
            self._source.seek(step, os.SEEK_CUR)
            self.position += step
            return taken + step
        while taken < size:
            part = self._read(min(size - taken, PIECE_BYTES))
            if not part:
                break
            self.position += len(part)
            taken += len(part)
        return taken

    def done_bytes(self) -> int:
        """How much of the stored file has been consumed: for a progress bar, where stored_bytes is not None."""
        if self._source.closed:
            return self._done
        return self._source.tell() if self.seekable else self.position


class _Prefixed(io.RawIOBase):
    """Bytes that were read already, then the rest of a pipe."""

    def __init__(self, prefix: bytes, rest: io.BufferedReader):
        self._prefix, self._rest = prefix, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._prefix:
            return self._rest.readinto1(buffer)
        size = min(len(buffer), len(self._prefix))
        buffer[:size], self._prefix = self._prefix[:size], self._prefix[size:]
        return size

    def close(self) -> None:
        self._rest.close()
        super().close()


class TraceFile:
    """Where a trace's bytes come from: opened anew for every pass, or once and for all if it is a pipe."""

    def __init__(self, path: str):
        self.path = path
        stream = ByteStream(path)
        self.seekable = stream.seekable
        self.stored_bytes = stream.stored_bytes
        self._pipe = None if stream.seekable else stream
        self._used = False
        if stream.seekable:
            stream.close()

    def head(self, size: int) -> bytes:
        """The first `size` bytes of content, fewer if there are no more. They stay to be read."""
        if self._pipe:
            return self._pipe.peek(size)
        with ByteStream(self.path) as stream:
            return stream.peek(size)

    def scan(self) -> Iterator[tuple[bytes, bool]]:
        """(piece, is it the last) of the content, to look at before the real pass; of a pipe only the head."""
        if self._pipe:
            yield self._pipe.peek(HEAD_BYTES), True
            return
        with ByteStream(self.path) as stream:
            final = False
            while not final:
                piece = stream.read(PIECE_BYTES)
                final = len(piece) < PIECE_BYTES
                yield piece, final

    def open(self) -> ByteStream:
        """A stream from the start, owned by the caller."""
        if not self._pipe:
            return ByteStream(self.path)
        if self._used:
            raise Unavailable(f"{self.path}: a pipe can be read only once", "store the trace in a file")
        self._used = True
        return self._pipe

    def close(self) -> None:
        """Closes a pipe; idempotent."""
        if self._pipe:
            self._pipe.close()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _damaged(path: str, compression: str, position: int, error: BaseException) -> InvalidRequest:
    return InvalidRequest(f"{path}: {compression} data is cut or damaged after {position} bytes of content "
                          f"({_one_line(error)})", "fetch the file again")


def _unreadable(path: str, error: OSError) -> CdpError:
    """What reading or opening failed with, with the path, and what to do about it."""
    text = f"{path}: {error.strerror or error}"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NotFound(f"{path}: no such file", "check the path")
        case errno.EISDIR:
            return InvalidRequest(f"{path}: is a folder", "name the trace's files")
        case errno.EACCES | errno.EPERM:
            return Unavailable(text, "run as a user who may read it")
        case errno.ENXIO | errno.EINVAL | errno.ESPIPE | errno.ENODEV | errno.EBADF:
            return InvalidRequest(text, "a trace is a file, a block device or a pipe")
    return Unavailable(text, "see the system's log")


def _open(path: str) -> io.BufferedReader:
    """Raises OSError. Standard input by its number: Python has no object for one that was closed at the start."""
    try:
        return io.BufferedReader(io.FileIO(os.dup(0) if path == "-" else path, "rb"), 1 << 16)
    except NotADirectoryError:  # below a file: is that an archive?
        member = archive.open_member(path)
        if member is None:
            raise
        return io.BufferedReader(member, 1 << 16)
