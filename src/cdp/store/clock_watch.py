"""Watches the clock of an open volume: reports where it goes back, and lets the times of records follow it then.

A volume of which no time ever went back is of format 1 or 2, and older releases read it. Before the first time that
does, volume.json says format 3.

Threading: look() from one thread at a time.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cdp.text.sizes import approx_duration
from cdp.text.timestamps import NS, utc
from cdpcore.base.errors import CdpError
from cdpcore.log.clock_steps import CLOCK_STEP_NS
from cdpcore.system.os import Os

log = logging.getLogger("cdp.store")


class ClockWatch:
    """Args: os: whose clock it is; directory: the volume's, for messages; core: its VolumeCore; describe: makes
    volume.json say format 3, durably, where it does not; raises CdpError; stepped: called with each step back (seq,
    before_ns, after_ns)."""

    def __init__(self, os: Os, directory: str, core: Any, describe: Callable[[], None],
                 stepped: Callable[[int, int, int], None] = lambda *_: None):
        self._os, self._directory, self._core, self._describe = os, directory, core, describe
        self._stepped = stepped
        self._follows = False
        self._failed = ""           # what was reported, each thing once
        self._behind = False
        self._n_reported = 0

    def behind_ns(self) -> int:
        """How far the clock is behind the newest record; 0: it is not, or by no more than jitter."""
        behind_ns = int(self._core.position()[1]) - self._os.now_ns()
        return behind_ns if behind_ns >= CLOCK_STEP_NS else 0

    def follow(self) -> None:
        """From here on, the times of records follow the clock back."""
        if not self._follows:
            self._describe()
            self._follows = True
            self._core.log.clock.follow()

    def look(self) -> None:
        """To be called at opening, and every half second. Where the device is full, it is tried again."""
        behind_ns = self.behind_ns()
        if behind_ns:
            try:
                self.follow()
                self._failed = ""
            except CdpError as e:
                if str(e) != self._failed:
                    self._failed = str(e)       # the error itself would keep its frames alive
                    log.warning("%s: the times of new records do not follow the clock back yet: %s", self._directory,
                                self._failed)
        self.report(behind_ns)

    def report(self, behind_ns: int) -> None:
        """Warn of what was not reported yet."""
        if behind_ns >= NS and not self._behind:
            seq, ts_ns = self._core.position()
            log.warning("%s: the clock is %s behind the newest record (#%d, %s): it was ahead once, or is wrong now",
                        self._directory, approx_duration(behind_ns), seq, utc(ts_ns))
        self._behind = behind_ns >= NS
        for seq, before_ns, after_ns in self._core.log.clock.since(self._n_reported):
            self._n_reported += 1
            self._stepped(seq, before_ns, after_ns)
            log.warning("%s: the clock was set back at #%d, from %s to %s: 'cdp window' lists such steps, and 'cdp "
                        "explain' says what a time means", self._directory, seq, utc(before_ns), utc(after_ns))
