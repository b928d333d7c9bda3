"""Frames between a reader's process and the one that has the disk: a kind, a length, bytes. Each end checks both."""
from __future__ import annotations

import os
import struct

# From the process that has the disk: a command, bytes that were asked for. From the reader: bytes are wanted, rows of
# the answer, its end, an error.
COMMAND, BYTES, WANTED, ROWS, END, ERROR = b"c", b"b", b"w", b"r", b"e", b"x"
MAX_FRAME_BYTES = 16 << 20
HEAD = struct.Struct("<cI")
WANTED_RANGE = struct.Struct("<QI")


class Ended(Exception):
    """The other end is gone."""


def send(fd: int, kind: bytes, payload: bytes = b"") -> None:
    data = memoryview(HEAD.pack(kind, len(payload)) + payload)
    while data:
        try:
            data = data[os.write(fd, data):]
        except (BrokenPipeError, ConnectionResetError):
            raise Ended from None


def receive(fd: int) -> tuple[bytes, bytes]:
    """(kind, payload). Raises Ended."""
    kind, length = HEAD.unpack(_exactly(fd, HEAD.size))
    if length > MAX_FRAME_BYTES:
        raise Ended
    return kind, _exactly(fd, length)


def _exactly(fd: int, length: int) -> bytes:
    parts, left = list[bytes](), length
    while left:
        try:
            part = os.read(fd, left)
        except ConnectionResetError:
            raise Ended from None
        if not part:
            raise Ended
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
