"""The operations that a user asks of one volume (or writable image), with results that are plain JSON.

One implementation for both ways in: the command line calls a VolumeService directly on a volume that nobody serves, and
cdp.serve.http_api puts the same methods behind HTTP for one that is served (cdp.service.remote.RemoteService is their other end).

Invariants
  1. Every result is made of dict, list, str, int, bool and None, with the fields of the classes below; fields are only
     ever added. A moment carries its time as text beside the integer, because nanoseconds do not fit a double.
  2. Every call is bounded: content by MAX_PIECE_BYTES, extents and records by a page.
Thread-safe as far as the volume is, which is: every method, from any thread.
"""
import itertools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # pydantic cannot read the older one's field types
    from typing_extensions import TypedDict

from cdp.text.timestamps import utc
from cdpcore.base.errors import InvalidRequest

if TYPE_CHECKING:
    from cdp import Bookmark, ImageInfo, Moment, Restore, Volume
    from cdp.check.check import Report

MAX_PIECE_BYTES = 32 << 20
MAX_PAGE_EXTENTS = 65_536
MAX_PAGE_RECORDS = 100_000
RECORD_KINDS = {1: "write", 2: "zero", 3: "trim", 4: "flush", 5: "bookmark", 6: "restore", 7: "unbookmark",
                8: "writeback", 9: "restored"}
_FLAG_FUA = 2


class MomentView(TypedDict):
    """A moment of a volume. `time` is UTC."""

    seq: int
    ts_ns: int
    time: str


class GapView(TypedDict):
    """History from after `first` to before `last` that a destructive restore freed."""

    first: MomentView
    last: MomentView


class WindowView(TypedDict):
    """What can be opened: oldest to newest, without the gaps."""

    oldest: MomentView
    newest: MomentView
    gaps: list[GapView]


class ExplanationView(TypedDict):
    """How a point was understood. `asked` is None for a point that is not a time."""

    point: str
    kind: str
    asked_ts_ns: int | None
    asked: str | None
    resolved: MomentView
    next: MomentView | None
    flush_durable: bool
    last_flush: MomentView | None
    note: str


class BookmarkView(TypedDict):
    """`at`: what it names; `made`: when it was made."""

    name: str
    at: MomentView
    made: MomentView


class ImageView(TypedDict):
    """A writable image. `log_bytes`: what its own writes take; `children`: images made of it."""

    name: str
    path: str
    at: MomentView
    created_ns: int
    created: str
    size_bytes: int
    log_bytes: int
    children: int


class RestoreView(TypedDict):
    """A restore, done or (`dry_run`) only worked out. `bytes_hidden`: of later writes; None where it is not counted."""

    seq: int
    ts_ns: int
    time: str
    target: MomentView
    offset: int
    length: int
    destructive: bool
    undo_of: int | None
    undoable: bool
    bytes_hidden: int | None
    dry_run: bool


class CaptureView(TypedDict):
    """What a volume captures (`running`), or captured last. kind: log or mirror; None where it does not apply or is not known.

    Of a log: entries taken, their bytes of the log, and what it counts beyond: entries, bytes, and for how long. Of a mirror:
    connections that write now, bytes that they wrote, the first moment that was whole, and the latest.
    """

    kind: str
    source: str
    running: bool
    seq: int
    entries: int | None
    log_bytes: int | None
    behind_entries: int | None
    behind_bytes: int | None
    behind_ns: int | None
    connections: int | None
    written_bytes: int | None
    synced: MomentView | None
    whole: MomentView | None
    note: str


class ServedView(TypedDict):
    """The server that holds a volume."""

    pid: int
    admin_socket: str
    name: str
    uris: list[str]


class WritebackView(TypedDict):
    """A restore on its way to the disk of a before-image volume: bytes that are on it since opening, and that are not yet."""

    restore_seq: int
    bytes_done: int
    bytes_left: int


class InfoView(TypedDict):
    """A volume at a glance; `stats` are the engine's counters."""

    name: str
    path: str
    uuid: str
    size_bytes: int
    created_ns: int
    created: str
    parent: str | None
    window: WindowView
    bookmarks: int
    images: int
    restores: int
    served: ServedView | None
    disk: str | None
    writeback: WritebackView | None
    stats: dict[str, int]
    capture: CaptureView | None


class ExtentView(TypedDict):
    """kind: data, zero (reads as zeros, allocated) or hole."""

    offset: int
    length: int
    kind: str


class MapPage(TypedDict):
    """Adjacent extents in order. `next_offset`: where the next page begins, None at the end."""

    extents: list[ExtentView]
    next_offset: int | None


class RecordView(TypedDict):
    """One record of the history. kind: write, zero, trim, flush, bookmark, restore or unbookmark. meta: its sender called it
    metadata."""

    seq: int
    ts_ns: int
    time: str
    kind: str
    fua: bool
    meta: bool
    offset: int
    length: int


class RecordsPage(TypedDict):
    """Records in order. `next`: the point to give as `since` for more, None at the end."""

    records: list[RecordView]
    next: str | None


class ProblemView(TypedDict):
    """One thing that is wrong on disk."""

    where: str
    what: str
    hint: str


class CheckView(TypedDict):
    """What a check found."""

    ok: bool
    problems: list[ProblemView]
    segments: int
    frames: int
    records: int
    runs: int
    bytes_read: int


CAPTURE_FILE = "capture.json"
_FLAG_META = 32


class Service(Protocol):
    """What VolumeService and cdp.service.remote.RemoteService both offer. Errors are the kinds of cdpcore.base.errors."""

    def info(self) -> InfoView: ...
    def window(self) -> WindowView: ...
    def explain(self, point: str) -> ExplanationView: ...
    def bookmark(self, name: str, at: str = "now") -> BookmarkView: ...
    def bookmarks(self) -> list[BookmarkView]: ...
    def delete_bookmark(self, name: str) -> None: ...
    def create_image(self, name: str, at: str = "now") -> ImageView: ...
    def images(self) -> list[ImageView]: ...
    def delete_image(self, name: str) -> None: ...
    def restore(self, point: str, offset: int | None = None, length: int | None = None, destructive: bool = False,
                dry_run: bool = False) -> RestoreView: ...
    def undo(self, dry_run: bool = False) -> RestoreView: ...
    def restores(self) -> list[RestoreView]: ...
    def records(self, since: str = "#0", until: str = "now", limit: int = 1000) -> RecordsPage: ...
    def map(self, offset: int = 0, length: int | None = None, at: str | None = None,
            limit: int = MAX_PAGE_EXTENTS) -> MapPage: ...
    def read(self, offset: int, length: int, at: str | None = None) -> bytes: ...
    def write(self, offset: int, data: bytes, fua: bool = False) -> None: ...
    def zero(self, offset: int, length: int, hole: bool = False) -> None: ...
    def flush(self) -> None: ...
    def check(self) -> CheckView: ...


class VolumeService:
    """The operations on one open volume. Does not own the volume: whoever opened it closes it."""

    def __init__(self, volume: "Volume", served: ServedView | None = None):
        self.volume = volume
        self.served = served

    def check_home(self) -> None:
        """Raises Unavailable where the folder of the volume was moved, deleted or replaced since it was opened."""
        self.volume._store.check_home()

    def info(self) -> InfoView:
        volume = self.volume
        return InfoView(
            name=volume.name, path=volume.path, uuid=str(volume.uuid), size_bytes=volume.size_bytes,
            created_ns=volume.created_ns, created=utc(volume.created_ns), parent=volume.parent, window=self.window(),
            bookmarks=len(volume.bookmarks()), images=len(volume.images()), restores=len(volume.restores()),
            served=self.served, disk=volume.geometry().disk or None, writeback=self._writeback(),
            stats={name: int(count) for name, count in volume.stats().items()}, capture=self.capture())

    def _writeback(self) -> WritebackView | None:
        progress = self.volume.writeback.progress() if self.volume.writeback is not None else None
        return None if progress is None else WritebackView(
            restore_seq=progress.restore_seq, bytes_done=progress.bytes_done, bytes_left=progress.bytes_left)

    def capture(self) -> CaptureView | None:
        """What this volume is a capture of; None for all others."""
        if not os.path.exists(os.path.join(self.volume.path, CAPTURE_FILE)):
            return None
        from cdp.capture.status import stored

        return stored(self.volume.path)

    def window(self) -> WindowView:
        window = self.volume.window()
        return WindowView(oldest=_moment(window.oldest), newest=_moment(window.newest),
                          gaps=[GapView(first=_moment(first), last=_moment(last)) for first, last in window.gaps])

    def explain(self, point: str) -> ExplanationView:
        got = self.volume.explain(point)
        return ExplanationView(
            point=str(got.point), kind=got.kind, asked_ts_ns=got.asked_ts_ns,
            asked=None if got.asked_ts_ns is None else utc(got.asked_ts_ns), resolved=_moment(got.resolved),
            next=None if got.next is None else _moment(got.next), flush_durable=got.flush_durable,
            last_flush=None if got.last_flush is None else _moment(got.last_flush), note=got.note)

    def bookmark(self, name: str, at: str = "now") -> BookmarkView:
        return _bookmark(self.volume.bookmark(name, at=at))

    def bookmarks(self) -> list[BookmarkView]:
        return [_bookmark(mark) for mark in self.volume.bookmarks()]

    def delete_bookmark(self, name: str) -> None:
        self.volume.delete_bookmark(name)

    def create_image(self, name: str, at: str = "now") -> ImageView:
        return _image(self.volume.create_image(name, at=at))

    def images(self) -> list[ImageView]:
        return [_image(image) for image in self.volume.images()]

    def delete_image(self, name: str) -> None:
        self.volume.delete_image(name)

    def restore(self, point: str, offset: int | None = None, length: int | None = None, destructive: bool = False,
                dry_run: bool = False) -> RestoreView:
        done = self.volume.restore(point, offset=offset, length=length, destructive=destructive, dry_run=dry_run)
        return _restore(done, dry_run)

    def undo(self, dry_run: bool = False) -> RestoreView:
        return _restore(self.volume.undo(dry_run=dry_run), dry_run)

    def restores(self) -> list[RestoreView]:
        return [_restore(done, False) for done in self.volume.restores()]

    def records(self, since: str = "#0", until: str = "now", limit: int = 1000) -> RecordsPage:
        """At most `limit` (1..MAX_PAGE_RECORDS) records after `since`, up to and including `until`."""
        if not 1 <= limit <= MAX_PAGE_RECORDS:
            raise InvalidRequest(f"limit {limit} is out of range", f"write 1 .. {MAX_PAGE_RECORDS}")
        array = self.volume.records(since=since, until=until, limit=limit + 1)
        records = [
            RecordView(seq=seq, ts_ns=ts_ns, time=utc(ts_ns), kind=RECORD_KINDS.get(kind, str(kind)),
                       fua=bool(flags & _FLAG_FUA), meta=bool(flags & _FLAG_META), offset=offset, length=length)
            for seq, ts_ns, kind, flags, offset, length in array[:limit].tolist()]
        return RecordsPage(records=records, next=f"#{records[-1]['seq']}" if len(array) > limit else None)

    def map(self, offset: int = 0, length: int | None = None, at: str | None = None,
            limit: int = MAX_PAGE_EXTENTS) -> MapPage:
        """At most `limit` (1..MAX_PAGE_EXTENTS) extents of [offset, offset + length) at a point, or now."""
        if not 1 <= limit <= MAX_PAGE_EXTENTS:
            raise InvalidRequest(f"limit {limit} is out of range", f"write 1 .. {MAX_PAGE_EXTENTS}")
        extents = iter(self.volume.extents(offset, length, at=at))
        page = [ExtentView(offset=e.offset, length=e.length, kind=e.kind) for e in itertools.islice(extents, limit)]
        following = next(extents, None)
        return MapPage(extents=page, next_offset=None if following is None else following.offset)

    def read(self, offset: int, length: int, at: str | None = None) -> bytes:
        """A copy of up to MAX_PIECE_BYTES bytes at a point, or now."""
        _piece(length)
        if at is None:
            return self.volume.pread(length, offset)
        with self.volume.at(at) as image:
            return image.pread(length, offset)

    def write(self, offset: int, data: bytes, fua: bool = False) -> None:
        _piece(len(data))
        self.volume.pwrite(data, offset, fua=fua)

    def zero(self, offset: int, length: int, hole: bool = False) -> None:
        (self.volume.trim if hole else self.volume.zero)(length, offset)

    def flush(self) -> None:
        self.volume.flush()

    def check(self, progress: Callable[..., None] | None = None) -> CheckView:
        from cdp.check.check import check_open

        return report_view(check_open(self.volume, progress=progress))


def report_view(report: "Report") -> CheckView:
    problems = [ProblemView(where=str(p.where), what=p.what, hint=p.hint) for p in report.problems]
    return CheckView(ok=report.ok, problems=problems, segments=report.segments, frames=report.frames,
                     records=report.records, runs=report.runs, bytes_read=report.bytes_read)


def _piece(length: int) -> None:
    if not 0 <= length <= MAX_PIECE_BYTES:
        raise InvalidRequest(f"{length} bytes in one piece", f"ask for at most {MAX_PIECE_BYTES}")


def _moment(moment: "Moment") -> MomentView:
    return MomentView(seq=int(moment.seq), ts_ns=int(moment.ts_ns), time=utc(int(moment.ts_ns)))


def _bookmark(mark: "Bookmark") -> BookmarkView:
    return BookmarkView(name=mark.name, at=_moment(mark.at), made=_moment(mark.made))


def _image(image: "ImageInfo") -> ImageView:
    return ImageView(name=image.name, path=image.path, at=_moment(image.at), created_ns=image.created_ns,
                     created=utc(image.created_ns), size_bytes=image.size_bytes, log_bytes=image.log_bytes,
                     children=image.children)


def _restore(done: "Restore", dry_run: bool) -> RestoreView:
    return RestoreView(
        seq=done.seq, ts_ns=done.ts_ns, time=utc(done.ts_ns), target=_moment(done.target), offset=done.offset,
        length=done.length, destructive=done.destructive, undo_of=done.undo_of, undoable=done.undoable,
        bytes_hidden=done.bytes_hidden, dry_run=dry_run)
