"""The operations on a volume that a server has open, over its administration socket: the client of cdp.serve.http_api.

Invariants
  1. Same methods (cdp.views.Service), same answers and same errors as cdp.service.local.VolumeService.
  2. An answer may take as long as the work does; a server that is stopped or stuck is noticed within
     PING_SECONDS + WATCH_SECONDS and reported as Unavailable.
A RemoteService is used by one thread at a time.
"""
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, cast

from cdp.ipc.errors import answered_error
from cdp.service.event_line import EventLine
from cdp.service.locate import Location
from cdp.views import (
    MAX_PAGE_EXTENTS,
    MAX_PAGE_ROWS,
    ActivityView,
    BarrierView,
    BookmarkView,
    CheckView,
    ClientView,
    DiffPage,
    EventsPage,
    ExplanationView,
    ImageView,
    InfoView,
    MapPage,
    MetricsView,
    PinView,
    PlanView,
    PolicyView,
    PruneView,
    RecordsPage,
    RestoreView,
    SealedView,
    SegmentsPage,
    SpaceView,
    StandbyDetachedView,
    VersionsPage,
    WindowView,
)
from cdpcore.base.errors import NotFound, Unavailable

if TYPE_CHECKING:
    import httpx

PING_SECONDS = 5.0  # a server answers this at once, whatever else it does
WATCH_SECONDS = 5.0  # how often a server that works on an answer is asked whether it lives


class NoAnswer(Unavailable):
    """A server is there and does not answer."""


def _http(socket_path: str, timeout_s: float | None) -> "httpx.Client":
    import httpx

    # Plain HTTP on a unix socket: to load the authorities that TLS would need takes 20 ms, twice in every command.
    return httpx.Client(transport=httpx.HTTPTransport(uds=socket_path, verify=False), base_url="http://cdp",
                        timeout=httpx.Timeout(timeout_s, connect=PING_SECONDS))


class RemoteService:
    """A volume behind an admin socket. Errors of the server are raised here as the kinds that they were there."""

    def __init__(self, socket_path: str, volume: str, location: Location, pid: object = None):
        # No limit on an answer: a check takes as long as the history is big. A dead server closes the socket, a live
        # one is watched.
        self._http = _http(socket_path, None)
        self._socket_path = socket_path
        self._pid = pid if isinstance(pid, int) else None
        self.volume = volume    # its name there
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
        raise answered_error(answer.status_code, answer.content)

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
            command = f" (kill -CONT {self._pid})" if self._pid else ""
            raise NoAnswer(f"{self._text}: its server ({who}) has not answered for {PING_SECONDS:.0f} s: "
                           "it is stopped or stuck", f"continue it{command} or end it, then repeat") from None
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"{self._text}: its server at {self._socket_path} does not answer: {error}",
                              "see whether 'cdp serve' still runs, then repeat") from None
        raise answered_error(answer.status_code, answer.content)

    @property
    def socket_path(self) -> str:
        return self._socket_path

    def hand_over(self, socket_path: str, version: int, force: bool) -> None:
        """Ask the server to hand itself over to the process that listens at `socket_path` (cdp.serve.handover)."""
        try:
            self._call("POST", "/v1/server/handover", body={"socket": socket_path, "version": version, "force": force})
        except NotFound:
            raise Unavailable(f"{self._text}: its server is of a version that cannot be replaced while it serves",
                              "stop it and start the new one: clients must connect again") from None

    def barrier(self, volumes: list[str], bookmark: str | None, keep_ns: int | None) -> BarrierView:
        """One moment of several volumes of the server, by their names; see cdp.volume.barrier."""
        body = {"volumes": volumes, "bookmark": bookmark, "keep_ns": keep_ns}
        return cast(BarrierView, self._call("POST", "/v1/barrier", body=body).json())

    def info(self) -> InfoView:
        return cast(InfoView, self._volume("GET", "").json())

    def metrics(self, buckets: bool = False) -> MetricsView:
        return cast(MetricsView, self._volume("GET", "/metrics", {"buckets": buckets}).json())

    def window(self) -> WindowView:
        return cast(WindowView, self._volume("GET", "/window").json())

    def explain(self, point: str) -> ExplanationView:
        return cast(ExplanationView, self._volume("GET", "/explain", {"point": point}).json())

    def bookmark(self, name: str, at: str = "now", keep_ns: int | None = None) -> BookmarkView:
        body = {"name": name, "at": at, "keep_ns": keep_ns}
        return cast(BookmarkView, self._volume("POST", "/bookmarks", body=body).json())

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
                dry_run: bool = False, force: bool = False) -> RestoreView:
        body = {"point": point, "offset": offset, "length": length, "destructive": destructive, "dry_run": dry_run,
                "force": force}
        return cast(RestoreView, self._volume("POST", "/restores", body=body).json())

    def undo(self, dry_run: bool = False, force: bool = False) -> RestoreView:
        return cast(RestoreView, self._volume("POST", "/undo", body={"dry_run": dry_run, "force": force}).json())

    def clients(self) -> list[ClientView]:
        return cast(list[ClientView], self._volume("GET", "/clients").json())

    def events(self, since: int | None = None, stream: str | None = None, limit: int = 100) -> EventsPage:
        query = {"since": since, "stream": stream, "limit": limit}
        return cast(EventsPage, self._volume("GET", "/events", query).json())

    def event_line(self) -> EventLine:
        """A way to the events of the volume that waits for them; a connection of its own."""
        return EventLine(self._socket_path, f"{self._base}/events", self._image, self._text)

    def archived(self, url: str, seq: int, ts_ns: int) -> None:
        self._volume("POST", "/archived", body={"url": url, "seq": seq, "ts_ns": ts_ns})

    def backed_up(self, folder: str, seq: int, ts_ns: int) -> None:
        self._volume("POST", "/backed_up", body={"folder": folder, "seq": seq, "ts_ns": ts_ns})

    def detach_standby(self) -> StandbyDetachedView:
        return cast(StandbyDetachedView, self._volume("DELETE", "/standby").json())

    def restores(self) -> list[RestoreView]:
        return cast(list[RestoreView], self._volume("GET", "/restores").json())

    def pins(self) -> list[PinView]:
        return cast(list[PinView], self._volume("GET", "/pins").json())

    def policy(self) -> PolicyView:
        return cast(PolicyView, self._volume("GET", "/policy").json())

    def set_policy(self, policy: str | None, yes: bool = False) -> PolicyView:
        return cast(PolicyView, self._volume("PUT", "/policy", body={"policy": policy, "yes": yes}).json())

    def simulate(self, policy: str | None = None) -> PlanView:
        return cast(PlanView, self._volume("POST", "/policy/simulate", body={"policy": policy}).json())

    def prune(self, dry_run: bool = False) -> PruneView:
        return cast(PruneView, self._volume("POST", "/prune", body={"dry_run": dry_run}).json())

    def space(self) -> SpaceView:
        return cast(SpaceView, self._volume("GET", "/space").json())

    def seal(self) -> SealedView:
        return cast(SealedView, self._volume("POST", "/seal").json())

    def segments(self, after: int = 0, limit: int = 1000) -> SegmentsPage:
        return cast(SegmentsPage, self._volume("GET", "/segments", {"after": after, "limit": limit}).json())

    def records(self, since: str | None = None, until: str = "now", limit: int = 1000) -> RecordsPage:
        query = {"since": since, "until": until, "limit": limit}
        return cast(RecordsPage, self._volume("GET", "/records", query).json())

    def history(self, since: str | None = None, until: str = "now", limit: int = MAX_PAGE_ROWS, kinds: str = "",
                offset: int | None = None, length: int | None = None) -> tuple[bytes, str | None]:
        query = {"since": since, "until": until, "limit": limit, "kinds": kinds, "offset": offset, "length": length}
        answer = self._volume("GET", "/history", query)
        return answer.content, answer.headers.get("Cdp-Next")

    def versions(self, offset: int, length: int, since: str | None = None, until: str = "now",
                 limit: int = 1000) -> VersionsPage:
        query = {"offset": offset, "length": length, "since": since, "until": until, "limit": limit}
        return cast(VersionsPage, self._volume("GET", "/versions", query).json())

    def diff(self, a: str, b: str = "now", offset: int = 0, length: int | None = None, compared: bool = True,
             limit: int = MAX_PAGE_EXTENTS) -> DiffPage:
        query = {"a": a, "b": b, "offset": offset, "length": length, "compared": compared, "limit": limit}
        return cast(DiffPage, self._volume("GET", "/diff", query).json())

    def activity(self, since: str | None = None, until: str = "now", by_ns: int | None = None,
                 places: bool = False) -> ActivityView:
        query = {"since": since, "until": until, "by_ns": by_ns, "places": places}
        return cast(ActivityView, self._volume("GET", "/activity", query).json())

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
