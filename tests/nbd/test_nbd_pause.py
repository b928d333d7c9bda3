"""A connection that is paused at a request boundary and goes on with another object: nothing lost, nothing twice."""

from __future__ import annotations

import random
import socket
import threading
import time

import pytest
from support.nbd import (
    EPERM,
    FLUSH,
    FUA,
    MIB,
    READ,
    WRITE,
    WRITE_ZEROES,
    Spy,
    Wire,
    request,
    until,
    write,
)

from cdpcore.base.errors import InvalidRequest
from cdpcore.nbd.connection import Connection, End

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]


class Relay:
    """A connection that is served by one object after the other."""

    def __init__(self, spy, **rules):
        self.ours, self.theirs = socket.socketpair()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
        self.wire = Wire(self.ours, structured=True)
        self._make = lambda: Connection(self.theirs, spy.capsule, structured=True, context_id=1,
                                        **{"read_only": False, **rules})
        self.rests = []
        self.connection = self._make()
        self._serve()

    def _serve(self):
        self.end = None

        def run(connection):
            self.end = connection.serve()

        self.thread = threading.Thread(target=run, args=(self.connection,), daemon=True)
        self.thread.start()

    def pause(self):
        self.connection.pause()
        self.thread.join(20)
        assert not self.thread.is_alive() and self.end is End.PAUSED

    def next(self):
        received, skipped = self.connection.rest()
        self.rests.append((len(received), skipped))
        counters = self.connection.counters()
        self.connection = self._make()
        self.connection.resume(received, skipped, counters)
        self._serve()

    def close(self):
        self.ours.close()
        self.thread.join(20)
        assert self.end is End.HUNG_UP
        self.theirs.close()


def test_replies_are_those_of_one_connection(seeds):
    for seed in seeds(2):
        _a_stream_with_pauses(random.Random(seed))


def _a_stream_with_pauses(rng):
    spy = Spy(MIB, waits=lambda offset, length: offset % 3 == 0)
    spy.hook = lambda name, offset, length: time.sleep(rng.choice((0, 0, 0, 0.001)))
    relay = Relay(spy)
    spy.data[-65536:] = rng.randbytes(65536)     # what is read: nothing writes there, since replies come in any order
    model, want, reads, sent = bytearray(spy.data), {}, {}, []
    for cookie in range(300):
        offset = (cookie * 997 * 64) % (MIB - 131072) // 64 * 64
        length = rng.choice((1, 512, 4096, 20000))
        kind = rng.randrange(4)
        if kind == 0:
            data = rng.randbytes(length)
            sent.append(write(offset, data, cookie=cookie, flags=rng.choice((0, FUA))))
            model[offset:offset + length] = data
        elif kind == 1:
            sent.append(request(WRITE_ZEROES, offset, length, cookie=cookie))
            model[offset:offset + length] = bytes(length)
        elif kind == 2:
            sent.append(request(FLUSH, 0, 0, cookie=cookie))
        else:
            offset, length = MIB - 65536 + rng.randrange(60000), rng.randrange(1, 4096)
            reads[cookie] = length, offset
            sent.append(request(READ, offset, length, cookie=cookie))
        want[cookie] = bytes(model[offset:offset + length]) if kind == 3 else b""
    stream = b"".join(sent)

    def send():
        at = 0
        while at < len(stream):
            step = rng.choice((1, 7, 28, 300, 5000, 60000))
            relay.ours.sendall(stream[at:at + step])
            at += step

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    got = {}

    def receive():
        while len(got) < len(want):
            reply = relay.wire.reply(reads=reads)
            assert not reply.error and reply.cookie not in got
            got[reply.cookie] = reply.data

    receiver = threading.Thread(target=receive, daemon=True)
    receiver.start()
    pauses = 0
    while receiver.is_alive():
        time.sleep(rng.choice((0, 0.001, 0.005)))
        relay.pause()
        relay.next()
        pauses += 1
    sender.join(20)
    assert got == want and spy.data == model and pauses > 1
    assert relay.connection.counters()["requests"] == 300
    relay.close()


@pytest.mark.parametrize("rest", [0, 1, 27, 28, 29, 3000, 4123])
def test_less_than_a_request_is_left(rest):
    """... also where it waits inside the kernel for more."""
    spy = Spy()
    relay = Relay(spy)
    whole = write(4096, b"y" * 4096, cookie=9)
    relay.wire.send(write(0, b"x" * 512, cookie=8), whole[:rest])
    assert relay.wire.reply().cookie == 8
    until(lambda: relay.connection.counters()["received_bytes"] == 28 + 512 + rest, "all of it received")
    relay.pause()
    relay.wire.send(whole[rest:])
    assert spy.names() == ["pwrite"]
    relay.next()
    assert relay.rests == [(rest, 0)]
    assert relay.wire.reply().cookie == 9 and spy.data[4096:8192] == b"y" * 4096
    relay.close()


@pytest.mark.parametrize("cut", [0, 1, 5000, 99999])
def test_in_the_middle_of_a_refused_write(cut):
    relay = Relay(Spy(), read_only=True)
    whole = write(0, b"z" * 100000, cookie=3)
    relay.wire.send(whole[:28 + cut])
    until(lambda: relay.connection.counters()["received_bytes"] == 28 + cut, "the beginning")
    relay.pause()
    relay.next()
    relay.wire.send(whole[28 + cut:], request(READ, 0, 16, cookie=4))
    reply = relay.wire.reply()
    assert (reply.cookie, reply.error) == (3, EPERM) and "read-only" in reply.message
    assert relay.wire.reply(16).cookie == 4
    assert relay.rests == [(28, cut)] and relay.connection.counters()["requests"] == 2
    relay.close()


def test_what_is_under_way_is_answered_first():
    spy = Spy(waits=lambda offset, length: True)
    go = threading.Event()
    spy.hook = lambda name, offset, length: name == "pread" and go.wait(20) and None
    relay = Relay(spy)
    relay.wire.send(request(READ, 0, 8, cookie=1), request(READ, 8, 8, cookie=2), request(FLUSH, 0, 0, cookie=3))
    until(lambda: relay.connection.counters()["requests"] == 3, "all begun")
    relay.connection.pause()
    relay.thread.join(0.2)
    assert relay.thread.is_alive()
    go.set()
    relay.thread.join(20)
    assert relay.end is End.PAUSED
    assert {relay.wire.reply(reads={1: (8, 0), 2: (8, 8)}).cookie for _ in range(3)} == {1, 2, 3}
    relay.next()
    relay.close()


def test_the_longest_rest():
    relay = Relay(Spy(64 * MIB))
    data = random.Random(1).randbytes(32 * MIB)
    whole = write(MIB, data, cookie=5)
    sender = threading.Thread(target=relay.wire.send, args=(whole[:-1],))
    sender.start()
    sender.join(20)
    until(lambda: relay.connection.counters()["received_bytes"] == len(whole) - 1, "all but one byte")
    relay.pause()
    relay.next()
    assert relay.rests == [(len(whole) - 1, 0)]
    relay.wire.send(whole[-1:])
    assert relay.wire.reply().cookie == 5
    relay.close()


def test_a_rest_that_is_none_is_refused():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        def fresh():
            return Connection(theirs, Spy().capsule, read_only=False, structured=True)

        for received, skipped in ((bytes(34 * MIB), 0), (b"x" * 10, 1), (bytes(28), 1), (request(READ, 0, 8), 4),
                                  (request(WRITE, 0, 8), 8)):
            with pytest.raises(InvalidRequest, match="rest of a connection"):
                fresh().resume(received, skipped)
