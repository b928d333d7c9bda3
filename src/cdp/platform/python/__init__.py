"""The reference platform: all nodes are objects of one process, in plain Python. Slow, and short enough to read in one
sitting:

    messages    control plane          requests    I/O source
    buffers     data plane, supply     services    configuration, alerts, tracing, workload manager

It behaves as if its nodes were far apart: another node's buffers are copied, and a node can go while others stay.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from cdp.platform.api import IORouterImpl, PlatformImpl
from cdp.platform.python.buffers import BufferSupply, DataPlane, Pool, Pools
from cdp.platform.python.messages import ControlPlane, Messages
from cdp.platform.python.requests import Source, Sources
from cdp.platform.python.services import Alerts, Configuration, Tracing, Workload
from cdp.platform.routers import open_router
from cdpcore.base.errors import InvalidRequest

DEFAULTS = {"group_bytes": 65536, "group_count": 64, "max_outstanding": 64}


class System:
    """What the nodes of one system share."""

    def __init__(self) -> None:
        self.alerts = Alerts()
        self.messages, self.pools, self.sources = Messages(), Pools(), Sources()
        self.configuration = Configuration(self.alerts.report)
        self.workload = Workload(self.alerts.report)


class PythonPlatform(PlatformImpl):
    """A node. Options: system (that of another node, to join it), group_bytes, group_count, max_outstanding."""

    name = "python"
    control: ControlPlane
    source: Source
    data: DataPlane
    buffers: BufferSupply
    workload: Workload

    def __init__(self, system: System, instance: int, group_bytes: int, group_count: int, max_outstanding: int):
        if group_bytes < 4096 or group_bytes % 4096 or group_count < 1 or max_outstanding < 1:
            raise InvalidRequest(f"{group_count} groups of {group_bytes} bytes, {max_outstanding} outstanding",
                                 "group_bytes: a multiple of 4096; the others: 1 or more")
        if instance in system.pools.by_node:
            raise InvalidRequest(f"a second node {instance}", "number them differently")
        self.system, self.instance = system, instance
        self.alerts, self.tracing = system.alerts, Tracing()
        self.configuration, self.workload = system.configuration, system.workload
        report = system.alerts.report
        self.control = ControlPlane(system.messages, report)
        pool = self.make_pool(group_bytes, group_count)
        system.pools.by_node[instance] = pool
        self.buffers = BufferSupply(system.pools, pool, self.control, report)
        self.data = self.make_data_plane(pool)
        self.source = self.make_source(max_outstanding)
        system.sources.by_node[instance] = self.source

    def make_pool(self, group_bytes: int, group_count: int) -> Pool:
        return Pool(self.instance, memoryview(bytearray(group_bytes * group_count)), group_bytes)

    def make_data_plane(self, pool: Pool) -> DataPlane:
        return DataPlane(self.system.pools, pool)

    def make_source(self, max_outstanding: int) -> Source:
        return Source(self.instance, self.system.sources, self.control, self.system.messages, self.workload,
                      max_outstanding, self.system.alerts.report)

    @classmethod
    def create(cls, instance: int = 0, **options: Any) -> Self:
        system = options.pop("system", None) or System()
        if unknown := set(options) - set(DEFAULTS):
            raise InvalidRequest(f"platform {cls.name}: unknown option {min(unknown)!r}",
                                 f"there are {', '.join(DEFAULTS)}, system")
        return cls(system, instance, **{**DEFAULTS, **options})

    @classmethod
    @contextmanager
    def nodes(cls, count: int, *, group_bytes: int = 65536, group_count: int = 16,
              max_outstanding: int = 64) -> Iterator[Sequence[PlatformImpl]]:
        system = System()
        with ExitStack() as stack:
            yield [stack.enter_context(cls(system, i, group_bytes, group_count, max_outstanding)) for i in range(count)]

    def open_router(self, *where: str) -> IORouterImpl:
        return open_router(where, self)

    def close(self) -> None:
        self.source.close()
        self.control.close()
        self.buffers.close()
