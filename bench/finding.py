"""Finding the right moment: what the ways to it cost. Each part makes what it needs, and says what it was.

Figures are medians with the smallest and the largest, warm, in this process; `versions` and `bisect` are commands. In
this process also the processor time (of all threads), which a busy machine does not change much.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import cdp
from bench import facts as machine
from bench.scratch import NoSpace, Scratch
from cdp.volume.barrier import barrier

GIB, MIB = 1 << 30, 1 << 20
YEAR_S = 365 * 86400


@dataclass(frozen=True)
class Options:
    """size_bytes: of the volume of which a hundredth is changed; records: of the long histories; segments: of the
    year; parts: which."""

    size_bytes: int = 100 * GIB
    records: int = 1_000_000
    history_records: int = 10_000_000
    segments: int = 20_000
    looks: int = 50
    parts: tuple[str, ...] = ()


QUICK = Options(size_bytes=GIB, records=2_000, history_records=5_000, segments=300, looks=3)


def timed(look: Callable[[int], object], n: int) -> dict[str, float]:
    """In ms."""
    spent, used = [], []
    for i in range(n):
        began, worked = time.perf_counter(), time.process_time()
        look(i)
        spent.append(1e3 * (time.perf_counter() - began))
        used.append(1e3 * (time.process_time() - worked))
    return {**spread(spent), "processor_ms": statistics.median(used)}


def elapsed(look: Callable[[int], object], n: int) -> dict[str, float]:
    """Of what is done by other processes."""
    return {name: ms for name, ms in timed(look, n).items() if name != "processor_ms"}


def spread(ms: list[float]) -> dict[str, float]:
    return {"median_ms": statistics.median(ms), "least_ms": min(ms), "most_ms": max(ms)}


def diff(folder: Path, options: Options) -> Iterator[tuple[str, dict[str, float]]]:
    for piece in (64 << 10, 4 << 10):
        with cdp.create(folder / f"diff-{piece}", size=options.size_bytes) as volume:
            rnd, data = random.Random(1), random.Random(2).randbytes(piece)
            places = options.size_bytes // piece
            for _ in range(2):      # what was there before is of the same shape
                before = volume.window().newest.seq
                for at in rnd.sample(range(places), places // 100):
                    volume.pwrite(data, at * piece)
            volume.flush()
            found = volume.diff(f"#{before}", "now", compared=False)
            what = (f"diff of {options.size_bytes >> 30} GiB, 1 % written in pieces of {piece >> 10} KiB: "
                    f"{len(found):,} ranges")
            yield what, timed(lambda _, v=volume, b=before: v.diff(f"#{b}", "now", compared=False),
                              max(3, options.looks // 10))


def history(folder: Path, options: Options) -> Iterator[tuple[str, dict[str, float]]]:
    size, n = 2 * GIB, options.history_records
    with cdp.create(folder / "history", size=size) as volume:
        rnd, data = random.Random(1), bytes(range(256)) * 2
        hot = 4096 * 1000
        for i in range(n):
            volume.pwrite(data, rnd.randrange(size // 512) * 512 if i % (n // 100) else hot)
        volume.flush()
        places = [rnd.randrange(size // 4096) * 4096 for _ in range(options.looks)]
        rows = sum(len(volume.history(at, 4096)) for at in places) / len(places)
        yield (f"history of 4 KiB at {n:,} records: {rows:.0f} versions on average",
               timed(lambda i: volume.history(places[i], 4096), options.looks))
        yield (f"history of 4 KiB at {n:,} records: {len(volume.history(hot, 4096))} versions",
               timed(lambda _: volume.history(hot, 4096), options.looks))


def year(folder: Path, options: Options) -> Iterator[tuple[str, dict[str, float]]]:
    """Summaries as a year would leave them, in place of a year."""
    from cdp.store.activity import _Reader
    from cdp.store.activity_cells import CELL, Summary
    from cdpcore.log.summaries import WIDTHS_NS

    n = options.segments
    with cdp.create(folder / "year", size=100 * GIB) as volume:
        volume.pwrite(bytes(512), 0)
        volume._store.seal()
        row = volume._store.timeline.rows()[0]
        length_ns = YEAR_S * 10**9 // n
        begin = row.first_ts_ns - YEAR_S * 10**9
        rows = [replace(row, number=i + 1, first_seq=i + 1, last_seq=i + 1, first_ts_ns=begin + i * length_ns,
                        last_ts_ns=begin + (i + 1) * length_ns) for i in range(n)]
        width = next(w for w in WIDTHS_NS if w * 40 >= length_ns)
        store, kept = volume._store, volume._store.activity
        store.timeline._rows, kept._kept = rows, True
        for one in rows:
            cells = np.zeros(length_ns // width + 1, CELL)
            cells["slot"] = one.first_ts_ns // width + np.arange(len(cells))
            cells["written"], cells["writes"] = 1000, 100
            cells["places"] = 1000 / 64
            kept._put(0, one.number, Summary(width, kept.place_sectors, cells), one.last_seq)
        with _Reader(store.os, store.files, store.uuid) as reader:
            for last, number in zip(range(1, n), range(2, n + 1), strict=True):
                if last >> 4 != number >> 4:
                    kept._complete(reader, rows, last, number)
        from cdp.volume.activity import activity

        for name, by_s in (("hour", 3600), ("day", 86400), ("week", 7 * 86400)):
            def look(_: int, by_ns: int = by_s * 10**9) -> Any:
                return activity(store, begin, begin + YEAR_S * 10**9, by_ns, (begin, begin + YEAR_S * 10**9))

            yield f"activity of a year of {n:,} segments, by {name}: {len(look(0).intervals):,} intervals", timed(
                look, max(3, options.looks // 5))
        store.timeline._rows = [row]


def command(*args: object) -> str:
    return subprocess.run([sys.executable, "-m", "cdp", *map(str, args)], check=True, capture_output=True,
                          text=True).stdout


def many_moments(folder: Path, records: int) -> Path:
    """A volume with an ext4 file system in its first quarter, whose file `f` is written 20 times among `records` other
    records behind it."""
    path, quarter = folder / "moments", 64 * MIB
    if path.exists():
        return path
    (folder / "tree").mkdir()
    (folder / "tree/f").write_bytes(b"f" * 20_000)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^metadata_csum", "-d", folder / "tree",
                    folder / "disk", f"{quarter >> 10}k"], check=True, capture_output=True)
    disk = (folder / "disk").read_bytes()
    data = disk.index(b"f" * 20_000)
    with cdp.create(path, size=4 * quarter) as volume:
        volume.pwrite(disk, 0)
        volume.bookmark("made")
        rnd, block = random.Random(1), random.Random(2).randbytes(4096)
        inode = _inode(volume, disk)
        for i in range(records):
            volume.pwrite(block, quarter + rnd.randrange(3 * quarter // 4096) * 4096)
            if i % (records // 20) == records // 40:
                volume.pwrite(b"%07d" % i, data)
                # The block of the inode, with another time of change of the content.
                at = inode // 4096 * 4096
                old = bytearray(volume.pread(4096, at))
                old[inode % 4096 + 16:inode % 4096 + 20] = (1_700_000_000 + i).to_bytes(4, "little")
                volume.pwrite(bytes(old), at)
                volume.flush()
    return path


def _inode(volume: cdp.Volume, disk: bytes) -> int:
    with volume.at("now") as image, image.files() as files:
        number = files.stat("f").inode
    table = int.from_bytes(disk[4096 + 8:4096 + 12], "little") * 4096
    return table + (number - 1) * int.from_bytes(disk[1024 + 0x58:1024 + 0x5A], "little")


def versions(folder: Path, options: Options) -> Iterator[tuple[str, dict[str, float]]]:
    path = many_moments(folder, options.records)
    command("info", path)
    rows = command("versions", path, "f", "--json").splitlines()
    yield (f"cdp versions of a file over {options.records:,} moments: {len(rows)} versions",
           elapsed(lambda _: command("versions", path, "f", "--json"), max(3, options.looks // 10)))
    yield "  of that, a command that does nothing: cdp window", elapsed(lambda _: command("window", path), 3)


def bisect(folder: Path, options: Options) -> Iterator[tuple[str, dict[str, float]]]:
    path = many_moments(folder, options.records)
    with cdp.open(path) as volume:
        newest = volume.window().newest.seq
    test = ["sh", "-c", f'test "$CDP_SEQ" -lt {newest * 2 // 3}']
    began = time.perf_counter()
    for _ in range(20):
        subprocess.run(test, check=False, env={**os.environ, "CDP_SEQ": "1"})
    own = 1e3 * (time.perf_counter() - began) / 20
    spent, n, total = [], 0, 0.0
    for i in range(3):
        began = time.perf_counter()
        got = json.loads(command("bisect", path, "made", "now", "--json", "--name", f"b{i}", "--", *test))
        total = time.perf_counter() - began
        n = len(got["probes"])
        spent.append(1e3 * got["probe_seconds"] / n - own)
    yield (f"cdp bisect over {options.records:,} moments: {n} probes, {total:.1f} s in all; a probe less its command",
           spread(spent))


def group(folder: Path, options: Options) -> Iterator[tuple[str, dict[str, float]]]:
    with ExitStack() as stack:
        volumes = [stack.enter_context(cdp.create(folder / f"g{n}", size=64 * MIB)) for n in range(8)]
        ending = threading.Event()

        def write(volume: cdp.Volume, seed: int) -> None:
            rnd, data = random.Random(seed), random.Random(seed).randbytes(4096)
            while not ending.is_set():
                for _ in range(100):
                    volume.pwrite(data, rnd.randrange(64 * MIB // 4096) * 4096)

        threads = [threading.Thread(target=write, args=(volume, n)) for n, volume in enumerate(volumes)]
        for thread in threads:
            thread.start()
        try:
            pauses, began = [], time.perf_counter()
            for _ in range(options.looks * 10):
                pauses.append(barrier(volumes).pause_ns / 1e6)
                time.sleep(0.002)
            rate = sum(volume.window().newest.seq for volume in volumes) / (time.perf_counter() - began)
        finally:
            ending.set()
            for thread in threads:
                thread.join()
    yield (f"barrier of 8 volumes, each with a thread that writes ({rate:,.0f} records/s in all): the pause",
           spread(pauses))


PARTS = {"diff": diff, "history": history, "year": year, "versions": versions, "bisect": bisect, "group": group}


def run(scratch: Scratch, options: Options, say: Any, json_path: Path | None) -> int:
    found = machine.facts(scratch.data)
    say(f"finding: {found['cpus']} x {found['cpu']}, {found['kernel']}, {found['file_system']}, "
        f"load {found['load_1m']}")
    parts = options.parts or tuple(PARTS)
    if "history" in parts:
        scratch.need(options.history_records * (512 + 160), "the history")
    measured = 0
    for name in parts:
        if name in ("versions", "bisect") and not shutil.which("mke2fs"):
            say(f"{name}: left out: mke2fs is not installed")
            continue
        folder = scratch.data / ("moments-of" if name in ("versions", "bisect") else name)
        folder.mkdir(exist_ok=True)
        try:
            if name == "diff":
                scratch.need(options.size_bytes // 20, "what differs")
            for what, ms in PARTS[name](folder, options):
                measured += 1
                worked = f"; processor time {ms['processor_ms']:.3g} ms" if "processor_ms" in ms else ""
                say(f"  {what}: {ms['median_ms']:.3g} ms ({ms['least_ms']:.3g} .. {ms['most_ms']:.3g}){worked}")
                machine.append_line(json_path, {"bench": "finding", "part": name, "what": what, **ms,
                                                "options": asdict(options), "facts": found,
                                                "load_1m_at_end": machine.load()})
        except NoSpace as error:
            say(f"{name}: left out: {error}")
    return measured
