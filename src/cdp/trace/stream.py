"""Bytes of a trace file: plain, .gz, .zst or a pipe, recognized by content; in bounded pieces.

Rules: nothing is ever held but the current piece; a cut or damaged compressed file is an error that names the file,
never a silent end. One thread.
"""
from __future__ import annotations

import errno
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any, Self, cast

import zstandard

from cdpcore.base.errors import CdpError, InvalidRequest, NotFound, Unavailable

PIECE_BYTES = 4 << 20  # a columnar reader needs some MiB to use its threads: 16 M records/s at 4 MiB, 12 M at 1 MiB
HEAD_BYTES = 1 << 18  # what is looked at to recognize a format, and all that is looked at ahead in a pipe
WINDOW_BYTES = 1 << 27  # the largest zstd window taken (zstd --long=27); more would let a file choose our memory
_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)


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
            info = os.fstat(self._source.fileno())
            self.seekable = stat.S_ISREG(info.st_mode) or stat.S_ISBLK(info.st_mode)
            self.stored_bytes = self._size() if self.seekable else None
            start = self._source.peek(4)
            if len(start) < 4 and not self.seekable:  # a pipe gives what it has: wait for the rest of a magic
                start = self._source.read(4)
                self._source = io.BufferedReader(_Prefixed(start, self._source), 1 << 16)
            if start.startswith(_GZIP) and start[3:4] < b"\x20":  # three bytes and no reserved flag
                self.compression = "gzip"
                self._file: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=self._source, mode="rb"))
            elif start.startswith(_ZSTD):
                self.compression = "zstd"
                self._file = cast(IO[bytes], _ZstdReader(self._source))
            else:
                self.compression = ""
                self._file = self._source
        except OSError as error:
            self._source.close()
            raise _unreadable(path, error) from None
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
        except _DAMAGE as error:
            where = self.position + len(self._ahead) + have
            raise InvalidRequest(f"{self.path}: {self.compression} data is cut or damaged after {where} bytes of "
                                 f"content ({_one_line(error)})", "fetch the file again") from None
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


class _ZstdReader:
    """Frames one after another. The package's own stream reader takes a cut frame for an end; this one raises EOFError.

    Input is fed in small steps, because a step's output cannot be bounded otherwise: a block of 4 bytes can stand for
    128 KiB, so 2 KiB can become 64 MiB. For ordinary data a step gives some 8 KiB, which costs a microsecond.
    """

    _STEP_BYTES = 2048

    def __init__(self, source: io.BufferedReader):
        self._source = source
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = b""

    def read(self, size: int) -> bytes:
        while not self._output:
            if not self._input:
                self._input = self._source.read(self._STEP_BYTES)
            if not self._input:
                if self._frame is None:
                    return b""
                raise EOFError("the last frame is not complete")
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj()
            self._output = self._frame.decompress(self._input)
            self._input = b""
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = None
        given, self._output = self._output[:size], self._output[size:]
        return given


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


def _unreadable(path: str, error: OSError) -> CdpError:
    """What reading or opening failed with, with the path, and what to do about it."""
    text = f"{path}: {error.strerror or error}"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NotFound(f"{path}: no such file", "check the path")
        case errno.EISDIR:
            return InvalidRequest(f"{path}: is a directory", "name the trace's files")
        case errno.EACCES | errno.EPERM:
            return Unavailable(text, "run as a user who may read it")
        case errno.ENXIO | errno.EINVAL | errno.ESPIPE | errno.ENODEV | errno.EBADF:
            return InvalidRequest(text, "a trace is a file, a block device or a pipe")
    return Unavailable(text, "see the system's log")


def _open(path: str) -> io.BufferedReader:
    """Raises OSError. Standard input by its number: Python has no object for one that was closed at the start."""
    return io.BufferedReader(io.FileIO(os.dup(0) if path == "-" else path, "rb"), 1 << 16)
