"""How fast traces are read, next to others reading the same CSV; and that memory stays flat.

    python bench/bench_trace_parse.py                 the comparison on an MSR CSV, and every format alone
    python bench/bench_trace_parse.py --memory 100    peak memory for 1 and for 100 million records through a pipe
    python bench/bench_trace_parse.py --json FILE     also append the results as JSON lines

The others (pandas, polars, pyarrow) only turn the file into columns of exact integers and words. Ours also checks every
range, turns times into ns since 1970, names devices, numbers lines and gives records ready for use, in bounded memory.
All run in one process in rotating order, round by round; a ratio compares runs of the same round. CPU seconds are of
all threads: polars and pyarrow use every core, the native parser one.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import click

from cdp.trace import FORMATS, open_trace, samples

COLUMNS = ("ts", "host", "disk", "type", "offset", "size", "response")
HERE = Path(__file__).parent
BLOCK_RECORDS = 100_000
GOAL = {"text": 1e6, "fixed": 5e6, "blktrace": 5e6}  # records a second


@dataclass
class Run:
    wall_s: float
    cpu_s: float


def ours(path: Path, engine: str = "auto") -> int:
    with open_trace(path, engine=engine) as trace:  # type: ignore[arg-type]
        return sum(map(len, trace))


def by_pandas(path: Path) -> int:
    import pandas

    types = dict.fromkeys(COLUMNS, "uint64") | {"host": "category", "type": "category"}
    chunks = pandas.read_csv(path, header=None, names=list(COLUMNS), dtype=types, chunksize=1 << 18)
    return sum(map(len, chunks))


def by_polars(path: Path) -> int:
    import polars

    types = {name: polars.String if name in ("host", "type") else polars.UInt64 for name in COLUMNS}
    return polars.read_csv(path, has_header=False, schema=types, quote_char=None).height


def by_pyarrow(path: Path) -> int:
    import pyarrow
    from pyarrow import csv

    word = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    types = {name: word if name in ("host", "type") else pyarrow.uint64() for name in COLUMNS}
    reader = csv.open_csv(
        path,
        csv.ReadOptions(column_names=list(COLUMNS), block_size=4 << 20),
        csv.ParseOptions(quote_char=False),
        csv.ConvertOptions(column_types=types),
    )
    return sum(batch.num_rows for batch in reader)


READERS: dict[str, Callable[[Path], int]] = {
    "cdp": ours,
    "cdp, native": lambda path: ours(path, "native"),
    "polars": by_polars,
    "pyarrow": by_pyarrow,
    "pandas": by_pandas,
}


def timed(work: Callable[[], int], expected: int) -> Run:
    wall, cpu = time.perf_counter(), time.process_time()
    got = work()
    run = Run(time.perf_counter() - wall, time.process_time() - cpu)
    if got != expected:
        raise SystemExit(f"{got} records read, {expected} expected: the figures would mean nothing")
    return run


def spread(values: list[float], scale: float = 1.0, digits: int = 2) -> str:
    found = sorted(v * scale for v in values)
    return f"{statistics.median(found):.{digits}f} ({found[0]:.{digits}f} .. {found[-1]:.{digits}f})"


def write(path: Path, name: str, records: int) -> int:
    """A file of about `records` records: a block over and over, so that making it takes no time. Gives the number."""
    block = samples.encode(name, samples.random_requests(name, min(records, BLOCK_RECORDS)))
    head = b""
    if FORMATS[name].signatures or FORMATS[name].needs_header or name == "blkparse":
        lines = block.split(b"\n")
        data = [i for i, line in enumerate(lines) if line[:1].isdigit() or line[:1] == b" "]
        head = b"\n".join([*lines[: data[0]], b""]) if data[0] else b""
        block = b"\n".join([*(lines[i] for i in data if not lines[i].startswith(b" Reads")), b""])
    with path.open("wb") as file:
        file.write(head)
        for _ in range(max(1, records // BLOCK_RECORDS)):
            file.write(block)
    return max(1, records // BLOCK_RECORDS) * min(records, BLOCK_RECORDS)


def compare(folder: Path, records: int, rounds: int) -> list[dict[str, Any]]:
    path = folder / "msr.csv"
    count = write(path, "msr", records)
    runs: dict[str, list[Run]] = {name: [] for name in READERS}
    names = list(READERS)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            run = timed(lambda name=name: READERS[name](path), count)  # type: ignore[misc]
            if turn:  # the first round warms caches and imports
                runs[name].append(run)
    click.echo(
        f"MSR CSV, {count:,} records, {path.stat().st_size / 2**20:.0f} MiB, {rounds} rounds: median (min .. max)"
    )
    click.echo(f"  {'':<12} {'M records/s':>22} {'M records/CPU s':>22} {'time, of cdp':>22}")
    results = []
    for name, of in runs.items():
        rate = [count / 1e6 / run.wall_s for run in of]
        cpu = [count / 1e6 / run.cpu_s for run in of]
        ratio = [run.wall_s / mine.wall_s for run, mine in zip(of, runs["cdp"], strict=True)]
        click.echo(f"  {name:<12} {spread(rate):>22} {spread(cpu):>22} {spread(ratio):>22}")
        results.append(
            {
                "benchmark": "trace_parse_csv",
                "reader": name,
                "records": count,
                "records_per_s": rate_list(of, count),
                "records_per_cpu_s": [round(c * 1e6) for c in cpu],
                "time_of_cdp": [round(r, 4) for r in ratio],
            }
        )
    return results


def rate_list(runs: list[Run], count: int) -> list[int]:
    return [round(count / run.wall_s) for run in runs]


def every_format(folder: Path, records: int, rounds: int) -> list[dict[str, Any]]:
    click.echo(f"Every format, {rounds} rounds: median (min .. max); "
               "a request can be several lines or events of its file")
    click.echo(f"  {'':<16} {'M events/s':>22} {'M events/CPU s':>24}  {'events a request':>16}")
    results = []
    for name in samples.GRAINS:
        path = folder / name
        count = write(path, name, records)
        with open_trace(path) as trace:
            runs = [timed(lambda: sum(map(len, trace)), count) for _ in range(rounds + 1)][1:]
            events = trace.tally.events
        path.unlink()
        wall, cpu = ([events / 1e6 / seconds for seconds in of] for of in zip(*map(astuple, runs), strict=True))
        missed = "" if statistics.median(wall) * 1e6 >= GOAL[FORMATS[name].shape] else "  below the goal"
        click.echo(f"  {name:<16} {spread(wall):>22} {spread(cpu):>24}  {events // count:>16}{missed}")
        results.append(
            {
                "benchmark": "trace_parse_format",
                "format": name,
                "records": count,
                "events": events,
                "records_per_s": rate_list(runs, count),
                "records_per_cpu_s": [round(count / run.cpu_s) for run in runs],
            }
        )
    return results


_CHILD = """import resource, sys
from cdp.trace import open_trace
from cdp.trace.info import collect
with open_trace("-", sys.argv[1]) as trace:
    seen = collect(trace).records if sys.argv[2] == "info" else sum(map(len, trace))
print(seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def through_pipe(name: str, millions: float, what: str) -> dict[str, Any]:
    """Peak memory of a process that reads so many records from a pipe."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block"
        block_records = write(path, name, BLOCK_RECORDS)
        block = path.read_bytes()
    times = max(1, round(millions * 1e6 / block_records))
    head, body = b"", block
    if FORMATS[name].signatures:
        head, body = block[: block.index(b"\n") + 1], block[block.index(b"\n") + 1 :]
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, name, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin and child.stdout
        child.stdin.write(head)
        for _ in range(times):
            child.stdin.write(body)
        child.stdin.close()
        seen, peak_kib = map(int, child.stdout.read().split())
    seconds = time.perf_counter() - start
    if seen != times * block_records:
        raise SystemExit(f"{seen} records read, {times * block_records} expected")
    return {
        "benchmark": "trace_memory",
        "format": name,
        "what": what,
        "records": seen,
        "peak_rss_bytes": peak_kib << 10,
        "bytes_fed": len(head) + times * len(body),
        "seconds": round(seconds, 3),
    }


def memory(millions: float, formats: tuple[str, ...], kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    click.echo("Peak memory of a process that reads from a pipe")
    results = []
    for name in formats:
        for what in kinds:
            few, many = through_pipe(name, min(1.0, millions / 10), what), through_pipe(name, millions, what)
            results += [few, many]
            click.echo(
                f"  {name:<10} {what:<5} {few['records'] / 1e6:.1f} M records {few['peak_rss_bytes'] / 2**20:6.0f} MiB;"
                f" {many['records'] / 1e6:6.1f} M records ({many['bytes_fed'] / 2**30:.1f} GiB)"
                f" {many['peak_rss_bytes'] / 2**20:6.0f} MiB, {many['records'] / many['seconds'] / 1e6:.1f} M/s"
            )
    return results


def facts() -> dict[str, Any]:
    """What the figures depend on."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], check=False, capture_output=True, text=True, cwd=HERE
    )
    model = (
        next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            "",
        )
        if Path("/proc/cpuinfo").exists()
        else ""
    )
    return {
        "commit": git.stdout.strip(),
        "cpu": model or platform.processor(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


@click.command()
@click.option("--records", type=click.IntRange(1000), default=1_000_000, show_default=True, help="Of each file.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--memory", "millions", type=click.FloatRange(0.2), metavar="MILLIONS", help="Measure peak memory instead."
)
@click.option("--format", "formats", multiple=True, default=("msr", "blkparse", "blktrace"), help="Of --memory.")
@click.option(
    "--what", "kinds", multiple=True, default=("read", "info"), type=click.Choice(["read", "info"]), help="Of --memory."
)
@click.option("--quick", is_flag=True, help="A tiny run that proves it works; its figures mean nothing.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Append results to this file as JSON lines.")
def main(
    records: int,
    rounds: int,
    millions: float | None,
    formats: tuple[str, ...],
    kinds: tuple[str, ...],
    quick: bool,
    json_path: Path | None,
) -> None:
    """Speed and memory of reading traces."""
    if quick:
        records, rounds = 2000, 1
    if millions:
        results = memory(millions, formats, kinds)
    else:
        with tempfile.TemporaryDirectory() as folder:
            results = compare(Path(folder), records, rounds) + every_format(Path(folder), records, rounds)
    if json_path:
        known = facts()
        with json_path.open("a") as file:
            file.writelines(json.dumps(result | known) + "\n" for result in results)


if __name__ == "__main__":
    main()
