"""NBD over TLS with pre-shared keys: files of keys, who gets in, and who does not."""
from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from support.nbd import ACK, MIB, READ, STARTTLS, FakeExport, Shelf, Talk, request
from support.nbd_fixtures import dial

from cdp.nbd import NbdServer, TlsMode, TlsSettings, UnixAddress, psk
from cdp.nbd.client import Client, parse
from cdp.settings import Settings
from cdpcore.base.errors import InvalidRequest, Unavailable
from cdpcore.bench.ram_disk import RamDisk

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
needs_psk = pytest.mark.skipif(not psk.HAS_PSK, reason="TLS with pre-shared keys is in Python from 3.13 on")


def key_file(path: Path, **keys: bytes) -> str:
    path.write_text("".join(f"{user}:{key.hex()}\n" for user, key in keys.items()))
    path.chmod(0o600)
    return str(path)


def test_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# users\n\nalice:{KEY.hex()}\n  bob:of:accounts:{OTHER.hex().upper()} \n")
    path.chmod(0o640)
    assert psk.read_keys(str(path), private=True) == {"alice": KEY, "bob:of:accounts": OTHER}


@pytest.mark.parametrize("text, why", [
    ("", "no keys"), ("# nobody\n", "no keys"), ("alice\n", "line 1: no user and key"),
    (f"\n:{KEY.hex()}\n", "line 2: no user and key"), ("alice:zz\n", "line 1: no user and key"),
    ("alice:\u00e4\u00e4\n", "no user and key"), (f"a\x07b:{KEY.hex()}\n", "no user and key"),
    (f"{'a' * 128}:{KEY.hex()}\n", "up to 127 bytes"), ("alice:00112233\n", "a key of 4 bytes"),
    (f"alice:{'00' * 257}\n", "a key of 257 bytes"),
    (f"alice:{KEY.hex()}\nalice:{OTHER.hex()}\n", "line 2: a second key of the user 'alice'"),
    ("#" * (1 << 20) + "\n", "more than 1048576 bytes"),
])
def test_files_of_keys_that_are_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(text.encode())
    with pytest.raises(InvalidRequest) as raised:
        psk.read_keys(str(path), private=False)
    said = str(raised.value)
    assert why in said + raised.value.hint and str(path) in said
    assert KEY.hex() not in said and OTHER.hex() not in said


def test_keys_that_everybody_can_read_are_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path / "keys", alice=KEY)
    os.chmod(path, 0o644)
    with pytest.raises(InvalidRequest, match="everybody can read"):
        psk.read_keys(path, private=True)
    assert psk.read_keys(path, private=False)


def test_settings_take_keys_or_certificates() -> None:
    assert Settings(tls="require", tls_psk="k").tls_psk == "k"
    for name in ("tls_cert", "tls_key", "tls_ca"):
        with pytest.raises(InvalidRequest, match=f"tls_psk is set, and {name} is too"):
            Settings(tls="require", tls_psk="k", **{name: "f"})
    with pytest.raises(InvalidRequest, match="at the same time"):
        TlsSettings(TlsMode.ON, "c", "k", psk_file="p").context()
    with pytest.raises(InvalidRequest, match="the TLS mode is off"):
        TlsSettings(psk_file="p").context()


@pytest.mark.skipif(psk.HAS_PSK, reason="this Python has TLS with pre-shared keys")
def test_a_python_without_it_says_so(tmp_path: Path) -> None:
    path = key_file(tmp_path / "keys", alice=KEY)
    for use in (TlsSettings(TlsMode.REQUIRE, psk_file=path).context, lambda: psk.client_context(path, "alice")):
        with pytest.raises(Unavailable, match=r"needs Python 3\.13 or later, and this is 3\.\d+") as raised:
            use()
        assert "use certificates" in raised.value.hint


def test_addresses_of_clients() -> None:
    address = parse("nbds://al%40ice@localhost/web?tls-psk-file=/k")
    assert (address.user, address.psk_file, address.host, address.tls) == ("al@ice", "/k", "localhost", True)
    with pytest.raises(InvalidRequest, match="certificates and pre-shared keys"):
        Client(parse("nbds+unix:///web?socket=/none&tls-psk-file=/k&tls-certificates=/c"))


@pytest.fixture
def server(tmp_path: Path, path: str) -> Callable[[TlsMode], NbdServer]:
    disk = RamDisk(4 * MIB)
    keys = key_file(tmp_path / "keys", alice=KEY, bob=OTHER)
    return lambda mode: NbdServer(Shelf(disk=lambda: FakeExport(disk)), [UnixAddress(path)],
                                  tls=TlsSettings(mode, psk_file=keys))


def secure(sock: socket.socket, context: ssl.SSLContext) -> Talk:
    assert Talk(sock).ask(STARTTLS) == [(ACK, b"")]
    return Talk(context.wrap_socket(sock), None)


@needs_psk
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("user, key", [("alice", KEY), ("bob", OTHER)])
def test_who_has_a_key_gets_in(server: Callable[[TlsMode], NbdServer], tmp_path: Path, path: str, user: str, key: bytes,
                               version: ssl.TLSVersion) -> None:
    context = psk.client_context(key_file(tmp_path / "mine", **{user: key}), user)
    context.minimum_version = context.maximum_version = version
    with server(TlsMode.REQUIRE), dial(path) as sock:
        wire = secure(sock, context).go("disk", structured=False)
        wire.send(request(READ, 0, 512))
        assert wire.reply(512).data == bytes(512)


@needs_psk
@pytest.mark.parametrize("user, key", [("alice", OTHER), ("carol", KEY)], ids=["another key", "an unknown user"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_has_none_is_turned_away(server: Callable[[TlsMode], NbdServer], tmp_path: Path, path: str, user: str,
                                     key: bytes, version: ssl.TLSVersion) -> None:
    context = psk.client_context(key_file(tmp_path / "mine", **{user: key}), user)
    context.minimum_version = context.maximum_version = version
    with server(TlsMode.REQUIRE):
        with dial(path) as sock, pytest.raises(OSError):
            secure(sock, context).go("disk")
        with dial(path) as sock, pytest.raises(OSError):       # with no key at all
            secure(sock, ssl._create_unverified_context()).go("disk")


@needs_psk
def test_a_client_takes_no_server_that_has_a_certificate_instead(tmp_path: Path, path: str, pki: Path) -> None:
    """Else whoever is in between could be the server, without the key."""
    tls = TlsSettings(TlsMode.REQUIRE, str(pki / "server-cert.pem"), str(pki / "server-key.pem"))
    context = psk.client_context(key_file(tmp_path / "mine", alice=KEY), "alice")
    shelf = Shelf(disk=lambda: FakeExport(RamDisk(MIB)))
    with NbdServer(shelf, [UnixAddress(path)], tls=tls), dial(path) as sock, pytest.raises(OSError):
        secure(sock, context).go("disk")


@needs_psk
def test_our_client(server: Callable[[TlsMode], NbdServer], tmp_path: Path, path: str) -> None:
    mine = key_file(tmp_path / "mine", alice=KEY)
    with server(TlsMode.REQUIRE), Client(parse(f"nbds+unix://alice@/disk?socket={path}&tls-psk-file={mine}")) as disk:
        disk.pwrite(b"x" * 512, 4096)
        assert disk.pread(1024, 4096) == b"x" * 512 + bytes(512)
    with pytest.raises(InvalidRequest, match="no key of the user 'dora'"):
        Client(parse(f"nbds+unix://dora@/disk?socket={path}&tls-psk-file={mine}"))
