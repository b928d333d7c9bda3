"""A remote NBD export as a disk: many requests in flight on one connection, answers in any order.

Invariants
  1. A request is in _flights until the answer to its last command came, or the connection was lost.
  2. When the connection is lost, every request fails with PathLost, and so does each later one; another router must be
     opened then.
Threading: one thread sends, one receives, so that a server that waits for its replies to be taken does not block us.
"""
from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from cdp.nbd.client import connect, disconnect, parse, recv_into, refusal, request_header
from cdp.nbd.protocol import MAX_PAYLOAD_BYTES, SIMPLE_REPLY, SIMPLE_REPLY_MAGIC, Command, CommandFlag, TransmissionFlag
from cdp.platform.api import PathLost
from cdp.platform.callers import Caller
from cdp.platform.routers.base import Router, log
from cdp.platform.structures import IoRequest, Op
from cdpcore.base.errors import CdpError

_RANGE_BYTES = 1 << 30          # of one zeroing command


@dataclass
class Flight:
    """A request and what of it is on the wire. Guarded by _lock."""

    request: IoRequest
    left: int                   # commands without an answer
    sync: bool = False          # a flush is to follow: the server has no FUA
    error: CdpError | None = None


class NbdRouter(Router):
    """NbdRouter(uri): what cdp.nbd.client.parse() takes, TLS too. Raises what the handshake raises."""

    def __init__(self, uri: str):
        self._sock, agreed = connect(parse(uri))
        self._has = agreed.flags
        self.size_bytes, self.read_only = agreed.size_bytes, TransmissionFlag.READ_ONLY in agreed.flags
        self._max_bytes = min(agreed.max_bytes, MAX_PAYLOAD_BYTES)
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
        sync = request.fua and TransmissionFlag.SEND_FUA not in self._has and TransmissionFlag.SEND_FLUSH in self._has
        flight = Flight(request, len(commands), sync=sync)
        if not commands:
            self._finish(request, None)
            return
        for command, flags, offset, length, data in commands:
            self._send(flight, command, flags, offset, length, data)

    def _commands(self, request: IoRequest) -> list[tuple[Command, int, int, int, memoryview | None]]:
        """(command, flags, offset, length, data) that a request becomes."""
        if request.op is Op.FLUSH:
            return [(Command.FLUSH, 0, 0, 0, None)] if TransmissionFlag.SEND_FLUSH in self._has else []
        flags = int(CommandFlag.FUA) if request.fua and TransmissionFlag.SEND_FUA in self._has else 0
        buffer = request.buffer.cast("B") if request.buffer is not None else None
        command, most = (Command.READ if request.op is Op.READ else Command.WRITE), self._max_bytes
        if request.op in (Op.ZERO, Op.TRIM):    # a TRIM of NBD promises no zeros; zeroing that may leave a hole does
            if TransmissionFlag.SEND_WRITE_ZEROES in self._has:
                command, most = Command.WRITE_ZEROES, _RANGE_BYTES
                flags |= CommandFlag.NO_HOLE if request.op is Op.ZERO else 0
            else:
                buffer = memoryview(bytes(min(request.length, most)))
        found = []
        for at in range(0, request.length, most):
            n = min(most, request.length - at)
            data = None if buffer is None else buffer[:n] if request.op in (Op.ZERO, Op.TRIM) else buffer[at:at + n]
            found.append((command, flags, request.offset + at, n, data))
        return found

    def _send(self, flight: Flight, command: Command, flags: int, offset: int, length: int,
              data: memoryview | None) -> None:
        """On the sending thread."""
        with self._lock:
            lost = self._lost
            if not lost:
                self._cookie += 1
                self._flights[self._cookie] = flight, data if command == Command.READ else None
        if lost:
            self._answered(flight, lost)
            return
        try:
            self._sock.sendall(request_header(command, self._cookie, offset, length, flags))
            if command == Command.WRITE:
                assert data is not None
                self._sock.sendall(data)
        except OSError:
            self._hang_up()         # the receiving thread then fails what is in flight, this too

    # --- receiving

    def _receive(self) -> None:
        header = memoryview(bytearray(SIMPLE_REPLY.size))
        try:
            while True:
                recv_into(self._sock, header)
                magic, error, cookie = SIMPLE_REPLY.unpack(header)
                with self._lock:
                    flight, into = self._flights.get(cookie, (None, None))
                if magic != SIMPLE_REPLY_MAGIC or flight is None:
                    raise EOFError("the server sent what is no reply")
                if into is not None and not error:
                    recv_into(self._sock, into)     # while it is in _flights, and so fails if the connection does
                with self._lock:
                    del self._flights[cookie]
                self._answered(flight, refusal(self.name, error) if error else None)
        except (OSError, EOFError) as error:
            self._fail(f"{self.name}: {error}")

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
            self._sender.post(partial(self._send, flight, Command.FLUSH, 0, 0, 0, None))
        else:
            self._finish(flight.request, flight.error)

    # --- end

    def _hang_up(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _shutdown(self) -> None:
        self._sender.close()
        disconnect(self._sock)
        self._hang_up()
        self._receiver.join()
        self._sock.close()
