"""Replacing a server by a new process while its clients stay connected: the conversation of the two.

The new process (`cdp serve --replace`) has everything loaded and its settings checked. It asks the running server, over
the administration API, to connect to a socket of its own; there they talk:

    old -> new  offer        what is served, where
    new -> old  take
                             (requests under way are answered; connections stop at a request boundary; volumes close)
    old -> new  listener     each, with its descriptor
                connection   each, with its descriptor and the bytes that were received of the next request
                control      the administration socket; of a gateway: that of its daemons
                open
                             (the new process opens the volumes and the exports)
    new -> old  taken        the point of no return: from here on the new process serves
             or failed

Invariants
  1. One of the two has the volumes open, by the volumes' locks. The new process does nothing with a client before it
     has said `taken`; the old one nothing after it has said `open`, unless `failed` or the end of the link came
     instead.
  2. A process that cannot be asked any more is dead before the old one goes on: the link's other end is closed, if need
     be by SIGKILL after TAKE_SECONDS.
  3. VERSION is the version of these messages and of what they mean. A process of another one is refused before anything
     is stopped.
A gateway (cdp.ha.gateway) is replaced in the same way, over its daemons' socket; it has no volumes.
Threading: one thread of each, its main thread where it has volumes.
"""
from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

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
        raise Unavailable(f"the running process hands over by version {VERSION}, the new one takes version {version}",
                          "stop it and start the new one: clients must connect again")


@dataclass
class Stopped:
    """What a server that has stopped is made of: for the next one, or for itself to go on with."""

    nbd: Handed = field(default_factory=Handed)
    control: UnixListener | None = None
    paused_s: float = 0.0       # of time.monotonic(): since when clients wait

    def close(self) -> None:
        """Another process has it."""
        self.nbd.close()
        if self.control:
            self.control.sock.close()

    def hang_up(self) -> None:
        self.nbd.hang_up()
        if self.control:
            self.control.close()


class Giving:
    """The old process's side of the link."""

    def __init__(self, link: Link):
        self._link = link

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
            assert stopped.control
            control = Listener(stopped.control.sock, UnixAddress(stopped.control.path), stopped.control)
            self._link.send({**listener_message(control), "op": "control"}, [control.sock.fileno()])
            self._link.send({"op": "open", "paused_s": stopped.paused_s})
            self._link.sock.settimeout(TAKE_SECONDS)
            got = self._link.receive()
        except CdpError:
            got = None
        if got and got[0].get("op") == "taken":
            return int(got[0]["pid"])
        error = decode_error(got[0].get("error")) if got and "error" in got[0] else None
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


@contextmanager
def meet(path: str, ask: Callable[[], None]) -> Iterator[Link]:
    """Listen at `path`, and ask() the running server to connect. Raises what ask() raises, Unavailable."""
    listener = bind_unix(path)
    try:
        ask()
        listener.sock.settimeout(ANSWER_SECONDS)
        try:
            sock, _ = listener.sock.accept()
        except OSError:
            raise Unavailable("the running server did not answer", "see its log") from None
        with Link(sock) as link:
            yield link
    finally:
        listener.close()


class Taking:
    """The new process's side of the link."""

    def __init__(self, link: Link):
        self._link = link
        self.stopped = Stopped()
        self.taken_s = 0.0

    def offer(self) -> Message:
        """What the running server has. Raises Unavailable, and what it raises."""
        self._link.sock.settimeout(ANSWER_SECONDS)
        offer, _ = self._next("offer")
        return offer

    def take(self) -> None:
        """Everything that the running server has. Raises what it raises, Unavailable; then it goes on."""
        self._link.send({"op": "take"})
        self._link.sock.settimeout(TAKE_SECONDS)
        op = ""
        while op != "open":
            message, fds = self._next("listener", "connection", "control", "open")
            op = message["op"]
            try:
                self._take_one(op, message, fds)
            except (LookupError, TypeError, ValueError, OSError, OverflowError) as error:
                raise Unavailable(f"the running process sent a {op!r} that is none: {error}",
                                  "stop it and start the new one: clients must connect again") from None

    def _take_one(self, op: str, message: Message, fds: list[int]) -> None:
        match op:
            case "listener":
                self.stopped.nbd.listeners.append(listener_of(message, fds))
            case "connection":
                self.stopped.nbd.connections.append(connection_of(message, fds))
            case "control":
                self.stopped.control = listener_of(message, fds).unix
            case "open":
                self.stopped.paused_s = float(message["paused_s"])

    def taken(self) -> None:
        """The point of no return. The old server may be dead: then nobody else has what it gave."""
        self.taken_s = time.monotonic()
        self._link.send({"op": "taken", "pid": os.getpid()})

    def failed(self, error: BaseException) -> None:
        """The old one goes on. What it gave is closed here."""
        self.stopped.close()
        self._link.send({"op": "failed", "error": encode_error(error)})

    def _next(self, *expected: str) -> tuple[Message, list[int]]:
        got = self._link.receive()
        if got is None:
            raise Unavailable("the running process ended the hand-over", "see its log, and whether it still runs")
        message, fds = got
        if (op := message.get("op")) not in expected or op in ("offer", "open"):
            while fds:                          # they belong to none of these
                os.close(fds.pop())
        if op == "refused":
            raise decode_error(message.get("error"))
        if op not in expected:
            raise Busy(f"the running process said {op!r} and not {expected[0]!r}")
        return got
