"""The platform `posix`: nodes are processes of one machine. Words go over unix sockets, through a hub process; buffer
groups are shared memory that every node maps, so data is never copied between processes.

    messages   control plane            requests     I/O source
    buffers    data plane, supply       services     configuration, workload manager
    wires      a node's links to the hub
    hub        the hub process; calls: calls as messages; hub_process: a hub that was started here

All but the hub are proxies: the state of the system is the hub's, whose rules are the reference platform's. This is the
general way, for every message; the I/O of volumes takes a shorter one between `cdp gateway` and `cdp tsd`, in shared
memory without Python (cdp.ha).

Threading: each thread that calls has a link of its own to the hub; each callback has a thread here.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

from cdp.platform.api import IORouterImpl, PlatformImpl
from cdp.platform.posix.buffers import BufferSupply, DataPlane
from cdp.platform.posix.hub_process import HubProcess
from cdp.platform.posix.messages import ControlPlane
from cdp.platform.posix.requests import Source
from cdp.platform.posix.services import Configuration, Workload
from cdp.platform.posix.wires import Wires
from cdp.platform.python import DEFAULTS
from cdp.platform.python.services import Alerts, Tracing
from cdp.platform.routers import open_router
from cdpcore.base.errors import InvalidRequest, Unavailable


class PosixPlatform(PlatformImpl):
    """A node. Options: hub (path of the socket of a running one, to join its system; else one is started), group_bytes,
    group_count, max_outstanding. The node is gone when its process is."""

    name = "posix"

    def __init__(self, path: str, instance: int, hub: HubProcess | None = None, **options: int):
        self.instance, self.hub_path, self._hub = instance, path, hub
        self.alerts, self.tracing = Alerts(), Tracing()
        self._wires = Wires(path, instance, {**DEFAULTS, **options}, self.alerts.report)
        self.control, self.data, self.source = ControlPlane(self._wires), DataPlane(self._wires), Source(self._wires)
        options = {**DEFAULTS, **options}
        self.buffers = BufferSupply(self._wires, options["group_bytes"], options["group_count"])
        self.configuration, self.workload = Configuration(self._wires), Workload(self._wires)

    @classmethod
    def create(cls, instance: int = 0, **options: Any) -> Self:
        path = options.pop("hub", None)
        if unknown := set(options) - set(DEFAULTS):
            raise InvalidRequest(f"platform {cls.name}: unknown option {min(unknown)!r}",
                                 f"there are {', '.join(DEFAULTS)}, hub")
        if path:
            return cls(path, instance, **options)
        hub = HubProcess()
        try:
            return cls(hub.path, instance, hub, **options)
        except BaseException:
            hub.close()
            raise

    @classmethod
    @contextmanager
    def nodes(cls, count: int, *, group_bytes: int = 65536, group_count: int = 16,
              max_outstanding: int = 64) -> Iterator[Sequence[PlatformImpl]]:
        with ExitStack() as stack:
            hub = HubProcess()
            stack.callback(hub.close)
            options: dict[str, Any] = {
                "group_bytes": group_bytes, "group_count": group_count, "max_outstanding": max_outstanding}
            yield [stack.enter_context(cls(hub.path, i, **options)) for i in range(count)]

    def open_router(self, *where: str) -> IORouterImpl:
        return open_router(where, self)

    def close(self) -> None:
        if not self._wires.closed:
            with suppress(Unavailable):     # the hub died before
                self._wires.call("leave")
            self._wires.close()
            if self._hub:
                self._hub.close()
