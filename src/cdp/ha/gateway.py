"""The gateway: NBD to the clients, shared memory and messages to the time store daemon that owns the volumes.

It knows no volume: what exports there are, and how big, it asks the owner. A client's connection outlives owners: while
there is none its requests wait; the next one is given the memory of every connection, does again what its predecessor
had not written, and goes on.

Invariants
  1. There is at most one owner. A new one is taken on when its predecessor's link has ended, and gets a higher epoch; a
     channel's memory names the epoch that may touch it.
  2. Whatever was acknowledged to a client is in a file of the volume, or kept here (cdpcore.channel.gateway). A gateway
     that is replaced by a new process (cdp.serve.handover) has nothing of that kind any more: its connections stop at a
     request boundary, with everything written.
Threading: one thread accepts daemons; the owner's link has one that reads; clients' threads call. _lock guards who owns
and the connections; _calls what is being asked.
"""
from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from cdp.ipc.errors import decode_error
from cdp.ipc.link import Link, Message, accept_links
from cdp.ipc.unix_socket import UnixListener, bind_unix
from cdp.nbd import Address, NbdServer, TlsSettings, UnixAddress
from cdp.nbd.handover import HandedConnection
from cdp.nbd.server import MEMORY_BYTES
from cdp.serve.handover import PAUSE_SECONDS, VERSION, Giving, Stopped, Taking, check_version
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, Unavailable
from cdpcore.channel.channel import Channel
from cdpcore.channel.gateway import GateConnection
from cdpcore.nbd.connection import End
from cdpcore.nbd.memory import ConnectionMemory

log = logging.getLogger("cdp.gateway")

CALL_SECONDS = 9.0
"""A handshake waits so long for an owner; the client's own patience, and the server's bound, is 10 s."""
SUCCESSION_SECONDS = 5.0
"""A new owner waits so long for the link of the one before to end."""


class _Gone(Exception):
    """The owner went while it was being asked."""


@dataclass
class RemoteExport:
    """An export as the owner has it open (cdp.nbd.exports.Export), and the connection that shows it."""

    gateway: Gateway
    id: int
    name: str
    size_bytes: int
    read_only: bool
    description: str
    multi_conn: bool
    resumed: bool = False       # of a connection that another gateway had: names of its contexts are known
    who: str = ""
    selected: tuple[str, ...] = ()      # canonical names of metadata contexts
    base: bool = False          # base:allocation is selected
    capsule: object = None
    channel: Channel | None = None
    connection: GateConnection | None = None

    def context(self, name: str) -> tuple[str, object] | None:
        """The owner has the map."""
        if self.resumed:
            return name, None
        found = self.gateway.ask("context", id=self.id, name=self.name, context=name)["context"]
        return None if found is None else (str(found), None)

    def contexts(self) -> list[str]:
        return [str(name) for name in self.gateway.ask("contexts", id=self.id, name=self.name)["contexts"]]

    def connect(self, sock: socket.socket, *, memory: ConnectionMemory, who: str, contexts: Sequence[tuple[int, str]],
                read_only: bool, structured: bool, context_id: int | None, fast_zero: bool) -> RemoteConnection:
        self.who, self.base = who, context_id is not None
        self.selected = tuple(name for _, name in contexts)
        if self.channel is not None:    # paused, and going on here: for the owner it is another one
            self.id = self.gateway.number()
        self.channel = Channel()
        self.connection = GateConnection(sock, self.channel, -1, size_bytes=self.size_bytes, read_only=read_only,
                                         structured=structured, context_id=context_id, fast_zero=fast_zero,
                                         contexts=[number for number, _ in contexts], memory=memory)
        return RemoteConnection(self.gateway, self)

    def close(self) -> None:
        if self.channel is None:        # only looked at
            self.gateway.forget(self.id)


@dataclass
class RemoteConnection:
    """cdp.nbd.exports.Transmission: known to the gateway while it serves."""

    gateway: Gateway
    export: RemoteExport
    core: GateConnection = field(init=False)

    def __post_init__(self) -> None:
        assert self.export.connection
        self.core = self.export.connection

    def serve(self) -> End:
        self.gateway.enter(self.export)
        try:
            return self.core.serve()
        finally:
            self.gateway.leave(self.export)

    def stop(self, *, now: bool = False) -> None:
        self.core.stop(now=now)

    def pause(self) -> None:
        self.core.pause()

    def rest(self) -> tuple[bytes, int]:
        return self.core.rest()

    def resume(self, received: bytes, skipped: int = 0, counters: Mapping[str, int] | None = None) -> None:
        self.core.resume(received, skipped, counters)

    def counters(self) -> dict[str, int]:
        return self.core.counters()


class Gateway:
    """`with Gateway(control, listen) as gateway:` listens for clients at `listen` and for daemons at the unix socket
    `control`.

    replace: take over from the gateway that listens at `control`, with its addresses; `force`: cut connections that it
    would wait for. replaced(): called when another process has taken over; any thread.
    """

    def __init__(self, control: str, addresses: Sequence[Address], *, tls: TlsSettings | None = None,
                 max_connections: int = 64, memory_bytes: int = MEMORY_BYTES, replace: bool = False,
                 force: bool = False, replaced: Callable[[], None] = lambda: None):
        self.control = os.path.abspath(control)
        self._addresses = list(addresses)
        self._replace, self._force, self._replaced = replace, force, replaced
        self._handing = threading.Lock()
        self._make_server = partial(NbdServer, self, tls=tls or TlsSettings(), max_connections=max_connections,
                                    memory_bytes=memory_bytes)
        self._tls = tls is not None and tls.mode.name != "OFF"
        self._stack = ExitStack()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._owner: Link | None = None
        self._ready = False                     # the owner has redone what was lost, and may be asked
        self._epoch = 0
        self._numbers = itertools.count(1)
        self._exports: dict[int, RemoteExport] = {}     # connections
        self._calls: dict[int, Future[Message]] = {}
        self._links: set[Link] = set()
        self._closing = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._replace:
            with Link.connect(self.control, "--daemons SOCK") as link:
                self._take_over(link)
            return self
        with ExitStack() as stack:
            self._listener: UnixListener | None = bind_unix(self.control,
                                                            option="--daemons SOCK, or a shorter TMPDIR,")
            stack.callback(self._unlisten)
            self._stop_accepting = accept_links(self._listener, self._serve_daemon, "gateway")
            self._server = self._make_server(self._addresses)
            self._server.start()
            stack.callback(self._close_server)
            self._stack = stack.pop_all()
        return self

    def _close_server(self) -> None:
        self._server.close()

    def __exit__(self, *_exc: object) -> None:
        """Clients' last requests are carried out and written, then all links end."""
        self._stack.close()

    def _unlisten(self) -> None:
        with self._lock:
            self._closing = True
            links = list(self._links)
        if self._listener:
            self._listener.close()
        for link in links:
            link.hang_up()

    # --- another process ----------------------------------------------------------------------------------------------

    def _take_over(self, link: Link) -> None:
        """Be the new process."""
        link.send({"op": "replace", "version": VERSION, "force": self._force})
        taking = Taking(link)
        offer = taking.offer()
        if self._addresses and sorted(map(str, self._addresses)) != sorted(offer["addresses"]):
            raise InvalidRequest(f"the running gateway listens at {', '.join(offer['addresses'])}",
                                 "with --replace give the same addresses or none")
        taking.take()
        try:
            self._begin(taking.stopped)
            taking.taken()
        except BaseException as error:
            taking.failed(error)
            raise
        self._go_on(taking.stopped)
        self._stack.callback(self._unlisten)
        self._stack.callback(self._close_server)
        log.info("took over %d connections from process %d: their clients waited %.0f ms",
                 len(taking.stopped.nbd.connections), offer["pid"],
                 1e3 * (taking.taken_s - taking.stopped.paused_s))

    def _begin(self, stopped: Stopped) -> None:
        self._server = self._make_server(None)
        self._server.adopt(stopped.nbd)

    def _go_on(self, stopped: Stopped) -> None:
        assert stopped.control
        self._listener = stopped.control
        self._listener.sock.setblocking(True)
        self._server.start()
        self._stop_accepting = accept_links(self._listener, self._serve_daemon, "gateway")

    def _be_replaced(self, link: Link, order: Message) -> None:
        """Be the old process: afterwards the new one has everything, or this one goes on. A thread of its own."""
        giving = Giving(link)
        if not self._handing.acquire(blocking=False):
            giving.refuse(Busy("this gateway is being replaced already", "wait for it, then repeat"))
            return
        refused = None
        try:
            check_version(int(order["version"]))
            if not giving.offer({"addresses": [str(address) for address in self._server.addresses]}):
                return
            stopped = Stopped(paused_s=time.monotonic())
            stopped.nbd = self._server.hand_over(PAUSE_SECONDS, bool(order["force"]))
            self._stop_accepting()
            stopped.control, self._listener = self._listener, None
            try:
                pid = giving.give(stopped)
            except CdpError:
                self._begin(stopped)
                self._go_on(stopped)
                raise
        except CdpError as error:
            refused = error
        finally:
            self._handing.release()
        if refused:         # not before: who hears it may try again at once
            giving.refuse(refused)
            log.error("not replaced: %s; going on", refused)
            return
        log.info("process %d keeps the connections now", pid)
        relays = stopped.nbd.relays()
        stopped.close()
        with self._lock:
            self._closing = True
            if self._owner:
                self._owner.send({"op": "replaced"})
                self._owner.hang_up()
        if relays:
            log.info("this process stays to carry %d TLS connections until they end", len(relays))
        for relay in relays:
            relay.join()
        self._replaced()

    def resume(self, handed: HandedConnection) -> RemoteExport:
        """cdp.nbd.exports.Resolver: a connection that another gateway had, or this one."""
        return RemoteExport(self, self.number(), handed.name, handed.size_bytes, handed.read_only, handed.description,
                            handed.multi_conn, resumed=True)

    def number(self) -> int:
        """Of a connection: never used again."""
        return next(self._numbers)

    def uri(self, name: str = "", listener: int = 0) -> str:
        return self._server.uri(name, listener)

    @property
    def addresses(self) -> list[Address]:
        return self._server.addresses

    # --- exports (cdp.nbd.exports.Resolver) ---------------------------------------------------------------------------

    def list(self) -> Sequence[tuple[str, str]]:
        return [(str(name), str(text)) for name, text in self._call({"op": "list"})["exports"]]

    def open(self, name: str) -> RemoteExport:
        number = next(self._numbers)
        found = self._call({"op": "open", "id": number, "name": name})
        return RemoteExport(self, number, found["name"], found["size_bytes"], found["read_only"], found["description"],
                            found["multi_conn"])

    def ask(self, op: str, **what: object) -> Message:
        """The owner, about an open export. Raises what it raised, Unavailable without one."""
        return self._call({"op": op, **what})

    def forget(self, number: int) -> None:
        """An export that no connection came of."""
        with self._lock:
            if self._owner:
                self._owner.send({"op": "forget", "id": number})

    def enter(self, export: RemoteExport) -> None:
        """A connection begins: the owner, if there is one, is given its memory."""
        with self._lock:
            self._exports[export.id] = export
            if self._owner:
                self._hand_over(export, self._owner)

    def leave(self, export: RemoteExport) -> None:
        with self._lock:
            del self._exports[export.id]

    def _hand_over(self, export: RemoteExport, link: Link) -> None:
        """_lock held."""
        assert export.channel and export.connection
        ours, theirs = socket.socketpair()
        with theirs:
            export.channel.own(self._epoch)
            link.send({"op": "channel", "id": export.id, "name": export.name, "who": export.who, "base": export.base,
                       "contexts": list(export.selected)},
                      [export.channel.fileno(), theirs.fileno()])
        export.connection.attach(ours.detach())

    # --- asking the owner ---------------------------------------------------------------------------------------------

    def _call(self, message: Message) -> Message:
        """The owner's answer; an owner that dies is replaced by the next. Raises what it raised, Unavailable without
        one."""
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            number = next(self._numbers)
            answer: Future[Message] = Future()
            with self._changed:
                while not self._ready:
                    left = deadline - time.monotonic()
                    if left <= 0 or self._closing:
                        raise Unavailable("no daemon serves the volumes now",
                                          "'cdp ha status' shows why; then connect again")
                    self._changed.wait(left)
                assert self._owner
                self._calls[number] = answer
                self._owner.send({**message, "call": number})
            try:
                found = answer.result(max(0.0, deadline - time.monotonic()))
            except _Gone:
                continue
            except FutureTimeout:
                raise Unavailable("the daemon that serves the volumes does not answer", "connect again") from None
            finally:
                with self._lock:
                    self._calls.pop(number, None)
            if "error" in found:
                raise decode_error(found["error"])
            return found

    # --- daemons ------------------------------------------------------------------------------------------------------

    def _serve_daemon(self, link: Link) -> None:
        with link:
            with self._lock:
                self._links.add(link)
            try:
                first = link.receive()
                if first and first[0].get("op") == "replace":
                    self._be_replaced(link, first[0])
                elif first and first[0].get("op") == "attach" and self._take_on(link, first[0]):
                    while (got := link.receive()) is not None:
                        self._answered(got[0])
            except Exception:
                log.exception("the link to a daemon failed")
            finally:
                self._let_go(link)

    def _take_on(self, link: Link, hello: Message) -> bool:
        """The daemon becomes the owner: every connection is handed to it, with what it is to do again."""
        with self._changed:
            free = self._changed.wait_for(lambda: self._owner is None or self._closing, SUCCESSION_SECONDS)
            if not free or self._closing:
                log.warning("process %s wants to own the volumes, which have an owner", hello.get("pid"))
                link.send({"op": "refused", "why": "the volumes have an owner"})
                return False
            self._epoch += 1
            self._owner = link
            log.info("process %s owns the volumes (epoch %d); %d connections", hello.get("pid"), self._epoch,
                     len(self._exports))
            link.send({"op": "own", "epoch": self._epoch, "tls": self._tls,
                       "addresses": [["unix", a.path] if isinstance(a, UnixAddress) else ["tcp", a.host, a.port]
                                     for a in self._server.addresses]})
            for export in self._exports.values():
                self._hand_over(export, link)
            link.send({"op": "start"})
            return True

    def _answered(self, message: Message) -> None:
        if message.get("op") == "started":
            with self._changed:
                self._ready = True
                self._changed.notify_all()
        elif message.get("op") == "failed":
            with self._lock:
                export = self._exports.get(int(message["id"]))
            if export and export.connection:
                log.error("%s: a connection ends: %s", export.name, decode_error(message.get("error")))
                export.connection.stop(now=True)
        elif "call" in message:
            with self._lock:
                answer = self._calls.get(int(message["call"]))
            if answer and not answer.done():
                answer.set_result(message)

    def _let_go(self, link: Link) -> None:
        with self._changed:
            self._links.discard(link)
            if self._owner is not link:
                return
            self._owner = None
            self._ready = False
            for export in self._exports.values():
                assert export.channel
                export.channel.disown()
            for answer in self._calls.values():
                if not answer.done():
                    answer.set_exception(_Gone())
            self._changed.notify_all()
            if not self._closing:
                log.warning("the volumes have no owner (epoch %d ended); %d connections wait", self._epoch,
                            len(self._exports))

    def view(self) -> dict[str, Any]:
        """For the manager's status: connections, and the memory that they share. It waits for nothing: it goes with
        beats."""
        return {"connections": len(self._exports), "memory": self._server.memory()}
