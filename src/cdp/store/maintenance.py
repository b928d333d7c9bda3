"""Maintenance of the index, beside the data path: a segment that was set aside is sealed and gets its run; runs merge.

    seal    finish the segment file -> run file -> catalog -> installed in the core (the run replaces the tree, one
            instant)
    merge   `merge_fanin` neighbouring runs of a level become one of the next level: O(log n) runs

Two tasks of the shared threads (cdp.store.shared_threads), so that a long merge never holds up a seal. The list of
runs, the catalog's copy of it and the core's change together under one lock. The log learns of a failed seal and
refuses the writes that would need it; the seal is tried again.

Threading: step() and merge_once() may also be called by the owner where there are no threads (Tuning.threads).
"""
from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from cdp.moments.model import ClockStep
from cdp.store import shared_threads, spare_files
from cdp.store.catalog import BookmarkRow, Catalog, Punched, RestoreRow, Run, Segment, Transaction, WritebackRow
from cdp.store.records import Event, apply_event
from cdp.store.shared_threads import Task
from cdp.store.timeline import Timeline
from cdp.store.tuning import Tuning
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Corruption, OutOfSpace, Unavailable
from cdpcore.index import runs as core_runs
from cdpcore.log import sealing
from cdpcore.system.os import Os

log = logging.getLogger("cdp.maintain")
MAX_RUNS = 60       # of the 64 that a snapshot holds; a seal waits for merges beyond
RETRY_MS = 500
MERGE_S = 1.0       # how often there may be something to merge or free without being asked


class Maintainer:
    """Args: os, files, uuid: the volume; core: its VolumeCore; dropped: gives the seq intervals that merges leave out;
    check_folder: raises Unavailable while the volume's folder is not where it was; watch,
    watch_failure: called every half second; sealed: with each segment, before the log forgets it."""

    def __init__(self, os: Os, files: VolumeFiles, uuid: bytes, core: Any, catalog: Catalog, timeline: Timeline,
                 tuning: Tuning, dropped: Callable[[], list[tuple[int, int]]],
                 check_folder: Callable[[], None] = lambda: None,
                 before_seal: Callable[[Any, int], None] = lambda log, last_seq: None,
                 watch: Callable[[], None] = lambda: None,
                 watch_failure: Callable[[], None] = lambda: None,
                 sealed: Callable[[Segment], None] = lambda row: None):
        self._os, self._files, self._uuid, self._core, self._catalog = os, files, uuid, core, catalog
        self._timeline, self._tuning, self._dropped = timeline, tuning, dropped
        self._check_folder, self._away = check_folder, False
        self._before_seal, self._watch, self._watch_failure = before_seal, watch, watch_failure
        self._sealed = sealed
        self._lock = threading.RLock()              # guards _runs, _events and their copies in catalog and core
        self._runs: list[Run] = sorted(catalog.rows(Run), key=lambda r: r.first_seq)
        self._next_id = max((r.id for r in self._runs), default=0) + 1
        self._events: list[Event] = []
        self._merge_wanted = threading.Event()
        self._merge_failed, self._merge_hint = "", ""
        self._stopping = False
        self._pause = threading.Event()             # set when stopping: nobody sleeps on
        self.background: Callable[[], object] | None = None     # a piece of work that has time
        self._tasks: list[Task] = []
        self._looked_s = self._seal_not_before_s = self._merge_again_s = 0.0
        self._reported = ""
        self.upkeep: Callable[[], float | None] | None = None   # what else is to be done, now and then; returns the
        #                                                         seconds until it is to be called again at the latest
        for older, newer in zip(self._runs, self._runs[1:]):
            if older.last_seq >= newer.first_seq:
                raise Corruption(f"{files.directory}: runs {older.id} and {newer.id} index the same records",
                                 "run 'cdp check --rebuild' on the volume")
        self._install(self._runs, keep=[], seal=False)

    @property
    def runs(self) -> list[Run]:
        return list(self._runs)

    def remember(self, event: Event) -> None:
        """A bookmark or restore is being appended: the catalog gets it with note(), or else with its segment's seal.
        Called under the append lock, so that the segment cannot be sealed without it."""
        self._events.append(event)

    def note(self, event: Event) -> None:
        """The event is durable: put it, and what is left of older ones, into the catalog."""
        with self._lock:
            with self._catalog.write() as txn:
                n = self._put_events(txn, event.seq)
            del self._events[:n]

    def _put_events(self, txn: Transaction, upto: int) -> int:
        """Each event goes in once, in order: an older one must not come back over a newer one."""
        ready = [e for e in self._events if e.seq <= upto]
        for e in ready:
            apply_event(txn, e)
        return len(ready)

    # --- threads ------------------------------------------------------------------------------------------------------

    def start(self, devices: Hashable) -> None:
        """devices: what the volume's files and disk are on."""
        self._merge_wanted.set()
        self._tasks = [Task("seal", devices, self._wants_seal, self._look_after),
                       Task("merge", devices, self._wants_merge, self._merge_all)]
        for task in self._tasks:
            shared_threads.add(task)

    def stop(self) -> None:
        """After Log.stop(): wait until neither task runs."""
        self._stopping = True
        self._pause.set()
        for task in self._tasks:
            shared_threads.remove(task)
        self._tasks.clear()
        self.upkeep = None

    def _wants_seal(self, now_s: float) -> bool:
        return not self._stopping and now_s >= self._seal_not_before_s and (
            now_s >= self._looked_s + RETRY_MS / 1000 or self._core.log.files.has_work())

    def _look_after(self) -> None:
        """What is to be allocated and sealed; and where the folder is, the clock and the device."""
        self._looked_s = time.monotonic()
        self._watch_failure()
        try:
            try:
                self._watch_folder()
            finally:
                self._grow_and_step()   # then too: a writer may be waiting for the segment, and gets the error
            self._watch()
            self._core.log.files.prepare_spare()
            self._core.log.cut_ahead()
            self._reported = ""
        except Exception as e:      # noqa: BLE001  (it must go on: the next writer gets the error)
            if str(e) != self._reported:
                log.error("upkeep of %s: %s", self._files.directory, e)
                self._reported = str(e)
            self._seal_not_before_s = time.monotonic() + RETRY_MS / 1000

    def _grow_and_step(self) -> None:
        try:
            self._core.log.files.grow_ahead()
        finally:
            self.step()     # then too: it may be what frees space

    def _watch_folder(self) -> None:
        """Every RETRY_MS: nothing is made by path, and no record taken, while another folder may be there."""
        try:
            self._check_folder()
        except Unavailable:
            if not self._away:
                self._away = True
                self._core.log.hold("moved")
            raise
        if self._away:
            self._away = False
            self._core.log.hold("moved", False)
            log.warning("%s: is back, and goes on", self._files.directory)

    def _wants_merge(self, now_s: float) -> bool:
        return not self._stopping and (self._merge_wanted.is_set() or now_s >= self._merge_again_s)

    def _merge_all(self) -> None:
        """Merges, and the freeing of space: what may take long, and takes no lock that a seal waits for."""
        self._merge_wanted.clear()
        again_s: float | None = None
        try:
            while not self._stopping and self.merge_once():
                pass
            self._merge_failed = ""
            if not self._stopping and self.background is not None:
                self.background()
            if not self._stopping and self.upkeep is not None:
                again_s = self.upkeep()
        except Exception as e:      # noqa: BLE001  (as above)
            if str(e) != self._merge_failed:
                log.error("merging runs of %s: %s", self._files.directory, e)
                self._merge_failed = str(e)
                self._merge_hint = (e.hint if isinstance(e, OutOfSpace) else
                                    "run 'cdp check --rebuild' on the volume")
        self._merge_again_s = time.monotonic() + (MERGE_S if again_s is None else again_s)

    def _ask_merge(self) -> None:
        self._merge_wanted.set()
        shared_threads.wake()

    # --- work ---------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Seal the segment that was set aside, if any. Raises what failed; the log knows of it then."""
        info = sealing.waiting(self._core.log)
        if info is None:
            return False
        try:
            self._check_folder()
            self._seal(*info)
        except Exception as e:
            sealing.failed(self._core.log, errno.ENOSPC if isinstance(e, (OutOfSpace, MemoryError)) else errno.EIO)
            raise
        sealing.done(self._core.log)
        if self._tuning.threads:
            self._ask_merge()
        if not self._tuning.threads:
            while self.merge_once():
                pass
        return True

    def _seal(self, number: int, first_seq: int, last_seq: int, first_ts_ns: int, last_ts_ns: int) -> None:
        self._before_seal(self._core.log, last_seq)
        size = sealing.finish(self._core.log)
        while len(self._runs) >= MAX_RUNS and self._tuning.threads and not self._stopping:
            if self._merge_failed:      # then waiting would be for ever: the writes that need this seal are refused
                raise OutOfSpace(f"{self._files.directory}: {len(self._runs)} runs, and they cannot be merged: "
                                 f"{self._merge_failed}", self._merge_hint)
            self._ask_merge()
            self._pause.wait(0.05)
        with self._lock:
            run_id, self._next_id = self._next_id, self._next_id + 1
            path = self._files.run(run_id)
            spare_files.making(self._os, self._files, lambda: core_runs.write_sealing_run(
                self._core.versions, path, self._uuid, number, first_seq, last_seq))
            self._os.sync_dir(self._files.runs)
            segment = Segment(number, first_seq, last_seq, first_ts_ns, last_ts_ns, size)
            run = Run(run_id, first_seq, last_seq, number, number, 0, self._os.size(path))
            with self._catalog.write() as txn:
                txn.put(segment)
                self._put_runs(txn, [*self._runs, run])
                n = self._put_events(txn, last_seq)
                for step in (ClockStep(*s) for s in self._core.log.clock.since(0)):
                    if first_seq <= step.seq <= last_seq:
                        txn.put(step)
            del self._events[:n]
            self._install([*self._runs, run], keep=[r.id for r in self._runs], seal=True)
            self._timeline.add(segment)
        self._sealed(segment)

    def merge_once(self) -> bool:
        """Merge one group of runs if there is one to merge."""
        with self._lock:
            group = merge_group(self._runs, self._tuning.merge_fanin)
            if not group:
                return False
            run_id, self._next_id = self._next_id, self._next_id + 1
        self._check_folder()
        path = self._files.run(run_id)
        first_segment, last_segment, first_seq, last_seq = spare_files.making(
            self._os, self._files, lambda: core_runs.merge_runs(
                self._core.versions, [r.id for r in group], path, self._uuid, self._dropped()))
        self._os.sync_dir(self._files.runs)
        merged = Run(run_id, first_seq, last_seq, first_segment, last_segment, group[0].level + 1, self._os.size(path))
        with self._lock:
            gone = {r.id for r in group}
            kept = [r for r in self._runs if r.id not in gone]
            with self._catalog.write() as txn:
                self._put_runs(txn, [*kept, merged])
            self._install(sorted([*kept, merged], key=lambda r: r.first_seq), keep=[r.id for r in kept], seal=False)
        for r in group:
            self._os.unlink(self._files.run(r.id))      # snapshots in use keep their mapping
        return True

    def take_out(self, upto: int) -> list[Segment]:
        """The catalog forgets the segments, runs, bookmarks, restores and steps of the clock up to record `upto`, the
        end of a segment; at once, durably. Returns the segments, whose files are still there. New reads must not need
        them any more; reads of before may go on, so the files of runs go, which those have mapped, but no segment."""
        with self._lock:
            kept = [r for r in self._runs if r.last_seq > upto]
            gone = [r for r in self._catalog.rows(Segment) if r.last_seq <= upto]
            with self._catalog.write() as txn:
                for segment in gone:
                    txn.remove(Segment, segment.number)
                for punched in self._catalog.rows(Punched):
                    if any(punched.number == segment.number for segment in gone):
                        txn.remove(Punched, punched.number)
                for mark in self._catalog.rows(BookmarkRow):
                    if mark.made_seq <= upto:
                        txn.remove(BookmarkRow, mark.name)
                for kind in (RestoreRow, WritebackRow, ClockStep):
                    for row in self._catalog.rows(kind):
                        if row.seq <= upto:
                            txn.remove(kind, row.seq)
                self._put_runs(txn, kept)
            runs = self._runs
            self._install(kept, keep=[r.id for r in kept], seal=False)
        for run in runs:
            if run not in kept:
                self._os.unlink(self._files.run(run.id))
        return gone

    def _put_runs(self, txn: Transaction, runs: list[Run]) -> None:
        """The catalog's runs become `runs`, whatever it has: a transaction may have gone through before what followed
        it failed, and then a repeated seal or merge would leave two runs of the same records."""
        present: dict[int, Run] = {r.id: r for r in self._catalog.rows(Run)}
        for run_id in present.keys() - {r.id for r in runs}:
            txn.remove(Run, run_id)
        for r in runs:
            if r.id not in present:
                txn.put(r)

    def _install(self, runs: list[Run], keep: list[int], seal: bool) -> None:
        newest_first = list(reversed(runs))
        core_runs.install_runs(self._core.versions, [self._files.run(r.id) for r in newest_first],
                               [r.id for r in newest_first], self._uuid, keep, seal)
        self._runs = runs


def merge_group(runs: list[Run], fanin: int) -> list[Run]:
    """`fanin` neighbours of one level, the lowest level first: runs ascending in seq, levels mostly descending."""
    for level in sorted({r.level for r in runs}):
        streak: list[Run] = []
        for run in runs:
            streak = [*streak, run] if run.level == level else []
            if len(streak) == fanin:
                return streak
    return []
