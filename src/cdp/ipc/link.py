"""Messages between processes of one machine: JSON objects and file descriptors over a unix stream socket.

A message is a length (4 bytes, little-endian) and that much JSON; descriptors travel with the length. Bounds:
MAX_BYTES, MAX_FDS. Threading: any thread may send; one receives.
"""
from __future__ import annotations

import array
import errno
import json
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

from cdp.ipc.unix_socket import UnixListener, socket_path
from cdpcore.base.errors import InvalidRequest, Unavailable

log = logging.getLogger("cdp.ipc")
LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)    # others end it: the listener was closed
AGAIN_S = 0.1
MAX_BYTES = 4 << 20
MAX_FDS = 4
_LENGTH = struct.Struct("<I")

Message = dict[str, Any]


class Link:
    """One end. A context manager that closes."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self._sending = threading.Lock()

    @classmethod
    def connect(cls, path: str, option: str = "") -> Link:
        """Connect to the process that listens at `path`. Raises Unavailable, InvalidRequest for too long a path.
        `option`: as of socket_path()."""
        socket_path(path, option)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise Unavailable(f"{path}: {error.strerror or error}", "see whether the service runs") from None
        return cls(sock)

    def send(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """False: the other end is gone. The descriptors stay the caller's."""
        body = json.dumps(message).encode()
        if len(body) > MAX_BYTES:
            raise InvalidRequest(f"a message of {len(body)} bytes", f"at most {MAX_BYTES}")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            with self._sending:
                self.sock.sendmsg([_LENGTH.pack(len(body))], rights)
                self.sock.sendall(body)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors, the caller's; None: the other end is gone or sent no message."""
        fds: list[int] = []
        try:
            head = b""
            while len(head) < _LENGTH.size:
                part, more, _, _ = socket.recv_fds(self.sock, _LENGTH.size - len(head), MAX_FDS)
                fds += more
                if not part:
                    raise ConnectionResetError
                head += part
            length = _LENGTH.unpack(head)[0]
            if length > MAX_BYTES:
                raise ConnectionResetError
            body = bytearray()
            while len(body) < length:
                part = self.sock.recv(length - len(body))
                if not part:
                    raise ConnectionResetError
                body += part
            message = json.loads(body)
            if not isinstance(message, dict):
                raise ConnectionResetError
            for fd in fds:
                os.set_inheritable(fd, False)
            return message, fds
        except (OSError, ValueError, RecursionError):
            for fd in fds:
                os.close(fd)
            return None

    def hang_up(self) -> None:
        """The receiver, here and there, gets None. Any thread; the socket itself is closed by its owner."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.hang_up()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def accept_links(listener: UnixListener, converse: Callable[[Link], None], name: str) -> Callable[[], None]:
    """Start a thread that accepts connections until listener.close(); each gets a thread of its own, which runs
    converse(link). That closes the link. Without a descriptor for one it is tried again, and logged once. Returns
    what ends the thread and leaves the listener as it is."""
    wake_r, wake_w = socket.socketpair()

    def accept() -> None:
        said = False
        with wake_r, wake_w:
            while True:
                try:
                    if wake_r in select.select([listener.sock, wake_r], [], [])[0]:
                        return
                    sock, _ = listener.sock.accept()
                except (OSError, ValueError) as error:
                    if getattr(error, "errno", None) not in LACKING:    # closed
                        return
                    if not said:
                        log.warning("%s: accepting a connection: %s; it is tried again", name, error)
                    said = True
                    if wake_r in select.select([wake_r], [], [], AGAIN_S)[0]:
                        return
                    continue
                said = False
                threading.Thread(target=converse, args=(Link(sock),), name=f"{name}-link", daemon=True).start()

    thread = threading.Thread(target=accept, name=f"{name}-accept", daemon=True)

    def stop() -> None:
        with suppress(OSError):
            wake_w.send(b"x")
        thread.join()

    thread.start()
    return stop
