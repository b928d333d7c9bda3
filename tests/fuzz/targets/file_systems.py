"""Readers of file systems, and of tables of partitions: a damaged disk is Corruption or what it says, in bounded time
and memory.

An input is patches of one ext4 file system of 3 MiB (corpus/file_systems.img.gz): each an offset (3 bytes), a length
(1 byte) and the bytes. Checksums of metadata are off in it, or nothing behind them would be reached.
"""
from __future__ import annotations

import gzip
import itertools
from pathlib import Path

from cdp.files.detect import opened
from cdp.files.follow import Follower
from cdp.files.model import Source
from cdp.files.worker import FAULTS, walk
from cdpcore.base.errors import CdpError

IMAGE = gzip.decompress((Path(__file__).parent.parent / "corpus" / "file_systems.img.gz").read_bytes())
MOST_ENTRIES, MOST_PIECES = 500, 2000
MOST_READ_BYTES = 64 << 20


class Disk(Source):
    def __init__(self, data: bytes):
        self.size_bytes, self._data, self._read = len(data), data, 0

    def pread(self, length: int, offset: int) -> bytes:
        self.check(length, offset)
        self._read += length
        assert self._read < MOST_READ_BYTES, "it reads without end"
        return self._data[offset:offset + length]


def patched(data: bytes) -> bytes:
    disk = bytearray(IMAGE)
    while len(data) > 4:
        at, n = int.from_bytes(data[:3], "little") % len(disk), data[3]
        piece = data[4:4 + n]
        disk[at:at + len(piece)] = piece
        data = data[4 + n:]
    return bytes(disk[:len(IMAGE)])


def one(data: bytes) -> None:
    disk = patched(data)
    try:
        fs, _ = opened(Disk(disk), None)
        for entry in itertools.islice(walk(fs, "/", True), MOST_ENTRIES):
            try:
                if entry.kind == "file":
                    for piece in itertools.islice(fs.pieces(f"/{entry.name}"), MOST_PIECES):
                        assert piece.length >= 0
                        assert piece.disk is None or piece.disk + piece.length <= len(disk)
                fs.stat(f"/{entry.name}", True)
            except CdpError:
                pass
    except CdpError as error:
        assert error.message
    except (Exception, RecursionError) as error:  # as the reader's process has it: damage, but for its own faults
        if isinstance(error, (*FAULTS, MemoryError)):
            raise
    try:
        Follower(Disk(disk), None, "/a/f1").look(None)
    except (Exception, RecursionError) as error:
        if isinstance(error, (*FAULTS, MemoryError)):
            raise
