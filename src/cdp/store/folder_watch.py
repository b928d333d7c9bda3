"""The folder of an open volume, known again by its inode: it may be moved, deleted, or replaced meanwhile, and what is
made by path then (segments, runs) would be missing where the volume is, or end up in another one.

Threading: any thread.
"""
import os
from contextlib import suppress
from shlex import quote

from cdpcore.base.errors import Unavailable

DELETED = " (deleted)"      # what Linux adds to the name


class FolderWatch:
    """FolderWatch(path), open until close(). Raises Unavailable."""

    def __init__(self, path: str):
        self._path = path
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._stat = os.fstat(self._fd)
        except OSError as e:
            self.close()
            raise Unavailable(f"{path}: {e.strerror}",
                              "a volume's folder must be readable, and the process may open more files") from None

    def check(self) -> None:
        """Raises Unavailable where the path does not lead to the folder any more."""
        try:
            there = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            there = None
        except OSError:
            # not known, say while a network file system is away: no reason to refuse what the open files may take
            return
        if there is not None and os.path.samestat(there, self._stat):
            return
        where, gone = self._now()
        beside = " (what is there now is another one)" if there is not None else ""
        if gone:
            raise Unavailable(f"{self._path}: the folder of this open volume was deleted{beside}; no record is taken "
                              "any more", "copy what can still be read of it, then end the process that has it open")
        first = f"move {self._path} away, then " if beside else ""
        back = f"mv {quote(where) if where else 'it'} {quote(self._path)}"
        to = f" to {where}" if where else ""
        raise Unavailable(f"{self._path}: the folder of this open volume was moved{to}{beside}; no record is taken",
                          f"{first}{back}, and it goes on; or end its process and open it "
                          "where it is now")

    def _now(self) -> tuple[str, bool]:
        """Its path, "" where the system does not say; whether it was deleted."""
        with suppress(OSError):
            found = os.readlink(f"/proc/self/fd/{self._fd}")
            if found.endswith(DELETED) and os.fstat(self._fd).st_nlink == 0:
                return found.removesuffix(DELETED), True
            return found, False
        return "", os.fstat(self._fd).st_nlink == 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
