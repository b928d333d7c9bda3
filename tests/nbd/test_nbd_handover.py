"""A server that hands its listeners and connections to another one, as objects and as messages."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from contextlib import closing

import pytest
from support.nbd import (
    ACK,
    LIST,
    MIB,
    READ,
    FakeExport,
    Shelf,
    Spy,
    Talk,
    request,
    until,
    write,
)
from support.nbd_fixtures import dial

from cdp.ipc.link import Link
from cdp.nbd import NbdServer, TcpAddress, TlsMode, UnixAddress
from cdp.nbd.handover import Handed, connection_of, listener_of, send_handed
from cdpcore.base.errors import Busy, NotFound


def _through_a_link(handed):
    """What another process would have of it: everything by messages and descriptors, ours closed."""
    ours, theirs = (Link(sock) for sock in socket.socketpair())
    got = Handed()
    sender = threading.Thread(target=lambda: (send_handed(ours, handed), ours.send({"op": "end"})))
    sender.start()
    while True:
        message, fds = theirs.receive()
        if message["op"] == "end":
            break
        if message["op"] == "listener":
            got.listeners.append(listener_of(message, fds))
        else:
            got.connections.append(connection_of(message, fds))
    sender.join()
    ours.close()
    theirs.close()
    return got


def _next(shelf, handed, **more):
    server = NbdServer(shelf, None, **more)
    server.adopt(handed)
    server.start()
    return server


@pytest.mark.parametrize("process", ["this", "another"])
def test_listeners_and_connections_go_on(shelf, path, process):
    first = NbdServer(shelf, [UnixAddress(path), TcpAddress("localhost", 0)])
    first.start()
    uris = [first.uri("disk", i) for i in range(2)]
    whole = write(8192, b"2" * 8192)
    with dial(path) as sock, dial(path) as other:
        wire, still = Talk(sock).go("disk"), Talk(other).go("disk")
        wire.send(write(0, b"1" * 4096), whole[:5000])
        assert not wire.reply().error
        until(lambda: len(first.connections()) == 2, "listed, which is just after the reply to GO")
        before = first.connections()
        handed = first.hand_over(5)
        first.close()
        assert os.path.exists(path) and all(export.closed for export in shelf.opened)
        opened = len(shelf.opened)
        wire.send(whole[5000:])
        late = dial(path)                   # waits in the listener's backlog
        if process == "another":
            gone, handed = handed, _through_a_link(handed)
            gone.close()
        second = _next(shelf, handed)
        try:
            assert not wire.reply().error
            assert wire.ask(request(READ, 0, 16384), 16384).data == b"1" * 4096 + bytes(4096) + b"2" * 8192
            assert still.ask(request(READ, 0, 8), 8).data == b"1" * 8
            assert [second.uri("disk", i) for i in range(2)] == uris
            with late:
                assert Talk(late).go("disk").ask(request(READ, 0, 1), 1).data == b"1"
                now = second.connections()
            assert [(c.id, c.who, c.since_s) for c in now[:2]] == [(c.id, c.who, c.since_s) for c in before]
            assert now[0].counters["requests"] == 3 and now[2].id == 3
            assert len(shelf.opened) == opened + 3
        finally:
            second.close()
    assert all(export.closed for export in shelf.opened)
    assert not os.path.exists(path)


def test_a_tls_connection_stays_with_the_process_that_has_its_keys(shelf, path, pki):
    from test_nbd_tls import _secure, _settings

    tls = _settings(pki, TlsMode.REQUIRE)
    first = NbdServer(shelf, [UnixAddress(path)], tls=tls)
    first.start()
    data = random.Random(3).randbytes(MIB)
    with dial(path) as sock:
        wire = _secure(Talk(sock), pki).go("disk")
        wire.send(write(0, data))
        assert not wire.reply().error
        gone = first.hand_over(5)
        first.close()
        (thread,) = gone.relays()
        second = _next(shelf, _through_a_link(gone), tls=tls)
        gone.close()
        assert wire.ask(request(READ, 0, MIB), MIB).data == data
        (info,) = second.connections()
        assert info.tls and thread.is_alive()
        third = second.hand_over(5)
        second.close()
        last = _next(shelf, third, tls=tls)
        assert wire.ask(request(READ, 8, 8), 8).data == data[8:16]
        last.close()
        assert wire.ended()
    thread.join(10)
    assert not thread.is_alive() and not third.relays()


@pytest.mark.parametrize("force", [False, True])
def test_a_client_that_takes_no_replies(force, path):
    disk = Spy(16 * MIB)
    shelf = Shelf(disk=lambda: FakeExport(disk))
    with NbdServer(shelf, [UnixAddress(path)]) as first, dial(path) as sock, dial(path) as other:
        good, stuck = Talk(sock).go("disk"), Talk(other).go("disk", structured=False)
        disk.data[0] = 1
        stuck.send(*(request(READ, 0, 4 * MIB, cookie=i) for i in range(4)))
        until(lambda: disk.names().count("pread") > 0, "reads")
        time.sleep(0.1)
        if not force:
            with pytest.raises(Busy, match="at disk does not take its replies"):
                first.hand_over(0.3)
            assert not good.ask(write(9, b"9")).error     # all go on
            assert all(stuck.reply(4 * MIB).data[9] in (0, ord("9")) for _ in range(4))
            assert good.ask(request(READ, 9, 1), 1).data == b"9"
            with dial(path) as late:
                assert Talk(late).ask(LIST)[-1][0] == ACK
            handed = first.hand_over(5)
            assert len(handed.connections) == 2
        else:
            handed = first.hand_over(0.3, force=True)
            assert [c.number for c in handed.connections] == [1]
        with closing(_next(shelf, handed)):
            assert good.ask(request(READ, 0, 1), 1).data == b"\1"
        assert good.ended()


def test_who_says_nothing_in_the_handshake_is_hung_up_on(shelf, path):
    with NbdServer(shelf, [UnixAddress(path)]) as first, dial(path) as silent:
        talk = Talk(silent)
        with dial(path) as sock:
            wire = Talk(sock).go("disk")
            with closing(_next(shelf, first.hand_over(5))):
                assert not wire.ask(write(0, b"x")).error
                assert talk.ended()


def test_what_cannot_go_on(shelf, path):
    """It is refused before anything of it runs; the server that goes on itself ends only that connection."""
    with NbdServer(shelf, [UnixAddress(path)]) as first, dial(path) as sock, dial(path) as other:
        wire, lost = Talk(sock).go("disk"), Talk(other).go("frozen")
        handed = first.hand_over(5)
        disk = shelf.exports["disk"]
        for broken, kind in (({"disk": lambda: FakeExport(Spy(MIB), read_only=True)}, Busy), ({}, NotFound)):
            other_shelf = Shelf(**broken)
            new = NbdServer(other_shelf, None)
            with pytest.raises(kind):
                new.adopt(handed)
            new.close()
            assert all(export.closed for export in other_shelf.opened) and os.path.exists(path)
        second = NbdServer(Shelf(disk=disk), None)
        second.adopt(handed, lenient=True)
        with second:
            assert not wire.ask(write(0, b"x")).error
            assert lost.ended()
        assert lost.ended() and wire.ended()
