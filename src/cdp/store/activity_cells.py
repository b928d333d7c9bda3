"""Cells of activity as NumPy arrays: read from summaries, joined, estimated, put into intervals of one width. Pure.

cdp.store.activity imports this when it is asked something, not before: see cdp.store.record_arrays.
"""
from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdp.moments.records import ACTIVITY
from cdpcore.base.checksum import crc32c
from cdpcore.log.summaries import WIDTHS_NS

PLACES, MOST_CELLS, SLOT_BYTES = 64, 48, 16384
HEADER = struct.Struct("<8sII16sIIQQQ")
MAGIC = b"CDPACT1\0"
CELL = np.dtype([("slot", "<u8"), ("written", "<u8"), ("overwritten", "<u8"), ("zeroed", "<u8"), ("trimmed", "<u8"),
                 ("writes", "<u4"), ("zeroes", "<u4"), ("trims", "<u4"), ("flushes", "<u4"),
                 ("places", "<f4", (PLACES,))])
SAMPLE = np.dtype([("seq", "<u8"), ("ts_ns", "<u8"), ("start", "<u8"), ("sectors", "<u8")])
AT_ONCE, PAIRS = 256, 1 << 11
COUNTS = ("writes", "zeroes", "trims", "flushes")
SIZES = ("written", "overwritten", "zeroed", "trimmed")


@dataclass(frozen=True)
class Summary:
    """What was done in a segment, or several: cells of one width, ascending by slot, sizes in sectors."""

    width_ns: int
    place_sectors: int
    cells: Any


def packed(summary: Summary, uuid: bytes, number: int, level: int, last_seq: int) -> bytes:
    """As on disk. number: of the first segment; last_seq: of a single segment's last record."""
    cells = summary.cells.tobytes()

    def header(crc: int) -> bytes:
        return HEADER.pack(MAGIC, crc, len(summary.cells), uuid, number, level, summary.width_ns,
                           summary.place_sectors, last_seq)

    return bytes(header(crc32c(header(0) + cells)) + cells)


def unpacked(data: bytes, uuid: bytes, number: int, level: int) -> tuple[Summary, int] | None:
    """The summary, and its last_seq; None where it is not valid, or another's."""
    if len(data) < HEADER.size:
        return None
    magic, crc, n, whose, first, at_level, width_ns, place_sectors, last_seq = HEADER.unpack_from(data)
    end = HEADER.size + n * CELL.itemsize
    if (magic, whose, first, at_level) != (MAGIC, uuid, number, level) or n > MOST_CELLS or end > len(data) or \
            width_ns not in WIDTHS_NS or not place_sectors or \
            crc != crc32c(data[:8] + bytes(4) + data[12:end]):
        return None
    return Summary(width_ns, place_sectors, np.frombuffer(data, CELL, n, HEADER.size)), last_seq


def estimated(found: tuple[int, int, bytes, int, bytes], held: Callable[[int, int, int], int]) -> Summary:
    """A summary as cdpcore.log.summaries has it, with what was overwritten: from the samples. held: (seq, start,
    sectors): how many of them held data before that record."""
    width_ns, place_sectors, raw, stride, sampled = found
    cells = np.frombuffer(raw, CELL).copy()
    if not stride or not len(cells):
        return Summary(width_ns, place_sectors, cells)
    samples = np.frombuffer(sampled, SAMPLE)
    before = np.array([held(int(s["seq"]), int(s["start"]), int(s["sectors"])) for s in samples], np.float64)
    at = np.searchsorted(cells["slot"], samples["ts_ns"] // np.uint64(width_ns))
    sectors = np.bincount(at, samples["sectors"], len(cells))[:len(cells)]
    data = np.bincount(at, before, len(cells))[:len(cells)]
    overall = before.sum() / max(float(samples["sectors"].sum()), 1.0)
    share = np.where(sectors > 0, data / np.maximum(sectors, 1), overall)
    cells["overwritten"] = data if stride == 1 else np.rint(share * cells["written"])
    return Summary(width_ns, place_sectors, cells)


def joined(summaries: Sequence[Summary]) -> Summary:
    """Several as one: the least width that is none of theirs' less, and by which there are at most MOST_CELLS."""
    place_sectors = max(s.place_sectors for s in summaries)
    width_ns = max(s.width_ns for s in summaries)
    cells = np.concatenate([np.empty(0, CELL), *(_wider(_coarser(s, place_sectors), width_ns) for s in summaries)])
    while True:
        cells = _grouped(cells)
        if len(cells) <= MOST_CELLS:
            return Summary(width_ns, place_sectors, cells)
        wider = WIDTHS_NS[WIDTHS_NS.index(width_ns) + 1]
        cells["slot"] //= np.uint64(wider // width_ns)
        width_ns = wider


def _wider(summary: Summary, width_ns: int) -> Any:
    cells = summary.cells.copy()
    cells["slot"] //= np.uint64(width_ns // summary.width_ns)
    return cells


def _grouped(cells: Any) -> Any:
    """One cell a slot, ascending."""
    slots, at = np.unique(cells["slot"], return_inverse=True)
    out = np.zeros(len(slots), CELL)
    out["slot"] = slots
    for name in (*SIZES, *COUNTS):
        np.add.at(out[name], at, cells[name])
    np.add.at(out["places"], at, cells["places"])
    return out


def _coarser(summary: Summary, place_sectors: int) -> Summary:
    """The same with larger places, or (where the volume became smaller) smaller ones."""
    if summary.place_sectors == place_sectors:
        return summary
    cells, places = summary.cells.copy(), np.zeros((len(summary.cells), PLACES), np.float32)
    if summary.place_sectors < place_sectors:
        np.add.at(places.T, np.arange(PLACES) // (place_sectors // summary.place_sectors), cells["places"].T)
    else:
        factor = summary.place_sectors // place_sectors
        n = -(-PLACES // factor)
        places[:] = np.repeat(cells["places"][:, :n] / factor, factor, axis=1)[:, :PLACES]
    cells["places"] = places
    return Summary(summary.width_ns, place_sectors, cells)


def intervals(summaries: Sequence[Summary], begin_ns: int, by_ns: int, n: int, place_sectors: int,
              lived_ns: tuple[int, int]) -> tuple[Any, Any]:
    """`n` intervals of by_ns from begin_ns: an array of ACTIVITY, and bytes written by interval and place. A cell that
    lies in several counts in each for its share of time; lived_ns: it has nothing outside of that."""
    rows, heat = np.zeros(n, ACTIVITY), np.zeros((n, PLACES))
    rows["ts_ns"] = np.uint64(begin_ns) + np.arange(n, dtype=np.uint64) * np.uint64(by_ns)
    sums = {name: np.zeros(n) for name in (*SIZES, *COUNTS)}    # whole numbers, sizes in sectors: exact up to 2^53
    for cells, begins, stops in _some(summaries, begin_ns, by_ns, n, place_sectors, lived_ns):
        widths = stops - begins
        first = np.maximum(begins // by_ns, 0)
        spans = np.minimum((stops - 1) // by_ns, n - 1) - first + 1
        which = np.repeat(np.arange(len(cells)), spans)
        at = np.repeat(first, spans) + np.arange(len(which)) - np.repeat(np.cumsum(spans) - spans, spans)
        # Shares from the cell's begin, so that the parts of a number, each rounded down to it, have its sum.
        ends = np.minimum((at + 1) * by_ns - begins[which], widths[which]) / widths[which]
        starts = np.maximum(at * by_ns - begins[which], 0) / widths[which]
        for name, total in sums.items():
            whole = cells[name].astype(np.float64)[which]
            total += np.bincount(at, np.floor(whole * ends) - np.floor(whole * starts), n)
        if len(at):
            order = np.argsort(at, kind="stable")
            places = cells["places"][which[order]] * ((ends - starts)[order, None] * 512.0)
            present, firsts = np.unique(at[order], return_index=True)
            heat[present] += np.add.reduceat(places, firsts, axis=0)
    for name, total in sums.items():
        rows[name] = total.astype(np.uint64) * np.uint64(512 if name in SIZES else 1)
    return rows, heat


def _some(summaries: Sequence[Summary], begin_ns: int, by_ns: int, n: int, place_sectors: int,
          lived_ns: tuple[int, int]) -> Iterator[tuple[Any, Any, Any]]:
    """The cells that lie in the intervals, and where each begins and stops; as many at a time as have some PAIRS of a
    cell and an interval that it lies in."""
    for at in range(0, len(summaries), AT_ONCE):
        some = [_coarser(summary, place_sectors) for summary in summaries[at:at + AT_ONCE]]
        counts = [len(summary.cells) for summary in some]
        cells, end = np.empty(sum(counts), CELL), 0
        for summary, count in zip(some, counts, strict=True):       # np.concatenate looks at every field of each
            cells[end:end + count] = summary.cells
            end += count
        width = np.repeat(np.array([summary.width_ns for summary in some], np.int64), counts)
        begins = cells["slot"].astype(np.int64) * width - begin_ns
        stops = begins + width
        lived = np.maximum(begins, lived_ns[0] - begin_ns), np.minimum(stops, lived_ns[1] - begin_ns)
        whole = lived[0] >= lived[1]        # the clock was set back
        begins, stops = np.where(whole, begins, lived[0]), np.where(whole, stops, lived[1])
        seen = (stops > 0) & (begins < n * by_ns)
        cells, begins, stops = cells[seen], begins[seen], stops[seen]
        pairs = np.cumsum(np.minimum((stops - 1) // by_ns, n - 1) - np.maximum(begins // by_ns, 0) + 1)
        cuts = [0, *(np.flatnonzero(np.diff(pairs // PAIRS)) + 1).tolist(), len(cells)]
        for first, last in itertools.pairwise(cuts):
            yield cells[first:last], begins[first:last], stops[first:last]
