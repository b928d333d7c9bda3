"""The operations on one volume (or writable image) that is open in this process, with the JSON answers of cdp.views.

One implementation for both ways in: the command line calls a VolumeService on a volume that no server has open, and
cdp.serve.http_api puts the same methods behind HTTP (cdp.service.remote.RemoteService is the client).
Any thread.
"""
import itertools
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from cdp.service import finding, retention
from cdp.service.copies import Copies
from cdp.store import scrub_file, standby_file
from cdp.store.attached import named
from cdp.store.volume_files import VolumeFiles
from cdp.text.sizes import approx_size
from cdp.text.timestamps import utc
from cdp.views import (
    MAX_PAGE_EVENTS,
    MAX_PAGE_EXTENTS,
    MAX_PAGE_RECORDS,
    MAX_PAGE_ROWS,
    MAX_PIECE_BYTES,
    ActivityView,
    AlertView,
    BookmarkView,
    CaptureView,
    CheckView,
    ClientView,
    ClockStepView,
    CopiesView,
    CopyView,
    DeviceSpaceView,
    DiffPage,
    DiskChecksumsView,
    EventsPage,
    EventView,
    ExplanationView,
    ExtentView,
    GapView,
    ImageView,
    InfoView,
    LastRestoreView,
    MapPage,
    MetricsView,
    MomentView,
    PinView,
    PlanView,
    PolicyView,
    ProblemView,
    PruneView,
    RecordsPage,
    RecordView,
    RestoreView,
    ScrubView,
    SealedView,
    SegmentsPage,
    SegmentView,
    ServedView,
    SpaceView,
    StandbyDetachedView,
    StandbyView,
    ThinningView,
    VersionsPage,
    WindowView,
    WritebackView,
)
from cdpcore.base.errors import Busy, InvalidRequest

if TYPE_CHECKING:
    from cdp import Bookmark, ImageInfo, Moment, Restore, Volume
    from cdp.check.check import Report
    from cdp.service.care import Care

HUNG_UP_S = 0.3
MAX_URL_CHARS = 2048
MAX_FOLDER_CHARS = 4096


def load_all() -> None:
    """Load what operations would load when they are first used. A server is then of one version to its end, also where
    an upgrade has replaced the files since: a module of another version might not fit what is loaded."""
    import numpy.ma  # noqa: F401  (of what reads runs)

    import cdp.capture.status
    import cdp.check.check
    import cdp.store.activity_cells
    import cdp.volume.activity
    import cdp.volume.barrier
    import cdp.volume.changes  # noqa: F401


class VolumeService:
    """The operations on one open volume. Does not own the volume: its opener closes it."""

    def __init__(self, volume: "Volume", served: ServedView | None = None):
        self.volume = volume
        self.served = served
        self.connected: Callable[[], list[ClientView]] = list
        """The NBD clients of the volume and of its moments, where a server has it."""
        self.standby: Callable[[], StandbyView | None] = lambda: None
        """How far the standby of the volume is, where a server lets one connect."""
        self.forget_standby: Callable[[], str] | None = None
        """There is no standby from now on; returns the id of the one that there was. Of a server that has some."""
        self.care: Care | None = None
        """What a server does for the volume beside serving it."""
        self._copies: Copies | None = None

    def check_folder(self) -> None:
        """Raises Unavailable where the folder of the volume was moved, deleted or replaced since it was opened."""
        self.volume._store.check_folder()

    def info(self) -> InfoView:
        volume = self.volume
        return InfoView(
            name=volume.name, path=named(volume.path), uuid=str(volume.uuid), size_bytes=volume.size_bytes,
            created_ns=volume.created_ns, created=utc(volume.created_ns), parent=volume.parent, window=self.window(),
            bookmarks=len(volume.bookmarks()), images=len(volume.images()), restores=len(volume.restores()),
            served=self.served, disk=volume.geometry().disk or None,
            disk_checksums=self._disk_checksums(), writeback=self._writeback(),
            stats={name: int(count) for name, count in volume.stats().items()}, metrics=self.metrics(),
            capture=self.capture(), retention=retention.policy_view(volume), freeing=retention.freeing_view(volume),
            space=self._space(), scrub=self._scrub(), last_restore=self._last_restore(), copies=self._copies_view(),
            alerts=self.alerts(), alert_counts=dict(self.care.book.counts) if self.care else {}, standby=self.standby())

    def metrics(self, buckets: bool = False) -> MetricsView:
        return cast(MetricsView, self.volume.metrics(buckets))

    def _space(self) -> DeviceSpaceView | None:
        space = self.volume._store.space()
        return None if space is None else DeviceSpaceView(
            state=space.state, free_bytes=space.free_bytes, low_bytes=space.low_bytes, left_s=space.left_s)

    def alerts(self) -> list[AlertView]:
        """What is raised, of a volume that a server has."""
        active = self.care.book.active if self.care else []
        return [AlertView(kind=one.kind, level=one.level, what=one.what, hint=one.hint, since_ns=one.since_ns,
                          since=utc(one.since_ns)) for one in active]

    def _scrub(self) -> ScrubView:
        store = self.volume._store
        state = self.care.scrub.state if self.care else scrub_file.load(store.os, store.files)
        return ScrubView(
            percent=self.care.scrub.percent() if self.care else None, bytes_read=state.bytes_read,
            last_ended_ns=state.last_ended_ns or None, last_ended=utc(state.last_ended_ns) if state.last_ended_ns else
            None, last_bytes=state.last_bytes, n_problems=state.last_n_problems + state.n_problems,
            problems=[ProblemView(where=where, what=what, hint=hint) for where, what, hint in
                      dict.fromkeys((*state.last_problems, *state.problems))])

    def _last_restore(self) -> LastRestoreView | None:
        last = self.volume.restores()[-1:]
        return LastRestoreView(at=_time(last[0].seq, last[0].ts_ns), took_s=self.volume._restores.last_took_s) \
            if last else None

    @property
    def copies(self) -> Copies:
        if self._copies is None:
            self._copies = Copies(self.volume)
        return self._copies

    def _copies_view(self) -> CopiesView:
        def view(kind: str) -> CopyView | None:
            copy = self.copies.last(kind)
            if copy is None:
                return None
            missing = self.copies.missing(copy)
            return CopyView(where=copy.where, made_ns=copy.made_ns, made=utc(copy.made_ns),
                            upto=_time(copy.seq, copy.ts_ns), missing=None if missing is None else _moment(missing))

        return CopiesView(backup=view("backup"), archive=view("archive"))

    def _disk_checksums(self) -> DiskChecksumsView | None:
        known = self.volume._store.kind.disk_checksums()
        return None if known is None else DiskChecksumsView(
            present=known["on"], blocks=known["n_blocks"], unknown_blocks=known["unknown_blocks"])

    def _writeback(self) -> WritebackView | None:
        progress = self.volume.writeback.progress() if self.volume.writeback is not None else None
        return None if progress is None else WritebackView(
            restore_seq=progress.restore_seq, bytes_done=progress.bytes_done, bytes_left=progress.bytes_left)

    def capture(self) -> CaptureView | None:
        """What this volume is a capture of; None for all others."""
        if not os.path.exists(VolumeFiles(self.volume.path).capture):
            return None
        from cdp.capture.status import stored

        return stored(self.volume.path)

    def window(self) -> WindowView:
        window = self.volume.window()
        return WindowView(oldest=_moment(window.oldest), newest=_moment(window.newest),
                          gaps=[GapView(first=_moment(first), last=_moment(last)) for first, last in window.gaps],
                          clock_steps=[ClockStepView(
                              seq=step.seq, before=_time(step.seq - 1, step.before_ns),
                              after=_time(step.seq, step.after_ns)) for step in window.clock_steps],
                          clock_behind_ns=window.clock_behind_ns,
                          thinned=None if window.thinned is None else ThinningView(
                              first=_moment(window.thinned.first), last=_moment(window.thinned.last),
                              points=window.thinned.points))

    def explain(self, point: str) -> ExplanationView:
        got = self.volume.explain(point)
        return ExplanationView(
            point=str(got.point), kind=got.kind, asked_ts_ns=got.asked_ts_ns,
            asked=None if got.asked_ts_ns is None else utc(got.asked_ts_ns), resolved=_moment(got.resolved),
            next=None if got.next is None else _moment(got.next), flush_durable=got.flush_durable,
            last_flush=None if got.last_flush is None else _moment(got.last_flush), note=got.note,
            durability=got.durability,
            other_readings=[_moment(moment) for moment in got.other_readings],
            not_kept=None if got.not_kept is None else _moment(got.not_kept),
            kept_by=self.volume.policy_keeper.kept_by(got.resolved, got.next))

    def bookmark(self, name: str, at: str = "now", keep_ns: int | None = None) -> BookmarkView:
        return _bookmark(self.volume.bookmark(name, at=at, keep_ns=keep_ns))

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

    def clients(self) -> list[ClientView]:
        return self.connected()

    def restore(self, point: str, offset: int | None = None, length: int | None = None, destructive: bool = False,
                dry_run: bool = False, force: bool = False) -> RestoreView:
        """`force`: also while clients are connected that may write."""
        if not (dry_run or force):
            refuse_under_clients(self.volume.path, self.connected)
        done = self.volume.restore(point, offset=offset, length=length, destructive=destructive, dry_run=dry_run)
        return _restore(done, dry_run)

    def undo(self, dry_run: bool = False, force: bool = False) -> RestoreView:
        """`force`: as for restore()."""
        if not (dry_run or force):
            refuse_under_clients(self.volume.path, self.connected)
        return _restore(self.volume.undo(dry_run=dry_run), dry_run)

    def events(self, since: int | None = None, stream: str | None = None, limit: int = 100) -> EventsPage:
        """At most `limit` (1..MAX_PAGE_EVENTS) events after `since`, of what is kept; None: none, but the place."""
        if not 1 <= limit <= MAX_PAGE_EVENTS:
            raise InvalidRequest(f"limit {limit} is out of range", f"write 1 .. {MAX_PAGE_EVENTS}")
        kept = self.volume._store.events
        with kept.watch(since, stream=stream) as watch:
            found = list(itertools.islice(iter(lambda: watch.get(0), None), limit))
            name, number = watch.place()
        return EventsPage(stream=name, since=number, events=[EventView(
            number=e.number, stream=e.stream, ts_ns=e.ts_ns, time=utc(e.ts_ns), kind=e.kind, text=e.text,
            details=dict(e.details)) for e in found])

    def archived(self, url: str, seq: int, ts_ns: int) -> None:
        """Who keeps an archive says how far that has come."""
        self.copies.made("archive", url, seq, ts_ns)
        self.volume._store.events.publish("archived", f"{url} has all up to #{seq}", url=url, seq=seq, ts_ns=ts_ns)

    def backed_up(self, folder: str, seq: int, ts_ns: int) -> None:
        """Who made a backup says how far that has come."""
        self.copies.made("backup", folder, seq, ts_ns)
        self.volume._store.events.publish("backed_up", f"{folder} has all up to #{seq}", folder=folder, seq=seq,
                                          ts_ns=ts_ns)

    def detach_standby(self) -> StandbyDetachedView:
        """The volume has no standby from now on: its connection ends, and another one may come."""
        if self.forget_standby is not None:
            return StandbyDetachedView(id=self.forget_standby() or None)
        store = self.volume._store
        state = standby_file.load(store.os, store.files)
        if state.id:
            standby_file.save(store.os, store.files, state.alone())
        return StandbyDetachedView(id=state.id or None)

    def restores(self) -> list[RestoreView]:
        return [_restore(done, False) for done in self.volume.restores()]

    def pins(self) -> list[PinView]:
        return [retention.pin_view(pin) for pin in self.volume.pins()]

    def policy(self) -> PolicyView:
        return retention.policy_view(self.volume)

    def set_policy(self, policy: str | None, yes: bool = False) -> PolicyView:
        """`policy`: TOML; None: keep everything. `yes`: also where more than a tenth of the history would go."""
        return retention.set_policy(self.volume, policy, yes)

    def simulate(self, policy: str | None = None) -> PlanView:
        """What a policy (TOML; None: the volume's own) keeps now, and what it would free."""
        return retention.simulate(self.volume, policy)

    def prune(self, dry_run: bool = False) -> PruneView:
        """Apply the policy now."""
        return retention.prune(self.volume, dry_run)

    def space(self) -> SpaceView:
        return retention.space_view(self.volume)

    def seal(self) -> SealedView:
        """Put everything so far into sealed segments. Raises Busy while a restore is being written back to a protected
        disk: until that ends, the disk holds neither what was there nor what is shown."""
        store = self.volume._store
        last = store.seal()
        if last is None:
            return SealedView(upto=None)
        for row in store.restores:
            if row.seq <= last.last_seq and not 0 < store.done_seq(row.seq) <= last.last_seq:
                raise Busy(f"{self.volume.path}: restore #{row.seq} is being written back to the disk",
                           "repeat this when 'cdp info' shows that it is done")
        return SealedView(upto=_time(last.last_seq, last.last_ts_ns))

    def segments(self, after: int = 0, limit: int = 1000) -> SegmentsPage:
        """At most `limit` (1..MAX_PAGE_RECORDS) sealed segments with a number above `after`."""
        if not 1 <= limit <= MAX_PAGE_RECORDS:
            raise InvalidRequest(f"limit {limit} is out of range", f"write 1 .. {MAX_PAGE_RECORDS}")
        rows = [row for row in self.volume._store.timeline.rows() if row.number > after]
        page = [SegmentView(number=r.number, first_seq=r.first_seq, last_seq=r.last_seq, first_ts_ns=r.first_ts_ns,
                            last_ts_ns=r.last_ts_ns, file_bytes=r.file_bytes) for r in rows[:limit]]
        return SegmentsPage(segments=page, next=page[-1]["number"] if len(rows) > limit else None)

    def records(self, since: str | None = None, until: str = "now", limit: int = 1000) -> RecordsPage:
        """At most `limit` (1..MAX_PAGE_RECORDS) records after `since`, up to and including `until`."""
        if not 1 <= limit <= MAX_PAGE_RECORDS:
            raise InvalidRequest(f"limit {limit} is out of range", f"write 1 .. {MAX_PAGE_RECORDS}")
        from cdp.moments.records import FUA, KIND_NAMES, META

        array = self.volume.records(since=since, until=until, limit=limit + 1)
        records = [
            RecordView(seq=seq, ts_ns=ts_ns, time=utc(ts_ns), kind=KIND_NAMES.get(kind, str(kind)),
                       fua=bool(flags & FUA), meta=bool(flags & META), offset=offset, length=length)
            for seq, ts_ns, kind, flags, offset, length in array[:limit].tolist()]
        return RecordsPage(records=records, next=f"#{records[-1]['seq']}" if len(array) > limit else None)

    def history(self, since: str | None = None, until: str = "now", limit: int = MAX_PAGE_ROWS, kinds: str = "",
                offset: int | None = None, length: int | None = None) -> tuple[bytes, str | None]:
        """As records(), packed (cdp.moments.records.RECORD, 34 bytes each), at most `limit` (1..MAX_PAGE_ROWS) of them,
        and the point to give as `since` for more, None at the end. Only of `kinds` (names, with commas), only what
        overlaps [offset, offset + length)."""
        if not 1 <= limit <= MAX_PAGE_ROWS:
            raise InvalidRequest(f"limit {limit} is out of range", f"write 1 .. {MAX_PAGE_ROWS}")
        if (offset is None) != (length is None):
            raise InvalidRequest("a range has an offset and a length", "give both or neither")
        from cdp.moments.records import matching

        names = tuple(filter(None, kinds.split(",")))
        within = (offset, length) if offset is not None and length is not None else None
        found: list[bytes] = []
        left, last = limit, 0
        for batch in self.volume.iter_records(since, until):
            rows = matching(batch, names, within)
            if len(rows) and not left:
                return b"".join(found), f"#{last}"
            if len(rows):
                found.append(rows[:left].tobytes())
                last = int(rows["seq"][:left][-1])
                if len(rows) > left:
                    return b"".join(found), f"#{last}"
                left -= len(rows)
        return b"".join(found), None

    def versions(self, offset: int, length: int, since: str | None = None, until: str = "now",
                 limit: int = 1000) -> VersionsPage:
        """At most `limit` (1..MAX_PAGE_RECORDS) versions of [offset, offset + length) after `since`."""
        return finding.versions(self.volume, offset, length, since, until, limit)

    def diff(self, a: str, b: str = "now", offset: int = 0, length: int | None = None, compared: bool = True,
             limit: int = MAX_PAGE_EXTENTS) -> DiffPage:
        """At most `limit` (1..MAX_PAGE_EXTENTS) ranges of [offset, offset + length) that differ between a and b; not
        `compared`: that were written between them."""
        return finding.diff(self.volume, a, b, offset, length, compared, limit)

    def activity(self, since: str | None = None, until: str = "now", by_ns: int | None = None,
                 places: bool = False) -> ActivityView:
        """What was done, by time and, with `places`, by place: at most MAX_PLACED_INTERVALS then."""
        return finding.activity(self.volume, since, until, by_ns, places)

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

        began_ns = time.time_ns()
        report = check_open(self.volume, progress=progress)
        if self.care:
            self.care.scrub.checked(began_ns, report.bytes_read, [(p.where, p.what, p.hint) for p in report.problems])
        return report_view(report)


def refuse_under_clients(path: str, connected: Callable[[], list[ClientView]]) -> None:
    """Raises Busy while clients are connected that may write. One that has just hung up is given a moment."""
    until_s = time.monotonic() + HUNG_UP_S
    while found := [client for client in connected() if not client["read_only"]]:
        if time.monotonic() >= until_s:
            raise Busy(f"{path}: {clients_text(found)}; what a client has cached does not fit what it would read then, "
                       "and a mounted file system is damaged by that",
                       "unmount, or end the client, or let --wait 30s wait for that; --force is for clients that "
                       "cache nothing")
        time.sleep(HUNG_UP_S / 10)


def clients_text(clients: list[ClientView]) -> str:
    """Which clients are connected that may write, in words."""
    named = []
    for client in clients[:3]:
        wrote = client["written_bytes"]
        since = "" if wrote is None else f", {approx_size(wrote)} written"
        named.append(f"connection {client['connection']} ({client['who'] or 'unknown'}{since})")
    more = f" and {len(clients) - 3} more" if len(clients) > 3 else ""
    what = "a client that may write is" if len(clients) == 1 else f"{len(clients)} clients that may write are"
    return f"{what} connected: {', '.join(named)}{more}"


def report_view(report: "Report") -> CheckView:
    problems = [ProblemView(where=str(p.where), what=p.what, hint=p.hint) for p in report.problems]
    return CheckView(ok=report.ok, problems=problems, segments=report.segments, frames=report.frames,
                     records=report.records, runs=report.runs, bytes_read=report.bytes_read)


def _piece(length: int) -> None:
    if not 0 <= length <= MAX_PIECE_BYTES:
        raise InvalidRequest(f"{length} bytes in one piece", f"ask for at most {MAX_PIECE_BYTES}")


def _moment(moment: "Moment") -> MomentView:
    return _time(int(moment.seq), int(moment.ts_ns))


def _time(seq: int, ts_ns: int) -> MomentView:
    return MomentView(seq=seq, ts_ns=ts_ns, time=utc(ts_ns))


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
