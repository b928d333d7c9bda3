"""Rules of the buffer supply and the data plane."""
from __future__ import annotations

import threading
import time

from cdp.conformance.kit import Inbox, Nodes, Threads, eventually, expect, never, refused, rule, soon
from cdp.platform import BgDeliveryMsg, BgRef, GroupName, PlatformImpl
from cdpcore.base.errors import Busy, InvalidRequest, NotFound, OutOfSpace

TO = GroupName(900, 0)


def content(node: PlatformImpl, ref: BgRef) -> bytes:
    """What a node sees in a group."""
    view = node.data.map(ref)
    data = bytes(view)
    node.data.unmap(view, modified=False)
    return data


def write(node: PlatformImpl, ref: BgRef, data: bytes) -> None:
    """Change a group from a node."""
    view = node.data.map(ref)
    view[:len(data)] = data
    node.data.unmap(view, modified=True)


@rule(nodes=1, group_count=4)
def request_deadline_is_absolute(nodes: Nodes) -> None:
    """A request for buffers that are not there ends with Busy at its deadline: not earlier, and not later because it
    was woken meanwhile. A deadline that has passed means to try once."""
    buffers = nodes[0].buffers
    held = buffers.request(4, deadline=soon())
    refused(Busy, lambda: buffers.request(1, deadline=time.monotonic() - 1), "a request to an empty pool, once")
    stop = threading.Event()

    def stir() -> None:     # groups come and go, never as many as are waited for
        mine = held.pop()
        while not stop.is_set():
            buffers.release(mine)
            time.sleep(0.02)
            try:
                (mine,) = buffers.request(1, deadline=time.monotonic() + 0.02)
            except Busy:    # the other one was first in the queue
                (mine,) = buffers.request(1, deadline=soon())
        buffers.release(mine)

    with Threads() as threads:
        threads.start(stir)
        began = time.monotonic()
        try:
            refused(Busy, lambda: buffers.request(3, deadline=began + 0.4),
                    "a request for 3 groups of which one is there at times")
        finally:
            stop.set()
        took = time.monotonic() - began
    expect(took >= 0.39, f"a request with a deadline in 0.4 s gave up after {took:.3f} s")
    expect(took < 2, f"a request with a deadline in 0.4 s waited {took:.3f} s: a wake-up made its deadline later")
    for group in held:
        buffers.release(group)
    groups = buffers.request(4, deadline=time.monotonic() - 1)
    expect(len(groups) == 4, "a request for what is there, with a deadline that has passed")
    for group in groups:
        buffers.release(group)


@rule(nodes=1, group_count=4)
def requests_in_order_all_or_none(nodes: Nodes) -> None:
    """A request gets all its groups or none, and waiters are served in order: a small one does not overtake a large
    one."""
    buffers = nodes[0].buffers
    held = buffers.request(2, deadline=soon())
    got: list[BgRef] = []
    with Threads() as threads:
        threads.start(lambda: got.extend(buffers.request(3, deadline=soon())))
        time.sleep(0.1)
        refused(Busy, lambda: buffers.request(1, deadline=time.monotonic() + 0.05), "a request behind one that waits")
        expect(not got, "a request was served in part")
        buffers.release(held.pop())
        eventually(lambda: len(got) == 3, "the waiting request was not served")
    expect(len({(group.slot, group.home) for group in [*got, *held]}) == 4, "a group was handed out twice")
    for group in [*got, *held]:
        expect(group.length_bytes == buffers.group_bytes and group.offset_bytes == 0, f"not a whole group: {group}")
        buffers.release(group)
    expect(buffers.available() == 4, f"{buffers.available()} of 4 groups came back")
    refused(OutOfSpace, lambda: buffers.request(5, deadline=soon()), "more groups than there are")
    refused(InvalidRequest, lambda: buffers.request(0), "no groups")


@rule(nodes=2, group_count=4)
def delivery_to_a_listener(nodes: Nodes) -> None:
    """deliver() does not wait; the groups come to the listener as a BgDeliveryMsg when they are there, and are the
    receiver's."""
    buffers = nodes[0].buffers
    inbox = Inbox(nodes[0], TO).enable()
    held = buffers.request(3, deadline=soon())
    buffers.deliver(TO, 2, cookie=77)
    never(lambda: inbox.count(), "groups were delivered that are not there")
    buffers.release(held.pop())
    eventually(lambda: inbox.count() == 1, "the groups were not delivered")
    message = BgDeliveryMsg.parse(inbox.bodies[0])
    expect(message.cookie == 77 and len(message.groups) == 2, f"delivered {message}")
    for group in [*message.groups, *held]:
        buffers.release(group)
    expect(buffers.available() == 4, "groups are missing")
    buffers.deliver(GroupName(999, 0), 1)
    eventually(lambda: buffers.available() == 4, "groups for nobody did not come back")


@rule(nodes=2, group_count=3)
def buffer_references(nodes: Nodes) -> None:
    """A group goes back with its last reference; a reference that was released names nothing, even when its slot is
    used again."""
    buffers, data = nodes[0].buffers, nodes[0].data
    (group,) = buffers.request(1, deadline=soon())
    buffers.add_ref(group)
    buffers.release(group)
    expect(buffers.available() == 2, "a group went back while it was referred to")
    nodes[1].buffers.release(group)
    expect(buffers.available() == 3, "a group did not go back with its last reference, released from another node")
    refused(NotFound, lambda: buffers.release(group), "releasing a group twice")
    again = buffers.request(3, deadline=soon())
    refused(NotFound, lambda: data.map(group), "mapping a group that was released, whose slot is used again")
    refused(NotFound, lambda: buffers.add_ref(group), "a reference to a group that was released")
    refused(InvalidRequest, lambda: data.map(again[0]._replace(offset_bytes=1)), "mapping past the end of a group")
    for ref in again:
        buffers.release(ref)


@rule(nodes=2)
def modified_is_seen_everywhere(nodes: Nodes) -> None:
    """What was unmapped with modified=True on one node is what every node maps afterwards."""
    (group,) = nodes[0].buffers.request(1, deadline=soon())
    size = group.length_bytes
    write(nodes[0], group, b"a" * size)
    expect(content(nodes[1], group) == b"a" * size, "another node does not see what the home wrote")
    write(nodes[1], group.part(100, 50), b"b" * 50)
    want = b"a" * 100 + b"b" * 50 + b"a" * (size - 150)
    expect(content(nodes[0], group) == want, "the home does not see what another node wrote")
    expect(content(nodes[1], group.part(90, 20)) == want[90:110], "a part of a group is not that part")
    nodes[0].buffers.release(group)


@rule(nodes=2)
def not_modified_copies_nothing_back(nodes: Nodes) -> None:
    """unmap() with modified=False copies nothing back; where nodes share the memory nothing is copied at all."""
    (group,) = nodes[0].buffers.request(1, deadline=soon())
    write(nodes[0], group, b"old" * 100)
    if nodes[1].data.copies:
        view = nodes[1].data.map(group)
        view[:300] = b"new" * 100
        nodes[1].data.unmap(view, modified=False)
        expect(content(nodes[0], group)[:300] == b"old" * 100, "unmapped as not modified, and copied back all the same")
    else:
        there, here = nodes[1].data.map(group), nodes[0].data.map(group)
        here[:300] = b"new" * 100
        expect(bytes(there[:300]) == b"new" * 100, "the platform says that nodes share the memory, and they do not")
        nodes[0].data.unmap(here, modified=True)
        nodes[1].data.unmap(there, modified=False)
        expect(content(nodes[0], group)[:300] == b"new" * 100,
               "unmapping as not modified undid what another had written")
    nodes[0].buffers.release(group)


@rule(nodes=2, group_count=2)
def mapped_group_stays(nodes: Nodes) -> None:
    """A group that is released while it is mapped stays until the last unmap(); a view is given back once."""
    buffers, data = nodes[0].buffers, nodes[0].data
    (group,) = buffers.request(1, deadline=soon())
    write(nodes[0], group, b"stay")
    view = data.map(group)
    buffers.release(group)
    expect(buffers.available() == 1, "a group went back to the pool while it was mapped")
    (other,) = buffers.request(1, deadline=soon())
    write(nodes[0], other, b"gone")
    expect(bytes(view[:4]) == b"stay", "a mapped group was given to somebody else")
    data.unmap(view, modified=False)
    eventually(lambda: buffers.available() == 1, "the group did not come back after the last unmap()")
    refused(InvalidRequest, lambda: data.unmap(view, modified=False), "unmapping twice")
    buffers.release(other)


@rule(nodes=2, group_count=2)
def replicate(nodes: Nodes) -> None:
    """A replica is a group of the node it was asked for, with the same content, and apart from the original
    afterwards."""
    (group,) = nodes[0].buffers.request(1, deadline=soon())
    write(nodes[0], group, b"one" * 50)
    replica = nodes[0].data.replicate(group.part(0, 150), 1, deadline=soon())
    expect(replica.home == 1, f"the replica's home is {replica.home}")
    expect(nodes[1].buffers.available() == 1, "the replica is not a group of the node's pool")
    expect(content(nodes[1], replica)[:150] == b"one" * 50, "the replica has another content")
    write(nodes[0], group, b"two" * 50)
    expect(content(nodes[1], replica)[:150] == b"one" * 50, "a change of the original is seen in the replica")
    (last,) = nodes[1].buffers.request(1, deadline=soon())
    refused(Busy, lambda: nodes[0].data.replicate(group, 1, deadline=time.monotonic() + 0.05),
            "a replica on a node without groups")
    refused(NotFound, lambda: nodes[0].data.replicate(group, 77, deadline=soon()),
            "a replica on a node that is not there")
    for ref in (group, replica, last):
        nodes[0].buffers.release(ref)


@rule(nodes=2, group_count=2)
def mark_local(nodes: Nodes) -> None:
    """mark_local() makes this node the home of a group, content and all; references of others stay valid; nothing
    leaks."""
    (group,) = nodes[0].buffers.request(1, deadline=soon())
    write(nodes[0], group, b"here" * 10)
    expect(nodes[0].data.mark_local(group) == group, "a group that is at home was moved")
    nodes[0].buffers.add_ref(group)
    moved = nodes[1].data.mark_local(group)
    expect(moved.home == 1, f"the home is {moved.home}")
    expect(content(nodes[1], moved)[:40] == b"here" * 10, "the content did not come along")
    write(nodes[1], moved, b"came" * 10)
    expect(content(nodes[0], group)[:40] == b"came" * 10, "the other reference does not lead to the group any more")
    nodes[1].buffers.release(moved)
    expect(content(nodes[0], group)[:40] == b"came" * 10, "the group went while the other reference was held")
    nodes[0].buffers.release(group)
    eventually(lambda: [node.buffers.available() for node in nodes] == [2, 2], "a group did not come back")
