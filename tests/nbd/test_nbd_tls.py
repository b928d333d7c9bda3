"""NBD over TLS: modes, certificates, what STARTTLS forgets, the relay under load and at its end."""

from __future__ import annotations

import contextlib
import random
import ssl

import pytest
from support.nbd import (
    ABORT,
    ACK,
    ERR_INVALID,
    ERR_POLICY,
    ERR_TLS_REQD,
    EXPORT_NAME,
    EXTENDED,
    GO,
    INFO,
    LIST,
    MIB,
    READ,
    SET_META,
    STARTTLS,
    STRUCTURED,
    FakeExport,
    Shelf,
    Spy,
    Talk,
    meta,
    name_and_infos,
    option,
    request,
    until,
    write,
)
from support.nbd_fixtures import dial

from cdp.nbd import NbdServer, TlsMode, TlsSettings, UnixAddress
from cdpcore.base.errors import InvalidRequest
from cdpcore.bench.ram_disk import RamDisk

READ_ONLY_FLAGS = 1 | 2 | 4 | 8 | 1 << 8 | 1 << 10
WRITABLE_FLAGS = 1 | 4 | 8 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11
SEND_DF, MULTI_CONN = 1 << 7, 1 << 8


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
            for number, data in (
                (LIST, b""),
                (INFO, name_and_infos("disk")),
                (GO, name_and_infos("disk")),
                (STRUCTURED, b""),
                (SET_META, b""),
                (EXTENDED, b""),
                (77, bytes(70_000)),
            ):
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
    for bad in (
        TlsSettings(TlsMode.ON),
        TlsSettings(TlsMode.OFF, cert, key),
        TlsSettings(TlsMode.ON, junk, key),
        TlsSettings(TlsMode.ON, cert, str(pki / "client-key.pem")),
        TlsSettings(TlsMode.ON, "/nonexistent", key),
        TlsSettings(TlsMode.ON, cert, key, junk),
        TlsSettings(TlsMode.OFF, client_ca_file=cert),
    ):
        with pytest.raises(InvalidRequest):
            bad.context()
