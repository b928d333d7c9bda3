"""What the rules are written with: the register of rules, waiting with a bound, a listener that collects, an owner of
LUNs.

Nothing here waits for ever: what must happen has PATIENCE_S, and what must not is given QUIET_S to show itself.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from cdp.platform import (
    Assignment,
    CpMsg,
    CpSendReq,
    GroupName,
    ListenerImpl,
    Lun,
    MDPacket,
    PlatformImpl,
)
from cdpcore.base.errors import CdpError

PATIENCE_S = 10.0
QUIET_S = 0.15
Nodes = Sequence[PlatformImpl]
T = TypeVar("T")


class Broken(AssertionError):
    """A platform does not keep a rule."""


@dataclass(frozen=True)
class Rule:
    """One rule of the contract, and the function that finds out whether a platform keeps it (it raises Broken)."""

    name: str
    text: str
    check: Callable[[Nodes], None]
    nodes: int
    options: dict[str, int]

    def run(self, platform: type[PlatformImpl]) -> None:
        """On fresh nodes. Raises Broken, or whatever the platform raised where it should not."""
        made: AbstractContextManager[Nodes] = platform.nodes(self.nodes, **self.options)
        with made as nodes:
            self.check(nodes)


RULES: dict[str, Rule] = {}


def rule(nodes: int = 2, **options: int) -> Callable[[Callable[[Nodes], None]], Callable[[Nodes], None]]:
    """Register a function as a rule; its docstring is the rule's text."""

    def register(check: Callable[[Nodes], None]) -> Callable[[Nodes], None]:
        text = " ".join((check.__doc__ or "").split())
        RULES[check.__name__] = Rule(check.__name__, text, check, nodes, options)
        return check

    return register


def expect(true: object, what: str) -> None:
    """Raises Broken(what) unless `true`."""
    if not true:
        raise Broken(what)


def eventually(true: Callable[[], object], what: str, seconds: float | None = None) -> None:
    """Wait until true() is; Broken(what) where it never is. `seconds`: PATIENCE_S."""
    seconds = PATIENCE_S if seconds is None else seconds
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise Broken(f"{what}: not within {seconds:g} s")
        time.sleep(0.002)


def never(true: Callable[[], object], what: str, seconds: float = QUIET_S) -> None:
    """Broken(what) where true() becomes so within a moment."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        expect(not true(), what)
        time.sleep(0.005)


def refused(kind: type[CdpError], call: Callable[[], object], what: str) -> None:
    """Broken unless the call raises just this kind of error."""
    try:
        call()
    except CdpError as error:
        if type(error) is not kind:
            raise Broken(f"{what}: {type(error).__name__} ({error}) instead of {kind.__name__}") from error
        return
    raise Broken(f"{what}: no {kind.__name__}")


def soon(seconds: float | None = None) -> float:
    """A deadline, PATIENCE_S from now."""
    return time.monotonic() + (PATIENCE_S if seconds is None else seconds)


class Threads:
    """Runs functions at once on threads of their own; errors come out at the end of the `with`."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start(self, function: Callable[..., object], *args: object) -> None:
        def body() -> None:
            try:
                function(*args)
            except BaseException as error:      # noqa: BLE001  (raised again by __exit__)
                self._errors.append(error)

        thread = threading.Thread(target=body, daemon=True)
        self._threads.append(thread)
        thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        end = soon(3 * PATIENCE_S)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        if kind is None:
            if self._errors:
                raise self._errors[0]
            expect(not any(thread.is_alive() for thread in self._threads), "a call never returned")


class Inbox:
    """An enabled or shadow listener that records. Thread-safe."""

    def __init__(self, node: PlatformImpl, group: GroupName, *, bufs: int = 8, slop: int = 4, take: bool = True,
                 free: bool = True):
        self.node, self.take, self.free = node, take, free
        self.listener = node.control.register(group, bufs_per_sender=bufs, slop_bufs=slop)
        self.lock = threading.Lock()
        self.messages: list[CpMsg] = []
        self.bodies: list[Any] = []
        self.announced: list[tuple[float, int]] = []    # when, and how many
        self.threads: set[int] = set()
        self.inside = self.overlaps = 0
        self.freed = 0
        self.nap_s = 0.0

    def enable(self, max_msgs: int = 1, max_usecs: int = 0) -> Self:
        self.listener.enable(self._ready, self, max_msgs=max_msgs, max_usecs=max_usecs)
        return self

    def _ready(self, listener: ListenerImpl, user_data: Any, n: int) -> None:
        with self.lock:
            self.inside += 1
            self.overlaps += self.inside > 1
            self.announced.append((time.monotonic(), n))
            self.threads.add(threading.get_ident())
        time.sleep(self.nap_s)
        if self.take:
            self.receive()
        with self.lock:
            self.inside -= 1
            self.overlaps += user_data is not self or listener is not self.listener

    def receive(self) -> list[CpMsg]:
        found: list[CpMsg] = []
        while batch := self.listener.receive(16):
            found += batch
            with self.lock:
                self.messages += batch
                self.bodies += [message.body.copy() if isinstance(message.body, MDPacket) else message.body
                                for message in batch]
            if self.free:
                for message in batch:
                    self.node.control.free(message)
                with self.lock:
                    self.freed += len(batch)
        return found

    def count(self) -> int:
        with self.lock:
            return len(self.messages)

    def numbers(self) -> list[int]:
        """The messages' bodies, where they are numbers."""
        with self.lock:
            return [int(body) for body in self.bodies]


def send(node: PlatformImpl, to: GroupName, body: bytes | MDPacket | int, sender: GroupName, *,
         deadline: float | None = None,
         complete: Callable[[CpSendReq, CdpError | None], None] | None = None) -> CpSendReq:
    """Send; a number becomes text. Waits PATIENCE_S at most."""
    data = str(body).encode() if isinstance(body, int) else body
    request = CpSendReq(to, data, sender, complete)
    node.control.send(request, deadline=soon() if deadline is None else deadline)
    return request


class Owner:
    """The least that owns LUNs: what a TSD does with the platform, without an engine. It answers on demand."""

    def __init__(self, node: PlatformImpl, group: GroupName):
        self.node, self.group = node, group
        self.inbox = Inbox(node, group, bufs=64, slop=0, free=False)
        self.assignments: list[Assignment] = []
        self.replayed: list[int] = []
        self._known: set[int] = set()
        self._enabled = False
        self.recovered_seq = 0
        self.subscription = node.workload.subscribe(group, self._assigned)

    def _assigned(self, assignment: Assignment) -> None:
        numbers = {lun.lun for lun in assignment.luns}
        for number in sorted(numbers - self._known):
            self.replayed.append(self.node.source.replay(number, self.recovered_seq))
        self._known = numbers
        self.assignments.append(assignment)
        if numbers and not self._enabled:
            self._enabled = True
            self.inbox.enable()

    def take(self, *luns: int) -> int:
        """Have LUNs assigned, and wait for it."""
        return self.node.workload.assign(self.group, tuple(Lun(lun, f"/nowhere/{lun}") for lun in luns),
                                         deadline=soon())

    def packets(self) -> list[MDPacket]:
        with self.inbox.lock:
            return list(self.inbox.bodies)

    def answer(self, packet: MDPacket, status: int = 0, seq: int = 0,
               complete: Callable[[MDPacket, CdpError | None], None] | None = None) -> None:
        reply = packet.copy()
        reply.answer(status)
        reply.seq = seq
        self.node.source.send_response(reply, complete)

    def die(self) -> None:
        """Go without answering or freeing."""
        self.subscription.cancel()
        self.inbox.listener.close()
