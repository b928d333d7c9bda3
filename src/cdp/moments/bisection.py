"""The search of a bisection: between a good and a bad candidate, with probes that may fail to say which. Pure."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

GOOD, BAD, SKIP = "good", "bad", "skip"


@dataclass(frozen=True)
class Found:
    """The last good and the first bad of the candidates 0 .. n - 1; -1 and n: the ends that were known before.
    Where they are not neighbours, those between could not be probed."""

    good: int
    bad: int


def search(n: int, probe: Callable[[list[int]], Iterable[str]], jobs: int = 1) -> Found:
    """probe(indices): GOOD, BAD or SKIP of each, up to `jobs` of them at a time. Some log2(n) calls, or log(n) to the
    base jobs + 1. A candidate that was skipped is not asked again: another one near it is."""
    good, bad, skipped = -1, n, set[int]()
    while wanted := _spread(good, bad, skipped, jobs):
        answers = dict(zip(wanted, probe(wanted), strict=True))
        skipped |= {i for i, answer in answers.items() if answer == SKIP}
        bad = min([bad, *(i for i, answer in answers.items() if answer == BAD)])
        good = max([good, *(i for i, answer in answers.items() if answer == GOOD and i < bad)])
    return Found(good, bad)


def _spread(good: int, bad: int, skipped: set[int], jobs: int) -> list[int]:
    """Up to `jobs` candidates between the two, evenly spread, around those that were skipped."""
    wanted: list[int] = []
    for k in range(1, jobs + 1):
        middle = good + (bad - good) * k // (jobs + 1)
        for step in range(bad - good):
            near = next((i for i in (middle + step, middle - step)
                         if good < i < bad and i not in skipped and i not in wanted), None)
            if near is not None:
                wanted.append(near)
                break
    return sorted(wanted)
