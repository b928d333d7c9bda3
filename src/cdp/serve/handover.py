"""Replacing a server by a new process while its clients stay connected: the conversation of the two.

The new process (`cdp serve --replace`) has everything loaded and its settings checked. It asks the running server, over
the administration API, to connect to a socket of its own; there they talk:

    old -> new  offer        what is served, where
    new -> old  take
                             (requests under way are answered; connections stop at a request boundary; volumes close)
    old -> new  listener     each, with its descriptor
                connection   each, with its descriptor and the bytes that were received of the next request
                admin        the administration socket
                open
                             (the new process opens the volumes and the exports)
    new -> old  taken        the point of no return: from here on the new process serves
             or failed

Invariants
  1. One of the two has the volumes open, by the volumes' locks. The new process does nothing with a client before it
     has said `taken`; the old one nothing after it has said `open`, unless `failed` or the end of the link came instead.
  2. A process that cannot be asked any more is dead before the old one goes on: the link's other end is closed, if need
     be by SIGKILL after TAKE_SECONDS.
  3. VERSION is the version of these messages and of what they mean. A process of another one is refused before anything
     is stopped.
Threading: the main thread of each.
"""
from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from cdp.ipc.errors import decode_error, encode_error
from cdp.ipc.link import Link, Message
from cdp.ipc.unix_socket import UnixListener, bind_unix
from cdp.nbd.handover import Handed, connection_of, listener_message, listener_of, send_handed
from cdp.nbd.listeners import Listener, UnixAddress
from cdpcore.base.errors import Busy, CdpError, Unavailable

log = logging.getLogger("cdp.serve")

VERSION = 1
PAUSE_SECONDS = 5.0
"""So long the requests under way have before a hand-over is given up."""
TAKE_SECONDS = 60.0
"""So long a new process has to open the volumes."""
ANSWER_SECONDS = 10.0


def check_version(version: int) -> None:
    """Raises Unavailable for another version than this one's."""
    if version != VERSION:
        raise Unavailable(f"the running server hands over by version {VERSION}, the new process takes version {version}",
                          "stop the server and start the new one: clients must connect again")


@dataclass
class Stopped:
    """What a server that has stopped is made of: for the next one, or for itself to go on with."""

    nbd: Handed = field(default_factory=Handed)
    admin: UnixListener | None = None
    paused_s: float = 0.0       # of time.monotonic(): since when clients wait

    def close(self) -> None:
        """Another process has it."""
        self.nbd.close()
        if self.admin:
            self.admin.sock.close()

    def hang_up(self) -> None:
        self.nbd.hang_up()
        if self.admin:
            self.admin.close()


class Giving:
    """The old process's side of the link."""

    def __init__(self, path: str):
        self._link = Link.connect(path)

    def offer(self, what: Message) -> bool:
        """Whether the other process takes it."""
        self._link.sock.settimeout(ANSWER_SECONDS)
        if not self._link.send({"op": "offer", "version": VERSION, "pid": os.getpid(), **what}):
            return False
        got = self._link.receive()
        return got is not None and got[0].get("op") == "take"

    def refuse(self, error: BaseException) -> None:
        self._link.send({"op": "refused", "error": encode_error(error)})

    def give(self, stopped: Stopped) -> int:
        """The process id of the new server, which has taken it. Raises why not: then no other process has it."""
        try:
            send_handed(self._link, stopped.nbd)
            assert stopped.admin
            admin = Listener(stopped.admin.sock, UnixAddress(stopped.admin.path), stopped.admin)
            self._link.send({**listener_message(admin), "op": "admin"}, [admin.sock.fileno()])
            self._link.send({"op": "open", "paused_s": stopped.paused_s})
            self._link.sock.settimeout(TAKE_SECONDS)
            got = self._link.receive()
        except CdpError:
            got = None
        if got and got[0].get("op") == "taken":
            return int(got[0]["pid"])
        error = decode_error(got[0]["error"]) if got and "error" in got[0] else None
        self._wait_for_its_end()
        raise error or Unavailable("the new process ended, or did not open the volumes in time")

    def _wait_for_its_end(self) -> None:
        self._link.sock.settimeout(ANSWER_SECONDS)
        while True:
            try:
                if not self._link.sock.recv(4096):
                    return
            except TimeoutError:
                if pid := _peer(self._link.sock):
                    log.error("the new process, %d, does not end: killed", pid)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            except OSError:
                return

    def close(self) -> None:
        self._link.close()


def _peer(sock: socket.socket) -> int:
    """The process at the other end; 0: not known."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


class Taking:
    """The new process's side: `with Taking(socket_path) as taking`."""

    def __init__(self, path: str):
        self._listener = bind_unix(path)
        self._link: Link | None = None
        self.stopped = Stopped()
        self.taken_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.close()
        if self._link:
            self._link.close()

    @property
    def path(self) -> str:
        return self._listener.path

    def meet(self, ask: Callable[[], None]) -> Message:
        """ask() makes the running server connect; its offer. Raises what ask() raises, Unavailable."""
        ask()
        self._listener.sock.settimeout(ANSWER_SECONDS)
        try:
            sock, _ = self._listener.sock.accept()
        except OSError:
            raise Unavailable("the running server did not answer", "see its log") from None
        sock.settimeout(ANSWER_SECONDS)
        self._link = Link(sock)
        return self._next("offer")[0]

    def take(self) -> None:
        """Everything that the running server has. Raises what it raises, Unavailable; then it goes on."""
        assert self._link
        self._link.send({"op": "take"})
        self._link.sock.settimeout(TAKE_SECONDS)
        while True:
            message, fds = self._next("listener", "connection", "admin", "open")
            match message["op"]:
                case "listener":
                    self.stopped.nbd.listeners.append(listener_of(message, fds))
                case "connection":
                    self.stopped.nbd.connections.append(connection_of(message, fds))
                case "admin":
                    self.stopped.admin = listener_of(message, fds).unix
                case "open":
                    self.stopped.paused_s = float(message["paused_s"])
                    return

    def taken(self) -> None:
        """The point of no return. The old server may be dead: then nobody else has what it gave."""
        assert self._link
        self.taken_s = time.monotonic()
        self._link.send({"op": "taken", "pid": os.getpid()})

    def failed(self, error: BaseException) -> None:
        """The old one goes on. What it gave is closed here."""
        self.stopped.close()
        if self._link:
            self._link.send({"op": "failed", "error": encode_error(error)})

    def _next(self, *expected: str) -> tuple[Any, list[int]]:
        assert self._link
        got = self._link.receive()
        if got is None:
            raise Unavailable("the running server ended the hand-over", "see its log, and whether it still runs")
        if got[0].get("op") == "refused":
            raise decode_error(got[0]["error"])
        if got[0].get("op") not in expected:
            raise Busy(f"the running server said {got[0].get('op')!r} and not {expected[0]!r}")
        return got
