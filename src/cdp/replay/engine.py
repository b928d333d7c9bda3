"""Replay: a trace's requests onto disks, at the trace's pace or as fast as it goes.

    Each disk has a Driver (cdpcore.trace.driver, cdpcore.trace.nbd_driver) that issues without Python between the
    requests. This module gives the
    drivers their records in stretches, keeps time, takes samples for the report, and stops cleanly.

Invariants
 1. A disk's requests are issued in the order of the trace; that is what makes every moment of it verifiable.
 2. Several disks: a thread each, side by side; they meet at the end of every batch of the trace.
 3. Whatever ends the replay (the end, a limit, stop(), a malformed line, an error of a disk), what was issued is
    finished and counted, and the Outcome says how it ended.
 4. Memory: two batches of the trace, a driver's buffer a disk, and bounded samples.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cdp.replay import payloads
from cdp.replay.shape import Shape
from cdp.trace.model import Records
from cdp.trace.reader import Trace
from cdpcore.base.errors import CdpError

SLICE_NS = 50_000_000  # how long a driver runs before Python looks at the clock, the keyboard and the counters
MAX_SAMPLES = 4096


@dataclass
class Disk:
    """One disk of a replay. position: (seq, ts_ns) of its newest record, for mapping trace times to points; None:
    unknown."""

    name: str
    device: int | None  # index into Trace.devices; None: all
    driver: Any
    shape: Shape
    position: Callable[[], tuple[int, int]] | None = None
    times: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # (trace ns, seq, ts_ns): all up to that trace time is in seq


@dataclass
class Outcome:
    """How a replay went."""

    records: int = 0  # of the trace, issued or left out by rule
    elapsed_ns: int = 0
    ended: str = "end"  # end, limit, interrupted, error
    error: CdpError | None = None
    where: str = ""  # the record that could not be issued
    first_ns: int | None = None
    last_ns: int | None = None
    samples: list[tuple[int, int, int, int]] = field(
        default_factory=list
    )  # (elapsed ns, bytes written, bytes read, requests)


class Replay:
    """One pass of a trace over disks. run() once. stop() from a signal handler or another thread."""

    def __init__(
        self, trace: Trace, disks: list[Disk], *, speed: float = 0, limit: int | None = None, prefetch: bool = True
    ):
        self.trace, self.disks, self.speed, self.limit = trace, disks, speed, limit
        self.outcome = Outcome()
        self._prefetch = prefetch
        self._stopped = False
        self._began_ns = self._origin_ns = 0

    def stop(self) -> None:
        """End after the current slice."""
        self._stopped = True

    def run(self, progress: Callable[[Outcome], None] | None = None) -> Outcome:
        out = self.outcome
        batches = _ahead(iter(self.trace)) if self._prefetch else iter(self.trace)
        self._began_ns = time.monotonic_ns()
        pool = ThreadPoolExecutor(len(self.disks), "cdp-replay") if len(self.disks) > 1 else None
        try:
            for records in batches:
                if self.limit is not None:
                    records = records[: self.limit - out.records]
                if len(records):
                    self._batch(records, pool, progress)
                if self._stopped:
                    out.ended = "interrupted"
                    break
                if self.limit is not None and out.records >= self.limit:
                    out.ended = "limit"
                    break
        except CdpError as error:
            out.ended, out.error = "error", error
        finally:
            if hasattr(batches, "close"):
                batches.close()
            if pool:
                pool.shutdown()
            for disk in self.disks:
                try:
                    disk.driver.finish()
                except CdpError as error:
                    out.ended, out.error = "error", out.error or error
            self._sample()
        return out

    def _batch(
        self, records: Records, pool: ThreadPoolExecutor | None, progress: Callable[[Outcome], None] | None
    ) -> None:
        out = self.outcome
        timed = self.trace.clock != "none"
        if out.first_ns is None:
            out.first_ns = int(records["ts_ns"][0])
            self._origin_ns = time.monotonic_ns()  # reading the first batch makes nothing late
            for disk in self.disks:
                self._mark(disk, out.first_ns - 1 if timed and out.first_ns else 0)
        parts = [
            disk.shape.apply(records if disk.device is None else records[records["device"] == disk.device])
            for disk in self.disks
        ]
        counted = out.records
        streams = [self._slices(disk, part) for disk, part in zip(self.disks, parts, strict=True)]
        live = [
            (disk, part, stream) for disk, part, stream in zip(self.disks, parts, streams, strict=True) if len(part)
        ]
        total = sum(len(part) for part in parts)
        done = {disk.name: 0 for disk in self.disks}
        failure: CdpError | None = None
        while live and not self._stopped and failure is None:
            if pool and len(live) > 1:
                results = [f.result() for f in [pool.submit(_next, stream) for _, _, stream in live]]
            else:
                results = [_next(stream) for _, _, stream in live]
            for (disk, part, _), (issued, error) in zip(live, results, strict=True):
                if issued is not None:
                    done[disk.name] = issued
                if error is not None:
                    failure = error
                    if done[disk.name] < len(part):
                        out.where = self.trace.place(part[done[disk.name]])
            live = [
                entry
                for entry, (issued, _) in zip(live, results, strict=True)
                if issued is not None and issued < len(entry[1])
            ]
            here = sum(done.values())
            out.records = counted + (len(records) * here // total if total else len(records))
            latest = [
                int(part["ts_ns"][done[disk.name] - 1])
                for disk, part in zip(self.disks, parts, strict=True)
                if done[disk.name]
            ]
            if latest:
                out.last_ns = max(out.last_ns or 0, max(latest))
            self._sample()
            if progress:
                progress(out)
        if failure is not None:
            raise failure
        if not live:
            out.records = counted + len(records)
            if len(records):
                out.last_ns = max(out.last_ns or 0, int(records["ts_ns"].max()))

    def _slices(self, disk: Disk, records: Records) -> Iterator[int]:
        """Issues the records; yields how many are issued, every SLICE_NS."""
        origin = {"speed": self.speed, "origin_ts_ns": self.outcome.first_ns or 0, "origin_ns": self._origin_ns}
        stretches = payloads.spans(self.trace, records) if self.trace.has_payload else iter([(records, None)])
        before = 0
        for part, data in stretches:
            raw, at = part.view(np.uint8), 0
            while at < len(part):
                try:
                    at = disk.driver.run(raw, at, data, budget_ns=SLICE_NS, **origin)
                except CdpError:
                    yield before + disk.driver.issued
                    raise
                self._mark(disk, int(part["ts_ns"][at - 1]) if at else 0)
                yield before + at
            before += len(part)

    def _mark(self, disk: Disk, trace_ns: int) -> None:
        if disk.position is None or (disk.times and trace_ns < disk.times[-1][0]):
            return
        if disk.times and trace_ns == disk.times[-1][0]:
            disk.times.pop()
        disk.times.append((trace_ns, *disk.position()))
        if len(disk.times) > MAX_SAMPLES:
            disk.times[:] = disk.times[::2]

    def _sample(self) -> None:
        out = self.outcome
        out.elapsed_ns = time.monotonic_ns() - self._began_ns
        counts = [disk.driver.written_bytes() for disk in self.disks]
        out.samples.append((out.elapsed_ns, *(sum(c[i] for c in counts) for i in range(3))))
        if len(out.samples) > MAX_SAMPLES:
            out.samples[:] = out.samples[::2]


def _next(stream: Iterator[int]) -> tuple[int | None, CdpError | None]:
    try:
        return next(stream, None), None
    except CdpError as error:
        return None, error


def _ahead(batches: Iterator[Records]) -> Iterator[Records]:
    """The same batches, the next one read meanwhile by a thread, so that parsing and issuing overlap."""
    handed: queue.Queue[Any] = queue.Queue(maxsize=1)
    ended = threading.Event()

    def put(item: Any) -> bool:
        while not ended.is_set():
            try:
                handed.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for records in batches:
                if not put(records):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001  (raised again where the batches are taken)
            put(error)

    thread = threading.Thread(target=read, name="cdp-replay-read", daemon=True)
    thread.start()
    try:
        while (item := handed.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        ended.set()
        thread.join()


def counts_by_kind(disks: list[Disk]) -> dict[str, dict[str, int]]:
    """The drivers' counters; of several disks counts and bytes are summed, latencies are over all of them."""
    from cdpcore.trace.driver import KIND_NAMES, QUANTILES

    found = {}
    for kind in KIND_NAMES:
        own = [disk.driver.counters()[kind] for disk in disks]
        if len(own) == 1:
            found[kind] = own[0]
            continue
        total = sum(o["count"] for o in own)
        merged = {
            "count": total,
            "bytes": sum(o["bytes"] for o in own),
            "mean_ns": sum(o["mean_ns"] * o["count"] for o in own) // total if total else 0,
            "max_ns": max(o["max_ns"] for o in own),
        }
        buckets: dict[int, int] = {}
        for disk in disks:
            for upper, count in disk.driver.histogram(kind):
                buckets[upper] = buckets.get(upper, 0) + count
        for q in QUANTILES:
            wanted, seen, at = min(int(total * q) + 1, total), 0, 0
            for upper in sorted(buckets):
                if seen >= wanted:
                    break
                at, seen = upper, seen + buckets[upper]
            merged[f"p{q * 100:g}_ns"] = min(at, merged["max_ns"])
        found[kind] = merged
    return found
