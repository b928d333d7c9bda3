"""Runs bench/test_micro.py with pytest-benchmark and keeps its figures as JSON lines like the others'."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import facts as machine
from bench.scratch import Scratch, process

HERE = Path(__file__).resolve().parent


def run(scratch: Scratch, quick: bool, say: Any, json_path: Path | None) -> int:
    """Returns the number of benchmarks that ran. `quick`: each body once."""
    try:
        import pytest_benchmark  # noqa: F401
    except ImportError:
        say("micro: skipped: pytest-benchmark is not installed")
        return 0
    found = machine.facts(scratch.data)
    say(f"micro: {found['cpus']} x {found['cpu']}, {found['kernel']}, load {found['load_1m']}")
    report = scratch.data / "micro.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        str(HERE / "pytest.ini"),
        f"--basetemp={scratch.data / 'tmp'}",
        f"--benchmark-json={report}",
        "--benchmark-columns=min,median,max,stddev,rounds",
        "--benchmark-sort=name",
        "--benchmark-warmup=off",
        str(HERE / "test_micro.py"),
    ]
    command += (
        ["--benchmark-min-rounds=1", "--benchmark-max-time=0.001", "--benchmark-calibration-precision=1"]
        if quick
        else ["--benchmark-max-time=1.0"]
    )
    with process(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        said, _ = child.communicate(timeout=600)
    say(said.decode(errors="replace").strip())
    if child.returncode or not report.exists():
        say(f"micro: pytest ended with status {child.returncode}")
        return 0
    results = json.loads(report.read_text())["benchmarks"]
    for one in results:
        stats = one["stats"]
        machine.append_line(
            json_path,
            {
                "bench": "micro",
                "name": one["name"],
                "options": {"quick": quick},
                "facts": found,
                "durability": "none",
                "seconds": {key: stats[key] for key in ("min", "median", "max", "stddev", "rounds", "iterations")},
            },
        )
    return len(results)
