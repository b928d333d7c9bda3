"""Whether the devices that volumes write to are running out of space: said before a write is refused.

One watch for each device and mark of a process, however many volumes are on it. A device is *low* when less than the
mark is free, and no longer when a quarter more than the mark is: so one that stays near the mark is reported once. The
time left is that at the rate at which its free space shrank in the last minutes, whoever used it.

Threading: any thread. look() is a statvfs, at most one in LOOK_S for each device.
"""
from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cdp.text.sizes import approx_seconds, approx_size

log = logging.getLogger("cdp.space")
LOOK_S = 5.0
RATE_S = 300.0          # the rate is that of so much time, at most ...
RATE_LEAST_S = 20.0     # ... and at least
FULL_BYTES = 2 << 20    # a step of the log, and the reserve
HINT = "free space, or discard history with 'cdp restore --destructive'"


@dataclass(frozen=True)
class Space:
    """Of a device. left_s: seconds until it is full at the present rate; None: it is not filling up, or was not watched
    long enough to know. device: its numbers, as `lsblk` shows them."""

    state: Literal["ok", "low", "full"]
    free_bytes: int
    low_bytes: int
    left_s: int | None
    device: str = ""

    def __str__(self) -> str:
        left = "" if self.left_s is None else f", full in {approx_seconds(self.left_s)} at the present rate"
        return f"{approx_size(self.free_bytes)} free{left}"


class DeviceWatch:
    """One device, with the mark `low_bytes`."""

    def __init__(self, low_bytes: int, device: str = ""):
        self._low_bytes, self._device = low_bytes, device
        self._samples: deque[tuple[float, int]] = deque()       # (seconds, bytes free)
        self._low = False

    def note(self, at_s: float, free_bytes: int) -> bool:
        """So much is free now. Whether it has become low, or is so no longer."""
        self._samples.append((at_s, free_bytes))
        while self._samples[0][0] < at_s - RATE_S:
            self._samples.popleft()
        was = self._low
        self._low = free_bytes < (self._low_bytes * 5 // 4 if was else self._low_bytes)
        return self._low != was

    def is_due(self, at_s: float) -> bool:
        return not self._samples or at_s >= self._samples[-1][0] + LOOK_S

    def space(self) -> Space:
        free = self._samples[-1][1]
        state: Literal["ok", "low", "full"] = "ok" if not self._low else "low" if free > FULL_BYTES else "full"
        return Space(state, free, self._low_bytes, self._left_s(), self._device)

    def _left_s(self) -> int | None:
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        if last_s - first_s < RATE_LEAST_S or last >= first:
            return None
        return int(last * (last_s - first_s) / (first - last))


_lock = threading.Lock()
_watches: dict[tuple[int, int, bool], DeviceWatch] = {}     # by device, mark and `silent`; guarded by _lock
_listeners: list[Callable[[str, Space], None]] = []     # guarded by _lock


def look(path: str, low_bytes: int, silent: bool = False) -> Space:
    """The device that `path` is on, looked at now or LOOK_S ago at most. When it becomes low, or is so
    no longer, those who listen are called, or it is logged; not where `silent`: for who does not write to it. Raises
    OSError."""
    number = os.stat(path).st_dev
    key = (number, low_bytes, silent)
    with _lock:
        if (watch := _watches.get(key)) is None:
            watch = _watches[key] = DeviceWatch(low_bytes, f"{os.major(number)}:{os.minor(number)}")
        now_s, turned = time.monotonic(), False
        if watch.is_due(now_s):
            free = os.statvfs(path)
            turned = watch.note(now_s, free.f_bavail * free.f_frsize) and not silent
        space, listeners = watch.space(), list(_listeners)
    if turned and not listeners:
        log.log(logging.INFO if space.state == "ok" else logging.WARNING, "%s", report(path, space))
    for listener in listeners if turned else ():
        listener(path, space)
    return space


def report(path: str, space: Space) -> str:
    if space.state == "ok":
        return f"the device of {path} has space again: {space}"
    return f"the device of {path} is running out of space: {space}; {HINT}"


def listen(listener: Callable[[str, Space], None]) -> Callable[[], None]:
    """`listener(path, space)` is called when a device becomes low, or is so no longer; `path`: one volume on it.
    It is not logged then. Ends with a call of what is returned."""
    with _lock:
        _listeners.append(listener)

    def end() -> None:
        with _lock:
            _listeners.remove(listener)

    return end
