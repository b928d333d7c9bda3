"""Restores: a record that changes what the current content is, and, where it is destructive, frees what came after its
target.

Threading: under the volume's lock; all() from any thread.
"""
from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from cdp.moments import lineage
from cdp.moments.model import Moment, Restore
from cdp.moments.records import RESTORE, changes_content
from cdp.store.catalog import RestoreRow
from cdp.store.records import restore_data
from cdp.store.store import Store
from cdp.volume.bookmarks import Bookmarks
from cdp.volume.buffers import extents_of
from cdp.volume.reclaimer import Reclaimer
from cdp.volume.writable_images import Images
from cdp.volume.writeback import WriteBack
from cdpcore.base.errors import Busy, OutOfSpace, RefusedPoint
from cdpcore.index.view import View

log = logging.getLogger("cdp.volume")
SECTOR_BYTES = 512


class Restores:
    """The restores of one open volume. views: what is being read; writeback: of before-images; None: of
    after-images."""

    def __init__(self, store: Store, bookmarks: Bookmarks, images: Images[Any], views: Mapping[View, Moment],
                 reclaimer: Reclaimer, writeback: WriteBack | None):
        self._store, self._bookmarks, self._images, self._views = store, bookmarks, images, views
        self._reclaimer, self._writeback = reclaimer, writeback
        self.last_took_s: float | None = None       # the last one of this opening, until it was shown, and durable

    def all(self) -> list[Restore]:
        """All restores, oldest first."""
        rows = [r for r in self._store.restores if r.seq > self._store.timeline.start.seq]
        undone = {r.undo_of for r in rows if r.undo_of}
        gaps = self._store.gaps()

        def undoable(r: RestoreRow) -> bool:
            return not (r.destructive or r.undo_of or r.seq in undone
                        or lineage.freed(r.seq - 1, gaps) or lineage.freed(r.seq, gaps))

        return [Restore(r.seq, r.ts_ns, Moment(r.target_seq, r.target_ts_ns), r.start * SECTOR_BYTES,
                        (r.end - r.start) * SECTOR_BYTES, r.destructive, r.undo_of or None, undoable(r)) for r in rows]

    def last_undoable(self) -> Restore:
        """Raises RefusedPoint where there is none."""
        last = next((r for r in reversed(self.all()) if r.undoable), None)
        if last is None:
            raise RefusedPoint(f"{self._store.directory}: no restore to undo", "'cdp restores' lists them")
        return last

    def preview(self, target: Moment, offset: int, length: int, destructive: bool, undo_of: int | None) -> Restore:
        """A restore as restore() would make it, with seq 0; nothing is changed. Raises what restore() would raise."""
        self._check(target, destructive, undo_of)
        self._check_known(target, offset, length)
        return Restore(0, self._store.os.now_ns(), target, offset, length, destructive, undo_of,
                       not destructive and undo_of is None,
                       self._changed_bytes_since(target.seq, offset, offset + length))

    def restore(self, target: Moment, offset: int, length: int, destructive: bool, undo_of: int | None) -> Restore:
        """Durable at return. undo_of: the restore that this one takes back. Raises Busy,
        OutOfSpace, RefusedPoint."""
        began_s = time.monotonic()
        self._check(target, destructive, undo_of)
        self._check_known(target, offset, length)
        store = self._store
        start, end = offset // SECTOR_BYTES, (offset + length) // SECTOR_BYTES
        data = restore_data(target.seq, target.ts_ns, destructive, undo_of or 0)
        # The view is worked out before the log is held: that takes long where many ranges were restored.
        pending = lineage.RestoreRecord(lineage.PENDING, 0, target.seq, start, end, destructive)
        view = store.view_with(pending)
        with store.frozen():    # the lineage changes together with its record, between two writes
            event = store.append_event(RESTORE, start, end - start, data, view, destructive)
            if self._writeback is not None:
                self._writeback.shown(destructive)
            row = RestoreRow(event.seq, event.ts_ns, target.seq, target.ts_ns, start, end, destructive, undo_of or 0)
            store.restores = [*store.restores, row]
        kept, bound = self._kept(), store.tuning.max_restores
        if undo_of is None and kept >= bound - bound // 10:
            log.warning("%s: %d restores are kept, %d is the bound: raise max_restores in time", store.directory, kept,
                        bound)
        try:
            store.finish_event(event)
        finally:        # it is shown, whether or not it is in the catalog yet: closing waits until it is on the disk
            if self._writeback is not None:
                self._writeback.begin()     # and frees, when it is done
        if self._writeback is None and destructive:
            self._reclaimer.reclaim(row, at_once=True)
            store.core.set_aside(row.seq)   # all of it is freed once the restore's own segment is sealed
            store.step()
            self._reclaimer.reclaim(row)
        self._publish(row, offset, length)
        self.last_took_s = time.monotonic() - began_s
        return Restore(row.seq, row.ts_ns, target, offset, length, destructive, undo_of,
                       not destructive and undo_of is None)

    def _publish(self, row: RestoreRow, offset: int, length: int) -> None:
        publish, target = self._store.events.publish, f"as of #{row.target_seq} from #{row.seq} on"
        if row.undo_of:
            publish("undone", f"restore #{row.undo_of} was taken back: {target}", seq=row.seq, undo_of=row.undo_of,
                    target_seq=row.target_seq, target_ts_ns=row.target_ts_ns, offset=offset, length=length)
        else:
            publish("restored", f"{'destructive restore' if row.destructive else 'restore'}: {target}", seq=row.seq,
                    target_seq=row.target_seq, target_ts_ns=row.target_ts_ns, offset=offset, length=length,
                    destructive=row.destructive)

    def _kept(self) -> int:
        """How many restores count against max_restores. One is undone once at most, so there are twice as many in
        all."""
        return sum(not r.undo_of for r in self._store.restores)

    def _check(self, target: Moment, destructive: bool, undo_of: int | None) -> None:
        if self._writeback is not None:
            self._writeback.check_may_begin(target, destructive)
        kept, bound = self._kept(), self._store.tuning.max_restores
        if undo_of is None and kept >= bound:
            raise OutOfSpace(f"{self._store.directory}: {kept} restores are kept, which is the bound; undo still works",
                             f"raise max_restores, for instance: --set max_restores={min(2 * bound, 1 << 20)}")
        if destructive:
            self._check_nothing_needed(target)

    def _check_known(self, target: Moment, offset: int, length: int) -> None:
        """What a restore shows is to be written to the disk: all of it must be known."""
        store = self._store
        if not store.geometry.may_lack_content:
            return
        size, view = store.geometry.size_bytes, store.view_at(target.seq)
        for extent in extents_of(store.core, view, size, offset, length, self):
            if extent.kind == "unknown":
                raise RefusedPoint(
                    f"{store.directory}: at #{target.seq}, bytes {extent.offset} to "
                    f"{extent.offset + extent.length - 1} are not known: the disk was changed outside cdp later, "
                    "before they were written again",
                    "restore what lies around them, with --range, or to another point")

    def _check_nothing_needed(self, target: Moment) -> None:
        """What a destructive restore would free must not be in use."""
        path = self._store.directory
        for image in self._images.all():
            if image.at.seq > target.seq:
                raise RefusedPoint(f"{path}: image {image.name!r} shows #{image.at.seq}, which would be freed",
                                   "delete the image first")
        for bookmark in self._bookmarks.all():
            if bookmark.at.seq > target.seq:
                raise RefusedPoint(f"{path}: bookmark {bookmark.name!r} names #{bookmark.at.seq}, which would be freed",
                                   "delete the bookmark first")
        for moment in list(self._views.values()):
            if moment.seq > target.seq:
                raise Busy(f"{path}: a time image of #{moment.seq} is open", "close it (and what reads it) first")

    def _changed_bytes_since(self, seq: int, start: int, end: int) -> int:
        """How much was written, zeroed and trimmed in a range after `seq`: what a restore to it would hide. Reads the
        descriptors of that history, about a million records a second."""
        total = 0
        for batch in self._store.timeline.records(seq, self._store.core.position()[0]):
            changes = batch[changes_content(batch["kind"])]
            lo = changes["offset"].clip(min=start)
            hi = (changes["offset"] + changes["length"]).clip(max=end)
            total += int((hi - lo)[hi > lo].sum())
        return total
