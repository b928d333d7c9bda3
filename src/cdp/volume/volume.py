"""A volume and its time images: the public API, a thin shell over the store and the core.

Reads and writes go straight to cdpcore.volume.core.VolumeCore, which drops the GIL; everything else (bookmarks, images, restores)
is rare, serialised by one lock, and durable when it returns.
"""
from __future__ import annotations

import dataclasses
import logging
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from cdp.moments import lineage, points
from cdp.moments.model import Bookmark, Explanation, Extent, ImageInfo, Moment, Restore, Window
from cdp.moments.points import PointLike
from cdp.settings import Settings, checked
from cdp.store import creation, layout
from cdp.store.base_image import Base, import_base
from cdp.store.catalog import BookmarkRow, CatalogFactory, RestoreRow, lmdb_catalog, lmdb_catalog_to_read
from cdp.store.description import Geometry
from cdp.store.reclaim import reclaim
from cdp.store.records import BOOKMARK, DESTRUCTIVE, RESTORE, RESTORE_DATA, UNBOOKMARK, UNDO_DATA, Event
from cdp.store.store import Store
from cdp.store.timeline import RECORD
from cdp.store.tuning import Tuning
from cdp.text.paths import absolute
from cdp.text.timestamps import utc
from cdp.volume.buffers import byte_count, bytes_of, extents_of
from cdp.volume.time_image import TimeImage
from cdp.volume.writable_images import Images
from cdp.volume.writeback import WriteBack
from cdpcore.base.errors import (
    Busy,
    Closed,
    Corruption,
    InvalidRequest,
    NotFound,
    OutOfSpace,
    RefusedPoint,
    Unavailable,
)
from cdpcore.index.view import View
from cdpcore.system.os import Os, posix
from cdpcore.volume.volume_target import Target

log = logging.getLogger("cdp.volume")


def create(path: str | Path, *, size: int | None = None, disk: str | Path | None = None, settings: Settings | None = None,
           base: Base | None = None, image_format: str | None = None) -> Volume:
    """Make a volume in the folder `path`, which must not exist, and open it: of `size` bytes (a multiple of 512, up to 64 PiB), or
    of before-images, to protect the raw file or block device `disk` in place.

    Nothing is allocated up front but 1 MiB, an emergency reserve for a full disk. `base`: the content as #0
    (cdp.store.base_image.Base); the volume is there with it or not at all. Of a `disk` nothing is copied; it stays a
    plain raw disk with the current content, and must not be written by others while the volume is open. A qcow2 image
    or another container is refused as `disk`; `image_format` "raw" says that its own bytes are meant. Raises
    InvalidRequest, NotFound (no parent folder, no disk), Busy (it is being made, or another volume has the disk open),
    OutOfSpace.
    """
    if (size is None) == (disk is None) or base is not None and disk is not None:
        raise InvalidRequest("a volume has a size, or the disk that it protects", "give either size= or disk=")
    creation.create(absolute(path, len(layout.CREATING)), size or 0, Tuning.from_settings(checked(settings)), base=base,
                    disk=str(Path(absolute(disk)).resolve()) if disk is not None else "", image_format=image_format)
    return Volume(path, settings=settings)


def open(path: str | Path, *, settings: Settings | None = None, read_only: bool = False) -> Volume:
    """Open the volume in the folder `path`; also a writable image, VOLUME/images/NAME, whose parent is opened with it.

    Recovers after a crash, in a time bounded by the segment size. `read_only`: writes nothing, for instance on a medium that cannot be
    written; what would change the volume raises Unavailable, and so does opening one that must be recovered first.
    Raises NotFound, Busy (another process has it), Corruption, Unavailable.
    """
    return Volume(path, settings=settings, read_only=read_only)


class Volume:
    """One protected virtual disk, open. A context manager; every method may be called from any thread. After close(), and
    in a child that was forked, all methods raise Closed."""

    def __init__(self, path: str | Path, *, settings: Settings | None = None, read_only: bool = False,
                 _tuning: Tuning | None = None, _os: Os | None = None, _catalog: CatalogFactory = lmdb_catalog,
                 _parent: Volume | None = None):
        self.path = absolute(path)
        self.name = Path(self.path).name
        self.settings = checked(settings)
        self.read_only = read_only
        if read_only and _catalog is lmdb_catalog:
            _catalog = lmdb_catalog_to_read
        tuning = _tuning or Tuning.from_settings(self.settings)
        self._lock = threading.RLock()          # bookmarks, images, restores, closing
        self._views: weakref.WeakKeyDictionary[View, Moment] = weakref.WeakKeyDictionary()   # what is being read
        self._references = 1
        self._parent = _parent or self._open_parent(tuning, _os, _catalog)
        try:
            above = self._parent._store if self._parent else None
            self._store: Store = Store(self.path, tuning, os=_os, catalog=_catalog, parent=above, read_only=read_only)
        except BaseException:
            if self._parent:
                self._parent.close()
            raise
        if self._parent and self._store.parent is None:     # a volume of its own that only lies in such a folder
            self._parent.close()
            self._parent = None
        self._core = self._store.core
        self.size_bytes: int = self._store.geometry.size_bytes
        self.uuid: str = self._store.geometry.uuid
        self.created_ns: int = self._store.geometry.created_ns
        try:
            self._images = Images(self, tuning, _os, _catalog)
            self.writeback: WriteBack | None = WriteBack(self) if self._store.geometry.before and not read_only else None
            if not read_only:
                self._finish_reclaims()
        except BaseException:
            self._store.close()
            if self._parent:
                self._parent.close()
            raise
        self._store.maintainer.upkeep = weakref.WeakMethod(self._upkeep)

    def _open_parent(self, tuning: Tuning, os: Os | None, catalog: CatalogFactory) -> Volume | None:
        """VOLUME/images/NAME: open VOLUME too."""
        folder = Path(self.path).resolve().parent
        if folder.name != "images" or not (os or posix()).exists(f"{folder.parent}/volume.json"):
            return None
        return Volume(folder.parent, settings=self.settings, read_only=self.read_only, _tuning=tuning, _os=os, _catalog=catalog)

    @property
    def parent(self) -> str | None:
        """Path of the volume that this image was made from; None for a volume."""
        return self._parent.path if self._parent else None

    @property
    def closed(self) -> bool:
        return bool(self._core.closed)

    def _alive(self) -> None:
        if self._core.closed:
            raise Closed(f"{self.path}: the volume is closed")

    def _writable(self) -> None:
        self._alive()
        if self.read_only:
            raise Unavailable(f"{self.path}: the volume is open read-only", "open it where, and as a user by whom, it can be written")

    # --- content -------------------------------------------------------------------------------------------------------

    def pread(self, length: int, offset: int) -> bytes:
        """`length` bytes from byte `offset`: a copy of the current content, as of one moment up to 32 MiB."""
        out = bytearray(byte_count(length, self.size_bytes))
        self._core.pread_into(out, byte_count(offset))
        return bytes(out)

    def pread_into(self, buffer: Any, offset: int) -> None:
        """Fill a writable contiguous buffer (bytearray, memoryview, numpy array) from byte `offset`, without copies."""
        self._core.pread_into(bytes_of(buffer, fill=True), byte_count(offset))

    def pwrite(self, buffer: Any, offset: int, fua: bool = False) -> None:
        """Write a contiguous buffer at byte `offset`; one record up to max_request_bytes (32 MiB by default), several
        beyond. `fua`: durable at return. Not `fua`: durable after flush()."""
        self._core.pwrite(bytes_of(buffer), byte_count(offset), fua)
        self._store.settle()

    def trim(self, length: int, offset: int, fua: bool = False) -> None:
        """The range reads as zeros and is a hole. What it held stays in the history."""
        self._core.pzero(byte_count(length), byte_count(offset), True, fua)
        self._store.settle()

    def zero(self, length: int, offset: int, fua: bool = False) -> None:
        """The range reads as zeros and counts as allocated; no data is logged."""
        self._core.pzero(byte_count(length), byte_count(offset), False, fua)
        self._store.settle()

    def flush(self) -> None:
        """Everything acknowledged before this call is durable when it returns."""
        self._core.pflush()
        self._store.settle()

    def sync(self) -> None:
        """As flush(), but no record says so: for who keeps account of a history that is not made here."""
        self._alive()
        self._store.log.sync_all()

    def extents(self, offset: int = 0, length: int | None = None, at: PointLike | None = None) -> Iterator[Extent]:
        """Adjacent extents of [offset, offset + length), in order; of the current content, or as of `at`."""
        view = None if at is None else self._view(at)[1]
        return extents_of(self._core, view, self.size_bytes, offset, length)

    def target(self) -> Any:
        """PyCapsule "cdpcore.target" of the current content, for front ends in C or Cython (c/target.h)."""
        self._alive()
        return Target(self._core).capsule()

    # --- moments -------------------------------------------------------------------------------------------------------

    def window(self) -> Window:
        """Which moments can be opened."""
        self._alive()
        with self._lock:
            m = self._store.timeline.moment
            return Window(Moment(0, self.created_ns), Moment(*self._core.position()),
                          [(m(lo), m(hi)) for lo, hi in self._store.gaps()])

    def resolve(self, point: PointLike) -> Moment:
        """The moment that a point names: for a time, the last record at or before it. Raises RefusedPoint outside the window."""
        return self._resolve(point)[1]

    def _resolve(self, point: PointLike) -> tuple[points.Point, Moment]:
        self._alive()
        now_ns = self._store.os.now_ns()
        parsed = points.parse(point, now_ns)
        newest = Moment(*self._core.position())
        if parsed.kind == "now":
            return parsed, newest
        if parsed.kind == "bookmark":
            found = next((b for b in self.bookmarks() if b.name == parsed.name), None)
            if found is None:
                raise NotFound(f"{self.path}: no bookmark {parsed.name!r}",
                               f"'cdp bookmarks' lists them; otherwise {points.other_than_name(parsed)}")
            return parsed, found.at
        if parsed.kind == "seq":
            assert parsed.seq is not None
            if parsed.seq > newest.seq:
                raise self._refuse(parsed, "is after the newest moment")
            self._check_gap(parsed, parsed.seq)
            return parsed, self._store.timeline.moment(parsed.seq)
        assert parsed.ts_ns is not None
        if points.valid_name(parsed.text) and any(b.name == parsed.text for b in self.bookmarks()):
            raise InvalidRequest(f"{self.path}: {parsed.text!r} is a time, and a bookmark is called so",
                                 f"write @{parsed.text} for the bookmark, or {utc(parsed.ts_ns)} for the time")
        if parsed.ts_ns < self.created_ns:
            raise self._refuse(parsed, "is before the oldest moment")
        if parsed.ts_ns > max(now_ns, newest.ts_ns):
            raise self._refuse(parsed, "is in the future")
        for r in self._store.restores:
            if r.destructive and r.target_ts_ns < parsed.ts_ns < r.ts_ns:
                raise self._refuse(parsed, "is in history that a destructive restore freed")
        moment = self._store.timeline.at_time(parsed.ts_ns)
        self._check_gap(parsed, moment.seq)
        return parsed, moment

    def _check_gap(self, parsed: points.Point, seq: int) -> None:
        if lineage.freed(seq, self._store.gaps()):
            raise self._refuse(parsed, "is in history that a destructive restore freed")

    def _refuse(self, parsed: points.Point, why: str) -> RefusedPoint:
        w = self.window()
        near = [w.oldest, *(m for gap in w.gaps for m in gap), w.newest]
        if parsed.seq is not None:
            best = sorted(near, key=lambda m: abs(m.seq - (parsed.seq or 0)))[:2]
        else:
            best = sorted(near, key=lambda m: abs(m.ts_ns - (parsed.ts_ns or 0)))[:2]
        text = " or ".join(f"#{m.seq} ({utc(m.ts_ns)})" for m in sorted(set(best), key=lambda m: m.seq))
        return RefusedPoint(f"{self.path}: {parsed.text} {why}: the window is {utc(w.oldest.ts_ns)} (#0) to "
                            f"{utc(w.newest.ts_ns)} (#{w.newest.seq})", f"nearest valid: {text}")

    def explain(self, point: PointLike) -> Explanation:
        """How a point is resolved: which record, which comes next, and whether it was flush-durable (every write that the
        point shows had been followed by a flush)."""
        parsed, at = self._resolve(point)
        timeline = self._store.timeline
        newest = self._core.position()[0]
        following = timeline.moment(at.seq + 1) if at.seq < newest and not lineage.freed(at.seq + 1, self._store.gaps()) else None
        flushed = timeline.last_flush(at.seq)
        if lineage.freed(flushed, self._store.gaps()):
            flushed = 0
        durable = at.seq == 0 or flushed == at.seq or not self._changes_between(flushed, at.seq)
        note = "the base, before the first write" if at.seq == 0 else "the last record at or before the point"
        if not durable:
            note += "; writes after the last flush are shown, as a disk that loses power might not have kept them"
        return Explanation(parsed.text, parsed.kind, parsed.ts_ns, at, following, durable,
                           timeline.moment(flushed) if flushed else None, note)

    def _changes_between(self, after: int, upto: int) -> bool:
        return any(bool((batch["kind"] <= 3).any()) for batch in self._store.timeline.records(after, upto))

    def at(self, point: PointLike) -> TimeImage:
        """Open the moment as a read-only time image: nothing is copied, and it stays what it is while the volume goes on."""
        return TimeImage(self, *self._view(point))

    def _view(self, point: PointLike) -> tuple[Moment, View]:
        """A moment and its view; while the view lives, no destructive restore frees what it shows."""
        with self._lock:
            moment = self.resolve(point)
            view = self._store.view_at(moment.seq)
            self._views[view] = moment
            return moment, view

    def records(self, since: PointLike = "#0", until: PointLike = "now", limit: int | None = None) -> Any:
        """The history after `since` up to and including `until`: a numpy array of RECORD (seq, ts_ns, kind, flags, offset,
        length), at most `limit` records. 34 bytes a record: use iter_records for a long history."""
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or limit < 0):
            raise InvalidRequest(f"limit {limit!r} is not a number of records", "give a whole number from 0 up")
        found: list[Any] = []
        count = 0
        for batch in self.iter_records(since, until):
            found.append(batch if limit is None else batch[: limit - count])
            count += len(found[-1])
            if limit is not None and count >= limit:
                break
        return np.concatenate(found) if found else np.empty(0, RECORD)

    def iter_records(self, since: PointLike = "#0", until: PointLike = "now") -> Iterator[Any]:
        """As records(), in batches of some ten thousand."""
        (asked_since, first), (asked_until, last) = self._resolve(since), self._resolve(until)
        times = asked_since.ts_ns, asked_until.ts_ns
        if first.seq > last.seq or times[0] is not None and times[1] is not None and times[0] > times[1]:
            raise InvalidRequest(f"records since {asked_since.text} until {asked_until.text}: the first is the later one",
                                 "exchange the two")
        return self._store.timeline.records(first.seq, last.seq)

    # --- bookmarks -----------------------------------------------------------------------------------------------------

    def bookmark(self, name: str, at: PointLike = "now") -> Bookmark:
        """Name a moment, durably. Raises InvalidRequest for a bad name or one that is taken."""
        self._writable()
        if not points.valid_new_name(name):
            raise InvalidRequest(f"bookmark name {name!r}", points.NAMES)
        with self._lock:
            if any(b.name == name for b in self.bookmarks()):
                raise InvalidRequest(f"{self.path}: bookmark {name!r} exists", "choose another name, or delete it first")
            moment = self.resolve(at)
            event = self._event(BOOKMARK, moment.seq, 0, struct.pack("<Q", moment.ts_ns) + name.encode())
            return Bookmark(name, moment, Moment(event.seq, event.ts_ns))

    def bookmarks(self) -> list[Bookmark]:
        """All bookmarks that can be opened, by the moment they name."""
        self._alive()
        gaps = self._store.gaps()
        rows: list[BookmarkRow] = self._store.catalog.rows(BookmarkRow)
        found = [Bookmark(r.name, Moment(r.at_seq, r.at_ts_ns), Moment(r.made_seq, r.made_ts_ns)) for r in rows
                 if not lineage.freed(r.at_seq, gaps)]
        return sorted(found, key=lambda b: (b.at.seq, b.name))

    def delete_bookmark(self, name: str) -> None:
        """Take a bookmark away; the moment itself stays openable."""
        self._writable()
        with self._lock:
            if not any(b.name == name for b in self.bookmarks()):
                raise NotFound(f"{self.path}: no bookmark {name!r}", "'cdp bookmarks' lists them")
            self._event(UNBOOKMARK, 0, 0, name.encode())

    def _event(self, kind: int, start: int, sectors: int, data: bytes) -> Event:
        self._core.freeze()
        try:
            seq, ts_ns = self._core.append_event(kind, start, sectors, data)
            event = Event(kind, seq, ts_ns, start, sectors, data)
            self._store.maintainer.remember(event)
        finally:
            self._core.thaw()
        return self._settle_event(event)

    def _settle_event(self, event: Event) -> Event:
        self._core.pflush()
        self._store.maintainer.note(event)
        self._store.settle()
        return event

    # --- writable images -----------------------------------------------------------------------------------------------

    def create_image(self, name: str, at: PointLike = "now") -> ImageInfo:
        """A writable image of a moment, with a history of its own; persistent until delete_image."""
        self._writable()
        with self._lock:
            return self._images.create(name, self.resolve(at))

    def images(self) -> list[ImageInfo]:
        """The writable images made from this volume, by name."""
        self._alive()
        with self._lock:
            return self._images.list()

    def open_image(self, name: str) -> Volume:
        """The image as a volume. One object per image; close() it as often as it was opened."""
        self._alive()
        with self._lock:
            return self._images.open(name)

    def delete_image(self, name: str) -> None:
        """Delete an image and its history, in one step. Raises Busy while it is open, RefusedPoint while images of it exist."""
        self._writable()
        with self._lock:
            self._images.delete(name)

    # --- restore -------------------------------------------------------------------------------------------------------

    def restore(self, point: PointLike, *, offset: int | None = None, length: int | None = None, destructive: bool = False,
                dry_run: bool = False) -> Restore:
        """Put the volume, or the byte range, back to a moment, in constant time and under I/O.

        Not destructive: a record like any other; all history stays, undo() takes it back. Destructive: what came after the
        moment is freed and can no longer be opened. Offset and length are multiples of 512.
        Raises RefusedPoint where an image or bookmark needs what would be freed.
        """
        start = 0 if offset is None else byte_count(offset)
        size = self.size_bytes - start if length is None else byte_count(length)
        if start % 512 or size % 512 or size == 0 or start + size > self.size_bytes:
            raise InvalidRequest(f"restore of {size} bytes at {start}",
                                 f"give a range of 512-byte sectors inside the volume's {self.size_bytes} bytes")
        with self._lock:
            return self._restore(self.resolve(point), start, size, destructive, None, dry_run)

    def undo(self, dry_run: bool = False) -> Restore:
        """Take back the last restore that is not taken back yet: a restore to the moment just before it. Writes made since are
        hidden as well (and still in the history)."""
        with self._lock:
            last = next((r for r in reversed(self.restores()) if r.undoable), None)
            if last is None:
                raise RefusedPoint(f"{self.path}: no restore to undo", "'cdp restores' lists them")
            return self._restore(self.resolve(last.seq - 1), last.offset, last.length, False, last.seq, dry_run)

    def restores(self) -> list[Restore]:
        """All restores, oldest first."""
        self._alive()
        rows = self._store.restores
        undone = {r.undo_of for r in rows if r.undo_of}
        gaps = self._store.gaps()
        return [Restore(r.seq, r.ts_ns, Moment(r.target_seq, r.target_ts_ns), r.start * 512, (r.end - r.start) * 512, r.destructive,
                        r.undo_of or None,
                        not r.destructive and not r.undo_of and r.seq not in undone and not lineage.freed(r.seq - 1, gaps)
                        and not lineage.freed(r.seq, gaps))
                for r in rows]

    def _restore(self, target: Moment, offset: int, length: int, destructive: bool, undo_of: int | None, dry_run: bool) -> Restore:
        if not dry_run:
            self._writable()
        s = self._store
        if self.writeback is not None:
            self.writeback.check_may_begin(target, destructive)
        kept, bound = sum(not r.undo_of for r in s.restores), s.tuning.max_restores
        if undo_of is None and kept >= bound:       # a restore is undone once at most, so there are twice as many in all
            raise OutOfSpace(f"{self.path}: {kept} restores are kept, which is the bound; undo still works",
                             f"raise max_restores, for instance: --set max_restores={min(2 * bound, 1 << 20)}")
        if destructive:
            self._check_nothing_needed(target)
        start, end = offset // 512, (offset + length) // 512
        if dry_run:
            return Restore(0, s.os.now_ns(), target, offset, length, destructive, undo_of, not destructive and undo_of is None,
                           self._bytes_since(target.seq, offset, offset + length))
        data = (RESTORE_DATA.pack(target.seq, DESTRUCTIVE if destructive else 0, 0)
                + UNDO_DATA.pack(target.ts_ns, undo_of or 0, 0))
        # The view is worked out before the log is held: that takes long where many ranges were restored.
        records = [*s.lineage_records(), lineage.RestoreRecord(lineage.PENDING, 0, target.seq, start, end, destructive)]
        of = lineage.view if self.writeback is None else lineage.view_before
        view = View(of(lineage.NOW, records, s.sectors))
        self._core.freeze()     # the lineage changes together with its record, between two writes
        try:
            seq, ts_ns = self._core.append_event(RESTORE, start, end - start, data, view, destructive)
            if self.writeback is not None:
                self.writeback.shown(destructive)
            row = RestoreRow(seq, ts_ns, target.seq, target.ts_ns, start, end, destructive, undo_of or 0)
            s.restores = [*s.restores, row]
            event = Event(RESTORE, seq, ts_ns, start, end - start, data)
            s.maintainer.remember(event)
        finally:
            self._core.thaw()
        if undo_of is None and kept + 1 >= bound - bound // 10:
            log.warning("%s: %d restores are kept, %d is the bound: raise max_restores in time", self.path, kept + 1, bound)
        try:
            self._settle_event(event)
        finally:        # it is shown, whether or not it is in the catalog yet: closing waits until it is on the disk
            if self.writeback is not None:
                self.writeback.begin()  # and frees, when it is done
        if self.writeback is None and destructive:
            self._reclaim(row, at_once=True)
            self._core.set_aside(seq)   # all of it is freed once the restore's own segment is sealed
            s.settle()
            self._reclaim(row)
        return Restore(seq, ts_ns, target, offset, length, destructive, undo_of, not destructive and undo_of is None)

    def _bytes_since(self, seq: int, start: int, end: int) -> int:
        """How much was written, zeroed and trimmed in a range after `seq`: what a restore to it would hide. Reads the
        descriptors of that history, about a million records a second."""
        total = 0
        for batch in self._store.timeline.records(seq, self._core.position()[0]):
            changes = batch[batch["kind"] <= 3]
            lo, hi = np.maximum(changes["offset"], start), np.minimum(changes["offset"] + changes["length"], end)
            total += int((hi - lo)[hi > lo].sum())
        return total

    def _check_nothing_needed(self, target: Moment) -> None:
        """What a destructive restore would free must not be in use."""
        for info in self._images.list():
            if info.at.seq > target.seq:
                raise RefusedPoint(f"{self.path}: image {info.name!r} shows #{info.at.seq}, which would be freed", "delete the image first")
        for bookmark in self.bookmarks():
            if bookmark.at.seq > target.seq:
                raise RefusedPoint(f"{self.path}: bookmark {bookmark.name!r} names #{bookmark.at.seq}, which would be freed",
                                   "delete the bookmark first")
        for moment in list(self._views.values()):
            if moment.seq > target.seq:
                raise Busy(f"{self.path}: a time image of #{moment.seq} is open", "close it (and what reads it) first")

    def _reclaim(self, row: RestoreRow, at_once: bool = False) -> None:
        s = self._store
        if self.writeback is not None and not self.writeback.may_free(row):
            return
        if not reclaim(s, row, at_once):
            return
        done = dataclasses.replace(row, reclaimed=True)
        with s.catalog.write() as txn:
            txn.put(done)
        s.restores = [done if r.seq == row.seq else r for r in s.restores]
        s.renew_reserve()

    def _finish_reclaims(self, at_once: bool = False) -> None:
        for row in self._store.restores:
            if row.destructive and not row.reclaimed:
                try:
                    self._reclaim(row, at_once)
                except Corruption as e:     # damage in what is to be freed must not close off the rest; tried again later
                    log.warning("space that restore #%d freed: %s", row.seq, e)

    def _upkeep(self) -> None:
        """From the maintenance thread, which must not wait for a restore that waits for it."""
        waiting = [r.seq for r in self._store.restores if r.destructive and not r.reclaimed]
        if waiting and self._lock.acquire(blocking=False):
            try:
                self._core.set_aside(waiting[-1])   # where it could not be before
                self._finish_reclaims()
            finally:
                self._lock.release()

    # --- filling the base ----------------------------------------------------------------------------------------------

    def import_base(self, read: Callable[[int, memoryview], None], extents: Iterable[tuple[int, int]],
                    progress: Callable[[int], None] | None = None, *, image_format: str | None = None) -> None:
        """Fill the base of a volume that has no records and no base yet: read(offset, view) is called for each piece of
        `extents` (offset, length in bytes); all else is a hole. The content becomes #0, all or nothing. Writes
        are refused meanwhile (Unavailable). A qcow2 image or another container is refused (InvalidRequest);
        `image_format` "raw" says that its own bytes are meant."""
        self._writable()
        with self._lock:
            import_base(self._store, Base(read, extents, progress, image_format))

    # --- life ----------------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counters: of this opening (writes, bytes_written, syncs ...) and of the store (records, segments, runs, bytes)."""
        self._alive()
        s = self._store
        runs = s.maintainer.runs
        rows = s.timeline.rows()
        core = self._core.stats()
        return {"records": self._core.position()[0], "segments": len(rows) + (core["open_log_bytes"] > 0), "runs": len(runs),
                "log_bytes": sum(r.file_bytes for r in rows) + core["open_log_bytes"], "index_bytes": sum(r.file_bytes for r in runs),
                "pool_bytes": s.pool.bytes, **core}

    def geometry(self) -> Geometry:
        return self._store.geometry

    def retain(self) -> Volume:
        """One more close() is needed."""
        self._alive()
        with self._lock:
            self._references += 1
        return self

    def retain_open(self) -> bool:
        """As retain(), but False where it is closed. A close() that is running is waited for."""
        with self._lock:
            if self._references == 0:
                return False
            self._references += 1
            return True

    def in_use(self) -> bool:
        """Whether its files are: a close() that is running is waited for."""
        with self._lock:
            return self._references > 0

    def close(self) -> None:
        """Flush, seal, let go. Idempotent; requests that are running end first."""
        parent: Volume | None = None
        try:
            with self._lock:
                if self._references != 1:
                    self._references = max(0, self._references - 1)
                    return
                self._images.check_closed()
                if self.writeback is not None:
                    self.writeback.finish()
                self._references, parent = 0, self._parent
                self._store.close()
        finally:
            # After our lock is free: who opens or deletes this image meanwhile holds the parent's lock and waits for ours.
            if parent is not None:
                parent.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<cdp.Volume {self.path} {'closed' if self.closed else f'{self.size_bytes} bytes, #{self._core.position()[0]}'}>"
