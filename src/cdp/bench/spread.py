"""Figures with their range. A machine that others use too is noisy: one number says nothing, the ratio of two that were
measured side by side says more, and the spread of the ratios over the rounds says how much."""
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


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Round by round; only rounds of the same number are compared."""
    return spread(a / b for a, b in zip(ours, theirs, strict=True))


def order(names: Sequence[str], round_number: int) -> list[str]:
    """The order of a round: rotated, so that nobody always comes after the same one."""
    at = round_number % len(names) if names else 0
    return [*names[at:], *names[:at]]
