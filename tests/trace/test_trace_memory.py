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
with open_trace("-", sys.argv[1]) as trace:
    seen = collect(trace, max_intervals=1 << 15).records if sys.argv[2] == "info" else sum(map(len, trace))
print(seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(name: str, what: str, head: bytes, block: bytes, times: int) -> tuple[int, int]:
    with Started([sys.executable, "-c", CHILD, name, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin and child.stdout
        child.stdin.write(head)
        for _ in range(times):
            child.stdin.write(block)
        child.stdin.close()
        seen, peak = child.stdout.read().split()
    assert child.returncode == 0
    return int(seen), int(peak)


@pytest.mark.parametrize(
    "name, what", [("msr", "read"), ("msr", "info"), ("spc", "read"), ("blktrace", "read"), ("oracle-general", "read")]
)
def test_memory_does_not_grow_with_the_trace(name: str, what: str) -> None:
    """Ten times the records, 100 MiB more of input: at most 24 MiB more of memory (allocators keep some)."""
    block = samples.encode(name, samples.random_requests(name, 20_000))
    assert not FORMATS[name].signatures
    many = max(100, (110 << 20) // len(block)) if what == "read" else 100
    seen, small = peak_kib(name, what, b"", block, many // 10)
    assert seen == many // 10 * 20_000
    seen, large = peak_kib(name, what, b"", block, many)
    assert seen == many * 20_000
    assert large - small < 24 << 10, f"{small} KiB for a tenth of the trace, {large} KiB for all of it"


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
