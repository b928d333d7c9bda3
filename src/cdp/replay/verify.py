"""Was every moment of a replay kept right? The trace is read again and the volume's history held against it.

Two independent questions:
 1. History: record by record, is change k of the trace the k-th change that the volume logged (kind, place,
    durability), and are all changes there that were acknowledged as durable?
 2. Content: at chosen moments, opened as time images, does every cell hold what the last change before the moment put
    there? The model is painted from the trace alone: cells between all ends of all changes, and who covered them last.

At each chosen moment everything is read that changed since the one before (so between them all writes are read at least
once), and old cells up to `old_bytes`; at the last moment all cells, and stretches that no change touched.

Memory is bounded: at most MAX_PIECES changes are kept. Where a trace has more, only zones of ZONE_BYTES at equal
distances are modelled; the result says which share of the disk that is. One thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdp.moments.records import FLUSH, FUA, TRIM, WRITE, ZERO, changes_content
from cdp.replay.payloads import payload
from cdp.replay.session import Session, acknowledged
from cdp.replay.shape import Shape, is_change
from cdp.trace.model import Flag, Kind, Records
from cdp.trace.reader import Trace
from cdp.volume.volume import Volume
from cdpcore.base.errors import InvalidRequest
from cdpcore.trace import check as replaycheck

U64 = NDArray[np.uint64]
MAX_PIECES = 1 << 20
MAX_MOMENTS = 10_000
ZONE_BYTES = 1 << 20
_PHASE = 0x9E3779B9  # which zones are modelled where not all are
OLD_BYTES = 8 << 20
UNTOUCHED_BYTES = 64 << 20
_UNTOUCHED_PIECE = 64 << 10
_KINDS = np.array([0, WRITE, TRIM, ZERO, FLUSH, 0], np.uint8)  # of a record, by trace Kind
PIECE = np.dtype(
    [("start", "<u8"), ("end", "<u8"), ("change", "<u8"), ("payload", "<u8"), ("source", "<u2"), ("kind", "u1")]
)


@dataclass
class Verified:
    """What was compared and what differed."""

    changes_in_trace: int = 0  # within the limit
    changes_in_volume: int = 0
    durable_expected: int = 0  # changes that the replay knew to be durable
    moments: int = 0
    flush_moments: int = 0  # of them, right after a flush or a durable write
    flush_moments_known: int = 0
    bytes_compared: int = 0
    share_modelled: float = 1.0
    mismatches: list[str] = field(default_factory=list)  # the first, in words
    mismatch_count: int = 0

    @property
    def ok(self) -> bool:
        return self.mismatch_count == 0

    def add(self, text: str, count: int = 1) -> None:
        self.mismatch_count += count
        if len(self.mismatches) < 16:
            self.mismatches.append(text)

    def report(self, target: str, trace: Trace) -> dict[str, Any]:
        """The same fields for every target (its folder or URI), as docs/replay.md describes them."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"volume": target, **fields, "ok": self.ok, "left_out_of_trace": trace.left_out}


def changes_of(
    trace: Trace, session: Session, shape: Shape, progress: Callable[[int], None] | None = None
) -> Iterator[Records]:
    """The shaped changes of a session's disk, in order."""
    seen = 0
    for records in trace:
        if session.limit is not None:
            records = records[: session.limit - seen]
        seen += len(records)
        if session.device is not None:
            wanted = [i for i, name in enumerate(trace.devices) if name == session.device]
            records = records[np.isin(records["device"], wanted)]
        shaped = shape.apply(records)
        yield shaped[is_change(shaped)]
        if progress:
            progress(seen)
        if session.limit is not None and seen >= session.limit:
            return


def verify(
    volume: Volume,
    session: Session,
    trace: Trace,
    *,
    moments: int = 32,
    all_flushes: bool = False,
    seed: int = 0,
    max_pieces: int = MAX_PIECES,
    old_bytes: int = OLD_BYTES,
    progress: Callable[[int], None] | None = None,
    moments_progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Holds the volume against the trace.

    moments: so many random ones, besides the first and the last. all_flushes: also the moment of each flush and each
    durable write (MAX_MOMENTS at most, evenly chosen; the result says of how many).
    Raises what opening images and reading the trace raise; a difference is in the result, not an exception.
    """
    found = Verified()
    picked = _Moments(session.start_seq, volume.window().newest.seq, moments, seed)
    pieces = Pieces(max_pieces, session.size_bytes)
    _history(volume, session, trace, found, pieces, picked, progress)
    kept = pieces.result()
    found.share_modelled, found.flush_moments_known = pieces.share, picked.flushes_known
    _contents(volume, session, trace, _Model(kept, picked, all_flushes), seed, old_bytes, found, moments_progress)
    return found


@dataclass
class _Model:
    pieces: Any  # PIECE array, by change
    moments: _Moments
    all_flushes: bool


class _Reader:
    """Takes arrays off an iterator in wanted lengths."""

    def __init__(self, arrays: Iterator[Any]):
        self._arrays = arrays
        self._rest: Any = None

    def take(self, count: int) -> Any:
        parts, have = [], 0
        while have < count:
            if self._rest is None or not len(self._rest):
                self._rest = next(self._arrays, None)
                if self._rest is None:
                    break
            part = self._rest[: count - have]
            self._rest = self._rest[len(part) :]
            parts.append(part)
            have += len(part)
        return np.concatenate(parts) if parts else None


def _history(
    volume: Volume,
    session: Session,
    trace: Trace,
    found: Verified,
    pieces: Pieces,
    moments: _Moments,
    progress: Callable[[int], None] | None,
) -> None:
    """Question 1, and what question 2 needs, in one pass over both."""
    shape = session.shape()
    expected = _Reader(changes_of(trace, session, shape, progress))
    done, over = 0, False
    for records in volume.iter_records(session.start_seq):
        mine = records[changes_content(records["kind"])]
        wanted = expected.take(len(mine))
        n = 0 if wanted is None else len(wanted)
        if n:
            _hold(mine[:n], wanted, done, session, trace, found)
            pieces.add(wanted, done + 1)
        if n < len(mine):  # somebody wrote to the volume after the replay
            over = True
            records = records[records["seq"] < mine["seq"][n]]
        change = changes_content(records["kind"])
        durable = (records["kind"] == FLUSH) | (change & (records["flags"] & FUA != 0))
        if len(records):
            moments.add(records, done + np.cumsum(change).astype(np.uint64), durable)
        done += n
        if over:
            break
    rest = 0
    while not over and (more := expected.take(1 << 16)) is not None:
        rest += len(more)
    found.changes_in_volume, found.changes_in_trace = done, done + rest
    _, found.durable_expected = acknowledged(session.volume)
    if done < found.durable_expected:
        found.add(f"{found.durable_expected} changes were acknowledged as durable, the volume has {done}")
    if session.report is not None and done != session.report["changes"]:
        found.add(f"the report says {session.report['changes']} changes, the volume has {done}")


def _hold(mine: Any, wanted: Records, done: int, session: Session, trace: Trace, found: Verified) -> None:
    """Logged changes against the trace's: kind, place in whole sectors, durability."""
    start = wanted["offset_bytes"] // np.uint64(512) * np.uint64(512)
    end = (wanted["offset_bytes"] + wanted["length_bytes"] + np.uint64(511)) // np.uint64(512) * np.uint64(512)
    kind = _KINDS[wanted["kind"]]
    # A trim or zero inside sectors that it does not cover is logged as their new content.
    inner = (wanted["offset_bytes"] + np.uint64(511)) // np.uint64(512) >= (
        wanted["offset_bytes"] + wanted["length_bytes"]
    ) // np.uint64(512)
    kind = np.where(inner, np.uint8(WRITE), kind)
    fua = (wanted["flags"] & int(Flag.FUA)) != 0
    same = (
        (mine["offset"] == start)
        & (mine["length"] == end - start)
        & (mine["kind"] == kind)
        & ((mine["flags"] & FUA != 0) == fua)
    )
    if not same.all():
        first = int(np.flatnonzero(~same)[0])
        found.add(
            f"record #{mine['seq'][first]}: {trace.place(wanted[first])} asks for kind {kind[first]} at "
            f"{start[first]}, {end[first] - start[first]} bytes; logged is kind {mine['kind'][first]} at "
            f"{mine['offset'][first]}, {mine['length'][first]} bytes (change {done + first + 1})",
            int(np.count_nonzero(~same)),
        )


class Pieces:
    """The changes, or the parts of them that lie in modelled zones.

    Zones are ZONE_BYTES long, `period` bytes apart. Too many pieces: the period doubles, so that of the old zones some
    stay; when it has reached the disk's size, the one zone that is left is halved, down to a sector.
    """

    def __init__(self, most: int, size_bytes: int):
        self._most, self._size = most, size_bytes
        self._period = self._zone = ZONE_BYTES
        self._held: list[Any] = []
        self._count = 0

    @property
    def share(self) -> float:
        """Of the disk that is modelled."""
        return self._zone / self._period

    def add(self, changes: Records, first: int) -> None:
        """Shaped changes with the numbers from `first` on. Raises InvalidRequest where no bounded model is possible."""
        new = np.empty(len(changes), PIECE)
        new["start"], new["end"] = changes["offset_bytes"], changes["offset_bytes"] + changes["length_bytes"]
        new["change"] = np.arange(first, first + len(changes), dtype=np.uint64)
        for name in ("payload", "source", "kind"):
            new[name] = changes[name]
        self._held.append(self._sampled(new))
        self._count += len(self._held[-1])
        while self._count > self._most:
            self._coarser()
            self._held = [self._sampled(np.concatenate(self._held))]
            self._count = len(self._held[0])

    def _coarser(self) -> None:
        if self._period * 2 <= self._size:
            self._period *= 2
        elif self._zone > 512:
            self._zone //= 2
        else:
            raise InvalidRequest(
                f"more than {self._most} changes of one sector: no bounded model of them", "verify a part with --limit"
            )

    def _sampled(self, pieces: Any) -> Any:
        """The parts in zones."""
        if self._zone == self._period:
            return pieces
        # Not the first zone of the disk, which is like no other; the same choice for every period, so old zones contain
        # the new.
        begin = _PHASE % (self._period // ZONE_BYTES) * ZONE_BYTES
        start, end = pieces["start"].astype(np.int64) - begin, pieces["end"].astype(np.int64) - begin
        first = start // self._period
        count = (end - 1) // self._period - first + 1
        if int(count.sum()) > 4 * self._most + len(pieces):  # few but enormous changes
            self._coarser()
            return self._sampled(pieces)
        out = np.repeat(pieces, count)
        nth = np.arange(len(out)) - np.repeat(np.cumsum(count) - count, count)
        zone = (np.repeat(first, count) + nth) * self._period
        low, high = np.maximum(np.repeat(start, count), zone), np.minimum(np.repeat(end, count), zone + self._zone)
        inside = low < high
        skipped = (low - np.repeat(start, count))[inside].astype(np.uint64)
        out, low, high = out[inside], low[inside], high[inside]
        out["payload"] += np.where(out["payload"] > 0, skipped, np.uint64(0))
        out["start"], out["end"] = (low + begin).astype(np.uint64), (high + begin).astype(np.uint64)
        return out

    def result(self) -> Any:
        """PIECE array, by change."""
        # What was added before the zones became fewer, and not sampled again since.
        return self._sampled(np.concatenate(self._held)) if self._held else np.empty(0, PIECE)


class _Moments:
    """Which moments to open: seq -> changes up to it. At most 2 * MAX_MOMENTS flushes are kept, evenly spread."""

    def __init__(self, first_seq: int, newest_seq: int, count: int, seed: int):
        drawn = np.random.default_rng(seed).integers(first_seq, newest_seq + 1, count, dtype=np.uint64, endpoint=False)
        self._drawn = np.unique(drawn)
        self.at: dict[int, int] = {first_seq: 0}
        self.flushes: list[tuple[int, int]] = []
        self.flushes_known = 0
        self._stride = 1
        self.last = (first_seq, 0)

    def add(self, records: Any, upto: U64, durable: NDArray[np.bool_]) -> None:
        """One batch of the history; upto[i]: changes up to and with record i."""
        seq = records["seq"]
        drawn = self._drawn[(self._drawn >= seq[0]) & (self._drawn <= seq[-1])]
        where = np.searchsorted(seq, drawn)
        self.at.update(zip(seq[where].tolist(), upto[where].tolist(), strict=True))
        marks = np.flatnonzero(durable)
        for i in marks.tolist():
            if self.flushes_known % self._stride == 0:
                self.flushes.append((int(seq[i]), int(upto[i])))
            self.flushes_known += 1
        while len(self.flushes) > 2 * MAX_MOMENTS:
            self.flushes = self.flushes[::2]
            self._stride *= 2
        self.last = (int(seq[-1]), int(upto[-1]))

    def chosen(self, all_flushes: bool) -> list[tuple[int, int]]:
        """Ascending by seq; the last moment is among them."""
        found = self.at | dict([self.last])
        if all_flushes:
            found |= dict(self.flushes)
        return sorted(found.items())


def _contents(
    volume: Volume,
    session: Session,
    trace: Trace,
    model: _Model,
    seed: int,
    old_bytes: int,
    found: Verified,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Question 2."""
    pieces = model.pieces
    start, end, low, high = cells_of(pieces)
    owner, touched = np.zeros(len(start), np.uint64), np.zeros(len(start), np.uint8)
    rng = np.random.default_rng(seed + 1)
    chosen = model.moments.chosen(model.all_flushes)
    flushed = dict(model.moments.flushes)
    with volume.at(session.start_seq) as before:
        base = before.target()
        done = 0
        for number, (seq, changes) in enumerate(chosen):
            upto = int(np.searchsorted(pieces["change"], changes, side="right"))
            touched[:] = 0
            replaycheck.paint(owner, touched, low, high, done, upto)
            done = upto
            last = number == len(chosen) - 1
            cells = touched.astype(bool) if not last else np.ones(len(start), bool)
            if not last:
                _old(cells, end - start, old_bytes, rng)
            with volume.at(seq) as image:
                moment, target, picked = f"#{seq} (after change {changes})", image.target(), np.flatnonzero(cells)
                compare(target, start[picked], end[picked], owner[picked], pieces, trace, session, moment, found, base)
                if last and found.share_modelled == 1:
                    low_gap, high_gap = _untouched(start, end, session.size_bytes)
                    compare(
                        target,
                        low_gap,
                        high_gap,
                        np.zeros(len(low_gap), np.uint64),
                        pieces,
                        trace,
                        session,
                        moment,
                        found,
                        base,
                    )
            found.moments += 1
            found.flush_moments += seq in flushed
            if progress:
                progress(number + 1, len(chosen))


def cells_of(pieces: Any) -> tuple[U64, U64, NDArray[np.int64], NDArray[np.int64]]:
    """Cells between all ends of all pieces, those that no piece covers left out: (start, end), and for each piece its
    cells [low, high)."""
    edges: U64 = np.unique(np.concatenate((pieces["start"], pieces["end"])))
    low, high = np.searchsorted(edges, pieces["start"]), np.searchsorted(edges, pieces["end"])
    depth = np.zeros(len(edges) + 1, np.int64)
    np.add.at(depth, low, 1)
    np.add.at(depth, high, -1)
    covered = np.cumsum(depth)[: max(0, len(edges) - 1)] > 0
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(covered)))
    return edges[:-1][covered], edges[1:][covered], before[low], before[high]


def _old(cells: NDArray[np.bool_], length: U64, old_bytes: int, rng: np.random.Generator) -> None:
    """Adds cells that are to be read although nothing touched them lately, up to `old_bytes` of them."""
    rest = np.flatnonzero(~cells)
    if int(length[rest].sum()) > old_bytes:
        # A random place to begin, then one after the other: adjacent cells are read together.
        rest = np.roll(rest, -int(rng.integers(len(rest))))
        rest = rest[np.cumsum(length[rest]) <= old_bytes]
    cells[rest] = True


def compare(
    target: Any,
    start: U64,
    end: U64,
    owner: U64,
    pieces: Any,
    trace: Trace,
    session: Session,
    moment: str,
    found: Verified,
    base: Any = None,
) -> None:
    """Cells of a disk (a cdp_target capsule) against their owners: numbers of pieces from 1, or 0 for what nobody
    wrote, which is `base`."""
    if not len(start):
        return
    of = np.maximum(owner, np.uint64(1)).astype(np.intp) - 1
    some = len(pieces) > 0
    kind = np.where(owner > 0, pieces["kind"][of], Kind.OTHER) if some else np.full(len(owner), Kind.OTHER)
    change = np.where(owner > 0, pieces["change"][of], np.uint64(0)) if some else owner
    what = np.where((kind == Kind.TRIM) | (kind == Kind.ZERO), np.uint64(replaycheck.ZERO), change)
    if session.data:
        own = kind == Kind.WRITE
        _compare_data(target, start[own], end[own], pieces[of[own]] if some else pieces, trace, moment, found)
        start, end, what, change = start[~own], end[~own], what[~own], change[~own]
    compared, bad, shown = replaycheck.compare(target, start, end, what, session.key, base)
    found.bytes_compared += compared
    found.mismatch_count += bad
    for cell, at, claim in shown:
        by = (
            f"zeros by change {change[cell]}"
            if what[cell] == replaycheck.ZERO
            else f"change {change[cell]}"
            if change[cell]
            else "what was there before the replay"
        )
        found.add(
            f"{moment}, byte {at}: expected {by}; it holds {f'change {claim}' if claim else 'something else'}", 0
        )


def _compare_data(target: Any, start: U64, end: U64, rows: Any, trace: Trace, moment: str, found: Verified) -> None:
    """Cells that hold the trace's own data."""
    for a, b, row in zip(start.tolist(), end.tolist(), rows, strict=True):
        data = payload(trace, int(row["source"]), int(row["payload"]) + a - int(row["start"]), b - a)
        at = replaycheck.differs(target, a, data)
        found.bytes_compared += b - a
        if at is not None:
            found.add(f"{moment}, byte {at}: expected the data of change {row['change']}; it holds something else")


def _untouched(start: U64, end: U64, size_bytes: int) -> tuple[U64, U64]:
    """Beginnings of the stretches that no cell covers, up to UNTOUCHED_BYTES."""
    low, high = (
        np.concatenate((np.zeros(1, np.uint64), end)),
        np.concatenate((start, np.array([size_bytes], np.uint64))),
    )
    some = high > low
    low, high = low[some], high[some]
    high = np.minimum(high, low + np.uint64(_UNTOUCHED_PIECE))
    few = np.cumsum(high - low) <= UNTOUCHED_BYTES
    return low[few], high[few]
