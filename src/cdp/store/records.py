"""The records of a log as Python sees them: their kinds and flags, what is in a bookmark's or restore's record, and
what the catalog makes of it."""
from __future__ import annotations

import struct
from dataclasses import dataclass

from cdp.store.catalog import BookmarkRow, RestoreRow, Transaction, WritebackRow

BOOKMARK, RESTORE, UNBOOKMARK, RESTORED = 5, 6, 7, 9
RESTORE_DATA = struct.Struct("<QII")    # struct cdp_restore_data
UNDO_DATA = struct.Struct("<QQQ")       # target_ts_ns, undo_of, reserved: behind it
DESTRUCTIVE = 1


@dataclass
class Event:
    """A bookmark or restore as the log has it."""

    kind: int
    seq: int
    ts_ns: int
    start: int
    sectors: int
    data: bytes


def apply_event(txn: Transaction, event: Event) -> None:
    """Put a bookmark or restore from the log into the catalog. Idempotent."""
    if event.kind == BOOKMARK:
        at_ts, name = struct.unpack_from("<Q", event.data)[0], event.data[8:].rstrip(b"\0").decode("utf-8", "replace")
        txn.put(BookmarkRow(name, event.start, at_ts, event.seq, event.ts_ns))
    elif event.kind == UNBOOKMARK:
        txn.remove(BookmarkRow, event.data.rstrip(b"\0").decode("utf-8", "replace"))
    elif event.kind == RESTORE:
        target, flags, _ = RESTORE_DATA.unpack_from(event.data)
        target_ts, undo_of, _ = UNDO_DATA.unpack_from(event.data, RESTORE_DATA.size)
        txn.put(RestoreRow(event.seq, event.ts_ns, target, target_ts, event.start, event.start + event.sectors,
                           bool(flags & DESTRUCTIVE), undo_of))
    elif event.kind == RESTORED:
        txn.put(WritebackRow(event.seq, event.start))
