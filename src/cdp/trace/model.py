"""What a trace is made of, whatever its format: records, kinds, flags, and the protocol of a reader.

A batch is a NumPy array of RECORD, at most `batch_records` long. Every batch is a fresh array that belongs to the
consumer. Times are exact integers: ns since 1970 UTC where the format's clock is "utc", ns since an arbitrary start
where it is "relative", and 0 where it is "none" (write logs have an order but no time).
"""
from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdpcore.trace import parse as traceparse

Records: TypeAlias = NDArray[np.void]

RECORD = np.dtype(
    [
        ("ts_ns", "<u8"),
        ("offset_bytes", "<u8"),
        ("length_bytes", "<u8"),
        ("number", "<u8"),  # line or record number in its file, from 1
        ("payload", "<u8"),  # where the written data lies in the uncompressed file, bytes; 0: none
        ("device", "<u4"),  # index into Trace.devices
        ("kind", "u1"),  # Kind
        ("flags", "u1"),  # Flag
        ("source", "<u2"),  # index into Trace.sources
    ]
)
if RECORD.itemsize != traceparse.RECORD_BYTES:  # the native parsers write this layout
    raise ImportError("cdp.trace and cdpcore.trace.parse are of different versions")

BATCH_RECORDS = 65_536
END_BYTES = 1 << 63  # no byte at or beyond this


class Kind(enum.IntEnum):
    """What a request does. OTHER: the trace does not say; counted, never guessed."""

    READ = 0
    WRITE = 1
    TRIM = 2
    ZERO = 3
    FLUSH = 4
    OTHER = 5


class Flag(enum.IntFlag):
    """FUA: durable when it completes. PREFLUSH: a flush comes before it. The rest say what the request was for."""

    FUA = 1
    PREFLUSH = 2
    SYNC = 4
    META = 8
    AHEAD = 16


@dataclass
class Tally:
    """What one pass over a source met. Complete when the pass is."""

    records: int = 0  # given to the consumer
    events: int = 0  # well-formed lines or events in the file, whether or not they became records
    comments: int = 0  # headers, comments, preambles, summaries, empty lines
    skipped: int = 0  # requests that no record can say (fio: sync_file_range)
    bad: int = 0  # malformed ones passed over
    first_bad: str = ""  # one line about the first of them

    def add(self, other: Tally) -> None:
        self.records += other.records
        self.events += other.events
        self.comments += other.comments
        self.skipped += other.skipped
        self.bad += other.bad
        self.first_bad = self.first_bad or other.first_bad


class TraceReader(Protocol):
    """One file of a trace. Devices are numbered as they appear; `keys` grows during a pass and lasts between passes."""

    path: str
    tally: Tally

    @property
    def devices(self) -> traceparse.DeviceTable:
        """The devices met so far, by the reader's own numbers."""

    @property
    def epoch_ns(self) -> int | None:
        """UTC of the reader's time 0, where the file has it."""

    def read(self, batch_records: int) -> Iterator[Records]:
        """One pass. Raises cdpcore.base.errors.InvalidRequest at a malformed place, after the records before it."""

    def done_bytes(self) -> int:
        """How far the pass is, in bytes of the file as it is stored."""
