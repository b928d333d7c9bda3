"""What clients of `cdp ha serve` notice when its processes die: pauses, and nothing else.

While the active daemon is killed (SIGKILL) at random moments, stopped (SIGSTOP, later SIGCONT) and asked to hand over:

    fio       four connections write blocks of mixed sizes and verify them, with flushes; two more trim
    witness   one connection writes numbered blocks (bench.witness); its longest wait is the pause of a failover
    bookmarks one between every two disturbances, when the witness is between two requests
    watcher   who holds the volume's lock, and whether its former owners live, 50 times a second

Afterwards: fio saw no error and no wrong block, every bookmark shows exactly the witness's state of that time, other
moments show some state of it, in order, and `cdp check` finds nothing.
"""

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cdp
from bench import facts as machine
from bench import fio
from bench.scratch import Scratch, process
from bench.witness import Witness, WitnessFailed
from cdp.ha.manager import ask
from cdp.service.connect import connect
from cdpcore.base.errors import CdpError

MIB = 1 << 20
REGION_MIB = 24
WITNESS_BLOCKS = 2048
READY_SECONDS = 60.0
STOPPED_SECONDS = 5.0
MOMENTS = 40  # looked at beside the bookmarks


@dataclass(frozen=True)
class Options:
    kills: int = 30
    stops: int = 1
    switches: int = 2
    segment_mib: int = 64
    most_wait_s: float = 1.0  # between a standby that is ready and the next disturbance
    seed: int = 1


QUICK = Options(kills=3, stops=0, switches=1, most_wait_s=0.3)


class Watcher(threading.Thread):
    """Looks at /proc/locks: at most one process holds the volume's lock, and none that another one followed."""

    def __init__(self, lock: Path):
        super().__init__(daemon=True)
        found = lock.stat()
        self._name = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        self.done = threading.Event()
        self.owners: list[int] = []
        self.samples = 0
        self.failure = ""

    def run(self) -> None:
        while not self.done.wait(0.02) and not self.failure:
            try:
                held = [line.split() for line in Path("/proc/locks").read_text().splitlines() if self._name in line]
            except OSError:
                return  # no such file here: the kernel's own lock is trusted
            pids = {int(fields[4]) for fields in held if "->" not in fields}
            self.samples += 1
            if len(pids) > 1:
                self.failure = f"processes {pids} own the volume at the same time"
            for pid in pids - set(self.owners[-1:]):
                if pid in self.owners:
                    self.failure = f"process {pid} owned the volume again after process {self.owners[-1]}"
                self.owners.append(pid)
                for former in self.owners[:-1]:
                    if alive(former):
                        self.failure = f"process {former} lives while process {pid} owns the volume"


def alive(pid: int) -> bool:
    """Whether a process could still do anything; a zombie cannot."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Service:
    """`cdp ha serve` of one volume."""

    def __init__(self, volume: Path, sock: Path, log: Path):
        self.volume, self.sock, self.log = volume, sock, log
        self.control = str(sock.with_suffix(".ha"))
        self.uri = f"nbd+unix:///{volume.name}?socket={sock}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "cdp", "ha", "serve", str(self.volume), "--unix", str(self.sock),
                "--control", self.control, "--admin-socket", str(self.sock.with_suffix(".admin"))]

    def status(self) -> dict[str, Any]:
        return ask(self.control, {"op": "status"})

    def settled(self, former: int = 0) -> int:
        """Wait for an owner that is not `former`, and a standby; the owner's pid."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(CdpError):
                view = self.status()
                lun = view["luns"][0]
                if lun["served"] and lun["owner"] != former and any(p["state"] == "shadow" for p in view["processes"]):
                    return int(lun["owner"])
            time.sleep(0.02)
        raise WitnessFailed(f"no new owner and standby after {READY_SECONDS:.0f} s: {self.log.read_text()[-2000:]}")


def jobs(uri: str, work_mib: int) -> str:
    """A fio job file: 4 jobs that write and verify, 2 that trim, on regions of their own."""
    lines = ["[global]", "ioengine=nbd", f"uri={uri}", "iodepth=16", "fsync=64", f"size={work_mib}M", "rate=12m",
             "verify_state_save=0"]
    for n in range(4):
        lines += [f"[verify{n}]", f"offset={n * REGION_MIB}M", "rw=randwrite", "verify=crc32c", "verify_fatal=1",
                  "bssplit=512/10:4k/40:5k/10:64k/20:256k/20", "blockalign=512"]
    for n in range(4, 6):
        lines += [f"[trim{n}]", f"offset={n * REGION_MIB}M", "rw=randtrim", "bs=64k"]
    return "\n".join(lines) + "\n"


class Writers(threading.Thread):
    """fio, over and over until stop()."""

    def __init__(self, place: Path, uri: str):
        super().__init__(daemon=True)
        self._job = place / "failover.fio"
        self._job.write_text(jobs(uri, REGION_MIB))
        self._done = threading.Event()
        self.runs = self.verified_bytes = 0
        self.failure = ""

    def run(self) -> None:
        while not self._done.is_set() and not self.failure:
            with process(["fio", "--output-format=json", f"--randseed={self.runs + 1}", str(self._job)],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
                text = child.communicate()[0].decode(errors="replace")
            try:
                found = json.JSONDecoder().raw_decode(text[text.index("\n{"):].lstrip())[0]["jobs"]
            except (ValueError, KeyError):
                self.failure = f"fio said: {text[-500:]}"
                return
            if child.returncode or any(job["error"] for job in found) or "verify:" in text:
                self.failure = f"fio ended with status {child.returncode}: {text[:1500]}"
                return
            self.runs += 1
            self.verified_bytes += sum(job["read"]["io_bytes"] for job in found)

    def stop(self) -> None:
        self._done.set()
        self.join(300)
        if self.failure or self.is_alive():
            raise WitnessFailed(self.failure or "fio hangs")


def run(scratch: Scratch, options: Options, say: Callable[[str], None], json_path: Path | None) -> int:
    """Returns the number of disturbances that were survived; raises WitnessFailed for what must not be."""
    if not fio.available():
        say("failover: skipped: fio with the nbd engine is not installed")
        return 0
    folder = scratch.folder("failover")
    volume = folder / "web"
    size_bytes = 6 * REGION_MIB * MIB + WITNESS_BLOCKS * 4096
    cdp.create(volume, size=size_bytes, settings=cdp.Settings(segment_bytes=options.segment_mib * MIB)).close()
    log = folder / "serve.log"
    service = Service(volume, scratch.sockets / "web.sock", log)
    found = machine.facts(scratch.data)
    with log.open("wb") as out, process(service.command(), stdout=out, stderr=out):
        service.settled()
        witness = Witness(service.sock, "web", 6 * REGION_MIB * MIB, WITNESS_BLOCKS, options.seed)
        writers, watcher = Writers(folder, service.uri), Watcher(volume / "lock")
        for thread in (witness, writers, watcher):
            thread.start()
        try:
            rows, marks = _disturb(service, options, witness, writers, watcher, say)
        finally:
            watcher.done.set()
        writers.stop()
        witness.stop()
    states = _history(volume, witness, marks)
    for kind in dict.fromkeys(kind for kind, _ in rows):
        pauses = [pause for was, pause in rows if was == kind]
        say(f"failover: {len(pauses)} x {kind}: longest pause of a client: median {statistics.median(pauses):.0f} ms, "
            f"max {max(pauses):.0f} ms")
    say(f"failover: fio: {writers.runs} runs, {writers.verified_bytes / MIB:.0f} MiB verified, no error; witness: "
        f"{len(witness.ops)} requests; {len(marks)} bookmarks and {states} other moments right; one owner in "
        f"{watcher.samples} samples")
    machine.append_line(json_path, {
        "bench": "failover", "what": "pauses of a client, ms", "options": asdict(options), "facts": found,
        "pauses_ms": rows, "verified_bytes": writers.verified_bytes, "bookmarks": len(marks), "moments": states})
    return len(rows)


def _disturb(service: Service, options: Options, witness: Witness, writers: Writers, watcher: Watcher,
             say: Callable[[str], None]) -> tuple[list[tuple[str, float]], list[tuple[str, int]]]:
    chance = random.Random(options.seed)
    kinds = ["kill -9"] * options.kills + ["SIGSTOP"] * options.stops + ["switch"] * options.switches
    chance.shuffle(kinds)
    rows: list[tuple[str, float]] = []
    marks = [_mark(service, witness, 0)]
    for number, kind in enumerate(kinds, 1):
        owner = service.settled()
        time.sleep(chance.uniform(0, options.most_wait_s))
        began = time.monotonic()
        if kind == "kill -9":
            os.kill(owner, signal.SIGKILL)
        elif kind == "switch":
            ask(service.control, {"op": "switch"})
        else:
            os.kill(owner, signal.SIGSTOP)
            time.sleep(STOPPED_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.kill(owner, signal.SIGCONT)
        service.settled(former=owner)
        marks.append(_mark(service, witness, number))
        rows.append((kind, 1e3 * witness.longest(began, time.monotonic())))
        say(f"failover: {number}/{len(kinds)} {kind}: pause {rows[-1][1]:.0f} ms")
        for problem in (writers.failure, watcher.failure, witness.failure):
            if problem:
                raise WitnessFailed(str(problem))
    return rows, marks


def _mark(service: Service, witness: Witness, number: int) -> tuple[str, int]:
    """A bookmark when the witness is between two requests, and how many it had made."""
    deadline = time.monotonic() + READY_SECONDS
    name = f"after-{number}"
    while True:
        with witness.quiet:
            try:
                with connect(str(service.volume)) as control:
                    control.bookmark(name)
                return name, len(witness.ops)
            except CdpError as error:  # the administration comes a moment after the service
                if time.monotonic() > deadline:
                    raise WitnessFailed(f"no bookmark: {error}") from None
        time.sleep(0.05)


def _history(volume: Path, witness: Witness, marks: list[tuple[str, int]]) -> int:
    """Every bookmark, some other moments, and the end. Returns how many others."""
    with cdp.open(volume) as opened:
        for name, n in marks:
            with opened.at(name) as image:
                try:
                    witness.expect(image, n)
                except WitnessFailed as error:
                    raise WitnessFailed(f"the volume at {name}: {error}") from None
        newest, before = opened.window().newest.seq, 0
        for k in range(1, MOMENTS + 1):
            with opened.at(f"#{newest * k // MOMENTS}") as image:
                shown = witness.expect(image)
            if shown < before:
                raise WitnessFailed(f"#{newest * k // MOMENTS} shows request {shown}, an earlier moment {before}")
            before = shown
        witness.expect(opened, len(witness.ops))
    checked = subprocess.run([sys.executable, "-m", "cdp", "check", str(volume)], capture_output=True, text=True,
                             check=False)
    if checked.returncode:
        raise WitnessFailed(f"cdp check: {checked.stdout[-500:]}{checked.stderr[-500:]}")
    return MOMENTS
