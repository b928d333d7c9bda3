"""Buffers of the reference platform: each node has a pool of bytearrays, and another node maps a copy.

Invariants
  1. A group is free, or handed out with references > 0, or released and still mapped.
  2. The generation of a slot changes when it is handed out, so a stale reference names nothing.
  3. Waiters (request and deliver) are served in order; the first that does not fit makes the others wait.
"""
from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from cdp.platform.api import BGSSImpl, ControlPlaneImpl, DataPlaneImpl
from cdp.platform.callers import Caller, wait_until
from cdp.platform.structures import BgDeliveryMsg, BgRef, CpSendReq, GroupName
from cdpcore.base.errors import Busy, CdpError, Closed, InvalidRequest, NotFound, OutOfSpace, Unavailable

MAX_DELIVERIES = 1024


class Slot:
    """One group of a pool."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.generation = 0
        self.refs = 0
        self.maps = 0
        self.moved: BgRef | None = None     # mark_local: the group lives there now


class Waiter:
    """A request for groups in the queue."""

    def __init__(self, count: int, then: Callable[[list[BgRef]], None] | None = None):
        self.count, self.then = count, then
        self.groups: list[BgRef] = []


class Pool:
    """One node's groups. Every method is thread-safe."""

    def __init__(self, home: int, memory: memoryview, group_bytes: int):
        self.home, self.group_bytes = home, group_bytes
        self.changed = threading.Condition()
        self.slots = [Slot(memory[at:at + group_bytes]) for at in range(0, memory.nbytes, group_bytes)]
        self.free = deque(range(len(self.slots)))
        self.waiting: deque[Waiter] = deque()
        self.closed = False

    def take(self, count: int) -> list[BgRef]:
        """Lock held, and there are as many."""
        found = []
        for _ in range(count):
            slot = self.slots[i := self.free.popleft()]
            slot.generation = slot.generation % 0xFFFFFFFF + 1
            slot.refs, slot.moved = 1, None
            found.append(BgRef(self.home, i, slot.generation, 0, self.group_bytes))
        return found

    def serve(self) -> None:
        """Lock held: hand out what there is, in order."""
        while self.waiting and self.waiting[0].count <= len(self.free):
            waiter = self.waiting.popleft()
            waiter.groups = self.take(waiter.count)
            if waiter.then:
                waiter.then(waiter.groups)
        self.changed.notify_all()

    def slot(self, ref: BgRef) -> Slot:
        """Lock held. Raises NotFound, InvalidRequest, Unavailable."""
        if self.closed:
            raise Unavailable(f"node {self.home}, the home of a buffer group, is gone")
        slot = self.slots[ref.slot] if 0 <= ref.slot < len(self.slots) else None
        if slot is None or slot.generation != ref.generation or not slot.refs:
            raise NotFound(f"buffer group {ref.slot} of node {self.home}, generation {ref.generation}: it was released",
                           "keep a reference as long as it is used")
        if ref.offset_bytes < 0 or ref.length_bytes < 1 or ref.offset_bytes + ref.length_bytes > self.group_bytes:
            raise InvalidRequest(f"bytes {ref.offset_bytes}+{ref.length_bytes} of a group of {self.group_bytes}",
                                 "stay inside it")
        return slot

    def put_back(self, i: int) -> None:
        """Lock held: after a reference or a mapping went."""
        if self.slots[i].refs == 0 and self.slots[i].maps == 0:
            self.free.append(i)
            self.serve()

    def count(self, ref: BgRef, change: int) -> BgRef | None:
        """References up or down; where the group has moved and this was the last one here, the one that it leads to."""
        with self.changed:
            slot = self.slot(ref._replace(offset_bytes=0, length_bytes=1))
            slot.refs += change
            leads = slot.moved if slot.refs == 0 else None
            self.put_back(ref.slot)
            return leads

    def request(self, count: int, deadline: float | None) -> list[BgRef]:
        waiter = self._queue(count, None)
        with self.changed:
            try:
                wait_until(self.changed, lambda: waiter.groups or self.closed, deadline, f"no {count} buffer groups")
            except Busy:
                self.waiting.remove(waiter)
                self.serve()
                raise
            if not waiter.groups:
                raise Closed("the buffer supply is closed")
            return waiter.groups

    def _queue(self, count: int, then: Callable[[list[BgRef]], None] | None) -> Waiter:
        if count < 1:
            raise InvalidRequest(f"{count} buffer groups", "ask for 1 or more")
        if count > len(self.slots):
            raise OutOfSpace(f"{count} buffer groups of a pool of {len(self.slots)}",
                             "ask for fewer, or make the pool larger")
        with self.changed:
            if self.closed:
                raise Closed("the buffer supply is closed")
            if then and sum(w.then is not None for w in self.waiting) >= MAX_DELIVERIES:
                raise Busy(f"{MAX_DELIVERIES} deliveries wait for buffer groups", "release some")
            waiter = Waiter(count, then)
            self.waiting.append(waiter)
            self.serve()
            return waiter

    deliver = _queue

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.waiting.clear()
            self.changed.notify_all()


class Pools:
    """The pools of a system by node, and groups that have moved."""

    def __init__(self) -> None:
        self.by_node: dict[int, Pool] = {}
        self.moving = threading.Lock()      # taken before a pool's lock: where a group lives does not change under it

    def of(self, home: int) -> Pool:
        pool = self.by_node.get(home)
        if not pool:
            raise NotFound(f"no node {home}", "a buffer group's home is a node of the system")
        return pool

    def resolve(self, ref: BgRef) -> tuple[Pool, BgRef]:
        """Where a group lives now."""
        while True:
            pool = self.of(ref.home)
            with pool.changed:
                moved = pool.slot(ref).moved
            if not moved:
                return pool, ref
            ref = moved._replace(offset_bytes=ref.offset_bytes, length_bytes=ref.length_bytes)

    def release(self, ref: BgRef) -> None:
        leads: BgRef | None = ref
        while leads:
            leads = self.of(leads.home).count(leads, -1)


class BufferSupply(BGSSImpl):
    """One node's supply."""

    def __init__(self, pools: Pools, pool: Pool, control: ControlPlaneImpl, report: Any):
        self.group_bytes, self.group_count = pool.group_bytes, len(pool.slots)
        self._pools, self._pool, self._control, self._report = pools, pool, control, report
        self._deliveries = Caller("deliveries", report)

    def request(self, count: int = 1, *, deadline: float | None = None) -> list[BgRef]:
        return self._pool.request(count, deadline)

    def deliver(self, to: GroupName, count: int = 1, cookie: int = 0) -> None:
        to.check()
        if count > BgDeliveryMsg.MAX_GROUPS:
            raise InvalidRequest(f"{count} buffer groups in one delivery", f"at most {BgDeliveryMsg.MAX_GROUPS}")
        self._pool.deliver(count, lambda groups: self._deliveries.post(partial(self._send, to, cookie, groups)))

    def _send(self, to: GroupName, cookie: int, groups: list[BgRef]) -> None:
        def complete(_request: CpSendReq, error: CdpError | None) -> None:
            if error:
                self._report(f"buffer groups for {to} could not be delivered: {error}")
                for group in groups:
                    self.release(group)

        message = CpSendReq(to, bytes(BgDeliveryMsg(cookie, tuple(groups))), GroupName(0, self._pool.home), complete)
        try:
            self._control.send(message)
        except CdpError as error:
            complete(message, error)

    def add_ref(self, ref: BgRef) -> None:
        self._pools.of(ref.home).count(ref, 1)

    def release(self, ref: BgRef) -> None:
        self._pools.release(ref)

    def available(self) -> int:
        with self._pool.changed:
            return len(self._pool.free)

    def close(self) -> None:
        self._pool.close()
        self._deliveries.close()


class DataPlane(DataPlaneImpl):
    """One node's access: its own groups as they are, those of other nodes as copies."""

    copies = True

    def __init__(self, pools: Pools, pool: Pool):
        self._pools, self._pool = pools, pool
        self._lock = threading.Lock()
        self._mapped: dict[int, tuple[memoryview, Pool, BgRef]] = {}

    def is_shared(self, pool: Pool) -> bool:
        """Whether this node sees the memory of `pool`."""
        return pool is self._pool

    def map(self, ref: BgRef) -> memoryview:
        with self._pools.moving:
            pool, ref = self._pools.resolve(ref)
            with pool.changed:
                slot = pool.slot(ref)
                slot.maps += 1
                part = slot.memory[ref.offset_bytes:ref.offset_bytes + ref.length_bytes]
                view = part if self.is_shared(pool) else memoryview(bytearray(part))
        with self._lock:
            self._mapped[id(view)] = view, pool, ref
        return view

    def where(self, view: memoryview) -> tuple[Pool, BgRef]:
        """What a mapped view shows."""
        with self._lock:
            return self._mapped[id(view)][1:]

    def unmap(self, view: memoryview, modified: bool) -> None:
        with self._lock:
            found = self._mapped.pop(id(view), None)
        if not found:
            raise InvalidRequest("a view that is not mapped", "give back the object that map() returned, once")
        _, pool, ref = found
        with pool.changed:
            gone = pool.closed
            slot = pool.slots[ref.slot]
            if modified and not gone and not self.is_shared(pool):
                slot.memory[ref.offset_bytes:ref.offset_bytes + ref.length_bytes] = view
            slot.maps -= 1
            pool.put_back(ref.slot)
        view.release()
        if modified and gone:
            raise Unavailable(f"node {pool.home}, the home of a buffer group, is gone")

    def replicate(self, ref: BgRef, instance: int, *, deadline: float | None = None) -> BgRef:
        there = self._pools.of(instance)
        self._pools.resolve(ref)
        (new,) = there.request(1, deadline)
        try:
            self._copy(ref, new := new.part(0, min(new.length_bytes, ref.length_bytes)))
        except BaseException:
            self._pools.release(new)
            raise
        return new

    def _copy(self, ref: BgRef, new: BgRef) -> None:
        if new.length_bytes < ref.length_bytes:
            raise InvalidRequest(f"{ref.length_bytes} bytes into a group of {new.length_bytes}",
                                 "replicate a part of it")
        view = self.map(ref)
        try:
            pool = self._pools.of(new.home)
            with pool.changed:
                pool.slot(new).memory[:ref.length_bytes] = view
        finally:
            self.unmap(view, modified=False)

    def mark_local(self, ref: BgRef) -> BgRef:
        with self._pools.moving:
            pool, there = self._pools.resolve(ref)
            if pool is self._pool:
                return ref
            (new,) = self._pool.request(1, 0.0)
            try:
                return self._move(pool, there, new)
            except BaseException:
                self._pools.release(new)
                raise

    def _move(self, pool: Pool, there: BgRef, new: BgRef) -> BgRef:
        with pool.changed:
            slot = pool.slot(there)
            if slot.maps:
                raise Busy(f"buffer group {there.slot} of node {there.home} is mapped", "unmap it first")
            if pool.group_bytes > self._pool.group_bytes:
                raise InvalidRequest(f"a group of {pool.group_bytes} bytes into a pool of {self._pool.group_bytes}",
                                     "replicate a part of it")
            with self._pool.changed:
                self._pool.slots[new.slot].memory[:pool.group_bytes] = slot.memory
            slot.moved = new
            if slot.refs > 1:   # the others' references lead here, and together hold one
                self._pool.count(new, 1)
            slot.refs -= 1
            pool.put_back(there.slot)
        return new._replace(offset_bytes=there.offset_bytes, length_bytes=there.length_bytes)
