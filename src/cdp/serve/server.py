"""A server: volumes behind NBD and behind the administration socket, until it is stopped.

Exports of a volume NAME: NAME, NAME@POINT (a time image, opened for the connection), NAME/IMAGE, NAME/IMAGE@POINT.

Invariants
  1. Order of start: settings are valid already; paths; volumes; sockets; serving.json; then "ready". What fails undoes
     what was done before it.
  2. Order of stop: serving.json goes first, then the administration and NBD sockets and their connections, then the
     volumes. The second signal ends the process at once.
  3. A signal wakes wait() through a socket, whichever thread the kernel gives it to: after SIGCONT that may be any, and
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
from contextlib import ExitStack, suppress
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cdp.ipc.stop_signals import stop_on_signal
from cdp.ipc.unix_socket import clear_stale_socket, socket_path
from cdp.serve.addresses import ADMIN_OPTION, BOTH_OPTIONS, listen_addresses, named_roots, runtime_sockets, tls_settings
from cdp.serve.exports import Exports, shows
from cdp.serve.image_cache import ImageCache
from cdp.serve.luns import Luns
from cdp.service.connect import LOCK_RETRY_SECONDS, LOCK_WAIT_SECONDS, find_server, open_volume
from cdp.service.local import VolumeService
from cdp.service.locate import Location, identity
from cdp.service.serving_file import remove_serving, write_serving
from cdp.settings import Settings
from cdp.views import ClientView, ServedView
from cdpcore.base.errors import Busy, CdpError, Unavailable

if TYPE_CHECKING:
    from cdp import Volume

log = logging.getLogger("cdp.serve")

FORCED_EXIT = 130


class Server:
    """`with Server(paths, settings) as server: server.wait()`.

    service: what administers a volume. target: what NBD clients of the volumes themselves get (a cdp_target, which gets
    a flush only where a client sends one); None: the volume.
    """

    def __init__(self, paths: Sequence[str], settings: Settings, read_only: bool = False, *,
                 service: "Callable[[Volume, ServedView], VolumeService]" = VolumeService,
                 target: "Callable[[Volume], object] | None" = None):
        self._settings = settings
        self._service, self._target = service, target
        self._roots = named_roots(paths)
        self._read_only = read_only
        self._stack = ExitStack()
        self._stopped = False
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_w.setblocking(False)
        self._nbd: Any = None
        self._exports: Exports | None = None
        self._volumes: dict[str, Volume] = {}
        self._image_caches: dict[str, ImageCache] = {}
        self._admin_socket = ""
        self._signalled = False

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
        if error is None and (left := [volume for volume in self._volumes.values() if volume.unclean]):
            raise Unavailable(f"{left[0].path} was not closed cleanly: {left[0].unclean}" +
                              (f"; and {len(left) - 1} more" if len(left) > 1 else ""),
                              "remove the cause; the next opening recovers what was acknowledged and flushed")

    def _start(self) -> None:
        self._take_signals()
        settings = self._settings
        # TLS files, addresses and the runtime folder are looked at before a volume is.
        tls = tls_settings(settings)
        for location in self._roots.values():
            _refuse_if_served(location)
        listen = self._addresses()
        from cdp.nbd import NbdServer
        from cdp.serve.http_api import AdminServer, Held
        from cdp.store.free_space import shortage

        clear_stale_socket(self._admin_socket)
        roots = list(self._roots.values())
        luns = Luns(settings.platform, [location.root for location in roots],
                    lambda lun: _open_to_serve(roots[lun.lun], settings))
        self._stack.callback(luns.close)
        for (name, location), volume in zip(self._roots.items(), luns.start(), strict=True):
            self._volumes[name] = volume
            self._image_caches[name] = ImageCache(volume)
            self._stack.callback(self._image_caches[name].close)
            if not volume.read_only and (short := shortage(location.root, volume.geometry().segment_bytes)):
                log.warning("%s", short)
            log.info("%s: open, %d bytes, #%d", location.root, volume.size_bytes, volume.window().newest.seq)

        self._exports = Exports(self._image_caches, self._volumes, self._read_only, luns, self._target)
        self._nbd = NbdServer(self._exports, listen, tls=tls, max_connections=settings.max_connections)
        self._stack.callback(self._nbd.close)
        try:
            self._nbd.start()
        except CdpError as error:
            raise type(error)(error.message, error.hint or "choose another --unix or --tcp address") from None

        held = {name: Held(self._service(volume, self._served(name)), self._image_caches[name],
                           identity(self._roots[name].root), self._uris, self.clients)
                for name, volume in self._volumes.items()}
        admin = AdminServer(self._admin_socket, held)
        self._stack.callback(admin.close)
        admin.start()
        for name, location in self._roots.items():
            if self._volumes[name].read_only:
                log.warning("%s: cannot be written: it is served to read, and other commands do not find this server",
                            location.root)
                continue
            self._stack.callback(remove_serving, location.root)
            write_serving(location.root, self._served(name))

    def _addresses(self) -> list[Any]:
        """Where NBD is offered; decides the administration socket too. Raises NotFound for a missing folder."""
        from cdp.nbd import TcpAddress, UnixAddress

        default = runtime_sockets(next(iter(self._roots)))
        self._admin_socket = socket_path(self._settings.admin_socket or default.admin,
                                         ADMIN_OPTION if self._settings.admin_socket or self._settings.unix_socket
                                         else BOTH_OPTIONS)
        return [UnixAddress(where[1]) if where[0] == "unix" else TcpAddress(*where[1:])
                for where in listen_addresses(self._settings, default.nbd)]

    def _served(self, name: str) -> ServedView:
        return ServedView(pid=os.getpid(), admin_socket=self._admin_socket, name=name, uris=self._uris(name))

    def _uris(self, name: str) -> list[str]:
        """Of one export, at every address."""
        return [self._nbd.uri(name, listener) for listener in range(len(self._nbd.addresses))]

    def uris(self) -> list[str]:
        """The URI of every export there is now, at every address."""
        assert self._exports is not None
        return [uri for name, _ in self._exports.list() for uri in self._uris(name)]

    def view(self) -> dict[str, Any]:
        """What `serve --json` prints."""
        assert self._exports is not None
        exports = [{"name": name, "uris": self._uris(name), "description": text} for name, text in self._exports.list()]
        return {"pid": os.getpid(), "admin_socket": self._admin_socket, "read_only": self._read_only,
                "exports": exports}

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until a signal or stop(), which gives True, or the time is up."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._stopped:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._wake_r], [], [], left)[0]:
                return self._stopped
            self._wake_r.recv(64)
        if timeout_s is None:
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

    def stop(self) -> None:
        """Ask wait() to return; from any thread."""
        self._stopped = True
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


def _open_to_serve(location: Location, settings: Settings) -> Any:
    deadline = time.monotonic() + LOCK_WAIT_SECONDS  # a command holds a volume for milliseconds
    while True:
        try:
            return open_volume(location.root, settings)
        except Busy as error:
            _refuse_if_served(location)  # another server was faster
            if time.monotonic() >= deadline:
                raise Busy(error.message, error.hint or "end the process that has it open, then repeat") from None
        time.sleep(LOCK_RETRY_SECONDS)
