"""The timeline: from a time to a seq, from a seq to its record, and the history as an array.

Sealed segments are known by their catalog rows (some 300 bytes of memory each: 1.2 MiB per TiB of log); inside one, its
directory of frames is read (32 bytes a frame), then one frame's descriptors. So resolving a point reads a few blocks,
however long the history is. The open segment looks the same; what of it is not written yet is read from memory, so
nothing here waits for the log's writes.

Threading: any thread; the list of rows is replaced, never changed in place.
"""
from __future__ import annotations

import bisect
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from cdp.moments.clock import NO_END
from cdp.moments.model import ClockStep, Moment
from cdp.moments.records import FLUSH, FUA, MORE
from cdp.store.catalog import Segment
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Corruption, NotFound
from cdpcore.log import tail as log_tail
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import Os

TRIES = 8       # tries of a look whose records a destructive restore frees; that many would have to come in a row

Look = TypeVar("Look", bound=Callable[..., Any])


class _Late:
    """cdp.store.record_arrays, imported when a record is first looked for."""

    def __getattr__(self, name: str) -> Any:
        from cdp.store import record_arrays
        return getattr(record_arrays, name)


arrays: Any = _Late()
_late = False


def import_numpy_late() -> None:
    """For a process that opens a volume, asks something and ends: NumPy, half of its time, is imported when a record is
    first looked for. All others import it with the first volume: in a process with busy threads an import takes long,
    because it has to wait for the GIL at each file."""
    global _late
    _late = True


class _Freed(NotFound):
    """A segment was freed after it was found, and before it was read."""


def _again(look: Look) -> Look:
    """Looks anew where what was found is freed meanwhile."""
    @functools.wraps(look)
    def looks(*args: Any) -> Any:
        for _ in range(TRIES - 1):
            try:
                return look(*args)
            except _Freed:
                pass
        return look(*args)
    return cast(Look, looks)


@dataclass
class _Part:
    """One segment: where its frames are."""

    number: int
    first_seq: int
    first_ts_ns: int
    last_seq: int           # the file may hold more: parts of a record (torn tail), records that are not visible yet
    frames: Any = None      # FRAME array, loaded when needed
    in_memory: bool = False # some frames may not be in the file yet


class Timeline:
    """The history of one volume.

    Args: os, files, uuid: where the segments are; start: the oldest moment; rows: sealed segments, ascending; core: the
        volume's VolumeCore; None: sealed segments only; steps: of the clock, before the volume was opened.
    """

    def __init__(self, os: Os, files: VolumeFiles, uuid: bytes, start: Moment, rows: list[Segment], core: Any = None,
                 steps: Sequence[ClockStep] = ()):
        self._os, self._files, self._uuid, self._core = os, files, uuid, core
        self.start = start
        self._rows = [r for r in rows if r.last_seq >= r.first_seq]
        self._steps = steps
        if not _late:
            _ = arrays.FRAME
        self._changing = threading.Lock()       # the seal thread adds, a destructive restore removes

    def add(self, row: Segment) -> None:
        """A segment was sealed."""
        if row.last_seq >= row.first_seq:
            with self._changing:
                self._rows = [*self._rows, row]

    def remove(self, numbers: set[int]) -> None:
        """Segments were freed."""
        with self._changing:
            self._rows = [r for r in self._rows if r.number not in numbers]

    def rows(self) -> list[Segment]:
        """The sealed segments that have records."""
        return self._rows

    # --- one record ---------------------------------------------------------------------------------------------------

    def clock_steps(self, upto: int) -> list[ClockStep]:
        """Where the clock went back, up to record `upto`."""
        here = () if self._core is None else self._core.log.clock.since(0)
        return [*(s for s in self._steps if s.seq > self.start.seq),
                *(ClockStep(*s) for s in here if self.start.seq < s[0] <= upto)]

    @_again
    def at_time(self, ts_ns: int, first_seq: int = 0, last_seq: int = NO_END) -> Moment:
        """The last record at or before `ts_ns` of a stretch (cdp.moments.clock), which has the records first_seq to
        last_seq and begins at or before `ts_ns`; the oldest moment where there is none. Raises NotFound where it was
        freed."""
        part = self._part_at(ts_ns, first_seq, last_seq)
        if part is None:
            return self.start
        frames = self._frames(part)
        begun = int(arrays.find(frames["first_seq"], first_seq, side="right"))
        within = frames["first_ts_ns"][begun:int(arrays.find(frames["first_seq"], last_seq, side="right"))]
        frame = max(0, begun - 1 + int(arrays.find(within, ts_ns, side="right")))
        records = self._records(part, frames, frame, first_seq, last_seq)
        while not len(records) and frame:       # a torn tail can end with frames of parts of a void record
            frame -= 1
            records = self._records(part, frames, frame, first_seq, last_seq)
        found = int(arrays.find(records["ts_ns"], ts_ns, side="right")) - 1
        if found < 0:
            raise NotFound("that moment was freed",
                           "choose a point inside the window ('cdp window')")
        return Moment(int(records["seq"][found]), int(records["ts_ns"][found]))

    @_again
    def record(self, seq: int) -> Any:
        """The RECORD with this seq. Raises NotFound where its segment was freed or seq was never written."""
        part = self._part(lambda p: p.first_seq, seq, lambda row: row.last_seq)
        if part is not None:
            frames = self._frames(part)
            frame = int(arrays.find(frames["first_seq"], seq, side="left"))
            if frame == len(frames) or frames["first_seq"][frame] > seq:
                frame -= 1
            records = self._records(part, frames, frame)
            found = int(arrays.find(records["seq"], seq))
            if found < len(records) and records["seq"][found] == seq:
                return records[found]
        raise NotFound(f"record #{seq} is not in the log", "choose a point inside the window ('cdp window')")

    def chosen(self, seqs: Any) -> Any:
        """The RECORDs with these seqs (an ascending array), less what was freed. Of a sealed segment only they are made
        records, and each frame that has some of them is read once."""
        found, at = [], 0
        while at < len(seqs):
            part = self._part(lambda p: p.first_seq, int(seqs[at]), lambda row: row.last_seq)
            end = at + 1
            if part is not None:
                end = max(end, int(arrays.find(seqs, part.last_seq, side="right")))
                wanted = seqs[at:end]
                with suppress(_Freed):
                    if part.in_memory:
                        frames = self._frames(part)
                        found += [arrays.among(self._records(part, frames, frame), wanted)
                                  for frame in arrays.frames_with(frames, wanted)]
                    else:
                        found.append(arrays.of_segment(self._os, self._open(part.number), wanted))
            at = end
        return arrays.put_together(found)

    def moment(self, seq: int) -> Moment:
        """The moment of `seq`, the oldest one included, whose record may be gone."""
        start = self.start
        return start if seq == start.seq else Moment(seq, int(self.record(seq)["ts_ns"]))

    @_again
    def last_flush(self, seq: int) -> int:
        """The last FLUSH or FUA record at or before `seq`; 0: none."""
        part = self._part(lambda p: p.first_seq, seq, lambda row: row.last_seq)
        while part is not None:
            frames, limit = self._frames(part), min(seq, part.last_seq)
            for frame in reversed(range(int(arrays.find(frames["first_seq"], limit, side="right")))):
                if frames["flush_seq"][frame] <= limit:     # the last one at or before the frame's end
                    return int(frames["flush_seq"][frame])
                records = self._records(part, frames, frame)
                durable = (records["kind"] == FLUSH) | (records["flags"] & FUA != 0)
                hits = records["seq"][(records["seq"] <= limit) & durable]
                if len(hits):
                    return int(hits[-1])
            part = self._part(lambda p: p.first_seq, part.first_seq - 1, lambda row: row.last_seq)
        return 0

    # --- many ---------------------------------------------------------------------------------------------------------

    def records(self, after: int, upto: int) -> Iterator[Any]:
        """RECORD arrays of after < seq <= upto, in order, some ten thousand records at a time. Of what a destructive
        restore frees meanwhile, some or none."""
        for part in self._parts(after + 1):
            if part.first_seq > upto:
                break
            try:
                yield from self._records_of(part, after, min(upto, part.last_seq))
            except _Freed:
                pass

    def _records_of(self, part: _Part, after: int, upto: int) -> Iterator[Any]:
        frames = self._frames(part)
        lo = max(0, int(arrays.find(frames["first_seq"], after + 1, side="left")) - 1)
        hi = int(arrays.find(frames["first_seq"], upto, side="right"))
        held = arrays.joined([])
        for at, end in arrays.batches(frames, lo, hi):
            seqs, descs = arrays.joined([held, self._read(part, frames, at, end)])
            whole = len(seqs)
            while whole and descs["flags"][whole - 1] & MORE:   # its last part is in the next batch
                whole -= 1
            held = seqs[whole:], descs[whole:]
            records = arrays.group(seqs[:whole], descs[:whole])
            records = records[(records["seq"] > after) & (records["seq"] <= upto)]
            if len(records):
                yield records

    def descriptors(self, number: int) -> Iterator[tuple[Any, Any]]:
        """(seqs, DESC array) of a sealed segment's frames, in batches; for freeing. Takes no lock of the log's."""
        row = next((r for r in self._rows if r.number == number), None)
        if row is not None:
            part = _sealed(row)
            frames = self._frames(part)
            for at, end in arrays.batches(frames, 0, len(frames)):
                yield self._read(part, frames, at, end)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _now(self) -> tuple[list[Segment], list[_Part]]:
        """Sealed segments, and behind them those that are not: at most one being sealed, and the open one. The rows are
        read after the tail: a segment joins them before it leaves the tail, so none is missed."""
        tail = []
        if self._core is not None:
            upto = self._core.position()[0]         # before the tail is looked at, which may show more than is visible
            for number, raw in log_tail.directories(self._core.log):
                frames = arrays.frames_of(raw)
                frames = frames[frames["first_seq"] <= upto]
                if len(frames):
                    tail.append(_Part(number, int(frames["first_seq"][0]), int(frames["first_ts_ns"][0]), upto, frames,
                                      True))
        rows = self._rows
        newest = rows[-1].number if rows else 0
        return rows, [p for p in tail if p.number > newest]

    def _part(self, key: Callable[[Any], int], value: int, end: Callable[[Segment], int]) -> _Part | None:
        """The last part whose first record is at or before `value`: a binary search, however many segments there are.
        `end`: as `key`, of a row's last record."""
        rows = self._rows
        if not rows or value > end(rows[-1]):
            rows, tail = self._now()
            for part in reversed(tail):
                if key(part) <= value:
                    return part
        at = bisect.bisect_right(rows, value, key=key) - 1
        return _sealed(rows[at]) if at >= 0 else None

    def _part_at(self, ts_ns: int, first_seq: int, last_seq: int) -> _Part | None:
        """The part with the last record at or before `ts_ns` of a stretch: the last one of those that begin in it, at
        or before `ts_ns`, or else the one with the stretch's first record."""
        rows = self._rows
        end = rows[-1] if rows else None
        if end is None or last_seq > end.last_seq and not (first_seq <= end.last_seq and ts_ns <= end.last_ts_ns):
            rows, tail = self._now()
            for part in reversed(tail):
                if part.first_seq <= first_seq or part.first_seq <= last_seq and part.first_ts_ns <= ts_ns:
                    return part
        lo, hi = (bisect.bisect_right(rows, seq, key=lambda r: r.first_seq) for seq in (first_seq, last_seq))
        at = bisect.bisect_right(rows, ts_ns, lo, hi, key=lambda r: r.first_ts_ns) - 1
        return _sealed(rows[at]) if at >= 0 else None

    def _parts(self, after: int) -> list[_Part]:
        """From the part that has record `after` on."""
        rows, tail = self._now()
        first = max(0, bisect.bisect_right(rows, after, key=lambda r: r.first_seq) - 1)
        return [*map(_sealed, rows[first:]), *tail]

    def _open(self, number: int) -> SegmentFile:
        path = self._files.segment(number)
        try:
            return SegmentFile(self._os, path, self._uuid, number)
        except NotFound:
            # It leaves the rows before its file goes; one that was not sealed when it was found joined them first.
            tail = [] if self._core is None else [n for n, _ in log_tail.directories(self._core.log)]
            if self._core is None or number in tail or any(r.number == number for r in self._rows):
                raise
            raise _Freed(f"{path}: was freed",
                         "choose a point inside the window ('cdp window')") from None

    def _frames(self, part: _Part) -> Any:
        if part.frames is None:
            part.frames = arrays.frames_of(self._open(part.number).directory())
        if not len(part.frames):
            raise Corruption(f"{self._files.segment(part.number)}: no frames", "run 'cdp check' on the volume")
        return part.frames

    def _records(self, part: _Part, frames: Any, frame: int, first_seq: int = 0, last_seq: int = NO_END) -> Any:
        """Those that have a part in that frame, whole: the parts of one may go on in the next frame, which has room
        for them."""
        lo, begins = frame, frames["first_seq"]
        # A frame without records of several parts ends with a whole one: as many seqs as descriptors.
        while lo and begins[lo] == begins[frame] and begins[lo] < begins[lo - 1] + frames["n_desc"][lo - 1]:
            lo -= 1
        seqs, descs = self._read(part, frames, lo, frame + 1)
        end = frame + 1
        while end < len(frames) and len(descs) and descs["flags"][-1] & MORE:
            seqs, descs = arrays.joined([(seqs, descs), self._read(part, frames, end, end + 1)])
            end += 1
        records = arrays.group(seqs, descs)
        first_seq = max(first_seq, int(begins[frame]))
        return records[(records["seq"] >= first_seq) & (records["seq"] <= min(part.last_seq, last_seq))]

    def _read(self, part: _Part, frames: Any, lo: int, hi: int) -> tuple[Any, Any]:
        """seq of each descriptor, and the descriptors, of frames [lo, hi)."""
        if not part.in_memory and lo < hi:
            packed = self._open(part.number).record_batch(int(frames["offset_blocks"][lo]) * 4096, lo, hi - lo)
            both: tuple[Any, Any] = arrays.unpacked(packed[0], packed[1])
            return both
        segment = None
        read = []
        for frame in range(lo, hi):
            found = log_tail.descriptors(self._core.log, part.number, frame) if part.in_memory else None
            if found is None:
                segment = segment or self._open(part.number)
                found = segment.records(int(frames["offset_blocks"][frame]) * 4096, frame)
            read.append(arrays.descriptors_of(*found))
        both = arrays.joined(read)
        return both


def _sealed(row: Segment) -> _Part:
    return _Part(row.number, row.first_seq, row.first_ts_ns, row.last_seq)
