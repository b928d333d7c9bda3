"""Thinning: moments of the middle of the history are given up, and the data that only they show is freed.

    begin(moments)  a round: only these moments can be opened any more, up to the last of them; durably, before a byte
                    goes (cdp.store.thinned_file). One after the other: none begins before the last has freed all.
    step()          later, in the background: of a sealed segment, what no moment shows (cdp.store.unseen) is punched
                    out of the file.

What is begun is finished by the next opening: the list says where there is something to free, and to find and to free
it again does no harm. After-images.

Invariants
 1. No byte goes before the list is durable, nor while a read goes on that began before the list was in force.
 2. No round lets a moment go that a fold still reads (Retention.folds_older).
 3. A segment without its own table of checksums is left alone: of a record that is freed in part, its frames could not
    tell what is sound.

Threading: begin() under the volume's lock; step() by one thread at a time, which takes it itself.
"""
from __future__ import annotations

import bisect
import logging
import threading
from collections.abc import Callable, Sequence

from cdp.moments.thinned import Thinned
from cdp.store.catalog import Punched, Segment
from cdp.store.reclaim import READERS_MS
from cdp.store.store import Store
from cdp.store.unseen import unseen
from cdpcore.base.errors import Closed, Corruption, NotFound
from cdpcore.log.segment_file import SegmentFile

log = logging.getLogger("cdp.retention")
LATER_S = 0.05          # where the volume's lock is taken, or a read of before goes on
SAVED_SEGMENTS = 16     # so many may be looked at again after a crash


class Thinner:
    """Of one open volume. lock: the volume's; folds_older: whether a fold reads a moment that may go."""

    def __init__(self, store: Store, lock: threading.RLock, folds_older: Callable[[], bool]):
        self._store, self._lock, self._folds_older = store, lock, folds_older
        self._readers = False       # reads may go on that began before the list was in force
        self._working = False       # what who watches was told last
        self._unsaved = 0           # segments that are done, and the file does not say so
        if not store.read_only:
            store.more_work.append(self.step)

    def plan(self, moments: Sequence[int]) -> tuple[Thinned, int] | None:
        """The list after such a round, and how many records lie where moments go; None: no round can begin now.
        Raises InvalidRequest where there are too many moments."""
        if self._store.thinned.todo or len(moments) < 2:
            return None
        new = self._store.thinned.thinned_to(moments)
        return new, sum(hi - lo for lo, hi in new.todo)

    def begin(self, new: Thinned) -> bool:
        """A round, as planned. False: not now."""
        store = self._store
        if store.thinned.todo or not new.todo or self._folds_older():
            return False
        store.thin(new)
        store.core.versions.raise_floor(0)
        self._readers, self._unsaved = True, 0
        return True

    def _say(self) -> None:
        """To who watches: that a round goes on, once, also where this opening goes on with it, and that it is done."""
        store = self._store
        if bool(store.thinned.todo) != self._working:
            self._working = not self._working
            store.events.maintenance(self._working, "thinning", store.thinned.upto)

    @property
    def busy(self) -> bool:
        return bool(self._store.thinned.todo)

    def step(self) -> float | None:
        """Free what is to be freed of one segment. Returns the seconds until the next; None: nothing is left."""
        try:
            self._say()
            again_s = self._step()
            self._say()
            return again_s
        except Closed:
            return None

    def _step(self) -> float | None:
        store, thinned = self._store, self._store.thinned
        if not thinned.todo:
            return None
        if self._readers and not store.core.versions.readers_gone(READERS_MS):
            return LATER_S
        self._readers = False
        moments = thinned.kept[bisect.bisect_left(thinned.kept, store.timeline.start.seq):]
        row = next((row for row in store.timeline.rows()
                    if any(lo < row.last_seq and row.first_seq <= hi for lo, hi in thinned.todo)), None)
        punched = self._punch(row, moments) if row is not None and len(moments) > 1 else 0
        if not self._lock.acquire(blocking=False):      # whoever has it may be waiting for this thread
            return LATER_S
        try:
            self._note(row, punched)
            self._done(thinned.upto if row is None else row.last_seq)
        finally:
            self._lock.release()
        rate = store.tuning.maintenance_rate_bytes
        return punched / rate if rate else 0.0

    def _punch(self, row: Segment, moments: Sequence[int]) -> int:
        """How many bytes of it nothing shows; they are freed, where the file system can do that."""
        store, total = self._store, 0
        store.check_folder()
        try:
            segment = SegmentFile(store.os, store.files.segment(row.number), store.uuid, row.number, writable=True)
        except NotFound:        # a destructive restore freed it
            return 0
        try:
            if segment.has_table:
                for offset, length in unseen(store, moments, row):
                    segment.punch(offset, length)
                    total += length
                if total:
                    segment.sync()      # or the list would say that it is freed, and a power cut bring it back
        except Corruption as error:     # it stays as it is
            log.warning("%s: not thinned: %s", store.directory, error)
        finally:
            segment.close()
        return total

    def _note(self, row: Segment | None, punched: int) -> None:
        """What the limit does not count."""
        store = self._store
        if row is not None and row in store.timeline.rows() and punched > store.punched.get(row.number, 0):
            with store.catalog.write() as txn:
                txn.put(Punched(row.number, punched))
            store.punched = {**store.punched, row.number: punched}

    def _done(self, upto: int) -> None:
        store = self._store
        done = store.thinned.done(upto)
        self._unsaved += 1
        if not done.todo or self._unsaved >= SAVED_SEGMENTS:
            store.thin(done)
            self._unsaved = 0
        else:
            store.thinned = done
