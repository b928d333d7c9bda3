"""A server: volumes behind NBD and behind the administration socket, until it is told to stop.

Exports of a volume NAME: NAME, NAME@POINT (a time image, opened for the connection), NAME/IMAGE, NAME/IMAGE@POINT.

Invariants
  1. Order of start: settings are valid already; paths; volumes; sockets; serving.json; then "ready". What fails undoes
     what was done before it.
  2. Order of stop: serving.json goes first, then the administration and NBD sockets and their connections, then the
     volumes. The second signal ends the process at once.
  3. A signal wakes wait() through a socket, whichever thread the kernel gives it to: after SIGCONT that may be any, and a
     handler runs in the main thread only when that wakes.
Server belongs to the main thread (signals); Exports is called from many threads.
"""
import logging
import os
import select
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from cdp.ipc.unix_socket import answers, clear_stale_socket
from cdp.moments.points import valid_name
from cdp.serve.image_cache import ImageLeases
from cdp.serve.luns import Front
from cdp.service.connect import LOCK_RETRY_SECONDS, LOCK_WAIT_SECONDS, find_server, open_volume
from cdp.service.local import VolumeService
from cdp.service.locate import IMAGES, Location, identity, is_volume, locate
from cdp.service.serving_file import remove_serving, write_serving
from cdp.settings import Settings, parse_address
from cdp.views import ServedView
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, NotFound, Unavailable

if TYPE_CHECKING:
    from cdp import Volume

log = logging.getLogger("cdp.serve")

FORCED_EXIT = 130
MAX_SAME_NAME = 32


@dataclass(frozen=True)
class OpenExport:
    """One connection's export (cdp.nbd.handshake.Export)."""

    capsule: object
    read_only: bool
    size_bytes: int
    description: str
    name: str
    multi_conn: bool
    volume: "Volume"
    """What it shows, open until close()."""
    _close: Callable[[], None]
    own_fua: bool = False

    def close(self) -> None:
        self._close()


class Capsules(Protocol):
    """Where the capsule of the volume with a number comes from (cdp.serve.luns.Front)."""

    def capsule(self, number: int) -> object: ...


class Exports:
    """Export names to exports (cdp.nbd.handshake.Resolver)."""

    def __init__(self, leases: dict[str, ImageLeases], volumes: "dict[str, Volume]", read_only: bool, front: "Capsules",
                 target: "Callable[[Volume], object] | None" = None):
        self._leases = leases
        self._volumes = volumes
        self._read_only = read_only
        self._front = front
        self._target = target

    def list(self) -> Sequence[tuple[str, str]]:
        """The volumes and all their images, from the directories: an image is not opened to be shown."""
        return [found for name, volume in self._volumes.items() for found in
                [(name, f"volume of {volume.size_bytes} bytes"), *_images_in(name, volume.path)]]

    def split(self, name: str) -> tuple[str, tuple[str, ...], str | None]:
        """Volume, image names and point of an export name. An empty name is the only volume. Raises NotFound."""
        if not name and len(self._volumes) == 1:
            name = next(iter(self._volumes))
        path, point = name, None
        if name not in self._volumes and "@" in name:
            path, _, point = name.rpartition("@")
            if path.endswith("@"):
                path, point = path[:-1], f"@{point}"
        root, *images = path.split("/")
        if root not in self._volumes:
            raise NotFound(f"no export {name!r}", f"there are {', '.join(self._volumes)}")
        return root, tuple(images), point

    def open(self, name: str) -> OpenExport:
        root, images, point = self.split(name)
        leases = self._leases[root]
        with ExitStack() as stack:
            volume = leases.acquire(images)
            stack.callback(leases.release, images)
            base = "/".join((root, *images))
            if point is None:
                own = None if images else self._target
                if own is not None:
                    capsule = own(volume)
                else:
                    capsule = volume.target() if images else self._front.capsule(list(self._volumes).index(root))
                return OpenExport(capsule=capsule, own_fua=own is not None, read_only=self._read_only or volume.read_only,
                                  size_bytes=volume.size_bytes, description=base, name=base, multi_conn=True, volume=volume,
                                  _close=stack.pop_all().close)
            image = stack.enter_context(volume.at(point))
            at = f"#{image.moment.seq}"
            return OpenExport(capsule=image.target(), read_only=True, size_bytes=image.size_bytes,
                              description=f"{base} as of {at}", name=f"{base}@{at}",
                              # -10m is another moment for the next connection; a seq is not.
                              multi_conn=point == at, volume=volume, _close=stack.pop_all().close)


def _images_in(name: str, path: str) -> Iterator[tuple[str, str]]:
    try:
        images = sorted(os.listdir(os.path.join(path, IMAGES)))
    except FileNotFoundError:
        return  # deleted meanwhile
    for image in images:
        inner = os.path.join(path, IMAGES, image)
        if valid_name(image) and not image.endswith((".creating", ".deleted")) and is_volume(inner):
            yield f"{name}/{image}", f"writable image of {name}"
            yield from _images_in(f"{name}/{image}", inner)


def runtime_directory() -> str:
    """Where sockets go that nobody named: a directory that only this user can enter."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base):
        path = os.path.join(base, "cdp")
    elif os.geteuid() == 0 and os.path.isdir("/run") and os.access("/run", os.W_OK):
        path = "/run/cdp"
    else:
        path = os.path.join(tempfile.gettempdir(), f"cdp-{os.geteuid()}")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.stat(path)
    except OSError as error:
        raise Unavailable(f"{path}: cannot make the runtime directory: {error.strerror}", "give --unix SOCK") from None
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise Unavailable(f"{path}: others can write there", "give --unix SOCK in a directory of your own")
    return path


@dataclass(frozen=True)
class RuntimeSockets:
    """Paths of the sockets that nobody named."""

    nbd: str
    admin: str


def runtime_sockets(name: str) -> RuntimeSockets:
    """NAME.sock and NAME.admin.sock, or NAME-2... where another volume of that name is being served. Raises Busy."""
    directory = runtime_directory()
    for number in range(1, MAX_SAME_NAME + 1):
        stem = os.path.join(directory, name if number == 1 else f"{name}-{number}")
        sockets = RuntimeSockets(f"{stem}.sock", f"{stem}.admin.sock")
        if not answers(sockets.nbd) and not answers(sockets.admin):
            return sockets
    raise Busy(f"{directory}: {MAX_SAME_NAME} volumes {name!r} are being served", "give --unix and --admin-socket")


class Server:
    """`with Server(paths, settings) as server: server.wait()`.

    service: what administers a volume. target: what NBD clients of the volumes themselves get (a cdp_target, which gets a
    flush only where a client sends one); None: the volume.
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
        self._leases: dict[str, ImageLeases] = {}
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

    def _start(self) -> None:
        self._take_signals()
        settings = self._settings
        # TLS files, addresses and the runtime directory are looked at before a volume is.
        tls = tls_settings(settings)
        for location in self._roots.values():
            _refuse_if_served(location)
        listen = self._addresses()
        from cdp.nbd import NbdServer
        from cdp.serve.http_api import AdminServer, Held
        from cdp.store.free_space import shortage

        clear_stale_socket(self._admin_socket)
        roots = list(self._roots.values())
        front = Front(settings.platform, [location.root for location in roots], lambda lun: _open_to_serve(roots[lun.lun], settings))
        self._stack.callback(front.close)
        for (name, location), volume in zip(self._roots.items(), front.start(), strict=True):
            self._volumes[name] = volume
            self._leases[name] = ImageLeases(volume)
            self._stack.callback(self._leases[name].close)
            if not volume.read_only and (short := shortage(location.root, volume.geometry().segment_bytes)):
                log.warning("%s", short)
            log.info("%s: open, %d bytes, #%d", location.root, volume.size_bytes, volume.window().newest.seq)

        self._exports = Exports(self._leases, self._volumes, self._read_only, front, self._target)
        self._nbd = NbdServer(self._exports, listen, tls=tls, max_connections=settings.max_connections)
        self._stack.callback(self._nbd.close)
        try:
            self._nbd.start()
        except CdpError as error:
            raise type(error)(error.message, error.hint or "choose another --unix or --tcp address") from None

        held = {name: Held(self._service(volume, self._served(name)), self._leases[name],
                           identity(self._roots[name].root), self._uris)
                for name, volume in self._volumes.items()}
        admin = AdminServer(self._admin_socket, held)
        self._stack.callback(admin.close)
        admin.start()
        for name, location in self._roots.items():
            if self._volumes[name].read_only:
                log.warning("%s: cannot be written: it is served to read, and other commands do not find this server", location.root)
                continue
            self._stack.callback(remove_serving, location.root)
            write_serving(location.root, self._served(name))

    def _addresses(self) -> list[Any]:
        """Where NBD is offered; settles the administration socket too. Raises NotFound for a missing directory."""
        from cdp.nbd import TcpAddress, UnixAddress

        default = runtime_sockets(next(iter(self._roots)))
        self._admin_socket = os.path.abspath(self._settings.admin_socket or default.admin)
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

    def stop(self) -> None:
        """Ask wait() to return; from any thread."""
        self._stopped = True
        with suppress(OSError):  # full: it wakes all the same
            self._wake_w.send(b"x")

    def _take_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # in a test or embedded: the caller stops it
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, self._signal)
            self._stack.callback(signal.signal, number, before)
        self._stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._wake_w.fileno(), warn_on_full_buffer=False))

    def _signal(self, number: int, _frame: FrameType | None) -> None:
        if self._signalled:
            os.write(2, b"cdp: stopped at once\n")
            os._exit(FORCED_EXIT)
        self._signalled = self._stopped = True


def listen_addresses(settings: Settings, default: str) -> list[tuple[Any, ...]]:
    """("unix", path) and ("tcp", host, port) where NBD is to be offered; `default`: the unix socket where nothing was said.
    Raises NotFound for a missing directory."""
    listen = list[tuple[Any, ...]]()
    if settings.unix_socket:
        listen.append(("unix", settings.unix_socket))
    if settings.tcp_listen:
        listen.append(("tcp", *parse_address(settings.tcp_listen)))
    for path in (settings.unix_socket, settings.admin_socket):
        folder = os.path.dirname(path or "") or "."
        if not os.path.isdir(folder):
            raise NotFound(f"{path}: no such directory", f"make it first: mkdir -p {folder}")
    return listen or [("unix", default)]


def tls_settings(settings: Settings) -> Any:
    """cdp.nbd.TlsSettings. Raises InvalidRequest for unusable files."""
    from cdp.nbd import TlsMode, TlsSettings

    if settings.tls == "off":
        return TlsSettings()
    tls = TlsSettings(mode=TlsMode(settings.tls), cert_file=settings.tls_cert, key_file=settings.tls_key,
                      client_ca_file=settings.tls_ca)
    tls.context()
    return tls


def named_roots(paths: Sequence[str]) -> dict[str, Location]:
    """Export name to volume, for the paths of the command line. Raises NotFound, InvalidRequest."""
    roots: dict[str, Location] = {}
    for path in paths:
        if "@" in path and not os.path.exists(path):
            volume = path.rpartition("@")[0]
            raise InvalidRequest(f"{path}: a server takes volumes, not points",
                                 f"serve {volume}; the point is then the export {os.path.basename(path)}")
        location = locate(path)
        if location.images:
            export = "/".join((os.path.basename(location.root), *location.images))
            raise InvalidRequest(f"{path} is an image of {location.root}",
                                 f"serve {location.root}; the image is then the export {export}")
        name = os.path.basename(os.path.realpath(location.root))
        if name in roots:
            raise InvalidRequest(f"{path} and {roots[name].root} have the same name {name!r}",
                                 "serve them from two servers")
        roots[name] = location
    return roots


def _refuse_if_served(location: Location) -> None:
    if remote := find_server(location):
        with remote:
            pid = remote.server()["pid"]
        raise Busy(f"{location.root} is served already, by process {pid}", f"'cdp info {location.root}' shows where")


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
