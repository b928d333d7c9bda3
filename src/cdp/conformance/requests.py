"""Rules of the I/O source, the workload manager, and the other services."""
from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from cdp.conformance.kit import (
    PATIENCE_S,
    QUIET_S,
    Nodes,
    Owner,
    Threads,
    eventually,
    expect,
    never,
    refused,
    rule,
    soon,
)
from cdp.platform import Assignment, Flag, GroupName, Lun, MDPacket, Op, Severity
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, NotFound

OWNER, OTHER = GroupName(2, 0), GroupName(2, 1)
CDP_CLOSED, CDP_NOSPACE = 6, 3      # enum cdp_code


class Client:
    """Submits requests on a node, and records the answers."""

    def __init__(self, node: Any, lun: int = 7):
        self.node, self.lun = node, lun
        self.answers: list[MDPacket] = []
        self.threads: set[int] = set()

    def ask(self, cookie: int, op: Op = Op.FLUSH, deadline: float | None = None) -> None:
        self.node.source.submit(MDPacket(op, self.lun, cookie=cookie), self._answered, deadline=deadline or soon())

    def _answered(self, packet: MDPacket) -> None:
        self.threads.add(threading.get_ident())
        self.answers.append(packet)

    def cookies(self) -> list[int]:
        return [packet.cookie for packet in self.answers]


@rule(nodes=2)
def request_and_answer(nodes: Nodes) -> None:
    """A request reaches the owner with its source and the time filled in, and is answered exactly once, with the
    caller's cookie, status and seq, on a thread of the platform. send_complete comes exactly once."""
    owner, client = Owner(nodes[0], OWNER), Client(nodes[1])
    owner.take(7)
    client.ask(4711)
    client.ask(4711)    # cookies are the caller's: they may repeat
    eventually(lambda: len(owner.packets()) == 2, "requests did not reach the owner")
    first, second = owner.packets()
    expect(first.op == Op.FLUSH and first.lun == 7 and first.source_instance == 1,
           f"the owner got {first!r} from {first.source_instance}")
    expect(abs(first.timestamp_ns - time.time_ns()) < 60 * 10**9, "a request without the time")
    expect(not first.flags & Flag.REPLAY, "a first request is marked as replayed")
    expect((first.source_instance, first.cookie) != (second.source_instance, second.cookie),
           "two requests with the same source and cookie")
    done: list[tuple[MDPacket, CdpError | None]] = []
    here = threading.get_ident()
    complete_on: set[int] = set()

    def complete(packet: MDPacket, error: CdpError | None) -> None:
        complete_on.add(threading.get_ident())
        done.append((packet, error))

    owner.answer(second, status=CDP_NOSPACE, complete=complete)
    eventually(lambda: len(client.answers) == 1, "the answer did not come")
    owner.answer(first, seq=99, complete=complete)
    owner.answer(first, seq=100, complete=complete)     # answered already: dropped, and no error
    eventually(lambda: len(client.answers) == 2 and len(done) == 3, "answers or completions are missing")
    never(lambda: len(client.answers) > 2 or len(done) > 3, "an answer or a completion came twice")
    expect([(a.cookie, a.status, a.seq) for a in client.answers] == [(4711, CDP_NOSPACE, 0), (4711, 0, 99)],
           f"answers: {client.answers}")
    expect(all(a.flags & Flag.RESPONSE for a in client.answers), "an answer is not marked as one")
    expect(all(error is None for _, error in done), "send_complete with an error")
    expect(here not in client.threads | complete_on, "a callback ran on the thread that caused it")
    refused(InvalidRequest, lambda: nodes[0].source.send_response(first), "sending a request as an answer")
    refused(NotFound, lambda: Client(nodes[1], lun=8).ask(1), "a request to a LUN that nobody was ever assigned")


@rule(nodes=2)
def requests_in_order(nodes: Nodes) -> None:
    """Requests reach the owner in the order of submit()."""
    owner, client = Owner(nodes[0], OWNER), Client(nodes[1])
    owner.take(7)
    for i in range(50):
        client.ask(i)
    eventually(lambda: len(owner.packets()) == 50, "requests are missing")
    cookies = [packet.cookie for packet in owner.packets()]
    for packet in owner.packets():
        owner.answer(packet)
    eventually(lambda: len(client.answers) == 50, "answers are missing")
    expect(client.cookies() == list(range(50)), f"requests out of order: {cookies}")


@rule(nodes=2, max_outstanding=5)
def outstanding_bound(nodes: Nodes) -> None:
    """At most max_outstanding requests are under way: one more waits, until an answer comes or its deadline does."""
    owner, client = Owner(nodes[0], OWNER), Client(nodes[1])
    owner.take(7)
    for i in range(5):
        client.ask(i)
    refused(Busy, lambda: client.ask(5, deadline=time.monotonic() + 0.1), "a sixth request of five")
    eventually(lambda: len(owner.packets()) == 5, "requests are missing")
    owner.answer(owner.packets()[2])
    client.ask(5)
    eventually(lambda: len(owner.packets()) == 6, "the request that had to wait is missing")
    expect(client.cookies() == [2], f"answered: {client.cookies()}")
    for packet in owner.packets():
        owner.answer(packet)
    eventually(lambda: sorted(client.cookies()) == list(range(6)), "answers are missing")


@rule(nodes=2)
def dead_source_is_no_error(nodes: Nodes) -> None:
    """When a source is closed, what it asked for is answered with CDP_CLOSED; the owner's answers to it are no error,
    and complete."""
    owner, client = Owner(nodes[0], OWNER), Client(nodes[1])
    owner.take(7)
    for i in range(3):
        client.ask(i)
    eventually(lambda: len(owner.packets()) == 3, "requests are missing")
    nodes[1].close()
    eventually(lambda: len(client.answers) == 3, "requests of a closed source were not answered")
    expect([a.status for a in client.answers] == [CDP_CLOSED] * 3,
           f"answered with {[a.status for a in client.answers]}")
    done: list[CdpError | None] = []
    for packet in owner.packets():
        owner.answer(packet, complete=lambda _packet, error: done.append(error))
    eventually(lambda: len(done) == 3, "send_complete does not come for a source that is gone")
    expect(done == [None] * 3, f"send_complete with {done}")
    never(lambda: len(client.answers) > 3, "a request was answered twice")


@rule(nodes=3)
def replay_after_a_takeover(nodes: Nodes) -> None:
    """When the owner is gone, the next one gets every request that was not answered: each once, in order, marked
    REPLAY, before any new one. The old owner's late answers are dropped, and each request is answered exactly once."""
    old, client = Owner(nodes[0], OWNER), Client(nodes[2])
    old.take(7, 8)
    other = Client(nodes[2], lun=8)
    other.ask(100)
    for i in range(6):
        client.ask(i)
    eventually(lambda: len(old.packets()) == 7, "requests are missing")
    packets = [packet for packet in old.packets() if packet.lun == 7]
    old.answer(packets[1])
    old.answer(packets[4])
    eventually(lambda: len(client.answers) == 2, "answers are missing")
    old.die()
    client.ask(6)       # while nobody owns the LUN
    new = Owner(nodes[1], OTHER)
    with Threads() as threads:
        threads.start(lambda: new.take(7))
    eventually(lambda: new.replayed == [5], f"replay() said {new.replayed}, of 5 requests that were not answered")
    eventually(lambda: len(new.packets()) >= 5, f"{len(new.packets())} of 5 requests were replayed")
    client.ask(7)
    eventually(lambda: len(new.packets()) >= 6, "a new request did not reach the new owner")
    never(lambda: len(new.packets()) > 6, "a request was replayed twice, or one of another LUN")
    flags = [bool(packet.flags & Flag.REPLAY) for packet in new.packets()]
    expect(flags == [True] * 5 + [False], f"marked REPLAY: {flags}")
    for packet in packets:      # the old one comes back to life
        old.answer(packet, status=CDP_NOSPACE)
    never(lambda: len(client.answers) > 2, "an answer of the old owner was taken")
    for packet in new.packets():
        new.answer(packet)
    eventually(lambda: len(client.answers) >= 8, "answers are missing")
    never(lambda: len(client.answers) > 8, "a request was answered twice")
    expect(client.cookies()[2:] == [0, 2, 3, 5, 6, 7], f"replayed out of order: {client.cookies()[2:]}")
    expect(not any(answer.status for answer in client.answers), "an answer of the old owner was taken")


@rule(nodes=2)
def request_without_an_owner_waits(nodes: Nodes) -> None:
    """A request to a LUN whose owner let go of it, or has not come yet, waits, and is replayed to the next one."""
    nodes[0].workload.assign(OWNER, (Lun(7, "/nowhere"),), deadline=soon())     # nobody of that name is there
    client = Client(nodes[1])
    client.ask(1)
    client.ask(2)
    never(lambda: client.answers, "answered without an owner")
    owner = Owner(nodes[0], OWNER)
    eventually(lambda: len(owner.packets()) == 2, "requests that waited did not reach the owner")
    owner.take()        # lets go, without having answered
    client.ask(3)
    never(lambda: len(owner.packets()) > 2, "a request reached an owner that had let go")
    owner.inbox.bodies.clear()
    owner.take(7)
    eventually(lambda: len(owner.packets()) == 3, "requests did not come again")
    for packet in owner.packets():
        owner.answer(packet)
        nodes[0].source.durable(7, 5)
    eventually(lambda: client.cookies() == [1, 2, 3], f"answered: {client.cookies()}")


@rule(nodes=2)
def workload_pushes(nodes: Nodes) -> None:
    """A TSD is pushed its whole list at once and at every change, in order, with growing epochs; assign() returns when
    it was acknowledged. A LUN is pushed to its next owner only after the one before has let go: never two owners."""
    workload = nodes[0].workload
    events: list[tuple[str, tuple[int, ...], int]] = []
    lock = threading.Lock()

    def of(name: str) -> Any:
        def assigned(assignment: Assignment) -> None:
            time.sleep(QUIET_S / 2)
            with lock:
                events.append((name, tuple(sorted(lun.lun for lun in assignment.luns)), assignment.epoch))
        return assigned

    def lun(number: int) -> Lun:
        return Lun(number, f"/nowhere/{number}")

    first = workload.assign(OWNER, (lun(1), lun(2)), deadline=soon())
    a = workload.subscribe(OWNER, of("a"))
    b = nodes[1].workload.subscribe(OTHER, of("b"))
    refused(Busy, lambda: workload.subscribe(OWNER, of("again")), "a second subscription of one name")
    eventually(lambda: len(events) == 1, "the list that waited was not pushed")
    second = workload.assign(OWNER, (lun(1), lun(2), lun(3)), deadline=soon())
    expect(len(events) == 2, "assign() returned before it was acknowledged")
    third = nodes[1].workload.assign(OTHER, (lun(2),), deadline=soon())
    expect([(name, luns) for name, luns, _ in events]
           == [("a", (1, 2)), ("a", (1, 2, 3)), ("a", (1, 3)), ("b", (2,))], f"pushed: {events}")
    epochs = [epoch for _, _, epoch in events]
    expect(epochs == sorted(set(epochs)) and first <= second < third,
           f"epochs do not grow: {epochs}, {first}, {second}, {third}")
    expect(workload.owner(1) == OWNER and workload.owner(2) == OTHER and workload.owner(9) is None, "the wrong owner")
    refused(InvalidRequest, lambda: workload.assign(OWNER, (lun(1), lun(1))), "a LUN twice")
    a.cancel()
    a.cancel()
    eventually(lambda: workload.owner(1) is None, "a TSD that is gone still owns a LUN")
    workload.assign(OTHER, (lun(1), lun(2)), deadline=soon())
    expect(events[-1][:2] == ("b", (1, 2)) and workload.owner(1) == OTHER, f"a LUN whose owner is gone: {events[-1]}")
    b.cancel()
    never(lambda: len(events) > 5, "pushed to a subscription that was cancelled")


@rule(nodes=2)
def configuration_changes(nodes: Nodes) -> None:
    """A subscriber gets all values first, then each change, ending with the newest, on a thread of the platform;
    cancelled, it gets nothing."""
    here, there = nodes[0].configuration, nodes[1].configuration
    seen: list[Mapping[str, Any]] = []
    on: set[int] = set()

    def changed(values: Mapping[str, Any]) -> None:
        on.add(threading.get_ident())
        seen.append(dict(values))

    subscription = here.subscribe(changed)
    eventually(lambda: seen, "the values were not delivered")
    expect(seen[0]["merge_fanin"] == here.get("merge_fanin"), "the first call has not all values")
    for i in range(2, 10):
        there.set({"merge_fanin": i})
    eventually(lambda: seen[-1].get("merge_fanin") == 9, "the newest value was not delivered")
    delivered = [values["merge_fanin"] for values in seen[1:]]
    expect(delivered == sorted(delivered), f"changes out of order: {delivered}")
    expect(here.get("merge_fanin") == 9, "get() has an older value than the subscriber")
    expect(threading.get_ident() not in on, "called on the thread that changes")
    refused(NotFound, lambda: here.get("no_such_setting"), "an unknown setting")
    refused(InvalidRequest, lambda: here.set({"merge_fanin": 1, "max_restores": 5}), "a value out of range")
    expect(here.get("max_restores") != 5, "a refused change was made in part")
    subscription.cancel()
    calls = len(seen)
    there.set({"merge_fanin": 4})
    never(lambda: len(seen) > calls, "called after it was cancelled")


@rule(nodes=1)
def alerts_and_tracing_never_block(nodes: Nodes) -> None:
    """Alerts and traces neither block nor raise, however many there are."""
    (node,) = nodes
    began = time.monotonic()
    for i in range(3000):
        node.alerts.alert(Severity.WARNING, f"conformance test {i}", "ignore it", lun=7)
        if node.tracing.enabled or i % 2:
            node.tracing.emit("conformance", number=i, text="x")
    expect(time.monotonic() - began < PATIENCE_S, "3000 alerts took longer than 10 s")
