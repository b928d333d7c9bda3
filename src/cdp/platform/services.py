"""The portable API beside the data: configuration, alerts, tracing, and the workload manager. The rules at the head of
cdp.platform.api hold here too."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from cdp.platform.structures import Assignment, GroupName, Lun, Severity


class Subscription(ABC):
    """What subscribing returns."""

    @abstractmethod
    def cancel(self) -> None:
        """When it returns no callback is running or will come (unless called in the callback: after that one).
        Idempotent."""


class ConfigurationImpl(ABC):
    """Settings that may change while the system runs. Names and types are those of cdp.Settings, unless the platform
    has more.

    The values that a subscriber has seen last are never newer than what get() returns, and its last callback brings the
    newest.
    """

    @abstractmethod
    def get(self, name: str) -> Any:
        """The value now. Raises NotFound for an unknown name."""

    @abstractmethod
    def set(self, changes: Mapping[str, Any]) -> None:
        """Change values, all or none, here and on all nodes that share the configuration. Raises NotFound,
        InvalidRequest."""

    @abstractmethod
    def subscribe(self, changed: Callable[[Mapping[str, Any]], None]) -> Subscription:
        """`changed(values)` is called with all values first, then with those that changed, in the order of the changes.
        Changes that come faster than the callback may be joined into one call."""


class AlertsImpl(ABC):
    """Notifies people."""

    @abstractmethod
    def alert(self, severity: Severity, what: str, hint: str = "", *, lun: int | None = None,
              about: Mapping[str, str] | None = None) -> None:
        """One line: what happened and where; `hint`: what to do; `about`: the same for programs, by name (volume, kind,
        state ...). Never blocks, never raises: where alerts come faster than can be reported, the number of those left
        out is reported instead."""


class TracingImpl(ABC):
    """Informs developers. `enabled` is looked at before anything is computed for emit()."""

    enabled: bool

    @abstractmethod
    def emit(self, event: str, **fields: int | str) -> None:
        """One event, with the time and the thread. Never blocks, never raises; the oldest events give way to new
        ones."""


class WorkloadManagerImpl(ABC):
    """Says which TSD serves which LUNs, by pushing: a TSD never asks, and knows of no other TSD.

    A LUN has at most one owner. It is pushed to another one only after its owner has acknowledged an assignment without
    it, or is known to be unable to write any more (fenced).
    """

    @abstractmethod
    def subscribe(self, tsd: GroupName, assigned: Callable[[Assignment], None]) -> Subscription:
        """Called by a TSD. `assigned(assignment)` gets the whole list at once, where there is one, and at every change,
        in order. Before it returns, LUNs that are not in the list any more must be closed: returning acknowledges the
        assignment. Raises Busy where the TSD is subscribed."""

    @abstractmethod
    def assign(self, tsd: GroupName, luns: tuple[Lun, ...], *, deadline: float | None = None) -> int:
        """Called by the one who decides. Makes this the list of `tsd`; blocks until it acknowledged (and owners that
        lose a LUN did before), or until the deadline, with Busy: the push is then still under way. Not subscribed yet:
        the list waits for it, and this returns. The epoch. Raises InvalidRequest (a number twice), Unavailable (an
        owner can neither acknowledge nor be fenced)."""

    @abstractmethod
    def owner(self, lun: int) -> GroupName | None:
        """The TSD that serves `lun` now, or None. For sources and routers."""
