"""Control plane of the reference platform: a group is a queue under one lock, and each enabled listener has a thread
that calls back.

Invariants
  1. A group's queue holds every message that is not freed, in the order of arrival; _fresh is the part that the enabled
     listener has not received, and the first _announced of these have been announced.
  2. A message occupies a buffer until it was freed and its completion was made.
  3. A delivery has a number: what an earlier listener holds does not count any more when the message was delivered
     anew.
"""
from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from functools import partial
from typing import Any

from cdp.platform.api import ControlPlaneImpl, ListenerImpl, Ready
from cdp.platform.callers import Caller, guarded, wait_until
from cdp.platform.structures import MAX_BODY_BYTES, CpMsg, CpSendReq, GroupName, MDPacket
from cdpcore.base.errors import Busy, CdpError, Closed, InvalidRequest, NotFound

MAX_LISTENERS = 16


class Entry:
    """A message in a queue. Guarded by its group's lock."""

    __slots__ = ("arrived", "body", "completed", "delivery", "number", "refs", "seen", "sender")

    def __init__(self, number: int, body: bytes | MDPacket, sender: GroupName):
        self.number, self.body, self.sender = number, body, sender
        self.arrived = time.monotonic()
        self.delivery = 0       # counts up when a listener is enabled
        self.seen = False       # received by some listener
        self.refs = 1
        self.completed = False


class Group:
    """The queue of one group name."""

    def __init__(self, name: GroupName, bufs_per_sender: int, slop_bufs: int):
        self.name, self.bufs_per_sender, self.slop_bufs = name, bufs_per_sender, slop_bufs
        self.changed = threading.Condition()
        self.listeners: list[Listener] = []
        self.enabled: Listener | None = None
        self.queue: dict[int, Entry] = {}
        self.used: dict[GroupName, int] = {}
        self.over = 0           # buffers beyond bufs_per_sender in use, of all senders
        self.gone = False

    def has_room(self, sender: GroupName) -> bool:
        return self.used.get(sender, 0) < self.bufs_per_sender or self.over < self.slop_bufs

    def put(self, number: int, body: bytes | MDPacket, sender: GroupName) -> Entry:
        entry = Entry(number, body, sender)
        self.queue[number] = entry
        used = self.used[sender] = self.used.get(sender, 0) + 1
        self.over += used > self.bufs_per_sender
        if self.enabled:
            entry.delivery = 1
            self.enabled.fresh.append(entry)
        self.changed.notify_all()
        return entry

    def give_back(self, entry: Entry) -> None:
        """The entry was freed or completed: with both its buffer is the sender's again."""
        if entry.refs == 0:
            self.queue.pop(entry.number, None)
            if entry.completed:
                used = self.used[entry.sender]
                self.over -= used > self.bufs_per_sender
                if used == 1:
                    del self.used[entry.sender]
                else:
                    self.used[entry.sender] = used - 1
                self.changed.notify_all()

    def withdraw(self, cookies: set[int], source: int) -> None:
        """Take requests of a source out of the queue (IOsrcImpl.replay)."""
        with self.changed:
            for entry in list(self.queue.values()):
                body = entry.body
                if isinstance(body, MDPacket) and body.source_instance == source and body.cookie in cookies:
                    entry.refs = 0
                    entry.delivery += 1     # its receiver has nothing to free
                    if self.enabled and entry in self.enabled.fresh:
                        self.enabled.forget(entry)
                    self.give_back(entry)


class Listener(ListenerImpl):
    """A registration; its mutable state is guarded by the group's lock."""

    def __init__(self, plane: ControlPlane, group: Group):
        self._plane, self._group = plane, group
        self.fresh: deque[Entry] = deque()
        self._announced = 0
        self._thread: threading.Thread | None = None
        self._calling = False
        self._closed = False

    def enable(self, ready: Ready, user_data: Any = None, *, max_msgs: int = 1, max_usecs: int = 0) -> None:
        if not (1 <= max_msgs <= 65535 and 0 <= max_usecs <= 60_000_000):
            raise InvalidRequest(f"batches of {max_msgs} messages or {max_usecs} us", "1 to 65535 and 0 to 60000000")
        group = self._group
        with group.changed:
            if self._closed:
                raise Closed(f"this listener of group {group.name} is closed")
            if group.enabled:
                raise Busy(f"group {group.name} has an enabled listener", "disable it first")
            for entry in group.queue.values():
                entry.delivery += 1
                entry.refs = 1
            self.fresh = deque(group.queue.values())
            self._announced = 0
            group.enabled = self
            thread = threading.Thread(target=self._call, args=(ready, user_data, max_msgs, max_usecs / 1e6),
                                      name=f"listener-{group.name}", daemon=True)
            self._thread = thread
            thread.start()

    def _call(self, ready: Ready, user_data: Any, max_msgs: int, wait_s: float) -> None:
        changed = self._group.changed
        me = threading.current_thread()
        while True:
            with changed:
                self._calling = False
                changed.notify_all()
                while self._thread is me:
                    n = len(self.fresh) - self._announced
                    rest = self.fresh[self._announced].arrived + wait_s - time.monotonic() if n else None
                    if n >= max_msgs or (rest is not None and rest <= 0):
                        break
                    changed.wait(rest)
                if self._thread is not me:
                    return
                self._announced += n
                self._calling = True
            guarded(partial(ready, self, user_data, n), self._plane.report)

    def disable(self) -> None:
        with self._group.changed:
            thread, self._thread = self._thread, None
            self._group.changed.notify_all()
        if thread and thread is not threading.current_thread():
            thread.join()       # a callback that runs may still receive
        with self._group.changed:
            if self._group.enabled is self and self._thread is None:
                self._group.enabled = None
                self.fresh = deque()

    def receive(self, max_msgs: int = 64) -> list[CpMsg]:
        group = self._group
        with group.changed:
            if self._closed:
                raise Closed(f"this listener of group {group.name} is closed")
            if group.enabled is not self or max_msgs < 1:
                raise InvalidRequest(f"receiving {max_msgs} messages of group {group.name}",
                                     "enable the listener, and ask for 1 or more")
            found = []
            for _ in range(min(max_msgs, len(self.fresh))):
                entry = self.fresh.popleft()
                found.append(CpMsg(entry.body, entry.sender, entry.seen, (group, entry, entry.delivery)))
                entry.seen = True
            self._announced = max(0, self._announced - len(found))
            return found

    def forget(self, entry: Entry) -> None:
        """Lock held: a message that was not received is withdrawn."""
        self._announced -= self.fresh.index(entry) < self._announced
        self.fresh.remove(entry)

    def close(self) -> None:
        self.disable()
        self._plane.drop(self, self._group)
        self._closed = True


class Messages:
    """The groups of a system."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.groups: dict[GroupName, Group] = {}
        self.numbers = itertools.count(1)

    def withdraw(self, cookies: set[int], source: int) -> None:
        with self.lock:
            groups = list(self.groups.values())
        for group in groups:
            group.withdraw(cookies, source)


class ControlPlane(ControlPlaneImpl):
    """One node's control plane. Completions come on one thread of the node, in the order of its sends."""

    def __init__(self, system: Messages, report: Any):
        self._system, self.report = system, report
        self._completions = Caller("completions", report)
        self._listeners: list[Listener] = []
        self._closed = False

    def register(self, group: GroupName, *, bufs_per_sender: int = 32, slop_bufs: int = 32) -> ListenerImpl:
        group.check()
        if not (1 <= bufs_per_sender <= 65535 and 0 <= slop_bufs <= 65535):
            raise InvalidRequest(f"{bufs_per_sender} buffers a sender and {slop_bufs} more",
                                 "1 to 65535 and 0 to 65535")
        self._alive()
        with self._system.lock:
            found = self._system.groups.setdefault(group, Group(group, bufs_per_sender, slop_bufs))
            if (found.bufs_per_sender, found.slop_bufs) != (bufs_per_sender, slop_bufs):
                text = f"group {group} has {found.bufs_per_sender} buffers a sender and {found.slop_bufs} more"
                raise InvalidRequest(text, "ask for the same")
            if len(found.listeners) >= MAX_LISTENERS:
                raise Busy(f"group {group} has {MAX_LISTENERS} listeners", "close one")
            listener = Listener(self, found)
            found.listeners.append(listener)
            self._listeners.append(listener)
            return listener

    def drop(self, listener: Listener, group: Group) -> None:
        with self._system.lock:
            if listener not in group.listeners:
                return
            group.listeners.remove(listener)
            self._listeners.remove(listener)
            if not group.listeners:
                del self._system.groups[group.name]
                with group.changed:
                    group.gone = True
                    group.changed.notify_all()

    def send(self, request: CpSendReq, *, deadline: float | None = None) -> None:
        request.to.check()
        request.sender.check()
        body = request.body.copy() if isinstance(request.body, MDPacket) else bytes(request.body)
        if isinstance(body, bytes) and len(body) > MAX_BODY_BYTES:
            raise InvalidRequest(f"a message of {len(body)} bytes",
                                 f"at most {MAX_BODY_BYTES}; data goes by the data plane")
        self._alive()
        with self._system.lock:
            group = self._system.groups.get(request.to)
        entry = None
        if group:
            with group.changed:
                wait_until(group.changed, lambda: self._closed or group.gone or group.has_room(request.sender),
                           deadline, f"no buffer of {request.sender} at group {request.to}")
                self._alive()
                if not group.gone:
                    entry = group.put(next(self._system.numbers), body, request.sender)
                # Under the lock, so that completions are in the order of the queue.
                self._completions.post(partial(self._complete, request, group, entry))
        else:
            self._completions.post(partial(self._complete, request, group, entry))

    def _complete(self, request: CpSendReq, group: Group | None, entry: Entry | None) -> None:
        error: CdpError | None = None
        if entry is None:
            error = NotFound(f"group {request.to} has no listener", "register one first")
        if request.complete:
            guarded(partial(request.complete, request, error), self.report)
        if group and entry:
            with group.changed:
                entry.completed = True
                group.give_back(entry)

    def _count(self, message: CpMsg, change: int) -> None:
        group, entry, delivery = message.handle
        with group.changed:
            if entry.delivery != delivery:
                return
            if entry.refs == 0:
                raise InvalidRequest("a message that was freed", "free it once for each reference")
            entry.refs += change
            group.give_back(entry)

    def add_ref(self, message: CpMsg) -> None:
        self._count(message, 1)

    def free(self, message: CpMsg) -> None:
        self._count(message, -1)

    def _alive(self) -> None:
        if self._closed:
            raise Closed("the control plane is closed")

    def close(self) -> None:
        self._closed = True
        with self._system.lock:
            groups = list(self._system.groups.values())
        for group in groups:
            with group.changed:
                group.changed.notify_all()
        for listener in list(self._listeners):
            listener.close()
        self._completions.close()
