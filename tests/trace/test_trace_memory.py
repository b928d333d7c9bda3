"""Memory is flat in the length of a trace; the benchmark runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.interop import Started

from cdp.trace import FORMATS, samples

pytestmark = pytest.mark.cold

ROOT = Path(__file__).resolve().parents[2]
CHILD = """import resource, sys
from cdp.trace import open_trace
from cdp.trace.info import collect
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def progress(seen):
    global small
    small = small if seen > int(sys.argv[3]) else peak()
seen = small = 0
with open_trace("-", sys.argv[1]) as trace:
    if sys.argv[2] == "info":
        seen = collect(trace, max_intervals=1 << 15, progress=progress).records
    else:
        for batch in trace:
            seen += len(batch)
            progress(seen)
print(seen, small, peak())
"""


def peaks_kib(name: str, what: str, block: bytes, times: int) -> tuple[int, int, int]:
    """The records of `times` blocks of 20,000, and the most memory at a tenth of them and at the end."""
    with Started([sys.executable, "-c", CHILD, name, what, str(times * 2000)], stdin=subprocess.PIPE,
                 stdout=subprocess.PIPE) as child:
        assert child.stdin and child.stdout
        for _ in range(times):
            child.stdin.write(block)
        child.stdin.close()
        seen, small, large = map(int, child.stdout.read().split())
    assert child.returncode == 0
    return seen, small, large


@pytest.mark.parametrize(
    "name, what", [("msr", "read"), ("msr", "info"), ("spc", "read"), ("blktrace", "read"), ("oracle-general", "read")]
)
def test_memory_does_not_grow_with_the_trace(name: str, what: str) -> None:
    """Ten times the records, 100 MiB more of input: at most 24 MiB more of memory (allocators keep some)."""
    block = samples.encode(name, samples.random_requests(name, 20_000))
    assert not FORMATS[name].signatures
    many = max(100, (110 << 20) // len(block)) if what == "read" else 100
    seen, small, large = peaks_kib(name, what, block, many)
    assert seen == many * 20_000 and small > 0
    assert large - small < 24 << 10, f"{small} KiB for a tenth of the trace, {large} KiB for all of it"


@pytest.mark.long
def test_benchmark_runs(tmp_path: Path) -> None:
    script = ROOT / "bench" / "bench_trace_parse.py"
    if not script.exists():
        pytest.skip("no bench folder")
    out = tmp_path / "out.jsonl"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)

    done = run("--quick", "--json", out)
    assert done.returncode == 0, done.stderr
    assert out.read_text().count("\n") == 5 + len(samples.GRAINS)
    done = run("--memory", 0.2, "--format", "spc", "--what", "read")
    assert done.returncode == 0 and "MiB" in done.stdout, done.stderr
