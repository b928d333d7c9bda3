"""The table of what is to be reached: one row a load, ours and a peer in alternating rounds, the ratio of the two.

As bench.nbd and bench.choosing (same peers, filling, settling), a few loads of each, and nbdcopy; kept as JSON lines in
bench/results/, printed as the table of docs/performance.md. A row's figures are of its own run: two new disks each.
"""

import contextlib
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import choosing, fio
from bench import facts as machine
from bench.fio import Job
from bench.nbd import FILL, GROWTH_BYTES_PER_SECOND, Options, Workload, measure
from bench.peers import PEERS, Peer, Running, serving
from bench.scratch import NoSpace, Scratch, process
from bench.spread import Spread, order, ratios

RESULTS = Path(__file__).resolve().parent / "results" / "reach.jsonl"
COPY_SECONDS = 600.0
CDP, FILE, BEFORE = PEERS["cdp"], PEERS["nbdkit-file"], choosing.PEERS["before"]


@dataclass(frozen=True)
class Row:
    """`workload` None: nbdcopy there and back. reach: the ratio ours / peer that is wanted."""

    name: str
    what: str
    reach: float
    workload: Workload | None
    ours: Peer = CDP
    peer: Peer = FILE


def _row(name: str, what: str, reach: float, job: Job, *, warmed: bool = False, cold: bool = False, ours: Peer = CDP,
         peer: Peer = FILE) -> Row:
    return Row(name, what, reach, Workload(name, what, job, warmed=warmed, cold=cold), ours, peer)


ROWS = {
    row.name: row
    for row in (
        _row("write-flush-4k", "4 KiB write + flush, 1 connection", 1.3, Job("randwrite", 4096, 1, flush=True)),
        _row("write-flush-4k-x8", "4 KiB write + flush, 8 connections", 3, Job("randwrite", 4096, 1, 8, flush=True)),
        _row("write-4k-qd32", "4 KiB random writes, depth 32", 1.4, Job("randwrite", 4096, 32)),
        _row("write-4k-qd1", "4 KiB random writes, depth 1", 1.0, Job("randwrite", 4096, 1)),
        _row("write-64k-qd32", "64 KiB random writes, depth 32", 1.0, Job("randwrite", 65536, 32)),
        _row("write-64k-durable", "64 KiB random writes, every block once, until durable", 1.2,
             Job("randwrite", 65536, 32, once=True)),
        _row("write-1m-durable", "1 MiB sequential writes, depth 8, until durable", 1.0,
             Job("write", 1 << 20, 8, once=True)),
        Row("nbdcopy", "copied in with nbdcopy, flushed, copied out again", 1.0, None),
        _row("read-4k-cold", "4 KiB random reads, depth 32, cold, 1 connection", 1.2, Job("randread", 4096, 32),
             cold=True),
        _row("before-4k-warm", "before-images: 4 KiB random writes, in memory", 1.0, Job("randwrite", 4096, 32),
             warmed=True, ours=BEFORE),
        _row("before-4k-cold", "before-images: 4 KiB random writes, cold", 0.7, Job("randwrite", 4096, 32), cold=True,
             ours=BEFORE),
        _row("before-256k", "before-images: 256 KiB sequential writes, depth 8", 0.45, Job("write", 262144, 8),
             ours=BEFORE),
        _row("blklogwrites-4k", "QEMU blklogwrites, 4 KiB random writes, depth 32", 8, Job("randwrite", 4096, 32),
             peer=PEERS["blklogwrites"]),
        _row("qcow2-4k", "before-images: qcow2 with a snapshot a minute, 4 KiB random writes, depth 32", 2,
             Job("randwrite", 4096, 32), ours=BEFORE, peer=choosing.PEERS["qcow2-minute"]),
    )
}

DEFAULTS = Options(rounds=7, seconds=3.0, size_bytes=1 << 30, workloads=tuple(ROWS))
QUICK = Options(rounds=1, seconds=0.1, size_bytes=16 << 20, workloads=tuple(ROWS))


def run(scratch: Scratch, options: Options, say: Any, json_path: Path | None) -> int:
    """Returns the number of rows that were measured. `say` prints a line."""
    found = machine.facts(scratch.data)
    say(f"table: {options.rounds} rounds of {options.seconds:g} s, disk of {options.size_bytes >> 20} MiB; "
        f"{found['cpus']} x {found['cpu']}, {found['kernel']}, {found['file_system']}, load {found['load_1m']}")
    done: list[tuple[Row, Spread]] = []
    if json_path is not None:
        json_path.parent.mkdir(exist_ok=True)
    for name in options.workloads:
        row = ROWS[name]
        lacks = _lacks(row)
        if lacks:
            say(f"table: {name} skipped: {lacks} is not installed")
            continue
        try:
            scratch.need(int(2 * options.rounds * options.seconds * GROWTH_BYTES_PER_SECOND / 8)
                         + (6 + 2 * options.rounds) * options.size_bytes, f"the row {name}")
        except NoSpace as error:
            say(f"table: {error}")
            continue
        rates = _rates(row, scratch, options)
        ratio = ratios(rates[row.ours.name], rates[row.peer.name])
        done.append((row, ratio))
        say(f"{name}: {ratio['median']:.2f} ({ratio['min']:.2f} .. {ratio['max']:.2f}), to reach: {row.reach:g}")
        versions = {p.name: p.version() for p in (row.ours, row.peer)} | {
            "fio": machine.tool_version(["fio", "--version"])}
        machine.append_line(json_path, {
            "bench": "table", "row": name, "what": row.what, "reach": row.reach, "ours": row.ours.name,
            "peer": row.peer.name, "job": asdict(row.workload.job) if row.workload else None,
            "options": {"rounds": options.rounds, "seconds": options.seconds, "size_bytes": options.size_bytes},
            "facts": {**found, "load_1m": machine.load(), "versions": versions},
            "rates": rates, "ratio": ratio})
    if done:
        say("")
    for line in markdown(done):
        say(line)
    return len(done)


def markdown(done: list[tuple[Row, Spread]]) -> list[str]:
    """The table of docs/performance.md."""
    if not done:
        return []
    return ["| load | beside | reached | to reach |", "|---|---|---|---|",
            *(f"| {row.what} | {row.peer.name} | {r['median']:.2f} ({r['min']:.2f} .. {r['max']:.2f}) | {row.reach:g} |"
              for row, r in done)]


def _lacks(row: Row) -> str | None:
    """A program that is missing."""
    for peer in (row.ours, row.peer):
        if not peer.installed():
            return peer.program
    if row.workload is None:
        return None if shutil.which("nbdcopy") else "nbdcopy"
    return None if fio.available() else "fio with the nbd engine"


def _rates(row: Row, scratch: Scratch, options: Options) -> dict[str, list[float]]:
    """By peer: requests a second, or of nbdcopy bytes a second, round by round."""
    peers = [row.ours, row.peer]
    if row.workload is None:
        return _copies(peers, scratch, options)
    cells = measure(scratch, options, row.workload, peers)
    return {name: [cell.figures.iops for cell in mine] for name, mine in cells.items()}


def _copies(peers: list[Peer], scratch: Scratch, options: Options) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
    with contextlib.ExitStack() as stack:
        source = scratch.folder("source") / "disk.img"
        stack.callback(shutil.rmtree, source.parent, ignore_errors=True)
        with open("/dev/urandom", "rb") as noise, source.open("wb") as file:
            for _ in range(options.size_bytes >> 20):
                file.write(noise.read(1 << 20))
        running = {peer.name: stack.enter_context(serving(peer, scratch, options.size_bytes)) for peer in peers}
        for server in running.values():
            fio.run(server.uri, FILL, options.size_bytes)
            server.settle(drop=True)
        for number in range(options.rounds):
            for name in order(list(running), number):
                rates[name].append(_copy(running[name], source, options.size_bytes))
                running[name].settle()
    return rates


def _copy(server: Running, source: Path, size_bytes: int) -> float:
    began = time.monotonic()
    for argv in (["nbdcopy", "--flush", str(source), server.uri], ["nbdcopy", server.uri, "null:"]):
        with process(argv, stderr=subprocess.PIPE) as child:
            _, said = child.communicate(timeout=COPY_SECONDS)
        if child.returncode:
            raise fio.FioFailed(f"nbdcopy with {server.name}: {said.decode(errors='replace').strip()[-300:]}")
    return 2 * size_bytes / (time.monotonic() - began)
