"""The client's side of NBD: an address, a socket in the transmission phase, and a disk used one request at a time.

Fixed newstyle, NBD_OPT_GO (NBD_OPT_EXPORT_NAME where a server does not know it), simple replies, TLS where the address
asks for it. What has many requests under way (cdp.platform.routers.nbd, cdpcore.trace.nbd_driver) takes the socket of
connect() and has a loop of its own.
"""
from __future__ import annotations

import getpass
import os
import select
import socket
import ssl
import struct
import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from cdp.ipc.unix_socket import socket_path
from cdp.nbd import psk
from cdp.nbd.protocol import (
    BASE_ALLOCATION,
    CHUNK,
    CHUNK_DONE,
    CHUNK_MAGIC,
    DEFAULT_PORT,
    DESCRIPTOR,
    EXPORT_INFO,
    FLAG_FIXED_NEWSTYLE,
    FLAG_NO_ZEROES,
    GREETING,
    GREETING_MAGIC,
    MAX_PAYLOAD_BYTES,
    NO_ZEROES_BYTES,
    OPTION_HEADER,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    Chunk,
    Command,
    CommandFlag,
    Info,
    Opt,
    Rep,
    StatusFlag,
    TransmissionFlag,
)
from cdp.nbd.tls import client_context, relay
from cdpcore.base.errors import CdpError, InvalidRequest, NotFound, OutOfSpace, Unavailable

TIMEOUT_SECONDS = 10.0
FORMS = "write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH; nbds for TLS, ?tls-certificates=FOLDER, " \
        "or nbds://USER@HOST/EXPORT?tls-psk-file=FILE"
_MAX_REPLY_BYTES = 1 << 20
_ERROR = 1 << 31
_ENOSPC = 28
MAX_STATUS_BYTES = 1 << 30  # that one block status asks about


@dataclass(frozen=True)
class ExportAddress:
    """Where an export is."""

    uri: str
    host: str | None
    port: int
    path: str | None  # of a Unix socket
    export: str
    tls: bool = False
    certificates: str | None = None  # folder: ca-cert.pem; client-cert.pem and client-key.pem where the server asks
    psk_file: str | None = None  # of pre-shared keys, in place of certificates ...
    user: str | None = None  # ... and whose key; None: the user of this process
    tls_hostname: str | None = None  # that the server's certificate must name, where that is not `host`


@dataclass(frozen=True)
class Agreed:
    """The outcome of a handshake. max_bytes: the longest request that the server takes; structured: replies are;
    context_id: of BASE_ALLOCATION, where the server tells block status."""

    size_bytes: int
    flags: TransmissionFlag
    max_bytes: int
    structured: bool = False
    context_id: int | None = None


def parse(uri: str) -> ExportAddress:
    """An NBD URI (doc/uri.md of the protocol; libnbd's tls-certificates, tls-psk-file and tls-hostname). Raises
    InvalidRequest."""
    try:
        parts = urlsplit(uri)
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise InvalidRequest(f"{uri}: {error}", FORMS) from None
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    scheme, _, transport = parts.scheme.partition("+")
    unix = transport == "unix"
    if scheme not in ("nbd", "nbds") or (transport and not unix) or not (unix or parts.hostname):
        raise InvalidRequest(f"{uri} is not the address of an NBD export", FORMS)
    if unix and not query.get("socket"):
        raise InvalidRequest(f"{uri}: no socket", FORMS)
    return ExportAddress(uri, None if unix else parts.hostname, 0 if unix else port, query["socket"] if unix else None,
                         unquote(parts.path.removeprefix("/")), scheme == "nbds", query.get("tls-certificates"),
                         query.get("tls-psk-file"), parts.username and unquote(parts.username),
                         query.get("tls-hostname"))


def unix_address(path: str | os.PathLike[str], export: str) -> ExportAddress:
    """An export behind a Unix socket."""
    return ExportAddress(f"{export!r} at {os.fspath(path)}", None, 0, os.fspath(path), export)


def connect(address: ExportAddress, timeout_s: float = TIMEOUT_SECONDS, *,
            block_status: bool = False) -> tuple[socket.socket, Agreed]:
    """A socket in the transmission phase, without a time-out. With TLS it is one end of a socket pair, and a thread
    carries bytes between the other end and the server. block_status: ask for structured replies and block status, which
    a server may not have. Raises Unavailable, NotFound, InvalidRequest."""
    context = _context(address) if address.tls else None
    handshake = _Handshake(_dial(address, timeout_s), address, block_status)
    try:
        agreed = handshake.run(context)
        handshake.sock.settimeout(None)
    except (OSError, EOFError) as error:
        handshake.sock.close()
        text = f"{address.uri}: in the handshake: {error}"
        raise Unavailable(text, "check the address and the server's log") from None
    except BaseException:
        handshake.sock.close()
        raise
    if not isinstance(handshake.sock, ssl.SSLSocket):
        return handshake.sock, agreed
    ours, theirs = socket.socketpair()
    threading.Thread(target=relay, args=(handshake.sock, theirs), name="nbd-client-tls", daemon=True).start()
    return ours, agreed


def _context(address: ExportAddress) -> ssl.SSLContext:
    if address.psk_file is None:
        return client_context(address.certificates)
    if address.certificates is not None:
        raise InvalidRequest(f"{address.uri}: certificates and pre-shared keys", "name one of them")
    return psk.client_context(address.psk_file, address.user or getpass.getuser())


def _dial(address: ExportAddress, timeout_s: float) -> socket.socket:
    try:
        if address.path is None:
            sock = socket.create_connection((address.host, address.port), timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        socket_path(address.path, "?socket=PATH")
        with ExitStack() as stack:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.settimeout(timeout_s)
            sock.connect(address.path)
            stack.pop_all()
        return sock
    except OSError as error:
        text = f"{address.uri}: {error.strerror or error}"
        raise Unavailable(text, "start the server, or check the address") from None


class _Handshake:
    """One connection's handshake. `sock` changes when TLS begins."""

    def __init__(self, sock: socket.socket, address: ExportAddress, block_status: bool):
        self.sock = sock
        self._address = address
        self._block_status = block_status
        self._name = address.export.encode()

    def run(self, context: ssl.SSLContext | None) -> Agreed:
        magic, option_magic, server = GREETING.unpack(recv_exactly(self.sock, GREETING.size))
        if magic != GREETING_MAGIC or option_magic != OPTION_MAGIC or not server & FLAG_FIXED_NEWSTYLE:
            raise Unavailable(f"{self._address.uri}: not an NBD server of the fixed newstyle", "check the address")
        no_zeroes = server & FLAG_NO_ZEROES
        self.sock.sendall(struct.pack(">I", FLAG_FIXED_NEWSTYLE | no_zeroes))
        if context:
            self._start_tls(context)
        structured = self._block_status and self._structured()
        context_id = self._base_allocation() if structured else None
        agreed = self._go() or self._by_name(bool(no_zeroes))
        return replace(agreed, structured=structured, context_id=context_id)

    def _structured(self) -> bool:
        self._send(Opt.STRUCTURED_REPLY)
        return self._reply()[0] == Rep.ACK

    def _base_allocation(self) -> int | None:
        query = BASE_ALLOCATION.encode()
        self._send(Opt.SET_META_CONTEXT, struct.pack(">I", len(self._name)) + self._name +
                   struct.pack(">II", 1, len(query)) + query)
        context_id = None
        while True:
            kind, data = self._reply()
            if kind == Rep.META_CONTEXT and data[4:] == query:
                context_id = int.from_bytes(data[:4])
            elif kind != Rep.META_CONTEXT:
                return context_id if kind == Rep.ACK else None

    def _start_tls(self, context: ssl.SSLContext) -> None:
        self._send(Opt.STARTTLS)
        kind, data = self._reply()
        if kind in (Rep.ERR_POLICY, Rep.ERR_UNSUP):
            raise InvalidRequest(f"{self._address.uri}: the server does not speak TLS", "use nbd instead of nbds")
        if kind != Rep.ACK:
            raise self._refused(kind, data)
        name = self._address.tls_hostname or self._address.host
        if not name:
            context.check_hostname = False  # a Unix socket has none; the certificate must be signed all the same
        self.sock = context.wrap_socket(self.sock, server_hostname=name)

    def _go(self) -> Agreed | None:
        """NBD_OPT_GO; None where the server does not know it."""
        self._send(Opt.GO, struct.pack(">I", len(self._name)) + self._name + struct.pack(">HH", 1, Info.BLOCK_SIZE))
        size = flags = None
        longest = MAX_PAYLOAD_BYTES
        while True:
            kind, data = self._reply()
            if kind == Rep.ACK and size is not None and flags is not None:
                return Agreed(size, TransmissionFlag(flags), longest)
            if kind == Rep.ERR_UNSUP:
                return None
            if kind != Rep.INFO:
                raise self._refused(kind, data)
            info = int.from_bytes(data[:2])
            if info == Info.EXPORT and len(data) >= 12:
                size, flags = EXPORT_INFO.unpack(data[2:12])
            elif info == Info.BLOCK_SIZE and len(data) >= 14:
                longest = int.from_bytes(data[10:14]) or longest

    def _by_name(self, no_zeroes: bool) -> Agreed:
        self._send(Opt.EXPORT_NAME, self._name)
        size, flags = EXPORT_INFO.unpack(recv_exactly(self.sock, EXPORT_INFO.size))
        if not no_zeroes:
            recv_exactly(self.sock, NO_ZEROES_BYTES)
        return Agreed(size, TransmissionFlag(flags), MAX_PAYLOAD_BYTES)

    def _send(self, option: Opt, data: bytes = b"") -> None:
        self.sock.sendall(OPTION_HEADER.pack(OPTION_MAGIC, option, len(data)) + data)

    def _reply(self) -> tuple[int, bytes]:
        magic, _option, kind, length = OPTION_REPLY.unpack(recv_exactly(self.sock, OPTION_REPLY.size))
        if magic != OPTION_REPLY_MAGIC or length > _MAX_REPLY_BYTES:
            raise Unavailable(f"{self._address.uri}: not an answer of an NBD server", "check the address")
        return kind, recv_exactly(self.sock, length)

    def _refused(self, kind: int, data: bytes) -> CdpError:
        where, text = self._address.uri, data.decode("utf-8", "replace")
        if kind == Rep.ERR_TLS_REQD:
            return InvalidRequest(f"{where}: the server requires TLS", "write nbds instead of nbd in the address")
        if kind == Rep.ERR_UNKNOWN:
            return NotFound(f"{where}: no export {self._address.export!r}: {text}", "check the part after the host")
        if kind & _ERROR:
            return Unavailable(f"{where}: refused: {text or hex(kind)}", "see the server's log")
        return Unavailable(f"{where}: unexpected answer {kind:#x}", "see the server's log")


def recv_exactly(sock: socket.socket, count: int) -> bytes:
    """`count` bytes. Raises EOFError where the connection ends before, OSError."""
    data = bytearray(count)
    recv_into(sock, memoryview(data))
    return bytes(data)


def recv_into(sock: socket.socket, view: memoryview) -> None:
    """Fill a writable buffer of bytes. Raises EOFError where the connection ends before, OSError."""
    while view:
        got = sock.recv_into(view)
        if not got:
            raise EOFError("the server closed the connection")
        view = view[got:]


def request_header(command: Command, cookie: int, offset: int = 0, length: int = 0, flags: int = 0) -> bytes:
    """The bytes of a request before its payload."""
    return REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length)


def refusal(where: str, errno: int) -> CdpError:
    """The error that a server's reply stands for: OutOfSpace or Unavailable."""
    kind = OutOfSpace if errno == _ENOSPC else Unavailable
    return kind(f"{where}: the server refused a request: {os.strerror(errno)}", "see the server's log")


def disconnect(sock: socket.socket) -> None:
    """NBD_CMD_DISC: the server then ends the connection in peace. No error where it is gone."""
    try:
        sock.sendall(request_header(Command.DISC, 0))
    except OSError:
        pass


class Client:
    """`with Client("nbd+unix:///web@-10m?socket=PATH") as disk: disk.pread(512, 0)`: one request at a time. One thread.

    where      a URI, or what parse() or unix_address() gave
    timeout_s  of each step of the handshake and of each request
    block_status  whether status() is to know holes, where the server tells

    Raises what connect() raises; every request OutOfSpace and Unavailable, which also says that the connection is lost.
    """

    def __init__(self, where: str | ExportAddress, timeout_s: float = 60.0, *, block_status: bool = False):
        address = parse(where) if isinstance(where, str) else where
        self._where = address.uri
        self._cookie = 0
        self._sock, agreed = connect(address, timeout_s, block_status=block_status)
        self._structured, self._context_id = agreed.structured, agreed.context_id
        self._sock.settimeout(timeout_s)
        self.size_bytes, self.flags = agreed.size_bytes, agreed.flags

    def is_gone(self) -> bool:
        """Whether the connection has ended, between two requests: nothing else comes then."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def pread(self, length: int, offset: int) -> bytes:
        """`length` bytes from byte `offset` on."""
        return self._request(Command.READ, offset, length, reply_bytes=length)

    def status(self, length: int, offset: int) -> list[tuple[int, StatusFlag]]:
        """What is in the range from byte `offset` on: (bytes, flags) in order, one or more; they may end before the
        range does, and go past its end. All data where the server does not tell."""
        if self._context_id is None:
            return [(length, StatusFlag(0))]
        data = self._request(Command.BLOCK_STATUS, offset, min(length, MAX_STATUS_BYTES))
        found = [(size, StatusFlag(flags & (StatusFlag.HOLE | StatusFlag.ZERO))) for size, flags in
                 DESCRIPTOR.iter_unpack(data[4:])] if len(data) % DESCRIPTOR.size == 4 else []
        if not found or int.from_bytes(data[:4]) != self._context_id or any(size == 0 for size, _ in found):
            raise Unavailable(f"{self._where}: the server sent what is no block status", "see the server's log")
        return found

    def pwrite(self, data: bytes, offset: int, *, fua: bool = False) -> None:
        """fua: durable when this returns."""
        self._request(Command.WRITE, offset, len(data), data, CommandFlag.FUA if fua else 0)

    def trim(self, length: int, offset: int) -> None:
        """The range may become a hole."""
        self._request(Command.TRIM, offset, length)

    def flush(self) -> None:
        """Everything written before is durable when this returns."""
        self._request(Command.FLUSH)

    def _request(self, command: Command, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0,
                 reply_bytes: int = 0) -> bytes:
        self._cookie += 1
        try:
            self._sock.sendall(request_header(command, self._cookie, offset, length, flags) + data)
            if self._structured:
                return self._chunks(command, offset, reply_bytes)
            magic, errno, cookie = SIMPLE_REPLY.unpack(recv_exactly(self._sock, SIMPLE_REPLY.size))
            if magic != SIMPLE_REPLY_MAGIC or cookie != self._cookie:
                raise Unavailable(f"{self._where}: the server sent what is no reply", "see the server's log")
            if errno:
                raise refusal(self._where, errno)
            return recv_exactly(self._sock, reply_bytes)
        except (OSError, EOFError) as error:
            raise Unavailable(f"{self._where}: {error}", "see whether the server still runs") from None

    def _chunks(self, command: Command, offset: int, reply_bytes: int) -> bytes:
        """A structured reply; a simple one where it has no payload."""
        data, status, errno = bytearray(reply_bytes), b"", 0
        while True:
            magic = int.from_bytes(first := recv_exactly(self._sock, 4))
            if magic == SIMPLE_REPLY_MAGIC and command not in (Command.READ, Command.BLOCK_STATUS):
                _, errno, cookie = SIMPLE_REPLY.unpack(first + recv_exactly(self._sock, SIMPLE_REPLY.size - 4))
                done = True
            else:
                _, flags, kind, cookie, length = CHUNK.unpack(first + recv_exactly(self._sock, CHUNK.size - 4))
                if magic != CHUNK_MAGIC or length > _MAX_REPLY_BYTES + reply_bytes:
                    raise Unavailable(f"{self._where}: the server sent what is no reply", "see the server's log")
                body, done = recv_exactly(self._sock, length), bool(flags & CHUNK_DONE)
                if kind >= Chunk.ERROR:
                    errno = errno or int.from_bytes(body[:4])
                elif kind == Chunk.OFFSET_DATA and command == Command.READ:
                    at = int.from_bytes(body[:8]) - offset
                    if at < 0 or at + len(body) - 8 > reply_bytes:
                        raise Unavailable(f"{self._where}: the server sent data of another place", "see its log")
                    data[at:at + len(body) - 8] = body[8:]
                elif kind == Chunk.BLOCK_STATUS and command == Command.BLOCK_STATUS:
                    status = body
            if cookie != self._cookie:
                raise Unavailable(f"{self._where}: the server sent what is no reply", "see the server's log")
            if done:
                break
        if errno:
            raise refusal(self._where, errno)
        return status or bytes(data)

    def close(self) -> None:
        """Say goodbye. Twice is no error."""
        disconnect(self._sock)
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
