"""Where standbys connect: the listener of a server, and a thread for each connection.

Whoever can connect gets everything that a volume holds and held, as a client of NBD does: TLS and its certificates are
those of NBD, and there is no other password.
"""
from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
from collections.abc import Collection, Mapping
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

from cdp.nbd.listeners import Address, Listener, listen
from cdp.nbd.tls import relay
from cdp.standby import wire
from cdp.standby.sender import Sender
from cdp.standby.wire import ACK, HELLO, Channel, Gone
from cdpcore.base.errors import Busy, CdpError, Corruption, InvalidRequest, NotFound, Unavailable

if TYPE_CHECKING:
    from cdp import Volume
    from cdp.standby.standing import Standing

log = logging.getLogger("cdp.standby")
MOST_CONNECTIONS = 64
JOIN_S = 5.0


class StandbyListener:
    """From start() to close(). volumes, standings: by export name; both grow while volumes are opened. tls: for TCP;
    None: none. names: of all volumes that there will be."""

    def __init__(self, addresses: list[Address], volumes: Mapping[str, Volume], standings: Mapping[str, Standing],
                 tls: ssl.SSLContext | None, names: Collection[str] = ()):
        self._volumes, self._standings, self._tls, self._names = volumes, standings, tls, frozenset(names)
        self._stack = ExitStack()
        self._wake_r, self._wake_w = socket.socketpair()
        self._stack.callback(self._wake_r.close)
        self._stack.callback(self._wake_w.close)
        self._listeners: list[Listener] = []
        try:
            for address in addresses:
                for listener in listen(address):
                    self._stack.callback(listener.close)
                    self._listeners.append(listener)
        except BaseException:
            self._stack.close()
            raise
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="cdp-standby-listen", daemon=True)

    @property
    def addresses(self) -> list[str]:
        return [str(listener.address) for listener in self._listeners]

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """No standby is served at return. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            connections = list(self._connections)
        with suppress(OSError):
            self._wake_w.send(b"x")
        for connection in connections:
            connection.close()
        if self._thread.is_alive():
            self._thread.join()
        for connection in connections:
            connection.join(JOIN_S)
        self._stack.close()

    def _accept(self) -> None:
        by_fd = {listener.sock.fileno(): listener for listener in self._listeners}
        while not self._closing:
            ready, _, _ = select.select([self._wake_r.fileno(), *by_fd], [], [])
            for fd in ready:
                if (listener := by_fd.get(fd)) is None:
                    continue
                with suppress(OSError):
                    sock, _ = listener.sock.accept()
                    self._begin(listener, sock)

    def _begin(self, listener: Listener, sock: socket.socket) -> None:
        sock.setblocking(True)
        with self._lock:
            if self._closing or len(self._connections) >= MOST_CONNECTIONS:
                sock.close()
                return
            tls = self._tls if sock.family != socket.AF_UNIX else None
            connection = Connection(self, sock, listener.who(sock), tls)
            self._connections.add(connection)
        connection.start()

    def ended(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)

    def find(self, name: str) -> tuple[Volume, Standing]:
        """Raises NotFound; Unavailable for what is not open, yet."""
        volume, standing = self._volumes.get(name), self._standings.get(name)
        if volume is None or standing is None:
            if name in self._names:
                raise Unavailable(f"{name}: is not open there", "'cdp list' on that host shows why")
            has = ", ".join(sorted({*self._volumes, *self._names})) or "none"
            raise NotFound(f"no volume {name!r} here", f"that server has {has}: give --name")
        return volume, standing


class Connection(threading.Thread):
    """One standby's, or what turns out not to be one."""

    def __init__(self, listener: StandbyListener, sock: socket.socket, who: str, tls: ssl.SSLContext | None):
        super().__init__(name="cdp-standby", daemon=True)
        self._listener, self._sock, self._who, self._tls = listener, sock, who, tls
        self._channel: Channel | None = None
        self._sender: Sender | None = None
        self._ended = False

    def close(self) -> None:
        """End it; any thread."""
        self._ended = True
        if self._sender is not None:
            self._sender.stop()
        if self._channel is not None:
            self._channel.close()
        with suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def run(self) -> None:
        try:
            with closing(Channel(self._plain())) as self._channel:
                self._serve(self._channel)
        except (Gone, OSError) as error:
            if not self._ended:
                log.info("standby %s: %s", self._who, error)
        except CdpError as error:
            log.warning("standby %s: %s", self._who, error)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("standby %s: its first message is not understood: %r", self._who, error)
        finally:
            self._sock.close()
            self._listener.ended(self)

    def _plain(self) -> socket.socket:
        """With TLS one end of a pair, which a thread relays: one thread sends and another one receives here."""
        if self._tls is None:
            return self._sock
        self._sock.settimeout(wire.SILENCE_S)
        try:
            secure = self._tls.wrap_socket(self._sock, server_side=True)
        except ssl.SSLError as error:
            raise Corruption(f"no TLS handshake: {error.reason}", "see its --of tls://... and its certificates"
                             ) from None
        ours, theirs = socket.socketpair()
        threading.Thread(target=relay, args=(secure, theirs), name="cdp-standby-tls", daemon=True).start()
        return ours

    def _serve(self, channel: Channel) -> None:
        message = channel.receive()
        if message.kind != HELLO:
            raise Corruption(f"began with a message of kind {message.kind}", "see what connects there")
        hello = message.fields
        standing: Standing | None = None
        try:
            volume, standing = self._listener.find(str(hello["name"]))
            if hello["epoch"] > standing.epoch:
                raise InvalidRequest(f"{volume.name}: has epoch {standing.epoch}, and the standby has seen "
                                     f"{hello['epoch']}: another host was made its owner", "stop this server")
            if standing.known not in ("", hello["id"]) and hello["following"] is False:
                raise Busy(f"{volume.name}: has a standby already",
                           f"'cdp standby {volume.name} --detach', at the owner, lets another one take its place")
            sender = self._sender = Sender(volume, channel, hello)
            if self._ended:
                return
            before = standing.connected(self, str(hello["id"]), self._who)
            if before is not None:
                before.close()
            log.info("%s: standby %s begins at #%d", volume.path, self._who, hello["last_seq"])
            threading.Thread(target=self._hear, args=(channel, standing), name="cdp-standby-hear", daemon=True).start()
            sender.run(standing.epoch)
        except CdpError as error:
            with suppress(Gone):
                channel.send_json(wire.END, {"kind": type(error).__name__, "message": error.message,
                                             "hint": error.hint})
            raise
        finally:
            if standing is not None:
                standing.sent_bytes += channel.sent_bytes
                standing.disconnected(self)

    def _hear(self, channel: Channel, standing: Standing) -> None:
        """What the standby says it has."""
        try:
            while True:
                message = channel.receive()
                if message.kind != ACK:
                    raise Corruption(f"said a message of kind {message.kind}", "see whether both run this version")
                standing.acknowledged(self, message.number, message.offset, message.value)
        except (Gone, CdpError) as error:
            if not self._ended:
                log.info("standby %s: %s", self._who, error)
        finally:
            if self._sender is not None:
                self._sender.stop()
            channel.close()
