"""What is in a trace: one pass, in constant memory (bounded by the number of devices, not by the number of records).

Everything is exact but the footprint of a trace that touches more than `max_intervals` separate places: that is then an
estimate from a sample of the addresses, and so is the overwritten share (cdp.trace.footprint).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdp.text.timestamps import utc
from cdp.trace.footprint import MAX_INTERVALS, IntervalUnion
from cdp.trace.histogram import Timeline
from cdp.trace.model import Flag, Kind, Records
from cdp.trace.reader import Trace
from cdp.trace.stages import DeviceStages

SIZE_BUCKETS = 64  # bucket b > 0: 2^(b-1) < length <= 2^b; bucket 0: 0 or 1 byte


@dataclass
class DeviceInfo:
    """One device of a trace. size_bytes: end of what lies furthest back, hence the smallest disk that takes it."""

    name: str
    records: int
    reads: int
    writes: int
    read_bytes: int
    written_bytes: int
    footprint_bytes: int
    size_bytes: int
    first_ns: int
    last_ns: int


@dataclass
class SizeBucket:
    """Requests of more than over_bytes and at most to_bytes (the first bucket: from 0)."""

    over_bytes: int
    to_bytes: int
    reads: int
    writes: int


@dataclass
class TraceInfo:
    """The whole of it; to_json() gives the same fields, which are stable."""

    files: list[str]
    format: str
    clock: str
    records: int
    events: int
    comments: int
    bad: int
    first_bad: str
    first_ns: int
    last_ns: int
    span_ns: int
    start_utc: str | None  # of the first record, where the trace has it
    counts: dict[str, int]  # by kind
    bytes: dict[str, int]  # by kind
    flags: dict[str, int]  # records that carry it
    out_of_order: int  # records earlier than one before them
    sizes: list[SizeBucket]
    footprint_bytes: int  # read, written, trimmed or zeroed at least once
    written_footprint_bytes: int  # written at least once
    overwritten_bytes: int  # written onto what the trace had written before
    overwritten_share: float  # of the written bytes
    footprint_exact: bool
    footprint_one_in: int  # 1: exact; N: estimated from one address window in N
    devices: list[DeviceInfo]
    stages: list[DeviceStages]  # blkparse, blktrace: events by device and stage
    left_out: list[str]  # requests of the files that are not among the records, in words
    timeline: Timeline = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the timeline is left to the picture."""
        values = asdict(self)
        del values["timeline"]
        return values


class _Sums:
    """Per-device sums that grow with the devices met. Exact: u64 additions, no floating point."""

    def __init__(self) -> None:
        self.columns: dict[str, NDArray[np.uint64]] = {}
        self.count = 0

    def grow(self, count: int) -> None:
        self.count = max(self.count, count)

    def column(self, name: str, start: int = 0) -> NDArray[np.uint64]:
        have = self.columns.get(name, np.zeros(0, np.uint64))
        if len(have) < self.count:
            room = np.full(max(self.count, 2 * len(have)), start, np.uint64)
            room[: len(have)] = have
            self.columns[name] = have = room
        return have

    def add(self, name: str, device: NDArray[np.uint32], amount: NDArray[np.uint64] | None = None) -> None:
        column = self.column(name)
        if amount is None:
            counted = np.bincount(device, minlength=0).astype(np.uint64)
            column[: len(counted)] += counted
        else:
            np.add.at(column, device, amount)


class Collector:
    """Takes batches, gives TraceInfo. For replays too: whatever passes through can be summed up on the way."""

    def __init__(self, max_intervals: int = MAX_INTERVALS):
        self._touched, self._written = IntervalUnion(max_intervals), IntervalUnion(max_intervals)
        self._devices = _Sums()
        self._kinds = np.zeros(len(Kind), np.uint64)
        self._bytes = np.zeros(len(Kind), np.uint64)
        self._flags = np.zeros(256, np.uint64)
        self._sizes = np.zeros((2, SIZE_BUCKETS), np.uint64)
        self._records = 0
        self._first: int | None = None
        self._last = self._latest = self._out_of_order = 0
        self.timeline = Timeline()

    def add(self, records: Records, *, timed: bool = True) -> None:
        """One batch. timed: false for a trace without times; the picture then shows records instead of seconds."""
        if not len(records):
            return
        ts, kind, length, device = records["ts_ns"], records["kind"], records["length_bytes"], records["device"]
        self._times(ts)
        self._kinds += np.bincount(kind, minlength=len(Kind)).astype(np.uint64)
        np.add.at(self._bytes, kind, length)
        self._flags += np.bincount(records["flags"], minlength=256).astype(np.uint64)
        start = records["offset_bytes"]
        end = start + length
        wrote = (kind == Kind.WRITE) | (kind == Kind.ZERO)
        ranged = kind <= Kind.ZERO
        self._devices.grow(int(device.max()) + 1)
        self._devices.add("records", device)
        np.maximum.at(self._devices.column("size"), device[ranged], end[ranged])
        np.minimum.at(self._devices.column("first", (1 << 64) - 1), device, ts)
        np.maximum.at(self._devices.column("last"), device, ts)
        at = ts if timed else np.arange(self._records, self._records + len(records), dtype=np.uint64)
        for name, row, chosen in (("read", 0, kind == Kind.READ), ("write", 1, wrote)):
            self._devices.add(f"{name}s", device[chosen])
            self._devices.add(f"{name}_bytes", device[chosen], length[chosen])
            self._sizes[row] += np.bincount(_bucket(length[chosen]), minlength=SIZE_BUCKETS).astype(np.uint64)
            self.timeline.add(name, at[chosen], length[chosen])
        self._touched.add(device[ranged], start[ranged], end[ranged])
        self._written.add(device[wrote], start[wrote], end[wrote])
        self._records += len(records)

    def _times(self, ts: NDArray[np.uint64]) -> None:
        reach = np.maximum.accumulate(np.maximum(ts, np.uint64(self._latest)))
        self._out_of_order += int(np.count_nonzero(ts < reach))
        self._latest = int(reach[-1])
        low = int(ts.min())
        self._first = low if self._first is None else min(self._first, low)

    def result(self, trace: Trace) -> TraceInfo:
        """The sum of what was added, with the trace's own names and tallies."""
        count = max(self._devices.count, len(trace.devices))
        self._devices.grow(count)
        touched, written = self._touched.bytes_by_device(count), self._written.bytes_by_device(count)
        wrote_bytes = int(self._bytes[Kind.WRITE] + self._bytes[Kind.ZERO])
        over = max(0, wrote_bytes - int(written.sum()))
        first, tally, epoch = self._first or 0, trace.tally, trace.epoch_ns
        column = {name: self._devices.column(name) for name in
                  ("records", "reads", "writes", "read_bytes", "write_bytes", "size", "first", "last")}
        return TraceInfo(
            files=[source.path for source in trace.sources],
            format=trace.format,
            clock=trace.clock,
            records=self._records,
            events=tally.events,
            comments=tally.comments,
            bad=tally.bad,
            first_bad=tally.first_bad,
            first_ns=first,
            last_ns=self._latest,
            span_ns=self._latest - first,
            start_utc=None if epoch is None or self._first is None else utc(epoch + first),
            counts={k.name.lower(): int(self._kinds[k]) for k in Kind},
            bytes={k.name.lower(): int(self._bytes[k]) for k in Kind},
            flags={f.name.lower(): int(sum(self._flags[i] for i in range(256) if i & f)) for f in Flag if f.name},
            out_of_order=self._out_of_order,
            sizes=[SizeBucket(0 if b == 0 else 1 << (b - 1), 1 << b, int(self._sizes[0, b]), int(self._sizes[1, b]))
                   for b in range(SIZE_BUCKETS) if self._sizes[:, b].any()],
            footprint_bytes=int(touched.sum()),
            written_footprint_bytes=int(written.sum()),
            overwritten_bytes=over,
            overwritten_share=over / wrote_bytes if wrote_bytes else 0.0,
            footprint_exact=max(self._touched.one_in, self._written.one_in) == 1,
            footprint_one_in=max(self._touched.one_in, self._written.one_in),
            devices=[
                DeviceInfo(name, int(column["records"][i]), int(column["reads"][i]), int(column["writes"][i]),
                           int(column["read_bytes"][i]), int(column["write_bytes"][i]), int(touched[i]),
                           int(column["size"][i]), int(column["first"][i]) if column["records"][i] else 0,
                           int(column["last"][i]))
                for i, name in enumerate(trace.devices)
            ],
            stages=trace.stages,
            left_out=trace.left_out,
            timeline=self.timeline,
        )


def _bucket(length: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Smallest b with length <= 2^b, exactly: float64 has a larger error only above 2^53, so it is corrected."""
    guess = np.ceil(np.log2(np.maximum(length, np.uint64(1)).astype(np.float64))).astype(np.uint64)
    guess = np.minimum(guess, np.uint64(SIZE_BUCKETS - 1))
    guess += length > np.uint64(1) << guess
    guess -= (guess > 0) & (length <= np.uint64(1) << (guess - (guess > 0)))
    return guess.astype(np.intp)


def collect(trace: Trace, *, limit: int | None = None, max_intervals: int = MAX_INTERVALS,
            progress: Callable[[int], None] | None = None) -> TraceInfo:
    """Reads a trace once and says what is in it.

    limit: at most so many records. progress: called after every batch with the records so far.
    Raises what reading raises (cdpcore.base.errors.InvalidRequest at a malformed place).
    """
    collector, seen = Collector(max_intervals), 0
    for records in trace:
        if limit is not None:
            records = records[: limit - seen]
        collector.add(records, timed=trace.clock != "none")
        seen += len(records)
        if progress:
            progress(seen)
        if limit is not None and seen >= limit:
            break
    return collector.result(trace)
