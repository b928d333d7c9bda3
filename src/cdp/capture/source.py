"""A write log (dm-log-writes, QEMU's blklogwrites) that somebody else may still be writing: a file or a block device.

Invariants
  1. Nothing is written to it and nothing in it is locked: its writer cannot be held up.
  2. What is read was on the device or in the page cache that the writer writes to. dm-log-writes writes past the page
     cache of the block device, so a device is read directly.
  3. The count of the super block is taken when two readings agree: it is written while it is read.
One thread.
"""
from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cdpcore.base.errors import CdpError, Corruption, InvalidRequest, NotFound, Unavailable
from cdpcore.system.os import posix
from cdpcore.trace import parse as traceparse

ALIGN = 4096
READINGS = 8
NOT_A_LOG = "name the log of dm-log-writes or of QEMU's blklogwrites"


@dataclass(frozen=True)
class Super:
    """What the first sector says: how many entries are in the log, and the unit of its addresses and lengths in
    bytes."""

    entries: int
    sector_bytes: int
    raw: bytes


class LogSource:
    """The log at `path`. Raises NotFound, Unavailable, InvalidRequest (neither file nor device)."""

    def __init__(self, path: str):
        self.path = path
        found = self._found()
        if found is None:
            raise NotFound(f"{path}: no such log", "make it first, empty, before its writer is started: touch it")
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
            raise InvalidRequest(f"{path}: neither a file nor a block device", NOT_A_LOG)
        self.is_device = stat.S_ISBLK(found.st_mode)
        self._identity = _identity(found)
        self._file = posix().open(path, direct=self.is_device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._file.close()

    def _found(self) -> os.stat_result | None:
        try:
            return os.stat(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"{self.path}: {error.strerror}", "run as a user who may read it") from None

    def gone(self) -> str:
        """How the path no longer leads to the log that is open; "" while it does."""
        found = self._found()
        if found is None:
            return "was removed"
        return "" if _identity(found) == self._identity else "was replaced by another one"

    def size_bytes(self) -> int | None:
        """Where a file ends now; of a device it is not known how far it has been written."""
        return None if self.is_device else self._file.size()

    def quiet_ns(self, now_ns: int) -> int:
        """How long a file has not been written to; 0 for a device, of which that is not known."""
        return 0 if self.is_device else max(0, now_ns - os.stat(self.path).st_mtime_ns)

    def read(self, position: int, size: int) -> memoryview:
        """Up to `size` bytes from byte `position`; fewer only at the end. Valid as long as it is held."""
        start = position - position % ALIGN
        end = -(-(position + size) // ALIGN) * ALIGN
        try:
            data = self._file.pread(end - start, start)
        except CdpError as error:
            raise Unavailable(f"{self.path}: byte {position}: {error.message}",
                              "see the system's log; what was taken is kept") from None
        return memoryview(data)[position - start:position - start + size]

    def super_block(self) -> Super | None:
        """The first sector as it is now; None where its writer has not begun. Raises InvalidRequest, Corruption."""
        size = traceparse.DmLogParser.SUPER_BYTES
        head, before = bytes(self.read(0, size)), None
        for _ in range(READINGS):
            if head == before:
                break
            before, head = head, bytes(self.read(0, size))
        else:
            raise Corruption(f"{self.path}: its super block never reads the same twice",
                             "see whether two writers use it")
        if len(head) < size or not any(head):
            return None
        parser = traceparse.DmLogParser(head)
        if not parser.valid:
            _, byte, expected = parser.bad()
            raise InvalidRequest(f"{self.path}: not a write log: byte {byte}: expected {expected}", NOT_A_LOG)
        return Super(parser.entries, parser.sector_bytes, head)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return (found.st_rdev, 0) if stat.S_ISBLK(found.st_mode) else (found.st_dev, found.st_ino)
