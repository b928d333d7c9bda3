"""The platform `posix`: nodes are processes of one machine. Words go over unix sockets, through a hub process; buffer
groups are shared memory that every node maps, so data is never copied between processes.

What is here are proxies: the state of the system is the hub's (.hub), whose rules are the reference platform's. This is
the general way, for every message; the I/O of volumes takes a shorter one between `cdp gateway` and `cdp tsd`, in
shared memory without Python (cdp.ha).

Threading: each thread that calls has a link of its own to the hub; each callback has a thread here.
"""
from __future__ import annotations

import itertools
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

from cdp.ipc.errors import decode_error
from cdp.ipc.link import Link
from cdp.platform.api import (
    Answered,
    BGSSImpl,
    ControlPlaneImpl,
    DataPlaneImpl,
    IORouterImpl,
    IOsrcImpl,
    ListenerImpl,
    PlatformImpl,
    Ready,
    ResponseDone,
)
from cdp.platform.callers import guarded
from cdp.platform.posix.calls import call, unpacked
from cdp.platform.python import DEFAULTS
from cdp.platform.python.services import Alerts, Tracing
from cdp.platform.routers import open_router
from cdp.platform.services import ConfigurationImpl, Subscription, WorkloadManagerImpl
from cdp.platform.structures import MAX_BODY_BYTES, Assignment, BgRef, CpMsg, CpSendReq, Flag, GroupName, Lun, MDPacket
from cdpcore.base.errors import Closed, InvalidRequest, Unavailable


class Wires:
    """A node's links to the hub."""

    def __init__(self, path: str, instance: int, options: Mapping[str, int], report: Callable[[str], None]):
        self._path, self._instance, self._report = path, instance, report
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._links: list[Link] = []
        self._tokens = itertools.count(1)
        self._callbacks: dict[str, Link] = {}
        self.closed = False
        self._life = self._open({"op": "join", "options": dict(options)})

    def _open(self, first: dict[str, Any]) -> Link:
        link = Link.connect(self._path)
        try:
            link.send({**first, "node": self._instance})
            if first["op"] != "calls":
                if (got := link.receive()) is None:
                    raise Unavailable("the platform's hub process is gone", "start the system again")
                if "error" in got[0]:
                    raise decode_error(got[0]["error"])
        except BaseException:
            link.close()
            raise
        with self._lock:
            self._links.append(link)
        return link

    def call(self, method: str, *args: Any) -> Any:
        return self.call_with_fds(method, *args)[0]

    def call_with_fds(self, method: str, *args: Any) -> tuple[Any, list[int]]:
        """On this thread's link; in a callback on the callback's, so that the hub knows that it is one."""
        link: Link | None = getattr(self._mine, "link", None)
        if self.closed:
            raise Closed(f"node {self._instance} of the platform is closed")
        if link is None:
            link = self._mine.link = self._open({"op": "calls"})
        return call(link, method, args)

    def callbacks(self, function: Callable[..., None], token: str = "") -> str:
        """A thread that makes callbacks with `function`; the token to name it by."""
        token = token or f"callback-{next(self._tokens)}"
        link = self._open({"op": "callbacks", "token": token})
        self._callbacks[token] = link
        threading.Thread(target=self._run, args=(link, function, token), name=f"posix-{self._instance}-{token}",
                         daemon=True).start()
        return token

    def _run(self, link: Link, function: Callable[..., None], token: str) -> None:
        self._mine.link = link
        while (got := link.receive()) is not None:
            args = unpacked(got[0]["event"])
            guarded(lambda args=args: function(*args), self._report)    # type: ignore[misc]
            if not link.send({"done": True}) or token not in self._callbacks:
                break
        self._drop(link)

    def end(self, token: str) -> None:
        """No more of these callbacks; the hub has seen to that. In the callback itself: after it."""
        link = self._callbacks.pop(token, None)
        if link and getattr(self._mine, "link", None) is not link:
            link.hang_up()

    def _drop(self, link: Link) -> None:
        with self._lock:
            if link in self._links:
                self._links.remove(link)
        link.close()

    def close(self) -> None:
        self.closed = True
        with self._lock:
            links = list(self._links)
        for link in links:
            link.hang_up()
        self._life.close()


class Pending:
    """Callbacks that are each called once, by number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Callable[..., None]] = {}

    def add(self, function: Callable[..., None]) -> int:
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = function
            return number

    def forget(self, number: int) -> None:
        with self._lock:
            self._waiting.pop(number, None)

    def __call__(self, number: int, *args: Any) -> None:
        with self._lock:
            function = self._waiting.pop(number, None)
        if function:
            function(*args)


class Listener(ListenerImpl):
    """A registration at the hub."""

    def __init__(self, wires: Wires, number: int):
        self._wires, self._number, self._token = wires, number, ""

    def enable(self, ready: Ready, user_data: Any = None, *, max_msgs: int = 1, max_usecs: int = 0) -> None:
        token = self._wires.callbacks(lambda n: ready(self, user_data, n))
        try:
            self._wires.call("enable", self._number, token, max_msgs, max_usecs)
        except BaseException:
            self._wires.end(token)
            raise
        self._token = token

    def disable(self) -> None:
        self._wires.call("disable", self._number)
        self._wires.end(self._token)

    def receive(self, max_msgs: int = 64) -> list[CpMsg]:
        found: list[CpMsg] = self._wires.call("receive", self._number, max_msgs)
        return found

    def close(self) -> None:
        if not self._wires.closed:
            self._wires.call("close_listener", self._number)
            self._wires.end(self._token)


class ControlPlane(ControlPlaneImpl):
    def __init__(self, wires: Wires):
        self._wires, self._pending = wires, Pending()
        wires.callbacks(self._pending, "completions")

    def register(self, group: GroupName, *, bufs_per_sender: int = 32, slop_bufs: int = 32) -> ListenerImpl:
        return Listener(self._wires, self._wires.call("register", group, bufs_per_sender, slop_bufs))

    def send(self, request: CpSendReq, *, deadline: float | None = None) -> None:
        body = request.body if isinstance(request.body, MDPacket) else bytes(request.body)
        if isinstance(body, bytes) and len(body) > MAX_BODY_BYTES:
            raise InvalidRequest(f"a message of {len(body)} bytes",
                                 f"at most {MAX_BODY_BYTES}; data goes by the data plane")
        complete = request.complete
        number = self._pending.add((lambda error: complete(request, error)) if complete else lambda _error: None)
        try:
            self._wires.call("send", request.to, body, request.sender, number, deadline)
        except BaseException:
            self._pending.forget(number)
            raise

    def add_ref(self, message: CpMsg) -> None:
        self._wires.call("add_message_ref", message.handle)

    def free(self, message: CpMsg) -> None:
        self._wires.call("free", message.handle)

    def close(self) -> None:
        """With the node."""


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


class Source(IOsrcImpl):
    def __init__(self, wires: Wires):
        self._wires, self._pending = wires, Pending()
        wires.callbacks(self._pending, "answers")

    def submit(self, packet: MDPacket, answered: Answered, *, deadline: float | None = None) -> None:
        number = self._pending.add(lambda reply, _error: answered(reply))
        try:
            self._wires.call("submit", packet, number, deadline)
        except BaseException:
            self._pending.forget(number)
            raise

    def send_response(self, packet: MDPacket, send_complete: ResponseDone | None = None) -> None:
        if not packet.flags & Flag.RESPONSE:
            raise InvalidRequest(f"{packet} is no answer", "use MDPacket.answer()")
        self._wires.call("send_response", packet, self._pending.add(send_complete) if send_complete else None)

    def replay(self, lun: int, recovered_seq: int) -> int:
        return int(self._wires.call("replay", lun, recovered_seq))

    def durable(self, lun: int, seq: int) -> None:
        self._wires.call("durable", lun, seq)

    def offer(self, lun: int, capsule: object | None) -> None:
        """Nothing: front ends are other processes."""

    def native(self, lun: int) -> object | None:
        return None

    def close(self) -> None:
        """With the node."""


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


class HubProcess:
    """A hub that was started here; it ends with close()."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="cdp-hub-")
        self.path = os.path.join(self._folder, "hub.sock")
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-m", "cdp.platform.posix.hub", str(theirs.fileno())],
                                             pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                             start_new_session=True)
        self._link = Link(ours)
        self._link.send({"path": self.path})
        if self._link.receive() is None:
            self.close()
            raise Unavailable("the platform's hub process did not start", "see its messages on standard error")

    def close(self) -> None:
        self._link.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


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
