"""fio as the client: its nbd engine against any URI; one run, one result."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from bench.scratch import process

OVERHEAD_SECONDS = 60.0  # a run that takes so much longer than it should hangs


class FioFailed(Exception):
    """fio could not do what it was asked."""


@dataclass(frozen=True)
class Job:
    """`connections` clients, each with `depth` requests of `block_bytes` under way; `flush`: after each write.

    read_percent: of the requests of a randrw. hot_bytes: only so much of the disk, at its beginning. once: every block
    once, then one flush, whose time counts.
    """

    rw: str  # randwrite, randread, write, read, randrw
    block_bytes: int
    depth: int
    connections: int = 1
    flush: bool = False
    read_percent: int | None = None
    hot_bytes: int | None = None
    once: bool = False


@dataclass(frozen=True)
class Figures:
    """Of one run: completed requests (flushes apart) per second, latency of a request in microseconds (of a mix: of
    what there is more of)."""

    iops: float
    requests: int
    p50_us: float
    p99_us: float
    flush_p50_us: float | None


def available() -> bool:
    """Is there a fio that has the nbd engine?"""
    if shutil.which("fio") is None:
        return False
    done = subprocess.run(["fio", "--enghelp=nbd"], capture_output=True, text=True, timeout=20, check=False)
    return done.returncode == 0 and "uri" in done.stdout


def run(
    uri: str, job: Job, size_bytes: int, *, seconds: float | None = None, requests: int | None = None, seed: int = 1
) -> Figures:
    """For so many seconds, or so many requests; neither: once over the disk. The same seed gives the same offsets."""
    command = [
        "fio",
        "--name=bench",
        "--ioengine=nbd",
        f"--uri={uri}",
        f"--rw={job.rw}",
        f"--bs={job.block_bytes}",
        f"--iodepth={job.depth}",
        f"--numjobs={job.connections}",
        "--thread",
        "--group_reporting",
        f"--size={min(size_bytes, job.hot_bytes or size_bytes)}",
        "--randrepeat=0",
        f"--randseed={seed}",
        "--eta=never",
        "--output-format=json",
    ]
    command.append("--end_fsync=1" if job.once else "--norandommap")
    if seconds is not None and not job.once:
        command += ["--time_based", f"--runtime={round(seconds * 1000)}ms"]
    if requests is not None:
        command.append(f"--number_ios={requests}")
    if job.flush:
        command.append("--fsync=1")
    if job.read_percent is not None:
        command.append(f"--rwmixread={job.read_percent}")
    with process(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        try:
            raw, _ = child.communicate(timeout=OVERHEAD_SECONDS + (seconds or OVERHEAD_SECONDS * 4))
        except subprocess.TimeoutExpired:
            raise FioFailed(f"fio on {uri} hangs") from None
    return parse(raw.decode(errors="replace"), child.returncode, job)


def parse(text: str, status: int, job: Job) -> Figures:
    """fio's JSON follows plain lines (one of them is the nbd engine's)."""
    at = text.find("\n{") + 1 if not text.startswith("{") else 0
    try:
        report: dict[str, Any] = json.JSONDecoder().raw_decode(text[at:])[0]
        found = report["jobs"][0]
    except (ValueError, KeyError, IndexError):
        raise FioFailed(f"fio said: {text.strip()[-300:]}") from None
    if status or found["error"]:
        raise FioFailed(f"fio ended with status {status}, error {found['error']}: {text[:at].strip()[-300:]}")
    mixed = job.read_percent is not None
    reads = job.read_percent >= 50 if job.read_percent is not None else "read" in job.rw
    side = found["read" if reads else "write"]
    if not side["total_ios"]:
        raise FioFailed("fio made no requests: give it more time")
    at_percent = side["clat_ns"]["percentile"]
    flush = found["sync"]["lat_ns"].get("percentile") if job.flush else None
    return Figures(
        iops=found["read"]["iops"] + found["write"]["iops"] if mixed else side["iops"],
        requests=found["read"]["total_ios"] + found["write"]["total_ios"] if mixed else side["total_ios"],
        p50_us=at_percent["50.000000"] / 1e3,
        p99_us=at_percent["99.000000"] / 1e3,
        flush_p50_us=flush["50.000000"] / 1e3 if flush else None,
    )
