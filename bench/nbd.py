"""Our server against others, over a unix socket, with fio: alternating in one run, ratios round by round.

For each workload every peer gets a new disk, filled once over NBD, then synced and dropped from the page cache; then
come the rounds, each peer once a round, in rotated order, with the same offsets. After each measurement the peer's
files are synced, so that nobody pays for another's dirty pages (which flatters a peer that only dirtied the page
cache; our log is written past it).
"""

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import facts as machine
from bench import fio
from bench.fio import Figures, Job
from bench.peers import PEERS, SETTINGS, Peer, Running, serving
from bench.scratch import NoSpace, Scratch
from bench.spread import order, ratios, show, spread, table

OURS = "cdp"
FILL = Job("write", 1 << 20, 4)
WARM = Job("read", 1 << 20, 4)
SCATTER = Job("randwrite", 4096, 32)
GROWTH_BYTES_PER_SECOND = 2 << 30  # of the fastest log that we allow for


@dataclass(frozen=True)
class Workload:
    name: str
    what: str
    job: Job
    warmed: bool = False  # random writes over half the blocks first, then one full read pass
    cold: bool = False  # dropped from the page cache before each measurement


WORKLOADS = {
    w.name: w
    for w in (
        Workload("write-4k-qd32", "4 KiB random writes, 32 under way", Job("randwrite", 4096, 32)),
        Workload("write-64k-qd32", "64 KiB random writes, 32 under way", Job("randwrite", 65536, 32)),
        Workload(
            "write-64k-durable",
            "64 KiB random writes, every block of the disk once, 32 under way, then a flush: until all is durable",
            Job("randwrite", 65536, 32, once=True),
        ),
        Workload(
            "read-4k-qd32",
            "4 KiB random reads, 32 under way, on a disk half rewritten at random, after one full read pass "
            "on every peer",
            Job("randread", 4096, 32),
            warmed=True,
        ),
        Workload(
            "write-flush-4k-qd1",
            "4 KiB random write, then a flush, one at a time",
            Job("randwrite", 4096, 1, flush=True),
        ),
        Workload(
            "write-flush-4k-x8",
            "4 KiB random write, then a flush, one at a time on each of 8 connections",
            Job("randwrite", 4096, 1, 8, flush=True),
        ),
        Workload(
            "write-4k-qd8x4",
            "4 KiB random writes over 4 connections, 8 under way on each",
            Job("randwrite", 4096, 8, 4),
        ),
    )
}


@dataclass(frozen=True)
class Options:
    rounds: int = 5
    seconds: float = 2.0
    size_bytes: int = 512 << 20
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    peers: tuple[str, ...] = tuple(PEERS)


QUICK = Options(rounds=1, seconds=0.1, size_bytes=16 << 20)


@dataclass(frozen=True)
class Cell:
    """One peer in one round."""

    figures: Figures
    cpu_us: float | None  # of the server, a request
    load_1m: float


def run(scratch: Scratch, options: Options, say: Any, json_path: Path | None) -> int:
    """Returns the number of workloads that were measured. `say` prints a line."""
    if not fio.available():
        say("nbd: skipped: fio with the nbd engine is not installed")
        return 0
    peers = []
    for name in options.peers:
        if PEERS[name].installed():
            peers.append(PEERS[name])
        else:
            say(f"nbd: {name} skipped: {PEERS[name].program} is not installed")
    found = machine.facts(scratch.data)
    found["versions"] = {"fio": machine.tool_version(["fio", "--version"]), **{p.name: p.version() for p in peers}}
    say(
        f"nbd: {options.rounds} rounds of {options.seconds:g} s, disk of {options.size_bytes >> 20} MiB; "
        f"{found['cpus']} x {found['cpu']}, {found['kernel']}, {found['file_system']}, load {found['load_1m']}"
    )
    measured = 0
    for name in options.workloads:
        workload = WORKLOADS[name]
        # Two peers keep every write; the disks themselves; what scattering adds.
        try:
            scratch.need(
                int(2 * options.rounds * options.seconds * GROWTH_BYTES_PER_SECOND / (8 if "4k" in name else 2))
                + 6 * options.size_bytes,
                f"the workload {name}",
            )
        except NoSpace as error:
            say(f"nbd: {error}")
            continue
        cells = measure(scratch, options, workload, peers)
        measured += 1
        _report(workload, peers, cells, say)
        for peer in peers:
            machine.append_line(json_path, _line(workload, peer, cells, options, found))
    return measured


def measure(
    scratch: Scratch, options: Options, workload: Workload, peers: list[Peer], after: Any = lambda running: None
) -> dict[str, list[Cell]]:
    """Every peer in every round; `after` is called with the servers (by name) while they still run."""
    by_name = {peer.name: peer for peer in peers}
    cells: dict[str, list[Cell]] = {peer.name: [] for peer in peers}
    with contextlib.ExitStack() as stack:
        running: dict[str, Running] = {}
        for peer in peers:
            server = running[peer.name] = stack.enter_context(serving(peer, scratch, options.size_bytes))
            fio.run(server.uri, FILL, options.size_bytes)
            server.settle(drop=True)
            if workload.warmed:
                fio.run(server.uri, SCATTER, options.size_bytes, requests=options.size_bytes // 4096 // 2)
                server.settle()
                fio.run(server.uri, WARM, options.size_bytes)
        for number in range(options.rounds):
            for name in order(list(running), number):
                with by_name[name].during(running[name]):
                    cells[name].append(_cell(running[name], workload.job, options, seed=number + 1))
                running[name].settle(drop=workload.cold)
        after(running)
    return cells


def _cell(server: Running, job: Job, options: Options, seed: int) -> Cell:
    before = server.cpu_seconds()
    figures = fio.run(server.uri, job, options.size_bytes, seconds=options.seconds, seed=seed)
    after = server.cpu_seconds()
    cpu_us = None if before is None or after is None else (after - before) * 1e6 / figures.requests
    return Cell(figures, cpu_us, machine.load())


def _iops(cells: list[Cell]) -> list[float]:
    return [cell.figures.iops for cell in cells]


def _report(workload: Workload, peers: list[Peer], cells: dict[str, list[Cell]], say: Any) -> None:
    rows = [("", "per second", "min", "max", "p50 us", "p99 us", "server CPU us/request", "cdp / peer (min .. max)")]
    for peer in peers:
        mine = cells[peer.name]
        rate = spread(_iops(mine))
        cpu = [c.cpu_us for c in mine if c.cpu_us is not None]
        versus = "" if peer.name == OURS or OURS not in cells else show(ratios(_iops(cells[OURS]), _iops(mine)))
        rows.append(
            (
                peer.name,
                f"{rate['median']:,.0f}",
                f"{rate['min']:,.0f}",
                f"{rate['max']:,.0f}",
                f"{spread(c.figures.p50_us for c in mine)['median']:,.0f}",
                f"{spread(c.figures.p99_us for c in mine)['median']:,.0f}",
                f"{spread(cpu)['median']:.1f}" if cpu else "-",
                versus,
            )
        )
    say(f"\n{workload.name}: {workload.what}\n{table(rows)}")


def _line(
    workload: Workload, peer: Peer, cells: dict[str, list[Cell]], options: Options, found: dict[str, Any]
) -> dict[str, Any]:
    mine = cells[peer.name]
    rounds = [{**asdict(cell.figures), "server_cpu_us": cell.cpu_us, "load_1m": cell.load_1m} for cell in mine]
    line = {
        "bench": "nbd",
        "workload": workload.name,
        "peer": peer.name,
        "what": peer.what,
        "durability": peer.durability,
        "job": asdict(workload.job),
        "warmed": workload.warmed,
        "options": asdict(options),
        "facts": found,
        "rounds": rounds,
        "iops": spread(_iops(mine)),
    }
    if peer.name == OURS:
        line["settings"] = SETTINGS
    elif OURS in cells:
        line["cdp_over_peer"] = ratios(_iops(cells[OURS]), _iops(mine))
    return line
