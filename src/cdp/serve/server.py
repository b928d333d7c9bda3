"""A server: volumes behind NBD and behind the administration socket, until it is stopped.

Exports of a volume NAME: NAME, NAME@POINT (a time image, opened for the connection), NAME/IMAGE, NAME/IMAGE@POINT.

Invariants
  1. Order of start: settings are valid already; paths; sockets; volumes, each with its serving.json as soon as it is
     open; then "ready". A volume that cannot be opened does not stop the others, unless none can be, or `strict`: then
     volumes come before sockets. What fails undoes what was done before it.
  2. Order of stop: serving.json goes first, then the administration and NBD sockets and their connections, then the
     volumes. The second signal ends the process at once.
  3. A hand-over (cdp.serve.handover) stops everything in an order of its own: the administration's requests, the NBD
     connections at a request boundary, then the volumes. What was stopped is given away, or begun again here: both by
     _begin(). serving.json stays as it is: the administration socket is never closed.
  4. A signal wakes wait() through a socket, whichever thread the kernel gives it to: after SIGCONT that may be any, and
     a handler runs in the main thread only when that wakes.
Server belongs to the main thread (signals); Exports is called from many threads.
"""
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cdp.ipc.link import Link
from cdp.ipc.service_manager import given_sockets, notify, prints_to_journal
from cdp.ipc.stop_signals import stop_on_signal
from cdp.ipc.unix_socket import clear_stale_socket, socket_path
from cdp.serve.addresses import (
    ADMIN_OPTION,
    BOTH_OPTIONS,
    connection_memory_bytes,
    listen_addresses,
    named_roots,
    runtime_directory,
    runtime_sockets,
    tls_settings,
)
from cdp.serve.admin import AdminServer
from cdp.serve.alerting import Alerting
from cdp.serve.exports import Exports, shows
from cdp.serve.handover import PAUSE_SECONDS, VERSION, Giving, Stopped, Taking, check_version, meet
from cdp.serve.held import Held, Services
from cdp.serve.image_cache import ImageCache
from cdp.serve.luns import Luns
from cdp.serve.opening import Opening, unavailable
from cdp.serve.standbys import Standbys
from cdp.service.care import Care
from cdp.service.connect import LOCK_RETRY_SECONDS, LOCK_WAIT_SECONDS, find_server, open_volume
from cdp.service.local import VolumeService
from cdp.service.locate import Location, identity
from cdp.service.remote import RemoteService
from cdp.service.serving_file import remove_serving, write_serving
from cdp.settings import Settings, parse_address
from cdp.store.attached import named
from cdp.views import ClientView, ServedView
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, NotFound, Unavailable

if TYPE_CHECKING:
    from cdp import Volume
    from cdp.ipc.unix_socket import UnixListener
    from cdp.nbd.handover import Handed
    from cdp.serve.monitor import MonitorServer
    from cdp.serve.timeline.server import TimelineServer

log = logging.getLogger("cdp.serve")

FORCED_EXIT = 130
RELAY_LOOK_S = 0.2


class Server:
    """`with Server(paths, settings) as server: server.wait()`.

    service: what administers a volume. target: what NBD clients of the volumes themselves get (a cdp_target, which gets
    a flush only where a client sends one); None: the volume. A server with one of them is not handed over.

    replace: take over from the server that has these volumes, a running process; `force`: cut what it waits for.

    strict: nothing is served where a volume cannot be opened. Without it volumes are served one by one as they are
    opened, while entry waits for the last; entry raises only where none could be, and exit where one could not.

    timeline: where the page cdp.serve.timeline is offered.
    """

    def __init__(self, paths: Sequence[str], settings: Settings, read_only: bool = False, *,
                 replace: bool = False, force: bool = False, strict: bool = True,
                 timeline: tuple[str, int] | None = None,
                 service: "Callable[[Volume, ServedView], VolumeService]" = VolumeService,
                 target: "Callable[[Volume], object] | None" = None):
        self._settings = settings
        self._service, self._target = service, target
        self._roots = named_roots(paths)
        self._read_only, self._timeline = read_only, timeline
        self._replace, self._force, self._strict = replace, force, strict
        self._own_parts = service is VolumeService and target is None
        self._stack = ExitStack()
        self._parts = ExitStack()       # what a hand-over stops
        self._stopped = False
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_w.setblocking(False)
        self._given_listeners: Handed | None = None
        self._nbd: Any = None
        self._exports: Exports | None = None
        self._opening = Opening({})
        self._failures: dict[str, Exception] = {}   # of the volumes that could not be opened
        self._held: dict[str, Held] = {}    # what the administration has
        self._volumes: dict[str, Volume] = {}
        self._image_caches: dict[str, ImageCache] = {}
        self._cares: dict[str, Care] = {}
        self._alerting: Alerting | None = None
        self._admin_socket = ""
        self._signalled = False
        self._handing = threading.Lock()    # held from the request for a hand-over to its end
        self._giving: Giving | None = None
        self._force_giving = False
        self._admin: Any = None
        self._monitor: MonitorServer | None = None
        self._page: TimelineServer | None = None

    def __enter__(self) -> Self:
        with self._stack:
            self._stack.callback(self._wake_r.close)
            self._stack.callback(self._wake_w.close)
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.close()
        if error is None and self._failures:
            name, failure = next(iter(self._failures.items()))
            more = f", and {len(self._failures) - 1} more" if len(self._failures) > 1 else ""
            raise unavailable(f"{name} was not served{more}", failure)
        if error is None and (left := [volume for volume in self._volumes.values() if volume.unclean]):
            raise Unavailable(f"{left[0].path} was not closed cleanly: {left[0].unclean}" +
                              (f"; and {len(left) - 1} more" if len(left) > 1 else ""),
                              "remove the cause; the next opening recovers what was acknowledged and flushed")

    def _start(self) -> None:
        self._take_signals()
        # TLS files, addresses and the runtime folder are looked at before a volume is.
        tls_settings(self._settings)
        self._stack.callback(self._close_parts)
        if self._replace:
            self._take_over()
            return
        for location in self._roots.values():
            _refuse_if_served(location)
        self._listen = self._addresses()
        self._given_listeners = self._take_listeners()
        clear_stale_socket(self._admin_socket)
        self._begin()

    def _begin(self, stopped: Stopped | None = None, *, lenient: bool = False,
               taken: Callable[[], None] = lambda: None) -> None:
        """Open the volumes and serve them, to new clients and to those of `stopped`; `taken` is called when nothing can
        fail any more and no client has been answered yet."""
        from cdp.nbd import NbdServer
        from cdp.store.space_watch import listen as listen_for_space

        settings, roots = self._settings, list(self._roots.values())
        with ExitStack() as parts:
            luns = Luns(settings.platform, [location.root for location in roots],
                        lambda lun: _open_to_serve(roots[lun.lun], settings, taking_over=stopped is not None))
            parts.callback(luns.close)
            parts.callback(listen_for_space(luns.alert_space))
            parts.callback(self._close_image_caches)
            self._cares, self._alerting = {}, Alerting(settings, lambda: luns.alerts)
            parts.callback(self._alerting.close)
            parts.callback(self._close_cares, self._cares)
            self._standbys = Standbys(settings, tls_settings(settings), list(self._roots), parts)
            self._opening = Opening({name: location.root for name, location in self._roots.items()})
            early = not self._strict and stopped is None
            for name, volume in () if early else zip(self._roots, luns.start(), strict=True):
                self._add(name, volume)
            self._exports = Exports(list(self._roots), self._image_caches, self._volumes, self._read_only, luns,
                                    self._target, self._opening)
            begun = stopped.nbd if stopped else self._given_listeners
            nbd = NbdServer(self._exports, None if begun else self._listen, tls=tls_settings(settings),
                            max_connections=settings.max_connections,
                            memory_bytes=connection_memory_bytes(settings))
            parts.callback(nbd.close)
            if begun:
                nbd.adopt(begun, lenient)
            if self._timeline:      # it listens before there is no way back
                from cdp.serve.timeline.server import TimelineServer

                self._page = TimelineServer(*self._timeline, self._held, self._page)
                parts.callback(self._page.close)
            taken()
            try:
                nbd.start()
            except CdpError as error:
                raise type(error)(error.message, error.hint or "choose another --unix or --tcp address") from None
            self._nbd = nbd
            # After the clients of a hand-over, which do not wait for it.
            parts.callback(lambda: self._admin and self._admin.close())
            self._make_admin(stopped.control if stopped else None).start()
            if settings.metrics_listen:
                from cdp.serve.monitor import MonitorServer  # its framework takes 0.5 s to load

                self._monitor = MonitorServer(*parse_address(settings.metrics_listen), Services(self._held),
                                              self._opening.not_open, self._memory)
                parts.callback(self._monitor.close)
                self._monitor.start()
            if self._page:
                self._page.start()
            self._standbys.start()
            self._parts = parts.pop_all()
        for name in list(self._volumes):
            self._make_known(name)
        if early:
            self._open_each(luns)

    def _open_each(self, luns: Luns) -> None:
        """The volumes, each served as soon as it is open. A signal ends it: what was not begun is not opened."""
        names = list(self._roots)
        with closing(luns.open_each()) as each:
            for number, found in each:
                if isinstance(found, Exception):
                    self._opening.failed(names[number], found)
                    log.error("%s: not served: %s", self._roots[names[number]].root, found)
                else:
                    self._add(names[number], found)
                    self._hold(names[number])
                    self._make_known(names[number])
                if self._stopped:
                    self._opening.give_up(Unavailable("the server is stopped"))
                    return
        self._failures = self._opening.failures()
        if self._failures and not self._volumes:
            raise next(self._failures[name] for name in names if name in self._failures)
        for name in self._failures:
            del self._roots[name]       # a server that replaces this one names the others

    def _add(self, name: str, volume: "Volume") -> None:
        """It is open: clients get it from now on."""
        from cdp.store.free_space import shortage

        root = self._roots[name].root
        self._image_caches[name] = ImageCache(volume)
        assert self._alerting is not None
        self._cares[name] = Care(volume, self._settings, self._alerting.report)
        self._volumes[name] = volume
        if not volume.read_only and (short := shortage(root)):
            log.warning("%s", short)
        log.info("%s: open, %d bytes, #%d", named(root), volume.size_bytes, volume.window().newest.seq)
        self._opening.opened(name)

    def _hold(self, name: str) -> None:
        """The administration has it from now on."""
        service = self._service(self._volumes[name], self._served(name))
        service.connected = partial(self.clients, name)
        self._standbys.attach(name, service)
        self._cares[name].attach(service)
        self._held[name] = Held(service, self._image_caches[name], identity(self._roots[name].root), self._uris,
                                self.clients)

    def _make_known(self, name: str) -> None:
        """Other commands find this server by the volume."""
        if self._volumes[name].read_only:
            log.warning("%s: cannot be written: it is served to read, and other commands do not find this server",
                        named(self._roots[name].root))
            return
        write_serving(self._roots[name].root, self._served(name))

    @staticmethod
    def _close_cares(cares: dict[str, Care]) -> None:
        for care in cares.values():
            care.close()

    def _close_image_caches(self) -> None:
        for image_cache in self._image_caches.values():
            image_cache.close()

    def _make_admin(self, listener: "UnixListener | None") -> AdminServer:
        self._held.clear()      # the page has it, too
        for name in self._volumes:
            self._hold(name)
        admin = AdminServer(self._admin_socket, self._held, self.offer if self._own_parts else None, listener,
                            self._opening.not_open, self._settings.admin_read_socket, self._memory)
        self._admin = admin
        return admin

    def _memory(self) -> dict[str, int]:
        found: dict[str, int] = self._nbd.memory()
        return found

    def _close_parts(self) -> None:
        for name, location in self._roots.items():
            if (volume := self._volumes.get(name)) and not volume.read_only:
                remove_serving(location.root)
        self._parts.close()

    def _addresses(self) -> list[Any]:
        """Where NBD is offered; decides the administration socket too. Raises NotFound for a missing folder."""
        from cdp.nbd import TcpAddress, UnixAddress

        default = runtime_sockets(next(iter(self._roots)))
        self._admin_socket = socket_path(self._settings.admin_socket or default.admin,
                                         ADMIN_OPTION if self._settings.admin_socket or self._settings.unix_socket
                                         else BOTH_OPTIONS)
        return [UnixAddress(where[1]) if where[0] == "unix" else TcpAddress(*where[1:])
                for where in listen_addresses(self._settings, default.nbd)]

    def _take_listeners(self) -> "Handed | None":
        """The NBD sockets that systemd made; None where there are none."""
        from cdp.nbd.handover import Handed
        from cdp.nbd.listeners import listening

        if not (given := given_sockets()):
            return None
        if self._settings.unix_socket or self._settings.tcp_listen:
            raise InvalidRequest("systemd gives this server its sockets, and --unix or --tcp names others",
                                 "leave one of them out")
        handed = Handed([listening(sock) for sock in given])
        self._stack.callback(handed.hang_up)    # before they are the NBD server's; after that it is no harm
        return handed

    def _served(self, name: str) -> ServedView:
        return ServedView(pid=os.getpid(), admin_socket=self._admin_socket, name=name, uris=self._uris(name))

    def _uris(self, name: str) -> list[str]:
        """Of one export, at every address."""
        return [self._nbd.uri(name, listener) for listener in range(len(self._nbd.addresses))]

    def uris(self) -> list[str]:
        """The URI of every export there is now, at every address."""
        return [uri for name, _ in self._listed() for uri in self._uris(name)]

    def _listed(self) -> list[tuple[str, str]]:
        """The exports that are open."""
        assert self._exports is not None
        return [found for found in self._exports.list() if found[0].split("/")[0] in self._volumes]

    def timeline_url(self) -> str | None:
        """Of the page, with its token; without it where what is printed goes to the journal, which others may read:
        then it is in a file."""
        if self._page is None:
            return None
        return self._page.address if prints_to_journal() else self._page.url

    def timeline_file(self) -> str | None:
        """Where the address of the page is, with its token, if not in timeline_url(): beside the administration
        socket, and only this user can read it. It is removed when the server ends."""
        if self._page is None or not prints_to_journal():
            return None
        path = f"{self._admin_socket}.timeline"
        with suppress(FileNotFoundError):
            os.unlink(path)
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"{self._page.url}\n")
        self._stack.callback(_unlink, path, self._page.url)
        return path

    def view(self) -> dict[str, Any]:
        """What `serve --json` prints."""
        exports = [{"name": name, "uris": self._uris(name), "description": text} for name, text in self._listed()]
        return {"pid": os.getpid(), "admin_socket": self._admin_socket, "read_only": self._read_only,
                "metrics": None if self._monitor is None else f"http://{self._monitor.address}/metrics",
                "timeline": self.timeline_url(), "standby": self._standbys.addresses, "exports": exports}

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until a signal or stop(), which gives True, or the time is up."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._stopped:
            if self._giving:
                self._hand_over()
                continue
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._wake_r], [], [], left)[0]:
                return self._stopped
            self._wake_r.recv(64)
        if timeout_s is None:
            notify(STOPPING=1)
            log.info("stopping")
        return True

    def names(self) -> list[str]:
        """Of the volumes."""
        return list(self._volumes)

    def volume(self, name: str) -> "Volume":
        """A volume that is served, valid until this object is left."""
        return self._volumes[name]

    def connections(self, name: str) -> list[int]:
        """Numbers of the NBD connections to one export, ascending; a number is never used again."""
        return sorted(c.id for c in self._nbd.connections() if c.export == name)

    def clients(self, name: str) -> list[ClientView]:
        """The NBD connections to a volume or image and to its moments."""
        return [ClientView(connection=c.id, export=c.export, who=c.who, read_only=c.read_only,
                           connected_ms=int(1e3 * (time.monotonic() - c.since_s)),
                           written_bytes=c.counters["written_bytes"])
                for c in self._nbd.connections() if shows(c.export, name)]

    # --- hand-over ----------------------------------------------------------------------------------------------------

    def offer(self, path: str, version: int, force: bool) -> None:
        """A new process listens at `path`, to take over: wait() hands it everything. Any thread. Raises why it does
        not."""
        check_version(version)
        if not self._handing.acquire(blocking=False):
            raise Busy("this server is being handed over already", "wait for it, then repeat")
        try:
            self._giving, self._force_giving = Giving(Link.connect(path)), force
            self._wake()
        except BaseException:
            self._handing.release()
            raise

    def _hand_over(self) -> None:
        """In wait(): afterwards either the new process serves, and _stopped is set, or this one goes on."""
        giving, self._giving = self._giving, None
        assert giving
        try:
            if giving.offer({"volumes": {name: identity(location.root) for name, location in self._roots.items()},
                             "addresses": [str(address) for address in self._nbd.addresses],
                             "admin_socket": self._admin_socket}):
                self._give(giving)
            else:
                log.error("not handed over: the new process did not want it")
        except CdpError as error:
            log.error("not handed over: %s; going on", error)
        finally:
            giving.close()
            self._handing.release()

    def _give(self, giving: Giving) -> None:
        volumes = list(self._volumes.values())
        for volume in volumes:
            if not volume.read_only:
                volume.flush()      # while clients are served: closing takes less then
        if self._page:
            self._page.close()      # its requests end now, and not while clients wait
        stopped = Stopped()
        try:
            stopped.control = self._admin.hand_over(self._force_giving)
            stopped.paused_s = time.monotonic()
            stopped.nbd = self._nbd.hand_over(PAUSE_SECONDS, self._force_giving)
        except CdpError as error:
            giving.refuse(error)
            if stopped.control:
                self._make_admin(stopped.control).start()
            if self._page:
                self._page = self._page.again()
                self._parts.callback(self._page.close)
            raise
        self._parts.close()
        try:
            if left := [volume for volume in volumes if volume.unclean]:
                raise Unavailable(f"{left[0].path} was not closed cleanly: {left[0].unclean}")
            pid = giving.give(stopped)
        except CdpError as error:
            giving.refuse(error)
            self._go_on(stopped)
            raise
        log.info("process %d serves %s now", pid, ", ".join(self._roots))
        self._stopped = True
        self._volumes = {}
        relays = stopped.nbd.relays()
        stopped.close()
        self._carry_tls(relays)

    def _go_on(self, stopped: Stopped) -> None:
        try:
            self._begin(stopped, lenient=True)
        except BaseException:
            stopped.hang_up()
            raise
        log.warning("clients waited for %.0f ms for nothing", 1e3 * (time.monotonic() - stopped.paused_s))

    def _carry_tls(self, relays: list[threading.Thread]) -> None:
        """The keys of TLS connections are this process's: it stays to carry them, until they end or a signal comes."""
        if relays:
            log.info("this process stays to carry %d TLS connections until they end", len(relays))
        while not self._signalled and any(thread.is_alive() for thread in relays):
            if select.select([self._wake_r], [], [], RELAY_LOOK_S)[0]:
                self._wake_r.recv(64)

    def _take_over(self) -> None:
        """Be the new process: everything is loaded before the other one stops."""
        import cdp
        import cdp.nbd
        import cdp.store.free_space

        _ = cdp.Volume
        remote = self._running_server()
        path = os.path.join(runtime_directory(), f"{os.getpid()}.handover.sock")
        with remote, meet(path, lambda: remote.hand_over(path, VERSION, self._force)) as link:
            taking = Taking(link)
            offer = taking.offer()
            self._check_offer(offer)
            self._admin_socket = offer["admin_socket"]
            taking.take()

            def taken() -> None:
                if self._signalled:
                    raise Unavailable("a signal ended this process before it took over")
                taking.taken()

            try:
                self._begin(taking.stopped, taken=taken)
            except BaseException as error:
                taking.failed(error)
                raise
            for name, volume in self._volumes.items():
                volume._store.events.handed_over(len(self.clients(name)))
            log.info("took over %d connections from process %d: their clients waited %.0f ms",
                     len(taking.stopped.nbd.connections), offer["pid"],
                     1e3 * (taking.taken_s - taking.stopped.paused_s))

    def _running_server(self) -> RemoteService:
        """The one that has all the volumes. Raises NotFound, InvalidRequest."""
        found: RemoteService | None = None
        for location in self._roots.values():
            remote = find_server(location)
            if remote is None:
                raise NotFound(f"{location.root} is not served", "start it without --replace")
            if found and found.socket_path != remote.socket_path:
                raise InvalidRequest("these volumes are served by several servers", "replace one after the other")
            found = remote
        assert found
        return found

    def _check_offer(self, offer: dict[str, Any]) -> None:
        """Whether this server would be the other's equal. Raises InvalidRequest."""
        ours = {name: identity(location.root) for name, location in self._roots.items()}
        if ours != offer["volumes"]:
            raise InvalidRequest(f"the running server serves {', '.join(sorted(offer['volumes']))}",
                                 "name all of its volumes, and no others")
        settings = self._settings
        if settings.unix_socket or settings.tcp_listen:
            asked = sorted(str(address) for address in self._addresses())
            if asked != sorted(offer["addresses"]):
                raise InvalidRequest(f"the running server listens at {', '.join(offer['addresses'])}",
                                     "with --replace give the same addresses or none")
        if settings.admin_socket and os.path.abspath(settings.admin_socket) != offer["admin_socket"]:
            raise InvalidRequest(f"the administration socket of the running server is {offer['admin_socket']}",
                                 "with --replace give the same one or none")

    def stop(self) -> None:
        """Ask wait() to return; from any thread."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # full: it wakes all the same
            self._wake_w.send(b"x")

    def _take_signals(self) -> None:
        self._stack.enter_context(stop_on_signal(self._signal))
        if threading.current_thread() is threading.main_thread():
            self._stack.callback(signal.set_wakeup_fd,
                                 signal.set_wakeup_fd(self._wake_w.fileno(), warn_on_full_buffer=False))

    def _signal(self) -> None:
        if self._signalled:
            os.write(2, b"cdp: stopped at once\n")
            os._exit(FORCED_EXIT)
        self._signalled = self._stopped = True


def _refuse_if_served(location: Location) -> None:
    if remote := find_server(location):
        with remote:
            pid = remote.server()["pid"]
        raise Busy(f"{location.root} is served already, by process {pid}",
                   f"'cdp info {quote(location.root)}' shows where")


def _open_to_serve(location: Location, settings: Settings, taking_over: bool) -> Any:
    deadline = time.monotonic() + LOCK_WAIT_SECONDS  # a command holds a volume for milliseconds
    while True:
        try:
            return open_volume(location.root, settings)
        except Busy as error:
            if not taking_over:
                _refuse_if_served(location)  # another server was faster
            if time.monotonic() >= deadline:
                raise Busy(error.message, error.hint or "end the process that has it open, then repeat") from None
        time.sleep(LOCK_RETRY_SECONDS)


def _unlink(path: str, url: str) -> None:
    """Unless a server that replaced this one has written its own."""
    with suppress(FileNotFoundError), open(path) as file:
        if file.read() == f"{url}\n":
            os.unlink(path)
