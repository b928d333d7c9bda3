"""The handshake of NBD, and the server around it: options and their rejections, TLS, listeners, bounds, stopping."""
from __future__ import annotations

import contextlib
import inspect
import logging
import os
import random
import shutil
import socket
import ssl
import stat
import struct
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from cdpcore.errors import Busy, Closed, InvalidRequest, NotFound, RefusedPoint, Unavailable
from nbd_support import (
    ABORT,
    ACK,
    BLOCK_STATUS,
    DEADLINE_S,
    EINVAL,
    ERR_INVALID,
    ERR_POLICY,
    ERR_SHUTDOWN,
    ERR_TLS_REQD,
    ERR_TOO_BIG,
    ERR_UNKNOWN,
    ERR_UNSUP,
    EXPORT_NAME,
    EXTENDED,
    GO,
    GREETING,
    INFO,
    LIST,
    LIST_META,
    MIB,
    PEEK,
    READ,
    REP_INFO,
    REP_META,
    REP_SERVER,
    SET_META,
    STARTTLS,
    STRUCTURED,
    FakeExport,
    Shelf,
    Spy,
    Talk,
    Wire,
    meta,
    name_and_infos,
    option,
    request,
    until,
    write,
)

from cdp.nbd import NbdServer, TcpAddress, TlsMode, TlsSettings, UnixAddress, export_uri
from cdp.nbd.handshake import MAX_OPTION_BYTES, MAX_OPTIONS, MAX_SKIP_BYTES, MAX_STRING_BYTES, Handshake, HandshakeError
from cdp.nbd.tls import CHUNK_BYTES
from cdpcore import nbd as core
from cdpcore.ramdisk import RamDisk

READ_ONLY_FLAGS = 1 | 2 | 4 | 8 | 1 << 8 | 1 << 10
WRITABLE_FLAGS = 1 | 4 | 8 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11
SEND_DF, MULTI_CONN = 1 << 7, 1 << 8


@pytest.fixture
def shelf():
    disk, frozen = RamDisk(MIB), RamDisk(4096, read_only=True)
    return Shelf(disk=lambda: FakeExport(disk), frozen=lambda: FakeExport(frozen, description="f" * 5000),
                 relative=lambda: FakeExport(disk, read_only=True, name="disk@#7", multi_conn=False))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s")


@pytest.fixture
def server(shelf, path):
    with NbdServer(shelf, [UnixAddress(path)]) as server:
        yield server


def dial(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


@pytest.fixture
def talk(server, path):
    with dial(path) as sock:
        yield Talk(sock)


def test_greeting(server, path):
    with dial(path) as sock:
        assert Talk(sock, None).recv_exact(18) == GREETING


@pytest.mark.parametrize("flags", [4, 7, 1 << 31, 0xFFFFFFFF])
def test_unknown_client_flags_end_it(server, path, flags):
    with dial(path) as sock:
        assert Talk(sock, flags).ended()


def test_bad_option_magic_ends_it(talk):
    talk.sock.sendall(b"IHAVEOPS" + bytes(8))
    assert talk.ended()


def test_list(talk):
    replies = talk.ask(LIST)
    assert replies[0] == (REP_SERVER, b"\0\0\0\4diskabout disk")
    assert [kind for kind, _ in replies] == [REP_SERVER] * 3 + [ACK]
    assert talk.refusal(LIST, b"x") == (ERR_INVALID, "this option takes no data")


@pytest.mark.parametrize("number", [0, PEEK, EXTENDED, 12, 2**31, 2**32 - 1])
def test_unknown_options_are_refused_and_skipped(talk, number):
    for data in (b"", b"x" * 65536):
        kind, text = talk.refusal(number, data)
        assert kind == ERR_UNSUP and str(number) in text
    assert talk.ask(STRUCTURED) == [(ACK, b"")]


@pytest.mark.parametrize("length", [65537, 1 << 20])
def test_overlong_options_are_skipped(talk, length):
    for number in (GO, LIST, 77):
        assert talk.refusal(number, bytes(length))[0] == ERR_TOO_BIG
    assert talk.ask(LIST)[-1][0] == ACK


@pytest.mark.parametrize("length", [(1 << 20) + 1, 2**31, 2**32 - 1])
def test_options_too_long_to_skip_end_it(talk, length):
    talk.sock.sendall(option(GO, b"", length))
    assert talk.ended()


def test_too_many_options_end_it(talk):
    for _ in range(MAX_OPTIONS):
        talk.ask(STRUCTURED)
    assert talk.ended()


@pytest.mark.parametrize("number", [INFO, GO])
def test_all_information(talk, number, shelf):
    talk.ask(STRUCTURED)
    replies = talk.ask(number, name_and_infos("disk", 0, 1, 2, 3, 99, 3))
    assert replies == [
        (REP_INFO, struct.pack(">HQH", 0, MIB, WRITABLE_FLAGS | SEND_DF)),
        (REP_INFO, b"\0\1disk"),
        (REP_INFO, b"\0\2for tests"),
        (REP_INFO, struct.pack(">HIII", 3, 1, 4096, 32 << 20)),
        (ACK, b""),
    ]
    assert shelf.asked == ["disk"]


def test_only_what_was_asked_for(talk):
    assert talk.ask(INFO, name_and_infos("disk")) == [(REP_INFO, struct.pack(">HQH", 0, MIB, WRITABLE_FLAGS)), (ACK, b"")]


def test_flags_of_a_read_only_export(talk):
    replies = talk.ask(INFO, name_and_infos("frozen", 2))
    assert replies[0][1] == struct.pack(">HQH", 0, 4096, READ_ONLY_FLAGS)
    assert replies[1][1] == b"\0\2" + b"f" * 4096  # strings end at the protocol's bound


def test_a_relative_name_is_told_its_canonical_one(talk):
    replies = talk.ask(INFO, name_and_infos("relative", 1))
    assert replies[0][1][-2:] == (READ_ONLY_FLAGS & ~MULTI_CONN).to_bytes(2)
    assert replies[1][1] == b"\0\1disk@#7"


BAD_NAMES = {
    "empty data": b"",
    "no count": struct.pack(">I", 4) + b"disk",
    "name longer than the data": struct.pack(">I", 2**32 - 1) + b"disk\0\0",
    "fewer infos than said": name_and_infos("disk")[:-1] + b"\1",
    "more infos than said": name_and_infos("disk") + b"\0\1",
    "not UTF-8": name_and_infos(b"\xff\xfe"),
    "NUL": name_and_infos(b"di\0sk"),
    "4097 bytes": name_and_infos("x" * 4097),
}


@pytest.mark.parametrize("number", [INFO, GO])
@pytest.mark.parametrize("what", BAD_NAMES)
def test_malformed_info(talk, shelf, number, what):
    assert talk.refusal(number, BAD_NAMES[what])[0] == ERR_INVALID
    assert shelf.asked == []
    assert talk.ask(INFO, name_and_infos("disk"))[-1][0] == ACK


def test_unknown_export(talk, shelf):
    for number in (INFO, GO):
        assert talk.refusal(number, name_and_infos("nope")) == (ERR_UNKNOWN, "no export 'nope'; list them")
    name = "ü" * 2048  # 4096 bytes, and quoted in the message more than that
    kind, text = talk.refusal(INFO, name_and_infos(name))
    assert kind == ERR_UNKNOWN and len(text.encode()) <= 4096


def test_a_refused_point_says_why(talk, shelf):
    def refuse():
        raise RefusedPoint("disk@-9h is before the horizon", "the oldest point is -1h")
    shelf.exports["disk@-9h"] = refuse
    assert talk.refusal(GO, name_and_infos("disk@-9h")) == (
        ERR_UNKNOWN, "disk@-9h is before the horizon; the oldest point is -1h")
    assert talk.go("disk").ask(request(READ, 0, 4), 4).data == bytes(4)


def test_a_broken_resolver_is_logged_and_not_shown(talk, shelf, caplog):
    def crash():
        raise KeyError("secret")
    shelf.exports["crash"] = crash
    with caplog.at_level(logging.ERROR, "cdp.nbd"):
        assert talk.refusal(GO, name_and_infos("crash")) == (ERR_UNKNOWN, "internal error: KeyError")
    assert "secret" in caplog.text


@pytest.mark.parametrize("break_it", [lambda export: setattr(export, "capsule", 1), lambda export: setattr(export, "size_bytes", 9)])
def test_an_unusable_export_is_refused_and_closed(talk, shelf, break_it):
    def broken():
        export = FakeExport(RamDisk(4096))
        break_it(export)
        return export
    shelf.exports["broken"] = broken
    assert talk.refusal(GO, name_and_infos("broken"))[0] == ERR_UNKNOWN
    assert shelf.opened[-1].closed == 1


def test_one_opening_for_a_usual_handshake(talk, shelf):
    """Context, information and transmission of the same name see the same moment."""
    talk.ask(STRUCTURED)
    talk.ask(SET_META, meta("relative", "base:allocation"))
    talk.ask(INFO, name_and_infos("relative"))
    assert talk.ask(GO, name_and_infos("relative"))[-1][0] == ACK
    assert shelf.asked == ["relative"]
    Wire(talk.sock, True).ask(request(READ, 0, 1), 1)
    talk.sock.close()
    until(lambda: shelf.opened[0].closed == 1, "closing the export")


def test_exports_are_closed_however_the_handshake_ends(server, path, shelf):
    with dial(path) as sock:
        talk = Talk(sock)
        talk.ask(INFO, name_and_infos("disk"))
        talk.ask(INFO, name_and_infos("frozen"))
        assert [e.closed for e in shelf.opened] == [1, 0]
        talk.ask(LIST)
        assert [e.closed for e in shelf.opened] == [1, 1]
        talk.ask(INFO, name_and_infos("disk"))
    until(lambda: [e.closed for e in shelf.opened] == [1, 1, 1], "closing after the client hung up")


def test_an_export_that_fails_to_close_is_logged(talk, shelf, caplog):
    class Stubborn(FakeExport):
        def close(self):
            super().close()
            raise RuntimeError("stuck")
    shelf.exports["stubborn"] = lambda: Stubborn(RamDisk(4096))
    with caplog.at_level(logging.ERROR, "cdp.nbd"):
        talk.ask(INFO, name_and_infos("stubborn"))
        assert talk.ask(LIST)[-1][0] == ACK
    assert "stuck" in caplog.text


def test_default_export(path):
    disk = RamDisk(4096)
    only = Shelf(disk=lambda: FakeExport(disk))
    with NbdServer(only, [UnixAddress(path)]), dial(path) as sock:
        talk = Talk(sock)
        assert talk.ask(INFO, name_and_infos("", 1))[1] == (REP_INFO, b"\0\1disk")
        assert talk.go("").ask(request(READ, 0, 1), 1).error == 0


def test_no_default_among_many(talk, shelf):
    assert talk.refusal(GO, name_and_infos(""))[0] == ERR_UNKNOWN
    disk = RamDisk(4096)
    shelf.exports[""] = lambda: FakeExport(disk)  # but a resolver may know one
    assert talk.ask(INFO, name_and_infos(""))[-1][0] == ACK


@pytest.mark.parametrize(("flags", "zeroes"), [(3, 0), (1, 124), (0, 124), (2, 0)])
def test_export_name(server, path, flags, zeroes):
    """Also for clients that do not know fixed newstyle."""
    with dial(path) as sock:
        talk = Talk(sock, flags)
        sock.sendall(option(EXPORT_NAME, b"disk"))
        assert talk.recv_exact(10 + zeroes) == struct.pack(">QH", MIB, WRITABLE_FLAGS) + bytes(zeroes)
        assert Wire(sock, False).ask(request(READ, 0, 4), 4).data == bytes(4)


def test_export_name_after_structured_replies(talk):
    talk.ask(STRUCTURED)
    talk.sock.sendall(option(EXPORT_NAME, b"frozen"))
    assert talk.recv_exact(10) == struct.pack(">QH", 4096, READ_ONLY_FLAGS | SEND_DF)
    assert Wire(talk.sock, True).ask(request(READ, 0, 4), 4).chunks


@pytest.mark.parametrize("name", [b"nope", b"\xff", b"a\0b", b""])
def test_export_name_that_is_not_there_ends_it(talk, name):
    talk.sock.sendall(option(EXPORT_NAME, name))
    assert talk.ended()


@pytest.mark.parametrize("length", [4097, 2**32 - 1])
def test_overlong_export_name_ends_it(talk, length):
    talk.sock.sendall(option(EXPORT_NAME, b"", length))
    assert talk.ended()


@pytest.mark.parametrize("data", [b"", b"ignored"])
def test_abort(talk, data):
    assert talk.ask(ABORT, data) == [(ACK, b"")]
    assert talk.ended()


def test_structured_reply_takes_no_data(talk):
    assert talk.refusal(STRUCTURED, b"x")[0] == ERR_INVALID
    assert talk.ask(INFO, name_and_infos("disk"))[0][1][-2:] == WRITABLE_FLAGS.to_bytes(2)  # so it was not agreed


def test_meta_contexts_need_structured_replies(talk):
    for number in (LIST_META, SET_META):
        assert talk.refusal(number, meta("disk", "base:allocation"))[0] == ERR_INVALID


FOUND, CHOSEN = [(REP_META, b"\0\0\0\0base:allocation")], [(REP_META, b"\0\0\0\1base:allocation")]
QUERIES = [
    ([], FOUND, []),
    (["base:"], FOUND, []),
    (["base:allocation"], FOUND, CHOSEN),
    (["x-mine:thing", "base:allocation", "base:allocation", "base:"], FOUND, CHOSEN),
    (["x-mine:thing"], [], []),
    (["base:other"], [], []),
    (["qemu:dirty-bitmap:x"], [], []),
]


@pytest.mark.parametrize(("queries", "listed", "selected"), QUERIES)
def test_meta_context_queries(talk, queries, listed, selected):
    talk.ask(STRUCTURED)
    assert talk.ask(LIST_META, meta("disk", *queries)) == listed + [(ACK, b"")]
    assert talk.ask(SET_META, meta("disk", *queries)) == selected + [(ACK, b"")]


BAD_META = {
    "empty": b"",
    "no queries": struct.pack(">I", 4) + b"disk",
    "name too long": struct.pack(">I", 2**32 - 1) + b"disk",
    "query too long": meta("disk", "base:allocation")[:-1],
    "trailing bytes": meta("disk", "base:allocation") + b"x",
    "more queries than there are": meta("disk")[:-4] + struct.pack(">I", 2**32 - 1),
    "no colon": meta("disk", "allocation"),
    "an overlong query": meta("disk", "base:" + "x" * 4092),
}


@pytest.mark.parametrize("number", [LIST_META, SET_META])
@pytest.mark.parametrize("what", BAD_META)
def test_malformed_meta_context(talk, number, what):
    talk.ask(STRUCTURED)
    assert talk.refusal(number, BAD_META[what])[0] == ERR_INVALID
    assert talk.ask(number, meta("disk", "base:allocation"))[-1][0] == ACK


@pytest.mark.parametrize("number", [LIST_META, SET_META])
def test_meta_context_of_an_unknown_export(talk, number):
    talk.ask(STRUCTURED)
    assert talk.refusal(number, meta("nope", "base:allocation"))[0] == ERR_UNKNOWN


@pytest.mark.parametrize(("steps", "works"), [
    ([("disk", "base:allocation")], True),
    ([], False),
    ([("disk", "base:allocation"), ("disk",)], False),  # none selected by the last one
    ([("disk", "base:allocation"), ("frozen", "base:allocation")], False),  # the last one named another export
    ([("disk", "base:allocation"), ("disk", "nocolon")], False),  # a failed one forgets too
    ([("frozen", "base:allocation"), ("disk", "base:allocation")], True),
])
def test_block_status_after_negotiation(talk, steps, works):
    talk.ask(STRUCTURED)
    for step in steps:
        talk.ask(SET_META, meta(*step))
    wire = talk.go("disk", structured=False)
    wire.structured = True
    reply = wire.ask(request(BLOCK_STATUS, 0, 4096))
    assert (reply.error, reply.context_id) == ((0, 1) if works else (EINVAL, None))


# Sans server: the handshake over memory.


class Tape:
    """A stream whose input was recorded."""

    def __init__(self, data: bytes):
        self.data = data
        self.out = bytearray()

    def recv_exact(self, n: int) -> bytes:
        if n > len(self.data):
            raise HandshakeError("the client hung up")
        part, self.data = self.data[:n], self.data[n:]
        return part

    def sendall(self, data: bytes) -> None:
        self.out += data

    def start_tls(self) -> None:
        raise HandshakeError("no TLS on tape")


def test_options_during_shutdown(shelf):
    tape = Tape(bytes(3) + b"\3" + option(LIST) + option(GO, name_and_infos("disk")) + option(ABORT))
    assert Handshake(tape, shelf, stopping=lambda: True).run() is None
    kinds = [struct.unpack(">I", tape.out[at + 12 : at + 16])[0] for at in _reply_starts(tape.out)]
    assert kinds == [ERR_SHUTDOWN, ERR_SHUTDOWN, ACK] and shelf.asked == []
    with pytest.raises(HandshakeError, match="shutting down"):
        Handshake(Tape(bytes(3) + b"\3" + option(EXPORT_NAME, b"disk")), shelf, stopping=lambda: True).run()


def _reply_starts(out):
    at = 18
    while at < len(out):
        yield at
        at += 20 + struct.unpack(">I", out[at + 16 : at + 20])[0]


@pytest.mark.parametrize("seed", range(200))
def test_random_handshakes(seed):
    """Whatever comes: an outcome, or HandshakeError; every export that was opened is handed out or closed."""
    rng = random.Random(seed)
    disk = RamDisk(4096)
    shelf = Shelf(disk=lambda: FakeExport(disk), other=lambda: FakeExport(disk))
    data = bytearray(struct.pack(">I", rng.choice([3, 3, 3, 1, 0])))
    for _ in range(rng.randrange(1, 12)):
        name = rng.choice(["disk", "other", "", "nope"])
        body = rng.choice([b"", name_and_infos(name, 0, 3), meta(name, "base:allocation"), name.encode(), rng.randbytes(30)])
        data += option(rng.choice([1, 2, 3, 4, 5, 6, 6, 6, 7, 8, 8, 9, 10, 10, 11, 99]), body)
    for _ in range(rng.choice([0, 0, 1, 3])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    agreed = None
    with contextlib.suppress(HandshakeError):
        agreed = Handshake(Tape(bytes(data)), shelf, tls=rng.choice(list(TlsMode))).run()
    open_still = [export for export in shelf.opened if not export.closed]
    assert open_still == ([agreed.export] if agreed else [])
    assert all(export.closed <= 1 for export in shelf.opened)


# Listeners


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
    with pytest.raises(Busy):
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
        assert uris == [f"nbd+unix:///disk?socket={path}", f"nbd://127.0.0.1:{tcp.port}/disk", f"nbd+unix:///disk?socket={path}2"]
        with pytest.raises(NotFound):
            server.uri("disk", 3)


def test_a_name_with_several_ip_addresses(shelf, monkeypatch):
    """All of them at one port; one that this machine does not have is left out, unless it is the only one."""
    def answer(*where):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in where])

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


NAMES = ["", "web", "web@-10m", "web@2024-05-01T10:00:00Z", "web@#42", "a b", "50%", "what?", "a/b", "/abs", "ü&=+", "x#y;z\"'"]


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
    text = (Path(__file__).parent.parent / "docs/nbd.md").read_text()
    default = {name: p.default for name, p in inspect.signature(NbdServer.__init__).parameters.items()}
    for claim in (f"`max_connections`, {default['max_connections']} |", f"`max_handshakes`, {default['max_handshakes']} |",
                  f"`handshake_timeout_s`, {default['handshake_timeout_s']:g} s |", f"options in a handshake | {MAX_OPTIONS} |",
                  f"one option's data | {MAX_OPTION_BYTES >> 10} KiB | up to {MAX_SKIP_BYTES >> 20} MiB skipped",
                  f"strings | {MAX_STRING_BYTES} bytes", f"one request's payload | {core.MAX_PAYLOAD_BYTES >> 20} MiB",
                  f"payload is longer than {core.MAX_DRAIN_BYTES >> 20} MiB", f"at most {CHUNK_BYTES >> 10} KiB in each direction",
                  f"minimum {core.MIN_BLOCK_BYTES}, preferred {core.PREFERRED_BLOCK_BYTES}, maximum payload 32 MiB"):
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


# TLS


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """A CA, a server certificate for localhost and a client's; another CA's client too."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl")
    root = tmp_path_factory.mktemp("pki")

    def run(*args):
        subprocess.run([openssl, *args], cwd=root, check=True, capture_output=True)

    for ca in ("ca", "evil"):
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{ca}-key.pem", "-out", f"{ca}-cert.pem", "-subj",
            f"/CN={ca}", "-days", "2")
    for who, ca in (("server", "ca"), ("client", "ca"), ("stranger", "evil")):
        run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{who}-key.pem", "-out", f"{who}.csr", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        run("x509", "-req", "-in", f"{who}.csr", "-CA", f"{ca}-cert.pem", "-CAkey", f"{ca}-key.pem", "-CAcreateserial", "-out",
            f"{who}-cert.pem", "-days", "2", "-copy_extensions", "copy")
    return root


def _settings(pki, mode, **more):
    return TlsSettings(mode, str(pki / "server-cert.pem"), str(pki / "server-key.pem"), **more)


def _secure(talk, pki, client=None):
    """STARTTLS and the TLS handshake; a Talk over it."""
    assert talk.ask(STARTTLS) == [(ACK, b"")]
    context = ssl.create_default_context(cafile=pki / "ca-cert.pem")
    if client:
        context.load_cert_chain(pki / f"{client}-cert.pem", pki / f"{client}-key.pem")
    return Talk(context.wrap_socket(talk.sock, server_hostname="localhost"), None)


def test_no_tls(talk):
    assert talk.refusal(STARTTLS)[0] == ERR_POLICY
    assert talk.go("disk").ask(request(READ, 0, 1), 1).error == 0


@pytest.mark.parametrize("mode", [TlsMode.ON, TlsMode.REQUIRE])
def test_tls(shelf, path, pki, mode):
    with NbdServer(shelf, [UnixAddress(path)], tls=_settings(pki, mode)) as server, dial(path) as sock:
        assert server.uri("disk") == f"nbds+unix:///disk?socket={path}"
        talk = _secure(Talk(sock), pki)
        assert talk.refusal(STARTTLS)[0] == ERR_INVALID
        assert talk.ask(LIST)[-1][0] == ACK
        wire = talk.go("disk")
        data = random.Random(2).randbytes(MIB)
        for _ in range(3):
            wire.send(write(0, data), request(READ, 0, MIB, cookie=8))
            assert wire.reply().error == 0
            assert wire.reply(MIB).data == data
        (info,) = server.connections()
        assert info.tls and info.counters["requests"] == 6
        wire.send(request(2))  # DISC
        assert wire.ended()
    assert shelf.opened[-1].closed == 1


def test_the_largest_requests_over_tls(path, pki):
    """32 MiB each way at the same time, through the relay's small buffers."""
    disk = RamDisk(64 * MIB)
    shelf = Shelf(disk=lambda: FakeExport(disk))
    data = random.Random(3).randbytes(32 * MIB)
    with NbdServer(shelf, [UnixAddress(path)], tls=_settings(pki, TlsMode.REQUIRE)), dial(path) as sock:
        wire = _secure(Talk(sock), pki).go("disk", structured=False)
        wire.send(write(0, data))
        assert wire.reply().error == 0
        wire.send(request(READ, 0, 32 * MIB))
        assert wire.reply(32 * MIB).data == data


def test_tls_on_lets_plain_clients_in(shelf, path, pki):
    with NbdServer(shelf, [UnixAddress(path)], tls=_settings(pki, TlsMode.ON)), dial(path) as sock:
        assert Talk(sock).go("disk").ask(request(READ, 0, 1), 1).error == 0


def test_tls_required(shelf, path, pki):
    with NbdServer(shelf, [UnixAddress(path)], tls=_settings(pki, TlsMode.REQUIRE)):
        with dial(path) as sock:
            talk = Talk(sock)
            for number, data in ((LIST, b""), (INFO, name_and_infos("disk")), (GO, name_and_infos("disk")), (STRUCTURED, b""),
                                 (SET_META, b""), (EXTENDED, b""), (77, bytes(70_000))):
                assert talk.refusal(number, data)[0] == ERR_TLS_REQD
            assert talk.refusal(STARTTLS, b"x")[0] == ERR_INVALID
            assert talk.ask(ABORT) == [(ACK, b"")]
        with dial(path) as sock:
            talk = Talk(sock)
            sock.sendall(option(EXPORT_NAME, b"disk"))
            assert talk.ended()
        with dial(path) as sock:
            assert Talk(sock, 0).refusal(STARTTLS)[0] == ERR_POLICY  # TLS is for fixed newstyle only
    assert shelf.asked == []


def test_starttls_forgets_what_was_agreed(shelf, path, pki):
    with NbdServer(shelf, [UnixAddress(path)], tls=_settings(pki, TlsMode.ON)), dial(path) as sock:
        talk = Talk(sock)
        talk.ask(STRUCTURED)
        talk.ask(SET_META, meta("disk", "base:allocation"))
        assert shelf.opened[0].closed == 0
        talk = _secure(talk, pki)
        assert shelf.opened[0].closed == 1
        assert talk.refusal(SET_META, meta("disk", "base:allocation"))[0] == ERR_INVALID
        flags = talk.ask(INFO, name_and_infos("disk"))[0][1][-2:]
        assert not int.from_bytes(flags) & SEND_DF


def test_what_was_sent_in_the_clear_is_not_read_after_starttls(shelf, path, pki):
    with NbdServer(shelf, [UnixAddress(path)], tls=_settings(pki, TlsMode.ON)), dial(path) as sock:
        talk = Talk(sock)
        sock.sendall(option(STARTTLS) + option(GO, name_and_infos("disk")))
        assert talk.replies(STARTTLS) == [(ACK, b"")]
        data = b""
        with contextlib.suppress(OSError):
            while part := sock.recv(4096):
                data += part
        assert b"\0\3\xe8\x89" not in data and shelf.asked == []  # no option was answered: a TLS alert at most


def test_client_certificates(shelf, path, pki):
    tls = _settings(pki, TlsMode.REQUIRE, client_ca_file=str(pki / "ca-cert.pem"))
    with NbdServer(shelf, [UnixAddress(path)], tls=tls):
        for who in (None, "stranger"):
            with dial(path) as sock, pytest.raises((OSError, EOFError)):
                _secure(Talk(sock), pki, who).ask(LIST)
        with dial(path) as sock:
            assert _secure(Talk(sock), pki, "client").ask(LIST)[-1][0] == ACK


def test_old_tls_is_refused(shelf, path, pki):
    with NbdServer(shelf, [UnixAddress(path)], tls=_settings(pki, TlsMode.ON)), dial(path) as sock:
        talk = Talk(sock)
        talk.ask(STARTTLS)
        context = ssl.create_default_context(cafile=pki / "ca-cert.pem")
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):
            context.wrap_socket(sock, server_hostname="localhost")


def test_a_tls_handshake_times_out(shelf, path, pki):
    tls = _settings(pki, TlsMode.ON)
    with NbdServer(shelf, [UnixAddress(path)], tls=tls, handshake_timeout_s=1.5), dial(path) as sock:
        talk = Talk(sock)
        talk.ask(STARTTLS)
        assert talk.ended()


def test_close_cuts_a_tls_handshake(shelf, path, pki):
    server = NbdServer(shelf, [UnixAddress(path)], tls=_settings(pki, TlsMode.ON), handshake_timeout_s=600)
    server.start()
    with dial(path) as sock:
        Talk(sock).ask(STARTTLS)
        server.close()
        assert not server._clients


@pytest.mark.parametrize("reads", [0, 4])
def test_close_ends_tls_connections(path, pki, reads):
    """Idle ones, and ones whose client does not take what it asked for."""
    disk = RamDisk(64 * MIB)
    server = NbdServer(Shelf(disk=lambda: FakeExport(disk)), [UnixAddress(path)], tls=_settings(pki, TlsMode.REQUIRE))
    server.start()
    with dial(path) as sock:
        wire = _secure(Talk(sock), pki).go("disk", structured=False)
        wire.ask(write(0, b"x"))
        wire.send(*(request(READ, 0, 32 * MIB) for _ in range(reads)))
        until(lambda: server.connections()[0].counters["requests"] > min(reads, 1), "the requests")
        server.close(grace_s=0.2)
        assert not server._clients
        if not reads:
            assert wire.ended()


def test_a_tls_client_that_is_killed(path, pki):
    spy = Spy()
    shelf = Shelf(spy=lambda: FakeExport(spy))
    with NbdServer(shelf, [UnixAddress(path)], tls=_settings(pki, TlsMode.REQUIRE)) as server, dial(path) as sock:
        talk = _secure(Talk(sock), pki)
        wire = talk.go("spy")
        wire.send(write(0, bytes(1000))[:-1])
        talk.sock.close()
        until(lambda: not server._clients, "the end of the connection")
    assert spy.calls == [] and shelf.opened[0].closed == 1


def test_tls_settings_are_checked(pki, tmp_path):
    (tmp_path / "junk.pem").write_text("junk")
    junk, cert, key = str(tmp_path / "junk.pem"), str(pki / "server-cert.pem"), str(pki / "server-key.pem")
    assert TlsSettings().context() is None
    for bad in (TlsSettings(TlsMode.ON), TlsSettings(TlsMode.OFF, cert, key), TlsSettings(TlsMode.ON, junk, key),
                TlsSettings(TlsMode.ON, cert, str(pki / "client-key.pem")), TlsSettings(TlsMode.ON, "/nonexistent", key),
                TlsSettings(TlsMode.ON, cert, key, junk), TlsSettings(TlsMode.OFF, client_ca_file=cert)):
        with pytest.raises(InvalidRequest):
            bad.context()
