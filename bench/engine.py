"""The engine alone, in this process, against a plain file and a RAM disk: requests a second through the target seam,
back to back from one or more threads (cdpcore.bench.loadgen), alternating in one run.

A new volume and a new file for each workload, filled, synced, dropped from the page cache; rounds as in nbd.py. What
it leaves out is the network protocol and the client, so it is the ceiling of a trace replay, too.
"""

import contextlib
import fcntl
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cdp
from bench import facts as machine
from bench.peers import SETTINGS
from bench.scratch import NoSpace, Scratch, settle_files
from bench.spread import order, ratios, show, spread, table
from cdpcore.bench import loadgen
from cdpcore.bench.loadgen import Load
from cdpcore.bench.plain_file import PlainFile
from cdpcore.bench.ram_disk import RamDisk

OURS = "cdp"
TARGETS = {
    OURS: f"a volume; durable on flush and every {cdp.Settings().commit_interval_ms} ms",
    "file": "a plain file through the page cache; durable on flush",
    "file-direct": "a plain file past the page cache (O_DIRECT); durable on flush",
    "ram": "a RAM disk; a ceiling",
}
GROWTH_BYTES_PER_SECOND = 2 << 30


@dataclass(frozen=True)
class Workload:
    name: str
    what: str
    length_bytes: int
    threads: int = 1
    read: bool = False
    sequential: bool = False
    flush_every: int = 0
    warmed: bool = False  # random writes over half the blocks, then one full read pass


WORKLOADS = {
    w.name: w
    for w in (
        Workload("write-512", "512 B random writes", 512),
        Workload("write-4k", "4 KiB random writes", 4096),
        Workload("write-4k-x2", "4 KiB random writes from 2 threads", 4096, threads=2),
        Workload("write-64k", "64 KiB random writes", 65536),
        Workload("write-1m-seq", "1 MiB sequential writes", 1 << 20, sequential=True),
        Workload("write-flush-4k", "4 KiB random write, then a flush", 4096, flush_every=1),
        Workload(
            "read-4k", "4 KiB random reads, half the disk rewritten at random, warm", 4096, read=True, warmed=True
        ),
        Workload(
            "read-4k-x2",
            "4 KiB random reads from 2 threads, half the disk rewritten at random, warm",
            4096,
            threads=2,
            read=True,
            warmed=True,
        ),
        Workload(
            "read-64k", "64 KiB random reads, half the disk rewritten at random, warm", 65536, read=True, warmed=True
        ),
        Workload(
            "read-64k-cold",
            "64 KiB random reads, half the disk rewritten at random, dropped from the page cache",
            65536,
            read=True,
        ),
    )
}


@dataclass(frozen=True)
class Options:
    rounds: int = 3
    seconds: float = 1.0
    size_bytes: int = 512 << 20
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    targets: tuple[str, ...] = tuple(TARGETS)


QUICK = Options(rounds=1, seconds=0.05, size_bytes=16 << 20)


@dataclass
class _Target:
    capsule: object
    files: Path | None


def run(scratch: Scratch, options: Options, say: Any, json_path: Path | None) -> int:
    """Returns the number of workloads that were measured."""
    found = machine.facts(scratch.data)
    say(
        f"engine: {options.rounds} rounds of {options.seconds:g} s, {options.size_bytes >> 20} MiB; "
        f"{found['cpus']} x {found['cpu']}, "
        f"{found['kernel']}, {found['file_system']}, load {found['load_1m']}"
    )
    measured = 0
    for name in options.workloads:
        workload = WORKLOADS[name]
        try:
            scratch.need(
                int(options.rounds * options.seconds * GROWTH_BYTES_PER_SECOND) + 5 * options.size_bytes,
                f"the workload {name}",
            )
        except NoSpace as error:
            say(f"engine: {error}")
            continue
        loads = _measure(scratch, options, workload, say)
        measured += 1
        _report(workload, loads, say)
        for target, mine in loads.items():
            machine.append_line(json_path, _line(workload, target, loads, mine, options, found))
    return measured


def _measure(scratch: Scratch, options: Options, workload: Workload, say: Any) -> dict[str, list[Load]]:
    loads: dict[str, list[Load]] = {}
    with contextlib.ExitStack() as stack:
        targets: dict[str, _Target] = {}
        for name in options.targets:
            if name == "file-direct" and workload.length_bytes % 4096:
                continue  # direct I/O has no such requests
            target = _make(stack, scratch, name, options.size_bytes)
            if target is None:
                say(f"engine: {name} skipped: the file system has no direct I/O")
                continue
            targets[name] = target
            _prepare(target, workload, options.size_bytes)
        for number in range(options.rounds):
            for name in order(list(targets), number):
                target = targets[name]
                loads.setdefault(name, []).append(
                    loadgen.run(
                        target.capsule,
                        length_bytes=workload.length_bytes,
                        threads=workload.threads,
                        read_percent=100 if workload.read else 0,
                        sequential=workload.sequential,
                        seconds=options.seconds,
                        flush_every=workload.flush_every,
                        seed=number + 1,
                    )
                )
                if target.files:
                    settle_files(target.files, drop=workload.read and not workload.warmed)
        targets.clear()
    return loads


def _make(stack: contextlib.ExitStack, scratch: Scratch, name: str, size_bytes: int) -> _Target | None:
    if name == "ram":
        return _Target(RamDisk(size_bytes).capsule, None)
    folder = scratch.folder(name)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    if name == OURS:
        volume = stack.enter_context(cdp.create(folder / "vol", size=size_bytes))
        return _Target(volume.target(), folder)
    path = folder / "plain.img"
    with path.open("wb") as file:
        file.truncate(size_bytes)
    plain = PlainFile(path, direct=name == "file-direct")
    if name == "file-direct" and not fcntl.fcntl(plain.fileno(), fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0):
        return None
    return _Target(plain.capsule, folder)


def _prepare(target: _Target, workload: Workload, size_bytes: int) -> None:
    loadgen.run(target.capsule, length_bytes=1 << 20, sequential=True, requests=size_bytes >> 20)
    if target.files:
        settle_files(target.files, drop=True)
    if workload.read:
        loadgen.run(target.capsule, length_bytes=4096, requests=size_bytes // 8192)
        if target.files:
            settle_files(target.files, drop=not workload.warmed)
    if workload.warmed:
        loadgen.run(target.capsule, length_bytes=1 << 20, sequential=True, read_percent=100, requests=size_bytes >> 20)


def _rates(loads: list[Load]) -> list[float]:
    return [load["requests"] * 1e9 / load["elapsed_ns"] for load in loads]


def _report(workload: Workload, loads: dict[str, list[Load]], say: Any) -> None:
    rows = [("", "per second", "min", "max", "p50 us", "p99 us", "cdp / target (min .. max)")]
    for name, mine in loads.items():
        rate = spread(_rates(mine))
        versus = "" if name == OURS or OURS not in loads else show(ratios(_rates(loads[OURS]), _rates(mine)))
        rows.append(
            (
                name,
                f"{rate['median']:,.0f}",
                f"{rate['min']:,.0f}",
                f"{rate['max']:,.0f}",
                f"{spread(x['p50_ns'] for x in mine)['median'] / 1e3:,.1f}",
                f"{spread(x['p99_ns'] for x in mine)['median'] / 1e3:,.1f}",
                versus,
            )
        )
    say(f"\n{workload.name}: {workload.what}\n{table(rows)}")


def _line(
    workload: Workload,
    name: str,
    loads: dict[str, list[Load]],
    mine: list[Load],
    options: Options,
    found: dict[str, Any],
) -> dict[str, Any]:
    line = {
        "bench": "engine",
        "workload": workload.name,
        "target": name,
        "what": TARGETS[name],
        "job": asdict(workload),
        "options": asdict(options),
        "facts": found,
        "rounds": [{key: value for key, value in load.items() if key != "histograms"} for load in mine],
        "per_second": spread(_rates(mine)),
    }
    if name == OURS:
        line["settings"] = SETTINGS
    elif OURS in loads:
        line["cdp_over_target"] = ratios(_rates(loads[OURS]), _rates(mine))
    return line
