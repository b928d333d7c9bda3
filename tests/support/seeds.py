"""The seeds of a seeded test: a few fixed ones in `make test`; new ones for as long as it gets in `make soak`; one, to
replay a failure."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from cdpcore.base.errors import CdpError

SOAK_EXAMPLES = 20      # times as many examples of a hypothesis test in `make soak`
examples_factor = 1     # set by conftest.py before a test module is imported


class Seeds:
    """The fixture `seeds`. Calling it gives the seeds to run; the one that is running when a test fails is printed
    (conftest.py)."""

    def __init__(self, first: int | None, seconds: float | None):
        self.first, self.seconds = first, seconds
        self.current: int | None = None
        self.done = 0

    def pick(self, few: int, many: int) -> int:
        """`few` in `make test`, `many` in `make soak`: of what a single seed repeats."""
        return many if self.seconds else few

    def __call__(self, count: int) -> Iterator[int]:
        """`count` is for `make test`: seeds 0 to count - 1. With --seed that one alone, and with --seconds as well
        those after it for that long (one at least)."""
        until = time.monotonic() + self.seconds if self.seconds else 0.0
        seed, end = (0, count) if self.first is None else (self.first, self.first + 1)
        while seed < end or time.monotonic() < until:
            self.current = seed
            yield seed
            self.done += 1
            seed += 1
        self.current = None


def examples(count: int) -> settings:
    """Settings of a hypothesis test: `count` examples, more of them in `make soak`. The examples are drawn from
    --hypothesis-seed."""
    return settings(max_examples=count * examples_factor, deadline=None,
                    suppress_health_check=[HealthCheck.function_scoped_fixture])


def notice(run: Callable[[int], object], count: int) -> None:
    """A planted bug: one of the histories `run(seed)`, seeds 0 to count - 1, must fail. It prints which, and how."""
    for seed in range(count):
        try:
            run(seed)
        except (AssertionError, CdpError) as e:
            print(f"seed {seed}: {type(e).__name__}: {str(e)[:300]}")
            return
    pytest.fail("nothing was noticed")
