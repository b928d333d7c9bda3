"""Messages between a volume's owner and its standby, over a stream of bytes.

Each side begins with MAGIC. Then messages: a head of 32 bytes (kind, number of a segment, offset, value, length of what
follows), and that. What is JSON, is an object of at most MOST_JSON bytes.

    standby   HELLO (JSON: who it is, what it has), ACK (all up to record `value`, which ends at `offset` of segment
              `number`, is durable)
    owner     OFFER (JSON: the volume), DATA (bytes of segment `number` from `offset` on), MARK (segment `number` was
              sent up to `offset`, which ends record `value`), SEALED (it is complete with `offset` bytes, and ends
              with record `value`), DESCRIPTION (JSON: volume.json and retention.json), BASE (bytes of the base),
              COMPLETE (JSON, as DESCRIPTION: the first copy is), END (JSON: why there is no more)

Threading: a Channel is read by one thread and written by one.
"""
from __future__ import annotations

import json
import select
import socket
import struct
from dataclasses import dataclass
from typing import Any

from cdpcore.base.errors import Corruption, Unavailable

MAGIC = b"cdpstby1"
HEAD = struct.Struct("<IIQQQ")
MOST_JSON = 1 << 20
MOST_DATA = 20 << 20
PIECE_BYTES = 1 << 20
SILENCE_S = 15.0        # without a byte for so long, the other side is gone
ALIVE_S = 2.0           # an idle owner sends a mark so often
BUFFER_BYTES = 4 << 20

HELLO, ACK = 1, 2
OFFER, DATA, MARK, SEALED, DESCRIPTION, BASE, COMPLETE, END = 16, 17, 18, 19, 20, 21, 22, 23
_JSON = {HELLO, OFFER, DESCRIPTION, COMPLETE, END}
_DATA = {DATA, BASE}


class Gone(Exception):
    """The other side is."""


@dataclass(frozen=True)
class Message:
    kind: int
    number: int
    offset: int
    value: int
    body: bytearray

    @property
    def fields(self) -> dict[str, Any]:
        """Of JSON. Raises Corruption."""
        try:
            found = json.loads(bytes(self.body))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Corruption("a message of the other host is not JSON", "see whether both run this version of cdp")
        return found


class Channel:
    """One connection. Closed by its owner."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        sock.settimeout(SILENCE_S)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_bytes = 0
        self._begun = self._met = False

    def send(self, kind: int, number: int = 0, offset: int = 0, value: int = 0,
             body: bytes | bytearray | memoryview = b"") -> None:
        """Raises Gone."""
        head = HEAD.pack(kind, number, offset, value, len(body))
        if not self._begun:
            self._begun, head = True, MAGIC + head
        try:
            if len(body) < PIECE_BYTES // 16:
                self.sock.sendall(head + body)
            else:
                self.sock.sendall(head)
                self.sock.sendall(body)
        except OSError as error:
            raise Gone(str(error)) from None
        self.sent_bytes += len(head) + len(body)

    def send_json(self, kind: int, fields: dict[str, Any]) -> None:
        self.send(kind, body=json.dumps(fields).encode())

    def receive(self) -> Message:
        """The next one. Raises Gone, Corruption for what is no message."""
        if not self._met:
            if self._take(len(MAGIC)) != MAGIC:
                raise Corruption("the other side does not speak this protocol",
                                 "see whether the address is that of --standby-listen, and both run this version")
            self._met = True
        kind, number, offset, value, length = HEAD.unpack(self._take(HEAD.size))
        most = MOST_JSON if kind in _JSON else MOST_DATA if kind in _DATA else 0
        if kind not in (ACK, MARK, SEALED, *_JSON, *_DATA) or length > most:
            raise Corruption(f"a message of kind {kind} and {length} bytes", "see whether both run this version of cdp")
        return Message(kind, number, offset, value, self._take(length))

    def waits(self) -> bool:
        """Whether bytes are there to be received."""
        return bool(select.select([self.sock], [], [], 0)[0])

    def _take(self, n: int) -> bytearray:
        room = bytearray(n)
        view, got = memoryview(room), 0
        try:
            while got < n:
                count = self.sock.recv_into(view[got:])
                if not count:
                    raise Gone("it closed the connection")
                got += count
        except OSError as error:
            raise Gone(str(error)) from None
        return room

    def close(self) -> None:
        """Idempotent; from any thread: who is in send() or receive() gets Gone."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


def gone(error: Gone, who: str) -> Unavailable:
    return Unavailable(f"{who}: {error}", "it is tried again")
