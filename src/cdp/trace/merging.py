"""Several streams of batches as one, by time, in constant memory.

The order is independent of how the streams are cut into batches: by (time, number of the stream), and within a stream
always the stream's own order, also where its times step back (its key is then the latest time so far).
"""
from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdp.trace.model import RECORD, Records


@dataclass
class _Head:
    """The current batch of one stream and its sort keys."""

    stream: Iterator[Records]
    records: Records
    keys: NDArray[np.uint64]
    shift_ns: int = 0

    def advance(self) -> bool:
        """The next non-empty batch. False at the end."""
        latest = self.keys[-1] if len(self.keys) else np.uint64(0)
        for records in self.stream:
            if len(records):
                self.records = records
                self.keys = np.maximum.accumulate(np.maximum(records["ts_ns"], latest))
                return True
        return False


def merge(streams: Sequence[Iterator[Records]]) -> Iterator[Records]:
    """Batches of all streams by time. Holds one batch of each; a given batch is at most as long as these together.

    Generators among the streams are closed at the end, early or not.
    """
    nothing = np.empty(0, np.uint64)
    try:
        yield from _merged([_Head(stream, np.empty(0, RECORD), nothing) for stream in streams])
    finally:
        for stream in streams:
            if isinstance(stream, Generator):
                stream.close()


def _merged(all_heads: list[_Head]) -> Iterator[Records]:
    heads: list[_Head | None] = [head if head.advance() else None for head in all_heads]
    while live := [(i, head) for i, head in enumerate(heads) if head]:
        # What ends first bounds what can be given: nothing earlier is still to come from any stream.
        last, head = min(live, key=lambda pair: (int(pair[1].keys[-1]), pair[0]))
        bound = head.keys[-1]
        parts, keys, done = [], [], []
        for i, head in live:
            stop = int(np.searchsorted(head.keys, bound, side="right" if i <= last else "left"))
            parts.append(head.records[:stop])
            keys.append(head.keys[:stop])
            if stop < len(head.keys):
                head.records, head.keys = head.records[stop:], head.keys[stop:]
            else:
                done.append(i)
        given = [part for part in parts if len(part)]
        if len(given) == 1:
            yield given[0]
        else:
            yield np.concatenate(parts)[np.argsort(np.concatenate(keys), kind="stable")]
        for i in done:
            exhausted = heads[i]
            if exhausted and not exhausted.advance():
                heads[i] = None
