"""Listening unix sockets: the one way that NBD, the administration API and the control planes bind theirs.

A socket's file outlives a process that is killed. So whether a file that is there belongs to a running server is found
out by connecting, and binding holds a lock on the directory: two servers that start at once do not take each other's
socket, bound and not yet listening, for a stale one.
"""
from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from cdpcore.base.errors import Busy, InvalidRequest, Unavailable

log = logging.getLogger("cdp.ipc")

MAX_SOCKET_PATH_BYTES = 107  # sun_path, less its end
BACKLOG = 128
PROBE_SECONDS = 2.0


@dataclass(slots=True)
class UnixListener:
    """A listening unix socket and its file. Any thread may call sock.accept(); close() ends it. inode: of the file;
    None where another process made both and listens on as well."""

    sock: socket.socket
    path: str
    inode: tuple[int, int] | None

    def close(self) -> None:
        """Stop listening: a thread in accept() gets OSError. Removes the file if it is still this one's. Idempotent."""
        if self.inode:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        if self.inode and _inode(self.path) == self.inode:
            try:
                os.unlink(self.path)
            except OSError as error:
                log.warning("removing %s: %s", self.path, error)
        self.inode = None


def socket_path(path: str, option: str = "") -> str:
    """The absolute path, if a unix socket can have it; `option`: what gives another. Raises InvalidRequest."""
    path = os.path.abspath(path)
    if (length := len(os.fsencode(path))) > MAX_SOCKET_PATH_BYTES:
        raise InvalidRequest(f"a unix socket's path of {length} bytes: {path}",
                             f"give {option or 'one'} of at most {MAX_SOCKET_PATH_BYTES} bytes")
    return path


def bind_unix(path: str, *, mode: int = 0o600, option: str = "") -> UnixListener:
    """Listen on a unix socket at `path`, whose file gets the permissions `mode`. A stale socket is replaced. `option`:
    as of socket_path().

    Raises Busy where a server listens there, InvalidRequest for another kind of file or too long a path, Unavailable.
    """
    path = socket_path(path, option)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _directory_locked(path):
            _remove_stale(path)
            os.fchmod(sock.fileno(), mode)  # Linux creates the file with it; elsewhere chmod() below does it
            sock.bind(path)
            os.chmod(path, mode)
            sock.listen(BACKLOG)
            return UnixListener(sock, path, _inode(path))
    except OSError as error:
        sock.close()
        text = f"{path}: cannot make the socket: {error.strerror or error}"
        raise Unavailable(text, "choose another path") from None
    except BaseException:
        sock.close()
        raise


def clear_stale_socket(path: str) -> None:
    """Remove the socket of a dead server. Raises Busy where a server listens, InvalidRequest for any other file."""
    path = os.path.abspath(path)
    try:
        with _directory_locked(path):
            _remove_stale(path)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror or error}", "choose another path") from None


def answers(path: str) -> bool:
    """Whether a process listens on the unix socket at `path`, even if it is too busy to accept or refuses this user."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR)
    return True


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidRequest(f"{path}: exists and is not a socket", "choose another path")
    if answers(path):
        raise Busy(f"{path}: in use: another server listens there", "stop it, or choose another path")
    os.unlink(path)


@contextmanager
def _directory_locked(path: str) -> Iterator[None]:
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
