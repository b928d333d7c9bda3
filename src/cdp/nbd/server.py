"""The NBD server: listeners, connections and their bounds.

Invariants
 1. At most max_handshakes connections are in the handshake, for at most handshake_timeout_s each, and FIRST_BYTE_S where
    the client says nothing. Where all places are taken, the one that has been silent longest gives way to a new
    connection after SILENT_S; further ones wait in the listener's backlog. At most max_connections are in the
    transmission phase; a further one is told so and refused.
 2. A connection's socket is closed by its own thread alone, so a file descriptor is never used after it was reused.
 3. An export is opened for one connection and closed when that ends, however it ends.
Threading: one accept thread; one thread a connection (no GIL once it serves), a second one with TLS. Public methods may
be called from any thread.
"""
from __future__ import annotations

import errno
import fcntl
import logging
import os
import selectors
import socket
import ssl
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from cdp.nbd.exports import Resolver, Transmission, close_export
from cdp.nbd.handshake import Agreed, Handshake, HandshakeError, TlsMode
from cdp.nbd.tls import TlsSettings, hang_up, relay
from cdpcore.base.errors import Busy, Closed, InvalidRequest, NotFound, Unavailable
from cdpcore.nbd import connection as core

log = logging.getLogger("cdp.nbd")

DEFAULT_PORT = 10809
BACKLOG = 128
FIRST_BYTE_S = 3.0  # a client answers the greeting at once; this is for bad networks
SILENT_S = 0.2  # before a silent connection gives way: a round trip
NO_TLS = TlsSettings()
UNIX_SEND_BUFFER_BYTES = 1 << 20  # replies of a batch go out without blocking half-way; TCP tunes itself


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


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One connection in the transmission phase: a copy, as of the call."""

    id: int
    export: str
    peer: str
    tls: bool
    since_s: float  # of time.monotonic()
    counters: dict[str, int]


class _Client:
    """One accepted connection. All but `thread` is guarded by the server's lock once the thread runs."""

    def __init__(self, number: int, sock: socket.socket, peer: str):
        self.number = number
        self.sock = sock
        self.peer = peer
        self.name = ""
        self.tls = False
        self.since_s = time.monotonic()
        self.connection: Transmission | None = None  # while it serves
        self.admitted = False  # counts against max_connections
        self.silent = True  # has not sent a byte yet
        self.thread: threading.Thread | None = None


class _Stream:
    """A client's socket with one deadline for the whole handshake."""

    def __init__(self, client: _Client, lock: threading.Lock, deadline_s: float, context: ssl.SSLContext | None):
        self._client = client
        self._lock = lock
        self._deadline_s = deadline_s
        self._context = context

    def _armed(self) -> socket.socket:
        deadline_s = self._deadline_s
        if self._client.silent:
            deadline_s = min(deadline_s, self._client.since_s + FIRST_BYTE_S)
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the handshake took too long")
        self._client.sock.settimeout(left_s)
        return self._client.sock

    def recv_exact(self, n: int) -> bytes:
        data = bytearray()
        while len(data) < n:
            part = self._armed().recv(n - len(data))
            if not part:
                raise HandshakeError("the client hung up")
            self._client.silent = False
            data += part
        return bytes(data)

    def sendall(self, data: bytes) -> None:
        self._armed().sendall(data)

    def start_tls(self) -> None:
        """Wrap first, shake hands then: close() must find the new socket to cut a handshake short."""
        assert self._context
        plain = self._armed()
        with self._lock:
            secure = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            self._client.sock = secure
            self._client.tls = True
        secure.do_handshake()


class NbdServer:
    """NbdServer(exports, listen, *, tls=TlsSettings(), max_connections=64, max_handshakes=16, handshake_timeout_s=10.0)

    exports  a Resolver: list() and open(name), called from many threads
    listen   addresses; start() binds them

    A context manager: start() on entry, close() at exit.
    """

    def __init__(self, exports: Resolver, listen: Sequence[Address], *, tls: TlsSettings = NO_TLS,
                 max_connections: int = 64, max_handshakes: int = 16, handshake_timeout_s: float = 10.0):
        if not listen:
            raise InvalidRequest("an NBD server without an address", "give at least one")
        if max_connections < 1 or max_handshakes < 1 or not handshake_timeout_s > 0:
            raise InvalidRequest("the NBD server's bounds must be positive")
        self._exports = exports
        self._listen = tuple(listen)
        self._tls_mode = tls.mode
        self._context = tls.context()
        self._max_connections = max_connections
        self._handshake_slots = threading.Semaphore(max_handshakes)
        self._handshake_timeout_s = handshake_timeout_s
        self._listeners: list[_Listener] = []
        self._wake_r, self._wake_w = socket.socketpair()
        self._stopping = threading.Event()
        self._acceptor: threading.Thread | None = None
        self._lock = threading.Lock()
        self._clients: dict[int, _Client] = {}  # guarded by _lock
        self._serving = 0  # guarded by _lock
        self._accepted = 0  # accept thread only

    # Life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Bind all addresses and begin to accept. Raises Busy (address in use), Unavailable, InvalidRequest."""
        if self._stopping.is_set() or self._acceptor:
            raise Closed("this NBD server was started already")
        try:
            for address in self._listen:
                self._listeners += _bind(address)
        except BaseException:
            for listener in self._listeners:
                listener.close()
            self._listeners = []
            raise
        self._acceptor = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)
        self._acceptor.start()

    def close(self, grace_s: float = 2.0) -> None:
        """Stop: no new connections; requests already received are answered within grace_s, then sockets are cut.

        Idempotent. Returns when all threads have ended; one that a target holds up is waited for 10 s, then left.
        """
        self._stopping.set()
        with suppress(OSError):  # closed before
            self._wake_w.send(b"x")
        if self._acceptor:
            self._acceptor.join()
        for listener in self._listeners:
            listener.close()
        self._hang_up_all(now=False)
        self._join(grace_s)
        self._hang_up_all(now=True)
        for client in self._join(10.0):
            log.error("connection %d (%s) did not end: its target is still at work", client.number, client.peer)
        self._wake_r.close()
        self._wake_w.close()

    def _hang_up_all(self, now: bool) -> None:
        with self._lock:
            for client in self._clients.values():
                if client.connection:
                    client.connection.stop(now=now)
                if now or not client.connection:
                    hang_up(client.sock)

    def _join(self, timeout_s: float) -> list[_Client]:
        """Wait for connection threads; those still alive."""
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            clients = list(self._clients.values())
        for client in clients:
            if client.thread:
                client.thread.join(max(0.0, deadline_s - time.monotonic()))
        return [client for client in clients if client.thread and client.thread.is_alive()]

    # What it is

    @property
    def addresses(self) -> list[Address]:
        """What is listened on, in the order given, with the ports that the system chose."""
        return list(dict.fromkeys(listener.address for listener in self._listeners))

    def uri(self, name: str = "", listener: int = 0) -> str:
        """The URI of an export at addresses[listener], ready to paste (in quotes) after nbdinfo or qemu-img.

        Raises NotFound for an address that is not there, and before start().
        """
        addresses = self.addresses
        if not 0 <= listener < len(addresses):
            raise NotFound(f"address {listener} of {len(addresses)}", "start the server first")
        return export_uri(addresses[listener], name, tls=self._tls_mode is not TlsMode.OFF)

    def connections(self) -> list[ConnectionInfo]:
        """The connections that are being served now."""
        with self._lock:
            return [
                ConnectionInfo(c.number, c.name, c.peer, c.tls, c.since_s, c.connection.counters())
                for c in self._clients.values()
                if c.connection
            ]

    # Connections

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_r, selectors.EVENT_READ)
            for listener in self._listeners:
                selector.register(listener.sock, selectors.EVENT_READ, listener)
            while not self._stopping.is_set():
                if not self._handshake_slots.acquire(timeout=0.02):
                    self._give_way(selector)
                    continue
                used = False
                try:
                    used = self._accept_one(selector)
                finally:
                    if not used:
                        self._handshake_slots.release()

    def _give_way(self, selector: selectors.BaseSelector) -> None:
        """All places of the handshake are taken: if somebody waits for one, hang up on the client that has been silent longest."""
        if not any(key.data for key, _ in selector.select(0)):
            return
        with self._lock:
            before_s = time.monotonic() - SILENT_S
            for client in self._clients.values():  # in the order in which they came
                if client.silent and client.since_s < before_s:
                    client.silent = False  # told once
                    log.info("connection %d (%s) said nothing, and another waits", client.number, client.peer)
                    hang_up(client.sock)
                    return

    def _accept_one(self, selector: selectors.BaseSelector) -> bool:
        """Wait for a connection and start its thread; True where that took over the handshake slot."""
        for key, _ in selector.select():
            if key.data is None:
                return False  # woken to stop
            try:
                sock, _ = key.data.sock.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                log.warning("accepting a connection: %s", error)
                self._stopping.wait(0.1)  # out of descriptors: it would only come again at once
                return False
            self._accepted += 1
            client = _Client(self._accepted, sock, key.data.describe_peer(sock))
            client.thread = threading.Thread(target=self._run, args=(client,), name=f"nbd-{client.number}", daemon=True)
            with self._lock:
                self._clients[client.number] = client
            try:
                client.thread.start()
            except RuntimeError as error:
                log.warning("no thread for a connection: %s", error)
                with self._lock:
                    del self._clients[client.number]
                sock.close()
                return False
            return True
        return False

    def _run(self, client: _Client) -> None:
        """A connection's thread."""
        try:
            try:
                agreed = self._handshake(client)
            finally:
                self._handshake_slots.release()
            if agreed:
                try:
                    self._transmit(client, agreed)
                finally:
                    close_export(agreed.export, agreed.name)
        except (HandshakeError, OSError) as error:
            log.info("connection %d (%s): %s", client.number, client.peer, error)
        except Exception:
            log.exception("connection %d (%s) failed", client.number, client.peer)
        finally:
            with self._lock:
                del self._clients[client.number]
                self._serving -= client.admitted
                client.sock.close()

    def _handshake(self, client: _Client) -> Agreed | None:
        sock = client.sock
        stream = _Stream(client, self._lock, time.monotonic() + self._handshake_timeout_s, self._context)
        if sock.family == socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BUFFER_BYTES)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

        def admit() -> str | None:
            with self._lock:
                if self._serving >= self._max_connections:
                    return f"{self._serving} connections are served, which is this server's bound; try again later"
                self._serving += 1
                client.admitted = True
                return None

        return Handshake(stream, self._exports, tls=self._tls_mode, admit=admit, stopping=self._stopping.is_set).run()

    def _transmit(self, client: _Client, agreed: Agreed) -> None:
        if not isinstance(client.sock, ssl.SSLSocket):
            self._serve(client, client.sock, agreed)
            return
        ours, theirs = socket.socketpair()
        pump = threading.Thread(target=relay, args=(client.sock, theirs), name=f"nbd-{client.number}-tls", daemon=True)
        with ours:
            pump.start()
            self._serve(client, ours, agreed)
        pump.join()

    def _serve(self, client: _Client, sock: socket.socket, agreed: Agreed) -> None:
        make = getattr(agreed.export, "connect", None) or partial(core.Connection, capsule=agreed.export.capsule,
                                                                  own_fua=getattr(agreed.export, "own_fua", False))
        connection: Transmission = make(sock, read_only=agreed.read_only, structured=agreed.structured,
                                        context_id=agreed.context_id, fast_zero=agreed.fast_zero)
        with self._lock:
            client.name = agreed.name
            client.connection = connection
            if self._stopping.is_set():
                return
        log.info("connection %d (%s): serving %r", client.number, client.peer, agreed.name)
        end = connection.serve()
        with self._lock:
            client.connection = None
        log.info("connection %d (%s): %s, %s", client.number, client.peer, end.name, connection.counters())


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
class _Listener:
    sock: socket.socket
    address: Address
    inode: tuple[int, int] | None = None  # of a unix socket's file

    def describe_peer(self, sock: socket.socket) -> str:
        if isinstance(self.address, UnixAddress):
            return f"unix:{self.address.path}"
        try:
            host, port, *_ = sock.getpeername()
        except OSError:
            return "gone"
        return f"{host}:{port}"

    def close(self) -> None:
        """Stop listening; remove the socket's file if it is still ours."""
        self.sock.close()
        if isinstance(self.address, UnixAddress) and _inode(self.address.path) == self.inode:
            try:
                os.unlink(self.address.path)
            except OSError as error:
                log.warning("removing %s: %s", self.address.path, error)


def _bind(address: Address) -> list[_Listener]:
    try:
        return [_bind_unix(address)] if isinstance(address, UnixAddress) else _bind_tcp(address)
    except OSError as error:
        text = f"listening on {address}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE and isinstance(address, UnixAddress) and not stat.S_ISSOCK(os.lstat(address.path).st_mode):
            raise Busy(f"{address}: exists and is not a socket", "choose another path") from None
        if error.errno == errno.EADDRINUSE:
            raise Busy(text, "stop the other server or choose another address") from None
        raise Unavailable(text) from None


def _bind_tcp(address: TcpAddress) -> list[_Listener]:
    """A listener for each IP address of the name, all at one port; those that this machine lacks are left out."""
    if not 0 <= address.port <= 65535:
        raise InvalidRequest(f"TCP port {address.port}", "give 0 to 65535")
    found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[_Listener] = []
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
            listeners.append(_Listener(sock, TcpAddress(address.host, port)))
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


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _bind_unix(address: UnixAddress) -> _Listener:
    """Bind and listen under a lock of the directory, so that two servers starting at once do not take a fresh socket
    of the other, which does not listen yet, for a stale one."""
    path = os.path.abspath(address.path)
    if (length := len(os.fsencode(path))) > 107:
        raise InvalidRequest(f"a unix socket's path of {length} bytes: {path}", "choose one of at most 107 bytes")
    sock = socket.socket(socket.AF_UNIX)
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            _remove_stale(path)
            os.fchmod(sock.fileno(), address.mode)  # on Linux the file is born with it; elsewhere chmod below does it
            sock.bind(path)
            os.chmod(path, address.mode)
            sock.listen(BACKLOG)
        finally:
            os.close(directory)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return _Listener(sock, UnixAddress(path, address.mode), _inode(path))


def _remove_stale(path: str) -> None:
    """Remove a unix socket that nobody listens on. Anything else that is there stays, and bind() says so."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
