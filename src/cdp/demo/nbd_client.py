"""A small NBD client for the demo: one connection, one request at a time, simple replies.

It shares no code with the server, so what it reads back is a second opinion. Standard library only. One thread.
"""
from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

PIECE_BYTES = 1 << 20

_GREETING = struct.Struct(">8s8sH")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")

_FIXED_NEWSTYLE_NO_ZEROES = 3
_OPT_GO = 7
_REP_ACK, _REP_INFO, _REP_ERROR = 1, 3, 1 << 31
_INFO_EXPORT = 0
_READ, _WRITE, _DISC, _FLUSH, _TRIM = 0, 1, 2, 3, 4


class NbdError(Exception):
    """The server refused; str() is its message or an errno."""


class NbdClient:
    """`with NbdClient(socket_path, "web@-10m") as disk: disk.pread(512, 0)`."""

    def __init__(self, socket_path: str, export: str, timeout_s: float = 60.0):
        self._cookie = 0
        self._sock = socket.socket(socket.AF_UNIX)
        try:
            self._sock.settimeout(timeout_s)
            self._sock.connect(socket_path)
            self.size_bytes = self._go(export)
        except BaseException:
            self._sock.close()
            raise

    def _go(self, export: str) -> int:
        magic, option_magic, _flags = _GREETING.unpack(self._recv(_GREETING.size))
        if (magic, option_magic) != (b"NBDMAGIC", b"IHAVEOPT"):
            raise NbdError("not an NBD server")
        name = export.encode()
        body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self._sock.sendall(struct.pack(">I8sII", _FIXED_NEWSTYLE_NO_ZEROES, b"IHAVEOPT", _OPT_GO, len(body)) + body)
        size_bytes = 0
        while True:
            _magic, _option, kind, length = _OPTION_REPLY.unpack(self._recv(_OPTION_REPLY.size))
            payload = self._recv(length)
            if kind & _REP_ERROR:
                raise NbdError(payload.decode(errors="replace") or f"refused ({kind:#x})")
            if kind == _REP_INFO and struct.unpack_from(">H", payload)[0] == _INFO_EXPORT:
                size_bytes = struct.unpack_from(">Q", payload, 2)[0]
            if kind == _REP_ACK:
                return size_bytes

    def pread(self, length: int, offset: int) -> bytes:
        return self._request(_READ, offset, length, reply_bytes=length)

    def pwrite(self, data: bytes, offset: int) -> None:
        self._request(_WRITE, offset, len(data), data)

    def trim(self, length: int, offset: int) -> None:
        self._request(_TRIM, offset, length)

    def flush(self) -> None:
        self._request(_FLUSH, 0, 0)

    def _request(self, kind: int, offset: int, length: int, data: bytes = b"", reply_bytes: int = 0) -> bytes:
        self._cookie += 1
        self._sock.sendall(_REQUEST.pack(0x25609513, 0, kind, self._cookie, offset, length) + data)
        _magic, error, cookie = _REPLY.unpack(self._recv(_REPLY.size))
        if error or cookie != self._cookie:
            raise NbdError(f"errno {error}" if error else "a reply to another request")
        return self._recv(reply_bytes)

    def _recv(self, count: int) -> bytes:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            got = self._sock.recv_into(view)
            if not got:
                raise NbdError("the server hung up")
            view = view[got:]
        return bytes(buffer)

    def close(self) -> None:
        try:
            self._sock.sendall(_REQUEST.pack(0x25609513, 0, _DISC, 0, 0, 0))
        except OSError:
            pass  # the server has gone: there is nothing to say goodbye to
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
