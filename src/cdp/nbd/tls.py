"""TLS for NBD connections: who is trusted, by certificates or by keys that both sides have (cdp.nbd.psk), and the relay
that keeps the transmission loop free of it.

The loop in cdpcore.nbd.loop serves a plain file descriptor without the GIL. A connection with TLS gets one end of a
socket pair instead, and a relay thread carries bytes between the other end and the TLS socket. That costs two copies
and some Python a record, and leaves the hot path of plain connections as it is. Clients do the same.

Threading: a TLS socket is used by one thread at a time: the handshake's, then the relay's.
"""
from __future__ import annotations

import os
import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cdp.nbd import psk
from cdp.nbd.handshake import TlsMode
from cdpcore.base.errors import InvalidRequest

CHUNK_BYTES = 256 << 10  # in flight in each direction


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """What a server's TLS is made of.

    mode            off, on (where the client asks for it) or require
    cert_file       the server's certificate chain, PEM
    key_file        its private key, PEM; None where it is in cert_file
    client_ca_file  PEM; clients must then show a certificate signed by one of these
    psk_file        in place of all three: keys that clients have too, as USER:HEXKEY, a line each
    """

    mode: TlsMode = TlsMode.OFF
    cert_file: str | None = None
    key_file: str | None = None
    client_ca_file: str | None = None
    psk_file: str | None = None

    def context(self) -> ssl.SSLContext | None:
        """The context for new connections, or None for mode off. Raises InvalidRequest for unusable files."""
        if self.mode is TlsMode.OFF:
            if self.cert_file or self.key_file or self.client_ca_file or self.psk_file:
                raise InvalidRequest("TLS files are given, but the TLS mode is off", "set the mode to on or require")
            return None
        if self.psk_file:
            if self.cert_file or self.key_file or self.client_ca_file:
                raise InvalidRequest("TLS with pre-shared keys and with a certificate at the same time",
                                     "give psk_file, or cert_file and key_file")
            return psk.server_context(self.psk_file)
        if not self.cert_file:
            raise InvalidRequest(f"TLS mode {self.mode} without a certificate",
                                 "give cert_file and key_file, or psk_file")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with _named(self.cert_file, self.key_file):
            context.load_cert_chain(self.cert_file, self.key_file)
        if self.client_ca_file:
            with _named(self.client_ca_file):
                context.load_verify_locations(self.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@contextmanager
def _named(*files: str | None) -> Iterator[None]:
    """Errors of loading these name the file; OpenSSL's do not."""
    for file in files:
        if file and not os.access(file, os.R_OK):
            why = "it cannot be read" if os.path.exists(file) else "no such file"
            raise InvalidRequest(f"TLS files for NBD: {file}: {why}", "give readable PEM files")
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        names = " and ".join(dict.fromkeys(file for file in files if file))
        raise InvalidRequest(f"TLS files for NBD: {names}: {error}", "give readable PEM files that match") from None


def client_context(directory: str | None) -> ssl.SSLContext:
    """The context of a client. `directory`: ca-cert.pem, and client-cert.pem with client-key.pem where the server asks
    for a certificate; None: the system's certificate authorities. Raises InvalidRequest for unusable files."""
    if directory is None:
        return ssl.create_default_context()
    authorities, certificate, key = (os.path.join(directory, f"{name}.pem")
                                     for name in ("ca-cert", "client-cert", "client-key"))
    with _named(authorities):
        context = ssl.create_default_context(cafile=authorities)
    if os.path.exists(certificate):
        with _named(certificate, key):
            context.load_cert_chain(certificate, key)
    return context


class _Way:
    """One direction of the relay: at most one chunk on its way."""

    def __init__(self, source: socket.socket, sink: socket.socket):
        self.source = source
        self.sink = sink
        self.chunk = memoryview(b"")
        self.ended = False  # nothing more comes from the source, or the sink is gone
        self.waits_for: tuple[socket.socket, int] = (source, select.POLLIN)

    def step(self) -> bool:
        """Move what can be moved without waiting; True where something did, else waits_for says what to wait for."""
        if self.ended:
            return False
        side = self.sink if self.chunk else self.source
        self.waits_for = side, select.POLLOUT if self.chunk else select.POLLIN
        try:
            if self.chunk:
                self.chunk = self.chunk[self.sink.send(self.chunk) :]
                return True
            data = self.source.recv(CHUNK_BYTES)
            self.ended = not data
            self.chunk = memoryview(data)
            return True
        except ssl.SSLWantReadError:
            self.waits_for = side, select.POLLIN
        except ssl.SSLWantWriteError:
            self.waits_for = side, select.POLLOUT
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
            self.chunk = memoryview(b"")
            return True
        return False


def relay(secure: ssl.SSLSocket, plain: socket.socket) -> None:
    """Carry bytes both ways until the loop's side is closed and drained, or the client's side fails. Closes both."""
    inward = _Way(secure, plain)
    outward = _Way(plain, secure)
    ended = False
    with plain, secure:
        secure.setblocking(False)
        plain.setblocking(False)
        while not (outward.ended and not outward.chunk):
            moved = inward.step()
            moved = outward.step() or moved
            if inward.ended and not inward.chunk and not ended:
                ended = True
                try:
                    plain.shutdown(socket.SHUT_WR)  # the loop sees the end of the stream
                except OSError:
                    pass
            if not moved and not outward.ended:
                _wait(inward, outward)
        try:
            secure.setblocking(True)
            secure.settimeout(1.0)
            secure.unwrap()
        except (OSError, ValueError):
            pass  # the client did not wait for the farewell


def _wait(*ways: _Way) -> None:
    events: dict[int, int] = {}
    for way in ways:
        if not way.ended:
            sock, mask = way.waits_for
            events[sock.fileno()] = events.get(sock.fileno(), 0) | mask
    poll = select.poll()
    for fd, mask in events.items():
        poll.register(fd, mask)
    poll.poll()


def hang_up(sock: socket.socket) -> None:
    """End a socket's traffic in both directions, from any thread.

    ssl.SSLSocket.shutdown() would drop its TLS state first, and its other user could then send in the clear.
    """
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass
