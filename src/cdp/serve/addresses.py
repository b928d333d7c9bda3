"""Where a server listens, and which volumes it has: settings and paths, looked at before a volume is opened."""
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from cdp.ipc.unix_socket import answers, socket_path
from cdp.service.locate import Location, locate
from cdp.settings import Settings, parse_address
from cdp.store.memory import process_bytes
from cdpcore.base.errors import Busy, InvalidRequest, NotFound, Unavailable

MAX_SAME_NAME = 32
# What gives a socket another path.
UNIX_OPTION = "--unix SOCK"
ADMIN_OPTION = "--admin-socket SOCK"
BOTH_OPTIONS = f"{UNIX_OPTION} and {ADMIN_OPTION}"      # where neither was given


def runtime_directory() -> str:
    """Where sockets go that nobody named: a folder that only this user can enter."""
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
        raise Unavailable(f"{path}: cannot make the runtime folder: {error.strerror}", "give --unix SOCK") from None
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise Unavailable(f"{path}: others can write there", "give --unix SOCK in a folder of your own")
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


def listen_addresses(settings: Settings, default: str) -> list[tuple[Any, ...]]:
    """("unix", path) and ("tcp", host, port) where NBD is to be offered; `default`: the unix socket where nothing was
    said.
    Raises NotFound for a missing folder, InvalidRequest for a path that no socket can have."""
    listen = list[tuple[Any, ...]]()
    for path, option in ((settings.unix_socket, UNIX_OPTION), (settings.admin_socket, ADMIN_OPTION)):
        if path:
            socket_path(path, option)
    if settings.unix_socket:
        listen.append(("unix", settings.unix_socket))
    if settings.tcp_listen:
        listen.append(("tcp", *parse_address(settings.tcp_listen)))
    for path in (settings.unix_socket, settings.admin_socket):
        folder = os.path.dirname(path or "") or "."
        if not os.path.isdir(folder):
            raise NotFound(f"{path}: no such folder", f"make it first: mkdir -p {quote(folder)}")
    return listen or [("unix", socket_path(default, UNIX_OPTION if settings.admin_socket else BOTH_OPTIONS))]


def connection_memory_bytes(settings: Settings) -> int:
    """What all NBD connections share, by the setting or by what the machine has."""
    return settings.connection_memory_bytes or max(64 << 20, min(1 << 30, process_bytes() // 16))


def tls_settings(settings: Settings) -> Any:
    """cdp.nbd.TlsSettings. Raises InvalidRequest for unusable files."""
    from cdp.nbd import TlsMode, TlsSettings

    if settings.tls == "off":
        return TlsSettings()
    tls = TlsSettings(mode=TlsMode(settings.tls), cert_file=settings.tls_cert, key_file=settings.tls_key,
                      client_ca_file=settings.tls_ca, psk_file=settings.tls_psk)
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
