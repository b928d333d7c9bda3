"""Figures with their spread. A machine that others use too is noisy: one number says nothing, the ratio of two that
were measured side by side says more, and the spread of the ratios over the rounds says how much."""

import math
from collections.abc import Sequence

from cdp.bench.spread import Spread, order, ratios, spread

__all__ = ["Spread", "order", "percentile", "ratios", "show", "spread", "table"]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that at least `percent` of them do not exceed."""
    found = sorted(values)
    return found[min(len(found), max(1, math.ceil(len(found) * percent / 100))) - 1]


def show(s: Spread, digits: int = 2) -> str:
    return f"{s['median']:.{digits}f}x ({s['min']:.{digits}f} .. {s['max']:.{digits}f})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Left column flush left, the others flush right; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
