"""make histories: simulated histories of every kind, in parallel processes, for as long as there is time.

A history is what a kind makes of a seed (docs/testing.md): a volume on the simulated machine is made, used, cut off and
recovered, and every openable moment is compared with the model. `make soak` plays the same ones through pytest, a kind
at a time; here a process plays one after the other, and what was played is counted for good, by kind and commit, in
build/histories/played.json: the seeds of a kind go on where the last run of that commit ended.

A history that fails is printed with the call that repeats it, and kept in build/histories/failed; the others go on.
"""
from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "histories"
BATCH_S = 5.0           # a process plays one kind for so long, then the next
Play = Callable[[int], object]


@dataclass
class Played:
    """Of a kind: how many histories, in how much processor time, and the seeds of those that failed."""

    kind: str
    first: int
    count: int
    processor_s: float
    failed: list[tuple[int, str]]


def _sim(module: str) -> Any:
    return importlib.import_module(module)


def kinds() -> dict[str, Play]:
    """What a seed is given to, by name."""
    cut, faults = _sim("test_powercut"), _sim("test_faults")
    foreign, clock = _sim("test_foreign_histories"), _sim("test_clock_histories")
    plays: dict[str, Play] = {
        "thinned": lambda seed: _sim("test_thinning").ThinnedHistory(seed).run(),
        "group": _sim("test_groups").run,
        "foreign": lambda seed: foreign.Life(seed, foreign.wrong_sums).run(),
        "foreign, failing": lambda seed: foreign.Life(seed, foreign.wrong_sums, faults=True).run(),
        "archive": _archive,
    }
    for base in ("after", "before"):
        plays[f"{base}"] = lambda seed, base=base: cut.History(seed, base).run()
        plays[f"{base}, given up"] = lambda seed, base=base: cut.GivenUp(seed, base).run()
        plays[f"{base}, wrong clock"] = lambda seed, base=base: cut.History(seed, base, clock.WRONG_CLOCK).run()
        plays[f"{base}, failing"] = lambda seed, base=base: faults.Faults(seed, base).run()
        plays[f"{base}, flipped"] = lambda seed, base=base: faults.flip(seed, base)
    return plays


def _archive(seed: int) -> None:
    import pytest

    archive = _sim("test_archive_histories")
    with pytest.MonkeyPatch.context() as patch:
        archive.make_often(patch)
        archive.history(seed)


def play(kind: str, first: int, seconds: float) -> Played:
    """Histories of a kind from the seed `first` on, for so long; in a process of the pool."""
    one, until, began = kinds()[kind], time.monotonic() + seconds, time.process_time()
    seed, failed = first, []
    while seed == first or time.monotonic() < until:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                one(seed)
        except Exception:       # noqa: BLE001  (whatever it is, it is what is looked for)
            failed.append((seed, traceback.format_exc()))
        seed += 1
    return Played(kind, first, seed - first, time.process_time() - began, failed)


def _prepare() -> None:
    logging.disable(logging.CRITICAL)       # of failures that are drawn
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "sim"), str(ROOT / "tests" / "archive")]


def _start(nice: int) -> None:
    os.nice(nice)
    _prepare()


def commit() -> str:
    """Of the checkout; a seed means something only with it."""
    done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    return done.stdout.strip() or "unknown"


class Counts:
    """build/histories/played.json: {commit: {kind: [histories, processor seconds, failed]}}."""

    def __init__(self, which: str):
        self.path, self.which = BUILD / "played.json", which
        self.all: dict[str, dict[str, list[float]]] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.mine = self.all.setdefault(which, {})

    def add(self, done: Played) -> None:
        row = self.mine.setdefault(done.kind, [0, 0.0, 0])
        row[0] += done.count
        row[1] = round(row[1] + done.processor_s, 1)
        row[2] += len(done.failed)
        self.path.write_text(json.dumps(self.all, indent=1))

    def first(self, kind: str) -> int:
        return int(self.mine.get(kind, [0])[0])

    def total(self) -> int:
        return sum(int(row[0]) for rows in self.all.values() for row in rows.values())


def keep(done: Played, which: str) -> None:
    """A failure: printed, and kept with what repeats it."""
    for seed, text in done.failed:
        path = BUILD / "failed" / f"{done.kind.replace(', ', '-').replace(' ', '-')}-{seed}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        again = f"python tests/histories.py --kind '{done.kind}' --seed {seed}"
        path.write_text(f"commit {which}: {again}\n{text}")
        print(f"FAILED: {done.kind}, seed {seed}: {text.strip().splitlines()[-1][:200]}\n  again: {again}\n  {path}",
              flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="histories", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="when no further batch begins (600)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    parser.add_argument("--nice", type=int, default=19, help="of these processes (19)")
    parser.add_argument("--kind", action="append", default=[], help="this kind alone; may be given several times")
    parser.add_argument("--seed", type=int, default=None, help="with --kind: play this one, here")
    args = parser.parse_args()
    _prepare()
    every = kinds()
    if unknown := set(args.kind) - every.keys():
        parser.error(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(sorted(every))}")
    if args.seed is not None:
        for kind in args.kind:
            every[kind](args.seed)
        return 0
    BUILD.mkdir(parents=True, exist_ok=True)
    which = commit()
    counts, failed, here = Counts(which), 0, dict.fromkeys(args.kind or sorted(every), 0)
    first = {kind: counts.first(kind) for kind in here}
    began, until = time.monotonic(), time.monotonic() + args.seconds
    print(f"histories: {len(here)} kinds, {args.workers} processes, for {args.seconds:.0f} s, at {which}", flush=True)
    with multiprocessing.get_context("spawn").Pool(args.workers, _start, (args.nice,)) as pool:
        order, running = list(here), []
        while running or time.monotonic() < until:
            while len(running) < args.workers and order and time.monotonic() < until:
                kind = order.pop(0)
                running.append((kind, pool.apply_async(play, (kind, first[kind], BATCH_S))))
            ready = [pair for pair in running if pair[1].ready()]
            for pair in ready:
                running.remove(pair)
                done = pair[1].get()
                counts.add(done)
                keep(done, which)
                first[done.kind] += done.count
                here[done.kind] += done.count
                failed += len(done.failed)
                order.append(done.kind)
            if not ready:
                time.sleep(0.05)
    seconds, count = time.monotonic() - began, sum(here.values())
    for kind, played in here.items():
        print(f"  {kind:22} {played:9,}")
    print(f"histories: {count:,} in {seconds:.0f} s, {count / seconds * 60:,.0f} a minute, {failed} failed; "
          f"{counts.total():,} in this checkout so far")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
