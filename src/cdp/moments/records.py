"""The kinds and flags of the log's records, and how the history shows a record: their one home outside the engine.

cdpcore/base/format.h has the same numbers, and a test compares the two.
"""
from __future__ import annotations

import functools
import operator
from collections.abc import Collection
from typing import Any

from cdpcore.base.errors import InvalidRequest

# Kinds. Plain integers: they are compared with NumPy columns.
WRITE = 1
ZERO = 2            # reads as zeros, allocated
TRIM = 3            # reads as zeros, a hole
FLUSH = 4
BOOKMARK = 5        # start: the seq that it names; data: bookmark_data()
RESTORE = 6         # start, sectors: the range; data: restore_data()
UNBOOKMARK = 7      # data: the name of the bookmark that was deleted
WRITEBACK = 8       # before-images: a range of the disk was put back to what a restore says
RESTORED = 9        # before-images: restores up to seq `start` are written back completely
FOREIGN = 10        # before-images: others changed the range while the volume was closed
KIND_NAMES = {WRITE: "write", ZERO: "zero", TRIM: "trim", FLUSH: "flush", BOOKMARK: "bookmark", RESTORE: "restore",
              UNBOOKMARK: "unbookmark", WRITEBACK: "writeback", RESTORED: "restored",
              FOREIGN: "foreign"}

# Flags.
MORE = 1            # the next descriptor belongs to the same record
FUA = 2
META = 32           # its sender called it metadata

RECORD = [("seq", "<u8"), ("ts_ns", "<u8"), ("kind", "u1"), ("flags", "u1"), ("offset", "<u8"), ("length", "<u8")]
"""One record of the history, as numpy.dtype takes it. (NumPy itself is not imported here: it would be half of the time
that a short command takes.) kind: as above; flags: FUA, META; offset, length in bytes, 0 where the record has no
range."""

VERSION = [("seq", "<u8"), ("ts_ns", "<u8"), ("kind", "u1"), ("flags", "u1"), ("offset", "<u8"), ("length", "<u8"),
           ("bytes", "<u8"), ("present", "u1"), ("target", "<u8")]
"""One record that changed a range, as numpy.dtype takes it: seq, ts_ns, kind and flags as in RECORD; offset, length:
from the first byte of the range that it changed to the last, in bytes, and `bytes` of those it changed. present: 1
where what the volume shows now came through it, at least in part; 0 where a restore took it back. target: of a restore,
the seq that it goes back to; else 0."""

DIFFERENCE: Any = {"names": ["offset", "length", "kind"], "formats": ["<u8", "<u8", "u1"], "offsets": [0, 8, 16],
              "itemsize": 24}
"""A range that differs, as numpy.dtype takes it: offset and length in bytes; kind of the later content: an index of
EXTENT_KINDS."""
ACTIVITY = [("ts_ns", "<u8"), ("written", "<u8"), ("overwritten", "<u8"), ("zeroed", "<u8"), ("trimmed", "<u8"),
            ("writes", "<u8"), ("zeroes", "<u8"), ("trims", "<u8"), ("flushes", "<u8")]
"""What was done in an interval, as numpy.dtype takes it: when it begins; bytes written, of these those that held data
before, bytes made zeros and trimmed; and how many records of each kind."""

EXTENT_KINDS = ("data", "zero", "hole", "unknown")


def changes_content(kind: Any) -> Any:
    """Which of these kinds (one, or a column) change what the volume shows: write, zero and trim."""
    return kind <= TRIM


def has_range(kind: Any) -> Any:
    """Which of these kinds (one, or a column) are about a range of sectors; a bookmark's `start` is a seq."""
    return changes_content(kind) | (kind == RESTORE) | (kind == WRITEBACK) | (kind == FOREIGN)


def matching(rows: Any, kinds: Collection[str] = (), within: tuple[int, int] | None = None) -> Any:
    """Those of a RECORD array that are of one of `kinds` (none: of any), and whose range overlaps `within` (offset,
    length in bytes). Raises InvalidRequest for a kind that there is not."""
    if kinds:
        numbers = {name: number for number, name in KIND_NAMES.items()}
        for name in kinds:
            if name not in numbers:
                raise InvalidRequest(f"no records of kind {name!r}", f"there are {', '.join(numbers)}")
        rows = rows[functools.reduce(operator.or_, (rows["kind"] == numbers[name] for name in kinds))]
    if within is not None:
        begin, end = within[0], within[0] + within[1]
        rows = rows[has_range(rows["kind"]) & (rows["offset"] < end) & (rows["offset"] + rows["length"] > begin)]
    return rows


def keeps_data(kind: Any) -> Any:
    """Which of these kinds (one, or a column) change what the disk holds, so that the index has them."""
    return changes_content(kind) | (kind == WRITEBACK) | (kind == FOREIGN)
