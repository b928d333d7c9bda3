"""The disk of an open before-image volume, known again by its inode or device number: it may be moved, deleted,
replaced or cut short meanwhile, and what clients flush then would not be on the disk that the path names.

The files behind a loop device are watched too, and what lies beneath the disk is locked with it: a file that another
volume protects must not be protected again through a loop device.

Threading: check() from one thread at a time; close() by the owner.
"""
from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import dataclass
from shlex import quote

from cdp.store import block_devices
from cdpcore.base.errors import Busy, Unavailable


@dataclass(frozen=True)
class _File:
    path: str
    fd: int
    found: os.stat_result   # when it was opened


class DiskWatch:
    """DiskWatch(path), open until close(). Raises Busy where what lies beneath the disk belongs to another volume,
    Unavailable."""

    def __init__(self, path: str):
        self._path = path
        self._files: list[_File] = []
        self._damaged: Unavailable | None = None
        try:
            self._open(path)
            for beneath, whole in block_devices.beneath(path):
                if not os.path.exists(beneath):     # of another container's or chroot's
                    continue
                self._open(beneath)
                try:
                    # Two volumes may be on two parts of one disk; a whole one is nobody else's.
                    fcntl.flock(self._files[-1].fd, (fcntl.LOCK_EX if whole else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise Busy(f"{path}: it lies on {beneath}, and another volume has that open as its disk",
                               "a disk is protected by one volume at a time") from None
        except BaseException:
            self.close()
            raise

    def _open(self, path: str) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._files.append(_File(path, fd, os.fstat(fd)))
        except OSError as e:
            raise Unavailable(f"{path}: {e.strerror}",
                              "the process must be able to read it, and to open more files") from None

    def check(self) -> None:
        """Raises Unavailable where the path does not lead to the disk any more, or the disk has lost its end."""
        if self._damaged is not None:
            raise self._damaged
        for file in self._files:
            was = file.found
            if stat.S_ISREG(was.st_mode) and (now_bytes := os.fstat(file.fd).st_size) < was.st_size:
                self._damaged = Unavailable(
                    f"{file.path}: the disk of this open volume was truncated, from {was.st_size} to {now_bytes} bytes"
                    "; no record is taken any more",
                    "end the process that has it open, and put the disk back from a copy")
                raise self._damaged
            try:
                there = os.stat(file.path)
            except (FileNotFoundError, NotADirectoryError):
                there = None
            except OSError:     # not known, say while a network file system is away
                continue
            if there is not None and _same(was, there):
                continue
            beside = " (what is there now is another one)" if there is not None else ""
            where = self._now(file)
            what = f"was moved to {where}" if where else "was moved or deleted"
            back = f"mv {quote(where)} {quote(file.path)}" if where else f"put it back as {file.path}"
            raise Unavailable(f"{file.path}: the disk of this open volume {what}{beside}; no record is taken",
                              f"{f'move {file.path} away, then ' if beside else ''}{back}, and it goes on")

    @staticmethod
    def _now(file: _File) -> str:
        """Where it is now; "" where the system does not say, or it was deleted."""
        if os.fstat(file.fd).st_nlink == 0:
            return ""
        try:
            found = os.readlink(f"/proc/self/fd/{file.fd}")
        except OSError:
            return ""
        return found if os.path.exists(found) else ""

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop().fd)


def _same(was: os.stat_result, there: os.stat_result) -> bool:
    if stat.S_ISBLK(was.st_mode):
        return stat.S_ISBLK(there.st_mode) and was.st_rdev == there.st_rdev
    return os.path.samestat(was, there)
