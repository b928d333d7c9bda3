"""A long history: what opening a moment, going back and reading cost when millions of records lie behind it.

Each step is a process of its own (bench.history_step), so that memory is of that step alone and a kill is a real
one: fill; open after a clean close, files dropped from the page cache; kill -9 with a nearly full segment behind the
last seal, which is the most that recovery ever has to read; open again.
"""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import facts as machine
from bench.peers import SETTINGS
from bench.scratch import Scratch, process, settle_files

STEP_SECONDS = 1800.0


@dataclass(frozen=True)
class Options:
    """records of length_bytes at random places of a volume of size_bytes (small enough that most blocks are written
    more than once: reads of what was never written would flatter); `points` moments are opened, `restores` gone back
    to. mode: the kind of volume, after- or before-images."""

    records: int = 10_000_000
    length_bytes: int = 512
    size_bytes: int = 2 << 30
    segment_bytes: int = SETTINGS["segment_bytes"]
    points: int = 200
    restores: int = 20
    read_seconds: float = 1.0
    mode: str = "after"


DEFAULT = (Options(), Options(records=1_000_000, length_bytes=4096))
QUICK = (Options(records=40_000, size_bytes=8 << 20, segment_bytes=16 << 20, points=5, restores=2, read_seconds=0.02),)


class StepFailed(Exception):
    """A step ended without a result."""


def run(scratch: Scratch, options: Options, say: Any, json_path: Path | None) -> int:
    # Log and index (up to 28 bytes a record, twice while they merge), twice the segment that is ahead.
    scratch.need(
        options.records * (options.length_bytes + 48 + 60) + 3 * options.segment_bytes,
        f"a history of {options.records} records of {options.length_bytes} bytes",
    )
    found = machine.facts(scratch.data)
    say(
        f"history ({options.mode}-images): {options.records:,} records of {options.length_bytes} B at random in "
        f"{options.size_bytes >> 20} MiB; "
        f"{found['cpus']} x {found['cpu']}, {found['kernel']}, {found['file_system']}, load {found['load_1m']}"
    )
    volume = scratch.data / f"history-{options.length_bytes}"
    results: dict[str, Any] = {}
    for name in ("fill", "look", "crash", "reopen"):
        for path in (volume, disk_of(volume)):
            if path.exists():
                settle_files(path, drop=True)
        results[name] = _step(name, volume, options)
        if name == "reopen":
            results[name]["lost"] = max(0, results["crash"]["flushed_seq"] - results[name]["records"])
        say(_told(name, results[name]))
    machine.append_line(
        json_path,
        {
            "bench": "history",
            "options": asdict(options),
            "settings": {**SETTINGS, "segment_bytes": options.segment_bytes},
            "durability": f"durable on flush and every {SETTINGS['commit_interval_ms']} ms",
            "facts": found,
            "load_1m_at_end": machine.load(),
            "results": results,
        },
    )
    shutil.rmtree(volume, ignore_errors=True)
    disk_of(volume).unlink(missing_ok=True)
    return 1


def disk_of(volume: Path) -> Path:
    """That a volume of before-images protects."""
    return volume.with_suffix(".img")


def _step(name: str, volume: Path, options: Options) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.history_step", name, str(volume), json.dumps(asdict(options))]
    with process(command, stdout=subprocess.PIPE) as child:
        assert child.stdout
        try:
            raw, _ = child.communicate(timeout=STEP_SECONDS)
        except subprocess.TimeoutExpired:
            raise StepFailed(f"history: {name} hangs") from None
    expected = -signal.SIGKILL if name == "crash" else 0
    if child.returncode != expected or not raw.strip():
        raise StepFailed(f"history: {name} ended with status {child.returncode}")
    found: dict[str, Any] = json.loads(raw)
    return found


def _told(name: str, r: dict[str, Any]) -> str:
    if name == "fill":
        return (
            f"  written           {r['per_second']:,.0f} records/s by one thread; all merges done "
            f"{r['settle_s']:.1f} s later; clean close "
            f"{r['close_ms']:,.0f} ms\n"
            f"  log               {r['log_bytes_per_record']:.1f} B a record ({r['log_overhead_bytes']:.1f} B beside "
            "its data); "
            f"{r['segments']} segments\n"
            f"  index             {r['index_bytes_per_record']:.1f} B a record; {r['runs']} runs"
        )
    if name == "look":
        lines = [
            f"  open volume       {r['open_ms']:,.1f} ms after a clean close, cold",
            f"  memory            {_mib(r['memory_after_open'])} then",
            f"  first image       {r['first_image_ms']:.2f} ms, cold",
        ]
        for key, what in (
            ("image_by_seq_ms", "image by seq"),
            ("image_by_time_ms", "image by time"),
            ("image_and_read_ms", "image + read"),
            ("image_under_load_ms", "image, writing"),
            ("restore_ms", "restore"),
            ("restore_read_ms", "its first read"),
            ("restore_write_ms", "its first write"),
            ("undo_ms", "undo"),
            ("restore_under_load_ms", "restore, writing"),
        ):
            lines.append(f"  {what:16s}  {_ms(r[key])}")
        for key, what in (
            ("read_cold", "read, cold"),
            ("read_warm", "read, warm"),
            ("read_after_restores", "after restores"),
        ):
            x = r[key]
            lines.append(
                f"  {what:16s}  now {x['now_us']:.1f} us; as of a random moment {x['as_of_us']['median']:.1f} us "
                f"({x['as_of_us']['min']:.1f} .. {x['as_of_us']['max']:.1f})"
            )
        return "\n".join([*lines, f"  memory            {_mib(r['memory_at_end'])} at the end; {r['runs']} runs"])
    if name == "crash":
        return (
            f"  kill -9           with {r['tail_records']:,} records ({r['tail_bytes'] >> 20} MiB) behind the last seal"
        )
    return (
        f"  open volume       {r['open_ms']:,.1f} ms after kill -9, cold; {r['records']:,} records, {r['lost']} of the "
        "flushed ones lost"
    )


def _mib(memory: dict[str, int]) -> str:
    return f"{memory['rss'] >> 20} MiB resident ({memory['anonymous'] >> 20} own, {memory['file'] >> 20} mapped files)"


def _ms(s: dict[str, float]) -> str:
    return f"{s['median']:.2f} ms median, {s['p99']:.2f} p99, {s['max']:.2f} max of {s['n']:.0f}"
