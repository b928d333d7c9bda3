"""What changed: the versions of a range, and what differs between two moments.

The index finds both, without reading the log: the versions of a range are a column of it, and two moments can differ
only where one shows a version that the other does not. Of the log, a version's frame is read for its time and kind; of
the content, what was written between two moments is read and compared.

Threading: any thread; an iterator is one thread's.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cdp.moments import lineage
from cdp.moments.records import DIFFERENCE, RESTORE, VERSION
from cdp.store.store import Store
from cdpcore.index.view import View
from cdpcore.volume.changes import Changes
from cdpcore.volume.history import history

PAGE_ROWS = 16_384
_ROW = np.dtype([("seq", "<u8"), ("offset", "<u8"), ("end", "<u8"), ("bytes", "<u8"), ("on_line", "<u4"),
                 ("zero", "<u4")])
_DIFFERENCE = np.dtype(DIFFERENCE)


def versions(store: Store, offset: int, length: int, after: int, upto: int, limit: int | None = None) -> Iterator[Any]:
    """VERSION arrays, in order: the records after < seq <= upto that changed a range, and the restores of it; less what
    a destructive restore discarded. `limit`: about how many are wanted."""
    if length == 0:
        return
    restores, sectors = store.lineage_records(), store.sectors
    line = View(lineage.view(lineage.NOW, restores, sectors))
    events = _restores(store, restores, offset, length)
    most = PAGE_ROWS if limit is None else max(1, min(PAGE_ROWS, limit))
    gaps = store.gaps()
    more = True
    while more:
        raw, more = history(store.core, line, offset, length, after, upto, most)
        rows = np.frombuffer(raw, _ROW)
        last = int(rows["seq"][-1]) if more else upto
        within = events[(events["seq"] > after) & (events["seq"] <= last)]
        page = np.concatenate([_dated(store, rows, offset, length), within])
        for lo, hi in gaps:
            page = page[(page["seq"] <= lo) | (page["seq"] >= hi) | (page["present"] != 0)]
        if len(page):
            yield page[np.argsort(page["seq"])]
        after = last


def _dated(store: Store, rows: Any, offset: int, length: int) -> Any:
    """Rows of the index as VERSION, with what their records say. Those freed meanwhile are left out."""
    records = store.timeline.chosen(rows["seq"])
    rows = rows[np.isin(rows["seq"], records["seq"])]
    out = np.zeros(len(rows), VERSION)
    for name in ("seq", "ts_ns", "kind", "flags"):
        out[name] = records[name]
    first, end = rows["offset"].clip(min=offset), rows["end"].clip(max=offset + length)
    out["offset"], out["length"], out["present"] = first, end - first, rows["on_line"]
    # Of the first and last sector, what lies outside the range.
    out["bytes"] = rows["bytes"] - (first - rows["offset"]) - (rows["end"] - end)
    return out


def _restores(store: Store, restores: list[lineage.RestoreRecord], offset: int, length: int) -> Any:
    """The restores of a range, as VERSION."""
    start, end = offset // 512, -(-(offset + length) // 512)
    overlapping = [r for r in restores if r.start < end and r.end > start and r.seq > store.timeline.start.seq]
    out = np.zeros(len(overlapping), VERSION)
    if overlapping:
        shown = {seq for a, b, seqs in lineage.restores_shown(lineage.NOW, restores, store.sectors)
                 if a < end and b > start for seq in seqs}
        for row, r in zip(out, overlapping, strict=True):
            first, last = max(r.start * 512, offset), min(r.end * 512, offset + length)
            row["seq"], row["ts_ns"], row["kind"], row["target"] = r.seq, r.ts_ns, RESTORE, r.target_seq
            row["offset"], row["present"] = first, r.seq in shown
            row["length"] = row["bytes"] = last - first
    return out


def map_capsule(store: Store, first: View, second: View | None, pin: Any) -> Any:
    """PyCapsule "cdpcore.map" of what was written between two views, second None: now and whatever comes; for a front
    end."""
    return Changes(store.core, first, second, pin).capsule()


def differences(store: Store, first: View, second: View | None, offset: int, length: int,
                compared: bool) -> Iterator[Any]:
    """DIFFERENCE arrays: the ranges of [offset, offset + length) that differ between two views, second None: now, in
    order; two that touch are of different kinds. Not `compared`: what was written, whatever."""
    changes = Changes(store.core, first, second)
    at, end = offset, offset + length
    held = np.empty(0, _DIFFERENCE)     # the last row: what the next batch begins with may continue it
    while at < end:
        raw, at = changes.differences(at, end - at, compared, PAGE_ROWS)
        rows = np.frombuffer(raw, _DIFFERENCE)
        if len(held) and len(rows) and rows[0]["kind"] == held[0]["kind"] \
                and held[0]["offset"] + held[0]["length"] == rows[0]["offset"]:
            rows = rows.copy()
            rows[0]["offset"] = held[0]["offset"]
            rows[0]["length"] += held[0]["length"]
            held = held[:0]
        rows = np.concatenate([held, rows])
        held = rows[-1:]
        if len(rows) > 1:
            yield rows[:-1]
    if len(held):
        yield held
