"""The data of write logs, in spans: what a driver is given for a stretch of records, so that Python reads once for
many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cdp.trace.model import RECORD, Kind, Records
from cdp.trace.reader import Trace

SPAN_BYTES = 32 << 20


def payload(trace: Trace, source: int, position: int, size: int) -> bytes:
    """`size` bytes at `position` of the uncompressed log that is source number `source`. Raises as Trace.payload."""
    record = np.zeros(1, RECORD)[0]
    record["payload"], record["length_bytes"], record["source"] = position, size, source
    return trace.payload(record)


def spans(trace: Trace, records: Records) -> Iterator[tuple[Records, bytes]]:
    """Records with the data they need: `payload` then counts from the beginning of that data.

    In a log entries and data follow each other, so the data of neighbours is one stretch of the file. A stretch ends at
    SPAN_BYTES (a single write may be longer), where the file changes, or where records are not in the log's order.
    """
    at = 0
    while at < len(records):
        stop, source, low, high = at, None, 0, 0
        while stop < len(records):
            record = records[stop]
            if record["kind"] == Kind.WRITE and record["length_bytes"]:
                begin = int(record["payload"])
                end = begin + int(record["length_bytes"])
                if source is None:
                    source, low, high = int(record["source"]), begin, begin
                if record["source"] != source or begin < high or end - low > max(SPAN_BYTES, end - begin):
                    break
                high = end
            stop += 1
        part = records[at:stop].copy()
        part["payload"] -= np.minimum(part["payload"], np.uint64(low))
        yield part, payload(trace, source, low, high - low) if source is not None else b""
        at = stop
