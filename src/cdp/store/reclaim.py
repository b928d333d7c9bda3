"""Freeing what a destructive restore discarded: records in (target, restore) that lie in its range.

A segment that holds nothing else is deleted; in others the data is punched out of the file and the descriptors stay, so
the log stays complete. Idempotent: the restore record in the log decides, so this may run again after a crash.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cdp.moments.records import keeps_data
from cdp.store.catalog import Punched, RestoreRow, Segment
from cdp.store.layout import segment_numbers
from cdp.store.timeline import Timeline
from cdpcore.log.segment_file import SegmentFile

if TYPE_CHECKING:
    from cdp.store.store import Store

READERS_MS = 1000
"""How long one attempt waits for reads that began before the restore: the next attempt is maintenance's."""


def discarded(seqs: Any, descs: Any, row: RestoreRow) -> Any:
    """Which descriptors (a bool array) a destructive restore discarded."""
    return (seqs > row.target_seq) & (seqs < row.seq) & (descs["data_bytes"] > 0) & keeps_data(descs["kind"]) & \
        (descs["start"] >= row.start) & (descs["start"] + descs["sectors"] <= row.end)


def reclaim(store: Store, row: RestoreRow, at_once: bool = False) -> bool:
    """Free the space; constant memory. Called with the volume's lock held, I/O goes on. True: done, all of it.

    False while the restore itself is in a segment that the catalog does not know. Recovery expects such a segment to
    follow the last one in the catalog, so that one has to stay, and its data to be whole. Then nothing is done, or
    `at_once` what can be: a full device needs the space to go on. To be called again when the segment is sealed; the
    same while a read goes on that began before the restore, which may be about to read what is to be freed.
    """
    whole = row.start == 0 and row.end == store.sectors
    rows: list[Segment] = store.catalog.rows(Segment)
    known = any(r.last_seq >= row.seq for r in rows)
    if not (known or at_once) or not store.core.versions.readers_gone(READERS_MS):
        return False
    # Without the log: this may be the maintenance thread, for which a writer waits that holds the append lock.
    sealed = Timeline(store.os, store.files, store.uuid, store.geometry.start, rows)
    stays = 0 if known else max((r.number for r in rows), default=0)
    gone = [r for r in rows if whole and r.first_seq > row.target_seq and r.last_seq < row.seq and r.number != stays]
    if gone:
        with store.catalog.write() as txn:
            for r in gone:
                txn.remove(Segment, r.number)
                if r.number in store.punched:
                    txn.remove(Punched, r.number)
        store.timeline.remove({r.number for r in gone})
    numbers = [r.number for r in gone] + (_left_behind(store, rows, row) if whole and known else [])
    for number in numbers:
        store.core.forget_segment(number)
        store.os.unlink(store.files.segment(number))
    if numbers:
        store.os.sync_dir(store.files.log)
    for r in rows:
        if r not in gone and r.last_seq > row.target_seq and r.first_seq < row.seq:
            _punch(store, sealed, r.number, row)
    return known


def _left_behind(store: Store, rows: list[Segment], row: RestoreRow) -> list[int]:
    """Segments that an interrupted reclaim took out of the catalog and did not delete."""
    known, found = {r.number for r in rows}, []
    for number in segment_numbers(store.os, store.files):
        if number not in known and number < max(known, default=0):
            segment = SegmentFile(store.os, store.files.segment(number), store.uuid, number)
            if segment.sealed and segment.first_seq > row.target_seq and segment.last_seq < row.seq:
                found.append(number)
            segment.close()
    return found


def _punch(store: Store, sealed: Timeline, number: int, row: RestoreRow) -> None:
    segment = SegmentFile(store.os, store.files.segment(number), store.uuid, number, writable=True)
    try:
        for seqs, descs in sealed.descriptors(number):
            for d in descs[discarded(seqs, descs, row)]:
                segment.punch(int(d["data_sector"]) * 512, int(d["data_bytes"]))
    finally:
        segment.close()
