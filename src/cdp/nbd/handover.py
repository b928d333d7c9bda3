"""What a server hands to another one, in this process or the next: its listening sockets, and its connections at a
request boundary. Between processes it goes over a Link.

Invariants
 1. Sockets that are handed over are closed here without being shut down: what is in them is the other's.
 2. A connection that is handed over has been answered all that was received completely; `received` is the rest.
Threading: what is handed over belongs to one thread at a time.
"""
from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cdp.ipc.link import Link, Message
from cdp.ipc.unix_socket import UnixListener
from cdp.nbd.listeners import Listener, TcpAddress, UnixAddress
from cdpcore.base.errors import Unavailable


@dataclass
class HandedConnection:
    """A connection in the transmission phase. received, skipped, counters: of RequestLoop.resume()."""

    sock: socket.socket
    number: int
    name: str               # of the export, canonical
    who: str
    peer: str
    tls: bool               # `sock` is the near end of a relay
    since_s: float          # of time.monotonic(), which all processes share
    read_only: bool
    structured: bool
    context_id: int | None
    fast_zero: bool
    size_bytes: int
    description: str
    multi_conn: bool
    received: bytes
    skipped: int
    counters: dict[str, int]
    relay: threading.Thread | None = None   # of this process
    contexts: list[tuple[int, str]] = field(default_factory=list)     # [id, canonical name] of metadata contexts

    def message(self) -> Message:
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {"op": "connection", "received_bytes": len(self.received), **plain}


_PLAIN = ("number", "name", "who", "peer", "tls", "since_s", "read_only", "structured", "context_id", "fast_zero",
          "size_bytes", "description", "multi_conn", "skipped", "counters", "contexts")


@dataclass
class Handed:
    """What a server was made of."""

    listeners: list[Listener] = field(default_factory=list)
    connections: list[HandedConnection] = field(default_factory=list)

    def close(self) -> None:
        """They are another process's now."""
        for listener in self.listeners:
            listener.sock.close()
        for connection in self.connections:
            connection.sock.close()

    def hang_up(self) -> None:
        """Nobody takes them: the end of all of it."""
        for listener in self.listeners:
            listener.close()
        for connection in self.connections:
            connection.sock.close()

    def relays(self) -> list[threading.Thread]:
        """Threads of this process that carry TLS for connections."""
        return [c.relay for c in self.connections if c.relay and c.relay.is_alive()]


def send_handed(link: Link, handed: Handed) -> None:
    """Raises Unavailable where the other process is gone."""
    for listener in handed.listeners:
        _sent(link.send(listener_message(listener), [listener.sock.fileno()]))
    for connection in handed.connections:
        with _as_file(connection.received) as file:
            _sent(link.send(connection.message(), [connection.sock.fileno(), file.fileno()]))


def listener_message(listener: Listener) -> Message:
    address = listener.address
    if isinstance(address, UnixAddress):
        inode = listener.unix.inode if listener.unix else None
        return {"op": "listener", "address": ["unix", address.path, address.mode], "inode": inode}
    return {"op": "listener", "address": ["tcp", address.host, address.port]}


def listener_of(message: Message, fds: list[int]) -> Listener:
    """The listener of a message; it owns the descriptor. Where the message is none it raises LookupError, TypeError,
    ValueError or OSError, and the descriptors are closed; so does connection_of()."""
    with _socket(fds, 1) as sock:
        kind, *where = message["address"]
        sock.setblocking(False)
        if kind == "tcp":
            return Listener(sock, TcpAddress(*where))
        inode = message["inode"]
        return Listener(sock, UnixAddress(*where), UnixListener(sock, where[0], tuple(inode) if inode else None))


def connection_of(message: Message, fds: list[int]) -> HandedConnection:
    """The connection of a message; it owns the first descriptor, the second one is closed."""
    with _socket(fds, 2) as sock:
        if os.fstat(fds[1]).st_size != message["received_bytes"]:
            raise Unavailable("a connection came without the bytes that it had received")
        received = os.pread(fds[1], message["received_bytes"], 0)
        # An older server has no contexts.
        return HandedConnection(sock, received=received, **{name: message[name] for name in _PLAIN if name in message})


@contextmanager
def _socket(fds: list[int], count: int) -> Iterator[socket.socket]:
    """The first of `count` descriptors, a socket: closed where the block fails. The others are closed in any case."""
    sock = None
    try:
        if len(fds) != count:
            raise ValueError(f"{len(fds)} descriptors came with it, and not {count}")
        sock = socket.socket(fileno=fds[0])
        yield sock
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    finally:
        for fd in fds if sock is None else fds[1:]:
            os.close(fd)


def _sent(sent: bool) -> None:
    if not sent:
        raise Unavailable("the process that was to take over is gone")


@contextmanager
def _as_file(data: bytes) -> Iterator[Any]:
    """Bytes as a file that has no name: more than a message may have."""
    with (os.fdopen(os.memfd_create("cdp-received"), "w+b", 0) if hasattr(os, "memfd_create")
          else tempfile.TemporaryFile(buffering=0)) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest):]
        yield file
