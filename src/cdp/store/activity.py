"""What was done to a volume, by time and by place: a summary a segment, kept at seal; VOLUME/activity. docs/format.md.

    activity/0.cells    the summaries of segments
    activity/L.cells    those of 16^L segments with neighbouring numbers, from the 16 of the level below

So what is asked about a year is read from some hundred summaries, and about a minute from those of its segments. A
summary that is missing (of a segment that recovery sealed, or that an older release wrote) is made from the segment's
descriptors: in the background, or when it is asked for, within MAKE_S. What is not sealed is counted in memory.

Nothing is synced: a summary has a checksum, and one that is not valid counts as missing.

Invariants
 1. Summaries are never what anything else depends on: that one cannot be written is logged and forgotten.
 2. A level above 0 has a summary only when all its segments are sealed, and have theirs or are gone.

Threading: sealed() and step() from maintenance; cells() from any thread.
"""
from __future__ import annotations

import bisect
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from cdp.store.catalog import Segment
from cdp.store.timeline import Timeline
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import CdpError, Closed, NotFound
from cdpcore.log import summaries
from cdpcore.log.log import Log
from cdpcore.system.os import File, Os

log = logging.getLogger("cdp.store")
LEVELS, FANIN_BITS = 6, 4
Packed = tuple[int, int, bytes, int, bytes]     # see cdpcore.log.summaries
STEP_S, MAKE_S = 0.05, 1.0
QUEUED = 32         # summaries of sealed segments that are not written yet; at most 31 KiB each
HELD_MOST = 4096


class Activity:
    """Of an open volume. held: (seq, start, sectors): how many of these sectors held data before that record.
    kept: summaries are written."""

    def __init__(self, os: Os, files: VolumeFiles, uuid: bytes, timeline: Timeline, core_log: Log, size_bytes: int,
                 before: bool, held: Callable[[int, int, int], int], kept: bool):
        self._os, self._files, self._uuid, self._timeline, self._log = os, files, uuid, timeline, core_log
        self._size_bytes, self._before, self._held, self._kept = size_bytes, before, held, kept
        self._sealed: deque[tuple[Segment, Packed]] = deque(maxlen=QUEUED)
        self._seen, self._last, self._given_up = 0, 0, 0    # numbers: looked at; the last that was there; freed
        self._lock = threading.Lock()       # guards _sealed and _known
        self._known: dict[int, int] = {}    # sectors that held data, by the seq of a sample of the open segments
        self._failed = ""

    @property
    def place_sectors(self) -> int:
        """Of one of the 64 places or less that the volume has."""
        sectors, shift = self._size_bytes // 512, 0
        while (sectors - 1) >> shift >= 64:
            shift += 1
        return 1 << shift

    # --- keeping ------------------------------------------------------------------------------------------------------

    def sealed(self, row: Segment) -> None:
        """The segment is sealed, and the log has its activity still."""
        if self._kept:
            for number, found in summaries.of_segments(self._log):
                if number == row.number and found is not None:
                    with self._lock:
                        self._sealed.append((row, found))

    def step(self) -> bool:
        """Go on for STEP_S. True: there is more to do."""
        if not self._kept or "numpy" not in sys.modules:    # a command that ends soon does not import it for this
            return False
        try:
            more = self._step(time.monotonic() + STEP_S)
            self._failed = ""
            return more
        except Closed:
            return False
        except CdpError as e:
            if str(e) != self._failed:
                log.warning("activity of %s: %s", self._files.directory, e)
                self._failed = str(e)
            return False

    def _step(self, until_s: float) -> bool:
        while (queued := self._queued()):
            row, found = queued[0]
            self._put(0, row.number, self._estimated(found), row.last_seq)
            with self._lock:
                if self._sealed and self._sealed[0] is queued[0]:
                    self._sealed.popleft()
        rows = self._timeline.rows()
        at = bisect.bisect_right(rows, self._seen, key=lambda r: r.number)
        with _Reader(self._os, self._files, self._uuid) as reader:
            while at < len(rows):
                if time.monotonic() > until_s:
                    return True
                row = rows[at]
                if self._last:
                    self._complete(reader, rows, self._last, row.number)
                group = row.number >> 2 * FANIN_BITS
                if reader.get(2, group) is not None:    # and so all below are there
                    at = bisect.bisect_left(rows, (group + 1) << 2 * FANIN_BITS, key=lambda r: r.number)
                    self._last = self._seen = rows[at - 1].number
                    continue
                if reader.of(row) is None:
                    made = self._made(row)
                    if made is not None:
                        self._put(0, row.number, made, row.last_seq)
                self._last = self._seen = row.number
                at += 1
        self._free(rows)
        return False

    def _queued(self) -> list[tuple[Segment, Packed]]:
        with self._lock:
            return list(self._sealed)

    def _complete(self, reader: _Reader, rows: list[Segment], last: int, number: int) -> None:
        """All segments before `number` are sealed: groups that end between it and `last` get their summaries."""
        from cdp.store.activity_cells import joined

        for level in range(1, LEVELS):
            group = last >> level * FANIN_BITS
            if group == number >> level * FANIN_BITS:
                return
            if reader.get(level, group) is not None:
                continue
            below = []
            for child in range(group << FANIN_BITS, (group + 1) << FANIN_BITS):
                found = reader.get(level - 1, child)
                if found is not None:
                    below.append(found)
                elif _any(rows, child, level - 1):
                    return
            if below:
                self._put(level, group, joined(below), 0)

    def _put(self, level: int, index: int, summary: Any, last_seq: int) -> None:
        from cdp.store.activity_cells import SLOT_BYTES, packed

        path = self._files.activity(level)
        if not self._os.exists(self._files.activities):
            self._os.mkdir(self._files.activities)
        with self._os.open(path, write=True, create=not self._os.exists(path)) as file:
            file.pwrite(packed(summary, self._uuid, index << level * FANIN_BITS, level, last_seq), index * SLOT_BYTES)

    def _free(self, rows: list[Segment]) -> None:
        """Of what was given up nothing is kept but what larger summaries say."""
        from cdp.store.activity_cells import SLOT_BYTES

        first = rows[0].number if rows else 0
        if first >> FANIN_BITS <= self._given_up >> FANIN_BITS:
            return
        for level in range(LEVELS):
            path, end = self._files.activity(level), first >> level * FANIN_BITS
            if end and self._os.exists(path) and self._os.size(path):
                with self._os.open(path, write=True) as file:
                    file.punch(0, min(end * SLOT_BYTES, -(-file.size() // SLOT_BYTES) * SLOT_BYTES))
        self._given_up = first

    def _made(self, row: Segment) -> Any:
        """From what was counted, or from the segment's descriptors; None: it was freed."""
        for other, found in self._queued():
            if other == row:
                return self._estimated(found)
        made = summaries.Summary(self._size_bytes, self._before)
        seqs, descs = b"", b""
        try:
            for more_seqs, more_descs in self._timeline.descriptors(row.number):
                seqs, descs = seqs + more_seqs.tobytes(), descs + more_descs.tobytes()
                left = made.add(seqs, descs)
                seqs, descs = seqs[len(seqs) - 8 * left:], descs[len(descs) - 40 * left:]
        except NotFound:
            return None
        return self._estimated(made.packed())

    def _estimated(self, found: Packed) -> Any:
        from cdp.store.activity_cells import estimated

        return estimated(found, self._held)

    # --- asking -------------------------------------------------------------------------------------------------------

    def cells(self, since_ns: int, until_ns: int, by_ns: int) -> tuple[list[Any], int]:
        """Summaries (cdp.store.activity_cells) that together have what was done in [since, until), and more; and how
        many segments they lack, which had none and for which there was no time. by_ns: what is shown is no finer."""
        opened = summaries.of_segments(self._log)   # before the sealed ones: what is sealed meanwhile is in both
        rows, start_seq = self._timeline.rows(), self._timeline.start.seq
        newest = rows[-1].number if rows else 0
        rows = rows[bisect.bisect_right(rows, start_seq, key=lambda r: r.last_seq):]
        found: list[Any] = []
        asked = _Asked(self, rows, since_ns, until_ns, by_ns, found)
        if rows:
            with _Reader(self._os, self._files, self._uuid) as reader:
                for index in range(rows[0].number >> LEVELS * FANIN_BITS, (rows[-1].number >> LEVELS * FANIN_BITS) + 1):
                    asked.descend(reader, LEVELS, index)
        for number, packed in opened:
            if packed is not None and number > newest:
                found.append(self._of_open(packed))
        return found, asked.missing

    def _of_open(self, packed: Packed) -> Any:
        from cdp.store.activity_cells import estimated

        def held(seq: int, start: int, sectors: int) -> int:
            with self._lock:
                if (known := self._known.get(seq)) is not None:
                    return known
            known = self._held(seq, start, sectors)
            with self._lock:
                if len(self._known) >= HELD_MOST:
                    self._known.clear()
                self._known[seq] = known
            return known

        return estimated(packed, held)


class _Asked:
    """A walk from large summaries to small ones."""

    def __init__(self, activity: Activity, rows: list[Segment], since_ns: int, until_ns: int, by_ns: int,
                 found: list[Any]):
        self._activity, self._rows, self._found = activity, rows, found
        self._since_ns, self._until_ns, self._by_ns = since_ns, until_ns, by_ns
        self._make_until_s = time.monotonic() + MAKE_S
        self.missing = 0

    def descend(self, reader: _Reader, level: int, index: int) -> None:
        first, last = self._rows[0].number, self._rows[-1].number
        begin, end = index << level * FANIN_BITS, (index + 1) << level * FANIN_BITS
        if end <= first or begin > last:
            return
        if level == 0:
            self._segment(reader, index)
            return
        summary = reader.get(level, index)
        if summary is not None:
            if not self._inside(summary):
                return
            width = summary.width_ns
            if begin >= first and width <= self._by_ns and self._by_ns % width == 0 or \
                    begin >= first and width * 8 <= self._by_ns:
                self._found.append(summary)
                return
        for child in range(index << FANIN_BITS, (index + 1) << FANIN_BITS):
            self.descend(reader, level - 1, child)

    def _inside(self, summary: Any) -> bool:
        slots, width = summary.cells["slot"], summary.width_ns
        return bool(((slots >= self._since_ns // width) & (slots <= self._until_ns // width)).any())

    def _segment(self, reader: _Reader, number: int) -> None:
        at = bisect.bisect_left(self._rows, number, key=lambda r: r.number)
        row = self._rows[at] if at < len(self._rows) and self._rows[at].number == number else None
        summary = reader.get(0, number) if row is None else reader.of(row)
        if summary is None and row is not None:
            if row.last_ts_ns < self._since_ns or row.first_ts_ns >= self._until_ns:
                return
            if time.monotonic() > self._make_until_s:
                self.missing += 1
                return
            summary = self._activity._made(row)
        if summary is not None and self._inside(summary):
            self._found.append(summary)


def _any(rows: list[Segment], index: int, level: int) -> bool:
    """Whether there are segments of that group."""
    begin, end = index << level * FANIN_BITS, (index + 1) << level * FANIN_BITS
    at = bisect.bisect_left(rows, begin, key=lambda r: r.number)
    return at < len(rows) and rows[at].number < end


class _Reader:
    """The files of summaries, open while it is asked. One thread."""

    def __init__(self, os: Os, files: VolumeFiles, uuid: bytes):
        self._os, self._files, self._uuid = os, files, uuid
        self._stack = ExitStack()
        self._open: dict[int, File] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, level: int, index: int) -> Any:
        """A summary, or None."""
        found = self._found(level, index)
        return None if found is None else found[0]

    def of(self, row: Segment) -> Any:
        """That of a segment, or None."""
        found = self._found(0, row.number)
        return None if found is None or found[1] != row.last_seq else found[0]

    def _found(self, level: int, index: int) -> tuple[Any, int] | None:
        from cdp.store.activity_cells import SLOT_BYTES, unpacked

        file = self._open.get(level)
        try:
            if file is None:
                file = self._open[level] = self._stack.enter_context(self._os.open(self._files.activity(level)))
            return unpacked(file.pread(SLOT_BYTES, index * SLOT_BYTES), self._uuid, index << level * FANIN_BITS, level)
        except CdpError:
            return None
