"""An archive in a folder of a file system (file:///...): on another disk, or a mounted one of another machine.

Invariants
  1. An object is complete and synced before it has its name; link() gives it the name only if there is none of it.
  2. Changes of an object happen one at a time, under a lock on the folder's file `lock`.
"""
from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

from cdp.archive.objects import Conflict
from cdpcore.base.errors import NotFound, OutOfSpace, Unavailable

_LOCK = "lock"
_PART = ".part-"
_serial = count()


class FolderStore:
    """Args: path: the folder, absolute. It, though not the folder above, is made when something is first written."""

    def __init__(self, path: str):
        self.url = f"file://{path}"
        self._path = path

    def _at(self, name: str) -> str:
        return os.path.join(self._path, name)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | None:
        try:
            with open(self._at(name), "rb") as file:
                file.seek(offset)
                return file.read(-1 if length is None else length)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(error, self._at(name)) from None

    def tagged(self, name: str) -> tuple[bytes, str] | None:
        data = self.get(name)
        return None if data is None else (data, hashlib.sha256(data).hexdigest())

    def create(self, name: str, data: bytes) -> None:
        path = self._at(name)
        try:
            part = self._written(path, data)
            try:
                os.link(part, path)
            except FileExistsError:
                raise Conflict(f"{path}: exists", "take another name") from None
            finally:
                os.unlink(part)
            _sync_folder(os.path.dirname(path))
        except OSError as error:
            raise _failed(error, path) from None

    def replace(self, name: str, data: bytes, tag: str) -> None:
        path = self._at(name)
        try:
            fd = os.open(self._at(_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                found = self.tagged(name)
                if found is None or found[1] != tag:
                    raise Conflict(f"{path}: was changed meanwhile", "read it again")
                os.replace(self._written(path, data), path)
                _sync_folder(os.path.dirname(path))
            finally:
                os.close(fd)
        except OSError as error:
            raise _failed(error, path) from None

    def _written(self, path: str, data: bytes) -> str:
        """A file under another name, whole and durable. Its name."""
        folder = os.path.dirname(path)
        if not os.path.isdir(self._path) and not os.path.isdir(os.path.dirname(self._path)):
            raise NotFound(f"{os.path.dirname(self._path)}: no such folder", "create it, or mount what belongs there")
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o700, exist_ok=True)
            _sync_folder(self._path)
            _sync_folder(os.path.dirname(self._path))
        part = f"{path}{_PART}{os.getpid()}-{next(_serial)}"
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view):]
                os.fsync(fd)
            finally:
                os.close(fd)
        except BaseException:
            os.unlink(part)
            raise
        return part

    def names(self, folder: str) -> Iterator[str]:
        try:
            found = sorted(os.listdir(self._at(folder)))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed(error, self._at(folder)) from None
        yield from (f"{folder}{name}" for name in found if _PART not in name)

    def delete(self, name: str) -> None:
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._at(name))
        except OSError as error:
            raise _failed(error, self._at(name)) from None


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failed(error: OSError, path: str) -> Exception:
    kind = OutOfSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
    return kind(f"{path}: {error.strerror or error}")
