"""A volume's store, assembled: directory, lock, catalog, recovery, log, core, maintenance; opened and closed as one.

cdp.store.layout says which files that are.
Threading: open and close by the owner; the rest is used by Volume under its own lock.
"""
from __future__ import annotations

import logging
import os as _os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from cdp.moments import lineage
from cdp.moments.events import Events
from cdp.moments.model import ClockStep, Moment
from cdp.moments.thinned import Thinned
from cdp.store import attached, kinds, memory, shared_threads, space_watch, spare_files, standby_file, thinned_file
from cdp.store import description as geometries
from cdp.store.activity import Activity
from cdp.store.base_image import Base, fill, make_empty
from cdp.store.catalog import Catalog, CatalogFactory, Punched, RestoreRow, Segment, WritebackRow, lmdb_catalog
from cdp.store.checksums import Checksums
from cdp.store.clock_watch import ClockWatch
from cdp.store.damage_watch import DamageWatch
from cdp.store.description import FOLLOWS_CLOCK, STARTS_LATER, THINNED, Geometry
from cdp.store.failure_watch import FailureWatch
from cdp.store.folder_watch import FolderWatch
from cdp.store.kinds import Parent
from cdp.store.layout import RESERVE_BYTES, clear_rebuild, lock
from cdp.store.maintenance import Maintainer
from cdp.store.protected_disk import Stamp
from cdp.store.records import Event
from cdp.store.timeline import Timeline
from cdp.store.tuning import Tuning
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import CdpError, Closed, Corruption, InvalidRequest, NotFound, OutOfSpace, Unavailable
from cdpcore.index.versions import Versions
from cdpcore.index.view import View
from cdpcore.log.log import Log
from cdpcore.log.segment_fds import SegmentFds
from cdpcore.system.os import File, Os, PosixOs, posix
from cdpcore.volume.core import VolumeCore

log = logging.getLogger("cdp.store")
RESERVE_LEAST, RESERVE_STEP = 64 << 10, 32 << 10
DATA = 0            # of EXTENT_KINDS
SEAL_S, SEAL_LOOK_S = 60.0, 0.005
LINGER_MS = 50      # a writer waits so long for more before its thread goes to others, ...
TURN_MS = 100       # ... and keeps it so long, even where there is more


class Store:
    """An open volume's parts. Raises NotFound, Busy, Corruption; nothing stays open then.

    Args: directory; tuning; os, catalog: where it runs; parent: the open store of the volume that an image was made
    from; read_only: nothing is written, and no record taken: raises Unavailable where the log must be recovered first;
    adopting: of a disk that others changed, for cdp.volume.foreign_writes.
    """

    def __init__(self, directory: str, tuning: Tuning, *, os: Os | None = None, catalog: CatalogFactory = lmdb_catalog,
                 parent: Store | None = None, read_only: bool = False, adopting: bool = False):
        self.os = os or attached.os_of(directory) or posix()
        self.directory = directory
        self.files = VolumeFiles(directory)
        self.read_only, self._adopting = read_only, adopting
        self.tuning = replace(tuning, threads=False) if read_only else tuning
        self.parent = parent
        self.catalog_factory = catalog
        self._lock_file: File | None = None
        self._tasks: list[shared_threads.Task] = []
        self._folder: FolderWatch | None = None
        self.more_work: list[Callable[[], object]] = []     # without threads: called by step()
        self._catalog: Catalog | None = None
        self.unclean = ""        # why close() left more to the next opening than it should
        self.events = Events(self.os.now_ns)        # what happens to it, for who watches
        self._describing = threading.Lock()     # an import, and the thread that watches the clock
        self._open()

    def _open(self) -> None:
        if not self.os.exists(self.files.description):
            if self.os.exists(self.directory):
                raise NotFound(f"{self.directory}: not a volume", "make one with 'cdp create'")
            raise NotFound(f"{self.directory}: no such volume", "make one with 'cdp create'")
        self._refuse_standby()      # while who keeps it has the lock, too
        self._lock_file = lock(self.os, self.files, self.read_only)
        try:
            if isinstance(self.os, PosixOs):
                self._folder = FolderWatch(self.directory)
            self._refuse_standby()
            self.geometry: Geometry = geometries.load(self.os, self.files)
            self.thinned: Thinned = thinned_file.load(self.os, self.files, self.geometry)
            self.uuid = bytes.fromhex(self.geometry.uuid)
            self.sectors = self.geometry.size_bytes // 512
            self.tuning = self.tuning.fitted(self.geometry.segment_bytes)
            self._check_parent()
            if not self.read_only:
                clear_rebuild(self.os, self.files)
            self._catalog = self.catalog_factory(self.directory, False)
            self.kind = kinds.of(self.os, self.files, self.geometry, self.read_only, self._adopting)
            self.kind.open()
            self.found = self.kind.recover(self.catalog, self.tuning)
            self.restores: list[RestoreRow] = self.catalog.rows(RestoreRow)
            self.writebacks: list[WritebackRow] = self.catalog.rows(WritebackRow)
            self.punched: dict[int, int] = {row.number: row.n_bytes for row in self.catalog.rows(Punched)}
            self.kind.recovered(self.unwritten() and self.restores[-1].destructive)
            self._assemble()
            _OPEN.add(self)
            self.renew_reserves()
        except BaseException:
            self._release()
            raise

    def _refuse_standby(self) -> None:
        if not self.tuning.standby:
            standby_file.refuse(self.os, self.files)

    @property
    def catalog(self) -> Catalog:
        """Raises Closed."""
        catalog = self._catalog
        if catalog is None:
            raise Closed(f"{self.directory}: the volume is closed")
        return catalog

    def _check_parent(self) -> None:
        """An image shows its parent at a moment: it must be that volume, and still have that moment."""
        g, above = self.geometry, self.parent
        if g.base != "parent":
            self.parent = None
        elif above is None or above.geometry.uuid != g.parent_uuid or above.geometry.size_bytes < g.size_bytes or \
                not above.geometry.start_seq <= g.parent_seq <= above.core.position()[0] or \
                above.thinned.at(g.parent_seq) != g.parent_seq:
            raise Corruption(f"{self.directory}: the volume that this image was made from is not above it, or lacks "
                             f"#{g.parent_seq}", "put the image back under images/ of its volume, and open it there")

    def _assemble(self) -> None:
        g, t = self.geometry, self.tuning
        ring = memory.ring(self.os, t)
        rows: list[Segment] = self.catalog.rows(Segment)
        # What has left the catalog is in the base, or nobody's to see: runs may still have versions of it.
        floor = max(0, min((r.first_seq for r in rows if r.last_seq >= r.first_seq), default=1) - 1)
        versions = Versions(self.os, self.view_at(lineage.NOW), t.max_records, self.found.last_seq,
                            self.found.last_ts_ns, floor)
        self.log = Log(self.os, ring, versions, self.files.log, uuid=self.uuid, volume_bytes=g.size_bytes,
                       created_ns=g.created_ns, segment_bytes=t.segment_bytes, next_number=self.found.next_number,
                       last_flush_seq=self.found.flush_seq, direct=t.direct_io, inline_maintenance=not t.threads,
                       reserve="" if g.base == "parent" else self.files.reserve, before=self.kind.log_before)
        if self.read_only:
            self.log.hold("read-only")
        self._segments = SegmentFds(self.os, self.files.log, t.max_open_files)
        parent = None
        if self.parent is not None:
            parent = Parent(self.parent.core, self.parent.view_at(g.parent_seq), self.parent)
        content = self.kind.content(self.log, self._segments, t, parent)
        self.core: VolumeCore = VolumeCore(content)
        if self.unwritten():
            self.kind.lineage_changed(True, self.restores[-1].destructive)
        self.timeline = Timeline(self.os, self.files, self.uuid, g.start, rows, self.core,
                                 self.catalog.rows(ClockStep))
        self.kind.opened(self.timeline, [self.done_seq(r.seq) for r in self.restores if r.destructive])
        self.damage = DamageWatch(self.directory, content.damage, self.timeline, self.kind.log_before)
        self.checksums = Checksums(self.os, self.files, self.uuid, self.timeline, self.kind.unchecked_base)
        self.activity = Activity(self.os, self.files, self.uuid, self.timeline, self.log, g.size_bytes,
                                 self.kind.log_before, partial(_data_before, weakref.ref(self)),
                                 t.threads and not self.read_only)
        self.clock = ClockWatch(self.os, self.directory, self.core, self._describe_clock, self.events.clock_stepped)
        if self.read_only:
            self.clock.report(self.clock.behind_ns())
        else:
            if g.format >= FOLLOWS_CLOCK:
                self.clock.follow()
            self.clock.look()
        self.maintainer = Maintainer(self.os, self.files, self.uuid, self.core, self.catalog, self.timeline, t,
                                     self.dropped, self.check_folder, self.kind.before_seal,
                                     partial(_watch, self.clock, self.os, self.directory, self.events,
                                             0 if self.read_only else t.low_space_bytes),
                                     FailureWatch(self.directory, self.log).look, self.activity.sealed)
        if t.threads:
            self.maintainer.background = self._background(self.damage, self.checksums, self.kind, self.activity)
            # They hold what they work on and nothing else, so that a volume nobody closed can still be collected.
            devices = self.kind.devices()
            for wanted, run in ((self.log.wants_writer, self.log.run_writer), *self.kind.writers()):
                self._tasks.append(_writing(devices, wanted, run, t.commit_interval_ms))
                shared_threads.add(self._tasks[-1])
            self.maintainer.start(devices)

    @staticmethod
    def _background(damage: DamageWatch, checksums: Checksums, kind: kinds.Kind,
                    activity: Activity) -> Callable[[], None]:
        def step() -> None:
            damage.look()
            checksums.step()
            kind.step()
            activity.step()

        return step

    def is_own_thread(self) -> bool:
        """Whether the caller is one of the threads that close() waits for."""
        return shared_threads.is_own()

    # --- lineage ------------------------------------------------------------------------------------------------------

    def lineage_records(self) -> list[lineage.RestoreRecord]:
        return [r.in_lineage(self.done_seq(r.seq)) for r in self.restores]

    def done_seq(self, restore_seq: int) -> int:
        """The record from which on no part of a restore is still to be done; 0: not yet."""
        return self.kind.done_seq(restore_seq, self.writebacks)

    def unwritten(self) -> bool:
        """Whether a restore is still to be written back."""
        return bool(self.restores) and not self.done_seq(self.restores[-1].seq)

    def view_at(self, seq: int) -> View:
        """What a reader at `seq` sees (lineage.NOW: the current content)."""
        return self.kind.view(seq, self.lineage_records())

    def view_with(self, restore: lineage.RestoreRecord) -> View:
        """The current content as it will be with one more restore, which may be lineage.PENDING."""
        return self.kind.view(lineage.NOW, [*self.lineage_records(), restore])

    def gaps(self) -> list[tuple[int, int]]:
        start_seq = self.timeline.start.seq
        return [gap for gap in lineage.gaps(self.lineage_records()) if gap[1] > start_seq]

    def dropped(self) -> list[tuple[int, int]]:
        """Seqs that no view can ever see again, for merges: gaps of destructive restores of the whole volume, and what
        is older than the history."""
        rows = self.kind.mergeable(self.catalog.rows(RestoreRow))       # durable ones only: what a merge drops is gone
        gone = lineage.gaps(r.in_lineage() for r in rows if r.start == 0 and r.end == self.sectors)
        floor: int = self.core.versions.floor
        return [(0, floor), *gone] if floor else gone       # of an interval, the last seq goes as well

    # --- events -------------------------------------------------------------------------------------------------------

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No record is appended by others meanwhile: what changes with an event, changes between two writes."""
        self.core.freeze()
        try:
            yield
        finally:
            self.core.thaw()

    def append_event(self, kind: int, start: int, sectors: int, data: bytes, view: View | None = None,
                     freeing: bool = False) -> Event:
        """Append a record that the catalog will keep; inside frozen(). `view`: the current content from then on;
        `freeing`: it makes older versions unreachable. To be followed by finish_event() outside."""
        seq, ts_ns = self.core.append_event(kind, start, sectors, data, view, freeing)
        event = Event(kind, seq, ts_ns, start, sectors, data)
        self.maintainer.remember(event)
        return event

    def finish_event(self, event: Event) -> None:
        """The event is durable, and in the catalog, at return."""
        self.core.pflush()
        self.maintainer.note(event)
        self.step()

    # --- its folder ---------------------------------------------------------------------------------------------------

    def check_folder(self) -> None:
        """Raises Unavailable where the folder, or the disk of before-images, was moved, deleted or replaced since it
        was opened."""
        if self._folder is not None:
            self._folder.check()
        self.kind.check_outside()

    def import_base(self, base: Base) -> None:
        """Fill the base of a volume that has no records and no base yet; see cdp.store.base_image. Under the volume's
        lock."""
        self.check_folder()         # what is made by path must not end up in another volume
        self.log.hold("import")     # a write that precedes this line is seen by the next one
        try:
            if self.core.position()[0] or self.geometry.base != "none":
                raise InvalidRequest(f"{self.directory}: has content already",
                                     "write to it instead: the import becomes part of its history")
            fill(self.os, self.files, self.uuid, self.geometry.size_bytes, base)
            self.os.sync_dir(self.directory)
            self._describe(base="file")
            self.kind.set_base(self.files.base)
        finally:
            self.log.hold("import", False)

    def have_base(self) -> None:
        """There is a file for the base, durably; all holes where it was none."""
        if self.geometry.base == "none":
            self.check_folder()
            make_empty(self.os, self.files, self.geometry.size_bytes)
            self.os.sync_dir(self.directory)
            self._describe(base="file")
        self.kind.set_base(self.files.base)

    def move_start(self, start: Moment, flushed: bool) -> None:
        """From now on `start` is the oldest moment that can be opened, durably. flushed: it is flush-durable."""
        self.check_folder()
        self._describe(start_seq=start.seq, start_ts_ns=start.ts_ns, start_flushed=flushed,
                       format=max(self.geometry.format, STARTS_LATER))
        self.timeline.start = start
        self.clock.follow()     # as volume.json says now

    def thin(self, thinned: Thinned) -> None:
        """From now on this says which moments can be opened, durably. Of what it lets go, nothing may be freed before
        this returns."""
        self.check_folder()
        thinned_file.save(self.os, self.files, thinned)
        if self.geometry.format < THINNED:
            self._describe(format=THINNED)
            self.clock.follow()     # as volume.json says now
        self.thinned = thinned

    def log_bytes(self, row: Segment) -> int:
        """What a sealed segment has that was not freed by thinning."""
        return row.file_bytes - self.punched.get(row.number, 0)

    def _describe_clock(self) -> None:
        if self.geometry.format < FOLLOWS_CLOCK:
            self.check_folder()
            self._describe(format=FOLLOWS_CLOCK)

    def _describe(self, **changes: Any) -> None:
        """volume.json says so, durably."""
        with self._describing:
            geometry = replace(self.geometry, **changes)
            geometries.save(self.os, self.files, geometry)
            self.geometry = geometry

    def adopt_disk(self, foreign: list[tuple[int, int, bool]], compared: Stamp) -> None:
        """Of a store that is `adopting`: see Kind.adopt_disk."""
        self.kind.adopt_disk(foreign, compared)
        self.step()

    # --- upkeep -------------------------------------------------------------------------------------------------------

    def durable_seq(self) -> int:
        """The last record that a power cut leaves; of before-images: on the disk, too."""
        logged = int(self.log.stats()["durable_seq"])
        return min(logged, int(self.core.stats().get("synced_seq", logged)))

    def space(self) -> space_watch.Space | None:
        """Of its device; None: a simulated one, or the folder is away."""
        try:
            return space_watch.look(self.directory, self.tuning.low_space_bytes, silent=self.read_only) \
                if isinstance(self.os, PosixOs) else None
        except OSError:
            return None

    def flush(self) -> None:
        """Everything acknowledged before this call is durable when it returns."""
        self.core.pflush()
        self.step()

    def seal(self) -> Segment | None:
        """Every record of before this call is in a sealed segment that the catalog names, durably; the last of these
        segments (None: there are no records). Raises Unavailable where that does not come about."""
        upto, until_s = self.core.position()[0], time.monotonic() + SEAL_S
        while not (rows := self.timeline.rows()) or rows[-1].last_seq < upto:
            if not upto:
                return None
            if self.read_only or time.monotonic() > until_s:
                raise Unavailable(f"{self.directory}: its newest segment could not be sealed", "see the log of its "
                                  "server; 'cdp info' shows whether writes fail")
            self.core.set_aside(upto)
            self.step()
            if self.tuning.threads:
                shared_threads.wake()
                time.sleep(SEAL_LOOK_S)
        return rows[-1]

    def step(self) -> None:
        """Without threads: do the maintenance that a call has made necessary."""
        if not self.tuning.threads:
            self.clock.look()
            self.maintainer.step()
            self.log.cut_ahead()
            self.kind.step()
            for work in self.more_work:
                work()
                self.maintainer.step()

    def renew_reserves(self) -> None:
        """Have the reserve there again, as large as there is space for, and the spare files. The device may be full:
        that is what they are for."""
        if not self.read_only:
            self._renew_reserve()
            spare_files.renew(self.os, self.files)

    def _renew_reserve(self) -> None:
        path, want = self.files.reserve, min(RESERVE_BYTES, self.tuning.segment_bytes // 8 // 4096 * 4096)
        try:
            if self.geometry.base == "parent" or self.os.exists(path) and self.os.size(path) >= want:
                return
            while want >= RESERVE_LEAST:
                if self.os.exists(path):
                    self.os.unlink(path)
                with spare_files.making(self.os, self.files, lambda: self.os.open(path, write=True, create=True),
                                        keep=spare_files.RUN_SPARES) as file:
                    try:
                        file.allocate(0, want)
                        file.datasync()
                        break
                    except OutOfSpace:
                        want -= RESERVE_STEP
        except CdpError as e:
            log.warning("%s", str(e))    # the error itself would keep its frames alive

    def close(self) -> None:
        """Everything acknowledged becomes durable, the open segment is sealed and indexed. Idempotent."""
        if self._lock_file is None:
            return
        self.core.close()
        try:
            self.log.sync_all()
            self.kind.settle()
        except CdpError as e:
            self.unclean = e.message
            raise
        finally:
            try:
                self._stop()
            finally:
                self._release()
                self.events.close()

    def disown(self) -> None:
        """In the child of a fork: the volume is closed here, and nothing of it is written, sealed or unlocked."""
        self.core.disown()
        if self._lock_file is not None:
            self._lock_file.close()     # the parent's lock stays, and does not wait for the child's end
            self._lock_file = None
        self.log.files.disown()
        self.kind.disown()

    def _stop(self) -> None:
        self.log.stop()
        self.kind.stop()
        while self._tasks:
            shared_threads.remove(self._tasks.pop())
        self.maintainer.stop()
        self.checksums.close()
        self.damage.look()
        try:
            self.maintainer.step()
            self.core.set_aside()
            self.maintainer.step()
        except CdpError:
            pass        # the log is durable: the next open seals and indexes it
        empty = self.log.files.close()
        try:
            self.check_folder()
        except Unavailable as e:
            # what was acknowledged is in the log: the next open does the rest, where the folder is then
            log.error("%s", str(e))    # as in _renew_reserve
            self.unclean = e.message
            return
        for number in empty:
            try:
                self.os.unlink(self.files.segment(number))
            except CdpError:
                pass    # it is empty: the next open removes it
        self.renew_reserves()
        self.kind.leave()

    def _release(self) -> None:
        self.more_work = []
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None
        core = getattr(self, "core", None)
        if core is not None:
            core.close()
            core.release()
        kind = getattr(self, "kind", None)
        if kind is not None:
            kind.close()
        if self._folder is not None:
            self._folder.close()
            self._folder = None
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None


def _data_before(of: weakref.ref[Store], seq: int, start: int, sectors: int) -> int:
    """How many of these sectors held data before record `seq`."""
    store = of()
    if store is None:
        return 0
    view, found, at, end = store.view_at(seq - 1), 0, start * 512, min(start + sectors, store.sectors) * 512
    while at < end:
        for begin, length, kind in store.core.extents(at, end - at, view):
            found += length if kind == DATA else 0
            at = begin + length
    return found // 512


def _writing(devices: Hashable, wanted: Callable[[int, int], bool], run: Callable[[int, int, int], None],
             interval_ms: int) -> shared_threads.Task:
    look_ms = shared_threads.LOOK_MS
    return shared_threads.Task("write", devices, lambda now_s: wanted(interval_ms, look_ms),
                               lambda: run(interval_ms, LINGER_MS, TURN_MS))


def _watch(clock: ClockWatch, os: Os, directory: str, events: Events, low_space_bytes: int) -> None:
    """What maintenance looks at, now and then. low_space_bytes: 0: nothing is written to the device."""
    clock.look()
    if isinstance(os, PosixOs) and low_space_bytes:
        space = space_watch.look(directory, low_space_bytes)
        events.space_is(space.state != "ok", space.free_bytes, space.device)


_OPEN: weakref.WeakSet[Store] = weakref.WeakSet()


def _disown_all() -> None:
    for store in list(_OPEN):
        try:
            store.disown()
        except CdpError as e:   # of one volume: the others must be closed here all the same
            log.error("%s, in a child: %s", store.directory, e)


# Two processes would append to one log, each sure of its end.
_os.register_at_fork(after_in_child=_disown_all)
