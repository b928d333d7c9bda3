"""Administration of a running server: cdp.service.local behind HTTP + JSON on a unix socket (OpenAPI at /openapi.json).

Invariants
  1. The socket is created with mode 0600: a process that can connect may do everything that the server's user may do.
  2. An error of the engine is answered as {kind, message, hint, exit_code} with the status of STATUS; the client raises
     the same kind again.
  3. No request body is larger than MAX_PIECE_BYTES, no answer larger than one page or piece.
Handlers are plain functions on the framework's bounded thread pool; the engine's calls release the GIL. AdminServer's
own methods belong to the thread that made it.
"""
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import uvicorn
from fastapi import Body, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from cdp.ipc.errors import encode_error
from cdp.ipc.unix_socket import UnixListener, bind_unix
from cdp.serve.addresses import runtime_directory
from cdp.serve.image_cache import ImageCache
from cdp.serve.monitor import routes as monitoring
from cdp.service.local import VolumeService
from cdp.service.servers import link_socket
from cdp.views import (
    MAX_PAGE_EXTENTS,
    MAX_PAGE_RECORDS,
    MAX_PAGE_ROWS,
    MAX_PIECE_BYTES,
    BookmarkView,
    CheckView,
    ClientView,
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
    ServedView,
    SpaceView,
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

STOP_SECONDS = 5

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


class ImageBody(_Body):
    name: str
    at: str = "now"


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
    """The server and the volumes that it holds: name, and the identity of the folder
    (cdp.service.locate.identity)."""

    pid: int
    volumes: dict[str, str]


U64 = Annotated[int, Query(ge=0, lt=1 << 64)]


@dataclass(frozen=True)
class Held:
    """A served volume, what is open of its images, the identity of its folder (cdp.service.locate.identity), and by
    the name of an export its URIs and its NBD clients."""

    service: VolumeService
    image_cache: ImageCache
    identity: str
    uris: Callable[[str], list[str]]
    clients: Callable[[str], list[ClientView]] = lambda name: []


def build_app(held: Mapping[str, Held], hand_over: Callable[[str, int, bool], None] | None = None) -> FastAPI:
    """The application over the served volumes, by name. The mapping may not change while it runs. hand_over: begins to
    hand the server over (socket, version, force), or raises why not."""
    app = FastAPI(title="cdp administration", version="1", docs_url=None, redoc_url=None, responses={
        status: {"model": ErrorView, "description": kind.__name__} for kind, status in STATUS.items()})

    for name, one in held.items():
        one.service.connected = partial(one.clients, name)

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

    app.include_router(monitoring({name: one.service for name, one in held.items()}))

    @contextmanager
    def target(volume: str, image: str | None) -> Iterator[VolumeService]:
        served = held.get(volume)
        if served is None:
            raise NotFound(f"no volume {volume!r} here", f"this server holds {', '.join(held)}")
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
    async def server() -> ServerView:  # on the loop itself: answered also when every thread of the pool is at work
        return ServerView(pid=os.getpid(), volumes={name: one.identity for name, one in held.items()})

    @app.post("/v1/server/handover", status_code=202)
    def handover(body: HandOverBody) -> None:
        if hand_over is None:
            raise Unavailable("this server is not handed over to another process: it is none of 'cdp serve'",
                              "'cdp ha switch' replaces parts of 'cdp ha serve'; end a capture, and start it again")
        hand_over(body.socket, body.version, body.force)

    @app.get("/v1/volumes/{volume}")
    def info(service: Service) -> InfoView:
        return service.info()

    @app.get("/v1/volumes/{volume}/metrics")
    def metrics(service: Service, buckets: bool = False) -> MetricsView:
        return service.metrics(buckets)

    @app.get("/v1/volumes/{volume}/window")
    def window(service: Service) -> WindowView:
        return service.window()

    @app.get("/v1/volumes/{volume}/explain")
    def explain(service: Service, point: str) -> ExplanationView:
        return service.explain(point)

    @app.get("/v1/volumes/{volume}/bookmarks")
    def bookmarks(service: Service) -> list[BookmarkView]:
        return service.bookmarks()

    @app.post("/v1/volumes/{volume}/bookmarks", status_code=201)
    def bookmark(service: Service, body: BookmarkBody) -> BookmarkView:
        return service.bookmark(body.name, at=body.at, keep_ns=body.keep_ns)

    @app.delete("/v1/volumes/{volume}/bookmarks", status_code=204)
    def delete_bookmark(service: Service, name: str) -> None:
        service.delete_bookmark(name)

    @app.get("/v1/volumes/{volume}/images")
    def images(service: Service) -> list[ImageView]:
        return service.images()

    @app.post("/v1/volumes/{volume}/images", status_code=201)
    def create_image(service: Service, body: ImageBody) -> ImageView:
        return service.create_image(body.name, at=body.at)

    @app.delete("/v1/volumes/{volume}/images", status_code=204)
    def delete_image(service: Service, volume: str, name: str, image: str | None = None) -> None:
        with held[volume].image_cache.deleting((*(image.split("/") if image else ()), name)):
            service.delete_image(name)

    @app.get("/v1/volumes/{volume}/restores")
    def restores(service: Service) -> list[RestoreView]:
        return service.restores()

    @app.post("/v1/volumes/{volume}/restores")
    def restore(service: Service, body: RestoreBody) -> RestoreView:
        return service.restore(body.point, offset=body.offset, length=body.length, destructive=body.destructive,
                               dry_run=body.dry_run, force=body.force)

    @app.post("/v1/volumes/{volume}/undo")
    def undo(service: Service, body: Annotated[UndoBody, Body()]) -> RestoreView:
        return service.undo(dry_run=body.dry_run, force=body.force)

    @app.get("/v1/volumes/{volume}/clients")
    def clients(service: Service) -> list[ClientView]:
        return service.clients()

    @app.get("/v1/volumes/{volume}/pins")
    def pins(service: Service) -> list[PinView]:
        return service.pins()

    @app.get("/v1/volumes/{volume}/policy")
    def policy(service: Service) -> PolicyView:
        return service.policy()

    @app.put("/v1/volumes/{volume}/policy")
    def set_policy(service: Service, body: PolicyBody) -> PolicyView:
        return service.set_policy(body.policy, yes=body.yes)

    @app.post("/v1/volumes/{volume}/policy/simulate")
    def simulate(service: Service, body: Annotated[SimulateBody, Body()]) -> PlanView:
        return service.simulate(body.policy)

    @app.post("/v1/volumes/{volume}/prune")
    def prune(service: Service, body: Annotated[PruneBody, Body()]) -> PruneView:
        return service.prune(dry_run=body.dry_run)

    @app.get("/v1/volumes/{volume}/space")
    def space(service: Service) -> SpaceView:
        return service.space()

    @app.get("/v1/volumes/{volume}/records")
    def records(service: Service, since: str | None = None, until: str = "now",
                limit: Annotated[int, Query(ge=1, le=MAX_PAGE_RECORDS)] = 1000) -> RecordsPage:
        return service.records(since=since, until=until, limit=limit)

    @app.get("/v1/volumes/{volume}/history", response_class=Response,
             responses={200: {"content": {"application/octet-stream": {}}, "headers": {"Cdp-Next": {
                 "description": "the point to give as `since` for more", "schema": {"type": "string"}}}}})
    def history(service: Service, since: str | None = None, until: str = "now",
                limit: Annotated[int, Query(ge=1, le=MAX_PAGE_ROWS)] = MAX_PAGE_ROWS, kinds: str = "",
                offset: U64 | None = None, length: U64 | None = None) -> Response:
        rows, following = service.history(since, until, limit, kinds, offset, length)
        headers = {"Cdp-Next": following} if following else None
        return Response(rows, media_type="application/octet-stream", headers=headers)

    @app.get("/v1/volumes/{volume}/map")
    def map_(service: Service, offset: U64 = 0, length: U64 | None = None, at: str | None = None,
             limit: Annotated[int, Query(ge=1, le=MAX_PAGE_EXTENTS)] = MAX_PAGE_EXTENTS) -> MapPage:
        return service.map(offset, length, at=at, limit=limit)

    @app.get("/v1/volumes/{volume}/content", response_class=Response,
             responses={200: {"content": {"application/octet-stream": {}}}})
    def read(service: Service, offset: U64, length: Annotated[int, Query(ge=0, le=MAX_PIECE_BYTES)],
             at: str | None = None) -> Response:
        return Response(service.read(offset, length, at=at), media_type="application/octet-stream")

    # Not through Depends: the body is awaited, and a dependency's engine calls belong on the thread pool, as here.
    @app.put("/v1/volumes/{volume}/content", status_code=204, openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}})
    async def write(request: Request, volume: str, offset: U64, image: str | None = None, fua: bool = False) -> None:
        data = await _bounded_body(request)

        def work() -> None:
            with target(volume, image) as service:
                service.write(offset, data, fua=fua)

        await run_in_threadpool(work)

    @app.post("/v1/volumes/{volume}/zero", status_code=204)
    def zero(service: Service, body: ZeroBody) -> None:
        service.zero(body.offset, body.length, hole=body.hole)

    @app.post("/v1/volumes/{volume}/flush", status_code=204)
    def flush(service: Service) -> None:
        service.flush()

    @app.post("/v1/volumes/{volume}/check")
    def check(service: Service) -> CheckView:
        return service.check()

    return app


async def _bounded_body(request: Request) -> bytes:
    data = bytearray()
    async for part in request.stream():
        if len(data) + len(part) > MAX_PIECE_BYTES:
            raise InvalidRequest("the body is too large", f"send at most {MAX_PIECE_BYTES} bytes in one piece")
        data += part
    return bytes(data)


class _Counted:
    """An ASGI application that knows how many requests it is at."""

    def __init__(self, app: FastAPI):
        self._app = app
        self.running = 0    # of the event loop's thread; others only look

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.running -= 1


class AdminServer:
    """The application on a unix socket, in a thread of its own, until close(). listener: of the server before, which
    has handed it over; it is this one's from start() on."""

    def __init__(self, path: str, held: Mapping[str, Held], hand_over: Callable[[str, int, bool], None] | None = None,
                 listener: UnixListener | None = None):
        self.path = path
        self._link = ""
        self._given = listener is not None
        # From here on the kernel queues clients.
        self._listener: UnixListener | None = listener or bind_unix(path, option="--admin-socket SOCK")
        self._app = _Counted(build_app(held, hand_over))
        config = uvicorn.Config(self._app, log_config=None, access_log=False, lifespan="off", ws="none",
                                timeout_graceful_shutdown=STOP_SECONDS)
        self._server = uvicorn.Server(config)
        sock = self._listener.sock.dup()    # it closes what it is given
        self._thread = threading.Thread(target=self._server.run, args=([sock],), name="cdp-admin", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._given = False
        self._thread.start()
        with suppress(CdpError):    # no runtime folder: 'cdp list' does not find it
            self._link = link_socket(runtime_directory(), self.path)

    def hand_over(self, force: bool) -> UnixListener:
        """Stop, and give away the listening socket: who connects waits for the next server. Raises Busy where a request
        does not end within STOP_SECONDS; `force`: it is cut."""
        until_s = time.monotonic() + STOP_SECONDS
        while self._app.running and not force and time.monotonic() < until_s:
            time.sleep(0.005)
        if self._app.running and not force:
            raise Busy("a command is at work through this server, a check for instance", "let it end, or give --force")
        listener, self._listener = self._listener, None
        assert listener
        self.close()
        return listener

    def close(self) -> None:
        """Stop accepting, let running requests end for up to STOP_SECONDS, remove the socket. Twice is no error."""
        if self._link:
            with suppress(OSError):
                os.unlink(self._link)
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=2 * STOP_SECONDS)
        if self._listener and not self._given:
            self._listener.close()


def serving_view(admin_socket: str, name: str, uris: list[str]) -> ServedView:
    return ServedView(pid=os.getpid(), admin_socket=admin_socket, name=name, uris=uris)
