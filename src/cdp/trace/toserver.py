"""A replay onto an NBD server, ours or another: the client's handshake, and a check of what the server holds at the end.

Fixed newstyle, NBD_OPT_GO (NBD_OPT_EXPORT_NAME where a server does not know it), simple replies, no TLS. The section names are those of
doc/proto.md of the NetworkBlockDevice/nbd project.
"""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from cdp.trace.info import TraceInfo
from cdp.trace.model import Kind
from cdp.trace.reader import Trace
from cdp.trace.replay import Disk, Outcome, Replay
from cdp.trace.session import Session
from cdp.trace.shape import MAX_REQUEST_BYTES, Shape
from cdp.trace.verify import MAX_PIECES, Pieces, Verified, cells_of, changes_of, compare
from cdpcore import replaycheck
from cdpcore.errors import InvalidRequest, NotFound, Unavailable
from cdpcore.nbdclient import NbdDriver

PORT = 10809
TIMEOUT_SECONDS = 10.0
_GREETING, _OPTION, _REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x0003E889045565A9
_GO, _EXPORT_NAME = 7, 1
_ACK, _INFO, _ERROR, _UNSUPPORTED, _TLS_REQUIRED, _UNKNOWN = 1, 3, 1 << 31, (1 << 31) + 1, (1 << 31) + 5, (1 << 31) + 6
_MAX_REPLY = 1 << 20
_READ_ONLY = 2


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
        raise InvalidRequest(f"{uri}: replay speaks NBD without TLS", "give it an address without TLS")
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
                    f"{address.uri}: the server insists on TLS, which replay does not speak",
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


@dataclass
class Server:
    """An open connection and the one disk behind it."""

    address: Address
    export: Export
    disk: Disk
    session: Session

    def run(self, replay: Replay, progress: Callable[[Outcome], None] | None) -> Outcome:
        return replay.run(progress)

    def report(self) -> dict[str, Any]:
        driver = self.disk.driver
        return {
            "device": self.disk.name,
            "uri": self.address.uri,
            "size_bytes": self.export.size_bytes,
            "key": f"{self.session.key:08x}",
            "changes": driver.changes,
            "left_out": driver.left_out,
            "wrapped": self.disk.shape.wrapped,
            "split": self.disk.shape.split,
            "reads_checked_sectors": driver.sectors_checked,
        }

    def verify(self, trace: Trace, replay: Replay) -> dict[str, Any]:
        """What was written last, read back and compared. What was trimmed is not looked at: a server may leave it as it was."""
        found = Verified(moments=1)
        pieces = Pieces(MAX_PIECES, self.session.size_bytes)
        shape = self.session.shape()
        left = self.disk.driver.numbered
        for changes in changes_of(trace, self.session, shape):
            found.changes_in_trace += len(changes)
            changes = changes[:left]
            pieces.add(changes, found.changes_in_volume + 1)
            found.changes_in_volume += len(changes)
            left -= len(changes)
        kept = pieces.result()
        found.share_modelled = pieces.share
        start, end, low, high = cells_of(kept)
        owner, touched = np.zeros(len(start), np.uint64), np.zeros(len(start), np.uint8)
        replaycheck.paint(owner, touched, low, high, 0, len(kept))
        wrote = kept["kind"][owner.astype(np.intp) - 1] != Kind.TRIM if len(kept) else np.zeros(0, bool)
        compare(
            self.disk.driver.target(),
            start[wrote],
            end[wrote],
            owner[wrote],
            kept,
            trace,
            self.session,
            "at the end",
            found,
        )
        return {"volume": self.address.uri, **found.to_json()}


@contextmanager
def opened(
    uri: str,
    trace: Trace,
    info: TraceInfo | None,
    wanted: tuple[str, ...],
    *,
    depth: int,
    wrap: bool,
    check_reads: bool,
    limit: int | None,
) -> Iterator[Server]:
    """Connected, and the trace known to fit. Raises InvalidRequest where it does not."""
    from cdp.trace.tovolumes import place

    address = parse(uri)
    where = place(address.uri, trace, info, wanted)[0]
    sock, export = connect(address)
    with sock:
        if export.flags & _READ_ONLY:
            raise Unavailable(f"{uri}: the export is read-only", "give one that can be written")
        if where.need_bytes is not None and where.need_bytes > export.size_bytes and not wrap:
            raise InvalidRequest(
                f"{uri} has {export.size_bytes} bytes, the trace reaches to byte {where.need_bytes}",
                "use a larger export, or fold what is beyond with --wrap",
            )
        key = secrets.randbits(32) | 1
        most = min(MAX_REQUEST_BYTES, export.max_bytes)
        driver = NbdDriver(
            sock,
            key=key,
            max_bytes=most,
            size_bytes=export.size_bytes,
            export_flags=export.flags,
            depth=depth,
            pattern=not trace.has_payload,
        )
        driver.check_reads = check_reads and not trace.has_payload
        session = Session(
            uri,
            key,
            0,
            [source.path for source in trace.sources],
            {},
            where.device,
            limit,
            export.size_bytes,
            most,
            wrap,
            trace.has_payload,
        )
        disk = Disk(
            where.device or address.export or "export", where.index, driver, Shape(export.size_bytes, most, wrap)
        )
        yield Server(address, export, disk, session)
        # NBD_CMD_DISC: the server then ends the connection in peace.
        try:
            sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 0, 0, 0))
        except OSError:
            pass
