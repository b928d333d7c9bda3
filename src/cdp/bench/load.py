"""Load on a disk: random or sequential requests for a time, over NBD or in process, and what they took.

Over NBD a job is a connection with `depth` requests under way (cdpcore.trace.nbd_driver); in process a job is a thread
with one request at a time (cdpcore.bench.loadgen).

Threading: any thread. The threads of a load have ended when its function returns, also when it is interrupted.
"""
from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cdp.nbd.client import ExportAddress, connect, disconnect
from cdp.trace.model import RECORD, Kind, Records
from cdpcore.base.errors import InvalidRequest
from cdpcore.bench import loadgen
from cdpcore.trace.nbd_driver import NbdDriver

BATCH = 4096            # requests that are made at a time
SLICE_NS = 100_000_000  # an interrupt is noticed after that
KINDS = ("read", "write", "flush")


@dataclass(frozen=True)
class Load:
    """The disk's first span_bytes are used, in blocks; flush_every: a flush after so many writes, 0: none. At most
    write_bytes are written; then the load ends before its time."""

    block_bytes: int
    span_bytes: int
    read_percent: int = 0
    depth: int = 32
    jobs: int = 1
    flush_every: int = 0
    sequential: bool = False
    seconds: float = 3.0
    write_bytes: int = 1 << 62


@dataclass
class Outcome:
    """Of one load. histograms: of reads, writes and flushes, [upper end in ns, count]; requests: without flushes."""

    elapsed_ns: int
    requests: int
    bytes: int
    max_ns: dict[str, int]
    histograms: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        return self.requests / self.elapsed_ns * 1e9

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.elapsed_ns * 1e9


def merged(histograms: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """One histogram of several with the same buckets."""
    counts: dict[int, int] = {}
    for one in histograms:
        for upper, count in one:
            counts[upper] = counts.get(upper, 0) + count
    return sorted(counts.items())


def in_process(capsule: object, load: Load, seed: int) -> Outcome:
    """On the target in a capsule. Raises what its first failed request was."""
    limit = load.write_bytes // load.block_bytes * 100 // max(100 - load.read_percent, 1)
    got = loadgen.run(
        capsule, length_bytes=load.block_bytes, threads=load.jobs, read_percent=load.read_percent,
        sequential=load.sequential, seconds=load.seconds, span_bytes=load.span_bytes, flush_every=load.flush_every,
        requests=min(max(limit, load.jobs), loadgen.MAX_REQUESTS) if load.read_percent < 100 else None, seed=seed)
    slowest = {kind: min(found[-1][0], got["max_ns"]) if found else 0 for kind, found in got["histograms"].items()}
    return Outcome(got["elapsed_ns"], got["requests"], got["bytes"], slowest, got["histograms"])


def over_nbd(address: ExportAddress, load: Load, seed: int) -> Outcome:
    """On an export. Raises what its first failed request was, and Unavailable where the server goes."""
    jobs: list[_Job] = []
    stop = threading.Event()
    try:
        for number in range(load.jobs):
            jobs.append(_Job(address, load, seed * 1000 + number, number, stop))
        for job in jobs:
            job.thread.start()
        for job in jobs:
            while job.thread.is_alive():
                job.thread.join(0.1)
    finally:
        stop.set()
        for job in jobs:
            job.close()
    for job in jobs:
        if job.error:
            raise job.error
    elapsed_ns = max(job.ended_ns for job in jobs) - min(job.began_ns for job in jobs)
    counters = [job.driver.counters() for job in jobs]
    return Outcome(
        max(elapsed_ns, 1), sum(one[kind]["count"] for one in counters for kind in ("read", "write")),
        sum(one[kind]["bytes"] for one in counters for kind in ("read", "write")),
        {kind: max(one[kind]["max_ns"] for one in counters) for kind in KINDS},
        {kind: merged([job.driver.histogram(kind) for job in jobs]) for kind in KINDS})


class _Job:
    """One connection and its thread."""

    def __init__(self, address: ExportAddress, load: Load, seed: int, number: int, stop: threading.Event):
        self.sock, export = connect(address)
        self.thread = threading.Thread(target=self._work, name="cdp-bench", daemon=True)
        self.error: BaseException | None = None
        self.began_ns = self.ended_ns = 0
        self._load, self._stop, self._rng = load, stop, np.random.default_rng(seed)
        self._at = number * (load.span_bytes // load.block_bytes // load.jobs)
        self._writes = 0
        if export.size_bytes < load.span_bytes:
            raise InvalidRequest(f"{address.uri} has {export.size_bytes} bytes", "use a smaller --size")
        self.driver = NbdDriver(self.sock, key=secrets.randbits(32) | 1, max_bytes=load.block_bytes,
                                size_bytes=export.size_bytes, export_flags=int(export.flags), depth=load.depth)
        self.driver.check_reads = False     # the disk holds what others wrote

    def close(self) -> None:
        if self.thread.ident is not None:
            self.thread.join()
        disconnect(self.sock)
        self.sock.close()

    def _work(self) -> None:
        try:
            self.began_ns = time.monotonic_ns()
            end_ns = self.began_ns + round(self._load.seconds * 1e9)
            limit = self._load.write_bytes // self._load.jobs
            while not self._stop.is_set() and self.driver.written_bytes()[0] < limit:
                batch, at = self._batch(), 0
                while at < len(batch) and not self._stop.is_set() and (left := end_ns - time.monotonic_ns()) > 0:
                    at = self.driver.run(batch.view(np.uint8), at, budget_ns=min(left, SLICE_NS))
                if end_ns <= time.monotonic_ns():
                    break
            self.driver.finish()
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            self.error = error
            self._stop.set()
        finally:
            self.ended_ns = time.monotonic_ns()

    def _batch(self) -> Records:
        """The next requests."""
        load, n = self._load, BATCH
        if load.write_bytes < 1 << 62:
            n = max(1, min(n, load.write_bytes // load.jobs // load.block_bytes))
        slots = load.span_bytes // load.block_bytes
        blocks = self._rng.integers(0, slots, n) if not load.sequential else (self._at + np.arange(n)) % slots
        self._at += n
        reads = self._rng.integers(0, 100, n) < load.read_percent
        batch: Any = np.zeros(n, RECORD)
        batch["offset_bytes"] = blocks * load.block_bytes
        batch["length_bytes"] = load.block_bytes
        batch["kind"] = np.where(reads, Kind.READ, Kind.WRITE)
        if load.flush_every:
            written = self._writes + np.cumsum(~reads)
            after = np.flatnonzero(~reads & (written % load.flush_every == 0)) + 1
            flush = np.zeros(1, RECORD)
            flush["kind"] = Kind.FLUSH
            batch = np.insert(batch, after, flush)
            self._writes = int(written[-1])
        made: Records = batch
        return made
