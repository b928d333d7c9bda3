"""The hub of the platform `posix`: a process that keeps what the nodes of a system share. `python -m
cdp.platform.posix.hub FD`.

It is the reference platform, whose nodes here stand for processes: their pools are shared memory that every process
maps, and their calls and callbacks go over unix sockets. It ends when the link FD does.

Threading: a thread for each thread of a node that calls (so what blocks there, blocks here); callbacks run on the
reference platform's.
"""
from __future__ import annotations

import itertools
import mmap
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cdp.ipc.link import Link, accept_links
from cdp.ipc.stop_signals import leave_to_parent
from cdp.ipc.unix_socket import bind_unix
from cdp.platform.local import SharedDataPlane
from cdp.platform.posix.calls import answer, call_back
from cdp.platform.python import PythonPlatform, System
from cdp.platform.python.buffers import Pool
from cdp.platform.structures import BgRef, CpMsg, CpSendReq, GroupName, Lun, MDPacket
from cdpcore.base.errors import CdpError, InvalidRequest, NotFound
from cdpcore.channel.channel import shared_memory

MAX_HANDLES = 1 << 17


class HubNode(PythonPlatform):
    """A node whose pool is shared memory."""

    name = "posix"
    memory_fd: int

    def make_pool(self, group_bytes: int, group_count: int) -> Pool:
        self.memory_fd = shared_memory(group_bytes * group_count)
        return Pool(self.instance, memoryview(mmap.mmap(self.memory_fd, group_bytes * group_count)), group_bytes)

    def make_data_plane(self, pool: Pool) -> SharedDataPlane:
        return SharedDataPlane(self.system.pools, pool)


class Desk:
    """What one process may ask for: the methods that its proxies call. A name here is a name there."""

    def __init__(self, hub: Hub, instance: int, options: dict[str, int]):
        self._hub = hub
        self.node = HubNode(hub.system, instance, **options)
        hub.memory[instance] = self.node.memory_fd
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._wires: dict[str, Link] = {}           # for callbacks
        self._handles: dict[int, Any] = {}          # listeners, messages, mappings, subscriptions
        self._closed = False

    def serve(self, method: str, args: list[Any]) -> tuple[Any, Sequence[int]]:
        """One call. Public methods of this class only."""
        if method == "memory":
            return self._memory(*args)
        if method.startswith("_") or method in ("serve", "wire") or not callable(getattr(self, method, None)):
            raise InvalidRequest(f"no method {method!r}", "use a client of the same version")
        return getattr(self, method)(*args), ()

    def wire(self, token: str, link: Link) -> None:
        with self._lock:
            self._wires[token] = link

    def _callback(self, token: str) -> Callable[..., None]:
        with self._lock:
            link = self._wires[token]
        return lambda *args: call_back(link, args, self.serve)

    def _keep(self, what: Any) -> int:
        with self._lock:
            number = next(self._numbers)
            self._handles[number] = what
            if len(self._handles) > MAX_HANDLES:    # messages that a fenced listener never freed
                for old in [n for n, one in self._handles.items() if isinstance(one, CpMsg)][:MAX_HANDLES // 2]:
                    del self._handles[old]
            return number

    def _memory(self, home: int) -> tuple[Any, Sequence[int]]:
        if home not in self._hub.memory:
            raise NotFound(f"no node {home}", "a buffer group's home is a node of the system")
        return self._hub.system.pools.by_node[home].group_bytes, [self._hub.memory[home]]

    def leave(self) -> None:
        """The node closes, or its process has died."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.node.close()

    # --- messages -----------------------------------------------------------------------------------------------------

    def register(self, group: GroupName, bufs_per_sender: int, slop_bufs: int) -> int:
        return self._keep(self.node.control.register(group, bufs_per_sender=bufs_per_sender, slop_bufs=slop_bufs))

    def enable(self, listener: int, token: str, max_msgs: int, max_usecs: int) -> None:
        there = self._callback(token)
        self._handles[listener].enable(lambda _listener, _data, n: there(n), None, max_msgs=max_msgs,
                                       max_usecs=max_usecs)

    def disable(self, listener: int) -> None:
        self._handles[listener].disable()

    def receive(self, listener: int, max_msgs: int) -> list[CpMsg]:
        return [CpMsg(m.body, m.sender, m.redelivered, self._keep(m))
                for m in self._handles[listener].receive(max_msgs)]

    def close_listener(self, listener: int) -> None:
        self._handles[listener].close()

    def send(self, to: GroupName, body: bytes | MDPacket, sender: GroupName, number: int,
             deadline: float | None) -> None:
        there = self._callback("completions")
        request = CpSendReq(to, body, sender, lambda _request, error: there(number, error))
        self.node.control.send(request, deadline=deadline)

    def _message(self, number: int) -> CpMsg:
        found = self._handles.get(number)
        if not isinstance(found, CpMsg):
            raise InvalidRequest("a message that was freed", "free it once for each reference")
        return found

    def add_message_ref(self, number: int) -> None:
        self.node.control.add_ref(self._message(number))

    def free(self, number: int) -> None:
        message = self._message(number)
        self.node.control.free(message)
        _, entry, delivery = message.handle
        if entry.refs == 0 and entry.delivery == delivery:
            self._handles.pop(number, None)

    # --- buffers ------------------------------------------------------------------------------------------------------

    def map(self, ref: BgRef) -> list[int]:
        """Number of the mapping, and where the group is: home and slot."""
        view = self.node.data.map(ref)
        pool, there = self.node.data.where(view)
        return [self._keep(view), pool.home, there.slot]

    def unmap(self, number: int, modified: bool) -> None:
        view = self._handles.pop(number, None)
        if not isinstance(view, memoryview):
            raise InvalidRequest("a view that is not mapped", "give back the object that map() returned, once")
        self.node.data.unmap(view, modified)

    def replicate(self, ref: BgRef, instance: int, deadline: float | None) -> BgRef:
        return self.node.data.replicate(ref, instance, deadline=deadline)

    def mark_local(self, ref: BgRef) -> BgRef:
        return self.node.data.mark_local(ref)

    def request(self, count: int, deadline: float | None) -> list[BgRef]:
        return self.node.buffers.request(count, deadline=deadline)

    def deliver(self, to: GroupName, count: int, cookie: int) -> None:
        self.node.buffers.deliver(to, count, cookie)

    def add_ref(self, ref: BgRef) -> None:
        self.node.buffers.add_ref(ref)

    def release(self, ref: BgRef) -> None:
        self.node.buffers.release(ref)

    def available(self) -> int:
        return self.node.buffers.available()

    # --- requests -----------------------------------------------------------------------------------------------------

    def submit(self, packet: MDPacket, number: int, deadline: float | None) -> None:
        there = self._callback("answers")
        self.node.source.submit(packet, lambda reply: there(number, reply, None), deadline=deadline)

    def send_response(self, packet: MDPacket, number: int | None) -> None:
        there = self._callback("answers")
        complete = None if number is None else lambda reply, error: there(number, reply, error)
        self.node.source.send_response(packet, complete)

    def replay(self, lun: int, recovered_seq: int) -> int:
        return self.node.source.replay(lun, recovered_seq)

    def durable(self, lun: int, seq: int) -> None:
        self.node.source.durable(lun, seq)

    # --- services -----------------------------------------------------------------------------------------------------

    def setting(self, name: str) -> Any:
        return self.node.configuration.get(name)

    def change_settings(self, changes: dict[str, Any]) -> None:
        self.node.configuration.set(changes)

    def subscribe_settings(self, token: str) -> int:
        return self._keep(self.node.configuration.subscribe(self._callback(token)))

    def subscribe_luns(self, tsd: GroupName, token: str) -> int:
        return self._keep(self.node.workload.subscribe(tsd, self._callback(token)))

    def cancel(self, number: int) -> None:
        self._handles[number].cancel()

    def assign(self, tsd: GroupName, luns: list[Lun], deadline: float | None) -> int:
        return self.node.workload.assign(tsd, tuple(luns), deadline=deadline)

    def owner(self, lun: int) -> GroupName | None:
        return self.node.workload.owner(lun)


class Hub:
    """Listens at `path`; one conversation a link."""

    def __init__(self, path: str):
        self.system = System()
        self.memory: dict[int, int] = {}
        self._desks: dict[int, Desk] = {}
        self._lock = threading.Lock()
        self._listener = bind_unix(path, option="a shorter TMPDIR, for a path")

    def start(self) -> None:
        accept_links(self._listener, self._converse, "hub")

    def _converse(self, link: Link) -> None:
        """The first message says what the link is for: a node (its life), calls of one of its threads, or callbacks to
        it."""
        if (got := link.receive()) is None:
            return
        first, instance = got[0], int(got[0]["node"])
        if first["op"] == "join":
            try:
                with self._lock:
                    desk = self._desks[instance] = Desk(self, instance, first["options"])
            except CdpError as error:
                answer(link, {"call": "", "args": []}, partial(_raise, error))
                return
            link.send({"value": None})
            while link.receive() is not None:
                pass
            desk.leave()
            return
        desk = self._desks[instance]
        if first["op"] == "callbacks":
            desk.wire(first["token"], link)
            link.send({"value": None})
            return
        while (got := link.receive()) is not None and answer(link, got[0], desk.serve):
            pass


def _raise(error: CdpError, _method: str, _args: list[Any]) -> tuple[Any, Sequence[int]]:
    raise error


def main() -> None:
    leave_to_parent()
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    if (got := link.receive()) is None:
        return
    hub = Hub(got[0]["path"])
    hub.start()
    link.send({"value": None})
    while link.receive() is not None:
        pass
    os._exit(0)     # the nodes' callback threads may wait for processes that are gone


if __name__ == "__main__":
    main()
