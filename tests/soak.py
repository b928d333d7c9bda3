"""make soak: the seeded tests, in turn, with new seeds, on every core, until the time is over.

Nothing is tested here: each run is pytest on tests with the mark "soak" (or "long", which an ordinary run leaves out),
in a process of its own, with a seed of its own. A test that takes the fixture `seeds` gets a share of the time and goes
from seed to seed; tests of hypothesis draw more examples. All seeds follow from the one that is printed first.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTEST = ["--cold", "-p", "no:cacheprovider", "-o", "addopts=--strict-markers", "--tb=long"]
SHARE_S = (5.0, 60.0)       # what one seeded test gets at a time: at least, at the most
HANG_S = 900                # pytest gives up on a test
GRACE_S = 60                # after the end, for tests that do not look at the time; then they are cut short


@dataclass(frozen=True)
class Job:
    """One run of pytest. `seeded`: its test uses as much time as it is given."""

    name: str
    tests: tuple[str, ...]
    seeded: bool

    def argv(self, seed: int, share_s: float) -> list[str]:
        seeds = [f"--seed={seed}", f"--seconds={share_s:.0f}", f"--hypothesis-seed={seed}", f"--timeout={HANG_S}"]
        return [sys.executable, "-m", "pytest", *PYTEST, *seeds, *self.tests]


class Collector:
    """A plugin of pytest that keeps what is collected."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = session.items


def jobs(only: str) -> list[Job]:
    """Every seeded test is a job; the others of a file, which take the time they take, are one together."""
    collector = Collector()
    select = ["-m", "soak or long", *(["-k", only] if only else [])]
    with contextlib.redirect_stdout(io.StringIO()):
        status = pytest.main([*PYTEST, "-qq", "--collect-only", *select, str(ROOT / "tests")], plugins=[collector])
    if status:
        sys.exit("soak: no test to run")
    seeded, others = [], defaultdict(list)
    for item in collector.items:
        if "seeds" in getattr(item, "fixturenames", ()):
            seeded.append(Job(item.nodeid.split("/")[-1], (item.nodeid,), True))
        else:
            others[item.nodeid.split("::")[0]].append(item.nodeid)
    return seeded + [Job(name.split("/")[-1], tuple(tests), False) for name, tests in others.items()]


class Soak:
    def __init__(self, seed: int, seconds: float, workers: int, only: str):
        self.seed, self.jobs = seed, jobs(only)
        self.until = time.monotonic() + seconds
        self.share_s = min(max(SHARE_S[0], seconds * workers / len(self.jobs) - 3), SHARE_S[1])
        self.lock = threading.Lock()
        self.queue: list[tuple[Job, int]] = []
        self.rounds = self.runs = self.seeds = 0
        self.failed: list[str] = []
        self.running: set[subprocess.Popen[str]] = set()

    def next(self) -> tuple[Job, int] | None:
        with self.lock:
            if time.monotonic() >= self.until:
                return None
            if not self.queue:
                rnd = random.Random(f"{self.seed} {self.rounds}")
                self.queue = [(job, rnd.randrange(1, 1 << 31)) for job in rnd.sample(self.jobs, len(self.jobs))]
                self.rounds += 1
            return self.queue.pop()

    def worker(self) -> None:
        while (one := self.next()) is not None:
            self.run(*one)

    def run(self, job: Job, seed: int) -> None:
        began = time.monotonic()
        argv = job.argv(seed, max(1.0, min(self.share_s, self.until - began)))
        with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as scratch:
            process = subprocess.Popen([*argv, f"--basetemp={scratch}/t"], cwd=ROOT, text=True, errors="replace",
                                       stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
            with self.lock:
                self.running.add(process)
            cut = False
            try:
                out = process.communicate(timeout=None if job.seeded else max(1.0, self.until + GRACE_S - began))[0]
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, cut = process.communicate()[0], True
        with self.lock:
            self.running.discard(process)
            self.runs += 1
            self.seeds += sum(map(int, re.findall(r"^(\d+) seeds$", out, re.MULTILINE)))
            verdict = "cut" if cut else "ok" if process.returncode == 0 else "FAILED"
            print(f"{verdict:6} {job.name} (seed {seed}, {time.monotonic() - began:.0f} s)", flush=True)
            if process.returncode and not cut:
                self.failed.append(shlex.join(argv))
                print(out, f"The whole run again: {shlex.join(argv)}", sep="\n", flush=True)

    def stop(self) -> None:
        """End what still runs: an interrupt."""
        self.until = 0.0
        with self.lock:
            for process in self.running:
                os.killpg(process.pid, signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600,
                        help=f"when no further test begins; what runs has {GRACE_S} s more (600)")
    parser.add_argument("--seed", type=int, default=None, help="all seeds follow from it (a new one, which is printed)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="tests at a time (one a core)")
    parser.add_argument("-k", dest="only", default="", help="an expression of pytest's -k: these tests alone")
    args = parser.parse_args()
    began = time.monotonic()
    seed = random.SystemRandom().randrange(1 << 31) if args.seed is None else args.seed
    soak = Soak(seed, args.seconds, args.workers, args.only)
    print(
        f"soak: {len(soak.jobs)} jobs, {soak.share_s:.0f} s each, {args.workers} at a time, for {args.seconds:.0f} s; "
        f"SEED={seed}",
        flush=True,
    )
    workers = [threading.Thread(target=soak.worker) for _ in range(args.workers)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        soak.stop()
        print("soak: interrupted", flush=True)
    print(f"soak: {soak.runs} runs, {soak.seeds} seeds in {time.monotonic() - began:.0f} s, SEED={seed}: "
          f"{f'{len(soak.failed)} failed' if soak.failed else 'all passed'}")
    for argv in soak.failed:
        print(f"  {argv}")
    return 1 if soak.failed else 0


if __name__ == "__main__":
    sys.exit(main())
