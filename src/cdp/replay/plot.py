"""The picture of a replay: what was written and read over its time, the trace's own rate, and the latencies."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from cdp.replay.engine import Replay
from cdp.text import pictures
from cdp.trace.info import TraceInfo

_MIB = 1 << 20
_COLOURS = {"write": "#c1440e", "read": "#2a6f97", "flush": "#5f5f5f", "trim": "#6a994e", "zero": "#8367c7"}
_BINS = 240


def save(replay: Replay, info: TraceInfo | None, report: dict[str, Any], path: str) -> None:
    """Writes a picture (format by suffix: .png, .svg, .pdf). Raises InvalidRequest, Unavailable."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    has_trace = info is not None and info.timeline.used() > 0
    figure = Figure(figsize=(11, 9 if has_trace else 6.5), layout="constrained")
    axes = list(figure.subplots(3 if has_trace else 2, 1))
    _over_time(axes[0], replay, report)
    if has_trace and info is not None:
        _trace(axes[1], info)
    _latencies(axes[-1], replay, report)
    pictures.save(figure, path)


def _over_time(axis: Any, replay: Replay, report: dict[str, Any]) -> None:
    samples = np.array([(0, 0, 0, 0), *replay.outcome.samples], np.float64)
    seconds = samples[:, 0] / 1e9
    end = max(seconds[-1], 1e-6)
    # Equal bins, so that slices of different length do not look like different rates.
    edges = np.linspace(0, end, min(_BINS, max(2, len(samples) - 1)) + 1)
    for name, column in (("write", 1), ("read", 2)):
        total = np.interp(edges, seconds, samples[:, column]) / _MIB
        rate = np.diff(total) / np.diff(edges)
        if rate.any():
            axis.stairs(rate, edges, fill=True, alpha=0.55, color=_COLOURS[name], label=f"{name}s")
    axis.set(xlabel="seconds of the replay", ylabel="MiB/s", xlim=(0, end))
    axis.set_ylim(bottom=0)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper right")
    first = os.path.basename(report["traces"][0]) + (
        f" and {len(report['traces']) - 1} more" if len(report["traces"]) > 1 else ""
    )
    axis.set_title(
        f"{first}, speed {report['speed']}: {report['records']:,} records in {report['elapsed_seconds']:.2f} s, "
        f"{report['write_bytes_per_second'] / _MIB:,.0f} MiB/s written"
    )


def _trace(axis: Any, info: TraceInfo) -> None:
    timeline = info.timeline
    bins = timeline.used()
    timed = info.clock != "none"
    width = timeline.width / 1e9 if timed else float(timeline.width)
    for name in ("write", "read"):
        rate = timeline.series(name) / _MIB / (width if timed else 1)
        if rate.any():
            axis.stairs(rate, np.arange(bins + 1) * width, fill=True, alpha=0.55, color=_COLOURS[name])
    axis.set(
        xlabel="seconds of the trace" if timed else "record",
        ylabel="MiB/s" if timed else f"MiB in {timeline.width} records",
        xlim=(0, bins * width),
    )
    axis.set_ylim(bottom=0)
    axis.set_title("the trace's own rate", fontsize="medium")


def _latencies(axis: Any, replay: Replay, report: dict[str, Any]) -> None:
    for kind, counts in report["requests"].items():
        if not counts["count"]:
            continue
        buckets: dict[int, int] = {}
        for disk in replay.disks:
            for upper, count in disk.driver.histogram(kind):
                buckets[upper] = buckets.get(upper, 0) + count
        times = np.array(sorted(buckets), np.float64) / 1000
        above = 1 - np.cumsum([buckets[b] for b in sorted(buckets)]) / counts["count"]
        share = np.maximum(np.concatenate(([1.0], above[:-1])), 1e-9)
        axis.step(times, share * 100, where="post", color=_COLOURS[kind], label=f"{kind} ({counts['count']:,})")
    axis.set(
        xscale="log", yscale="log", xlabel="microseconds", ylabel="% of requests at least as slow", ylim=(None, 130)
    )
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper right")
    axis.set_title("latency", fontsize="medium")
