"""How a trace's requests become those of a disk: what is left out, folded into the disk (--wrap) and taken apart.

A pure function of the records, so that a replay and the verification of it, perhaps days later, number the same
changes: change k of a disk is its k-th write, zero or trim of at least one byte, after shaping.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cdp.trace.model import Flag, Kind, Records
from cdpcore.base.errors import InvalidRequest

MAX_REQUEST_BYTES = 8 << 20  # longer reads and writes are taken apart; it is also the driver's buffer


@dataclass
class Shape:
    """The rules for one disk, and how often they were needed."""

    size_bytes: int
    max_bytes: int
    wrap: bool = False
    all_short: bool = False  # trims and zeroes too: of a before-image volume, whose long ones are several records
    wrapped: int = field(default=0, compare=False)
    split: int = field(default=0, compare=False)
    unnamed: int = field(default=0, compare=False)  # of a kind that the trace does not name: not issued

    def apply(self, records: Records) -> Records:
        """The requests to issue, in order. With wrap, raises InvalidRequest for one that is longer than the disk."""
        named = records["kind"] != Kind.OTHER
        if not named.all():
            self.unnamed += int(np.count_nonzero(~named))
            records = records[named]
        if self.wrap:
            records = self._fold(records)
        long = records["length_bytes"] > self.max_bytes
        if not self.all_short:
            long &= records["kind"] <= Kind.WRITE
        if long.any():
            records = self._take_apart(records, long)
        return np.ascontiguousarray(records)

    def _fold(self, records: Records) -> Records:
        size = np.uint64(self.size_bytes)
        offset, length = records["offset_bytes"], records["length_bytes"]
        outside = (offset + length > size) & (records["kind"] != Kind.FLUSH)
        if not outside.any():
            return records
        if (length > size).any():
            raise InvalidRequest(
                f"a request of {int(length.max())} bytes cannot be wrapped into a disk of {self.size_bytes}",
                "use a larger volume",
            )
        records = records.copy()
        # From the disk's beginning again; what would cross its end moves before it, so that a request stays one.
        records["offset_bytes"][outside] = np.minimum(offset[outside] % size, size - length[outside])
        self.wrapped += int(np.count_nonzero(outside))
        return records

    def _take_apart(self, records: Records, long: np.ndarray) -> Records:
        cap = np.uint64(self.max_bytes)
        pieces = np.where(long, (records["length_bytes"] + cap - np.uint64(1)) // cap, np.uint64(1)).astype(np.intp)
        out = np.repeat(records, pieces)
        nth = np.arange(len(out)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        skip = nth.astype(np.uint64) * cap
        parts = np.repeat(long, pieces)
        out["offset_bytes"] += skip
        out["payload"] += np.where(out["payload"] > 0, skip, np.uint64(0))
        out["length_bytes"] = np.where(parts, np.minimum(out["length_bytes"] - skip, cap), out["length_bytes"])
        out["flags"][nth > 0] &= np.uint8(0xFF & ~int(Flag.PREFLUSH))
        self.split += int(np.count_nonzero(long))
        return out


def is_change(records: Records) -> np.ndarray:
    """Which of shaped records change the disk, and so have a number."""
    kind = records["kind"]
    changes: np.ndarray = (kind >= Kind.WRITE) & (kind <= Kind.ZERO) & (records["length_bytes"] > 0)
    return changes
