"""Figures with their spread. A machine that others use too is noisy: one number says nothing, the ratio of two that
were measured side by side says more, and the spread of the ratios over the rounds says how much."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TypedDict


class Spread(TypedDict):
    """Of a figure over the rounds."""

    min: float
    median: float
    max: float
    n: int


def spread(values: Iterable[float]) -> Spread:
    found = sorted(values)
    if not found:
        raise ValueError("no values")
    return Spread(min=found[0], median=statistics.median(found), max=found[-1], n=len(found))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that at least `percent` of them do not exceed."""
    found = sorted(values)
    return found[min(len(found), max(1, math.ceil(len(found) * percent / 100))) - 1]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Round by round; only rounds of the same number are compared."""
    return spread(a / b for a, b in zip(ours, theirs, strict=True))


def order(names: Sequence[str], round_number: int) -> list[str]:
    """The order of a round: rotated, so that nobody always comes after the same one."""
    at = round_number % len(names) if names else 0
    return [*names[at:], *names[:at]]


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
