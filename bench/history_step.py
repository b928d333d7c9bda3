"""One step of bench.history, in a process of its own: `python -m bench.history_step STEP VOLUME OPTIONS`. Prints one
line of JSON."""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cdp
from bench.history import Options, disk_of
from bench.spread import percentile, spread
from cdp.moments.points import Point
from cdpcore.bench import loadgen

SEED = 20_070_101
QUIET_SECONDS = 1.5  # no run came or went for so long: merges are done
SETTLE_SECONDS = 600.0
TAIL_PART = 0.9  # of what a segment takes is left unsealed by `crash`; it keeps room for three pool slots
SLOT_BYTES = 4 << 20
SEGMENT_RECORDS = 262_144  # that a segment takes at most
READ_POINTS = 8
KEEP_FREE_BYTES = 2 << 30  # of memory, when files are read into the page cache


def settings(o: Options) -> cdp.Settings:
    return cdp.Settings(segment_bytes=o.segment_bytes)


def memory() -> dict[str, int]:
    """Resident bytes of this process: all, its own, those of mapped files. Zeros where there is no /proc."""
    found = {"VmRSS": 0, "RssAnon": 0, "RssFile": 0}
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in found:
                found[key] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return {"rss": found["VmRSS"], "anonymous": found["RssAnon"], "file": found["RssFile"]}


def timed_ms(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter_ns()
    result = work()
    return (time.perf_counter_ns() - began) / 1e6, result


def spread_ms(values: list[float]) -> dict[str, float]:
    s = spread(values)
    return {"min": s["min"], "median": s["median"], "p99": percentile(values, 99), "max": s["max"], "n": s["n"]}


# --- steps ------------------------------------------------------------------------------------------------------------


def fill(path: str, o: Options) -> dict[str, Any]:
    volume = create(path, o)
    load = loadgen.run(volume.target(), length_bytes=o.length_bytes, requests=o.records, seed=SEED)
    volume.flush()
    settle_s = wait_for_merges(volume)
    close_ms, _ = timed_ms(volume.close)
    with cdp.open(path, settings=settings(o)) as volume:
        records = volume.window().newest.seq
    log, index = on_disk(path, "log"), on_disk(path, "runs")  # all sealed now
    return {
        "per_second": load["requests"] * 1e9 / load["elapsed_ns"],
        "settle_s": settle_s,
        "close_ms": close_ms,
        "segments": len(log),
        "runs": len(index),
        "records": records,
        "log_bytes_per_record": sum(log) / records,
        "log_overhead_bytes": sum(log) / records - o.length_bytes,
        "index_bytes_per_record": sum(index) / records,
    }


def create(path: str, o: Options) -> cdp.Volume:
    if o.mode == "after":
        return cdp.create(path, size=o.size_bytes, settings=settings(o))
    disk = disk_of(Path(path))
    with disk.open("wb") as file:  # no zeros: what is overwritten has to be kept
        for _ in range(o.size_bytes >> 20):
            file.write(random.randbytes(1 << 20))
    return cdp.create(path, disk=disk, settings=settings(o))


def on_disk(path: str, folder: str) -> list[int]:
    """Bytes that each file of a volume's folder takes on the disk."""
    return [p.stat().st_blocks * 512 for p in Path(path, folder).iterdir()]


def wait_for_merges(volume: cdp.Volume) -> float:
    """Seconds until the runs stopped changing."""
    began = changed = time.monotonic()
    runs, size = -1, -1
    while (now := time.monotonic()) - changed < QUIET_SECONDS and now - began < SETTLE_SECONDS:
        stats = volume.stats()
        if (stats["runs"], stats["index_bytes"]) != (runs, size):
            runs, size, changed = stats["runs"], stats["index_bytes"], now
        time.sleep(0.05)
    return changed - began


def look(path: str, o: Options) -> dict[str, Any]:
    dice = random.Random(SEED)
    r: dict[str, Any] = {}
    r["open_ms"], volume = timed_ms(lambda: cdp.open(path, settings=settings(o)))
    with volume:
        r["memory_after_open"] = memory()
        window = volume.window()
        newest, oldest_ns, newest_ns = window.newest.seq, volume.records(0, 1)["ts_ns"][0], window.newest.ts_ns

        def by_seq() -> int:
            return dice.randint(1, newest)

        def by_time() -> Point:
            return Point("time", "time", ts_ns=dice.randint(int(oldest_ns), newest_ns))

        r["first_image_ms"] = open_image_ms(volume, by_seq(), o, read=False)
        r["image_by_seq_ms"] = spread_ms([open_image_ms(volume, by_seq(), o, read=False) for _ in range(o.points)])
        r["image_by_time_ms"] = spread_ms([open_image_ms(volume, by_time(), o, read=False) for _ in range(o.points)])
        r["image_and_read_ms"] = spread_ms([open_image_ms(volume, by_seq(), o, read=True) for _ in range(o.points)])
        r["read_cold"] = reads(volume, o, dice)
        r["warmed"] = warm(path)
        r["read_warm"] = reads(volume, o, dice)
        restores = [restore_ms(volume, by_seq(), dice.randrange(o.size_bytes // 4096) * 4096)
                    for _ in range(o.restores)]
        names = ("restore_ms", "restore_read_ms", "restore_write_ms", "undo_ms")
        for name, took in zip(names, zip(*restores, strict=True), strict=True):
            r[name] = spread_ms(list(took))
        r["read_after_restores"] = reads(volume, o, dice)
        r["memory_at_end"] = memory()
        for name, work in (
            ("image_under_load_ms", lambda: open_image_ms(volume, by_seq(), o, read=False)),
            ("restore_under_load_ms", lambda: restore_ms(volume, by_seq(), 0)[0]),
        ):
            r[name] = under_load(volume, o, work)
        r["runs"] = volume.stats()["runs"]
    return r


def open_image_ms(volume: cdp.Volume, point: int | Point, o: Options, read: bool) -> float:
    """From asking for the moment to having it open; with `read`, to its first bytes."""
    began = time.perf_counter_ns()
    with volume.at(point) as image:
        if read:
            image.pread(4096, (began % (o.size_bytes // 4096)) * 4096)
        return (time.perf_counter_ns() - began) / 1e6


def reads(volume: cdp.Volume, o: Options, dice: random.Random) -> dict[str, Any]:
    """Microseconds of a random read of one record's length by one thread: of now, and as of random moments."""

    def us(capsule: object) -> float:
        load = loadgen.run(
            capsule, length_bytes=o.length_bytes, read_percent=100, seconds=o.read_seconds, seed=dice.getrandbits(32)
        )
        return load["elapsed_ns"] / 1e3 / load["requests"]

    as_of = []
    for _ in range(READ_POINTS):
        with volume.at(dice.randint(1, volume.window().newest.seq)) as image:
            as_of.append(us(image.target()))
    return {"now_us": us(volume.target()), "as_of_us": spread(as_of)}


def warm(path: str) -> bool:
    """Read all files, if memory has room for them. Returns whether."""
    files = [p for p in Path(path).rglob("*") if p.is_file()]
    try:
        available = next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/meminfo").read_text().splitlines()
            if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        return False
    if sum(p.stat().st_blocks * 512 for p in files) + KEEP_FREE_BYTES > available:
        return False
    for p in files:
        with p.open("rb", buffering=0) as file:
            while file.read(1 << 22):
                pass
    return True


def restore_ms(volume: cdp.Volume, seq: int, offset: int) -> tuple[float, float, float, float]:
    """Of the restore, the first read of 4 KiB and the first write of it after that, and the undo."""
    there, _ = timed_ms(lambda: volume.restore(seq))
    read, content = timed_ms(lambda: volume.pread(4096, offset))
    write, _ = timed_ms(lambda: volume.pwrite(content, offset))
    back, _ = timed_ms(volume.undo)
    return there, read, write, back


def under_load(volume: cdp.Volume, o: Options, work: Callable[[], float]) -> dict[str, float]:
    """What `work` took, again and again while a thread writes as fast as it can."""
    seconds = max(0.2, o.restores * 0.1)
    writer = threading.Thread(
        target=loadgen.run, args=(volume.target(),), kwargs={"length_bytes": o.length_bytes, "seconds": seconds}
    )
    writer.start()
    found: list[float] = []
    while writer.is_alive() or not found:
        found.append(work())
        time.sleep(0.005)
    writer.join()
    return spread_ms(found)


def crash(path: str, o: Options) -> dict[str, Any]:
    """A tail as long as it gets, flushed; main() then kills this process."""
    volume = cdp.open(path, settings=settings(o))
    sealed = volume.stats()["segments"]
    usable = o.segment_bytes - 3 * min(SLOT_BYTES, o.segment_bytes // 8)
    count = int(TAIL_PART * min(SEGMENT_RECORDS, usable // (o.length_bytes + 64)))
    loadgen.run(volume.target(), length_bytes=o.length_bytes, requests=count, seed=SEED + 1)
    volume.flush()
    assert volume.stats()["segments"] == sealed + 1, "the tail was sealed: it shows nothing"
    return {"tail_records": count, "tail_bytes": count * o.length_bytes, "flushed_seq": volume.window().newest.seq}


def reopen(path: str, o: Options) -> dict[str, Any]:
    open_ms, volume = timed_ms(lambda: cdp.open(path, settings=settings(o)))
    with volume:
        return {"open_ms": open_ms, "records": volume.window().newest.seq, "memory_after_open": memory()}


STEPS = {step.__name__: step for step in (fill, look, crash, reopen)}


def main(name: str, path: str, options: str) -> None:
    found = STEPS[name](path, Options(**json.loads(options)))
    print(json.dumps(found), flush=True)
    if name == "crash":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
