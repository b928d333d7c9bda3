"""What a server does for each of its volumes beside serving it: its scrub.

Threading: close() by the opener, before it closes the volume; the work is done by shared threads
(cdp.store.shared_threads), in lanes of its own, so that a device that hangs holds up its own volumes only.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from cdp.check.scrub import Scrub
from cdp.store import shared_threads
from cdp.store.shared_threads import Task

if TYPE_CHECKING:
    from cdp import Volume
    from cdp.settings import Settings

SCRUB_AFTER_S = 300.0       # after a start there is enough to do


class Care:
    """Of one open volume, from its making to close()."""

    def __init__(self, volume: Volume, settings: Settings):
        self.scrub = Scrub(volume, settings.scrub_rate_bytes, settings.scrub_interval_ms / 1000, after_s=SCRUB_AFTER_S)
        devices = volume._store.kind.devices()
        self._tasks: list[Task] = []
        if not volume.read_only:
            self._tasks.append(Task("scrub", devices, self.scrub.wanted, self._go_on))
        for task in self._tasks:
            shared_threads.add(task)

    def _go_on(self) -> None:
        self.scrub.step()

    def close(self) -> None:
        """Idempotent. A scrub that is under way goes on with the next opening."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            shared_threads.remove(task)
        if tasks and self.scrub.state.began_ns:
            self.scrub.save()
