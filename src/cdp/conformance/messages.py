"""Rules of the control plane: order, completions, threads, flow control, references, batching, shadows."""
from __future__ import annotations

import threading
import time

from cdp.conformance.kit import QUIET_S, Inbox, Nodes, Threads, eventually, expect, never, refused, rule, send, soon
from cdp.platform import CpSendReq, Flag, GroupName, MDPacket, Op
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, NotFound

TO = GroupName(900, 0)
A, B = GroupName(901, 0), GroupName(901, 1)


@rule(nodes=2)
def order_per_sender(nodes: Nodes) -> None:
    """Messages of one sender to one group arrive in the order of their sends, each once, also with many senders at once
    and full queues."""
    inbox = Inbox(nodes[0], TO, bufs=3, slop=2).enable()
    senders, each = 6, 80

    def talk(s: int) -> None:
        for i in range(each):
            send(nodes[s % 2], TO, s * 1000 + i, GroupName(910 + s, s % 2))

    with Threads() as threads:
        for s in range(senders):
            threads.start(talk, s)
    eventually(lambda: inbox.count() >= senders * each, "messages were lost")
    never(lambda: inbox.count() > senders * each, "a message came twice")
    for s in range(senders):
        got = [n - s * 1000 for n in inbox.numbers() if n // 1000 == s]
        expect(got == list(range(each)), f"sender {s}: messages out of order: {got[:20]}")


@rule(nodes=2)
def many_messages_in_a_row(nodes: Nodes) -> None:
    """Messages sent one after the other to a slow receiver arrive in order, and none is left behind when sending
    stops."""
    inbox = Inbox(nodes[0], TO, bufs=8, slop=0)
    inbox.nap_s = 0.003
    inbox.enable(max_msgs=4, max_usecs=1000)
    for i in range(101):
        send(nodes[1], TO, i, B)
    eventually(lambda: inbox.count() >= 101, "the last messages were never announced")
    send(nodes[1], TO, 101, B)      # alone: it fills no batch
    eventually(lambda: inbox.count() >= 102, "the last message was never announced")
    expect(inbox.numbers() == list(range(102)), "messages out of order")


@rule(nodes=2)
def completion_once_and_in_order(nodes: Nodes) -> None:
    """The completion of a send comes exactly once, in the order of the sends; to a group that nobody listens to it
    brings NotFound."""
    inbox = Inbox(nodes[0], TO, bufs=4).enable()
    completed: list[tuple[int, CdpError | None]] = []
    requests = []
    for i in range(60):
        to = TO if i % 5 else GroupName(999, 0)
        requests.append(send(nodes[1], to, i, B,
                             complete=lambda request, error: completed.append((int(request.body), error))))
    eventually(lambda: len(completed) >= 60, "completions are missing")
    never(lambda: len(completed) > 60, "a completion came twice")
    # To two groups: the order is per sender and group, but completions of a sender come in the order of its sends.
    expect([n for n, _ in completed] == list(range(60)), "completions out of order")
    for n, error in completed:
        expect((error is None) if n % 5 else isinstance(error, NotFound), f"send {n} was completed with {error!r}")
    eventually(lambda: inbox.count() == 48, "messages are missing")


@rule(nodes=2)
def callbacks_on_threads_of_the_platform(nodes: Nodes) -> None:
    """No callback runs on the thread of the call that causes it."""
    here = threading.get_ident()
    completed: set[int] = set()
    inbox = Inbox(nodes[0], TO)
    send(nodes[0], TO, 0, A)
    inbox.enable()      # there is a message already
    for i in range(5):
        send(nodes[0], TO, i, A, complete=lambda _r, _e: completed.add(threading.get_ident()))
    eventually(lambda: inbox.count() == 6 and completed, "callbacks are missing")
    expect(here not in inbox.threads, "the ready callback ran on the sender's thread")
    expect(here not in completed, "the completion ran on the sender's thread")


@rule(nodes=2)
def body_copied_at_send(nodes: Nodes) -> None:
    """A packet arrives as it was when send() was called, every byte of it, whatever happens to it afterwards."""
    inbox = Inbox(nodes[0], TO, free=False).enable()
    packet = MDPacket(Op.WRITE, 7, offset_bytes=513, length_bytes=99, cookie=1 << 63, flags=Flag.FUA,
                      timestamp_ns=1 << 62)
    packet.seq, packet.epoch, packet.sys_errno, packet.source_id = 1 << 61, 1 << 31, 65535, 65534
    for i in range(4):
        packet.add_bg(i, 1 + i, 2, 3)
    was = bytes(packet)
    send(nodes[1], TO, packet, B)
    packet.lun = 8
    eventually(lambda: inbox.count() == 1, "the packet did not arrive")
    expect(bytes(inbox.bodies[0]) == was, f"sent {was.hex()}, received {bytes(inbox.bodies[0]).hex()}")
    send(nodes[1], TO, b"", B)
    send(nodes[1], TO, bytes(range(256)) * 16, B)
    eventually(lambda: inbox.count() == 3, "an empty or a long message did not arrive")
    expect(inbox.bodies[1:] == [b"", bytes(range(256)) * 16], "a message changed on its way")
    expect(all(message.sender == B for message in inbox.messages), "the sender's name changed on its way")
    refused(InvalidRequest, lambda: send(nodes[1], TO, bytes(4097), B), "a message of 4097 bytes")


@rule(nodes=2)
def flow_control_bounds(nodes: Nodes) -> None:
    """A sender has bufs_per_sender buffers and the senders share slop_bufs; then sends wait, and Busy comes at the
    deadline. Another sender is not held up. What is freed can be used again, and nothing is lost."""
    inbox = Inbox(nodes[0], TO, bufs=4, slop=3, take=False, free=False).enable()

    def fill(sender: GroupName, base: int) -> int:
        for i in range(50):
            try:
                send(nodes[1], TO, base + i, sender, deadline=time.monotonic() + 0.02)
            except Busy:
                return i
        return 50

    first = fill(B, 0)
    expect(4 <= first <= 4 + 3, f"a sender with 4 buffers and 3 shared ones could send {first}")
    second = fill(A, 1000)
    expect(second >= 4, f"a second sender, with 4 buffers of its own, could send {second}")
    expect(first + second <= 2 * 4 + 3, f"two senders could send {first + second}: more than 2 x 4 + 3")
    began = time.monotonic()
    refused(Busy, lambda: send(nodes[1], TO, 1, B, deadline=time.monotonic() + 0.2), "a send without a buffer")
    took = time.monotonic() - began
    expect(0.19 <= took < 3, f"a send with a deadline in 0.2 s waited {took:.3f} s")
    eventually(lambda: sum(n for _, n in inbox.announced) == first + second, "messages were not announced")
    for message in inbox.receive():
        nodes[0].control.free(message)
    send(nodes[1], TO, 500, B)
    eventually(lambda: inbox.receive() or inbox.numbers()[-1] == 500, "nothing arrives after buffers were freed")
    expect(sorted(inbox.numbers()) == sorted([*range(first), *range(1000, 1000 + second), 500]), "messages were lost")


@rule(nodes=2)
def flow_control_sleeping_receiver(nodes: Nodes) -> None:
    """While the receiver sleeps the sender waits: never more messages under way than buffers, and none lost."""
    inbox = Inbox(nodes[0], TO, bufs=5, slop=2)
    inbox.nap_s = 0.02
    inbox.enable()
    most = 0
    for i in range(60):
        send(nodes[1], TO, i, B)
        with inbox.lock:
            most = max(most, i + 1 - inbox.freed)
    # Twice: a batch of 7 is counted as freed a moment after it was.
    expect(most <= 2 * (5 + 2), f"{most} messages were under way with 7 buffers")
    eventually(lambda: inbox.count() == 60, "messages were lost")
    expect(inbox.numbers() == list(range(60)), "messages out of order")


@rule(nodes=2)
def references(nodes: Nodes) -> None:
    """A message is received with one reference; add_ref() and free() count, and its buffer is the sender's again at the
    last free() and not before. One free() too many is refused."""
    control = nodes[0].control
    inbox = Inbox(nodes[0], TO, bufs=1, slop=0, free=False).enable()
    send(nodes[1], TO, 1, B)
    eventually(lambda: inbox.count() == 1, "the message did not arrive")
    message = inbox.messages[0]
    control.add_ref(message)
    control.free(message)
    refused(Busy, lambda: send(nodes[1], TO, 2, B, deadline=time.monotonic() + QUIET_S),
            "a send while the only buffer is referred to")
    expect(message.body == b"1", "a message changed while it was referred to")
    control.free(message)
    send(nodes[1], TO, 2, B)
    refused(InvalidRequest, lambda: control.free(message), "freeing a message twice")
    refused(InvalidRequest, lambda: control.add_ref(message), "a reference to a message that was freed")
    eventually(lambda: inbox.numbers() == [1, 2], "the second message did not arrive")


@rule(nodes=2)
def batching_by_number(nodes: Nodes) -> None:
    """With max_msgs the callback comes when so many messages are there, and not before."""
    inbox = Inbox(nodes[0], TO, bufs=16).enable(max_msgs=5, max_usecs=20_000_000)
    for i in range(4):
        send(nodes[1], TO, i, B)
    never(lambda: inbox.announced, "called for 4 messages where 5 were asked for")
    send(nodes[1], TO, 4, B)
    eventually(lambda: inbox.announced, "not called for 5 messages")
    expect(inbox.announced[0][1] == 5, f"called for {inbox.announced[0][1]} messages instead of 5")
    eventually(lambda: inbox.count() == 5, "messages are missing")


@rule(nodes=2)
def batching_by_time(nodes: Nodes) -> None:
    """With max_usecs the callback comes when the oldest message has waited so long, and not before."""
    inbox = Inbox(nodes[0], TO, bufs=16).enable(max_msgs=1000, max_usecs=300_000)
    began = time.monotonic()
    for i in range(3):
        send(nodes[1], TO, i, B)
    eventually(lambda: inbox.announced, "not called for messages that wait")
    at, n = inbox.announced[0]
    expect(at - began >= 0.28, f"called after {at - began:.3f} s where 0.3 s were asked for")
    expect(at - began < 3, f"called after {at - began:.3f} s where 0.3 s were asked for")
    expect(n == 3, f"called for {n} of 3 messages")


@rule(nodes=2)
def announced_once_and_never_overlapping(nodes: Nodes) -> None:
    """Each message is announced by exactly one callback, with the listener and the user's data; callbacks of a listener
    do not overlap."""
    inbox = Inbox(nodes[0], TO, bufs=64, slop=0)
    inbox.nap_s = 0.01
    inbox.enable()

    def talk(s: int) -> None:
        for i in range(20):
            send(nodes[s % 2], TO, i, GroupName(910 + s, 0))
            time.sleep(0.002)

    with Threads() as threads:
        for s in range(3):
            threads.start(talk, s)
    eventually(lambda: inbox.count() == 60, "messages are missing")
    time.sleep(QUIET_S)
    total = sum(n for _, n in inbox.announced)
    # What is received before it was announced is not announced any more.
    expect(total <= 60 and all(n > 0 for _, n in inbox.announced), f"{total} messages were announced, of 60")
    expect(not inbox.overlaps, "callbacks of one listener ran at the same time, or with other data")
    waiting = Inbox(nodes[0], GroupName(902, 0), take=False).enable()
    for i in range(6):
        send(nodes[1], GroupName(902, 0), i, B)
    eventually(lambda: sum(n for _, n in waiting.announced) == 6, "6 messages were not announced once each")
    never(lambda: sum(n for _, n in waiting.announced) != 6, "messages were announced again")


@rule(nodes=2)
def shadow_gets_what_was_not_freed(nodes: Nodes) -> None:
    """A listener that is not enabled has no callbacks. Enabled after the active one is gone, it gets all that was not
    freed, in order, also what the other had received, which is marked."""
    active = Inbox(nodes[0], TO, bufs=16, take=False, free=False).enable()
    shadow = Inbox(nodes[1], TO, bufs=16, free=False)
    for i in range(6):
        send(nodes[1], TO, i, B)
    eventually(lambda: sum(n for _, n in active.announced) == 6, "the active listener was not called")
    for message in active.listener.receive(4):
        if message.body in (b"0", b"2"):
            nodes[0].control.free(message)
    never(lambda: shadow.announced, "a shadow was called")
    refused(InvalidRequest, lambda: shadow.listener.receive(1), "receiving in shadow mode")
    refused(Busy, lambda: shadow.enable(), "enabling a second listener")
    active.listener.close()
    send(nodes[0], TO, 6, A)
    shadow.enable()
    eventually(lambda: shadow.count() >= 5, "the shadow did not get what was not freed")
    expect(shadow.numbers() == [1, 3, 4, 5, 6], f"the shadow got {shadow.numbers()} instead of 1, 3, 4, 5, 6")
    marks = [message.redelivered for message in shadow.messages]
    expect(marks == [True, True, False, False, False], f"marked as delivered before: {marks}")


@rule(nodes=2)
def disabled_listener_is_fenced(nodes: Nodes) -> None:
    """When disable() returns no callback runs or comes. Freeing what was delivered to another since has no effect, and
    is no error."""
    first = Inbox(nodes[0], TO, bufs=16, free=False).enable()
    second = Inbox(nodes[1], TO, bufs=16, free=False)
    send(nodes[1], TO, 1, B)
    eventually(lambda: first.count() == 1, "the message did not arrive")
    first.nap_s = 0.1
    send(nodes[1], TO, 2, B)
    eventually(lambda: first.inside, "the second message was not announced")
    first.listener.disable()
    expect(not first.inside, "disable() returned while a callback was running")
    calls = len(first.announced)
    send(nodes[1], TO, 3, B)
    never(lambda: len(first.announced) > calls, "a disabled listener was called")
    second.enable()
    eventually(lambda: second.numbers() == [1, 2, 3], "the second listener did not get all three messages")
    nodes[0].control.free(first.messages[0])
    second.listener.disable()
    second.messages.clear()
    second.bodies.clear()
    second.enable()
    eventually(lambda: second.numbers() == [1, 2, 3], "the fenced listener took a message away by freeing it")


@rule(nodes=1)
def callback_may_use_the_plane(nodes: Nodes) -> None:
    """A callback may send (with a deadline), receive, free and disable its own listener."""
    (node,) = nodes
    echoes = Inbox(node, GroupName(903, 0), bufs=16).enable()
    seen: list[int] = []
    listener = node.control.register(TO, bufs_per_sender=16, slop_bufs=0)

    def ready(it: object, _data: object, _n: int) -> None:
        for message in listener.receive():
            seen.append(int(message.body if isinstance(message.body, bytes) else 0))
            node.control.send(CpSendReq(GroupName(903, 0), message.body, TO), deadline=soon())
            node.control.free(message)
        if len(seen) >= 3:
            listener.disable()

    listener.enable(ready)
    for i in range(3):
        send(node, TO, i, A)
    eventually(lambda: echoes.numbers() == [0, 1, 2], "what a callback sent did not arrive")
    send(node, TO, 3, A)
    never(lambda: len(seen) > 3, "called after it was disabled in its own callback")


@rule(nodes=1)
def callback_that_raises(nodes: Nodes) -> None:
    """What a callback raises is dropped: later messages are announced all the same."""
    (node,) = nodes
    calls: list[int] = []
    listener = node.control.register(TO, bufs_per_sender=4, slop_bufs=0)

    def ready(_it: object, _data: object, n: int) -> None:
        calls.append(n)
        raise RuntimeError("on purpose")

    listener.enable(ready)
    send(node, TO, 1, A)
    eventually(lambda: len(calls) == 1, "not called")
    send(node, TO, 2, A)
    eventually(lambda: len(calls) == 2, "not called any more after a callback raised")


@rule(nodes=1)
def registration_refusals(nodes: Nodes) -> None:
    """Bad bounds are refused; so are other bounds than the group has; and a group without a listener is unknown
    again."""
    (node,) = nodes
    register = node.control.register
    refused(InvalidRequest, lambda: register(GroupName(1 << 16, 0)), "a group id of 17 bits")
    refused(InvalidRequest, lambda: register(TO, bufs_per_sender=0), "no buffers")
    first = register(TO, bufs_per_sender=4, slop_bufs=1)
    refused(InvalidRequest, lambda: register(TO, bufs_per_sender=5, slop_bufs=1), "other bounds than the group has")
    refused(InvalidRequest, lambda: first.enable(lambda *_: None, max_msgs=0), "batches of none")
    first.close()
    first.close()
    completed: list[CdpError | None] = []
    send(node, TO, 1, A, complete=lambda _r, error: completed.append(error))
    eventually(lambda: completed, "no completion")
    expect(isinstance(completed[0], NotFound), f"sending to a group that is gone: {completed[0]!r}")
