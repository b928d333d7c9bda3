"""The NBD server: listeners, connections and their bounds.

Invariants
 1. At most max_handshakes connections are in the handshake, for at most handshake_timeout_s each, beside what its
    export takes to open, and FIRST_BYTE_S while the client sends nothing. Where all slots are taken, one that has been
    silent for SILENT_S, or has talked for TALK_S, is dropped for a new one, the oldest first; further ones wait in the
    listener's backlog. At most max_connections are in the transmission phase; a further one is refused with that
    reason.
 2. A connection's socket is closed by its own thread alone, so a file descriptor is never used after it was reused.
 3. An export is opened for one connection and closed when that ends, however it ends.
 4. hand_over() gives away either everything or nothing: where a connection does not come to a request boundary in time,
    all go on.
Threading: one accept thread; one thread a connection (no GIL once it serves), a second one with TLS. Public methods may
be called from any thread, adopt(), start() and hand_over() by one at a time.
"""
from __future__ import annotations

import enum
import logging
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from cdp.nbd.exports import Export, Resolver, Transmission, close_export
from cdp.nbd.handover import Handed, HandedConnection
from cdp.nbd.handshake import Agreed, Handshake, HandshakeError, TlsMode, contexts_again
from cdp.nbd.listeners import Address, Listener, export_uri, listen
from cdp.nbd.tls import TlsSettings, hang_up, relay
from cdpcore.base.errors import Busy, CdpError, Closed, InvalidRequest, NotFound
from cdpcore.nbd import connection as core
from cdpcore.nbd.memory import ConnectionMemory

log = logging.getLogger("cdp.nbd")

MEMORY_BYTES = 256 << 20
FIRST_BYTE_S = 3.0  # a client answers the greeting at once; this is for bad networks
SILENT_S = 0.2  # before a silent connection gives way: a round trip
TALK_S = 1.0  # before one that has said something does: some round trips, those of TLS included
NO_TLS = TlsSettings()
HANDSHAKES_END_S = 1.0  # before a hand-over: then nobody has lost more than a handshake
UNIX_SEND_BUFFER_BYTES = 1 << 20  # replies of a batch go out without blocking half-way; TCP tunes itself


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One connection in the transmission phase: a copy, as of the call."""

    id: int
    export: str
    peer: str
    who: str    # the peer for people: an address, or a process
    read_only: bool
    tls: bool
    since_s: float  # of time.monotonic()
    counters: dict[str, int]


class _Phase(enum.Enum):
    SERVING = enum.auto()
    PAUSING = enum.auto()       # connections stop at a request boundary, and wait for what comes next
    RELEASED = enum.auto()      # they are somebody else's


class _Client:
    """One accepted connection. All but `thread` is guarded by the server's lock once the thread runs."""

    def __init__(self, number: int, sock: socket.socket, peer: str, who: str):
        self.number = number
        self.sock = sock
        self.peer = peer
        self.who = who
        self.read_only = False
        self.name = ""
        self.tls = False
        self.since_s = time.monotonic()
        self.connection: Transmission | None = None  # while it serves
        self.admitted = False  # counts against max_connections
        self.silent = True  # has not sent a byte yet
        self.talking_since_s: float | None = self.since_s  # in the handshake, what was waited for left out; None: not
        self.paused = False
        self.relay: threading.Thread | None = None  # with TLS
        self.handed: HandedConnection | None = None
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

    def wait(self) -> float:
        """From here on the client waits, and is not dropped for another; since when it has talked."""
        since_s, self._client.talking_since_s = self._client.talking_since_s, None
        return since_s or time.monotonic()

    def extend(self, since_s: float, seconds: float) -> None:
        """What the client had to wait for is not its time."""
        self._deadline_s += seconds
        self._client.talking_since_s = since_s + seconds

    def start_tls(self) -> None:
        """Wrap first, shake hands then: close() must find the new socket to cut a handshake short."""
        assert self._context
        plain = self._armed()
        with self._lock:
            secure = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            self._client.sock = secure
            self._client.tls = True
        secure.do_handshake()


class _Timed:
    """A resolver for one handshake, whose time does not count as the client's."""

    def __init__(self, exports: Resolver, stream: _Stream):
        self._exports, self._stream = exports, stream

    def list(self) -> Sequence[tuple[str, str]]:
        return self._exports.list()

    def open(self, name: str) -> Export:
        began_s = time.monotonic()
        since_s = self._stream.wait()
        try:
            return self._exports.open(name)
        finally:
            self._stream.extend(since_s, time.monotonic() - began_s)


class NbdServer:
    """NbdServer(exports, listen, *, tls=TlsSettings(), max_connections=64, max_handshakes=16, handshake_timeout_s=10.0,
              memory_bytes=MEMORY_BYTES)

    exports  a Resolver: list() and open(name), called from many threads
    listen   addresses; start() binds them. None: adopt() brings listeners
    memory_bytes  what all connections share for large requests (cdpcore.nbd.memory)

    A context manager: start() on entry, close() at exit.
    """

    def __init__(self, exports: Resolver, listen: Sequence[Address] | None, *, tls: TlsSettings = NO_TLS,
                 max_connections: int = 64, max_handshakes: int = 16, handshake_timeout_s: float = 10.0,
                 memory_bytes: int = MEMORY_BYTES):
        if listen is not None and not listen:
            raise InvalidRequest("an NBD server without an address", "give at least one")
        if max_connections < 1 or max_handshakes < 1 or not handshake_timeout_s > 0:
            raise InvalidRequest("the NBD server's bounds must be positive")
        self._exports = exports
        self._listen = tuple(listen or ())
        self._tls_mode = tls.mode
        self._context = tls.context()
        self._max_connections = max_connections
        self._memory = ConnectionMemory(memory_bytes)
        self._handshake_slots = threading.Semaphore(max_handshakes)
        self._handshake_timeout_s = handshake_timeout_s
        self._listeners: list[Listener] = []
        self._wake_r, self._wake_w = socket.socketpair()
        self._stopping = threading.Event()
        self._acceptor: threading.Thread | None = None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._phase = _Phase.SERVING  # guarded by _lock
        self._held = threading.Event()  # nothing is accepted
        self._adopted: list[tuple[_Client, Agreed, HandedConnection]] = []  # start() starts them
        self._clients: dict[int, _Client] = {}  # guarded by _lock
        self._serving = 0  # guarded by _lock
        self._accepted, self._refused = 0, False  # accept thread only

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
                self._listeners += listen(address)
        except BaseException:
            for listener in self._listeners:
                listener.close()
            self._listeners = []
            raise
        while self._adopted:
            client, agreed, handed = self._adopted.pop(0)
            with self._lock:
                self._clients[client.number] = client
                self._serving += 1
            client.thread = threading.Thread(target=self._resume, args=(client, agreed, handed), daemon=True,
                                             name=f"nbd-{client.number}")
            client.thread.start()
        self._start_accepting()

    def _start_accepting(self) -> None:
        self._acceptor = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)
        self._acceptor.start()

    def adopt(self, handed: Handed, lenient: bool = False) -> None:
        """Before start(), of a server made with listen=None: open the exports of connections that another server
        handed over; start() goes on with them and with its listeners. They are this server's from start() on.

        Raises what opening an export raises, Busy where its client may write and it cannot be written any more;
        `lenient`: that connection ends instead."""
        self._listeners = list(handed.listeners)
        for one in handed.connections:
            self._accepted = max(self._accepted, one.number)
            try:
                export = self._exports.resume(one) if hasattr(self._exports, "resume") else self._exports.open(one.name)
                if export.read_only and not one.read_only:
                    close_export(export, one.name)
                    raise Busy(f"{one.name} is open for writing, by {one.who}", "serve it for writing")
                contexts = contexts_again(export, one.contexts)
            except CdpError as error:
                if not lenient:
                    raise
                log.error("connection %d (%s) ends: %s", one.number, one.peer, error)
                one.sock.close()
                continue
            client = _Client(one.number, one.sock, one.peer, one.who)
            client.since_s, client.tls, client.relay = one.since_s, one.tls, one.relay
            client.silent, client.admitted, client.talking_since_s = False, True, None
            self._adopted.append((client, Agreed(one.name, export, one.read_only, one.structured, one.context_id,
                                                 one.fast_zero, contexts), one))

    def hand_over(self, timeout_s: float, force: bool = False) -> Handed:
        """Stop, and give away listeners and connections, each of them at a request boundary. What was received has been
        answered; exports are closed. Handshakes have HANDSHAKES_END_S to end.

        Raises Busy where a connection needs longer than timeout_s: then all go on; `force`: it is cut."""
        self._held.set()
        with suppress(BlockingIOError):
            self._wake_w.send(b"x")
        if self._acceptor:
            self._acceptor.join()
        with self._changed:
            self._changed.wait_for(lambda: all(c.connection for c in self._clients.values()), HANDSHAKES_END_S)
            self._phase = _Phase.PAUSING
            late = self._late(timeout_s, cut=False)
            if late and force:
                late = self._late(timeout_s, cut=True)
            self._phase = _Phase.SERVING if late else _Phase.RELEASED
            self._changed.notify_all()
            if not late:
                self._stopping.set()
                for client in self._clients.values():
                    if not client.connection:
                        hang_up(client.sock)
        if late:
            self._wake_r.recv(64)
            self._held.clear()
            self._start_accepting()
            raise Busy(f"{late[0].who} at {late[0].name} does not take its replies, or its requests take longer than "
                       f"{timeout_s:.0f} s" + (f"; and {len(late) - 1} more" if len(late) > 1 else ""),
                       "continue or end that client, or cut its connection with --force")
        clients = list(self._clients.values())
        self._join(10.0)
        listeners, self._listeners = self._listeners, []
        return Handed(listeners, [c.handed for c in clients if c.handed])

    def _late(self, timeout_s: float, cut: bool) -> list[_Client]:
        """_lock held: pause the connections (or `cut` them); those that have not stopped in time."""
        def late() -> list[_Client]:
            return [c for c in self._clients.values() if c.connection and not c.paused]

        for client in late():
            if client.connection and cut:
                client.connection.stop(now=True)
                hang_up(client.sock)
            elif client.connection:
                client.connection.pause()
        self._changed.wait_for(lambda: not late(), timeout_s)
        return late()

    def close(self, grace_s: float = 2.0) -> None:
        """Stop: no new connections; requests already received are answered within grace_s, then sockets are cut.

        Idempotent. Returns when all threads have ended; one that a target holds up is waited for 10 s, then left.
        """
        self._stopping.set()
        with suppress(OSError):  # closed before
            self._wake_w.send(b"x")
        if self._acceptor:
            self._acceptor.join()
            for listener in self._listeners:    # not those of an adopt() that no start() followed
                listener.close()
        self._hang_up_all(now=False)
        self._join(grace_s)
        for _, agreed, _ in self._adopted:
            close_export(agreed.export, agreed.name)
        self._adopted = []
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

    def memory(self) -> dict[str, int]:
        """What the connections have of the memory that they share: cdpcore.nbd.memory.ConnectionMemory.counters()."""
        return self._memory.counters()

    def connections(self) -> list[ConnectionInfo]:
        """The connections that are being served now."""
        with self._lock:
            return [
                ConnectionInfo(c.number, c.name, c.peer, c.who, c.read_only, c.tls, c.since_s, c.connection.counters())
                for c in self._clients.values()
                if c.connection
            ]

    # Connections

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_r, selectors.EVENT_READ)
            for listener in self._listeners:
                selector.register(listener.sock, selectors.EVENT_READ, listener)
            while not self._stopping.is_set() and not self._held.is_set():
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
        """All handshake slots are taken: where a client waits, hang up on the first that has had its time."""
        if not any(key.data for key, _ in selector.select(0)):
            return
        with self._lock:
            now_s = time.monotonic()
            for client in self._clients.values():  # in the order in which they came
                since_s = client.talking_since_s
                if since_s is not None and now_s - since_s > (SILENT_S if client.silent else TALK_S):
                    log.info("connection %d (%s) %s, and another waits", client.number, client.peer,
                             "said nothing" if client.silent else "does not end its handshake")
                    client.talking_since_s = None  # once is enough
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
                if not self._refused:
                    log.warning("accepting a connection: %s; it is tried again", error)
                self._refused = True  # it is said once, until one is accepted
                self._stopping.wait(0.1)  # out of descriptors: it would only come again at once
                return False
            self._refused = False
            self._accepted += 1
            client = _Client(self._accepted, sock, key.data.describe_peer(sock), key.data.who(sock))
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
                self._transmit(client, agreed)
        except (HandshakeError, OSError) as error:
            log.info("connection %d (%s): %s", client.number, client.peer, error)
        except Exception:
            log.exception("connection %d (%s) failed", client.number, client.peer)
        finally:
            self._ended(client)

    def _resume(self, client: _Client, agreed: Agreed, handed: HandedConnection) -> None:
        """An adopted connection's thread."""
        try:
            self._serve_export(client, client.sock, agreed, handed)
        except Exception:
            log.exception("connection %d (%s) failed", client.number, client.peer)
        finally:
            self._ended(client)

    def _ended(self, client: _Client) -> None:
        with self._changed:
            del self._clients[client.number]
            self._serving -= client.admitted
            if not client.handed:
                client.sock.close()
            self._changed.notify_all()

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

        try:
            return Handshake(stream, _Timed(self._exports, stream), tls=self._tls_mode, admit=admit,
                             stopping=self._stopping.is_set).run()
        finally:
            client.talking_since_s = None

    def _transmit(self, client: _Client, agreed: Agreed) -> None:
        if not isinstance(client.sock, ssl.SSLSocket):
            self._serve_export(client, client.sock, agreed)
            return
        ours, theirs = socket.socketpair()
        client.relay = threading.Thread(target=relay, args=(client.sock, theirs), name=f"nbd-{client.number}-tls",
                                        daemon=True)
        try:
            client.relay.start()
            self._serve_export(client, ours, agreed)
        finally:
            if not client.handed:
                ours.close()
        if not client.handed:
            client.relay.join()

    def _serve_export(self, client: _Client, sock: socket.socket, agreed: Agreed,
                      handed: HandedConnection | None = None) -> None:
        try:
            self._serve(client, sock, agreed, handed)
        finally:
            close_export(agreed.export, agreed.name)

    def _serve(self, client: _Client, sock: socket.socket, agreed: Agreed, handed: HandedConnection | None) -> None:
        """Until the client goes, the server stops, or the connection is handed over (`client.handed`)."""
        if hasattr(agreed.export, "connect"):
            make = partial(agreed.export.connect, who=client.who,
                           contexts=[(context.id, context.name) for context in agreed.contexts])
        else:
            make = partial(core.Connection, capsule=agreed.export.capsule,
                           own_fua=getattr(agreed.export, "own_fua", False),
                           contexts=[(context.id, context.capsule) for context in agreed.contexts])
        name = getattr(agreed.export, "name", agreed.name)     # the client's may be empty, or an age
        while True:
            connection: Transmission = make(sock, memory=self._memory, read_only=agreed.read_only,
                                            structured=agreed.structured, context_id=agreed.context_id,
                                            fast_zero=agreed.fast_zero)
            if handed:
                connection.resume(handed.received, handed.skipped, handed.counters)
            with self._changed:
                client.name = name
                client.read_only = agreed.read_only
                client.connection = connection
                self._changed.notify_all()
                if self._stopping.is_set():
                    return
                if self._phase is _Phase.PAUSING:
                    connection.pause()
            log.info("connection %d (%s): serving %r", client.number, client.peer, agreed.name)
            end = connection.serve()
            if end is not core.End.PAUSED:
                break
            received, skipped = connection.rest()
            handed = HandedConnection(
                sock, client.number, name, client.who, client.peer, client.tls, client.since_s, agreed.read_only,
                agreed.structured, agreed.context_id, agreed.fast_zero, agreed.export.size_bytes,
                agreed.export.description, getattr(agreed.export, "multi_conn", True), received, skipped,
                connection.counters(), client.relay, [(context.id, context.name) for context in agreed.contexts])
            with self._changed:
                client.paused = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._phase is not _Phase.PAUSING)
                client.paused = False
                if self._phase is _Phase.RELEASED:
                    client.connection = None
                    client.handed = handed
                    return
        with self._changed:
            client.connection = None
            self._changed.notify_all()
        log.info("connection %d (%s): %s, %s", client.number, client.peer, end.name, connection.counters())
