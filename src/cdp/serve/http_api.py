"""Administration of a running server: cdp.service.local behind HTTP + JSON (OpenAPI at /openapi.json). cdp.serve.admin
has the socket, and loads this module with its first client.

Invariants
  1. An error of the engine is answered as {kind, message, hint, exit_code} with the status of STATUS; the client raises
     the same kind again.
  2. No request body is larger than MAX_PIECE_BYTES, no answer larger than one page or piece.
Handlers are plain functions on the framework's bounded thread pool; the engine's calls release the GIL.
"""
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Annotated

from fastapi import Body, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from cdp.ipc.errors import encode_error
from cdp.moments.events import Events
from cdp.serve.admin import HandOver, NotOpen, server_view
from cdp.serve.held import Held, Memory, Services
from cdp.serve.monitor import routes as monitoring
from cdp.serve.waiting import MAX_WAIT_S, Waiting
from cdp.service.local import MAX_FOLDER_CHARS, MAX_URL_CHARS, VolumeService, load_all
from cdp.service.together import together
from cdp.views import (
    MAX_PAGE_EVENTS,
    MAX_PAGE_EXTENTS,
    MAX_PAGE_RECORDS,
    MAX_PAGE_ROWS,
    MAX_PIECE_BYTES,
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
    NotOpenView,
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
from cdpcore.base.errors import (
    Busy,
    CdpError,
    Closed,
    Corruption,
    InvalidRequest,
    NotFound,
    OutOfSpace,
    RefusedPoint,
    Unavailable,
)

IMAGE_WAIT_S = 1.0      # who waits does not keep an image open, and one that is asked for rarely is closed

STATUS: dict[type[CdpError], int] = {
    InvalidRequest: 400, NotFound: 404, RefusedPoint: 422, Busy: 409, OutOfSpace: 507, Unavailable: 503, Closed: 503,
    Corruption: 500,
}


class ErrorView(BaseModel):
    """An error: its kind in cdpcore.base.errors, what happened, what to do next, and the exit status of the command
    line."""

    kind: str
    message: str
    hint: str
    exit_code: int


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BookmarkBody(_Body):
    name: str
    at: str = "now"
    keep_ns: int | None = None


class BarrierBody(_Body):
    volumes: list[str]
    bookmark: str | None = None
    keep_ns: int | None = None


class ImageBody(_Body):
    name: str
    at: str = "now"


class ArchivedBody(_Body):
    url: Annotated[str, Field(max_length=MAX_URL_CHARS)]
    seq: Annotated[int, Field(ge=0, lt=1 << 64)]
    ts_ns: Annotated[int, Field(ge=0, lt=1 << 64)]


class BackedUpBody(_Body):
    folder: Annotated[str, Field(max_length=MAX_FOLDER_CHARS)]
    seq: Annotated[int, Field(ge=0, lt=1 << 64)]
    ts_ns: Annotated[int, Field(ge=0, lt=1 << 64)]


class RestoreBody(_Body):
    point: str
    offset: int | None = None
    length: int | None = None
    destructive: bool = False
    dry_run: bool = False
    force: bool = False


class UndoBody(_Body):
    dry_run: bool = False
    force: bool = False


class PolicyBody(_Body):
    policy: str | None = None
    yes: bool = False


class SimulateBody(_Body):
    policy: str | None = None


class PruneBody(_Body):
    dry_run: bool = False


class ZeroBody(_Body):
    offset: int
    length: int
    hole: bool = False


class HandOverBody(_Body):
    """A new process's unix socket for the hand-over, and its version of cdp.serve.handover's messages."""

    socket: str
    version: int
    force: bool = False


class ServerView(BaseModel):
    """The server; the volumes that it holds: name, and the identity of the folder (cdp.service.locate.identity); and
    those that it is opening, or could not open."""

    pid: int
    volumes: dict[str, str]
    not_open: list[NotOpenView]


U64 = Annotated[int, Query(ge=0, lt=1 << 64)]


def build_app(held: Mapping[str, Held], hand_over: HandOver | None = None, not_open: NotOpen = list,
              memory: Memory | None = None, waiting: Waiting | None = None) -> FastAPI:
    """The application over the served volumes, by name, which may become more. hand_over: begins to hand the server
    over, or raises why not. not_open: the volumes that are not held yet, or could not be opened. memory: of the NBD
    connections. waiting: the requests that wait."""
    waiting = waiting or Waiting()
    load_all()
    app = FastAPI(title="cdp administration", version="1", docs_url=None, redoc_url=None, responses={
        status: {"model": ErrorView, "description": kind.__name__} for kind, status in STATUS.items()})

    @app.exception_handler(CdpError)
    def engine_error(_request: Request, error: CdpError) -> JSONResponse:
        return JSONResponse(encode_error(error), status_code=STATUS.get(type(error), 500))

    @app.exception_handler(Exception)
    def internal_error(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(encode_error(error), status_code=500)

    @app.exception_handler(RequestValidationError)
    def wrong_request(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        wrong = InvalidRequest(f"{where}: {first['msg']}", "see /openapi.json")
        return JSONResponse(encode_error(wrong), status_code=STATUS[InvalidRequest])

    app.include_router(monitoring(Services(held), not_open, memory))

    @contextmanager
    def target(volume: str, image: str | None) -> Iterator[VolumeService]:
        served = held.get(volume)
        if served is None:
            for other in not_open():
                if other["name"] == volume:
                    raise Unavailable(f"{other['path']}: {other['error'] or 'is being opened by its server'}",
                                      "repeat this when 'cdp list' shows that it is served")
            raise NotFound(f"no volume {volume!r} here", f"this server holds {', '.join(list(held))}")
        served.service.connected = partial(served.clients, volume)
        try:
            if image is None:
                yield served.service
                return
            with served.image_cache.lease(tuple(image.split("/"))) as opened:
                view = served.service.served
                inner = f"{volume}/{image}"
                service = VolumeService(opened, view and {**view, "uris": served.uris(inner)})
                service.connected = partial(served.clients, inner)
                yield service
        except (CdpError, OSError):
            served.service.check_folder()     # says more than what failed because of it
            raise

    def service_of(
        volume: Annotated[str, Path(description="name of a served volume")],
        image: Annotated[str | None, Query(description="its writable image; A/B: the image B of the image A")] = None,
    ) -> Iterator[VolumeService]:
        with target(volume, image) as service:
            yield service

    Service = Annotated[VolumeService, Depends(service_of)]

    @app.get("/v1/server")
    async def server() -> ServerView:       # cdp.serve.admin answers it by itself, before this is loaded
        """Who the server is, and what it holds. Answered at once, whatever else is going on."""
        return ServerView(**server_view(held, not_open))

    @app.post("/v1/server/handover", status_code=202)
    def handover(body: HandOverBody) -> None:
        """Begin to hand the server over to a new process (`cdp serve --replace`)."""
        if hand_over is None:
            raise Unavailable("this server is not handed over to another process: it is none of 'cdp serve'",
                              "'cdp ha switch' replaces parts of 'cdp ha serve'; end a capture, and start it again")
        hand_over(body.socket, body.version, body.force)

    @app.post("/v1/barrier", status_code=201)
    def barrier(body: BarrierBody) -> BarrierView:
        """One moment of several volumes: every write that was acknowledged before is in it, none that begins after.
        `bookmark`: name it in each of them, durably, in all or none; `keep_ns`: as for a bookmark."""
        with ExitStack() as stack:
            services = [stack.enter_context(target(name, None)) for name in body.volumes]
            return together(services, body.bookmark, body.keep_ns)

    @app.get("/v1/volumes/{volume}")
    def info(service: Service) -> InfoView:
        """The volume at a glance: identity, size, window, counters, policy, space."""
        return service.info()

    @app.get("/v1/volumes/{volume}/metrics")
    def metrics(service: Service, buckets: bool = False) -> MetricsView:
        """Counters and times of requests and stages; what came between two calls is a rate. `buckets`: histograms,
        too."""
        return service.metrics(buckets)

    @app.get("/v1/volumes/{volume}/window")
    def window(service: Service) -> WindowView:
        """Which moments can be opened."""
        return service.window()

    @app.get("/v1/volumes/{volume}/explain")
    def explain(service: Service, point: str) -> ExplanationView:
        """How a point is understood: which record it means, which comes next, and whether it was durable."""
        return service.explain(point)

    @app.get("/v1/volumes/{volume}/bookmarks")
    def bookmarks(service: Service) -> list[BookmarkView]:
        """All bookmarks, by the moment that they name."""
        return service.bookmarks()

    @app.post("/v1/volumes/{volume}/bookmarks", status_code=201)
    def bookmark(service: Service, body: BookmarkBody) -> BookmarkView:
        """Name a moment, durably. `keep_ns`: so long, in nanoseconds, retention does not take it."""
        return service.bookmark(body.name, at=body.at, keep_ns=body.keep_ns)

    @app.delete("/v1/volumes/{volume}/bookmarks", status_code=204)
    def delete_bookmark(service: Service, name: str) -> None:
        """Delete a bookmark; its moment stays."""
        service.delete_bookmark(name)

    @app.get("/v1/volumes/{volume}/images")
    def images(service: Service) -> list[ImageView]:
        """The writable images made from the volume, by name."""
        return service.images()

    @app.post("/v1/volumes/{volume}/images", status_code=201)
    def create_image(service: Service, body: ImageBody) -> ImageView:
        """Make a writable image of a moment."""
        return service.create_image(body.name, at=body.at)

    @app.delete("/v1/volumes/{volume}/images", status_code=204)
    def delete_image(service: Service, volume: str, name: str, image: str | None = None) -> None:
        """Delete a writable image and its history. 409 while a client has it open."""
        with held[volume].image_cache.deleting((*(image.split("/") if image else ()), name)):
            service.delete_image(name)

    @app.get("/v1/volumes/{volume}/restores")
    def restores(service: Service) -> list[RestoreView]:
        """All restores, the oldest first."""
        return service.restores()

    @app.post("/v1/volumes/{volume}/restores")
    def restore(service: Service, body: RestoreBody) -> RestoreView:
        """Put the volume, or `length` bytes from `offset`, back to a point. 409 while clients are connected that may
        write, unless `force`. `dry_run`: nothing is done."""
        return service.restore(body.point, offset=body.offset, length=body.length, destructive=body.destructive,
                               dry_run=body.dry_run, force=body.force)

    @app.post("/v1/volumes/{volume}/undo")
    def undo(service: Service, body: Annotated[UndoBody, Body()]) -> RestoreView:
        """Take back the last restore that is not taken back yet."""
        return service.undo(dry_run=body.dry_run, force=body.force)

    @app.get("/v1/volumes/{volume}/clients")
    def clients(service: Service) -> list[ClientView]:
        """The NBD clients that are connected to the volume and its moments."""
        return service.clients()

    @app.get("/v1/volumes/{volume}/events")
    async def events(request: Request, volume: str, image: str | None = None, since: U64 | None = None,
                     stream: str | None = None, limit: Annotated[int, Query(ge=1, le=MAX_PAGE_EVENTS)] = 100,
                     wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0) -> EventsPage:
        """What happened to the volume after event `since` of `stream`, a page of at most `limit`; without `since` no
        event, but the place from which to ask again. `wait_s`: where there is none yet, the answer waits for it so
        long. 1024 events are kept: who asks too rarely gets `lost`, and so does who names a stream of before. At most
        256 requests wait at a time, of a writable image for at most a second each: others are answered at once."""
        def page() -> tuple[EventsPage, Events]:
            with target(volume, image) as service:
                return service.events(since, stream, limit), service.volume._store.events

        found, kept = await run_in_threadpool(page)
        if found["events"] or since is None or not wait_s:
            return found
        since, stream = found["since"], found["stream"]
        await waiting.until(kept, since, wait_s if image is None else min(wait_s, IMAGE_WAIT_S), request.receive)
        return (await run_in_threadpool(page))[0]

    @app.post("/v1/volumes/{volume}/archived", status_code=204)
    def archived(service: Service, body: ArchivedBody) -> None:
        """From who keeps an archive of the volume: it has all up to a record. An event says so to who watches."""
        service.archived(body.url, body.seq, body.ts_ns)

    @app.post("/v1/volumes/{volume}/backed_up", status_code=204)
    def backed_up(service: Service, body: BackedUpBody) -> None:
        """From who made a backup of the volume: it has all up to a record. An event says so to who watches."""
        service.backed_up(body.folder, body.seq, body.ts_ns)

    @app.delete("/v1/volumes/{volume}/standby")
    def detach_standby(service: Service) -> StandbyDetachedView:
        """The volume has no standby from now on: its connection ends, and another one may come."""
        return service.detach_standby()

    @app.get("/v1/volumes/{volume}/pins")
    def pins(service: Service) -> list[PinView]:
        """What keeps moments from being given up."""
        return service.pins()

    @app.get("/v1/volumes/{volume}/policy")
    def policy(service: Service) -> PolicyView:
        """The retention policy, and what became of it."""
        return service.policy()

    @app.put("/v1/volumes/{volume}/policy")
    def set_policy(service: Service, body: PolicyBody) -> PolicyView:
        """Set the retention policy, as TOML; null: keep everything. `yes`: also where more than a tenth of the
        history would go."""
        return service.set_policy(body.policy, yes=body.yes)

    @app.post("/v1/volumes/{volume}/policy/simulate")
    def simulate(service: Service, body: Annotated[SimulateBody, Body()]) -> PlanView:
        """What a policy (null: the volume's own) would keep and free now."""
        return service.simulate(body.policy)

    @app.post("/v1/volumes/{volume}/prune")
    def prune(service: Service, body: Annotated[PruneBody, Body()]) -> PruneView:
        """Apply the policy now."""
        return service.prune(dry_run=body.dry_run)

    @app.get("/v1/volumes/{volume}/space")
    def space(service: Service) -> SpaceView:
        """What the volume takes, by what, and how long the device will do."""
        return service.space()

    @app.post("/v1/volumes/{volume}/seal")
    def seal(service: Service) -> SealedView:
        """Put everything so far into sealed segments, for a copy of them; 409 while a restore is being written back."""
        return service.seal()

    @app.get("/v1/volumes/{volume}/segments")
    def segments(service: Service, after: U64 = 0,
                 limit: Annotated[int, Query(ge=1, le=MAX_PAGE_RECORDS)] = 1000) -> SegmentsPage:
        """The sealed segments with a number above `after`, a page of at most `limit`."""
        return service.segments(after, limit)

    @app.get("/v1/volumes/{volume}/records")
    def records(service: Service, since: str | None = None, until: str = "now",
                limit: Annotated[int, Query(ge=1, le=MAX_PAGE_RECORDS)] = 1000) -> RecordsPage:
        """Records after `since`, up to and including `until`, a page of at most `limit`."""
        return service.records(since=since, until=until, limit=limit)

    @app.get("/v1/volumes/{volume}/history", response_class=Response,
             responses={200: {"content": {"application/octet-stream": {}}, "headers": {"Cdp-Next": {
                 "description": "the point to give as `since` for more", "schema": {"type": "string"}}}}})
    def history(service: Service, since: str | None = None, until: str = "now",
                limit: Annotated[int, Query(ge=1, le=MAX_PAGE_ROWS)] = MAX_PAGE_ROWS, kinds: str = "",
                offset: U64 | None = None, length: U64 | None = None) -> Response:
        """The same packed, 34 bytes each (little-endian u64 seq, u64 ts_ns, u8 kind, u8 flags, u64 offset, u64
        length). `kinds`: only these, with commas; `offset`, `length`: only what overlaps that range."""
        rows, following = service.history(since, until, limit, kinds, offset, length)
        headers = {"Cdp-Next": following} if following else None
        return Response(rows, media_type="application/octet-stream", headers=headers)

    @app.get("/v1/volumes/{volume}/versions")
    def versions(service: Service, offset: U64, length: U64, since: str | None = None, until: str = "now",
                 limit: Annotated[int, Query(ge=1, le=MAX_PAGE_RECORDS)] = 1000) -> VersionsPage:
        """What changed a range, after `since`, up to and including `until`, a page of at most `limit`."""
        return service.versions(offset, length, since=since, until=until, limit=limit)

    @app.get("/v1/volumes/{volume}/diff")
    def diff(service: Service, a: str, b: str = "now", offset: U64 = 0, length: U64 | None = None,
             compared: bool = True,
             limit: Annotated[int, Query(ge=1, le=MAX_PAGE_EXTENTS)] = MAX_PAGE_EXTENTS) -> DiffPage:
        """The ranges that differ between two moments. `compared` false: that were written between them."""
        return service.diff(a, b, offset, length, compared=compared, limit=limit)

    @app.get("/v1/volumes/{volume}/activity")
    def activity(service: Service, since: str | None = None, until: str = "now", by_ns: Annotated[
            int | None, Query(ge=1, lt=1 << 63)] = None, places: bool = False) -> ActivityView:
        """What was done, in intervals of `by_ns` (null: about a hundred; at most 10,000); `places`: also by place (at
        most 2,000)."""
        return service.activity(since=since, until=until, by_ns=by_ns, places=places)

    @app.get("/v1/volumes/{volume}/map")
    def map_(service: Service, offset: U64 = 0, length: U64 | None = None, at: str | None = None,
             limit: Annotated[int, Query(ge=1, le=MAX_PAGE_EXTENTS)] = MAX_PAGE_EXTENTS) -> MapPage:
        """What is data, zeros or a hole, at a point or now."""
        return service.map(offset, length, at=at, limit=limit)

    @app.get("/v1/volumes/{volume}/content", response_class=Response,
             responses={200: {"content": {"application/octet-stream": {}}}})
    def read(service: Service, offset: U64, length: Annotated[int, Query(ge=0, le=MAX_PIECE_BYTES)],
             at: str | None = None) -> Response:
        """Bytes of the volume at a point or now."""
        return Response(service.read(offset, length, at=at), media_type="application/octet-stream")

    # Not through Depends: the body is awaited, and a dependency's engine calls belong on the thread pool, as here.
    @app.put("/v1/volumes/{volume}/content", status_code=204, openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}})
    async def write(request: Request, volume: str, offset: U64, image: str | None = None, fua: bool = False) -> None:
        """Write the body at `offset`; `fua`: durable when it is answered."""
        data = await _bounded_body(request)

        def work() -> None:
            with target(volume, image) as service:
                service.write(offset, data, fua=fua)

        await run_in_threadpool(work)

    @app.post("/v1/volumes/{volume}/zero", status_code=204)
    def zero(service: Service, body: ZeroBody) -> None:
        """Make a range zeros; `hole`: as a trim does."""
        service.zero(body.offset, body.length, hole=body.hole)

    @app.post("/v1/volumes/{volume}/flush", status_code=204)
    def flush(service: Service) -> None:
        """Everything acknowledged before is durable."""
        service.flush()

    @app.post("/v1/volumes/{volume}/check")
    def check(service: Service) -> CheckView:
        """Read and verify all that is sealed."""
        return service.check()

    return app


async def _bounded_body(request: Request) -> bytes:
    data = bytearray()
    async for part in request.stream():
        if len(data) + len(part) > MAX_PIECE_BYTES:
            raise InvalidRequest("the body is too large", f"send at most {MAX_PIECE_BYTES} bytes in one piece")
        data += part
    return bytes(data)
