"""The way from a path to its operations: on the volume itself, or through the server that holds it.

    with connect("/data/web") as service:
        service.bookmark("before-upgrade")

Invariants
  1. The caller cannot tell the two ways apart: same methods (cdp.service.local.Service), same results, same errors.
  2. `VOLUME/serving.json` is believed only if a server answers on its socket and says that it holds this very volume;
     what a killed server left behind, or what came with a copy of the volume, is ignored.
  3. An answer may take as long as the work does; a server that is stopped or stuck is noticed within
     PING_SECONDS + WATCH_SECONDS and told of as Unavailable.
A Service from here is used by one thread at a time.
"""
import json
import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

from cdp.ipc.errors import decode_error
from cdp.service.local import (
    MAX_PAGE_EXTENTS,
    BookmarkView,
    CheckView,
    ExplanationView,
    ImageView,
    InfoView,
    MapPage,
    RecordsPage,
    RestoreView,
    ServedView,
    Service,
    VolumeService,
    WindowView,
)
from cdp.text.paths import checked
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, NotFound, Unavailable

if TYPE_CHECKING:
    import httpx

    from cdp.settings import Settings

SERVING_FILE = "serving.json"
IMAGES = "images"
LOCK_WAIT_SECONDS = 2.0  # a command holds a volume for milliseconds: worth waiting for, unlike a server
LOCK_RETRY_SECONDS = 0.05
PING_SECONDS = 5.0  # a server answers this at once, whatever else it does
WATCH_SECONDS = 5.0  # how often a server that works on an answer is asked whether it lives


@dataclass(frozen=True)
class Location:
    """A volume, or a writable image in it (`images` non-empty; ["A", "B"]: the image B of the image A)."""

    root: str
    images: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return os.path.join(self.root, *(part for name in self.images for part in (IMAGES, name)))

    @property
    def text(self) -> str:
        return "/".join((self.root, *self.images))


def is_volume(path: str) -> bool:
    """Whether a directory looks like a volume or a writable image. Its catalog may be lost: that can be rebuilt.

    Raises Unavailable where this user may not look.
    """
    try:
        mode = os.stat(os.path.join(path, "lock")).st_mode      # a file: /var has a folder of that name, and a log
        return stat.S_ISREG(mode) and os.path.isdir(os.path.join(path, "log"))
    except PermissionError:
        raise Unavailable(f"{path}: Permission denied", "run as a user who may enter it") from None
    except OSError:
        return False


def locate(path: str) -> Location:
    """The volume at `path`, or the image VOLUME/IMAGE, VOLUME/images/IMAGE. Raises NotFound, InvalidRequest."""
    if not path:
        raise InvalidRequest("the path of the volume is empty", "give the directory of a volume")
    checked(path)
    path = os.path.normpath(path)
    root, names = path, list[str]()
    while True:
        head, name = os.path.split(root)
        inner = os.path.basename(head) == IMAGES and is_volume(os.path.dirname(head))
        if is_volume(root) and not inner:
            break
        if not name or name == ".." or (not head and not is_volume(".")):
            raise _no_volume(path)
        names.insert(0, name)
        root = os.path.dirname(head) if inner else head or "."
    images = tuple(names)
    for depth in range(1, len(images) + 1):
        if not is_volume(Location(root, images[:depth]).path):
            parent = Location(root, images[: depth - 1]).text
            raise NotFound(f"{parent}: no image {images[depth - 1]!r}", f"'cdp image list {parent}' lists the images")
    return Location(root, images)


def _no_volume(path: str) -> CdpError:
    if os.path.isdir(path):
        return NotFound(f"{path} is a directory, but not a volume", "give the directory that 'cdp create' made")
    if os.path.exists(path):
        return NotFound(f"{path} is a file, not a volume",
                        f"'cdp import {path} VOLUME' makes a volume of a raw disk image")
    return NotFound(f"{path}: no such volume", f"'cdp create {path} --size 10G' makes one")


@contextmanager
def connect(where: str | Location, settings: "Settings | None" = None) -> Iterator[Service]:
    """The operations of the volume or image at `where`, through its server if it has one, else opened here.

    Raises NotFound, Busy (held by a process that serves nothing), Corruption, InvalidRequest.
    """
    location = where if isinstance(where, Location) else locate(where)
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        remote = find_server(location)
        if remote is not None:
            with remote:
                yield remote
            return
        try:
            volume = open_volume(location.path, settings)
            break
        except Busy as error:
            if time.monotonic() >= deadline:
                hint = error.hint or "another process has it open: end that, or reach the volume through its server"
                raise Busy(error.message, hint) from None
        time.sleep(LOCK_RETRY_SECONDS)
    with volume:
        yield VolumeService(volume)


def open_volume(path: str, settings: "Settings | None" = None) -> Any:
    """cdp.open, imported only when a volume is really opened; to read where it cannot be written."""
    import cdp

    return cdp.open(path, settings=settings, read_only=not os.access(os.path.join(path, "lock"), os.W_OK))


def find_server(location: Location) -> "RemoteService | None":
    """The way to the live server of this volume, or None. The caller closes it. Raises Unavailable where it does not answer."""
    served = read_serving(location.root)
    if served is None:
        return None
    remote = RemoteService(served["admin_socket"], served["name"], location, served.get("pid"))
    try:
        known = remote.server()["volumes"]
    except _NoAnswer:
        remote.close()
        raise
    except CdpError:
        known = {}
    if known.get(served["name"]) == identity(location.root):
        return remote
    remote.close()
    return None


def read_serving(root: str) -> dict[str, Any] | None:
    """What the last server of the volume wrote, if it did and it can be read."""
    try:
        with open(os.path.join(root, SERVING_FILE), encoding="utf-8") as file:
            served = json.loads(file.read(1 << 16))
    except (OSError, ValueError):
        return None
    fields = ("admin_socket", "name")
    if isinstance(served, dict) and all(isinstance(served.get(name), str) for name in fields):
        return served
    return None


def identity(root: str) -> str:
    """Which directory this is: the same after it was renamed, another one for a copy (which has the same uuid)."""
    found = os.stat(root)
    return f"{found.st_dev}:{found.st_ino}"


def write_serving(root: str, served: ServedView) -> None:
    path = os.path.join(root, SERVING_FILE)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(served, file, indent=1)
    os.replace(path + ".new", path)


def remove_serving(root: str) -> None:
    if (read_serving(root) or {}).get("pid", os.getpid()) != os.getpid():
        return  # of another server: its volume is in that place now
    try:
        os.unlink(os.path.join(root, SERVING_FILE))
    except OSError:
        pass  # gone with its volume, or a read-only file system: a stale file is harmless


class _NoAnswer(Unavailable):
    """A server is there and does not answer."""


def _http(socket_path: str, timeout_s: float | None) -> "httpx.Client":
    import httpx

    return httpx.Client(transport=httpx.HTTPTransport(uds=socket_path), base_url="http://cdp",
                        timeout=httpx.Timeout(timeout_s, connect=PING_SECONDS))


class RemoteService:
    """A volume behind an admin socket. Errors of the server are raised here as the kinds that they were there."""

    def __init__(self, socket_path: str, volume: str, location: Location, pid: object = None):
        # No limit on an answer: a check takes as long as the history is big. A dead server closes the socket, a live one is watched.
        self._http = _http(socket_path, None)
        self._socket_path = socket_path
        self._pid = pid if isinstance(pid, int) else None
        self._base = f"/v1/volumes/{_quoted(volume)}"
        self._image = "/".join(location.images) or None
        self._text = location.text

    def close(self) -> None:
        with suppress(RuntimeError):  # a request that nobody waits for any more is still out
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _call(self, method: str, path: str, query: dict[str, Any] | None = None, body: dict[str, Any] | None = None,
              content: bytes | None = None) -> "httpx.Response":
        import httpx

        params = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            answer = self._watched(lambda: self._http.request(method, path, params=params, json=body, content=content))
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._text}: its server at {self._socket_path} does not answer: {error}",
                              "see whether 'cdp serve' still runs, then repeat") from None
        if answer.is_success:
            return answer
        raise _as_error(answer)

    def _watched(self, request: "Callable[[], httpx.Response]") -> "httpx.Response":
        """The answer, in its own time, as long as the server lives."""
        came: queue.SimpleQueue[httpx.Response | Exception] = queue.SimpleQueue()

        def work() -> None:
            try:
                came.put(request())
            except Exception as error:  # noqa: BLE001  (raised again below)
                came.put(error)

        threading.Thread(target=work, name="cdp-request", daemon=True).start()
        while True:
            try:
                answer = came.get(timeout=WATCH_SECONDS)
                break
            except queue.Empty:
                self.server()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _volume(self, method: str, what: str, query: dict[str, Any] | None = None, body: dict[str, Any] | None = None,
                content: bytes | None = None) -> "httpx.Response":
        return self._call(method, f"{self._base}{what}", {**(query or {}), "image": self._image}, body, content)

    def server(self) -> dict[str, Any]:
        """pid and volumes (name to identity of the directory) of the server."""
        import httpx

        try:
            with _http(self._socket_path, PING_SECONDS) as http:
                answer = http.get("/v1/server")
                if answer.is_success:
                    return cast(dict[str, Any], answer.json())
        except httpx.TimeoutException:
            who = f"process {self._pid}" if self._pid else f"the process behind {self._socket_path}"
            raise _NoAnswer(f"{self._text}: its server ({who}) has not answered for {PING_SECONDS:.0f} s: it is stopped or stuck",
                            f"continue it{f' (kill -CONT {self._pid})' if self._pid else ''} or end it, then repeat") from None
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"{self._text}: its server at {self._socket_path} does not answer: {error}",
                              "see whether 'cdp serve' still runs, then repeat") from None
        raise _as_error(answer)

    def info(self) -> InfoView:
        return cast(InfoView, self._volume("GET", "").json())

    def window(self) -> WindowView:
        return cast(WindowView, self._volume("GET", "/window").json())

    def explain(self, point: str) -> ExplanationView:
        return cast(ExplanationView, self._volume("GET", "/explain", {"point": point}).json())

    def bookmark(self, name: str, at: str = "now") -> BookmarkView:
        return cast(BookmarkView, self._volume("POST", "/bookmarks", body={"name": name, "at": at}).json())

    def bookmarks(self) -> list[BookmarkView]:
        return cast(list[BookmarkView], self._volume("GET", "/bookmarks").json())

    def delete_bookmark(self, name: str) -> None:
        self._volume("DELETE", "/bookmarks", {"name": name})

    def create_image(self, name: str, at: str = "now") -> ImageView:
        return cast(ImageView, self._volume("POST", "/images", body={"name": name, "at": at}).json())

    def images(self) -> list[ImageView]:
        return cast(list[ImageView], self._volume("GET", "/images").json())

    def delete_image(self, name: str) -> None:
        self._volume("DELETE", "/images", {"name": name})

    def restore(self, point: str, offset: int | None = None, length: int | None = None, destructive: bool = False,
                dry_run: bool = False) -> RestoreView:
        body = {"point": point, "offset": offset, "length": length, "destructive": destructive, "dry_run": dry_run}
        return cast(RestoreView, self._volume("POST", "/restores", body=body).json())

    def undo(self, dry_run: bool = False) -> RestoreView:
        return cast(RestoreView, self._volume("POST", "/undo", body={"dry_run": dry_run}).json())

    def restores(self) -> list[RestoreView]:
        return cast(list[RestoreView], self._volume("GET", "/restores").json())

    def records(self, since: str = "#0", until: str = "now", limit: int = 1000) -> RecordsPage:
        query = {"since": since, "until": until, "limit": limit}
        return cast(RecordsPage, self._volume("GET", "/records", query).json())

    def map(self, offset: int = 0, length: int | None = None, at: str | None = None,
            limit: int = MAX_PAGE_EXTENTS) -> MapPage:
        query = {"offset": offset, "length": length, "at": at, "limit": limit}
        return cast(MapPage, self._volume("GET", "/map", query).json())

    def read(self, offset: int, length: int, at: str | None = None) -> bytes:
        return self._volume("GET", "/content", {"offset": offset, "length": length, "at": at}).content

    def write(self, offset: int, data: bytes, fua: bool = False) -> None:
        self._volume("PUT", "/content", {"offset": offset, "fua": fua}, content=data)

    def zero(self, offset: int, length: int, hole: bool = False) -> None:
        self._volume("POST", "/zero", body={"offset": offset, "length": length, "hole": hole})

    def flush(self) -> None:
        self._volume("POST", "/flush")

    def check(self) -> CheckView:
        return cast(CheckView, self._volume("POST", "/check").json())


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _as_error(answer: "httpx.Response") -> CdpError:
    try:
        body = answer.json()
        if "kind" in body:
            return decode_error(body)
    except (ValueError, TypeError):
        pass
    return Unavailable(f"the server answered {answer.status_code} {answer.text[:200]!r}", "see the server's log")
