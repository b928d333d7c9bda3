"""The handshake of NBD: every option, every rejection, what is agreed and forgotten."""

from __future__ import annotations

import contextlib
import logging
import random
import struct

import pytest
from support.nbd import (
    ABORT,
    ACK,
    BLOCK_STATUS,
    EINVAL,
    ERR_INVALID,
    ERR_SHUTDOWN,
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
    STRUCTURED,
    FakeExport,
    Shelf,
    Talk,
    Wire,
    meta,
    name_and_infos,
    option,
    request,
    until,
)
from support.nbd_fixtures import dial

from cdp.nbd import NbdServer, TlsMode, UnixAddress
from cdp.nbd.handshake import MAX_OPTIONS, Handshake, HandshakeError
from cdpcore.base.errors import RefusedPoint
from cdpcore.bench.ram_disk import RamDisk

pytestmark = pytest.mark.sanitize

READ_ONLY_FLAGS = 1 | 2 | 4 | 8 | 1 << 8 | 1 << 10
WRITABLE_FLAGS = 1 | 4 | 8 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11
SEND_DF, MULTI_CONN = 1 << 7, 1 << 8


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
    assert talk.ask(INFO, name_and_infos("disk")) == [
        (REP_INFO, struct.pack(">HQH", 0, MIB, WRITABLE_FLAGS)),
        (ACK, b""),
    ]


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
        ERR_UNKNOWN,
        "disk@-9h is before the horizon; the oldest point is -1h",
    )
    assert talk.go("disk").ask(request(READ, 0, 4), 4).data == bytes(4)


def test_a_broken_resolver_is_logged_and_not_shown(talk, shelf, caplog):
    def crash():
        raise KeyError("secret")

    shelf.exports["crash"] = crash
    with caplog.at_level(logging.ERROR, "cdp.nbd"):
        assert talk.refusal(GO, name_and_infos("crash")) == (ERR_UNKNOWN, "internal error: KeyError")
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    "break_it", [lambda export: setattr(export, "capsule", 1), lambda export: setattr(export, "size_bytes", 9)]
)
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


@pytest.mark.parametrize(
    ("steps", "works"),
    [
        ([("disk", "base:allocation")], True),
        ([], False),
        ([("disk", "base:allocation"), ("disk",)], False),  # none selected by the last one
        ([("disk", "base:allocation"), ("frozen", "base:allocation")], False),  # the last one named another export
        ([("disk", "base:allocation"), ("disk", "nocolon")], False),  # a failed one forgets too
        ([("frozen", "base:allocation"), ("disk", "base:allocation")], True),
    ],
)
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


@pytest.mark.soak
def test_random_handshakes(seeds):
    """Whatever comes: an outcome, or HandshakeError; every export that was opened is handed out or closed."""
    for seed in seeds(200):
        handshake(seed)


def handshake(seed):
    rng = random.Random(seed)
    disk = RamDisk(4096)
    shelf = Shelf(disk=lambda: FakeExport(disk), other=lambda: FakeExport(disk))
    data = bytearray(struct.pack(">I", rng.choice([3, 3, 3, 1, 0])))
    for _ in range(rng.randrange(1, 12)):
        name = rng.choice(["disk", "other", "", "nope"])
        body = rng.choice(
            [b"", name_and_infos(name, 0, 3), meta(name, "base:allocation"), name.encode(), rng.randbytes(30)]
        )
        data += option(rng.choice([1, 2, 3, 4, 5, 6, 6, 6, 7, 8, 8, 9, 10, 10, 11, 99]), body)
    for _ in range(rng.choice([0, 0, 1, 3])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    agreed = None
    with contextlib.suppress(HandshakeError):
        agreed = Handshake(Tape(bytes(data)), shelf, tls=rng.choice(list(TlsMode))).run()
    open_still = [export for export in shelf.opened if not export.closed]
    assert open_still == ([agreed.export] if agreed else [])
    assert all(export.closed <= 1 for export in shelf.opened)
