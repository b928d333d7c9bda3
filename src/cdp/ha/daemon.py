"""The time store daemon: opens volumes, and carries out what a gateway hands it, from shared memory.

Invariants
  1. A daemon opens volumes only when the manager says that it owns them (shadow mode until then): the manager has made
     sure that no other process writes them; the volume's lock makes sure once more.
  2. Before the first new request: all that a predecessor had acknowledged or begun and not written is done again, over
     all connections of a volume in the order of seq, each once in effect (cdpcore.channel.executor).
  3. A gateway that dies is no error: what was acknowledged is made durable, and the daemon waits for the next.
Threading: serve() is one thread's; each connection has its own, without the GIL.
"""
from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from cdp.ipc.errors import encode_error
from cdp.ipc.link import Link, Message
from cdp.ipc.unix_socket import socket_path
from cdp.nbd import Address, TcpAddress, UnixAddress, export_uri
from cdp.nbd.protocol import MAX_CONTEXTS
from cdp.serve.addresses import ADMIN_OPTION, named_roots, runtime_sockets
from cdp.serve.admin import AdminServer
from cdp.serve.alerting import Alerting
from cdp.serve.exports import Exports, OpenExport, shows
from cdp.serve.held import Held
from cdp.serve.image_cache import ImageCache
from cdp.service.care import Care
from cdp.service.local import VolumeService
from cdp.service.locate import identity
from cdp.service.serving_file import remove_serving, write_serving
from cdp.settings import Settings
from cdp.views import ClientView, ServedView
from cdpcore.base.errors import CdpError, InvalidRequest, Unavailable
from cdpcore.channel.channel import Channel
from cdpcore.channel.executor import Executor

log = logging.getLogger("cdp.tsd")

RETRY_SECONDS = 0.05
TOLD_TRIES = 20     # a second: beside a manager, the gateway may only be starting
REDO_RETRY_SECONDS = 1.0


@dataclass
class _Served:
    """A connection that this daemon carries out."""

    export: OpenExport
    executor: Executor
    channel: Channel
    who: str
    base: bool
    contexts: tuple[str, ...]
    maps: dict[str, object]
    since_s: float = field(default_factory=time.monotonic)
    thread: threading.Thread | None = None


@dataclass
class _LookedAt:
    """An export that a handshake has open, and maps of metadata contexts by canonical name: they hold their moments."""

    export: OpenExport
    maps: dict[str, object] = field(default_factory=dict)


class Volumes:
    """The volumes that a daemon owns, open. Raises what cdp.open raises, and nothing stays open then."""

    def __init__(self, paths: Sequence[str], settings: Settings, read_only: bool = False,
                 clients: Callable[[str], list[ClientView]] = lambda name: []):
        import cdp
        from cdp.store.free_space import shortage

        self.uris: list[Address] = []
        self.tls = False
        self.opened: dict[str, cdp.Volume] = {}
        self._settings, self._clients = settings, clients
        self._locations = named_roots(paths)
        self._image_caches: dict[str, ImageCache] = {}
        self._cares: dict[str, Care] = {}
        self._admin: Any = None
        self._alerting = Alerting(settings)
        with ExitStack() as stack:
            stack.callback(self._alerting.close)
            for name, location in self._locations.items():
                self.opened[name] = cdp.open(location.root, settings=settings)
                stack.callback(self.opened[name].close)
                if short := shortage(location.root):
                    log.warning("%s", short)
                self._image_caches[name] = ImageCache(self.opened[name])
                stack.callback(self._image_caches[name].close)
                self._cares[name] = Care(self.opened[name], settings, self._alerting.report)
                stack.callback(self._cares[name].close)
            self.exports = Exports(list(self.opened), self._image_caches, self.opened, read_only, self)
            self._stack = stack.pop_all()

    def capsule(self, number: int) -> object:
        """cdp.serve.exports.Capsules: the engine's own."""
        return list(self.opened.values())[number].target()

    def start_admin(self) -> None:
        """The administration API, so that every command works on these volumes. A failover does not wait for it."""
        default = runtime_sockets(next(iter(self._locations)))
        path = socket_path(self._settings.admin_socket or default.admin, ADMIN_OPTION)
        views = {name: ServedView(pid=os.getpid(), admin_socket=path, name=name, uris=self.uris_of(name))
                 for name in self._locations}
        held: dict[str, Held] = {}
        for name, volume in self.opened.items():
            service = VolumeService(volume, views[name])
            service.connected = partial(self._clients, name)
            self._cares[name].attach(service)
            held[name] = Held(service, self._image_caches[name], identity(self._locations[name].root), self.uris_of,
                              self._clients)
        self._admin = AdminServer(path, held, read_path=self._settings.admin_read_socket)
        self._admin.start()
        for name, location in self._locations.items():
            write_serving(location.root, views[name])

    def taken_over(self) -> None:
        """Say so to who watches: this process carries on what another had begun."""
        for name, volume in self.opened.items():
            volume._store.events.handed_over(len(self._clients(name)))

    def close(self) -> None:
        """Everything becomes durable and is closed. A successor waits for this: the administration's slow end is not
        waited for."""
        ending: threading.Thread | None = None
        if self._admin:
            for location in self._locations.values():
                remove_serving(location.root)
            ending = threading.Thread(target=self._admin.close)
            ending.start()
        self._stack.close()
        if ending:
            ending.join()

    def paths(self) -> dict[str, str]:
        return {name: location.root for name, location in self._locations.items()}

    def uris_of(self, name: str) -> list[str]:
        return [export_uri(address, name, tls=self.tls) for address in self.uris]


class Daemon:
    """Daemon(gateway, settings): `gateway` is the unix socket that it listens on for daemons.

    own() opens the volumes, serve() works until stop(); close() releases everything.
    """

    def __init__(self, gateway: str, settings: Settings, read_only: bool = False):
        self._gateway = gateway
        self._settings = settings
        self._read_only = read_only
        self._volumes: Volumes | None = None
        self._lock = threading.Lock()           # guards _served, _link, _stopping
        self._served: dict[int, _Served] = {}
        self._looked_at: dict[int, _LookedAt] = {}
        self._link: Link | None = None
        self._stopping = threading.Event()
        self.ready = threading.Event()
        self.ending = False     # the gateway is about to end, and that is no accident
        self._replaced = False  # the gateway was, by another process
        self.replayed = 0
        self._administered = False

    def own(self, paths: Sequence[str]) -> Self:
        """Become the owner of these volumes; the caller knows that there is no other. Raises what cdp.open raises."""
        began = time.monotonic()
        self._volumes = Volumes(paths, self._settings, self._read_only, self.clients)
        log.info("%d volumes recovered and open after %.0f ms", len(self._volumes.opened),
                 1e3 * (time.monotonic() - began))
        return self

    def serve(self) -> None:
        """Carry out what the gateway hands over, until stop(). A gateway that dies is waited for."""
        tries = 0
        while not self._stopping.is_set():
            try:
                link = Link.connect(self._gateway, "--gateway SOCK")
            except Unavailable:
                tries += 1
                if tries == TOLD_TRIES:
                    log.warning("waiting for a gateway at %s: none listens there; without limit, until SIGTERM, "
                                "SIGINT or SIGHUP", self._gateway)
                self._stopping.wait(RETRY_SECONDS)
                continue
            tries = 0
            with link:
                with self._lock:
                    if self._stopping.is_set():
                        return
                    self._link = link
                try:
                    link.send({"op": "attach", "pid": os.getpid()})
                    self._follow(link)
                finally:
                    self.ready.clear()
                    with self._lock:
                        self._link = None
                    self._end_all()
            if self._replaced:      # what its clients sent is written, and the next one listens already
                self._replaced = False
                log.info("the gateway was replaced")
            elif not self._stopping.is_set():
                log.log(logging.INFO if self.ending else logging.WARNING,
                        "the gateway is gone: its connections end, what was acknowledged is made durable")
                self._flush()
                self._stopping.wait(RETRY_SECONDS)

    def stop(self) -> None:
        """serve() returns after the requests under way. Any thread; idempotent."""
        self._stopping.set()
        with self._lock:
            if self._link:
                self._link.hang_up()

    def close(self) -> None:
        """After serve(): everything becomes durable and is closed. Raises Unavailable where a volume could not be
        closed cleanly."""
        if self._volumes:
            volumes, self._volumes = self._volumes, None
            volumes.close()
            for volume in volumes.opened.values():
                if volume.unclean:
                    raise Unavailable(f"{volume.path} was not closed cleanly: {volume.unclean}",
                                      "remove the cause; the next opening recovers what was acknowledged")

    def owned(self) -> dict[str, str]:
        """Name to path of the volumes that this daemon owns."""
        return self._volumes.paths() if self._volumes else {}

    def clients(self, name: str) -> list[ClientView]:
        """The connections to a volume or image and to its moments. Any thread."""
        with self._lock:
            return [ClientView(connection=number, export=one.export.name, who=one.who, read_only=one.export.read_only,
                               connected_ms=int(1e3 * (time.monotonic() - one.since_s)), written_bytes=None)
                    for number, one in self._served.items() if shows(one.export.name, name)]

    # --- messages from the gateway ------------------------------------------------------------------------------------

    def _follow(self, link: Link) -> None:
        assert self._volumes
        epoch = 0
        inherited: list[tuple[int, _Served]] = []
        points: list[tuple[Message, list[int]]] = []    # time images: what they show may have to be redone first
        started = False
        while (got := link.receive()) is not None:
            message, fds = got
            match message.get("op"):
                case "own":
                    epoch = int(message["epoch"])
                    self._volumes.uris = [UnixAddress(a[1]) if a[0] == "unix" else TcpAddress(a[1], a[2])
                                          for a in message["addresses"]]
                    self._volumes.tls = bool(message["tls"])
                case "channel" if not started and "@" in message["name"]:
                    points.append((message, fds))
                case "channel":
                    served = self._adopt(link, message, fds, epoch)
                    if served and started:
                        served.channel.replayed()
                        self._start(link, int(message["id"]), served)
                    elif served:
                        inherited.append((int(message["id"]), served))
                case "start":
                    if not self._redo([served for _, served in inherited]):
                        return
                    for number, served in inherited:
                        self._start(link, number, served)
                    for late, its_fds in points:
                        if served := self._adopt(link, late, its_fds, epoch):
                            served.channel.replayed()
                            self._start(link, int(late["id"]), served)
                    if inherited:
                        self._volumes.taken_over()
                    inherited, points, started = [], [], True
                    link.send({"op": "started"})
                    self.ready.set()
                    if not self._administered:
                        self._volumes.start_admin()
                        self._administered = True
                case "replaced":
                    self._replaced = True
                case "refused":
                    log.warning("the gateway refuses: %s", message.get("why"))
                case "list" | "open" | "context" | "contexts":
                    link.send({"call": message["call"], **self._asked(message)})
                case "forget":
                    if looked_at := self._looked_at.pop(int(message["id"]), None):
                        looked_at.export.close()

    def _asked(self, message: Message) -> Message:
        assert self._volumes
        try:
            if message["op"] == "list":
                return {"exports": [list(one) for one in self._volumes.exports.list()]}
            number = int(message["id"])
            if number not in self._looked_at:       # or another owner had it open
                self._looked_at[number] = _LookedAt(self._volumes.exports.open(str(message["name"])))
            export = self._looked_at[number].export
            if message["op"] == "contexts":
                return {"contexts": export.contexts()}
            if message["op"] == "context":
                return {"context": self._context(self._looked_at[number], str(message["context"]))}
        except Exception as error:      # noqa: BLE001  (raised again at the gateway)
            return {"error": encode_error(error)}
        return {"name": export.name, "size_bytes": export.size_bytes, "read_only": export.read_only,
                "description": export.description, "multi_conn": export.multi_conn}

    def _context(self, looked_at: _LookedAt, name: str) -> str | None:
        """The canonical name of a metadata context. Raises CdpError."""
        if (found := looked_at.export.context(name)) is None:
            return None
        if len(looked_at.maps) < MAX_CONTEXTS:
            looked_at.maps[found[0]] = found[1]
        return found[0]

    def _adopt(self, link: Link, message: Message, fds: list[int], epoch: int) -> _Served | None:
        """A connection's memory and doorbell; what it shows is opened if it is not yet."""
        assert self._volumes
        number = int(message["id"])
        door = fds[1]
        try:
            looked_at = self._looked_at.pop(number, None) or _LookedAt(self._volumes.exports.open(str(message["name"])))
            try:
                channel = Channel(fds[0])
                return _Served(looked_at.export, Executor(channel, os.dup(door), looked_at.export.capsule, epoch),
                               channel, str(message["who"]), bool(message["base"]),
                               tuple(str(name) for name in message["contexts"]), looked_at.maps)
            except BaseException:
                looked_at.export.close()
                raise
        except CdpError as error:
            self._failed(link, number, error)
            return None
        finally:
            for fd in fds:
                os.close(fd)

    def _failed(self, link: Link, number: int, error: CdpError) -> None:
        link.send({"op": "failed", "id": number, "error": encode_error(error)})

    # --- a failover ---------------------------------------------------------------------------------------------------

    def _redo(self, served: list[_Served]) -> bool:
        """Do again what is not in the log, volume by volume in the order of seq. False: stopped meanwhile."""
        began = time.monotonic()
        lost: list[tuple[int, int, int, Executor]] = []
        for index, one in enumerate(served):
            if not one.export.read_only:
                last_seq = one.export.volume.window().newest.seq
                lost += [(id(one.export.volume), seq, number, one.executor)
                         for seq, number in one.executor.lost(last_seq)]
        lost.sort(key=lambda entry: entry[:3])
        for _, _, number, executor in lost:
            while True:
                try:
                    executor.redo(number)
                    break
                except CdpError as error:     # a full device: nothing acknowledged may be lost, so its clients wait
                    log.error("redoing what was lost: %s; trying again", error)
                    if self._stopping.wait(REDO_RETRY_SECONDS):
                        return False
        for one in served:
            one.channel.replayed()
        self.replayed = len(lost)
        if served:
            log.info("%d connections taken over, %d changes redone, %.0f ms", len(served), len(lost),
                     1e3 * (time.monotonic() - began))
        return True

    # --- connections --------------------------------------------------------------------------------------------------

    def _start(self, link: Link, number: int, served: _Served) -> None:
        """After what was lost is redone: a context's moment may be of it."""
        try:
            served.executor.select(served.base, [_map(served, name) for name in served.contexts])
        except CdpError as error:
            self._failed(link, number, error)
            served.export.close()
            return
        served.maps = {}
        served.thread = threading.Thread(target=self._run, args=(number, served), name=f"tsd-{number}", daemon=True)
        with self._lock:
            self._served[number] = served
        served.thread.start()

    def _run(self, number: int, served: _Served) -> None:
        try:
            left = served.executor.run()
            log.info("connection %d (%s): %s", number, served.export.name, left.name)
        finally:
            with self._lock:
                self._served.pop(number, None)
            served.export.close()

    def _end_all(self) -> None:
        with self._lock:
            every = list(self._served.values())
        for one in every:
            one.executor.stop()
        for one in every:
            if one.thread:
                one.thread.join()
        for looked_at in self._looked_at.values():
            looked_at.export.close()
        self._looked_at.clear()

    def _flush(self) -> None:
        for name, volume in (self._volumes.opened if self._volumes else {}).items():
            with suppress(CdpError):
                volume.flush()
                log.info("%s: durable up to #%d", name, volume.window().newest.seq)


def _map(served: _Served, name: str) -> object:
    """Of a metadata context, by canonical name. Raises CdpError."""
    if name in served.maps:
        return served.maps[name]
    found = served.export.context(name)
    if found is None:
        raise InvalidRequest(f"no metadata context {name!r}", "gateway and daemon must be of one version")
    return found[1]
