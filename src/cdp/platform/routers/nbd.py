"""A remote NBD export as a disk: many requests in flight on one connection, answers in any order.

Invariants
  1. A request is in _flights until the answer to its last command came, or the connection was lost.
  2. When the connection is lost, every request fails with PathLost, and so does each later one: who wants to go on opens another router.
Threading: one thread sends, one receives; so that a server which waits for its answers to be taken never waits for ever.
"""
from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from cdp.nbd.client import connect, parse
from cdp.platform.api import PathLost
from cdp.platform.callers import Caller
from cdp.platform.routers.base import Router, log
from cdp.platform.structures import IoRequest, Op
from cdpcore.base.errors import CdpError, OutOfSpace, Unavailable

_READ, _WRITE, _DISC, _FLUSH, _TRIM, _ZEROES = 0, 1, 2, 3, 4, 6
_FUA, _NO_HOLE = 1, 2
_HAS_READ_ONLY, _HAS_FLUSH, _HAS_FUA, _HAS_ZEROES = 2, 4, 8, 64
_REQUEST, _ANSWER = 0x25609513, 0x67446698
_RANGE_BYTES = 1 << 30          # of one zeroing command
_ENOSPC = 28


@dataclass
class Flight:
    """A request and what of it is on the wire. Guarded by _lock."""

    request: IoRequest
    left: int                   # commands without an answer
    sync: bool = False          # a flush is to follow: the server has no FUA
    error: CdpError | None = None


class NbdRouter(Router):
    """NbdRouter(uri): nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH, without TLS. Raises what the handshake raises."""

    def __init__(self, uri: str):
        self._sock, export = connect(parse(uri))
        self._flags = export.flags
        self.size_bytes, self.read_only = export.size_bytes, bool(export.flags & _HAS_READ_ONLY)
        self._max_bytes = min(export.max_bytes, 32 << 20)
        super().__init__(uri)
        self._sender = Caller(f"nbd {uri}", log.error)
        self._lock = threading.Lock()
        self._flights: dict[int, tuple[Flight, memoryview | None]] = {}     # by cookie; of a read, where its data goes
        self._cookie = 0
        self._lost: PathLost | None = None
        self._receiver = threading.Thread(target=self._receive, name=f"nbd {uri}", daemon=True)
        self._receiver.start()

    # --- sending

    def _start(self, request: IoRequest) -> None:
        self._sender.post(partial(self._send_commands, request))

    def _send_commands(self, request: IoRequest) -> None:
        commands = self._commands(request)
        flight = Flight(request, len(commands), sync=request.fua and not self._flags & _HAS_FUA and bool(self._flags & _HAS_FLUSH))
        if not commands:
            self._finish(request, None)
            return
        for command, flags, offset, length, data in commands:
            self._send(flight, command, flags, offset, length, data)

    def _commands(self, request: IoRequest) -> list[tuple[int, int, int, int, memoryview | None]]:
        """(command, flags, offset, length, data) that a request becomes."""
        if request.op is Op.FLUSH:
            return [(_FLUSH, 0, 0, 0, None)] if self._flags & _HAS_FLUSH else []
        flags = _FUA if request.fua and self._flags & _HAS_FUA else 0
        buffer = request.buffer.cast("B") if request.buffer is not None else None
        command, most = (_READ if request.op is Op.READ else _WRITE), self._max_bytes
        if request.op in (Op.ZERO, Op.TRIM):    # a TRIM of NBD promises no zeros; zeroing that may leave a hole does
            if self._flags & _HAS_ZEROES:
                command, most = _ZEROES, _RANGE_BYTES
                flags |= _NO_HOLE if request.op is Op.ZERO else 0
            else:
                buffer = memoryview(bytes(min(request.length, most)))
        found = []
        for at in range(0, request.length, most):
            n = min(most, request.length - at)
            data = None if buffer is None else buffer[:n] if request.op in (Op.ZERO, Op.TRIM) else buffer[at:at + n]
            found.append((command, flags, request.offset + at, n, data))
        return found

    def _send(self, flight: Flight, command: int, flags: int, offset: int, length: int, data: memoryview | None) -> None:
        """On the sending thread."""
        with self._lock:
            lost = self._lost
            if not lost:
                self._cookie += 1
                self._flights[self._cookie] = flight, data if command == _READ else None
        if lost:
            self._answered(flight, lost)
            return
        try:
            self._sock.sendall(struct.pack(">IHHQQI", _REQUEST, flags, command, self._cookie, offset, length))
            if command == _WRITE:
                assert data is not None
                self._sock.sendall(data)
        except OSError:
            self._hang_up()         # the receiving thread then fails what is in flight, this too

    # --- receiving

    def _receive(self) -> None:
        try:
            while True:
                magic, error, cookie = struct.unpack(">IIQ", self._exactly(bytearray(16)))
                with self._lock:
                    flight, into = self._flights.get(cookie, (None, None))
                if magic != _ANSWER or flight is None:
                    raise OSError("the server sent something that is no answer")
                if into is not None and not error:
                    self._exactly(into)     # while it is in _flights, and so fails if the connection does
                with self._lock:
                    del self._flights[cookie]
                self._answered(flight, self._refusal(error) if error else None)
        except OSError as error:
            self._fail(f"{self.name}: {error.strerror or error}")

    def _exactly(self, into: Any) -> Any:
        view = memoryview(into)
        while view:
            n = self._sock.recv_into(view)
            if not n:
                raise OSError("the server closed the connection")
            view = view[n:]
        return into

    def _refusal(self, error: int) -> CdpError:
        kind = OutOfSpace if error == _ENOSPC else Unavailable
        return kind(f"{self.name}: the server refused a request: {os.strerror(error)}", "see the server's log")

    def _fail(self, text: str) -> None:
        lost = PathLost(text, "open it again when the server is back")
        with self._lock:
            self._lost = lost
            flights = [flight for flight, _ in self._flights.values()]
            self._flights.clear()
        for flight in flights:
            self._answered(flight, lost)

    def _answered(self, flight: Flight, error: CdpError | None) -> None:
        with self._lock:
            flight.left -= 1
            flight.error = flight.error or error
            if flight.left:
                return
            sync, flight.sync = flight.sync and not flight.error, False
            flight.left = int(sync)
        if sync:
            self._sender.post(partial(self._send, flight, _FLUSH, 0, 0, 0, None))
        else:
            self._finish(flight.request, flight.error)

    # --- end

    def _hang_up(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _shutdown(self) -> None:
        self._sender.close()
        with suppress(OSError):
            self._sock.sendall(struct.pack(">IHHQQI", _REQUEST, 0, _DISC, 0, 0, 0))
        self._hang_up()
        self._receiver.join()
        self._sock.close()
