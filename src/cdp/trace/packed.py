"""Decompression in bounded memory: readers of .zst, .xz and .bz2 content, one frame or stream after another.

Rules: what is cut raises EOFError, never a silent end; a file cannot choose our memory (WINDOW_BYTES). One thread.
"""
from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Protocol, cast

import zstandard

WINDOW_BYTES = 1 << 27  # largest zstd window (zstd --long=27) and xz dictionary (xz -9 has 64 MiB) that are taken
HEAD_BYTES = 10  # what kind() looks at
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, lzma.LZMAError)  # bz2 raises OSError, no errno
SUFFIXES = (".gz", ".zst", ".xz", ".bz2")  # of names that are shown without them; content decides what a file is
_BZIP2_MAGICS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # of the first block, or of the end of an empty stream
_XZ_MEMORY = WINDOW_BYTES + (1 << 20)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def kind(start: bytes) -> str:
    """gzip, zstd, xz, bzip2, or "" for what is none of them, by the first HEAD_BYTES of the content."""
    if start.startswith(b"\x1f\x8b\x08") and start[3:4] < b"\x20":  # three bytes and no reserved flag
        return "gzip"
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    if start.startswith(b"\xfd7zXZ\0"):
        return "xz"
    if start.startswith(b"BZh") and start[4:] in _BZIP2_MAGICS:
        return "bzip2"
    return ""


def reader(compression: str, source: io.BufferedReader) -> IO[bytes]:
    """The content of `source`, whose compression kind() named. Its read() raises DAMAGE, and OSError of the source."""
    if compression == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=source, mode="rb"))
    if compression == "zstd":
        return cast(IO[bytes], _ZstdReader(source))
    if compression == "xz":
        return cast(IO[bytes], _StreamReader(source, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY), b"\0"))
    return cast(IO[bytes], _StreamReader(source, bz2.BZ2Decompressor))


class _StreamReader:
    """Streams one after another, of which one step's output can be bounded (xz, bzip2).

    padding: what may stand between streams and behind the last one (xz: zeros).
    """

    _INPUT_BYTES = 1 << 16

    def __init__(self, source: io.BufferedReader, make: Callable[[], _Decompressor], padding: bytes = b""):
        self._source, self._make, self._padding = source, make, padding
        self._stream: _Decompressor | None = None
        self._input = b""

    def read(self, size: int) -> bytes:
        while True:
            if not self._input and (self._stream is None or self._stream.needs_input):
                self._input = self._source.read(self._INPUT_BYTES)
                if not self._input and self._stream is None:
                    return b""
                if not self._input:
                    raise EOFError("the last stream is not complete")
            if self._stream is None:
                self._input = self._input.lstrip(self._padding) if self._padding else self._input
                if not self._input:
                    continue
                self._stream = self._make()
            try:
                given = self._stream.decompress(self._input, size)
            except OSError as error:  # bz2's way to say that the data is wrong
                raise EOFError(str(error)) from None
            self._input = b""
            if self._stream.eof:
                self._input, self._stream = self._stream.unused_data, None
            if given:
                return given


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
