"""The data plane and the supply of buffers: groups are shared memory that every node maps, and the hub counts their
references."""
from __future__ import annotations

import mmap
import os
import threading

from cdp.platform.api import BGSSImpl, DataPlaneImpl
from cdp.platform.posix.wires import Wires
from cdp.platform.structures import BgRef, GroupName
from cdpcore.base.errors import InvalidRequest


class DataPlane(DataPlaneImpl):
    copies = False

    def __init__(self, wires: Wires):
        self._wires = wires
        self._lock = threading.Lock()
        self._memory: dict[int, tuple[memoryview, int]] = {}
        self._mapped: dict[int, tuple[memoryview, int]] = {}

    def _group(self, home: int, slot: int) -> memoryview:
        with self._lock:
            if home not in self._memory:
                group_bytes, (fd,) = self._wires.call_with_fds("memory", home)
                with os.fdopen(fd) as file:
                    self._memory[home] = memoryview(mmap.mmap(file.fileno(), 0)), group_bytes
            memory, group_bytes = self._memory[home]
            return memory[slot * group_bytes:(slot + 1) * group_bytes]

    def map(self, ref: BgRef) -> memoryview:
        number, home, slot = self._wires.call("map", ref)
        view = self._group(home, slot)[ref.offset_bytes:ref.offset_bytes + ref.length_bytes]
        with self._lock:
            self._mapped[id(view)] = view, number
        return view

    def unmap(self, view: memoryview, modified: bool) -> None:
        with self._lock:
            found = self._mapped.pop(id(view), None)
        if not found:
            raise InvalidRequest("a view that is not mapped", "give back the object that map() returned, once")
        view.release()
        self._wires.call("unmap", found[1], modified)

    def replicate(self, ref: BgRef, instance: int, *, deadline: float | None = None) -> BgRef:
        made: BgRef = self._wires.call("replicate", ref, instance, deadline)
        return made

    def mark_local(self, ref: BgRef) -> BgRef:
        made: BgRef = self._wires.call("mark_local", ref)
        return made


class BufferSupply(BGSSImpl):
    def __init__(self, wires: Wires, group_bytes: int, group_count: int):
        self._wires, self.group_bytes, self.group_count = wires, group_bytes, group_count

    def request(self, count: int = 1, *, deadline: float | None = None) -> list[BgRef]:
        found: list[BgRef] = self._wires.call("request", count, deadline)
        return found

    def deliver(self, to: GroupName, count: int = 1, cookie: int = 0) -> None:
        self._wires.call("deliver", to, count, cookie)

    def add_ref(self, ref: BgRef) -> None:
        self._wires.call("add_ref", ref)

    def release(self, ref: BgRef) -> None:
        self._wires.call("release", ref)

    def available(self) -> int:
        return int(self._wires.call("available"))
