"""How close a replay is to the engine's own speed: `python bench/bench_replay.py TRACE [--pairs N] [--dir FOLDER]`.

Two ways of issuing the same requests to a fresh volume, in alternation, each up to a final flush:
    engine   records parsed before, content from a constant buffer: the engine and nothing else, in one thread without
             the GIL
    replay   what `cdp replay --speed max` does: the file is read, parsed and issued with its pattern, latencies are
             counted
The ratio of each pair is what counts; the machine's disk and other load move both. CPU seconds are of all threads.
One JSON line with commit, CPU, kernel and file system.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time

import numpy as np

import cdp
from cdp.replay.engine import Disk, Replay
from cdp.replay.shape import MAX_REQUEST_BYTES, Shape
from cdp.trace.info import collect
from cdp.trace.reader import open_trace
from cdpcore.trace.driver import TargetDriver


def fresh(folder: str, size: int) -> cdp.Volume:
    shutil.rmtree(f"{folder}/v", ignore_errors=True)
    return cdp.create(f"{folder}/v", size=size)


def engine(folder: str, records: np.ndarray, size: int) -> tuple[float, float]:
    """(wall, CPU) seconds for pre-parsed records with constant content."""
    constant = np.full(MAX_REQUEST_BYTES, 0x5A, np.uint8)
    records = records.copy()
    records["payload"] = 0
    with fresh(folder, size) as volume:
        driver = TargetDriver(volume.target(), key=1, max_bytes=MAX_REQUEST_BYTES, pattern=False)
        began, cpu = time.perf_counter(), time.process_time()
        driver.run(records.view(np.uint8), 0, constant)
        volume.flush()
        return time.perf_counter() - began, time.process_time() - cpu


def replay(folder: str, trace: str, size: int) -> tuple[float, float]:
    """(wall, CPU) seconds from opening the trace to the last byte durable."""
    with fresh(folder, size) as volume:
        driver = TargetDriver(volume.target(), key=1, max_bytes=MAX_REQUEST_BYTES)
        began, cpu = time.perf_counter(), time.process_time()
        with open_trace([trace]) as opened:
            outcome = Replay(
                opened, [Disk("v", None, driver, Shape(size, MAX_REQUEST_BYTES), volume._core.position)]
            ).run()
        volume.flush()
        seconds = time.perf_counter() - began, time.process_time() - cpu
        assert outcome.ended == "end", outcome.error
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("trace")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--dir", default=None)
    options = parser.parse_args()
    with open_trace([options.trace]) as trace:
        info = collect(trace)
        batches = [batch.copy() for batch in trace]
    size = -(-max(d.size_bytes for d in info.devices) // (1 << 20)) << 20
    records = Shape(size, MAX_REQUEST_BYTES).apply(np.concatenate(batches))
    folder = tempfile.mkdtemp(prefix="bench-replay-", dir=options.dir)
    try:
        engine(folder, records, size)  # warm
        own, ours = [], []
        for i in range(options.pairs):
            for way in ("engine", "replay") if i % 2 else ("replay", "engine"):
                if way == "engine":
                    own.append(engine(folder, records, size))
                else:
                    ours.append(replay(folder, options.trace, size))
        ratios = sorted(a[0] / b[0] for a, b in zip(own, ours, strict=True))
        cpu = sorted(a[1] / b[1] for a, b in zip(own, ours, strict=True))
        own, ours = [s for s, _ in own], [s for s, _ in ours]
        print(
            json.dumps(
                {
                    "bench": "replay",
                    "trace": os.path.basename(options.trace),
                    "requests": len(records),
                    "written_bytes": info.bytes["write"],
                    "engine_seconds": [round(s, 3) for s in own],
                    "replay_seconds": [round(s, 3) for s in ours],
                    "ratio_median": round(statistics.median(ratios), 3),
                    "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
                    "cpu_ratio_median": round(statistics.median(cpu), 3),
                    "cpu_ratio_range": [round(cpu[0], 3), round(cpu[-1], 3)],
                    "engine_mib_s": round(info.bytes["write"] / statistics.median(own) / (1 << 20)),
                    "replay_mib_s": round(info.bytes["write"] / statistics.median(ours) / (1 << 20)),
                    "load": os.getloadavg()[0],
                    "commit": subprocess.run(
                        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
                    ).stdout.strip(),
                    "cpu": platform.processor() or platform.machine(),
                    "cpus": os.cpu_count(),
                    "kernel": platform.release(),
                    "durability": "one final flush",
                }
            )
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
