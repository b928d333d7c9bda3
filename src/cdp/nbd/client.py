"""The client's half of NBD's handshake: an address, and a socket in transmission phase.

Fixed newstyle, NBD_OPT_GO (NBD_OPT_EXPORT_NAME where a server does not know it), simple replies, no TLS. The section names are those of
doc/proto.md of the NetworkBlockDevice/nbd project.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from cdpcore.base.errors import InvalidRequest, NotFound, Unavailable

PORT = 10809
TIMEOUT_SECONDS = 10.0
_GREETING, _OPTION, _REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x0003E889045565A9
_GO, _EXPORT_NAME = 7, 1
_ACK, _INFO, _ERROR, _UNSUPPORTED, _TLS_REQUIRED, _UNKNOWN = 1, 3, 1 << 31, (1 << 31) + 1, (1 << 31) + 5, (1 << 31) + 6
_MAX_REPLY = 1 << 20


@dataclass(frozen=True)
class Address:
    """Where an export is."""

    uri: str
    host: str | None
    port: int
    path: str | None  # of a Unix socket
    export: str


def parse(uri: str) -> Address:
    """nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH. Raises InvalidRequest."""
    hint = "write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH"
    try:
        parts = urlsplit(uri)
        port = parts.port or PORT
    except ValueError as error:
        raise InvalidRequest(f"{uri}: {error}", hint) from None
    if parts.scheme in ("nbds", "nbds+unix"):
        raise InvalidRequest(f"{uri}: only NBD without TLS is spoken here", "give it an address without TLS")
    export = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "nbd+unix":
        path = parse_qs(parts.query).get("socket", [""])[0]
        if not path:
            raise InvalidRequest(f"{uri}: no socket", hint)
        return Address(uri, None, 0, path, export)
    if parts.scheme != "nbd" or not parts.hostname:
        raise InvalidRequest(f"{uri} is not the address of an NBD export", hint)
    return Address(uri, parts.hostname, port, None, export)


@dataclass(frozen=True)
class Export:
    """What the handshake told. max_bytes: the longest request the server takes."""

    size_bytes: int
    flags: int
    max_bytes: int


def connect(address: Address) -> tuple[socket.socket, Export]:
    """A socket in transmission phase. Raises Unavailable, NotFound, InvalidRequest."""
    try:
        if address.path is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(TIMEOUT_SECONDS)
            sock.connect(address.path)
        else:
            sock = socket.create_connection((address.host, address.port), TIMEOUT_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise Unavailable(
            f"{address.uri}: {error.strerror or error}", "start the server, or check the address"
        ) from None
    try:
        export = _handshake(sock, address)
        sock.settimeout(None)
        return sock, export
    except BaseException:
        sock.close()
        raise


def _handshake(sock: socket.socket, address: Address) -> Export:
    try:
        magic, option_magic, server = struct.unpack(">QQH", _exactly(sock, 18))
        if magic != _GREETING or option_magic != _OPTION or not server & 1:
            raise Unavailable(f"{address.uri}: not an NBD server of the fixed newstyle", "check the address")
        no_zeroes = server & 2
        sock.sendall(struct.pack(">I", 1 | no_zeroes))
        name = address.export.encode()
        _send_option(sock, _GO, struct.pack(">I", len(name)) + name + struct.pack(">HH", 1, 3))
        size = flags = None
        longest = 32 << 20
        while True:
            kind, data = _reply(sock, address)
            if kind == _INFO and data[:2] == b"\0\0" and len(data) >= 12:
                size, flags = struct.unpack(">QH", data[2:12])
            elif kind == _INFO and data[:2] == b"\0\3" and len(data) >= 14:
                longest = struct.unpack(">I", data[10:14])[0] or longest
            elif kind == _ACK and size is not None and flags is not None:
                return Export(size, flags, longest)
            elif kind == _UNSUPPORTED:
                return _by_name(sock, name, bool(no_zeroes))
            elif kind == _TLS_REQUIRED:
                raise InvalidRequest(
                    f"{address.uri}: the server insists on TLS, which is not spoken here",
                    "use an address without TLS",
                )
            elif kind == _UNKNOWN:
                raise NotFound(f"{address.uri}: no export {address.export!r}", "check the part after the host")
            elif kind & _ERROR:
                text = data.decode("utf-8", "replace")
                raise Unavailable(f"{address.uri}: refused: {text or hex(kind)}", "see the server's log")
            elif kind != _INFO:
                raise Unavailable(f"{address.uri}: unexpected answer {kind:#x}", "see the server's log")
    except (OSError, EOFError) as error:
        raise Unavailable(
            f"{address.uri}: in the handshake: {error}", "check the address and the server's log"
        ) from None


def _send_option(sock: socket.socket, option: int, data: bytes) -> None:
    sock.sendall(struct.pack(">QII", _OPTION, option, len(data)) + data)


def _reply(sock: socket.socket, address: Address) -> tuple[int, bytes]:
    magic, _option, kind, length = struct.unpack(">QIII", _exactly(sock, 20))
    if magic != _REPLY or length > _MAX_REPLY:
        raise Unavailable(f"{address.uri}: not an answer of an NBD server", "check the address")
    return kind, _exactly(sock, length)


def _by_name(sock: socket.socket, name: bytes, no_zeroes: bool) -> Export:
    _send_option(sock, _EXPORT_NAME, name)
    size, flags = struct.unpack(">QH", _exactly(sock, 10))
    if not no_zeroes:
        _exactly(sock, 124)
    return Export(size, flags, 32 << 20)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise EOFError("the server closed the connection")
        data += part
    return data
