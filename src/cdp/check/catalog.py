"""Do the catalog and the log say the same of bookmarks, restores and their write-backs? The records in the log decide;
the catalog has them for speed.

Reports only provable differences: an event whose segment a destructive restore freed is in the catalog alone, and so
may a bookmark be gone whose deletion was freed. Where the open part of the log is not read (a volume in service), a
bookmark may have been deleted there.

Pure: rows and events in, sentences out.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from cdp.store.catalog import BookmarkRow, RestoreRow, WritebackRow
from cdp.store.records import Event, apply_event


class _Tables:
    """What the events make of an empty catalog."""

    def __init__(self) -> None:
        self.rows: dict[type, dict[int | str, Any]] = {BookmarkRow: {}, RestoreRow: {}, WritebackRow: {}}

    def put(self, row: Any) -> None:
        self.rows[type(row)][row.name if isinstance(row, BookmarkRow) else row.seq] = row

    def remove(self, kind: type, key: int | str) -> None:
        self.rows[kind].pop(key, None)


def differences(events: Iterable[Event], bookmarks: Iterable[BookmarkRow], restores: Iterable[RestoreRow],
                writebacks: Iterable[WritebackRow], read: Callable[[int], bool], freed_after: int,
                to_the_end: bool) -> Iterator[str]:
    """One sentence for each. events: of the part of the log that was read, in seq order; read(seq): was that record's
    place in it?; freed_after: seq of the last destructive restore, 0: none; to_the_end: the open part of the log was
    read, too."""
    log = _Tables()
    for event in events:
        apply_event(log, event)
    seen_restores = {row.seq: replace(row, reclaimed=False) for row in restores}
    seen_bookmarks = {row.name: row for row in bookmarks}
    for seq, row in seen_restores.items():
        if read(seq) and log.rows[RestoreRow].get(seq) != row:
            yield f"the catalog has a restore #{seq} that the log does not have like that"
    for row in log.rows[RestoreRow].values():
        if row.seq not in seen_restores:
            yield f"the catalog lacks the restore #{row.seq}"
    seen_writebacks = {row.seq: row for row in writebacks}
    for seq, done in seen_writebacks.items():
        if read(seq) and log.rows[WritebackRow].get(seq) != done:
            yield f"the catalog has restores on the disk since #{seq}, which the log does not have like that"
    for done in log.rows[WritebackRow].values():
        if done.seq not in seen_writebacks:
            yield f"the catalog lacks that restores are on the disk since #{done.seq}"
    for name, mark in seen_bookmarks.items():
        if read(mark.made_seq) and log.rows[BookmarkRow].get(name) != mark:
            yield f"the catalog has a bookmark {name!r} (#{mark.at_seq}) that the log does not have like that"
    for mark in log.rows[BookmarkRow].values():
        if to_the_end and mark.name not in seen_bookmarks and mark.made_seq > freed_after:
            yield f"the catalog lacks the bookmark {mark.name!r} (#{mark.at_seq})"
