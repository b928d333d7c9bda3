"""The machine's clock that is never set: what ages are counted by (cdp.moments.ages).

Any thread.
"""
from __future__ import annotations

import functools
import time
from collections.abc import Callable

Steady = Callable[[], tuple[str, int]]
"""Gives the boot of the machine, and nanoseconds since it began."""

BOOT_ID = "/proc/sys/kernel/random/boot_id"
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)      # the former runs while the machine sleeps, too


def steady() -> tuple[str, int]:
    """The boot, "" where the system does not say, and the time since."""
    return _boot(), time.clock_gettime_ns(_CLOCK)


@functools.cache
def _boot() -> str:
    try:
        with open(BOOT_ID) as file:
            return file.read().strip()
    except OSError:
        return ""


def passed_ns(since: tuple[str, int], now: tuple[str, int], wall_ns: int) -> int:
    """How much time passed for sure between two readings. Over a restart of the machine that is what passed since it
    began, and not more than the `wall_ns` by which the wall clock went on: the folder may have come from another
    machine."""
    if since[0] == now[0] != "":
        return max(0, now[1] - since[1])
    return max(0, min(now[1], wall_ns))
