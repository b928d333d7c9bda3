"""The picture of `cdp activity`: rates over time, and a map of time and place. Needs matplotlib."""
from __future__ import annotations

from typing import Any

import numpy as np

from cdp.text import pictures
from cdp.views import ActivityView

_MIB = 1 << 20
_COLOURS = {"written": "#2a6f97", "overwritten": "#c1440e", "trimmed": "#6a994e", "zeroed": "#8367c7"}


def save(volume: str, found: ActivityView, path: str) -> None:
    """Writes a picture (format by suffix: .png, .svg, .pdf). Raises InvalidRequest, Unavailable."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib import dates
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    n, by_ns = len(found["writes"]), found["by_ns"]
    edges = np.datetime64(found["begin_ns"], "ns") + np.arange(n + 1) * np.timedelta64(by_ns, "ns")
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes: Any = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    for name, colour in _COLOURS.items():
        rate = np.array(found[f"{name}_bytes"], np.float64) / _MIB / (by_ns / 1e9)  # type: ignore[literal-required]
        if rate.any():
            axes[0].stairs(rate, edges, fill=name == "written", alpha=0.5 if name == "written" else 1, color=colour,
                           label=name)
    axes[0].set(ylabel="MiB/s", title=f"{volume}: what was done")
    axes[0].set_ylim(bottom=0)
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(loc="upper right")
    heat = np.array(found["places"] or [[0]], np.float64).T / _MIB
    ends = np.arange(len(heat) + 1) * found["place_bytes"] / (1 << 30)
    if heat.any():
        some = heat[heat > 0]
        mesh = axes[1].pcolormesh(edges, ends, np.ma.masked_equal(heat, 0), cmap="viridis", rasterized=True,
                                  norm=LogNorm(max(float(some.min()), some.max() / 1e4), float(some.max())))
        figure.colorbar(mesh, ax=axes[1], label="MiB written")
    axes[1].set(ylabel="place in the volume, GiB", ylim=(0, ends[-1]))
    drawn: Any = dates      # without types
    locator = drawn.AutoDateLocator()
    axes[1].xaxis.set_major_locator(locator)
    axes[1].xaxis.set_major_formatter(drawn.ConciseDateFormatter(locator))
    pictures.save(figure, path)
