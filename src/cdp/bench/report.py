"""What a benchmark measured: as JSON, as a picture."""
import os
from pathlib import Path as FilePath
from typing import Any

import cdp
from cdp.bench import machine
from cdp.bench.load import Load
from cdp.bench.run import PATHS, Path, Side, kinds
from cdp.text import pictures
from cdp.text.sizes import approx_size

_COLOURS = ("#c1440e", "#2a6f97")


def facts(directory: FilePath) -> dict[str, Any]:
    return {"version": cdp.__version__, "cpu": machine.cpu_model(), "cpus": os.cpu_count() or 1,
            "memory_bytes": machine.memory_bytes(), "kernel": machine.kernel(),
            "file_system": machine.file_system(directory), "load_1m": machine.load()}


def as_json(paths: list[Path], load: Load, rounds: int, found: dict[str, Any]) -> dict[str, Any]:
    """Stable fields; fields are only ever added."""
    return {
        "load": {"read_percent": load.read_percent, "block_bytes": load.block_bytes, "depth": load.depth,
                 "jobs": load.jobs, "flush_every": load.flush_every, "sequential": load.sequential,
                 "seconds": load.seconds, "span_bytes": load.span_bytes, "rounds": rounds},
        "machine": found,
        "paths": {path.name: {
            "disks": {side.name: {
                "per_second": path.rate(side),
                "rounds": [{"per_second": one.per_second, "bytes_per_second": one.bytes_per_second,
                            "requests": one.requests, "elapsed_ns": one.elapsed_ns} for one in side.rounds],
                "latency": {kind: {**(side.latency(kind) or {}), "buckets": [list(b) for b in side.histogram(kind)]}
                            for kind in kinds(path)},
            } for side in path.sides},
            "ratio": path.ratio(),
        } for path in paths}}


def describe(load: Load) -> str:
    """`4 KiB random writes, 32 under way`."""
    what = "reads" if load.read_percent == 100 else "writes" if load.read_percent == 0 else \
        f"requests, {load.read_percent}% reads"
    flush = f", a flush after every {load.flush_every}" if load.flush_every and load.read_percent < 100 else ""
    jobs = f" on each of {load.jobs} connections" if load.jobs > 1 else ""
    return f"{approx_size(load.block_bytes)} {'sequential' if load.sequential else 'random'} {what}{flush}, " \
           f"{load.depth} under way{jobs}"


def picture(paths: list[Path], load: Load, target: str) -> None:
    """Writes it; format by suffix: .png, .svg, .pdf. Raises InvalidRequest, Unavailable."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5 * len(paths)), layout="constrained")
    grid = figure.subplots(len(paths), 2, squeeze=False)
    for (rates, latencies), path in zip(grid, paths, strict=True):
        for at, side in enumerate(path.sides):
            rates.plot(range(1, len(side.rounds) + 1), side.rates(), "o-", color=_COLOURS[at], label=side.name)
            for kind, style in zip(kinds(path), ("-", "--", ":"), strict=False):
                _slower(latencies, side, kind, _COLOURS[at], style)
        ratio = path.ratio()
        rates.set(xlabel="round", ylabel="requests a second", ylim=(0, None))
        rates.set_title(f"{PATHS[path.name]}: {ratio['median']:.2f} ({ratio['min']:.2f} .. {ratio['max']:.2f})",
                        fontsize="medium")
        rates.xaxis.get_major_locator().set_params(integer=True)
        latencies.set(xscale="log", yscale="log", xlabel="microseconds", ylabel="% of requests at least as slow",
                      ylim=(None, 130))
        for axis in (latencies.xaxis, latencies.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        latencies.grid(alpha=0.3)
        for axes in (rates, latencies):
            axes.legend(fontsize="small")
    figure.suptitle(describe(load))
    pictures.save(figure, target)


def _slower(axes: Any, side: Side, kind: str, colour: str, style: str) -> None:
    buckets = side.histogram(kind)
    total = sum(count for _, count in buckets)
    if not total:
        return
    times, shares, left = [], [], total
    for upper, count in buckets:
        times.append(upper / 1000)
        shares.append(left / total * 100)
        left -= count
    axes.step(times, shares, where="post", color=colour, linestyle=style, label=f"{side.name}: {kind} ({total:,})")
