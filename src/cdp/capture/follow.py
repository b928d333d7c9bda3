"""Following a write log: its entries become the records of a volume, in order, each once, until it is stopped.

Invariants
  1. Only entries are taken that the log has counted for `settle`, and that are there (cdp.capture.lag,
     cdp.capture.log_entries). LATE_NS later their bytes are compared with what was taken: a writer that was slower is
     found out, never believed.
  2. Entries go through one driver, natively, in order; a mark becomes a bookmark between them.
  3. cdp.capture.position is written after what it says is durable, without a record of its own, so the history has the
     flushes of the source and no others.
  4. Memory: one piece of the log, LATE_RANGES checksums, and the bounds of Lag.
Follower belongs to one thread; status() is for any.
"""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cdp.capture import position as positions
from cdp.capture.lag import Lag
from cdp.capture.log_entries import SLICE_BYTES, Piece, Place, Tail
from cdp.capture.position import ANOTHER, LogPosition, Witness
from cdp.capture.source import LogSource, Super
from cdp.trace.model import Kind, Records
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Corruption, InvalidRequest, OutOfSpace, RefusedPoint
from cdpcore.trace.driver import TargetDriver

if TYPE_CHECKING:
    from cdp import Volume

SLICE_NS = 50_000_000  # how long records go into the volume before signals and the log are looked at
SAVE_NS = 1_000_000_000
LATE_NS = 5_000_000_000
LATE_RANGES = 64
ONCE_WAIT_NS = 2_000_000_000  # for an entry that is counted and not there, where no more is expected


@dataclass(frozen=True)
class Status:
    """entries: taken; position: their bytes of the log; counted: by its super block; seq: of the volume."""

    entries: int = 0
    position: int = 0
    counted: int = 0
    seq: int = 0
    behind_bytes: int | None = None
    behind_ns: int = 0
    note: str = ""

    @property
    def behind_entries(self) -> int:
        return self.counted - self.entries


class Follower:
    """Takes the log of `source` into `volume`.

    settle_ns: see Lag. new_log: the volume goes on with another log, unless it follows this one already. stopping:
    asked often; True ends the work. Raises what cdp.capture.source raises, RefusedPoint (not the log, or not the
    volume, of before), Corruption.
    """

    def __init__(self, volume: Volume, source: LogSource, *, settle_ns: int, new_log: bool = False,
                 stopping: Callable[[], bool] = lambda: False):
        self.volume, self.source, self._stopping = volume, source, stopping
        self._lag = Lag(settle_ns)
        self._driver = TargetDriver(volume.target(), key=1, max_bytes=SLICE_BYTES, pattern=False)
        self._late: deque[tuple[int, Witness]] = deque()
        self._tail: Tail | None = None
        self._saved_ns = 0
        self._status = Status(seq=volume.window().newest.seq)
        # seq of the last change found; until the next one, marks may be there already
        self._resumed_at: int | None = None
        found = positions.load(volume.path)
        if isinstance(found, positions.MirrorPosition):
            raise RefusedPoint(f"{volume.path}: is a mirror of {found.source}", "a log needs a volume of its own")
        self.position, self._new_log = found, new_log

    def status(self) -> Status:
        return self._status

    # --- beginning ----------------------------------------------------------------------------------------------------

    def _begin(self, head: Super) -> Tail:
        """The log has a super block: go on where the volume is."""
        before, tail, same = self.position, None, False
        if before is not None:
            try:
                self._check_same(head, before)
                same = bool(before.witnesses)  # nothing was taken: it may be any log
                tail = self._resume(head, before)
            except RefusedPoint:
                if same or not self._new_log:
                    raise
        if tail is None:
            tail = Tail(self.source, head)
            self._save(LogPosition(self.source.path, head.sector_bytes, tail.place, self.volume.window().newest.seq))
        self._lag.observe(time.monotonic_ns() - self.source.quiet_ns(time.time_ns()), head.entries)
        self._tail = tail
        return tail

    def _check_same(self, head: Super, before: LogPosition) -> None:
        if head.entries < before.place.entries or head.sector_bytes != before.sector_bytes:
            raise RefusedPoint(f"{self.source.path}: begun anew: it counts {head.entries} entries of "
                               f"{head.sector_bytes} bytes, but this volume took {before.place.entries} of "
                               f"{before.sector_bytes}", ANOTHER)
        positions.check_witnesses(self.source, before)

    def _resume(self, head: Super, before: LogPosition) -> Tail:
        """Behind what the volume has of this log."""
        tail = Tail(self.source, head, before.place)
        self._resumed_at = positions.catch_up(self.volume, tail, before, head.entries)
        return tail

    # --- one step -----------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Take a piece of what there is. False: nothing to take now."""
        head = self.source.super_block()
        if head is None and self._tail is None and (self.position is None or self._new_log):
            self._tell("the log has not begun")
            return False
        if head is None:
            raise RefusedPoint(f"{self.source.path}: begun anew: it has no super block any more", ANOTHER)
        tail = self._tail or self._begin(head)
        self._still_the_same(head, tail)
        now = time.monotonic_ns()
        self._lag.observe(now, head.entries)
        self._compare_late(now)
        piece = tail.next(self._lag.settled(now))
        if piece is not None:
            self._take(piece, tail)
            self._lag.forget(tail.place.entries)
        self._tell(tail.waiting, head.entries)
        if now - self._saved_ns >= SAVE_NS:
            self.checkpoint()
        return piece is not None

    def _still_the_same(self, head: Super, tail: Tail) -> None:
        size = self.source.size_bytes()
        cut = size is not None and size < tail.place.position
        if head.entries < tail.place.entries or head.sector_bytes != tail.sector_bytes or cut:
            raise RefusedPoint(f"{self.source.path}: begun anew, or cut: it counts {head.entries} entries; "
                               f"{tail.place.entries} had been taken", ANOTHER)

    def _tell(self, note: str, counted: int = 0) -> None:
        tail = self._tail
        place = tail.place if tail else Place(0, 0)
        size = self.source.size_bytes()
        self._status = Status(
            place.entries, place.position + place.inside, max(counted, place.entries), self.volume.window().newest.seq,
            None if size is None else max(0, size - place.position - place.inside) if tail else size,
            self._lag.behind_ns(time.monotonic_ns(), place.entries), note)

    # --- into the volume ----------------------------------------------------------------------------------------------

    def _take(self, piece: Piece, tail: Tail) -> None:
        """All of the piece, or (stopped, or failed) so much of it that tail.place says where."""
        marks, at, n = iter(piece.marks), 0, len(piece.records)
        tail.place = piece.start
        over = np.flatnonzero(piece.records["offset_bytes"] + piece.records["length_bytes"] > self.volume.size_bytes)
        fit = int(over[0]) if len(over) else n
        while at < fit and not self._stopping():
            other = np.flatnonzero(piece.records["kind"][at:fit] == Kind.OTHER)
            stop = at + int(other[0]) if len(other) else fit
            at = self._issue(piece.records[:stop], at, piece.data)
            if at == stop < fit:
                self._mark(next(marks))
                at += 1
            if at:
                tail.place = piece.ends[at - 1]
        if at == fit < n:
            r = piece.records[fit]
            raise InvalidRequest(f"{self.source.path}: entry {piece.start.entries + fit + 1} reaches to byte "
                                 f"{int(r['offset_bytes']) + int(r['length_bytes'])}, but {self.volume.path} has "
                                 f"{self.volume.size_bytes}",
                                 "everything before it is in the volume; make one of the source's size and capture "
                                 "into that")
        self._remember(piece, tail.place)

    def _issue(self, records: Records, at: int, data: memoryview) -> int:
        raw = records.view(np.uint8)
        while at < len(records) and not self._stopping():
            changes = self._driver.changes
            try:
                at = self._driver.run(raw, at, data, budget_ns=SLICE_NS)
            except OutOfSpace as error:
                raise OutOfSpace(error.message,
                                 "nothing is lost: free space, then start the capture again; the log keeps what is to "
                                 "come") from None
            if self._driver.changes != changes:
                self._resumed_at = None
        return at

    def _mark(self, text: str) -> None:
        marks = self.volume.bookmarks()
        first = positions.bookmark_name(text, ())
        if self._resumed_at is not None and any(
                m.at.seq >= self._resumed_at and (m.name == first or m.name.startswith(f"{first}-")) for m in marks):
            return  # it was made before the capture was killed
        self.volume.bookmark(positions.bookmark_name(text, (m.name for m in marks)))

    # --- late writers -------------------------------------------------------------------------------------------------

    def _remember(self, piece: Piece, upto: Place) -> None:
        start, end = piece.start.position, upto.position
        if piece.start.inside or upto.inside:  # slices of one long entry: their data is all there is
            start = piece.start.position + (self._tail.sector_bytes if self._tail else 0) + piece.start.inside
            end = start + len(piece.data)
        if end > start and len(piece.data) >= end - start:
            if len(self._late) == LATE_RANGES:
                self._compare(self._late.popleft()[1])
            self._late.append((time.monotonic_ns(), Witness(start, end - start, crc32c(piece.data[:end - start]))))

    def _compare_late(self, now: int) -> None:
        while self._late and now - self._late[0][0] >= LATE_NS:
            self._compare(self._late.popleft()[1])

    def _compare(self, taken: Witness) -> None:
        if positions.witness(self.source, taken.position, taken.size) != taken:
            raise Corruption(f"{self.source.path}: bytes {taken.position} to {taken.position + taken.size} changed "
                             "after they were taken",
                             "its writer is slower than --settle allows, or begun anew: capture into a new volume, "
                             "with a longer --settle")

    # --- how far ------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Remember how far the volume has come, durably."""
        tail, before = self._tail, self.position
        self._saved_ns = time.monotonic_ns()
        if tail is None or before is None:
            return
        place, seq = tail.place, self.volume.window().newest.seq
        if place == before.place and [w for _, w in self._late] == before.witnesses[2:]:
            return
        first = before.witnesses[:1]
        if not first and place.position > tail.sector_bytes:
            first = [positions.witness(self.source, tail.sector_bytes,
                                       min(positions.WITNESS_BYTES, place.position - tail.sector_bytes))]
        last = []
        if first:
            start = max(tail.sector_bytes, place.position - positions.WITNESS_BYTES)
            last = [positions.witness(self.source, start, place.position - start)]
        self._save(LogPosition(self.source.path, tail.sector_bytes, place, seq,
                               [*first, *last, *(w for _, w in self._late)]))

    def _save(self, now: LogPosition) -> None:
        self.volume.sync()
        positions.save(self.volume.path, now)
        self.position = now

    # --- life ---------------------------------------------------------------------------------------------------------

    def run(self, *, once: bool, pause: Callable[[], bool],
            progress: Callable[[Status], None] = lambda status: None) -> None:
        """Until it is stopped, or with `once` until everything is taken that was counted in the beginning.

        pause: waits a moment, and says whether to stop. The position is saved however this ends, but after an error of
        the volume.
        """
        try:
            self._follow(once, pause, progress)
        except (RefusedPoint, InvalidRequest, Corruption):
            self.checkpoint()
            raise
        self.checkpoint()

    def _follow(self, once: bool, pause: Callable[[], bool], progress: Callable[[Status], None]) -> None:
        wanted, moved_ns = -1, time.monotonic_ns()
        while not self._stopping():
            moved = self.step()
            status = self._status
            progress(status)
            now = time.monotonic_ns()
            if once and self._tail is None:
                raise InvalidRequest(f"{self.source.path}: empty: there is no super block in it",
                                     "its writer writes it at the first flush; without --once the capture waits for it")
            if wanted < 0:
                wanted = status.counted
            if once and status.entries >= wanted:
                return
            if moved:
                moved_ns = now
                continue
            late = now - moved_ns > ONCE_WAIT_NS + self._lag.settle_ns
            if (gone := self.source.gone()) and (status.entries >= status.counted or late):
                raise RefusedPoint(f"{self.source.path}: {gone}; {status.entries} of the {status.counted} entries "
                                   "that it counted are in the volume", ANOTHER)
            if once and status.note and late:
                raise Corruption(f"{self.source.path}: {status.note}: cut, or its writer is still at it",
                                 "everything before that is in the volume; get the whole log, and start again")
            if pause():
                return
