"""What the page asks: /api/..., over the operations of cdp.service.local. Nothing here is larger than a screen can use:
activity comes from summaries, lists have an end, and say how much they left off.

Handlers are plain functions on the framework's bounded thread pool. Readers of files are MAX_READERS at once: each is a
process.
"""
import heapq
import itertools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from cdp.ipc.errors import encode_error
from cdp.serve.held import Held
from cdp.serve.http_api import STATUS, BookmarkBody, ImageBody, RestoreBody, UndoBody
from cdp.service.files_at import entry_view, files_at, ranges, text_of
from cdp.service.local import VolumeService, load_all
from cdp.service.retention import keeping_view
from cdp.views import ActivityView, BookmarkView, ExplanationView, ImageView, KeepingView, RestoreView
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, NotFound

MAX_LISTED = 1000       # bookmarks, restores, pins, images, alerts: the newest of each
MAX_RANGES = 1000
MAX_FILES = 2000
MAX_READERS = 2
LOOK_S = 20.0           # a request waits so long for a reader
FILES_HINT = "repeat this when the other look at files has ended"


def add_routes(app: FastAPI, held: Mapping[str, Held]) -> None:
    """held: the served volumes, by name, which may become more."""
    import cdp.files.changes
    import cdp.files.session  # noqa: F401  (a server is of one version to its end)

    load_all()
    readers = threading.Semaphore(MAX_READERS)

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
        return JSONResponse(encode_error(InvalidRequest(f"{where}: {first['msg']}")), status_code=400)

    def service_of(volume: str) -> Iterator[VolumeService]:
        if (served := held.get(volume)) is None:
            raise NotFound(f"no volume {volume!r} is open here", "reload the page: it lists those that are")
        served.service.connected = partial(served.clients, volume)
        yield served.service

    Service = Annotated[VolumeService, Depends(service_of)]
    Point = Annotated[str, Query(max_length=300)]
    Path = Annotated[str, Query(max_length=4096)]

    @contextmanager
    def reader() -> Iterator[None]:
        if not readers.acquire(timeout=LOOK_S):
            raise Busy(f"{MAX_READERS} looks at files are under way", FILES_HINT)
        try:
            yield
        finally:
            readers.release()

    @app.get("/api/volumes")
    def volumes() -> list[str]:
        return list(held)

    @app.get("/api/volumes/{volume}")
    def overview(service: Service) -> dict[str, Any]:
        """What stands on the scrub bar."""
        listed: dict[str, list[Any]] = {
            "bookmarks": list(service.bookmarks()), "restores": list(service.restores()),
            "pins": list(service.pins()), "images": list(service.images()), "alerts": list(service.alerts())}
        return {"name": service.volume.name, "size_bytes": service.volume.size_bytes, "window": service.window(),
                "writers": sum(not one["read_only"] for one in service.clients()),
                **{name: heapq.nlargest(MAX_LISTED, rows, key=_when) for name, rows in listed.items()},
                "left_off": {name: max(0, len(rows) - MAX_LISTED) for name, rows in listed.items()}}

    @app.get("/api/volumes/{volume}/activity")
    def activity(service: Service, since: Point | None = None, until: Point = "now",
                 by_ns: Annotated[int | None, Query(ge=1, lt=1 << 63)] = None) -> ActivityView:
        return service.activity(since=since, until=until, by_ns=by_ns, places=True)

    @app.get("/api/volumes/{volume}/kept")
    def kept(service: Service) -> KeepingView:
        return keeping_view(service.volume)

    @app.get("/api/volumes/{volume}/explain")
    def explain(service: Service, point: Point) -> ExplanationView:
        return service.explain(point)

    @app.get("/api/volumes/{volume}/diff")
    def diff(service: Service, a: Point, b: Point) -> dict[str, Any]:
        """The first MAX_RANGES ranges that differ."""
        first, second = (service.explain(point)["resolved"] for point in (a, b))
        page = service.diff(f"#{first['seq']}!", f"#{second['seq']}!", limit=MAX_RANGES)
        return {"a": first, "b": second, **page, "bytes": sum(one["length"] for one in page["ranges"])}

    @app.get("/api/volumes/{volume}/files")
    def files(service: Service, at: Point, path: Path = "/") -> dict[str, Any]:
        """What a folder held."""
        moment = service.explain(at)["resolved"]
        with reader(), files_at(service, moment["seq"], None) as found:
            entries = found.entries(path)
            about = found.about()
        return {"at": moment, "path": path, "file_system": about["kind"], "note": about["note"],
                "entries": [entry_view(one) for one in entries[:MAX_FILES]],
                "left_off": max(0, len(entries) - MAX_FILES)}

    @app.get("/api/volumes/{volume}/changes")
    def file_changes(service: Service, a: Point, b: Point, path: Path = "/") -> dict[str, Any]:
        """The first MAX_FILES files that differ."""
        from cdp.files.changes import changes

        first, second = (service.explain(point)["resolved"] for point in (a, b))
        differing = ((one["offset"], one["length"]) for one in ranges(service, first["seq"], second["seq"]))
        with reader(), files_at(service, first["seq"], None) as before, \
                files_at(service, second["seq"], None) as after:
            found = list(itertools.islice(changes(before, after, path, differing), MAX_FILES + 1))
        return {"a": first, "b": second, "more": len(found) > MAX_FILES,
                "changes": [{"change": one.kind, "path": text_of(one.path), "what": list(one.what)}
                            for one in found[:MAX_FILES]]}

    @app.post("/api/volumes/{volume}/bookmarks", status_code=201)
    def bookmark(service: Service, body: BookmarkBody) -> BookmarkView:
        return service.bookmark(body.name, at=body.at, keep_ns=body.keep_ns)

    @app.delete("/api/volumes/{volume}/bookmarks", status_code=204)
    def delete_bookmark(service: Service, name: str) -> None:
        service.delete_bookmark(name)

    @app.post("/api/volumes/{volume}/images", status_code=201)
    def create_image(service: Service, volume: str, body: ImageBody) -> dict[str, Any]:
        """Also where it can be opened: URIs of NBD."""
        made: ImageView = service.create_image(body.name, at=body.at)
        return {**made, "uris": held[volume].uris(f"{volume}/{made['name']}")}

    @app.delete("/api/volumes/{volume}/images", status_code=204)
    def delete_image(service: Service, volume: str, name: str) -> None:
        """409 while a client has it open."""
        with held[volume].image_cache.deleting((name,)):
            service.delete_image(name)

    @app.post("/api/volumes/{volume}/restores")
    def restore(service: Service, body: RestoreBody) -> RestoreView:
        if body.destructive:
            raise InvalidRequest("the page does nothing that cannot be undone", "use 'cdp restore --destructive'")
        return service.restore(body.point, offset=body.offset, length=body.length, dry_run=body.dry_run,
                               force=body.force)

    @app.post("/api/volumes/{volume}/undo")
    def undo(service: Service, body: UndoBody) -> RestoreView:
        return service.undo(dry_run=body.dry_run, force=body.force)


def _when(row: dict[str, Any]) -> int:
    """What a listed row is sorted by: its moment."""
    for name in ("at", "target"):
        if name in row:
            return int(row.get("ts_ns", row[name]["ts_ns"]))
    return int(row.get("since_ns", 0))
