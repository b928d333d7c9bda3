"""Which kind of volume for which load: an after-image volume, a before-image volume, a disk without history, and qcow2
with an internal snapshot at every interval, which is what people do who have no history.

As bench.nbd (same rounds, same filling, same settling), but every ratio is to the disk without history, and it says
what each keeps on its device. The snapshots of qcow2 are made while the load runs, at its beginning and then one a
second or one a minute: between two of them nothing is kept, so it promises far less than the two kinds of volume do,
which keep every write. One a minute means something only where a measurement takes a minute or more (--seconds).
"""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import cdp
from bench import facts as machine
from bench import fio, peers
from bench.fio import Job
from bench.nbd import GROWTH_BYTES_PER_SECOND, Cell, Options, Workload, measure
from bench.peers import Peer, Running
from bench.scratch import NoSpace, Scratch
from bench.spread import ratios, show, spread, table

PLAIN = "nbdkit-file"
QMP_SECONDS = 30.0

WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            "read-heavy",
            "4 KiB random, 95 % reads, 32 under way, on a disk half rewritten at random, after one full read pass",
            Job("randrw", 4096, 32, read_percent=95),
            warmed=True,
        ),
        Workload("write-heavy", "4 KiB random, 5 % reads, 32 under way", Job("randrw", 4096, 32, read_percent=5)),
        Workload("sequential", "256 KiB sequential writes, 8 under way", Job("write", 262144, 8)),
        Workload("random", "4 KiB random writes, 32 under way, on a disk that is not in memory",
                 Job("randwrite", 4096, 32)),
        Workload("random-warm", "4 KiB random writes, 32 under way, after one full read pass",
                 Job("randwrite", 4096, 32), warmed=True),
        Workload(
            "overwrite",
            "4 KiB random writes into the first 4 MiB, 32 under way",
            Job("randwrite", 4096, 32, hot_bytes=4 << 20),
        ),
    )
}


@cache
def _cli_has(option: str) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "cdp", "create", "--help"], capture_output=True, text=True, check=False
    )
    return option in done.stdout


class _Before(Peer):
    def installed(self) -> bool:
        return _cli_has("--mode")


def _before(folder: Path, sock: Path, size_bytes: int) -> tuple[list[str], tuple[Path, ...], str]:
    disk, volume = folder / "disk.img", folder / "vol"
    with disk.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(
        [sys.executable, "-m", "cdp", "create", str(volume), "--mode", "before", "--base", str(disk)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return peers.serve_command(volume, sock), (volume, disk), "vol"


def _qcow2(folder: Path, sock: Path, size_bytes: int) -> tuple[list[str], tuple[Path, ...], str]:
    image = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), str(size_bytes)], check=True)
    command = [
        "qemu-storage-daemon",
        f"--blockdev=driver=file,filename={image},node-name=file,discard=unmap",
        "--blockdev=driver=qcow2,file=file,node-name=disk,discard=unmap",
        f"--chardev=socket,path={_qmp(sock)},server=on,wait=off,id=qmp",
        "--monitor=chardev=qmp",
        f"--nbd-server=addr.type=unix,addr.path={sock},max-connections=16",
        "--export=type=nbd,id=disk,node-name=disk,name=disk,writable=on",
    ]
    return command, (image,), "disk"


def _qmp(sock: Path) -> Path:
    return sock.with_suffix(".qmp")


class _Qmp:
    """The least client: one command, its answer."""

    def __init__(self, path: Path):
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(QMP_SECONDS)
        self._sock.connect(str(path))
        self._lines = self._sock.makefile("rw")
        self._lines.readline()
        self.do("qmp_capabilities")

    def do(self, command: str, **arguments: Any) -> None:
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while "return" not in (answer := json.loads(self._lines.readline())):
            if "error" in answer:
                raise peers.PeerFailed(f"qcow2: {command}: {answer['error']['desc']}")

    def close(self) -> None:
        self._lines.close()
        self._sock.close()


@contextlib.contextmanager
def _snapshots(server: Running, seconds: float) -> Iterator[None]:
    """An internal snapshot now and every so many seconds, until the end of the block."""
    over = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            client = _Qmp(_qmp(Path(server.uri.partition("?socket=")[2])))
            try:
                while not over.is_set():
                    client.do("blockdev-snapshot-internal-sync", device="disk", name=str(time.monotonic_ns()))
                    over.wait(seconds)
            finally:
                client.close()
        except (OSError, ValueError, peers.PeerFailed) as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="snapshots")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise peers.PeerFailed(f"{server.name}: no snapshots: {failed[0]}")


def _qcow2_peer(name: str, seconds: float) -> Peer:
    return Peer(
        name,
        f"qemu-storage-daemon, qcow2 with an internal snapshot every {seconds:g} s: only those are kept",
        "durable on flush; else when the kernel writes the page cache back",
        "qemu-storage-daemon",
        lambda: machine.tool_version(["qemu-storage-daemon", "--version"]),
        _qcow2,
        lambda server: _snapshots(server, seconds),
    )


PEERS = {
    peer.name: peer
    for peer in (
        peers.PEERS[PLAIN],
        Peer(
            "after",
            "cdp serve of an after-image volume (the default): every write is kept",
            peers.PEERS["cdp"].durability,
            None,
            lambda: cdp.__version__,
            peers.PEERS["cdp"].prepare,
        ),
        _Before(
            "before",
            "cdp serve of a before-image volume: the disk in place, what each write overwrote is kept",
            peers.PEERS["cdp"].durability,
            "a cdp with before-image volumes",
            lambda: cdp.__version__,
            _before,
        ),
        _qcow2_peer("qcow2-second", 1.0),
        _qcow2_peer("qcow2-minute", 60.0),
    )
}

OPTIONS = Options(rounds=5, seconds=2.0, size_bytes=256 << 20, workloads=tuple(WORKLOADS), peers=tuple(PEERS)[:-1])
QUICK = Options(rounds=1, seconds=0.1, size_bytes=16 << 20, workloads=tuple(WORKLOADS), peers=tuple(PEERS))


def run(scratch: Scratch, options: Options, say: Any, json_path: Path | None) -> int:
    """Returns the number of workloads that were measured. `say` prints a line."""
    if not fio.available():
        say("choosing: skipped: fio with the nbd engine is not installed")
        return 0
    chosen = [PEERS[name] for name in options.peers if PEERS[name].installed()]
    for name in options.peers:
        if not PEERS[name].installed():
            say(f"choosing: {name} skipped: {PEERS[name].program} is not installed")
    found = machine.facts(scratch.data)
    found["versions"] = {"fio": machine.tool_version(["fio", "--version"]), **{p.name: p.version() for p in chosen}}
    say(
        f"choosing: {options.rounds} rounds of {options.seconds:g} s, disk of {options.size_bytes >> 20} MiB; "
        f"{found['cpus']} x {found['cpu']}, {found['kernel']}, {found['file_system']}, load {found['load_1m']}"
    )
    measured = 0
    for name in options.workloads:
        grown = options.rounds * options.seconds * GROWTH_BYTES_PER_SECOND / (1 if name == "sequential" else 4)
        try:
            scratch.need(int(len({"after", "before"} & set(options.peers)) * grown) + 8 * options.size_bytes,
                         f"the workload {name}")
        except NoSpace as error:
            say(f"choosing: {error}")
            continue
        workload, kept = WORKLOADS[name], dict[str, int]()
        cells = measure(
            scratch,
            options,
            workload,
            chosen,
            after=lambda running, kept=kept: kept.update((n, _allocated(r)) for n, r in running.items()),
        )
        measured += 1
        _report(workload, chosen, cells, kept, say)
        for peer in chosen:
            machine.append_line(json_path, _line(workload, peer, cells, kept, options, found))
    return measured


def _allocated(server: Running) -> int:
    """Bytes of the device that a peer's files take now. What is preallocated counts: it is not free for others."""
    files = [f for path in server.files for f in ([path] if path.is_file() else path.rglob("*")) if f.is_file()]
    return sum(f.stat().st_blocks * 512 for f in files)


def _iops(cells: list[Cell]) -> list[float]:
    return [cell.figures.iops for cell in cells]


def _report(
    workload: Workload, chosen: list[Peer], cells: dict[str, list[Cell]], kept: dict[str, int], say: Any
) -> None:
    rows = [("", "per second", "min", "max", "p50 us", "p99 us", "MiB on device", f"/ {PLAIN} (min .. max)")]
    for peer in chosen:
        mine = cells[peer.name]
        rate = spread(_iops(mine))
        rows.append(
            (
                peer.name,
                f"{rate['median']:,.0f}",
                f"{rate['min']:,.0f}",
                f"{rate['max']:,.0f}",
                f"{spread(c.figures.p50_us for c in mine)['median']:,.0f}",
                f"{spread(c.figures.p99_us for c in mine)['median']:,.0f}",
                f"{kept[peer.name] / 2**20:,.0f}",
                "" if peer.name == PLAIN or PLAIN not in cells else show(ratios(_iops(mine), _iops(cells[PLAIN]))),
            )
        )
    say(f"\n{workload.name}: {workload.what}\n{table(rows)}")


def _line(
    workload: Workload,
    peer: Peer,
    cells: dict[str, list[Cell]],
    kept: dict[str, int],
    options: Options,
    found: dict[str, Any],
) -> dict[str, Any]:
    mine = cells[peer.name]
    line = {
        "bench": "choosing",
        "workload": workload.name,
        "peer": peer.name,
        "what": peer.what,
        "durability": peer.durability,
        "job": asdict(workload.job),
        "warmed": workload.warmed,
        "options": asdict(options),
        "facts": found,
        "rounds": [{**asdict(c.figures), "server_cpu_us": c.cpu_us, "load_1m": c.load_1m} for c in mine],
        "iops": spread(_iops(mine)),
        "allocated_bytes": kept[peer.name],
    }
    if peer.name in ("after", "before"):
        line["settings"] = peers.SETTINGS
    if peer.name != PLAIN and PLAIN in cells:
        line["over_plain"] = ratios(_iops(mine), _iops(cells[PLAIN]))
    return line
