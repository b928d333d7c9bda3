"""The platform `local`: everything in one process, as `cdp serve` runs it.

Control plane and services are the reference platform's; buffers are native memory that all nodes see; and a front end
gets the owner's native table, so that a request through it runs to completion in the connection's own thread, without a
packet and without Python.
"""
from __future__ import annotations

import threading
from typing import Any

from cdp.platform.python import PythonPlatform
from cdp.platform.python.buffers import DataPlane, Pool
from cdp.platform.python.requests import Source
from cdpcore.channel.pool import BufferPool
from cdpcore.system.os import posix


class SharedDataPlane(DataPlane):
    """What is mapped is the memory itself, on every node."""

    copies = False

    def is_shared(self, pool: Pool) -> bool:
        return True


class NativeSource(Source):
    """A source with a way past the packets."""

    def __init__(self, *args: Any) -> None:
        self._capsules: dict[int, object] = {}
        self._offers = threading.Lock()
        super().__init__(*args)

    def offer(self, lun: int, capsule: object | None) -> None:
        with self._offers:
            self._capsules[lun] = capsule

    def native(self, lun: int) -> object | None:
        with self._offers:
            return self._capsules.get(lun)


class LocalPlatform(PythonPlatform):
    """One process. Options as of the platform `python`; the pool takes no memory before it is used."""

    name = "local"

    def make_pool(self, group_bytes: int, group_count: int) -> Pool:
        pool = BufferPool(posix(), slot_bytes=group_bytes, n_slots=group_count)
        return Pool(self.instance, memoryview(pool), group_bytes)

    def make_data_plane(self, pool: Pool) -> DataPlane:
        return SharedDataPlane(self.system.pools, pool)

    def make_source(self, max_outstanding: int) -> Source:
        return NativeSource(self.instance, self.system.sources, self.control, self.system.messages, self.workload,
                            max_outstanding, self.system.alerts.report)
