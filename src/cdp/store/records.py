"""What bookmarks and restores are in the log, and what they do to the catalog."""
from __future__ import annotations

import struct
from dataclasses import dataclass

from cdp.moments.records import BOOKMARK, RESTORE, RESTORED, UNBOOKMARK
from cdp.store.catalog import BookmarkRow, RestoreRow, Transaction, WritebackRow

_RESTORE = struct.Struct("<QIIQQQ")     # struct cdp_restore_data: target_seq, flags, 0, target_ts_ns, undo_of, 0
_DESTRUCTIVE = 1                        # a flag of _RESTORE
_TS_NS = struct.Struct("<Q")


def bookmark_data(name: str, ts_ns: int) -> bytes:
    """`ts_ns`: the time of the moment that the bookmark names."""
    return _TS_NS.pack(ts_ns) + name.encode()


def restore_data(target_seq: int, target_ts_ns: int, destructive: bool, undo_of: int) -> bytes:
    return _RESTORE.pack(target_seq, _DESTRUCTIVE if destructive else 0, 0, target_ts_ns, undo_of, 0)


@dataclass(frozen=True)
class Event:
    """A record that the catalog keeps, as the log has it: a bookmark, a restore, or what ends one of them."""

    kind: int
    seq: int
    ts_ns: int
    start: int
    sectors: int
    data: bytes

    def restore(self) -> RestoreRow | None:
        """What a RESTORE record says; None for other kinds."""
        if self.kind != RESTORE:
            return None
        target_seq, flags, _, target_ts_ns, undo_of, _ = _RESTORE.unpack_from(self.data)
        return RestoreRow(self.seq, self.ts_ns, target_seq, target_ts_ns, self.start, self.start + self.sectors,
                          bool(flags & _DESTRUCTIVE), undo_of)


def apply_event(txn: Transaction, event: Event) -> None:
    """Put an event from the log into the catalog. Idempotent."""
    if event.kind == BOOKMARK:
        txn.put(BookmarkRow(_text(event.data[_TS_NS.size:]), event.start, _TS_NS.unpack_from(event.data)[0], event.seq,
                            event.ts_ns))
    elif event.kind == UNBOOKMARK:
        txn.remove(BookmarkRow, _text(event.data))
    elif event.kind == RESTORED:
        txn.put(WritebackRow(event.seq, event.start))
    elif restore := event.restore():
        txn.put(restore)


def _text(data: bytes) -> str:
    """A name from a record; its data is padded with zero bytes."""
    return data.rstrip(b"\0").decode("utf-8", "replace")
