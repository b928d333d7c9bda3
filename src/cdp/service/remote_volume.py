"""A volume that another process serves, as the object that cdp.open gives: cdp.connect.

The operations go to the server's administration socket, content to its NBD socket (remote_content), over one
connection that is made when it is first needed.

Invariants
  1. Same methods, arguments, results and errors as Volume's (cdp.volume.volume); what needs the volume's files raises
     Unavailable, and says so.
  2. A point is resolved by the server, by its clock and zone. What comes in several answers is of one moment: that of
     the first.
"""
from __future__ import annotations

import numbers
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from cdp.moments import points
from cdp.moments.events import Event
from cdp.moments.model import (
    Activity,
    Bookmark,
    ClockStep,
    Explanation,
    Extent,
    Freeing,
    ImageInfo,
    Moment,
    Restore,
    Thinning,
    Window,
)
from cdp.moments.points import PointLike
from cdp.moments.records import ACTIVITY, DIFFERENCE, EXTENT_KINDS, FUA, KIND_NAMES, META, RECORD, VERSION
from cdp.moments.retention import Pin
from cdp.nbd.client import parse
from cdp.service.connect import find_server
from cdp.service.locate import Location, locate
from cdp.service.remote import RemoteService
from cdp.service.remote_content import Content
from cdp.service.remote_watch import RemoteWatch
from cdp.store.space import Usage
from cdp.text.paths import absolute
from cdp.text.timestamps import utc
from cdp.views import MAX_PAGE_EXTENTS, MAX_PAGE_RECORDS, MAX_PIECE_BYTES
from cdp.volume.buffers import byte_count, bytes_of
from cdpcore.base.errors import PAST_THE_END, Closed, InvalidRequest, Unavailable
from cdpcore.system.os import posix

if TYPE_CHECKING:
    from cdp.files.session import Files
    from cdp.settings import Settings
    from cdp.views import ExtentView, MomentView, RestoreView

KINDS = {name: number for number, name in KIND_NAMES.items()}
NBD_PIECE_BYTES = 16 << 20


def connect(path: str | Path, *, settings: Settings | None = None) -> RemoteVolume:
    """A volume, or VOLUME/IMAGE, that another process serves: an object with the methods of Volume. Its process goes on
    serving others. close() ends the connection, not the volume.

    What needs the volume's files (target, written_since, free_before, prune, import_base, sync) raises Unavailable. A
    restore is refused while other clients are connected that may write (Busy). Raises NotFound; Unavailable where no
    server has the volume: cdp.open opens it here.
    """
    location = locate(absolute(path))
    service = find_server(location)
    if service is None:
        raise Unavailable(f"{location.text}: no server has it", "cdp.open() opens it in this process")
    try:
        return RemoteVolume(service, location, settings)
    except BaseException:
        service.close()
        raise


def _checked(length: int, offset: int, size_bytes: int) -> tuple[int, int]:
    """As the engine checks a request."""
    length, offset = byte_count(length), byte_count(offset)
    if offset + length > size_bytes:
        raise InvalidRequest(f"{length} bytes at {offset}: {PAST_THE_END}", f"the volume has {size_bytes} bytes")
    return length, offset


def _pieces(length: int, offset: int, most: int) -> Iterator[tuple[int, int, int]]:
    """(place in the buffer, bytes, offset)."""
    for done in range(0, length, most):
        yield done, min(most, length - done), offset + done


def _read_into(content: Content, out: Any, offset: int, size_bytes: int) -> None:
    length, offset = _checked(out.nbytes, offset, size_bytes)
    for done, n, at in _pieces(length, offset, NBD_PIECE_BYTES):
        out[done:done + n] = content.read(n, at)


def point_text(point: PointLike) -> str:
    """A point as the server takes it."""
    if isinstance(point, str):
        return point
    parsed = points.parse(point, posix().now_ns())
    return utc(parsed.ts_ns) if parsed.ts_ns is not None else parsed.text


class RemoteTimeImage:
    """As TimeImage, of a volume that another process serves."""

    def __init__(self, volume: RemoteVolume, moment: Moment):
        self.volume, self.moment, self.size_bytes = volume, moment, volume.size_bytes
        self._at = f"#{moment.seq}!"      # that one: it may be thinned while it is read
        self._content: Content | None = volume._content_of(self._at)
        self._content.hold()

    @property
    def closed(self) -> bool:
        return self._content is None

    def _open(self) -> Content:
        if self._content is None:
            raise Closed(f"{self.volume.path}: the time image of {self._at} is closed")
        return self._content

    def view(self) -> NoReturn:
        """Not of a volume that another process serves."""
        self.volume._refuse("view")

    def pread(self, length: int, offset: int) -> bytes:
        out = bytearray(byte_count(length, self.size_bytes))
        self.pread_into(out, offset)
        return bytes(out)

    def pread_into(self, buffer: Any, offset: int) -> None:
        _read_into(self._open(), bytes_of(buffer, fill=True), offset, self.size_bytes)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        self._open()
        return self.volume.extents(offset, length, at=self._at)

    def files(self, partition: int | None = None) -> Files:
        from cdp.files.session import Files  # late: rare

        return Files(self.pread, self.size_bytes, partition)

    def target(self) -> NoReturn:
        self.volume._refuse("target")

    def close(self) -> None:
        content, self._content = self._content, None
        if content is not None:
            content.hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<cdp.RemoteTimeImage {self.volume.path}@{self._at}{' closed' if self.closed else ''}>"


class RemoteVolume:
    """As Volume, of a volume that another process serves; see connect(). A context manager; any thread."""

    def __init__(self, service: RemoteService, location: Location, settings: Settings | None):
        self._location, self.settings = location, settings
        self._service: RemoteService | None = service
        self._watches: weakref.WeakSet[RemoteWatch] = weakref.WeakSet()     # guarded by _lock, as _service
        self._lock = threading.RLock()      # the administration connection is used by one thread at a time
        info = service.info()
        self.path: str = info["path"]
        self.name: str = info["name"]
        self.size_bytes: int = info["size_bytes"]
        self.uuid: str = info["uuid"]
        self.created_ns: int = info["created_ns"]
        self._parent: str | None = info["parent"]
        self.read_only = False
        served = info["served"]
        uris = [] if served is None else sorted(served["uris"], key=lambda uri: not uri.startswith("nbd+unix:"))
        self._addresses = [parse(uri) for uri in uris]
        self._content = self._content_of(None)

    def _content_of(self, at: str | None) -> Content:
        addresses = self._addresses if at is None else [
            replace(address, export=f"{address.export}@{at}") for address in self._addresses]
        return Content(addresses, self._alive, at)

    def _alive(self) -> RemoteService:
        if self._service is None:
            raise Closed(f"{self.path}: the volume is closed")
        return self._service

    def _ask(self, work: Callable[[RemoteService], Any]) -> Any:
        with self._lock:
            return work(self._alive())

    def _page(self, name: str, *args: Any) -> Any:
        """An answer that comes in several."""
        return self._ask(lambda service: getattr(service, name)(*args))

    def _refuse(self, what: str) -> NoReturn:
        self._alive()
        raise Unavailable(f"{self.path}: {what}: not of a volume that another process serves",
                          "end its server, and use cdp.open()")

    @property
    def closed(self) -> bool:
        return self._service is None

    @property
    def parent(self) -> str | None:
        return self._parent

    @property
    def unclean(self) -> str:
        return ""

    # --- content ------------------------------------------------------------------------------------------------------

    def pread(self, length: int, offset: int) -> bytes:
        out = bytearray(byte_count(length, self.size_bytes))
        self.pread_into(out, offset)
        return bytes(out)

    def pread_into(self, buffer: Any, offset: int) -> None:
        self._alive()
        _read_into(self._content, memoryview(bytes_of(buffer, fill=True)), offset, self.size_bytes)

    def pwrite(self, buffer: Any, offset: int, fua: bool = False) -> None:
        self._alive()
        data = memoryview(bytes_of(buffer))
        length, offset = _checked(data.nbytes, offset, self.size_bytes)
        for done, n, at in _pieces(length, offset, MAX_PIECE_BYTES):
            self._content.write(bytes(data[done:done + n]), at, fua)

    def trim(self, length: int, offset: int, fua: bool = False) -> None:
        self._zero(length, offset, True, fua)

    def zero(self, length: int, offset: int, fua: bool = False) -> None:
        self._zero(length, offset, False, fua)

    def _zero(self, length: int, offset: int, hole: bool, fua: bool) -> None:
        length, offset = _checked(length, offset, self.size_bytes)
        self._ask(lambda service: service.zero(offset, length, hole=hole))
        if fua:
            self.flush()

    def flush(self) -> None:
        self._ask(lambda service: service.flush())

    def sync(self) -> None:
        self._refuse("sync")

    def extents(self, offset: int = 0, length: int | None = None, at: PointLike | None = None) -> Iterator[Extent]:
        start = byte_count(offset)
        end = self.size_bytes if length is None else start + byte_count(length)
        if end > self.size_bytes or start > end:
            raise InvalidRequest(f"extents of {start}..{end}", f"the volume has {self.size_bytes} bytes")
        point = None if at is None else f"#{self.resolve(at).seq}!"
        self._alive()
        return self._extents(start, end, point)

    def _extents(self, start: int, end: int, at: str | None) -> Iterator[Extent]:
        following: int | None = start
        while following is not None and following < end:
            begin = following
            page = self._page("map", begin, end - begin, at)
            yield from (Extent(one["offset"], one["length"], one["kind"]) for one in page["extents"])
            following = page["next_offset"]

    def target(self) -> NoReturn:
        self._refuse("target")

    # --- moments ------------------------------------------------------------------------------------------------------

    def window(self) -> Window:
        view = self._ask(lambda service: service.window())
        return Window(_moment(view["oldest"]), _moment(view["newest"]),
                      [(_moment(gap["first"]), _moment(gap["last"])) for gap in view["gaps"]],
                      [ClockStep(step["seq"], step["before"]["ts_ns"], step["after"]["ts_ns"])
                       for step in view["clock_steps"]], view["clock_behind_ns"], None if (t := view["thinned"]) is None
                      else Thinning(_moment(t["first"]), _moment(t["last"]), t["points"]))

    def resolve(self, point: PointLike) -> Moment:
        return self.explain(point).resolved

    def explain(self, point: PointLike) -> Explanation:
        view = self._ask(lambda service: service.explain(point_text(point)))
        text = view["point"] if isinstance(point, str) else points.parse(point, 0).text
        return Explanation(text, view["kind"], view["asked_ts_ns"], _moment(view["resolved"]),
                           None if view["next"] is None else _moment(view["next"]), view["flush_durable"],
                           None if view["last_flush"] is None else _moment(view["last_flush"]), view["note"],
                           view["durability"], [_moment(one) for one in view["other_readings"]],
                           None if view["not_kept"] is None else _moment(view["not_kept"]))

    def at(self, point: PointLike) -> RemoteTimeImage:
        return RemoteTimeImage(self, self.resolve(point))

    def _span(self, since: PointLike | None, until: PointLike) -> tuple[str | None, str]:
        """As points that go on meaning the same."""
        named = [None if one is None else self.explain(one) for one in (since, until)]
        after, upto = (None if one is None else f"#{(one.not_kept or one.resolved).seq}" for one in named)
        return after, upto or "now"

    def records(self, since: PointLike | None = None, until: PointLike = "now", limit: int | None = None) -> Any:
        import numpy as np

        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, numbers.Integral) or limit < 0):
            raise InvalidRequest(f"limit {limit!r} is not a number of records", "give a whole number from 0 up")
        found, count = [np.empty(0, RECORD)], 0
        for batch in self.iter_records(since, until):
            found.append(batch if limit is None else batch[: limit - count])
            count += len(found[-1])
            if limit is not None and count >= limit:
                break
        return np.concatenate(found)

    def iter_records(self, since: PointLike | None = None, until: PointLike = "now") -> Iterator[Any]:
        return self._records(*self._span(since, until))

    def _records(self, since: str | None, until: str) -> Iterator[Any]:
        import numpy as np

        while True:
            rows, following = self._page("history", since, until)
            if rows:
                yield np.frombuffer(bytearray(rows), RECORD)
            if following is None:
                return
            since = following

    def history(self, offset: int, length: int = 4096, since: PointLike | None = None, until: PointLike = "now",
                limit: int | None = None) -> Any:
        import numpy as np

        return np.concatenate([np.empty(0, VERSION), *self.iter_history(offset, length, since, until, limit)])[:limit]

    def iter_history(self, offset: int, length: int = 4096, since: PointLike | None = None, until: PointLike = "now",
                     limit: int | None = None) -> Iterator[Any]:
        start = byte_count(offset, self.size_bytes)
        size = byte_count(min(length, self.size_bytes - start) if length == 4096 else length, self.size_bytes - start)
        return self._versions(start, size, *self._span(since, until), limit)

    def _versions(self, start: int, size: int, since: str | None, until: str, limit: int | None) -> Iterator[Any]:
        import numpy as np

        count = 0
        while limit is None or count < limit:
            most = MAX_PAGE_RECORDS if limit is None else min(MAX_PAGE_RECORDS, limit - count)
            page = self._page("versions", start, size, since, until, most)
            rows = [(one["seq"], one["ts_ns"], KINDS[one["kind"]], FUA * one["fua"] | META * one["meta"], one["offset"],
                     one["length"], one["bytes"], one["present"], one["target"] or 0) for one in page["versions"]]
            if rows:
                yield np.array(rows, VERSION)
            count += len(rows)
            if (since := page["next"]) is None:
                return

    def diff(self, a: PointLike, b: PointLike = "now", offset: int = 0, length: int | None = None, *,
             compared: bool = True) -> Any:
        import numpy as np

        return np.concatenate([np.empty(0, DIFFERENCE), *self.iter_diff(a, b, offset, length, compared=compared)])

    def iter_diff(self, a: PointLike, b: PointLike = "now", offset: int = 0, length: int | None = None, *,
                  compared: bool = True) -> Iterator[Any]:
        start = byte_count(offset, self.size_bytes)
        size = self.size_bytes - start if length is None else byte_count(length, self.size_bytes - start)
        return self._differences(f"#{self.resolve(a).seq}!", f"#{self.resolve(b).seq}!", start, start + size, compared)

    def _differences(self, a: str, b: str, start: int, end: int, compared: bool) -> Iterator[Any]:
        import numpy as np

        following: int | None = start
        while following is not None and following < end:
            begin = following
            page = self._page("diff", a, b, begin, end - begin, compared, MAX_PAGE_EXTENTS)
            if page["ranges"]:
                rows = np.zeros(len(page["ranges"]), DIFFERENCE)
                rows["offset"], rows["length"], rows["kind"] = zip(*map(_difference, page["ranges"]), strict=True)
                yield rows
            following = page["next_offset"]

    def activity(self, since: PointLike | None = None, until: PointLike = "now", by_ns: int | None = None) -> Activity:
        import numpy as np

        after = None if since is None else point_text(since)
        view = self._ask(lambda service: service.activity(after, point_text(until), by_ns, places=True))
        rows = np.zeros(len(view["writes"]), ACTIVITY)
        rows["ts_ns"] = view["begin_ns"] + view["by_ns"] * np.arange(len(rows))
        for name in ("written", "overwritten", "zeroed", "trimmed"):
            rows[name] = view[f"{name}_bytes"]
        for name in ("writes", "zeroes", "trims", "flushes"):
            rows[name] = view[name]
        return Activity(view["by_ns"], rows, view["place_bytes"], np.array(view["places"]), view["resolution_ns"],
                        view["missing"])

    def written_since(self, point: PointLike, image: Any = None) -> NoReturn:
        self._refuse("written_since")

    # --- bookmarks, images --------------------------------------------------------------------------------------------

    def bookmark(self, name: str, at: PointLike = "now", keep_ns: int | None = None) -> Bookmark:
        return _bookmark(self._ask(lambda service: service.bookmark(name, point_text(at), keep_ns)))

    def bookmarks(self) -> list[Bookmark]:
        return [_bookmark(mark) for mark in self._ask(lambda service: service.bookmarks())]

    def delete_bookmark(self, name: str) -> None:
        self._ask(lambda service: service.delete_bookmark(name))

    def create_image(self, name: str, at: PointLike = "now") -> ImageInfo:
        return _image(self._ask(lambda service: service.create_image(name, point_text(at))))

    def images(self) -> list[ImageInfo]:
        return [_image(image) for image in self._ask(lambda service: service.images())]

    def open_image(self, name: str) -> RemoteVolume:
        self._alive()
        return connect(Path(self._location.path) / "images" / name, settings=self.settings)

    def delete_image(self, name: str) -> None:
        self._ask(lambda service: service.delete_image(name))

    # --- restore ------------------------------------------------------------------------------------------------------

    def restore(self, point: PointLike, *, offset: int | None = None, length: int | None = None,
                destructive: bool = False, dry_run: bool = False) -> Restore:
        start = None if offset is None else byte_count(offset)
        size = None if length is None else byte_count(length)
        self._content.hang_up()     # we are a client that may write, too
        done = self._ask(lambda service: service.restore(point_text(point), start, size, destructive, dry_run))
        return _restore(done)

    def undo(self, dry_run: bool = False) -> Restore:
        self._content.hang_up()
        return _restore(self._ask(lambda service: service.undo(dry_run)))

    def restores(self) -> list[Restore]:
        return [_restore(done) for done in self._ask(lambda service: service.restores())]

    def watch(self, since: Event | int | None = None, timeout_s: float | None = None, *,
              kinds: Iterable[str] | None = None) -> RemoteWatch:
        line = self._alive().event_line()
        watch = RemoteWatch(line.ask, since, timeout_s, kinds, line.cut)
        with self._lock:
            self._watches.add(watch)
            if self._service is None:
                watch.close()
        return watch

    # --- history, retention -------------------------------------------------------------------------------------------

    def free_before(self, seq: int, *, undo: bool = True, dry_run: bool = False) -> NoReturn:
        self._refuse("free_before")

    def freeing(self) -> Freeing | None:
        view = self._ask(lambda service: service.info())["freeing"]
        return None if view is None else Freeing(_moment(view["start"]), view["bytes_left"], view["folded_percent"])

    def policy(self) -> str | None:
        found: str | None = self._ask(lambda service: service.policy())["policy"]
        return found

    def set_policy(self, policy: str | None) -> None:
        self._ask(lambda service: service.set_policy(policy, yes=True))

    def prune(self, dry_run: bool = False) -> NoReturn:
        self._refuse("prune ('cdp prune' works)")

    def pins(self) -> list[Pin]:
        return [Pin(pin["kind"], pin["owner"], pin["reason"], _moment(pin["at"]), pin["left_ns"])
                for pin in self._ask(lambda service: service.pins())]

    def usage(self) -> Usage:
        view = self._ask(lambda service: service.space())
        return Usage(view["log_bytes"], view["log_ahead_bytes"], view["index_bytes"], view["base_bytes"],
                     view["images_bytes"], view["catalog_bytes"], view["reserve_bytes"], view["other_bytes"],
                     view["device_free_bytes"], view["device_bytes"])

    def import_base(self, read: Callable[[int, memoryview], None], extents: Any, progress: Any = None, *,
                    image_format: str | None = None) -> NoReturn:
        self._refuse("import_base")

    # --- life ---------------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask(lambda service: service.info())["stats"]
        return found

    def metrics(self, buckets: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = self._ask(lambda service: service.metrics(buckets))
        return found

    def geometry(self) -> NoReturn:
        self._refuse("geometry")

    def retain(self) -> NoReturn:
        self._refuse("retain")

    def retain_open(self) -> NoReturn:
        self._refuse("retain_open")

    def in_use(self) -> bool:
        return self._service is not None

    def close(self) -> None:
        """End the connection; the volume is served on. Idempotent."""
        with ExitStack() as stack:
            with self._lock:
                service, self._service = self._service, None
                watches = list(self._watches)
            for watch in watches:
                watch.close()
            if service is not None:
                stack.callback(service.close)
            self._content.hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<cdp.RemoteVolume {self.path} {'closed' if self.closed else f'{self.size_bytes} bytes'}>"


def _moment(view: MomentView) -> Moment:
    return Moment(view["seq"], view["ts_ns"])


def _bookmark(view: Any) -> Bookmark:
    return Bookmark(view["name"], _moment(view["at"]), _moment(view["made"]))


def _image(view: Any) -> ImageInfo:
    return ImageInfo(view["name"], view["path"], _moment(view["at"]), view["created_ns"], view["size_bytes"],
                     view["log_bytes"], view["children"])


def _restore(view: RestoreView) -> Restore:
    return Restore(view["seq"], view["ts_ns"], _moment(view["target"]), view["offset"], view["length"],
                   view["destructive"], view["undo_of"], view["undoable"], view["bytes_hidden"])


def _difference(one: ExtentView) -> tuple[int, int, int]:
    return one["offset"], one["length"], EXTENT_KINDS.index(one["kind"])
