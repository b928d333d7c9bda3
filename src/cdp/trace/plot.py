"""The picture of a trace: what was written and read over time, and the sizes of the requests."""
from __future__ import annotations

import os

import numpy as np

from cdp.text import pictures
from cdp.trace.info import TraceInfo

_MIB = 1 << 20
_COLOURS = {"write": "#c1440e", "read": "#2a6f97"}


def save(info: TraceInfo, path: str) -> None:
    """Writes a picture (format by suffix: .png, .svg, .pdf). Raises InvalidRequest, Unavailable."""
    import matplotlib  # on demand: half a second that other commands need not pay

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    over_time, by_size = figure.subplots(2, 1, height_ratios=[3, 2])
    timeline = info.timeline
    if info.clock == "none":
        x = np.arange(timeline.used() + 1) * float(timeline.width)
        scale, x_label, y_label = 1.0 / _MIB, "record", f"MiB in {timeline.width} records"
    else:
        seconds = timeline.width / 1e9
        x = np.arange(timeline.used() + 1) * seconds
        scale, x_label, y_label = 1.0 / (_MIB * seconds), "seconds from the first record", "MiB/s"
    for name in ("write", "read"):
        rate = timeline.series(name) * scale
        if rate.any():
            over_time.stairs(rate, x, fill=True, alpha=0.55, color=_COLOURS[name], label=f"{name}s")
    over_time.set(xlabel=x_label, ylabel=y_label, xlim=(0, x[-1] if len(x) > 1 else 1))
    over_time.set_ylim(bottom=0)
    if over_time.get_legend_handles_labels()[0]:
        over_time.legend(loc="upper right")
    files = os.path.basename(info.files[0]) + (f" and {len(info.files) - 1} more" if len(info.files) > 1 else "")
    over_time.set_title(f"{files} ({info.format}): {info.records:,} records, {info.bytes['write'] / _MIB:,.0f} MiB "
                        f"written, {info.overwritten_share:.0%} of it onto earlier writes")

    places = np.arange(len(info.sizes))
    for offset, name, counts in ((-0.2, "write", [b.writes for b in info.sizes]),
                                 (0.2, "read", [b.reads for b in info.sizes])):
        by_size.bar(places + offset, counts, 0.4, color=_COLOURS[name], alpha=0.8)
    by_size.set_xticks(places, [size_text(b.to_bytes) for b in info.sizes])
    by_size.set(xlabel="request size, at most", ylabel="requests")
    pictures.save(figure, path)


def size_text(size_bytes: int) -> str:
    """A power of two of bytes in its largest whole unit."""
    for unit, shift in (("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 1 << shift:
            return f"{size_bytes / (1 << shift):g} {unit}"
    return f"{size_bytes} B"
