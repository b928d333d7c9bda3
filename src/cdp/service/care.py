"""What a server does for each of its volumes beside serving it: its scrub, and its alerts.

Threading: close() by the opener, before it closes the volume; the work is done by shared threads
(cdp.store.shared_threads), in lanes of its own, so that a device that hangs holds up its own volumes only.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cdp.check.scrub import Scrub
from cdp.service.alerts import Alert, AlertBook
from cdp.service.watch import LOOK_S, Watch
from cdp.store import shared_threads
from cdp.store.shared_threads import Task

if TYPE_CHECKING:
    from cdp import Volume
    from cdp.service.local import VolumeService
    from cdp.settings import Settings

SCRUB_AFTER_S = 300.0       # after a start there is enough to do

Report = Callable[["Volume", Alert, bool], None]
"""(volume, alert, whether it was raised; else it was cleared)"""


class Care:
    """Of one open volume, from its making to close(). report: of each alert, on a shared thread."""

    def __init__(self, volume: Volume, settings: Settings, report: Report = lambda volume, alert, raised: None):
        self.scrub = Scrub(volume, settings.scrub_rate_bytes, settings.scrub_interval_ms / 1000, after_s=SCRUB_AFTER_S)
        events = volume._store.events

        def raised(alert: Alert) -> None:
            events.publish("alert_raised", alert.what, alert=alert.kind, level=alert.level, hint=alert.hint)
            report(volume, alert, True)

        def cleared(alert: Alert) -> None:
            events.publish("alert_cleared", f"over: {alert.what}", alert=alert.kind, level=alert.level)
            report(volume, alert, False)

        self.book = AlertBook(settings, raised, cleared)
        self._devices = volume._store.kind.devices()
        self._watch: Watch | None = None
        self._looked_s = time.monotonic()
        self._tasks: list[Task] = []
        if not volume.read_only:
            self._add(Task("scrub", self._devices, self.scrub.wanted, self._go_on))

    def _add(self, task: Task) -> None:
        self._tasks.append(task)
        shared_threads.add(task)

    def attach(self, service: VolumeService) -> None:
        """From now on what `service` says is looked at; it says what this does."""
        service.care = self
        if self._watch is not None:
            self._watch.service = service
            return
        self._watch = Watch(service, self.book, time.time_ns)
        self._add(Task("watch", self._devices, lambda now_s: now_s - self._looked_s >= LOOK_S, self._look))

    def _go_on(self) -> None:
        self.scrub.step()

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        assert self._watch is not None
        self._watch.look()

    def close(self) -> None:
        """Idempotent. A scrub that is under way goes on with the next opening."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            shared_threads.remove(task)
        if tasks and self.scrub.state.began_ns:
            self.scrub.save()
