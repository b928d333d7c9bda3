"""Where an NBD server listens: addresses, their sockets, and the URIs that clients reach them by."""
from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from cdp.ipc.unix_socket import BACKLOG, UnixListener, bind_unix
from cdp.nbd.protocol import DEFAULT_PORT
from cdpcore.base.errors import Busy, InvalidRequest, Unavailable


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket: path, and the permissions it gets (who may connect)."""

    path: str
    mode: int = 0o600

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP address: host name or IP, "" for all; port 0 for any free one."""

    host: str = "localhost"
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def export_uri(address: Address, name: str, *, tls: bool = False) -> str:
    """The NBD URI (doc/uri.md of the protocol) of an export at an address."""
    scheme = "nbds" if tls else "nbd"
    path = quote(name, safe="@:/~,+=")
    if isinstance(address, UnixAddress):
        return f"{scheme}+unix:///{path}?socket={quote(os.path.abspath(address.path), safe='/')}"
    host = {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    host = f"[{host}]" if ":" in host else host
    port = "" if address.port == DEFAULT_PORT else f":{address.port}"
    return f"{scheme}://{host}{port}/{path}"


@dataclass(slots=True)
class Listener:
    """A listening socket, non-blocking, and the address that clients know it by."""

    sock: socket.socket
    address: Address
    unix: UnixListener | None = None

    def describe_peer(self, sock: socket.socket) -> str:
        """Who connected, for the log."""
        if isinstance(self.address, UnixAddress):
            return f"unix:{self.address.path}"
        try:
            host, port, *_ = sock.getpeername()
        except OSError:
            return "gone"
        return f"{host}:{port}"

    def who(self, sock: socket.socket) -> str:
        """Who connected, for people: an address, or the process at the other end of a unix socket."""
        if not isinstance(self.address, UnixAddress):
            return self.describe_peer(sock)
        if not hasattr(socket, "SO_PEERCRED"):
            return f"a process at {self.address.path}"
        pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                return f"{file.read().rstrip()}, process {pid}"
        except OSError:     # gone, or of another user or container
            return f"process {pid}"

    def close(self) -> None:
        """Stop listening. Twice is no error."""
        if self.unix:
            self.unix.close()
        else:
            self.sock.close()


def listen(address: Address) -> list[Listener]:
    """Bind and listen: one listener, or one for each IP address of a name. Raises Busy, InvalidRequest, Unavailable."""
    if isinstance(address, UnixAddress):
        bound = bind_unix(address.path, mode=address.mode, option="--unix SOCK")
        bound.sock.setblocking(False)
        return [Listener(bound.sock, UnixAddress(bound.path, address.mode), bound)]
    try:
        return _bind_tcp(address)
    except OSError as error:
        text = f"listening on {address}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            raise Busy(text, "stop the other server or choose another address") from None
        raise Unavailable(text) from None


def listening(sock: socket.socket) -> Listener:
    """A socket that listens already: whoever made it keeps its file, if it has one."""
    sock.setblocking(False)
    where = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Listener(sock, UnixAddress(where), UnixListener(sock, where, None))
    return Listener(sock, TcpAddress(where[0], where[1]))


def _bind_tcp(address: TcpAddress) -> list[Listener]:
    """A listener for each IP address of the name, all at one port; those that this machine lacks are left out."""
    if not 0 <= address.port <= 65535:
        raise InvalidRequest(f"TCP port {address.port}", "give 0 to 65535")
    found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[Listener] = []
    absent = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    port = address.port
    try:
        for family, _, _, _, where in dict.fromkeys(found):
            try:
                sock = _listen_tcp(family, (where[0], port, *where[2:]))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error  # "localhost" where IPv6 is off
                continue
            port = sock.getsockname()[1]
            listeners.append(Listener(sock, TcpAddress(address.host, port)))
        if not listeners:
            raise absent
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen_tcp(family: int, where: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
