"""Configuration, alerts, tracing and workload manager of the reference platform: tables under a lock, and a thread for
each subscriber."""
from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from cdp.platform.callers import Caller, guarded, wait_until
from cdp.platform.services import AlertsImpl, ConfigurationImpl, Subscription, TracingImpl, WorkloadManagerImpl
from cdp.platform.structures import Assignment, GroupName, Lun, Severity
from cdp.settings import KEYS
from cdpcore.base.errors import Busy, InvalidRequest, NotFound, Unavailable

log = logging.getLogger("cdp.alerts")
ALERTS_A_SECOND = 20
TRACE_EVENTS = 4096


class Subscriber(Subscription):
    """A callback with a thread of its own."""

    def __init__(self, name: str, report: Callable[[str], None], gone: Callable[[Subscriber], None]):
        self.caller = Caller(name, report)
        self.cancelled = False
        self._gone = gone

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._gone(self)
            self.caller.close()


class Configuration(ConfigurationImpl):
    """Values of the settings, shared by the nodes of a system."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._lock = threading.Lock()
        self._values = {key.name: key.default for key in KEYS.values()}
        self._subscribers: dict[Subscriber, Callable[[Mapping[str, Any]], None]] = {}
        self._pending: dict[Subscriber, dict[str, Any]] = {}    # changes that its callback has not been given
        self._report = report

    def get(self, name: str) -> Any:
        with self._lock:
            if name not in self._values:
                raise NotFound(f"no setting {name!r}", "'cdp config show' lists them")
            return self._values[name]

    def set(self, changes: Mapping[str, Any]) -> None:
        for name in changes:
            self.get(name)
        parsed = {name: KEYS[name].parse(value, "configuration") for name, value in changes.items()}
        with self._lock:
            self._values.update(parsed)
            for subscriber in self._subscribers:
                self._push(subscriber, parsed)

    def _push(self, subscriber: Subscriber, values: Mapping[str, Any]) -> None:
        """Lock held. Changes that come faster than the callback are joined: one call at most waits."""
        waiting = self._pending.get(subscriber)
        if waiting is None:
            self._pending[subscriber] = dict(values)
            subscriber.caller.post(partial(self._call, subscriber))
        else:
            waiting.update(values)

    def _call(self, subscriber: Subscriber) -> None:
        with self._lock:
            values = self._pending.pop(subscriber, None)
            changed = self._subscribers.get(subscriber)
        if changed and values is not None and not subscriber.cancelled:
            changed(values)

    def subscribe(self, changed: Callable[[Mapping[str, Any]], None]) -> Subscription:
        with self._lock:
            subscriber = Subscriber("configuration", self._report, self._forget)
            self._subscribers[subscriber] = changed
            self._push(subscriber, self._values)
            return subscriber

    def _forget(self, subscriber: Subscriber) -> None:
        with self._lock:
            self._subscribers.pop(subscriber, None)
            self._pending.pop(subscriber, None)


class Alerts(AlertsImpl):
    """Lines of the log `cdp.alerts`."""

    LEVELS: ClassVar = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.ERROR: logging.ERROR}

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._second, self._told, self._left_out = 0, 0, 0

    def alert(self, severity: Severity, what: str, hint: str = "", *, lun: int | None = None,
              about: Mapping[str, str] | None = None) -> None:
        with self._lock:
            second = int(time.monotonic())
            left_out = 0
            if second != self._second:
                left_out, self._left_out = self._left_out, 0
                self._second, self._told = second, 0
            self._told += 1
            if self._told > ALERTS_A_SECOND:
                self._left_out += 1
                return
        if left_out:
            log.warning("%d alerts were left out", left_out)
        where = "" if lun is None else f"LUN {lun}: "
        log.log(self.LEVELS[severity], "%s%s%s", where, what, f"; {hint}" if hint else "",
                extra={"about": dict(about)} if about else None)

    def report(self, text: str) -> None:
        """A warning, for what a callback raised."""
        self.alert(Severity.WARNING, text)


class Tracing(TracingImpl):
    """The newest events, in memory."""

    def __init__(self) -> None:
        self.enabled = False
        self._events: deque[dict[str, int | str]] = deque(maxlen=TRACE_EVENTS)

    def emit(self, event: str, **fields: int | str) -> None:
        if self.enabled:
            thread = threading.current_thread().name
            self._events.append({"at_ns": time.time_ns(), "thread": thread, "event": event, **fields})

    def events(self) -> list[dict[str, int | str]]:
        """What is kept, oldest first: a copy."""
        return list(self._events)


class Workload(WorkloadManagerImpl):
    """Lists of LUNs by TSD, shared by the nodes of a system. A TSD that cancelled its subscription cannot write any
    more."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._assigning = threading.Lock()      # one assign() at a time; taken first
        self._changed = threading.Condition()
        self._epoch = 0
        self._lists: dict[GroupName, tuple[Lun, ...]] = {}
        self._owner: dict[int, tuple[GroupName, int]] = {}      # of LUNs that were pushed, with the epoch
        self._known: set[int] = set()
        self._orphans: set[int] = set()         # their owner went without letting go
        self._tsds: dict[GroupName, tuple[Subscriber, Callable[[Assignment], None]]] = {}
        self._acked: dict[GroupName, int] = {}
        self._report = report

    def subscribe(self, tsd: GroupName, assigned: Callable[[Assignment], None]) -> Subscription:
        tsd.check()
        with self._changed:
            if tsd in self._tsds:
                raise Busy(f"TSD {tsd} is subscribed", "give each TSD a name of its own")
            subscriber = Subscriber(f"workload-{tsd}", self._report, partial(self._gone, tsd))
            self._tsds[tsd] = subscriber, assigned
            if self._lists.get(tsd):
                self._push(tsd)
            return subscriber

    def _gone(self, tsd: GroupName, _subscriber: Subscriber) -> None:
        with self._changed:
            del self._tsds[tsd]
            for lun in [lun for lun, (owner, _) in self._owner.items() if owner == tsd]:
                del self._owner[lun]
                self._orphans.add(lun)
            self._changed.notify_all()

    def _push(self, tsd: GroupName) -> int:
        """Lock held: the list as it is."""
        self._epoch += 1
        luns = self._lists.get(tsd, ())
        numbers = {lun.lun for lun in luns}
        takeover = bool(numbers & self._orphans)
        self._orphans -= numbers
        for lun in [lun for lun, (owner, _) in self._owner.items() if owner == tsd and lun not in numbers]:
            del self._owner[lun]
        for lun in numbers:     # an epoch belongs to an ownership: a LUN that stays keeps its own
            if lun not in self._owner:
                self._owner[lun] = tsd, self._epoch
        subscriber, assigned = self._tsds[tsd]
        subscriber.caller.post(partial(self._call, tsd, assigned, Assignment(self._epoch, luns, takeover)))
        return self._epoch

    def _call(self, tsd: GroupName, assigned: Callable[[Assignment], None], assignment: Assignment) -> None:
        guarded(partial(assigned, assignment), self._report)
        with self._changed:
            self._acked[tsd] = assignment.epoch
            self._changed.notify_all()

    def assign(self, tsd: GroupName, luns: tuple[Lun, ...], *, deadline: float | None = None) -> int:
        tsd.check()
        numbers = {lun.lun for lun in luns}
        if len(numbers) != len(luns):
            raise InvalidRequest("a LUN's number twice in one assignment", "number them differently")
        with self._assigning, self._changed:
            self._known |= numbers
            for other in list(self._lists):
                kept = tuple(lun for lun in self._lists[other] if lun.lun not in numbers)
                if other != tsd and len(kept) != len(self._lists[other]):
                    self._lists[other] = kept
                    if other in self._tsds:
                        self._acknowledged(other, self._push(other), deadline)
            self._lists[tsd] = tuple(luns)
            if tsd not in self._tsds:
                return self._epoch
            epoch = self._push(tsd)
            self._acknowledged(tsd, epoch, deadline)
            return epoch

    def _acknowledged(self, tsd: GroupName, epoch: int, deadline: float | None) -> None:
        """Lock held: wait for it."""
        if tsd in self._tsds and self._tsds[tsd][0].caller.is_me():
            raise Unavailable(f"TSD {tsd} cannot acknowledge while it assigns", "assign from another thread")
        wait_until(self._changed, lambda: self._acked.get(tsd, 0) >= epoch or tsd not in self._tsds, deadline,
                   f"TSD {tsd} has not acknowledged its LUNs")

    def owner(self, lun: int) -> GroupName | None:
        return self.ownership(lun)[0]

    def ownership(self, lun: int) -> tuple[GroupName | None, int]:
        """The owner, and the epoch since when it is."""
        with self._changed:
            return self._owner.get(lun, (None, 0))

    def is_known(self, lun: int) -> bool:
        """Whether it was ever assigned."""
        with self._changed:
            return lun in self._known
