"""A volume and its time images: the public API, a thin shell over the store and the core.

Reads and writes go straight to cdpcore.volume.core.VolumeCore, which drops the GIL; everything else (bookmarks, images,
restores) is rare, serialised by one lock, and durable when it returns.
"""
from __future__ import annotations

import atexit
import logging
import numbers
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cdp.moments import model
from cdp.moments.events import Event, Watch
from cdp.moments.model import Bookmark, Explanation, Extent, Freed, Freeing, ImageInfo, Moment, Restore, Window
from cdp.moments.points import PointLike
from cdp.moments.policy import parse as parse_policy
from cdp.moments.policy import to_toml
from cdp.moments.records import DIFFERENCE, RECORD, VERSION
from cdp.moments.retention import Pin, Plan
from cdp.settings import Settings, checked
from cdp.store import creation
from cdp.store.base_image import Base
from cdp.store.catalog import CatalogFactory, lmdb_catalog, lmdb_catalog_to_read
from cdp.store.description import Geometry
from cdp.store.space import Usage, usage
from cdp.store.store import Store
from cdp.store.tuning import Tuning
from cdp.store.volume_files import CREATING, IMAGES, VolumeFiles
from cdp.text.paths import absolute
from cdp.volume.bookmarks import Bookmarks
from cdp.volume.buffers import byte_count, bytes_of, extents_of, keep, limited
from cdp.volume.policy_keeper import PolicyKeeper
from cdp.volume.reclaimer import Reclaimer
from cdp.volume.resolver import Resolver
from cdp.volume.restores import Restores
from cdp.volume.retention import Retention, both
from cdp.volume.thinning import Thinner
from cdp.volume.time_image import TimeImage
from cdp.volume.writable_images import Images
from cdp.volume.writeback import WriteBack
from cdpcore.base.errors import Closed, InvalidRequest, Unavailable
from cdpcore.base.workers import counters as worker_counters
from cdpcore.index.view import View
from cdpcore.system.os import Os, PosixOs, posix
from cdpcore.volume.volume_target import Target

log = logging.getLogger("cdp.volume")


def create(path: str | Path, *, size: int | None = None, disk: str | Path | None = None,
           settings: Settings | None = None, base: Base | None = None, image_format: str | None = None) -> Volume:
    """Make a volume in the folder `path`, which must not exist, and open it: of `size` bytes (a multiple of 512, up to
    64 PiB), or of before-images, to protect the raw file or block device `disk` in place.

    Nothing is allocated up front but 1 MiB, an emergency reserve for a full device. `base`: the content as #0
    (cdp.store.base_image.Base), which may give the size; the volume is there with it or not at all. Of a `disk` nothing
    is copied; it stays a plain raw disk with the current content, and must not be written by others while the volume is
    open. A qcow2 image or another container is refused as `disk`; `image_format` "raw" says that its own bytes are
    meant. Raises InvalidRequest, NotFound (no parent folder, no disk), Busy (it is being made, or another volume has
    the disk open), OutOfSpace.
    """
    later = base is not None and base.size_bytes is not None and size is None
    if (size is None and not later) == (disk is None) or base is not None and disk is not None:
        raise InvalidRequest("a volume has a size, or the disk that it protects", "give either size= or disk=")
    creation.create(absolute(path, len(CREATING)), size or 0, Tuning.from_settings(checked(settings)), base=base,
                    disk=str(Path(absolute(disk)).resolve()) if disk is not None else "", image_format=image_format)
    return Volume(path, settings=settings)


def open(path: str | Path, *, settings: Settings | None = None, read_only: bool = False) -> Volume:
    """Open the volume in the folder `path`; also a writable image, VOLUME/images/NAME, whose parent is opened with it.

    Recovers after a crash, in a time bounded by the segment size. `read_only`: writes nothing, for instance on a medium
    that cannot be written; what would change the volume raises Unavailable, and so does opening one that must be
    recovered first. Raises NotFound, Busy (another process has it), Corruption, Unavailable.
    """
    return Volume(path, settings=settings, read_only=read_only)


class Volume:
    """One protected virtual disk, open. A context manager; every method may be called from any thread. After close(),
    and in a child that was forked, all methods raise Closed. Closed with a ResourceWarning where nothing refers to it
    any more, and when the interpreter exits."""

    _references = 0     # how many close() are needed; before __init__ is through, none

    def __init__(self, path: str | Path, *, settings: Settings | None = None, read_only: bool = False,
                 _tuning: Tuning | None = None, _os: Os | None = None, _catalog: CatalogFactory = lmdb_catalog,
                 _parent: Volume | None = None):
        self.path = absolute(path)
        self.name = Path(self.path).name
        self.settings = checked(settings)
        self.read_only = read_only
        if read_only and _catalog is lmdb_catalog:
            _catalog = lmdb_catalog_to_read
        self._tuning, self._os, self._catalog = _tuning or Tuning.from_settings(self.settings), _os, _catalog
        self._lock = threading.RLock()          # bookmarks, images, restores, closing
        self._views: weakref.WeakKeyDictionary[View, Moment] = weakref.WeakKeyDictionary()   # what is being read
        self._parent = _parent or self._open_parent()
        try:
            above = self._parent._store if self._parent else None
            self._store: Store = Store(self.path, self._tuning, os=_os, catalog=_catalog, parent=above,
                                       read_only=read_only)
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
            self._assemble()
        except BaseException:
            self._store.close()
            if self._parent:
                self._parent.close()
            raise
        self._references = 1
        if isinstance(self._store.os, PosixOs):
            _OPEN.add(self)

    def _assemble(self) -> None:
        """The parts above the store. None of them refers to this object, nor does a thread, so that it can be
        collected."""
        store = self._store
        self._bookmarks = Bookmarks(store)
        self._resolver = Resolver(store, self._bookmarks, self._lock)
        self._images: Images[Volume] = Images(store, self._tuning)
        self._reclaimer = Reclaimer(store, self._lock, self._views, self._images.any_open)
        self.writeback: WriteBack | None = None
        written_back = store.kind.written_back()
        if written_back is not None:
            self.writeback = WriteBack(store, written_back, self._lock, self._reclaimer)
        self._restores = Restores(store, self._bookmarks, self._images, self._views, self._reclaimer, self.writeback)
        self._retention = Retention(store, self._lock, self._views, self._images, self._restores, self._resolver,
                                    self._reclaimer)
        retention = self._retention
        self._thinner = Thinner(store, self._lock, retention.folds_older)
        self.policy_keeper = PolicyKeeper(
            store, self._lock, self._bookmarks, self._images, self._restores, self._views,
            lambda seq, dry_run: retention.free_before(seq, False, dry_run), self._thinner)
        if not self.read_only:
            self._reclaimer.reclaim_all()
            store.maintainer.upkeep = both(self._retention.upkeep, self.policy_keeper.upkeep, self._thinner.step)

    def _open_parent(self) -> Volume | None:
        """VOLUME/images/NAME: open VOLUME too."""
        folder = Path(self.path).resolve().parent
        if folder.name != IMAGES or not (self._os or posix()).exists(VolumeFiles(str(folder.parent)).description):
            return None
        return Volume(folder.parent, settings=self.settings, read_only=self.read_only, _tuning=self._tuning,
                      _os=self._os, _catalog=self._catalog)

    def _open_image(self, path: str) -> Volume:
        return Volume(path, settings=self.settings, read_only=self.read_only, _tuning=self._tuning, _os=self._os,
                      _catalog=self._catalog, _parent=self.retain())

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
            raise Unavailable(f"{self.path}: the volume is open read-only",
                              "open it where, and as a user by whom, it can be written")

    # --- content ------------------------------------------------------------------------------------------------------

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
        self._store.step()

    def trim(self, length: int, offset: int, fua: bool = False) -> None:
        """The range reads as zeros and is a hole. What it held stays in the history."""
        self._core.pzero(byte_count(length), byte_count(offset), True, fua)
        self._store.step()

    def zero(self, length: int, offset: int, fua: bool = False) -> None:
        """The range reads as zeros and counts as allocated; no data is logged."""
        self._core.pzero(byte_count(length), byte_count(offset), False, fua)
        self._store.step()

    def flush(self) -> None:
        """Everything acknowledged before this call is durable when it returns."""
        self._store.flush()

    def sync(self) -> None:
        """As flush(), but no record says so: for who keeps account of a history that is not made here."""
        self._alive()
        self._store.log.sync_all()

    def extents(self, offset: int = 0, length: int | None = None, at: PointLike | None = None) -> Iterator[Extent]:
        """Adjacent extents of [offset, offset + length), in order; of the current content, or as of `at`."""
        view = None if at is None else self._view(at)[1]
        return extents_of(self._core, view, self.size_bytes, offset, length, self)

    def target(self) -> Any:
        """PyCapsule "cdpcore.target" of the current content, for front ends in C or Cython (cdpcore/base/target.h); it
        keeps the volume from being collected."""
        self._alive()
        return Target(self._core, None, self).capsule()

    # --- moments ------------------------------------------------------------------------------------------------------

    def window(self) -> Window:
        """Which moments can be opened."""
        self._alive()
        return self._resolver.window()

    def resolve(self, point: PointLike) -> Moment:
        """The moment that a point names: for a time, the last record at or before it. Raises RefusedPoint outside the
        window."""
        self._alive()
        return self._resolver.resolve(point)

    def explain(self, point: PointLike) -> Explanation:
        """How a point is resolved: which record, which comes next, and whether it was flush-durable (every write that
        the point shows had been followed by a flush)."""
        self._alive()
        return self._resolver.explain(point)

    def at(self, point: PointLike) -> TimeImage:
        """Open the moment as a read-only time image: nothing is copied, and it stays what it is while the volume goes
        on."""
        moment, view = self._view(point)
        return TimeImage(self._core, view, moment, self.path, self)

    def _view(self, point: PointLike) -> tuple[Moment, View]:
        """A moment and its view; while the view lives, no destructive restore frees what it shows."""
        with self._lock:
            moment = self.resolve(point)
            view = self._store.view_at(moment.seq)
            self._views[view] = moment
            return moment, view

    def records(self, since: PointLike | None = None, until: PointLike = "now", limit: int | None = None) -> Any:
        """The history after `since` (None: the oldest moment), up to and including `until`: a numpy array of RECORD
        (seq, ts_ns, kind, flags, offset, length), at most `limit` records. 34 bytes a record: use iter_records for a
        long history."""
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, numbers.Integral) or limit < 0):
            raise InvalidRequest(f"limit {limit!r} is not a number of records", "give a whole number from 0 up")
        import numpy as np  # late: half of the time that a short command takes
        found: list[Any] = []
        count = 0
        for batch in self.iter_records(since, until):
            found.append(batch if limit is None else batch[: limit - count])
            count += len(found[-1])
            if limit is not None and count >= limit:
                break
        return np.concatenate(found) if found else np.empty(0, RECORD)

    def iter_records(self, since: PointLike | None = None, until: PointLike = "now") -> Iterator[Any]:
        """As records(), in batches of some ten thousand."""
        self._alive()
        return keep(self, self._store.timeline.records(*self._resolver.span(since, until)))

    def history(self, offset: int, length: int = 4096, since: PointLike | None = None, until: PointLike = "now",
                limit: int | None = None) -> Any:
        """The versions of a byte range: a numpy array of VERSION (cdp.moments.records), one row for each record after
        `since` (None: the oldest moment), up to and including `until`, that changed some of it, and for each restore of
        it; in order, at most `limit`. From the index: it costs what it finds, not the length of the history. Of a
        writable image: its own records. Raises InvalidRequest outside the volume."""
        import numpy as np  # late: as above
        batches = self.iter_history(offset, length, since, until, limit)
        return np.concatenate([np.empty(0, VERSION), *batches])[:limit]

    def iter_history(self, offset: int, length: int = 4096, since: PointLike | None = None, until: PointLike = "now",
                     limit: int | None = None) -> Iterator[Any]:
        """As history(), in batches; perhaps a few more rows than `limit`."""
        self._alive()
        start = byte_count(offset, self.size_bytes)
        size = byte_count(min(length, self.size_bytes - start) if length == 4096 else length, self.size_bytes - start)
        after, upto = self._resolver.span(since, until)
        return keep(self, limited(changes().versions(self._store, start, size, after, upto, limit), limit))

    def diff(self, a: PointLike, b: PointLike = "now", offset: int = 0, length: int | None = None, *,
             compared: bool = True) -> Any:
        """What differs between two moments: a numpy array of DIFFERENCE (cdp.moments.records), the ranges of [offset,
        offset + length) whose content is not the same, in order, to the sector, by the kind that they have at `b`. Not
        `compared`: ranges that were written between them, perhaps with what was there. Costs what changed between the
        two, not the size of the volume; memory: 24 bytes a range, see iter_diff()."""
        import numpy as np  # late: as above
        return np.concatenate([np.empty(0, DIFFERENCE), *self.iter_diff(a, b, offset, length, compared=compared)])

    def iter_diff(self, a: PointLike, b: PointLike = "now", offset: int = 0, length: int | None = None, *,
                  compared: bool = True) -> Iterator[Any]:
        """As diff(), in batches of some ten thousand ranges. Both moments are held while it is read."""
        self._alive()
        start = byte_count(offset, self.size_bytes)
        size = self.size_bytes - start if length is None else byte_count(length, self.size_bytes - start)
        first, second = self._view(a)[1], self._view(b)[1]
        return keep(self, changes().differences(self._store, first, second, start, size, compared))

    def written_since(self, point: PointLike, image: TimeImage | None = None) -> tuple[Moment, Any]:
        """What was written since a moment, up to that of an open `image` of this volume or (None) up to now, as it
        comes: the moment, and a PyCapsule "cdpcore.map" for front ends (cdpcore/base/target.h). The moment is held as
        long as the capsule lives."""
        moment, view = self._view(point)
        return moment, changes().map_capsule(self._store, view, None if image is None else image.view(), self)

    def activity(self, since: PointLike | None = None, until: PointLike = "now", by_ns: int | None = None
                 ) -> model.Activity:
        """What was done, by time and by place, in whole intervals of by_ns (None: about a hundred; at most 10,000): the
        first has `since` in it (None: the oldest moment), the last `until`. From summaries that are kept with the log:
        it costs what it shows. What a restore took back counts, too. Of a writable image: its own records. Overwritten
        is exact up to 512 writes a segment, and estimated beyond (before-images: exact). Raises InvalidRequest."""
        self._alive()
        from cdp.volume.activity import activity  # late: NumPy, as above
        return activity(self._store, *self._resolver.times(since, until), by_ns, self._resolver.lived_ns())

    # --- bookmarks ----------------------------------------------------------------------------------------------------

    def bookmark(self, name: str, at: PointLike = "now", keep_ns: int | None = None) -> Bookmark:
        """Name a moment, durably. keep_ns: so long retention does not take it; None: what the policy says counts.
        Raises InvalidRequest for a bad name or one that is taken."""
        with self._lock:
            self._writable()
            self._bookmarks.check_name(name)
            moment = self.resolve(at)
            self.policy_keeper.pin_bookmark(name, keep_ns)
            return self._bookmarks.create(name, moment)

    def bookmarks(self) -> list[Bookmark]:
        """All bookmarks that can be opened, by the moment they name."""
        with self._lock:
            self._alive()
            return self._bookmarks.all()

    def delete_bookmark(self, name: str) -> None:
        """Delete a bookmark; the moment itself stays openable. Raises NotFound."""
        with self._lock:
            self._writable()
            self._bookmarks.delete(name)

    # --- writable images ----------------------------------------------------------------------------------------------

    def create_image(self, name: str, at: PointLike = "now") -> ImageInfo:
        """A writable image of a moment, with a history of its own; persistent until delete_image."""
        with self._lock:
            self._writable()
            return self._images.create(name, self.resolve(at))

    def images(self) -> list[ImageInfo]:
        """The writable images made from this volume, by name."""
        with self._lock:
            self._alive()
            return self._images.all()

    def open_image(self, name: str) -> Volume:
        """The image as a volume. One object per image; close() it as often as it was opened."""
        with self._lock:
            self._alive()
            return self._images.open(name, self._open_image)

    def delete_image(self, name: str) -> None:
        """Delete an image and its history, in one step. Raises Busy while it is open, RefusedPoint while images of it
        exist."""
        with self._lock:
            self._writable()
            self._images.delete(name)

    # --- restore ------------------------------------------------------------------------------------------------------

    def restore(self, point: PointLike, *, offset: int | None = None, length: int | None = None,
                destructive: bool = False, dry_run: bool = False) -> Restore:
        """Put the volume, or the byte range, back to a moment, in constant time and under I/O.

        Not destructive: a record like any other; all history stays, undo() takes it back. Destructive: what came after
        the moment is freed and can no longer be opened. Offset and length are multiples of 512. Raises RefusedPoint
        where an image or bookmark needs what would be freed.
        """
        start = 0 if offset is None else byte_count(offset)
        size = self.size_bytes - start if length is None else byte_count(length)
        if start % 512 or size % 512 or size == 0 or start + size > self.size_bytes:
            raise InvalidRequest(f"restore of {size} bytes at {start}",
                                 f"give a range of 512-byte sectors inside the volume's {self.size_bytes} bytes")
        with self._lock:
            return self._restore(self.resolve(point), start, size, destructive, None, dry_run)

    def undo(self, dry_run: bool = False) -> Restore:
        """Take back the last restore that is not taken back yet: a restore to the moment just before it. Writes made
        since are hidden as well (and still in the history)."""
        with self._lock:
            self._alive()
            last = self._restores.last_undoable()
            return self._restore(self.resolve(last.seq - 1), last.offset, last.length, False, last.seq, dry_run)

    def _restore(self, target: Moment, offset: int, length: int, destructive: bool, undo_of: int | None,
                 dry_run: bool) -> Restore:
        if dry_run:
            return self._restores.preview(target, offset, length, destructive, undo_of)
        self._writable()
        return self._restores.restore(target, offset, length, destructive, undo_of)

    def restores(self) -> list[Restore]:
        """All restores, oldest first."""
        self._alive()
        return self._restores.all()

    # --- what happens -------------------------------------------------------------------------------------------------

    def watch(self, since: Event | int | None = None, timeout_s: float | None = None, *,
              kinds: Iterable[str] | None = None) -> Watch:
        """What happens to it from now on, as an iterator of Event; after event `since` (a number, or an Event that was
        got; 0: from the oldest that is kept, of 1024). It ends when the volume is closed, or when nothing came for
        timeout_s (None: it waits). kinds: only these, and `lost`. Nothing waits for who watches: who is too slow gets
        an event `lost`. Raises InvalidRequest."""
        self._alive()
        return self._store.events.watch(since, timeout_s, kinds=kinds)

    # --- giving up history --------------------------------------------------------------------------------------------

    def free_before(self, seq: int, *, undo: bool = True, dry_run: bool = False) -> Freed:
        """Give up the oldest history: the last moment at or before record `seq` that can be the oldest one becomes it,
        at the end of a segment; what lies before can no longer be opened, durably, and is freed in the background. What
        is still needed or was promised is kept, and said: open time images, writable images, targets of restores,
        bookmarks that are pins, the floor of the policy, and, with `undo`, what undo() would show. `dry_run`: nothing
        is done. Raises InvalidRequest for a writable image."""
        with self._lock:
            self._writable()
            return self._retention.free_before(seq, undo, dry_run, self.policy_keeper.holds())

    def freeing(self) -> Freeing | None:
        """What free_before() gave up and is not freed yet; None: nothing."""
        self._alive()
        return self._retention.progress()

    # --- retention ----------------------------------------------------------------------------------------------------

    def policy(self) -> str | None:
        """The retention policy in TOML; None: everything is kept."""
        self._alive()
        policy = self.policy_keeper.policy
        return None if policy is None else to_toml(policy)

    def set_policy(self, policy: str | None) -> None:
        """The retention policy from now on, in TOML (docs/retention.md), durably; None: everything is kept. It is
        applied in the background, while the volume is open. Raises InvalidRequest for what is no policy or cannot be
        carried out."""
        with self._lock:
            self._writable()
            self.policy_keeper.set_policy(None if policy is None else parse_policy(policy))

    def prune(self, dry_run: bool = False) -> tuple[Plan, Freed]:
        """Apply the policy now: what it keeps, and what was given up; the space is freed in the background. Raises
        InvalidRequest without a policy."""
        with self._lock:
            if dry_run:
                self._alive()
            else:
                self._writable()
            return self.policy_keeper.run(dry_run)

    def pins(self) -> list[Pin]:
        """What keeps moments from being given up, by the moment."""
        with self._lock:
            self._alive()
            return self.policy_keeper.pins()

    def usage(self) -> Usage:
        """What its files take on the device."""
        self._alive()
        return usage(self._store)

    # --- filling the base ---------------------------------------------------------------------------------------------

    def import_base(self, read: Callable[[int, memoryview], None], extents: Iterable[tuple[int, int]],
                    progress: Callable[[int], None] | None = None, *, image_format: str | None = None) -> None:
        """Fill the base of a volume that has no records and no base yet: read(offset, view) is called for each piece of
        `extents` (offset, length in bytes); all else is a hole. The content becomes #0, all or nothing. Writes
        are refused meanwhile (Unavailable). A qcow2 image or another container is refused; `image_format` "raw" says
        that its own bytes are meant."""
        with self._lock:
            self._writable()
            self._store.import_base(Base(read, extents, progress, image_format))

    # --- life ---------------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counters: of this opening (writes, bytes_written, syncs ...) and of the store (records, segments, runs,
        bytes)."""
        self._alive()
        s = self._store
        runs = s.maintainer.runs
        rows = s.timeline.rows()
        core, freeing = self._core.stats(), self._retention.progress()
        space = s.space()
        return {"records": self._core.position()[0],
                "segments": len(rows) + (core["open_log_bytes"] > 0), "runs": len(runs),
                "log_bytes": sum(r.file_bytes for r in rows) + core["open_log_bytes"],
                "index_bytes": sum(r.file_bytes for r in runs), "pool_bytes": s.tuning.slot_bytes * s.tuning.n_slots,
                "memory_bytes": s.log.ring.bytes,
                "freeing_bytes": freeing.bytes_left if freeing else 0,
                "device_free_bytes": space.free_bytes if space else 0,
                "device_low": int(space is not None and space.state != "ok"), **core}

    def metrics(self, buckets: bool = False) -> dict[str, Any]:
        """Where the time of requests goes, since opening: histograms in ns of requests (read, write, flush) and of the
        stages that they go through, what reads were answered from, and what waits now. With `buckets` each histogram
        also has its buckets that are not empty, as [upper end, count], of which two calls show what came between them.
        A copy; not all of one moment. docs/architecture.md says what each name is."""
        self._alive()
        stats, workers = self.stats(), worker_counters()
        found = self._core.stages.describe(buckets)
        queues = {"frames_in_flight": stats["frames_in_flight"], "frames_waiting": stats["frames_waiting"],
                  "parked": found.pop("parked"), "workers_busy": workers["busy"], "workers_waiting": workers["jobs"],
                  "pending_bytes": stats.get("pending_bytes", 0)}
        return {**found, "queues": queues, "log_bytes": stats["log_bytes"],
                "log_bytes_written": stats["log_bytes_written"]}

    def geometry(self) -> Geometry:
        return self._store.geometry

    def retain(self) -> Volume:
        """One more close() is needed."""
        with self._lock:
            self._alive()
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

    @property
    def unclean(self) -> str:
        """After close(): why it could not do all that it should, which the next opening does; "" where it could."""
        return self._store.unclean

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
                self.policy_keeper.close()
                self._references, parent = 0, self._parent
                try:
                    self._store.close()
                finally:
                    self._retention.close()
        finally:
            # After our lock is free: who opens or deletes this image meanwhile holds the parent's lock and waits for
            # ours.
            if parent is not None:
                parent._store.events.publish("image_closed", f"image {self.name} was closed", image=self.name)
                parent.close()

    def __del__(self) -> None:
        # When Python ends, no thread runs that could be waited for; _close_all() was before that.
        if not sys.is_finalizing():
            self._close_unclosed()

    def _close_unclosed(self) -> None:
        """What the caller forgot."""
        if self._references == 0 or self._core.closed:
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:
            if self._store.is_own_thread():     # collected in a thread that close() waits for
                threading.Thread(target=self._close_at_once, name="cdp-close").start()
            else:
                self._close_at_once()

    def _close_at_once(self) -> None:
        self._references = 1
        try:
            self.close()
        except Exception as e:      # noqa: BLE001  (there is no caller)
            log.error("closing %s: %s", self.path, str(e))  # not e: who keeps the record would keep its frames alive

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.size_bytes} bytes, #{self._core.position()[0]}"
        return f"<cdp.Volume {self.path} {state}>"


def changes() -> Any:
    """cdp.volume.changes, which needs NumPy: imported when it is first used."""
    from cdp.volume import changes
    return changes


_OPEN: weakref.WeakSet[Volume] = weakref.WeakSet()


def _close_all() -> None:
    """At exit, while threads still run: what was acknowledged becomes durable, and nothing is left to recover."""
    # Images before their parents.
    for volume in sorted(_OPEN, key=lambda volume: volume.path.count("/"), reverse=True):
        volume._close_unclosed()


atexit.register(_close_all)
