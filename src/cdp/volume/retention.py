"""Giving up the oldest history: the oldest moment that can be opened moves, and what only older ones need is freed.

    free_before(seq)    chooses the new oldest moment, the *start*: the last record of a sealed segment, or where that
                        was thinned the kept moment after it, at or before `seq`, and no later than what holds it back
                        allows; volume.json says so, durably. From then on no older moment can be opened.
    upkeep()            later, in the background, in small steps: of after-images, what the segments before the start
                        changed is folded into the base (cdp.store.fold); the catalog forgets those segments; their
                        files are deleted, the oldest first, each durably before the next.

What is begun is finished by the next opening, from the beginning: the segments before the start that the catalog still
has say so, and files of segments in front of its first one.

Invariants
 1. No segment leaves the catalog before the base holds, durably, what it changed; no file goes while a read needs it.
 2. Nothing that can be opened at or after the start depends on a record before it: see holds().

Threading: free_before() and holds() under the volume's lock; upkeep() by one thread at a time, which takes it itself.
"""
from __future__ import annotations

import numbers
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdp.moments import lineage
from cdp.moments.model import Freed, Freeing, Hold, Moment
from cdp.store.fold import Fold
from cdp.store.layout import segment_numbers
from cdp.store.reclaim import READERS_MS
from cdp.store.store import Store
from cdp.volume.reclaimer import Reclaimer
from cdp.volume.resolver import Resolver
from cdp.volume.restores import Restores
from cdp.volume.writable_images import Images
from cdpcore.base.errors import Closed, InvalidRequest
from cdpcore.index.view import View

SLICE_BYTES = 4 << 20       # folded at a time
LATER_S = 0.05              # where the volume's lock is taken, or a read of before goes on
CLIENTS_SHARE = 4           # while clients write, folding takes a part of its rate that is so much smaller,
BEHIND_SEGMENTS = 8         # unless more segments than these wait for it


@dataclass(frozen=True)
class _Span:
    """The start may not lie in lo < seq < hi."""

    lo: int
    hi: int
    what: str

    def hold(self) -> Hold:
        return Hold(self.lo, self.what)


class Retention:
    """Of one open volume. lock: the volume's; views: what is being read; images, restores: as the volume has them;
    reclaimer: its upkeep is done here, too."""

    def __init__(self, store: Store, lock: threading.RLock, views: Mapping[View, Moment], images: Images[Any],
                 restores: Restores, resolver: Resolver, reclaimer: Reclaimer):
        self._store, self._lock, self._views, self._images = store, lock, views, images
        self._restores, self._resolver, self._reclaimer = restores, resolver, reclaimer
        self._fold: Fold | None = None
        self._fold_seq = 0          # ... up to there
        self._folding = threading.Lock()        # guards _fold, against progress()
        self._folded_seq = 0        # the base holds everything up to there, durably
        self._readers_seq = 0       # no read goes on that began when records up to there were still to come
        self._files_left = bool(store.geometry.start_seq) and not store.read_only     # files in front of the catalog
        self._working = False       # what who watches was told last
        self._written = -1          # by clients, when a slice was folded last
        if not store.read_only:
            store.more_work.append(self.step)

    # --- the decision -------------------------------------------------------------------------------------------------

    def holds(self, undo: bool = True) -> list[_Span]:
        """What keeps the start where it is: time images that are open, writable images, restores whose target must
        stay, because moments after them show it, or because they are not done; with `undo`, the restore that undo would
        take back."""
        store, spans = self._store, []
        for moment in list(self._views.values()):
            spans.append(_Span(moment.seq, lineage.NOW, f"a time image of #{moment.seq} is open"))
        for image in self._images.all():
            spans.append(_Span(image.at.seq, lineage.NOW, f"image {image.name!r} shows #{image.at.seq}"))
        for row in store.restores:
            done_seq = store.done_seq(row.seq)
            if not done_seq:
                spans.append(_Span(row.target_seq, lineage.NOW, f"restore #{row.seq} is being written back"))
            elif row.destructive and not row.reclaimed:
                spans.append(_Span(row.target_seq, lineage.NOW, f"restore #{row.seq} is still being freed"))
            else:
                spans.append(_Span(row.target_seq, done_seq, f"restore #{row.seq} shows #{row.target_seq}"))
        last = next((r for r in reversed(self._restores.all()) if r.undoable), None) if undo else None
        if last is not None:
            spans.append(_Span(last.seq - 1, lineage.NOW, f"undo of restore #{last.seq} would show #{last.seq - 1}"))
        return spans

    def free_before(self, seq: int, undo: bool, dry_run: bool, promised: Sequence[Hold] = ()) -> Freed:
        """The start becomes the last moment at or before `seq` that can be it; what is before is freed in the
        background. undo: cdp undo must stay possible; promised: what holds besides. Raises InvalidRequest for a
        writable image, Unavailable, OutOfSpace."""
        store = self._store
        if isinstance(seq, bool) or not isinstance(seq, numbers.Integral) or seq < 0:
            raise InvalidRequest(f"record {seq!r} is not a number of a record", "give a whole number from 0 up")
        if store.geometry.base == "parent":
            raise InvalidRequest(f"{store.directory}: is a writable image, whose history is kept whole",
                                 "delete the image when it is not needed any more")
        rows, held = store.timeline.rows(), []
        spans = self.holds(undo) + [_Span(hold.seq, lineage.NOW, hold.what) for hold in promised]
        start = store.timeline.start
        found = start
        for row in reversed(rows[:-1]):     # the newest one stays: the log goes on behind it
            if row.last_seq <= start.seq:
                break
            at = store.thinned.following(row.last_seq)
            if at > seq or at >= rows[-1].last_seq:
                continue
            inside = [s for s in spans if s.lo < at < s.hi]
            if not inside:
                found = Moment(at, row.last_ts_ns) if at == row.last_seq else store.timeline.moment(at)
                break
            held += [s for s in inside if s not in held]
        freed_bytes = sum(store.log_bytes(r) for r in rows if start.seq < r.last_seq <= found.seq)
        if found != start and not dry_run:
            flushed = self._resolver.flushed(found.seq)[1]
            if store.kind.folds:
                store.have_base()
            store.move_start(found, flushed)
            store.events.publish("history_freed", f"what is before #{found.seq} was given up", seq=found.seq,
                                 ts_ns=found.ts_ns, bytes=freed_bytes)
        return Freed(found, freed_bytes, [s.hold() for s in held])

    # --- what is done about it ----------------------------------------------------------------------------------------

    def folds_older(self) -> bool:
        """Whether a fold of an older start than there is goes on: that moment is still read. Under the volume's
        lock."""
        return self._fold is not None and self._fold_seq != self._store.timeline.start.seq

    def progress(self) -> Freeing | None:
        """What is still to be freed; None: nothing."""
        store = self._store
        start = store.timeline.start
        left = [r for r in store.timeline.rows() if r.last_seq <= start.seq]
        if not left:
            return None
        with self._folding:
            at, size = (self._fold.at, self._fold.size_bytes) if self._fold else (0, store.core.size_bytes)
        if not store.kind.folds or self._folded_seq >= left[0].last_seq:
            at = size
        return Freeing(start, sum(map(store.log_bytes, left)), at * 1000 // size / 10)

    def upkeep(self) -> float | None:
        """From the maintenance thread: a small step. Returns the seconds until the next one; None: there is none."""
        self._reclaimer.upkeep()
        return self.step()

    def step(self) -> float | None:
        """The same of this alone."""
        try:
            self._say()
            again_s = self._step()
            self._say()
            return again_s
        except Closed:
            return None

    def _say(self) -> None:
        """To who watches: that something is being freed, once, and that nothing is any more."""
        store = self._store
        start_seq, rows = store.timeline.start.seq, store.timeline.rows()
        if (self._files_left or bool(rows and rows[0].last_seq <= start_seq)) != self._working:
            self._working = not self._working
            store.events.maintenance(self._working, "freeing", start_seq)

    def _step(self) -> float | None:
        store = self._store
        start_seq, rows = store.timeline.start.seq, store.timeline.rows()
        if rows and rows[0].last_seq <= start_seq:
            if store.kind.folds and self._folded_seq < rows[0].last_seq:
                return self._fold_on()
            if not self._lock.acquire(blocking=False):      # whoever has it may be waiting for this thread
                return LATER_S
            try:
                self._take_out(self._folded_seq if store.kind.folds else start_seq)
            finally:
                self._lock.release()
        if self._files_left:
            if not store.core.versions.readers_gone(READERS_MS):
                return LATER_S
            self._delete_files()
            return 0.0 if store.timeline.start.seq > start_seq else None
        return None

    def _fold_on(self) -> float:
        """A slice of a fold. It goes to its end even where the start moves on meanwhile, or it would never come to one:
        what is true of the start that it began with is true of all later ones. Returns the seconds until the next."""
        store = self._store
        if self._fold is None:
            start_seq = store.timeline.start.seq
            if self._readers_seq != start_seq:
                # A read of the current content that began before that record and is not done yet might find in the
                # base what later records wrote.
                store.core.versions.raise_floor(0)
                if not store.core.versions.readers_gone(READERS_MS):
                    return LATER_S
                self._readers_seq = start_seq
            if not self._lock.acquire(blocking=False):
                return LATER_S
            try:    # with the start as it is: from then on no round of thinning lets that moment go
                if store.timeline.start.seq != start_seq:
                    return 0.0
                with self._folding:
                    self._fold = store.kind.fold(store.core, store.view_at(start_seq))
                    self._fold_seq = start_seq
            finally:
                self._lock.release()
        fold = self._fold
        assert fold is not None
        before, began_s = fold.written_bytes, time.monotonic()
        if fold.step(SLICE_BYTES):
            self._folded_seq = self._fold_seq
            self._drop_fold()
            return 0.0
        return max(0.0, self._pause_s(fold.written_bytes - before) - (time.monotonic() - began_s))

    def _pause_s(self, n_bytes: int) -> float:
        """So that folding keeps to its rate, and to a part of it while clients write, unless it falls behind."""
        rate, written = self._store.tuning.maintenance_rate_bytes, int(self._store.log.stats()["log_bytes_written"])
        waits, self._written = written != self._written, written
        rows, start_seq = self._store.timeline.rows(), self._store.timeline.start.seq
        if len(rows) > BEHIND_SEGMENTS and rows[BEHIND_SEGMENTS].last_seq <= start_seq:
            waits = False
        return n_bytes * (CLIENTS_SHARE if waits else 1) / rate if rate else 0.0

    def _drop_fold(self) -> None:
        with self._folding:
            fold, self._fold = self._fold, None
        if fold is not None:
            fold.close()

    def _take_out(self, upto: int) -> None:
        """Nothing shows the segments up to record `upto` any more, and the catalog forgets them: up to the last end of
        one, since `upto` may lie inside of the next."""
        store = self._store
        store.check_folder()
        upto = max(row.last_seq for row in store.timeline.rows() if row.last_seq <= upto)
        store.core.versions.raise_floor(upto)
        store.maintainer.take_out(upto)
        store.restores = [r for r in store.restores if r.seq > upto]
        store.writebacks = [w for w in store.writebacks if w.seq > upto]
        store.timeline.remove({r.number for r in store.timeline.rows() if r.last_seq <= upto})
        self._files_left = True

    def _delete_files(self) -> None:
        """Segments in front of the first one that the catalog has; the oldest first, so that what is left always joins
        it."""
        store = self._store
        rows = store.timeline.rows()
        for number in segment_numbers(store.os, store.files):
            if not rows or number >= rows[0].number:
                break
            store.core.forget_segment(number)
            store.os.unlink(store.files.segment(number))
            store.os.sync_dir(store.files.log)
        self._files_left = False
        store.renew_reserves()

    def close(self) -> None:
        """The volume closes: what is not done is begun anew by the next opening."""
        self._drop_fold()


def both(*works: Callable[[], float | None]) -> Callable[[], float | None]:
    """Upkeep that does all of these, and is called again when the first of them wants to be."""
    def upkeep() -> float | None:
        return min((again_s for work in works if (again_s := work()) is not None), default=None)
    return upkeep
