"""What a client of the NBD server sends, from the first byte on: handshake, then requests, on a real export. The server
ends the connection or answers; it never raises anything else."""
from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

from cdp.nbd.handshake import Handshake, HandshakeError
from cdpcore.base.errors import NotFound
from cdpcore.bench.ram_disk import RamDisk
from cdpcore.nbd.connection import Connection
from cdpcore.nbd.memory import ConnectionMemory

DISK = RamDisk(1 << 16)
MEMORY = ConnectionMemory(64 << 20)
MOST_REPLY_BYTES = 64 << 20


class Export:
    capsule, read_only, size_bytes, description = DISK.capsule, False, DISK.size_bytes, "a disk"

    def context(self, name: str) -> None:
        return None

    def contexts(self) -> list[str]:
        return ["cdp:since:#1"]

    def close(self) -> None:
        pass


class Exports:
    def list(self) -> Sequence[tuple[str, str]]:
        return [("disk", "a disk"), ("disk@#1", "")]

    def open(self, name: str) -> Export:
        if name not in ("", "disk"):
            raise NotFound(f"no export {name!r}")
        return Export()


class Stream:
    def __init__(self, data: bytes):
        self.rest, self.sent = memoryview(data), 0

    def recv_exact(self, n: int) -> bytes:
        if n > len(self.rest):
            raise HandshakeError("the client hung up")
        data, self.rest = bytes(self.rest[:n]), self.rest[n:]
        return data

    def sendall(self, data: bytes) -> None:
        self.sent += len(data)
        assert self.sent < MOST_REPLY_BYTES

    def start_tls(self) -> None:
        raise AssertionError("TLS is off")


def _drain(sock: socket.socket) -> None:
    with suppress(OSError):
        while sock.recv(1 << 20):
            pass


def one(data: bytes) -> None:
    stream = Stream(data)
    try:
        agreed = Handshake(stream, Exports()).run()
    except HandshakeError:
        return
    if agreed is None:
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = threading.Thread(target=_drain, args=(theirs,), daemon=True)
        reader.start()
        connection = Connection(ours, agreed.export.capsule, memory=MEMORY, read_only=agreed.read_only,
                                structured=agreed.structured, context_id=agreed.context_id,
                                fast_zero=agreed.fast_zero)
        connection.resume(b"")
        with suppress(OSError):
            theirs.sendall(stream.rest)
        theirs.shutdown(socket.SHUT_WR)
        connection.serve()
        ours.shutdown(socket.SHUT_RDWR)
        reader.join()
    assert MEMORY.counters()["used_bytes"] == 0
