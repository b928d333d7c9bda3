"""Kinds of volume: what a volume of after-images and one of before-images do differently, in one object each.

    AfterImages     the log holds what was written, over a base that changes only where nobody looks: nothing, base.img,
                    or the volume that a writable image was made from
    BeforeImages    a disk outside the folder holds what was written, and the log what that overwrote

A store, a check and a rebuild have a Kind; what they ask of it is what it does, never which one it is. In the engine
the same seam is cdpcore.volume.content.
Threading: open, close and what is between them by the owner; settle() and before_seal() from any thread while it is
open.
"""
from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from cdp.moments import lineage
from cdp.store import disk_check, put_back
from cdp.store import protected_disk as disks
from cdp.store.base_image import remove
from cdp.store.catalog import Catalog, RestoreRow, WritebackRow
from cdp.store.description import Geometry
from cdp.store.disk_table import DiskTable
from cdp.store.disk_watch import DiskWatch
from cdp.store.fold import Fold
from cdp.store.records import Event
from cdp.store.recovery import Found, look, recover
from cdp.store.timeline import Timeline
from cdp.store.tuning import Tuning
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Busy, Corruption, InvalidRequest
from cdpcore.index.view import View
from cdpcore.inplace.before_images import BeforeImages as BeforeContent
from cdpcore.inplace.disk_state import DiskState
from cdpcore.log import sealing
from cdpcore.log.log import Log
from cdpcore.log.segment_fds import SegmentFds
from cdpcore.log.sums_file import wrong_blocks
from cdpcore.system.os import File, Os, PosixOs
from cdpcore.volume.after_images import AfterImages as AfterContent
from cdpcore.volume.content import Content
from cdpcore.volume.core import VolumeCore

LOOK_STEPS = 1024
Writer = tuple[Callable[[int, int], bool], Callable[[int, int, int], None]]
"""What is written beside the requests: wanted(commit_interval_ms, look_ms) says whether there is something to do for
run(commit_interval_ms, linger_ms, turn_ms). See Log.wants_writer and Log.run_writer."""


@dataclass(frozen=True)
class Parent:
    """What a writable image shows where it was not written: the volume `core` as of `view`. `pin` keeps it open."""

    core: VolumeCore
    view: View
    pin: object


class Kind(ABC):
    """One volume's. Args: where it is; what volume.json says; read_only: nothing is written."""

    log_before: ClassVar[bool]      # the log's segments say that they hold before-images
    splits_zeroes: ClassVar[bool]   # a long trim or zero becomes several records, as a long write does
    folds: ClassVar[bool]           # before the oldest segments go, what they changed is written into the base

    def __init__(self, os: Os, files: VolumeFiles, geometry: Geometry, read_only: bool = False):
        self._os, self._files, self._geometry, self._read_only = os, files, geometry, read_only

    # --- making, opening, closing -------------------------------------------------------------------------------------

    def create(self) -> None:
        """In a folder that is being made: the files that only this kind has."""

    def open(self) -> None:
        """Open what lies outside the log. Raises Corruption (not as the volume left it), NotFound, Busy."""

    @abstractmethod
    def recover(self, catalog: Catalog, tuning: Tuning) -> Found:
        """After open(): bring the catalog to the end of the log, and what lies outside to the same record. Raises
        Corruption and changes nothing then. read_only: raises Unavailable where there is something to recover."""

    def recovered(self, discarding: bool) -> None:
        """After recover(), before anything is written: raises Corruption where what lies outside was changed by others.
        `discarding`: a destructive restore was being written back."""

    @abstractmethod
    def content(self, log: Log, segments: SegmentFds, tuning: Tuning, parent: Parent | None) -> Content:
        """What the engine of the opened volume holds."""

    def opened(self, timeline: Timeline, discarded: list[int]) -> None:
        """After content(), before a request. discarded: of the destructive restores, done_seq()."""

    def step(self) -> bool:
        """Go on for a while with what has time. True: there is more."""
        return False

    def disk_checksums(self) -> dict[str, Any] | None:
        """DiskSums.stats(); None: no disk is protected in place."""
        return None

    def adopt_disk(self, foreign: list[tuple[int, int, bool]], compared: disks.Stamp) -> None:
        """The history goes on though others changed these ranges of the disk: (offset, length in bytes, whether the
        range lay behind the end of the volume); and what the log changed after the table of checksums was written is
        not known either. compared: how the disk looked when they were found. Durable at return."""
        raise InvalidRequest(f"{self._files.directory}: protects no disk in place")

    def devices(self) -> tuple[int, ...]:
        """What the volume is on, for its lanes (cdp.store.shared_threads)."""
        return (_device(self._files.directory),) if isinstance(self._os, PosixOs) else ()

    def writers(self) -> list[Writer]:
        """What is to be done beside the requests; see Writer. They hold nothing of the volume but what they work on."""
        return []

    def stop(self) -> None:
        """Let the threads end."""

    def leave(self) -> None:
        """Everything is durable and nothing is written any more: leave what the next open() looks at."""

    def close(self) -> None:
        """Let go of files. Idempotent."""

    def disown(self) -> None:
        """In the child of a fork: let go of what the parent has locked."""

    # --- while it is open ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Everything that is durable in the log is where it belongs, durably."""

    def before_seal(self, log: Log, last_seq: int) -> None:
        """The segment whose last record is `last_seq` is about to be sealed."""

    def check_outside(self) -> None:
        """Raises Unavailable where what lies outside the folder was moved, deleted or cut short since open()."""

    def unchecked_base(self) -> Callable[[str], bool] | None:
        """What makes reads of the base checked against a table of checksums; None: they are, or there is none, or it is
        being written."""
        return None

    def base_is_checked(self) -> bool:
        """Whether base.sums is of what the base holds."""
        return False

    def disk_differences(self, page: int) -> list[tuple[int, int]]:
        """(start, end in bytes) of the protected disk, of the 1023 blocks of a page of its table of checksums, that do
        not match it; or that are just being written."""
        return []

    def set_base(self, path: str) -> None:
        """The base, so far all holes, is from now on the file at `path`, if it is not already. The file is all holes
        too, or there are no records yet."""
        raise InvalidRequest(f"{self._files.directory}: has content already", "write to it instead")

    def fold(self, core: VolumeCore, view: View) -> Fold | None:
        """Where `folds`: what writes into the base what the log shows at `view`."""
        return None

    def in_log(self, view: View) -> Iterator[tuple[int, int]]:
        """Of after-images: ranges (start, end in bytes), in order, of which the log and not the base has what `view`
        shows."""
        raise InvalidRequest(f"{self._files.directory}: protects a disk in place")

    # --- lineage ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def view(self, seq: int, records: list[lineage.RestoreRecord]) -> View:
        """What a reader at `seq` sees (lineage.NOW: the current content)."""

    @abstractmethod
    def done_seq(self, restore_seq: int, writebacks: list[WritebackRow]) -> int:
        """The record from which on no part of that restore is still to be done; 0: not yet."""

    @abstractmethod
    def mergeable(self, rows: list[RestoreRow]) -> list[RestoreRow]:
        """The destructive restores whose discarded records a merge of runs may leave out."""

    def written_back(self) -> BeforeContent | None:
        """The content on which restores are to be written out after they are shown; None: a restore is complete with
        its record."""
        return None

    def may_free(self, done: bool, read: bool) -> bool:
        """Whether what a destructive restore discarded can be freed. done: no part of it is still to be written out;
        read: a time image or a writable image is open."""
        return True

    def lineage_changed(self, unwritten: bool, discarding: bool) -> None:
        """Between freeze() and thaw(): the current lineage was replaced. `unwritten`: a restore is still to be written
        back; `discarding`: and it is destructive."""

    # --- check --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def check(self, ends: tuple[int, int], catalog: Catalog, events: list[Event], add: disk_check.Add) -> None:
        """Look at what lies outside the log, of a volume that is not open. ends: the last record of a sealed segment,
        and of the log; events: bookmarks and restores that the log has."""


class AfterImages(Kind):
    log_before = False
    splits_zeroes = False
    folds = True
    _base: File | None = None
    _checked = False
    _fold: Fold | None = None

    def open(self) -> None:
        if not self._read_only:     # of an import that was killed
            remove(self._os, self._files.base_creating, self._files.base_sums_creating)

    def recover(self, catalog: Catalog, tuning: Tuning) -> Found:
        if self._read_only:
            return look(self._os, self._files, self._geometry, catalog)
        return recover(self._os, self._files, self._geometry, catalog, tuning)

    def content(self, log: Log, segments: SegmentFds, tuning: Tuning, parent: Parent | None) -> Content:
        base = self._files.base if self._geometry.base == "file" else ""
        if base:
            self._check_base()
            self._lock_base(base)
        if parent is None:
            self._content = AfterContent(log, segments, size_bytes=self._geometry.size_bytes, base=base)
            if base:
                self._checked = self._content.check_base(self._files.base_sums)
        else:
            self._content = AfterContent(log, segments, size_bytes=self._geometry.size_bytes, parent=parent.core,
                                         parent_view=parent.view, parent_pin=parent.pin)
        return self._content

    def unchecked_base(self) -> Callable[[str], bool] | None:
        if self._checked or self._base is None or self._fold is not None and not self._fold.closed:
            return None
        return self._check_from_now_on

    def base_is_checked(self) -> bool:
        return self._checked

    def _check_from_now_on(self, path: str) -> bool:
        self._checked = self._content.check_base(path)
        return self._checked

    def set_base(self, path: str) -> None:
        if self._base is None:
            self._lock_base(path)
        self._checked = self._content.check_base(self._files.base_sums)
        self._content.set_base(path)

    def fold(self, core: VolumeCore, view: View) -> Fold | None:
        # While the base is written in place it is not checked; then it gets a table from what it holds.
        self._content.check_base("")
        self._checked = False
        remove(self._os, self._files.base_sums, self._files.base_sums_creating)
        self._os.sync_dir(self._files.directory)
        self._fold = Fold(self._os, self._files.base, core, self._content, view)
        return self._fold

    def in_log(self, view: View) -> Iterator[tuple[int, int]]:
        at = 0
        while at < self._geometry.size_bytes:
            pieces, at = self._content.of_log(view, at, LOOK_STEPS)
            for offset, length, _ in pieces:
                yield offset, offset + length

    def _lock_base(self, path: str) -> None:
        """By its lock, writers of output files (cdp.store.output_files) know that it is in use, whatever its name."""
        self._base = self._os.open(path)
        try:
            self._base.lock()
        except Busy:
            raise Busy(f"{path}: another process has it open to write to it", "wait for it, then repeat") from None

    def close(self) -> None:
        self.disown()

    def disown(self) -> None:
        if self._base is not None:
            self._base.close()
            self._base = None

    def view(self, seq: int, records: list[lineage.RestoreRecord]) -> View:
        return View(lineage.view(seq, records, self._geometry.size_bytes // 512))

    def done_seq(self, restore_seq: int, writebacks: list[WritebackRow]) -> int:
        return restore_seq

    def mergeable(self, rows: list[RestoreRow]) -> list[RestoreRow]:
        return rows

    def check(self, ends: tuple[int, int], catalog: Catalog, events: list[Event], add: disk_check.Add) -> None:
        if self._geometry.base == "file":
            try:
                self._check_base()
            except Corruption as e:
                add(self._files.base, e.message.partition(": ")[2], e.hint)
                return
            if self._os.exists(self._files.base_sums):
                with self._os.open(self._files.base) as base, self._os.open(self._files.base_sums) as table:
                    for offset, what in wrong_blocks(base, table, bytes.fromhex(self._geometry.uuid), 0):
                        add(self._files.base, f"byte {offset}: {what}", "put the file back from a copy")

    def _check_base(self) -> None:
        path, size = self._files.base, self._geometry.size_bytes
        if not self._os.exists(path) or self._os.size(path) < size:     # longer: a crash while it was resized
            raise Corruption(f"{path}: missing, or not of {size} bytes", "put it back from a copy")


class BeforeImages(Kind):
    log_before = True
    splits_zeroes = True
    folds = False

    def __init__(self, os: Os, files: VolumeFiles, geometry: Geometry, read_only: bool = False, adopting: bool = False):
        super().__init__(os, files, geometry, read_only)
        self._adopting = adopting
        self._disk: File | None = None
        self._state: DiskState | None = None
        self._content: BeforeContent | None = None
        self._watch: DiskWatch | None = None
        self._table: DiskTable | None = None
        self._table_fits = False

    def create(self) -> None:
        DiskState(self._os, self._files.disk_state, bytes.fromhex(self._geometry.uuid), create=True).close()

    def open(self) -> None:
        g = self._geometry
        self._disk = disks.open_disk(self._os, g.disk, write=not self._read_only)
        if isinstance(self._os, PosixOs):
            self._watch = DiskWatch(g.disk)
        if self._adopting:
            self._stamp = disks.stamp(self._os, g.disk, self._disk)
        else:
            disks.check_adopted(self._os, self._files, g.disk)
            self._stamp = disks.check_unchanged(self._os, self._files, g.disk, self._disk, g.size_bytes)
        self._state = DiskState(self._os, self._files.disk_state, bytes.fromhex(g.uuid), read_only=self._read_only)
        if not self._adopting:      # somebody else wrote to it: that must be seen until the adoption is complete
            self._state.watch(self._disk)

    def recover(self, catalog: Catalog, tuning: Tuning) -> Found:
        assert self._disk is not None and self._state is not None
        disk, state = self._disk, self._state
        if self._read_only:
            found = look(self._os, self._files, self._geometry, catalog)
            hint = "run 'cdp check' on the volume; nothing was changed"
        else:
            def back(tail: list[int], found: Found) -> list[int]:
                return put_back.put_back(self._os, self._files, self._geometry, tail, found, disk, state,
                                         self._adopting)
            found = recover(self._os, self._files, self._geometry, catalog, tuning,
                            until=lineage.NOW if self._adopting else state.applied_seq, prepare=back)
            hint = "put the log's files back from a copy, or 'cdp adopt' the disk anew; nothing was changed"
        if found.last_seq != state.applied_seq:
            raise Corruption(f"{self._files.directory}: the disk holds records up to #{state.applied_seq}, the log "
                             f"ends at #{found.last_seq}", hint)
        return found

    def recovered(self, discarding: bool) -> None:
        """From now on the disk changes. Not before: a failed opening must not forget how it looked."""
        assert self._disk is not None and self._state is not None
        if self._adopting:
            return
        if not self._stamp.clean and not discarding:
            disks.check_left_alone(self._files, self._geometry.disk, self._disk, self._state)
        if not self._read_only:
            self._state.note()
            disks.opened(self._os, self._files, self._stamp)

    def content(self, log: Log, segments: SegmentFds, tuning: Tuning, parent: Parent | None) -> BeforeContent:
        assert self._state is not None
        self._content = BeforeContent(log, segments, size_bytes=self._geometry.size_bytes, disk=self._geometry.disk,
                                      state=self._state, pending_bytes=tuning.pending_bytes,
                                      pending_changes=tuning.pending_changes,
                                      skip_same=tuning.skip_unchanged, read_only=self._read_only)
        return self._content

    def opened(self, timeline: Timeline, discarded: list[int]) -> None:
        self._table = DiskTable(self._os, self._files, bytes.fromhex(self._geometry.uuid), self.opened_content,
                                self._read_only)
        self._table_fits = self._table.open(timeline, discarded, self._adopting)

    def step(self) -> bool:
        return self._table is not None and self._table.step()

    def disk_checksums(self) -> dict[str, Any] | None:
        return dict(self.opened_content.sums.stats())

    def disk_differences(self, page: int) -> list[tuple[int, int]]:
        return [(start, end) for start, end, known in self.opened_content.sums.differences(page) if known]

    def adopt_disk(self, foreign: list[tuple[int, int, bool]], compared: disks.Stamp) -> None:
        assert self._table is not None
        if self._stamp != compared:
            raise Busy(f"{self._geometry.disk}: was changed while it was compared", "stop what writes to it")
        if not self._table_fits:
            raise Corruption(f"{self._files.disk_sums}: does not fit the log",
                             "adopt the disk with --discard-history, or put it back")
        self._table.adopt(foreign)

    @property
    def opened_content(self) -> BeforeContent:
        assert self._content is not None
        return self._content

    def devices(self) -> tuple[int, ...]:
        return (*super().devices(), _device(self._geometry.disk)) if isinstance(self._os, PosixOs) else ()

    def writers(self) -> list[Writer]:
        return [(self.opened_content.settler.wanted, self.opened_content.settler.run)]

    def stop(self) -> None:
        self.opened_content.settler.stop()

    def leave(self) -> None:
        """The disk is as it should be: say how it looks, so that it can be known again."""
        if self._disk is not None and not self._read_only and self.opened_content.settler.on_disk():
            if self._table is not None:
                self._table.finish()
            disks.save(self._os, self._files, disks.stamp(self._os, self._geometry.disk, self._disk))

    def close(self) -> None:
        if self._state is not None:
            self._state.close()
        self.disown()

    def disown(self) -> None:
        if self._disk is not None:
            self._disk.close()
            self._disk = None
        if self._watch is not None:
            self._watch.close()

    def check_outside(self) -> None:
        if self._watch is not None:
            self._watch.check()

    def settle(self) -> None:
        self.opened_content.settler.settle_disk()

    def before_seal(self, log: Log, last_seq: int) -> None:
        """Recovery puts the disk back by segments that are not sealed, so the disk has to hold the records of this one
        first."""
        sealing.write_out(log)
        self.opened_content.settler.settle_disk(last_seq)
        if self._table is not None:
            self._table.write()     # so that after a crash few blocks are not known

    def view(self, seq: int, records: list[lineage.RestoreRecord]) -> View:
        return View(lineage.view_before(seq, records, self._geometry.size_bytes // 512))

    def done_seq(self, restore_seq: int, writebacks: list[WritebackRow]) -> int:
        return written_back_seq(restore_seq, writebacks)

    def mergeable(self, rows: list[RestoreRow]) -> list[RestoreRow]:
        return [r for r in rows if r.reclaimed]     # a time image of before may still be looking at the others

    def written_back(self) -> BeforeContent | None:
        return None if self._read_only else self.opened_content

    def may_free(self, done: bool, read: bool) -> bool:
        return done and not read

    def lineage_changed(self, unwritten: bool, discarding: bool) -> None:
        self.opened_content.lineage_changed(unwritten, discarding)

    def check(self, ends: tuple[int, int], catalog: Catalog, events: list[Event], add: disk_check.Add) -> None:
        disk_check.check_disk(self._os, self._files, self._geometry, ends, catalog, events, add)


def written_back_seq(restore_seq: int, writebacks: list[WritebackRow]) -> int:
    """Of before-images: see Kind.done_seq."""
    return min((w.seq for w in writebacks if w.upto_seq >= restore_seq), default=0)


def of(os: Os, files: VolumeFiles, geometry: Geometry, read_only: bool = False, adopting: bool = False) -> Kind:
    """The volume's kind."""
    if geometry.before:
        return BeforeImages(os, files, geometry, read_only, adopting)
    return AfterImages(os, files, geometry, read_only)


def _device(path: str) -> int:
    found = os.stat(path)
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev
