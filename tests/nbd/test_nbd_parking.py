"""Requests that have to wait for a device: others are answered meanwhile, and nothing is answered before its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.nbd import (
    CACHE,
    DATA,
    EIO,
    FLUSH,
    FUA,
    HOLE,
    MIB,
    READ,
    UNAVAILABLE,
    Served,
    request,
    served,
    until,
    write,
)
from support.seeds import Seeds
from support.slow_device import COLD, Device, durable_means_durable

from cdpcore.base import workers
from cdpcore.nbd.connection import MAX_PAYLOAD_BYTES, End

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]


@contextmanager
def crowded(device: Device, structured: bool = True) -> Iterator[Served]:
    """A connection whose client was seen to send while a request waited on the spot, which is then answered."""
    with served(device, structured=structured) as s:
        s.wire.send(request(READ, COLD, 1, cookie=0))
        until(lambda: device.waiting == 1, "a read on the spot")
        s.wire.send(request(READ, 0, 1, cookie=1))
        device.answers.set()
        assert [s.wire.reply(reads={0: (1, COLD), 1: (1, 0)}).cookie for _ in range(2)] == [0, 1]
        assert s.connection.counters()["handed_over"] == 0
        device.answers.clear()
        yield s
        device.answers.set()


@pytest.mark.parametrize("structured", [False, True])
def test_what_waits_holds_nothing_up(structured: bool) -> None:
    device = Device()
    device.data[COLD : COLD + 4] = b"cold"
    device.data[:4] = b"warm"
    with crowded(device, structured) as s:
        s.wire.send(request(READ, COLD, 4, cookie=1), request(READ, 0, 4, cookie=2), write(8, b"x", cookie=3),
                    request(FLUSH, cookie=4))
        reply = s.wire.reply(4, 0)
        assert (reply.cookie, reply.data) == (2, b"warm")
        assert s.wire.reply().cookie == 3
        until(lambda: device.waiting == 2, "the read and the flush")
        assert s.wire.ask(request(READ, 8, 1, cookie=5), 1).data == b"x"
        device.answers.set()
        replies = {reply.cookie: reply for reply in (s.wire.reply(reads={1: (4, COLD)}) for _ in range(2))}
        assert replies[1].data == b"cold" and replies[4].error == 0
        assert s.connection.counters()["handed_over"] == 2


def test_a_client_with_one_request_at_a_time_pays_for_no_hand_over() -> None:
    device = Device()
    device.answers.set()
    with served(device) as s:
        for _ in range(50):
            s.wire.ask(request(READ, COLD, 8), 8)
            s.wire.ask(write(0, b"x"))
            s.wire.ask(request(FLUSH))
            s.wire.ask(write(0, b"x", flags=FUA))
        assert s.connection.counters()["handed_over"] == 0


def test_a_device_has_many_requests_at_a_time() -> None:
    device = Device()
    with crowded(device) as s:
        s.wire.send(*(request(READ, COLD + i, 1, cookie=i) for i in range(workers.WORKERS_MAX + 10)))
        until(lambda: device.waiting == workers.WORKERS_MAX, "as many as there are workers")
        assert workers.counters() == {"threads": workers.WORKERS_MAX, "busy": workers.WORKERS_MAX, "jobs": 10}
        device.answers.set()
        reads = {i: (1, COLD + i) for i in range(workers.WORKERS_MAX + 10)}
        assert {s.wire.reply(reads=reads).cookie for _ in reads} == set(reads)
    until(lambda: workers.counters()["threads"] == 0, "workers end when they are idle")


def test_more_than_may_be_parked_and_more_than_their_replies_have_room_for() -> None:
    device = Device(40 * MIB)
    with crowded(device) as s:
        reads = {i: (MAX_PAYLOAD_BYTES if i % 100 == 0 else 1, COLD) for i in range(600)}
        s.wire.send(*(request(READ, offset, size, cookie=i) for i, (size, offset) in reads.items()))
        until(lambda: device.waiting >= 2, "reads under way")
        device.answers.set()
        assert sorted(s.wire.reply(reads=reads).cookie for _ in reads) == list(reads)


def test_flushes_that_came_together_share_one_and_fail_together() -> None:
    device = Device()
    with crowded(device) as s:
        device.fail["flush"] = (UNAVAILABLE, 5, b"making it durable")
        s.wire.send(*(write(i, b"x", flags=FUA, cookie=i) for i in range(20)), request(FLUSH, cookie=20))
        until(lambda: device.waiting == 1, "one flush")
        device.answers.set()
        assert [(reply.cookie, reply.error) for reply in (s.wire.reply() for _ in range(21))] == \
            [(i, EIO) for i in range(21)]
        assert device.names().count("flush") == 1 and device.names().count("pwrite") == 20


def test_a_failed_read_says_so_and_a_hole_is_sent_as_one() -> None:
    device = Device()
    device.extents = lambda offset, length: [(offset, 65536, DATA), (offset + 65536, length - 65536, HOLE)]
    with crowded(device) as s:
        s.wire.send(request(READ, COLD, 131072, cookie=1))
        until(lambda: device.waiting == 1, "the read")
        device.answers.set()
        reply = s.wire.reply(131072, COLD)
        assert [chunk[0] for chunk in reply.chunks] == [1, 2] and reply.data == bytes(131072)
        device.fail["pread"] = (UNAVAILABLE, 5, b"reading the device")
        s.wire.send(request(READ, COLD, 4096, cookie=2), request(CACHE, COLD, 4096, cookie=3))
        assert {(reply.cookie, reply.error, reply.message) for reply in (s.wire.reply(), s.wire.reply())} == \
            {(2, EIO, "reading the device"), (3, EIO, "reading the device")}


@pytest.mark.parametrize("now", [False, True])
def test_an_end_while_requests_wait(now: bool) -> None:
    """The memory that a worker writes to is there until it is done; a client that only hangs up is answered first."""
    device = Device()
    with crowded(device) as s:
        s.wire.send(*(request(READ, COLD, 4096, cookie=i) for i in range(40)), request(FLUSH, cookie=40))
        until(lambda: device.waiting == 41, "40 reads and a flush")
        s.connection.stop(now=now)
        s.thread.join(0.2)
        assert s.thread.is_alive()
        device.answers.set()
        if not now:
            reads = {i: (4096, COLD) for i in range(40)}
            assert {s.wire.reply(reads=reads).cookie for _ in range(41)} == set(range(41))
        assert s.end() is End.STOPPED


@pytest.mark.soak
def test_durable_means_durable_in_any_order(seeds: Seeds) -> None:
    for seed in seeds(8):
        durable_means_durable(seed, lambda device, structured: served(device, structured=structured))
