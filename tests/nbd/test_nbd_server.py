"""The NBD server around the connections: listeners, URIs, bounds, stopping."""

from __future__ import annotations

import contextlib
import inspect
import os
import socket
import stat
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from support.nbd import (
    ACK,
    DEADLINE_S,
    ERR_POLICY,
    EXPORT_NAME,
    GO,
    INFO,
    LIST,
    MIB,
    READ,
    FakeExport,
    Shelf,
    Spy,
    Talk,
    name_and_infos,
    option,
    request,
    until,
    write,
)
from support.nbd_fixtures import dial

from cdp.nbd import NbdServer, TcpAddress, UnixAddress, export_uri
from cdp.nbd.handshake import MAX_OPTION_BYTES, MAX_OPTIONS, MAX_SKIP_BYTES, MAX_STRING_BYTES
from cdp.nbd.tls import CHUNK_BYTES
from cdp.settings import Settings
from cdpcore.base.errors import Busy, Closed, InvalidRequest, NotFound, Unavailable
from cdpcore.bench.ram_disk import RamDisk
from cdpcore.nbd import connection as core

pytestmark = pytest.mark.plain


def test_unix_socket_file(shelf, path):
    with NbdServer(shelf, [UnixAddress(path)]):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert not os.path.exists(path)
    with NbdServer(shelf, [UnixAddress(path, mode=0o660)]):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


def test_stale_socket_is_replaced(shelf, path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with NbdServer(shelf, [UnixAddress(path)]), dial(path) as sock:
        assert Talk(sock).ask(LIST)[-1][0] == ACK


def test_a_socket_that_answers_is_left_alone(shelf, path, server):
    with pytest.raises(Busy, match="in use"):
        NbdServer(shelf, [UnixAddress(path)]).start()
    with dial(path) as sock:
        assert Talk(sock).ask(LIST)[-1][0] == ACK


def test_a_file_that_is_no_socket_is_left_alone(shelf, path):
    Path(path).write_text("precious")
    with pytest.raises(InvalidRequest, match=f"^{path}: exists and is not a socket"):
        NbdServer(shelf, [UnixAddress(path)]).start()
    assert Path(path).read_text() == "precious"


def test_a_socket_file_of_somebody_else_is_not_removed_at_close(shelf, path):
    with NbdServer(shelf, [UnixAddress(path)]):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
    assert os.path.exists(path)


def test_bad_unix_paths(shelf, tmp_path):
    with pytest.raises(InvalidRequest, match="107"):
        NbdServer(shelf, [UnixAddress(str(tmp_path / ("x" * 120)))]).start()
    with pytest.raises(Unavailable):
        NbdServer(shelf, [UnixAddress(str(tmp_path / "no" / "dir"))]).start()


def test_a_socket_that_is_not_listened_on_yet_is_not_stale(shelf, path, monkeypatch):
    """Two servers starting at once: the second waits until the first listens, and then finds it in use."""
    bound, go_on, real = threading.Event(), threading.Event(), os.chmod

    def chmod(*args):  # called between bind and listen
        bound.set()
        assert go_on.wait(DEADLINE_S)
        real(*args)

    monkeypatch.setattr(os, "chmod", chmod)
    first, second, errors = NbdServer(shelf, [UnixAddress(path)]), NbdServer(shelf, [UnixAddress(path)]), []

    def start_second():
        try:
            second.start()
        except Busy as error:
            errors.append(error)

    threads = [threading.Thread(target=first.start), threading.Thread(target=start_second)]
    threads[0].start()
    assert bound.wait(DEADLINE_S)
    threads[1].start()
    threads[1].join(0.2)
    go_on.set()
    for thread in threads:
        thread.join()
    with dial(path) as sock:
        assert Talk(sock).ask(LIST)[-1][0] == ACK
    assert len(errors) == 1
    first.close()
    second.close()


def test_several_listeners(shelf, path):
    with NbdServer(shelf, [UnixAddress(path), TcpAddress("127.0.0.1", 0), UnixAddress(path + "2")]) as server:
        tcp = server.addresses[1]
        assert tcp.port > 0
        for sock in (dial(path), dial(path + "2"), socket.create_connection((tcp.host, tcp.port))):
            with sock:
                assert Talk(sock).go("disk").ask(request(READ, 0, 5), 5).data == bytes(5)
        uris = [server.uri("disk", i) for i in range(3)]
        assert uris == [
            f"nbd+unix:///disk?socket={path}",
            f"nbd://127.0.0.1:{tcp.port}/disk",
            f"nbd+unix:///disk?socket={path}2",
        ]
        with pytest.raises(NotFound):
            server.uri("disk", 3)


def test_a_name_with_several_ip_addresses(shelf, monkeypatch):
    """All of them at one port; one that this machine does not have is left out, unless it is the only one."""

    def answer(*where):
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in where],
        )

    answer("192.0.2.1", "127.0.0.1", "127.0.0.2", "127.0.0.1")
    with NbdServer(shelf, [TcpAddress("name", 0)]) as server:
        (address,) = server.addresses
        assert server.uri("disk") == f"nbd://name:{address.port}/disk"
        for host in ("127.0.0.1", "127.0.0.2"):
            with socket.socket() as sock:
                sock.connect((host, address.port))
                assert Talk(sock).ask(LIST)[-1][0] == ACK
    answer("192.0.2.1")
    with pytest.raises(Unavailable):
        NbdServer(shelf, [TcpAddress("name", 0)]).start()


def test_tcp_connections_do_not_delay(shelf):
    server = NbdServer(shelf, [TcpAddress("127.0.0.1", 0)])
    with server, socket.create_connection(("127.0.0.1", server.addresses[0].port)) as sock:
        wire = Talk(sock).go("disk")
        assert wire.ask(write(0, b"x")).error == 0
        (client,) = server._clients.values()
        assert client.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_tcp_port_in_use_leaves_nothing_behind(shelf, path):
    with NbdServer(shelf, [TcpAddress("127.0.0.1", 0)]) as server, pytest.raises(Busy):
        NbdServer(shelf, [UnixAddress(path), TcpAddress("127.0.0.1", server.addresses[0].port)]).start()
    assert not os.path.exists(path)


def test_bad_arguments(shelf, path):
    for bad in ({"max_connections": 0}, {"max_handshakes": 0}, {"handshake_timeout_s": 0}):
        with pytest.raises(InvalidRequest):
            NbdServer(shelf, [UnixAddress(path)], **bad)
    with pytest.raises(InvalidRequest):
        NbdServer(shelf, [])
    with pytest.raises(InvalidRequest, match="65536"):
        NbdServer(shelf, [TcpAddress("127.0.0.1", 65536)]).start()
    with pytest.raises(Unavailable):
        NbdServer(shelf, [TcpAddress("192.0.2.1", 0)]).start()


NAMES = [
    "",
    "web",
    "web@-10m",
    "web@2024-05-01T10:00:00Z",
    "web@#42",
    "a b",
    "50%",
    "what?",
    "a/b",
    "/abs",
    "ü&=+",
    "x#y;z\"'",
]


@pytest.mark.parametrize("name", NAMES)
def test_uris(name):
    unix = urlsplit(export_uri(UnixAddress("/run/a b/s?#%.sock"), name))
    assert (unix.scheme, unix.netloc, unquote(unix.path)) == ("nbd+unix", "", f"/{name}")
    assert parse_qs(unix.query) == {"socket": ["/run/a b/s?#%.sock"]} and not unix.fragment
    tcp = urlsplit(export_uri(TcpAddress("host.example", 10810), name, tls=True))
    assert (tcp.scheme, tcp.hostname, tcp.port, unquote(tcp.path)) == ("nbds", "host.example", 10810, f"/{name}")
    assert not tcp.query and not tcp.fragment and not set(tcp.geturl()) & set(" \"'<>`")


def test_uri_forms():
    assert export_uri(TcpAddress("h", 10809), "web") == "nbd://h/web"
    assert export_uri(TcpAddress("::1", 5), "web@-10m") == "nbd://[::1]:5/web@-10m"
    assert export_uri(TcpAddress("", 5), "a b#c") == "nbd://localhost:5/a%20b%23c"
    assert export_uri(TcpAddress("0.0.0.0", 5), "") == "nbd://127.0.0.1:5/"
    assert export_uri(UnixAddress("/s"), "web@#4", tls=True) == "nbds+unix:///web@%234?socket=/s"


# Bounds


def test_the_documented_bounds_are_the_real_ones():
    text = (Path(__file__).parent.parent.parent / "docs/nbd.md").read_text()
    default = {name: p.default for name, p in inspect.signature(NbdServer.__init__).parameters.items()}
    for claim in (
        f"`max_connections`: {Settings().max_connections} by default as a setting, {default['max_connections']} of an",
        f"`max_handshakes`, {default['max_handshakes']} |",
        f"`handshake_timeout_s`, {default['handshake_timeout_s']:g} s |",
        f"options in a handshake | {MAX_OPTIONS} |",
        f"one option's data | {MAX_OPTION_BYTES >> 10} KiB | up to {MAX_SKIP_BYTES >> 20} MiB skipped",
        f"strings | {MAX_STRING_BYTES} bytes",
        f"one request's payload | {core.MAX_PAYLOAD_BYTES >> 20} MiB",
        f"payload is longer than {core.MAX_DRAIN_BYTES >> 20} MiB",
        f"at most {CHUNK_BYTES >> 10} KiB in each direction",
        f"minimum {core.MIN_BLOCK_BYTES}, preferred {core.PREFERRED_BLOCK_BYTES}, maximum payload 32 MiB",
    ):
        assert claim in text, claim


def test_max_connections(shelf, path):
    server = NbdServer(shelf, [UnixAddress(path)], max_connections=2)
    with server, dial(path) as a, dial(path) as b, dial(path) as c, dial(path) as d:
        first = Talk(a).go("disk")
        Talk(b).go("disk")
        talk = Talk(c)
        kind, text = talk.refusal(GO, name_and_infos("disk"))
        assert kind == ERR_POLICY and "2 connections" in text
        assert talk.ask(LIST)[-1][0] == ACK  # asking is still possible
        assert talk.ask(INFO, name_and_infos("disk"))[-1][0] == ACK
        refused = Talk(d)
        d.sendall(option(EXPORT_NAME, b"disk"))
        assert refused.ended()
        first.sock.close()
        until(lambda: len(server.connections()) == 1, "the first connection's end")
        until(lambda: talk.ask(GO, name_and_infos("disk"))[-1][0] == ACK, "a place")


def test_handshakes_time_out(shelf, path):
    with NbdServer(shelf, [UnixAddress(path)], handshake_timeout_s=1.5), dial(path) as silent, dial(path) as served:
        wire = Talk(served).go("disk")
        assert Talk(silent).ended()
        assert wire.ask(request(READ, 0, 1), 1).error == 0  # the transmission phase has no time limit


def test_a_client_that_drips_is_cut_off_too(shelf, path):
    """The deadline is for the handshake, not for each byte."""
    with NbdServer(shelf, [UnixAddress(path)], handshake_timeout_s=0.3), dial(path) as sock:
        talk = Talk(sock)
        deadline = time.monotonic() + DEADLINE_S
        with pytest.raises(OSError):
            for _ in range(16 + 65536):
                assert time.monotonic() < deadline
                sock.sendall(b"I" if _ else option(99, b"", 65536))
                time.sleep(0.02)
        with contextlib.suppress(OSError):
            assert talk.ended()


def test_max_handshakes(shelf, path):
    """Silent clients fill the slots; the next one waits in the backlog until one is free."""
    bounds = {"max_handshakes": 2, "handshake_timeout_s": 600}
    with NbdServer(shelf, [UnixAddress(path)], **bounds) as server, dial(path) as a, dial(path) as b, dial(path) as c:
        Talk(a)
        Talk(b)
        c.settimeout(0.2)
        with pytest.raises(TimeoutError):
            c.recv(1)
        assert len(server._clients) == 2
        a.close()
        assert Talk(c).go("disk").ask(request(READ, 0, 1), 1).error == 0


def test_silent_clients_give_way(shelf, path):
    """Whoever connects and says nothing keeps nobody out: a hundred of them, and a client behind them is served within
    seconds."""
    with NbdServer(shelf, [UnixAddress(path)], handshake_timeout_s=600), contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(dial(path))
        began = time.monotonic()
        with dial(path) as sock:
            assert Talk(sock).go("disk").ask(request(READ, 0, 1), 1).error == 0
        assert time.monotonic() - began < DEADLINE_S


def test_a_silent_client_has_seconds(shelf, path):
    """Also where nobody waits; whoever has said something has the time of a handshake."""
    with NbdServer(shelf, [UnixAddress(path)], handshake_timeout_s=600), dial(path) as silent, dial(path) as slow:
        talk = Talk(slow)
        began = time.monotonic()
        silent.settimeout(DEADLINE_S)       # far below the time of a handshake
        while silent.recv(64):
            pass
        assert time.monotonic() - began > 2
        assert talk.go("disk").ask(request(READ, 0, 1), 1).error == 0


def test_hundreds_of_short_connections(shelf, path, server):
    for i in range(300):
        with dial(path) as sock:
            if i % 3:
                talk = Talk(sock)
                if i % 3 == 2:
                    talk.go("disk").ask(write(0, b"x"))
    until(lambda: not server._clients, "the end of all connections")
    assert server._serving == 0
    assert all(export.closed == 1 for export in shelf.opened)
    assert len(shelf.opened) == 100


# Stopping


def test_close_ends_everything(shelf, path):
    server = NbdServer(shelf, [UnixAddress(path)])
    server.start()
    with dial(path) as serving, dial(path) as talking, dial(path) as silent:
        wire = Talk(serving).go("disk")
        wire.ask(write(0, b"x"))
        Talk(talking).ask(INFO, name_and_infos("disk"))
        Talk(silent)
        server.close()
        assert wire.ended() and Talk(talking, None).ended() and Talk(silent, None).ended()
    assert all(export.closed == 1 for export in shelf.opened)
    assert not server._clients and not os.path.exists(path)
    server.close()
    with pytest.raises(Closed):
        server.start()
    with pytest.raises(OSError):
        dial(path)


def test_close_without_start(shelf, path):
    NbdServer(shelf, [UnixAddress(path)]).close()


def test_close_waits_for_the_request_under_way(path):
    spy = Spy()
    event = threading.Event()
    spy.hook = lambda name, offset, length: event.wait(20) and None
    server = NbdServer(Shelf(spy=lambda: FakeExport(spy)), [UnixAddress(path)])
    server.start()
    with dial(path) as sock:
        wire = Talk(sock).go("spy")
        wire.send(write(0, b"last words"))
        until(lambda: any(c.counters["requests"] for c in server.connections()), "the request")
        closing = threading.Thread(target=server.close)
        closing.start()
        event.set()
        assert wire.reply().error == 0
        closing.join()
        assert wire.ended() and spy.data[:10] == b"last words"


def test_close_does_not_wait_for_a_client_that_does_not_read(path):
    disk = RamDisk(64 * MIB)
    server = NbdServer(Shelf(disk=lambda: FakeExport(disk)), [UnixAddress(path)])
    server.start()
    with dial(path) as sock:
        wire = Talk(sock).go("disk", structured=False)
        wire.send(*(request(READ, 0, 32 * MIB) for _ in range(4)))
        until(lambda: any(c.counters["reads"] for c in server.connections()), "the read")
        server.close(grace_s=0.1)
        assert not server._clients


def test_connections_are_reported(server, path):
    with dial(path) as sock:
        wire = Talk(sock).go("disk")
        wire.ask(write(0, b"12345"))
        (info,) = server.connections()
        assert (info.export, info.peer, info.tls) == ("disk", f"unix:{path}", False)
        assert info.counters["written_bytes"] == 5 and info.counters["requests"] == 1
    until(lambda: not server.connections(), "the end of the connection")
