"""Configuration and workload manager, as the hub has them."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cdp.platform.posix.wires import Wires
from cdp.platform.services import ConfigurationImpl, Subscription, WorkloadManagerImpl
from cdp.platform.structures import Assignment, GroupName, Lun


class Subscribed(Subscription):
    def __init__(self, wires: Wires, token: str, number: int):
        self._wires, self._token, self._number = wires, token, number

    def cancel(self) -> None:
        if not self._wires.closed:
            self._wires.call("cancel", self._number)
            self._wires.end(self._token)


class Configuration(ConfigurationImpl):
    def __init__(self, wires: Wires):
        self._wires = wires

    def get(self, name: str) -> Any:
        return self._wires.call("setting", name)

    def set(self, changes: Mapping[str, Any]) -> None:
        self._wires.call("change_settings", dict(changes))

    def subscribe(self, changed: Callable[[Mapping[str, Any]], None]) -> Subscription:
        token = self._wires.callbacks(changed)
        return Subscribed(self._wires, token, self._wires.call("subscribe_settings", token))


class Workload(WorkloadManagerImpl):
    def __init__(self, wires: Wires):
        self._wires = wires

    def subscribe(self, tsd: GroupName, assigned: Callable[[Assignment], None]) -> Subscription:
        token = self._wires.callbacks(assigned)
        try:
            return Subscribed(self._wires, token, self._wires.call("subscribe_luns", tsd, token))
        except BaseException:
            self._wires.end(token)
            raise

    def assign(self, tsd: GroupName, luns: tuple[Lun, ...], *, deadline: float | None = None) -> int:
        return int(self._wires.call("assign", tsd, list(luns), deadline))

    def owner(self, lun: int) -> GroupName | None:
        found: GroupName | None = self._wires.call("owner", lun)
        return found
