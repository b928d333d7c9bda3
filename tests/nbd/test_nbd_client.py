"""The client's side: against our own server, with and without TLS, and against servers that break the protocol."""

import contextlib
import random
import socket
import struct
import threading

import pytest
from support.nbd import ENOSPC, GREETING, MIB, NOSPACE, FakeExport, Shelf, Spy

from cdp.nbd import NbdServer, TcpAddress, TlsMode, TlsSettings, UnixAddress
from cdp.nbd.client import Client, connect, unix_address
from cdp.nbd.protocol import TransmissionFlag
from cdp.platform.routers import open_router
from cdp.platform.structures import Op
from cdpcore.base.errors import InvalidRequest, NotFound, OutOfSpace, Unavailable

pytest_plugins = ("support.nbd_fixtures",)


def test_requests(path, server):
    with Client(unix_address(path, "disk")) as disk:
        assert disk.size_bytes == MIB and TransmissionFlag.SEND_TRIM in disk.flags
        data = random.Random(1).randbytes(5000)
        disk.pwrite(data, 777)
        disk.pwrite(b"now", 0, fua=True)
        disk.flush()
        assert disk.pread(5000, 777) == data and disk.pread(3, 0) == b"now"
        disk.trim(4096, 0)
        assert disk.pread(777, 0) == bytes(777)
    disk.close()
    with pytest.raises(Unavailable):
        disk.pread(1, 0)


def test_what_a_server_refuses(path):
    spy = Spy()
    spy.fail["pwrite"] = (NOSPACE, ENOSPC, b"full")
    with NbdServer(Shelf(disk=lambda: FakeExport(spy)), [UnixAddress(path)]):
        with Client(unix_address(path, "disk")) as disk:
            with pytest.raises(OutOfSpace):
                disk.pwrite(b"x", 0)
            with pytest.raises(Unavailable, match="Invalid argument"):
                disk.pread(1, MIB)
            assert disk.pread(1, 0) == b"\0"    # the connection lives
        with pytest.raises(NotFound, match="no export 'other'"):
            Client(unix_address(path, "other"))
    with pytest.raises(Unavailable, match="start the server"):
        Client(unix_address(path, "disk"))


def settings(pki, **more):
    return TlsSettings(TlsMode.REQUIRE, str(pki / "server-cert.pem"), str(pki / "server-key.pem"), **more)


def test_tls(shelf, path, pki, tmp_path):
    """A certificate that is not asked for is not needed; one that names another host, or is signed by nobody known,
    will not do."""
    trust = tmp_path / "trust"
    trust.mkdir()
    (trust / "ca-cert.pem").write_bytes((pki / "ca-cert.pem").read_bytes())
    data = random.Random(2).randbytes(MIB)
    with NbdServer(shelf, [UnixAddress(path), TcpAddress("localhost", 0)], tls=settings(pki)) as server:
        unix, tcp = (server.uri("disk", i) for i in (0, 1))
        for uri in (f"{unix}&tls-certificates={trust}", f"{unix}&tls-certificates={trust}&tls-hostname=localhost",
                    f"{tcp}?tls-certificates={trust}"):
            with Client(uri) as disk:
                disk.pwrite(data, 0)
                assert disk.pread(MIB, 0) == data
            with open_router([uri]) as router:
                back = bytearray(MIB)
                router.run(Op.READ, 0, MIB, memoryview(back))
                assert back == data
        with pytest.raises(Unavailable, match="certificate"):
            Client(f"{unix}&tls-certificates={trust}&tls-hostname=elsewhere")
        with pytest.raises(Unavailable, match="certificate"):
            Client(unix)    # signed by nobody that this machine trusts
        with pytest.raises(InvalidRequest, match="requires TLS"):
            Client(unix.replace("nbds", "nbd"))
        with pytest.raises(InvalidRequest, match="TLS files"):
            Client(f"{unix}&tls-certificates={tmp_path}/none")
    with NbdServer(shelf, [UnixAddress(path)]) as server, pytest.raises(InvalidRequest, match="does not speak TLS"):
        Client(server.uri("disk").replace("nbd+unix", "nbds+unix"))


def test_tls_with_a_client_certificate(shelf, path, pki, tmp_path):
    trust = tmp_path / "trust"
    trust.mkdir()
    for name, source in (("ca-cert", "ca-cert"), ("client-cert", "client-cert"), ("client-key", "client-key")):
        (trust / f"{name}.pem").write_bytes((pki / f"{source}.pem").read_bytes())
    with NbdServer(shelf, [UnixAddress(path)], tls=settings(pki, client_ca_file=str(pki / "ca-cert.pem"))) as server:
        with Client(f"{server.uri('disk')}&tls-certificates={trust}") as disk:
            assert disk.pread(5, 0) == bytes(5)
        (trust / "client-cert.pem").unlink()
        with pytest.raises(Unavailable):    # in the handshake or, with TLS 1.3, after it
            Client(f"{server.uri('disk')}&tls-certificates={trust}")


@contextlib.contextmanager
def fake(path, talk):
    """A server of one client, which talk(sock) serves; then it reads until the client goes."""

    def serve():
        with contextlib.suppress(OSError), listener.accept()[0] as sock:
            talk(sock)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def reply(option, kind, data=b""):
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data


INFO_EXPORT = reply(7, 3, struct.pack(">HQH", 0, 4096, 1))


@pytest.mark.parametrize("said, error", [
    (b"HTTP/1.1 400 Bad Request", Unavailable),
    (GREETING[:10], Unavailable),
    (GREETING[:16] + b"\0\0", Unavailable),
    (GREETING + bytes(20), Unavailable),
    (GREETING + reply(7, 1), Unavailable),          # an ACK before the export's size
    (GREETING + reply(7, 99), Unavailable),
    (GREETING + struct.pack(">QIII", 0x3E889045565A9, 7, 3, 1 << 30), Unavailable),
    (GREETING + reply(7, 0x80000002, b"no\xff"), Unavailable),
    (GREETING + reply(7, 0x80000005), InvalidRequest),
    (GREETING + reply(7, 0x80000006, b"gone"), NotFound),
    (GREETING + INFO_EXPORT, Unavailable),          # then it hangs up
])
def test_a_server_that_breaks_off_or_the_protocol(path, said, error):
    with fake(path, lambda sock: sock.sendall(said)), pytest.raises(error):
        connect(unix_address(path, "disk"))


@pytest.mark.parametrize("said", [b"\0" * 16, struct.pack(">IIQ", 0x67446698, 0, 99), b"\x67\x44"])
def test_what_is_no_reply_fails_the_request(path, said):
    def talk(sock):
        sock.sendall(GREETING + INFO_EXPORT + reply(7, 1))
        heard = b""
        while b"\x25\x60\x95\x13" not in heard:     # up to the request, which may come with an option
            heard += sock.recv(4096)
        sock.sendall(said)

    with fake(path, talk), Client(unix_address(path, "disk")) as disk, pytest.raises(Unavailable):
        disk.pread(1, 0)


def test_an_old_server_is_asked_by_name(path):
    """One that does not know NBD_OPT_GO, and sends 124 zeros after its answer."""

    def talk(sock):
        sock.sendall(GREETING[:16] + b"\0\1")
        while not sock.recv(4096).endswith(b"disk\0\1\0\3"):
            pass
        sock.sendall(reply(7, 0x80000001))
        assert sock.recv(4096)[-4:] == b"disk"
        sock.sendall(struct.pack(">QH", MIB, 3) + bytes(124))

    with fake(path, talk):
        sock, agreed = connect(unix_address(path, "disk"))
        sock.close()
    assert (agreed.size_bytes, agreed.flags) == (MIB, TransmissionFlag.HAS_FLAGS | TransmissionFlag.READ_ONLY)


def test_block_status_and_structured_replies(path):
    """With structured replies all requests are as before; ranges that are holes are named, page by page."""
    spy = Spy()
    with (NbdServer(Shelf(disk=lambda: FakeExport(spy)), [UnixAddress(path)]),
          Client(unix_address(path, "disk"), block_status=True) as disk, Client(unix_address(path, "disk")) as plain):
        data = random.Random(3).randbytes(9000)
        disk.pwrite(data, 12345)
        disk.flush()
        assert disk.pread(9000, 12345) == plain.pread(9000, 12345) == data
        assert disk.pread(MIB, 0) == plain.pread(MIB, 0)
        found = disk.status(MIB, 0)
        assert sum(length for length, _ in found) <= MIB and all(length > 0 for length, _ in found)
        assert plain.status(MIB, 0) == [(MIB, 0)]
        with pytest.raises(Unavailable, match="Invalid argument"):
            disk.pread(1, MIB)
        with pytest.raises(Unavailable, match="Invalid argument"):
            disk.status(1, MIB)
        assert disk.pread(9000, 12345) == data      # the connection lives
