"""NBD clients that mean harm, against a real `cdp serve`: they stall at every stage, send halves, floods of options and
of requests, connect by the thousand, and take no replies. The server's memory, threads and descriptors stay bounded,
and others are served meanwhile."""
from __future__ import annotations

import contextlib
import os
import re
import resource
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.interop import World, world  # noqa: F401
from support.nbd import (
    DEADLINE_S,
    ERR_TOO_BIG,
    ERR_UNKNOWN,
    GO,
    INFO,
    LIST,
    MIB,
    READ,
    SET_META,
    STRUCTURED,
    Talk,
    meta,
    name_and_infos,
    option,
    until,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no resident set size to read here")

WRITE, MAGIC = 1, 0x25609513
SIZE_MIB = 64
HANDSHAKES, CONNECTIONS = 16, 128       # the server's bounds
FLOODER = r"""
import socket, struct, sys
path, depth = sys.argv[1], int(sys.argv[2])
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
sock.recv(18, socket.MSG_WAITALL)
sock.sendall(struct.pack(">I", 3))
sock.sendall(struct.pack(">QIII", 0x49484156454F5054, 7, 9, 3) + b"web" + b"\0\0")
while struct.unpack(">QIII", sock.recv(20, socket.MSG_WAITALL))[2] != 1:
    sock.recv(12, socket.MSG_WAITALL)
batch = b"".join(struct.pack(">IHHQQI", 0x25609513, 0, 1, n, n * 512, 512) + bytes(512) for n in range(depth))
while True:
    sock.sendall(batch)
    assert len(sock.recv(16 * depth, socket.MSG_WAITALL)) == 16 * depth
"""


def request(command: int, offset: int, length: int) -> bytes:
    return struct.pack(">IHHQQI", MAGIC, 0, command, 7, offset, length)


class Victim:
    """A server of the volume web, what it takes, and a client that behaves."""

    def __init__(self, world: World, *args: str):  # noqa: F811
        world.cdp("create", "web", "--size", f"{SIZE_MIB}M")
        world.serve("web", *args)
        self.world, self.pid = world, world.server.pid
        self.sockets = contextlib.ExitStack()
        self.honest()
        self.before = self.resident_bytes()
        self.files_before, self.threads_before = self.files(), self.threads()

    def dial(self) -> socket.socket:
        sock = self.sockets.enter_context(socket.socket(socket.AF_UNIX))
        sock.settimeout(DEADLINE_S)
        sock.connect(str(self.world.socket))
        return sock

    def honest(self) -> None:
        """It gets what it asks for."""
        data = os.urandom(4096)
        with self.dial() as sock:
            wire = Talk(sock).go("web", structured=False)
            assert wire.ask(request(WRITE, 32 * MIB, 4096) + data).error == 0
            assert wire.ask(request(READ, 32 * MIB, 4096), 4096).data == data

    def _status(self, field: str) -> int:
        found = re.search(rf"^{field}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found
        return int(found[1])

    def resident_bytes(self) -> int:
        return self._status("VmRSS") << 10

    def grown_bytes(self) -> int:
        return self.resident_bytes() - self.before

    def threads(self) -> int:
        return self._status("Threads")

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def hang_up(self) -> None:
        """All clients go: nothing of them stays, and a new one is served."""
        self.sockets.close()
        until(lambda: self.files() <= self.files_before + 2 and self.threads() <= self.threads_before + 2,
              "the end of all connections")
        self.honest()


@pytest.fixture
def victim(world: World):  # noqa: F811
    made = Victim(world)
    with made.sockets:
        yield made
    assert world.server.poll() is None
    world.stop()


def greeted(sock: socket.socket, data: bytes = b"") -> None:
    Talk(sock).sock.sendall(data)


IN_THE_HANDSHAKE: dict[str, Callable[[socket.socket], object]] = {
    "half of the flags": lambda sock: sock.sendall(b"\0\0"),
    "the flags": greeted,
    "half a header": lambda sock: greeted(sock, option(INFO, b"")[:9]),
    "a header without its data": lambda sock: greeted(sock, option(INFO, b"", 60_000)),
    "half of the data": lambda sock: greeted(sock, option(INFO, name_and_infos("web"), 5000)),
    "half of what is too long": lambda sock: greeted(sock, option(INFO, bytes(70_000), 1 << 20)),
    "one option and no other": lambda sock: Talk(sock).ask(INFO, name_and_infos("web")),
    "replies that it does not read": lambda sock: greeted(sock, option(LIST) * 250),
}


def test_stalled_handshakes_keep_nobody_out(victim: Victim):
    """Four times as many as there are handshakes at a time, at every stage."""
    for _ in range(4 * HANDSHAKES // len(IN_THE_HANDSHAKE)):
        for stall in IN_THE_HANDSHAKE.values():
            sock = victim.dial()
            threading.Thread(target=quietly, args=(stall, sock), daemon=True).start()
    victim.honest()
    assert victim.threads() <= victim.threads_before + HANDSHAKES + 2
    assert victim.grown_bytes() < 16 * MIB
    victim.hang_up()


def quietly(stall: Callable[[socket.socket], object], sock: socket.socket) -> None:
    with contextlib.suppress(OSError, AssertionError):       # it was turned away, or the test is over
        stall(sock)


IN_TRANSMISSION = {
    "nothing": b"",
    "half a header": request(READ, 0, 4096)[:13],
    "a write without data": request(WRITE, 0, 32 * MIB),
    "half a write": request(WRITE, 0, 32 * MIB) + bytes(MIB),
    "half of a write that is refused": request(WRITE, 1 << 40, 32 * MIB) + bytes(MIB),
    "a request and half of the next": request(READ, 0, 512) + request(WRITE, 0, 512)[:20],
}


def test_half_requests_hold_up_nobody(victim: Victim):
    each = 8
    for data in IN_TRANSMISSION.values():
        for _ in range(each):
            sock = victim.dial()
            Talk(sock).go("web")
            sock.sendall(data)
    victim.honest()
    assert victim.threads() <= victim.threads_before + each * len(IN_TRANSMISSION) + 2
    assert victim.grown_bytes() < (each * len(IN_TRANSMISSION) + 16) * MIB, "what was sent, and little more"
    victim.hang_up()


def test_a_hundred_thousand_options(victim: Victim):
    sock = victim.dial()
    Talk(sock)

    def send() -> None:
        with contextlib.suppress(OSError):
            for _ in range(100):
                sock.sendall(option(STRUCTURED) * 1000)

    sender = threading.Thread(target=send)
    sender.start()
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            received += part
    sender.join()
    assert len(received) == 256 * 20, "the 256 that are answered"
    victim.honest()
    assert victim.grown_bytes() < 16 * MIB
    victim.hang_up()


def test_options_that_cost_most(victim: Victim):
    """Each opens a moment, asks for thousands of contexts, or is a MiB of data that is skipped."""
    queries = ["base:allocation"] * 3000
    for _ in range(4):
        talk = Talk(victim.dial())
        talk.ask(STRUCTURED)
        for n in range(60):
            assert talk.ask(INFO, name_and_infos(f"web@#{n % 2}", *range(1000)))[-1][0] == 1
            assert talk.ask(SET_META, meta("web", *queries))[-1][0] == 1
            assert talk.ask(LIST, bytes(MIB))[-1][0] == ERR_TOO_BIG
    victim.honest()
    assert victim.grown_bytes() < 24 * MIB
    victim.hang_up()


@pytest.mark.parametrize("name", ["../web", "web/..", "web/../web", "/etc/passwd", "web/images/../..", "web/./x",
                                  "web//", "web@../x", "web/.deleted", "web\n", "web/" + "a/" * 1000,
                                  "web@" + "9" * 4000],
                         ids=range(12))
def test_a_name_does_not_leave_the_volume(victim: Victim, name: str):
    talk = Talk(victim.dial())
    for number in (INFO, GO):
        kind, text = talk.refusal(number, name_and_infos(name))
        assert kind == ERR_UNKNOWN and str(victim.world.path) not in text, (kind, text)


def test_thousands_of_connections(victim: Victim):
    """As many as this process may have open: those beyond the bounds wait in the kernel's queue, or are refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 6000 if hard == resource.RLIM_INFINITY else min(6000, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    try:
        first = Talk(victim.dial()).go("web", structured=False)
        for _ in range(CONNECTIONS - 1):
            Talk(victim.dial()).go("web")
        kind, text = Talk(victim.dial()).refusal(GO, name_and_infos("web"))
        assert "128 connections are served" in text, (kind, text)
        refused = 0
        attempts = most - len(os.listdir("/proc/self/fd")) - 50
        for _ in range(attempts):
            sock = victim.sockets.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            refused += sock.connect_ex(str(victim.world.socket)) != 0
        print(f"{attempts} more connections, {refused} refused by the kernel")
        assert attempts > 500 and refused
        for n in range(100):
            assert first.ask(request(READ, n * 512, 512), 512).error == 0
        assert victim.threads() <= victim.threads_before + CONNECTIONS + HANDSHAKES + 8
        assert victim.files() <= victim.files_before + 3 * CONNECTIONS + HANDSHAKES + 8
        assert victim.grown_bytes() < 96 * MIB
        victim.hang_up()
    finally:
        victim.sockets.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_without_descriptors_goes_on(victim: Victim):
    """Its limit is reached by clients: those that it has are served, and so are others when there is room again."""
    if not hasattr(resource, "prlimit"):
        pytest.skip("no prlimit")
    first = Talk(victim.dial()).go("web", structured=False)
    assert first.ask(request(WRITE, 0, 512) + bytes(512)).error == 0
    limit = victim.files() + HANDSHAKES // 2
    resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (limit, resource.prlimit(victim.pid,
                                                                                 resource.RLIMIT_NOFILE)[1]))
    for _ in range(60):
        victim.dial()
    until(lambda: "accepting a connection" in victim.world.log.read_text(), "the limit")
    for n in range(100):
        assert first.ask(request(WRITE, n * 512, 512) + bytes(512)).error == 0
    time.sleep(0.5)
    assert victim.world.log.read_text().count("accepting a connection") == 1, "it is said once"
    victim.hang_up()


def test_replies_that_nobody_reads(victim: Victim):
    with victim.dial() as sock:
        wire = Talk(sock).go("web", structured=False)
        for n in range(SIZE_MIB // 8):
            assert wire.ask(request(WRITE, n * 8 * MIB, 8 * MIB) + os.urandom(8 * MIB)).error == 0
    victim.honest()
    until(lambda: victim.threads() <= victim.threads_before + 2, "rest")
    before = victim.resident_bytes()
    hogs = 4
    for _ in range(hogs):
        sock = victim.dial()
        Talk(sock).go("web")
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(b"".join(request(READ, n % SIZE_MIB * MIB, MIB) for n in range(1000)))
    victim.honest()
    assert victim.resident_bytes() - before < hogs * 130 * MIB + 16 * MIB, "the bound of a connection"
    victim.sockets.close()
    victim.hang_up()
    until(lambda: victim.resident_bytes() - before < 32 * MIB, "giving it back")


def others(victim: Victim, count: int, requests: int) -> list[int]:
    """`count` clients, each with one 512-byte write at a time, until they had `requests` answers: how many each had."""
    answers = [0] * count
    with selectors.DefaultSelector() as selector:
        for n in range(count):
            sock = victim.dial()
            Talk(sock).go("web", structured=False)
            sock.sendall(request(WRITE, (1 + n) * MIB, 512) + bytes(512))
            selector.register(sock, selectors.EVENT_READ, n)
        until_s = time.monotonic() + 3 * DEADLINE_S
        while sum(answers) < requests:
            assert time.monotonic() < until_s, answers
            for key, _ in selector.select(1.0):
                assert len(key.fileobj.recv(16, socket.MSG_WAITALL)) == 16      # type: ignore[union-attr]
                answers[key.data] += 1
                key.fileobj.sendall(request(WRITE, (1 + key.data) * MIB, 512) + bytes(512))     # type: ignore[union-attr]
    return answers


def test_a_flood_on_one_of_twenty_connections(victim: Victim):
    """256 tiny writes at a time against one: each of the others goes on. (Over so short a time the system's scheduler
    is not fair to the last per cent, with or without a flood.)"""
    flood = subprocess.Popen([sys.executable, "-c", FLOODER, str(victim.world.socket), "256"])
    try:
        answers = others(victim, 19, 19 * 2000)
        assert flood.poll() is None
        print(f"of 19 beside a flood, the least served had {min(answers)} answers, the most served {max(answers)}")
        assert min(answers) > 2000 // 20, answers
        assert victim.grown_bytes() < 128 * MIB
    finally:
        flood.kill()
        flood.wait()
    victim.hang_up()


def test_half_sent_writes_share_a_bound(world: World):  # noqa: F811
    """However many large writes are begun and not ended, the server's memory is bounded; what is small is served."""
    made = Victim(world, "--connection-memory-bytes", "40MiB")
    with made.sockets:
        for _ in range(8):
            sock = made.dial()
            Talk(sock).go("web")
            threading.Thread(target=quietly, args=(lambda sock: sock.sendall(request(WRITE, 0, 32 * MIB) +
                                                                             bytes(31 * MIB)), sock),
                             daemon=True).start()
        until(lambda: made.grown_bytes() > 30 * MIB, "the first of them")
        for _ in range(20):
            made.honest()
        said = metrics(world.sockets / "admin.sock")
        assert said["cdp_connection_memory_limit_bytes"] == 40 * MIB
        assert 30 * MIB < said["cdp_connection_memory_bytes"] <= 40 * MIB and said["cdp_connections_waiting"] >= 1
        assert made.grown_bytes() < (40 + 8 + 16) * MIB, "the bound, and little more"
        made.hang_up()
        until(lambda: metrics(world.sockets / "admin.sock")["cdp_connection_memory_bytes"] == 0, "giving it back")
    world.stop()


def metrics(path: Path) -> dict[str, float]:
    """Those of the server without labels."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = sock.makefile("rb").read().decode()
    return {line.split()[0]: float(line.split()[1]) for line in text.splitlines()
            if re.fullmatch(r"cdp_\w+ [0-9.e+]+", line)}
