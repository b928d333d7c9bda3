"""The memory that connections share for large requests: its bound, whose turn it is, and who is cut off; of a server's
connections and of a gateway's."""
from __future__ import annotations

import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.ha import SETTINGS, Gate, gate
from support.nbd import DEADLINE_S, FLUSH, MIB, READ, WRITE, Served, Spy, request, served, until, write

import cdp
from cdpcore.base.errors import InvalidRequest
from cdpcore.bench.ram_disk import RamDisk
from cdpcore.nbd.connection import End
from cdpcore.nbd.memory import LEAST_BYTES, ConnectionMemory

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

SIZE = 64 * MIB
LARGE = 32 * MIB

Client = Served | Gate
Connect = Callable[[ConnectionMemory], Client]


@pytest.fixture(params=["server", "gateway"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connect]:
    disk = RamDisk(SIZE)
    with ExitStack() as stack:
        if request.param == "gateway":
            disk = stack.enter_context(cdp.create(tmp_path / "v", size=SIZE, settings=SETTINGS))
        def make(memory: ConnectionMemory) -> Client:
            if request.param == "server":
                return stack.enter_context(served(disk, memory=memory))
            made = stack.enter_context(gate(SIZE, memory=memory))
            stack.enter_context(made.attached(disk.target()))
            return made

        yield make


@contextmanager
def at_once(*works: Callable[[], object]) -> Iterator[list[int]]:
    """Each in a thread of its own; which have ended, in that order."""
    ended: list[int] = []

    def run(n: int) -> None:
        works[n]()
        ended.append(n)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(len(works))]
    for thread in threads:
        thread.start()
    yield ended
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(ended) == len(works), ended


def waits(memory: ConnectionMemory, count: int) -> None:
    until(lambda: memory.counters()["waiting"] == count, f"{count} connections that wait")


def half(client: Client, fill: int = 1) -> bytes:
    """Half of a large write is sent: what is left."""
    data = bytes([fill]) * LARGE
    message = write(0, data)
    client.wire.send(message[:LARGE // 2])
    return message[LARGE // 2:]


def write_all(client: Client, fill: int, offset: int = 0) -> None:
    assert client.wire.ask(write(offset, bytes([fill]) * LARGE)).error == 0


def test_small_requests_claim_nothing(connect: Connect):
    memory = ConnectionMemory(LEAST_BYTES)
    stalled, small = connect(memory), connect(memory)
    half(stalled)
    until(lambda: memory.counters()["used_bytes"] > 30 * MIB, "half a write")
    used = memory.counters()["used_bytes"]
    for n in range(20):
        assert small.wire.ask(write(n * MIB, bytes([n]) * (MIB // 2))).error == 0
        assert small.wire.ask(request(READ, n * MIB, MIB // 2), MIB // 2).data == bytes([n]) * (MIB // 2)
    counted = memory.counters()
    assert counted["waits"] == 0
    assert counted["used_bytes"] <= used + 8 * MIB, "a gateway keeps what is not written yet"


def test_large_requests_are_served_in_turn(connect: Connect):
    """One that has memory, three that wait: small requests go on, and when it is there each gets it, first come first
    served."""
    memory = ConnectionMemory(LEAST_BYTES)
    first, *others, small = (connect(memory) for _ in range(5))
    rest = half(first)
    until(lambda: memory.counters()["used_bytes"] > 30 * MIB, "half a write")
    with ExitStack() as stack:
        ended = []
        for n, one in enumerate(others):
            ended.append(stack.enter_context(at_once(lambda one=one, n=n: write_all(one, n + 2))))
            waits(memory, n + 1)
        assert small.wire.ask(write(SIZE - 512, b"x" * 512)).error == 0
        assert ended == [[], [], []]
        first.wire.send(rest)
        assert first.wire.reply().error == 0
    assert small.wire.ask(request(READ, 0, 4), 4).data == bytes([4]) * 4, "in the order in which they came"
    counted = memory.counters()
    assert counted["most_bytes"] <= counted["limit_bytes"] and counted["waits"] >= 3 and counted["cuts"] == 0
    for one in (first, *others, small):
        assert one.wire.ask(request(FLUSH)).error == 0      # a gateway keeps what is not written
    until(lambda: memory.counters()["used_bytes"] == 0, "giving it back")


def test_who_waited_and_is_idle_gives_it_back(connect: Connect):
    """Without another request, and without being cut off because others wait."""
    memory = ConnectionMemory(LEAST_BYTES)
    first, second = connect(memory), connect(memory)
    for _ in range(5):
        rest = half(first)
        until(lambda: memory.counters()["used_bytes"] > 30 * MIB, "half a write")
        with at_once(lambda: write_all(second, 2)):
            waits(memory, 1)
            first.wire.send(rest)
            assert first.wire.reply().error == 0
            assert first.wire.ask(request(FLUSH)).error == 0
        if isinstance(second, Gate):
            assert second.wire.ask(request(FLUSH)).error == 0       # a gateway keeps what is not written
        until(lambda: memory.counters()["used_bytes"] == 0, "giving it back")
    assert memory.counters()["cuts"] == 0


def test_who_has_it_gives_way_at_the_next_request(connect: Connect):
    """A stream of large requests does not keep others waiting for longer than one of them."""
    memory = ConnectionMemory(LEAST_BYTES)
    stream, other = connect(memory), connect(memory)
    write_all(stream, 1)
    done, after = threading.Event(), 0

    def once() -> None:
        write_all(other, 2)
        done.set()

    with at_once(once):
        while not done.is_set():
            write_all(stream, 1, LARGE)
            after += memory.counters()["waits"] > 0
    assert after < 8, f"{after} large writes while another waited"


def test_who_keeps_small_writes_gives_way(connect: Connect):
    """A gateway keeps what its daemon has not written: the more the faster the writes come."""
    memory = ConnectionMemory(LEAST_BYTES)
    stream, other = connect(memory), connect(memory)
    done = threading.Event()

    def small() -> None:
        n = 0
        while not done.is_set():
            n += 1
            assert stream.wire.ask(write(n % 500 * 65536, bytes([n % 256]) * 65536)).error == 0

    def large() -> None:
        until(lambda: stream.connection.counters()["writes"] > 400, "a stream of writes")
        for n in range(3):
            write_all(other, n, LARGE)
        done.set()

    with at_once(small, large):
        pass
    counted = memory.counters()
    assert counted["most_bytes"] <= counted["limit_bytes"]


def test_replies_share_it_too(connect: Connect):
    memory = ConnectionMemory(LEAST_BYTES)
    clients = [connect(memory) for _ in range(4)]
    for n in range(2):
        write_all(clients[0], n + 5, n * LARGE)

    def read(one: Client) -> None:
        for n in (0, 1, 0, 1):
            assert one.wire.ask(request(READ, n * LARGE, LARGE), LARGE).data == bytes([n + 5]) * LARGE

    with at_once(*(lambda one=one: read(one) for one in clients)):
        pass
    counted = memory.counters()
    assert counted["most_bytes"] <= counted["limit_bytes"] and counted["cuts"] == 0


def stall(client: Client) -> None:
    half(client)


def drip(client: Client) -> None:
    rest = half(client)

    def run() -> None:
        try:
            for n in range(0, len(rest), 1024):
                client.wire.sock.sendall(rest[n:n + 1024])
                time.sleep(0.02)
        except OSError:
            pass    # cut off

    threading.Thread(target=run, daemon=True).start()


def take_nothing(client: Client) -> None:
    client.wire.send(request(READ, 0, LARGE, flags=4))


@pytest.mark.parametrize("harm", [stall, drip, take_nothing])
def test_who_holds_others_up_is_cut_off(connect: Connect, harm: Callable[[Client], None]):
    memory = ConnectionMemory(LEAST_BYTES, pace_ms=400)
    bad, good = connect(memory), connect(memory)
    harm(bad)
    until(lambda: memory.counters()["used_bytes"] > 30 * MIB, "the memory that it takes")
    time.sleep(1.0)
    assert memory.counters()["cuts"] == 0, "nobody waits"
    write_all(good, 2)
    assert memory.counters()["cuts"] == 1
    assert bad.end() == End.SLOW
    assert good.wire.ask(request(READ, 0, 4), 4).data == bytes([2]) * 4


def test_a_device_that_takes_its_time_cuts_nobody_off():
    memory = ConnectionMemory(LEAST_BYTES, pace_ms=200)
    spy = Spy(SIZE)
    go_on = threading.Event()
    spy.hook = lambda name, offset, length: name == "pwrite" and go_on.wait(DEADLINE_S) and None
    with served(spy, memory=memory) as slow, served(RamDisk(SIZE), memory=memory) as other, \
            at_once(lambda: write_all(slow, 1)) as ended:
        until(lambda: memory.counters()["used_bytes"] > 30 * MIB and slow.connection.counters()["writes"] == 1,
              "a write at its device")
        with at_once(lambda: write_all(other, 2)):
            waits(memory, 1)
            time.sleep(0.8)
            assert not ended and memory.counters()["cuts"] == 0
            go_on.set()


@pytest.mark.parametrize("now", [False, True])
def test_who_waits_can_be_stopped(connect: Connect, now: bool):
    memory = ConnectionMemory(LEAST_BYTES)
    has, waiting = connect(memory), connect(memory)
    half(has)
    until(lambda: memory.counters()["used_bytes"] > 30 * MIB, "half a write")
    waiting.wire.send(request(WRITE, 0, LARGE))
    waits(memory, 1)
    waiting.connection.stop(now=now)
    assert waiting.end() == End.STOPPED
    assert memory.counters()["waiting"] == 0


def test_who_waits_may_hang_up(connect: Connect):
    memory = ConnectionMemory(LEAST_BYTES)
    has, waiting = connect(memory), connect(memory)
    half(has)
    until(lambda: memory.counters()["used_bytes"] > 30 * MIB, "half a write")
    waiting.wire.send(request(WRITE, 0, LARGE))
    waits(memory, 1)
    waiting.wire.sock.close()
    waits(memory, 0)


@pytest.mark.parametrize("has_some", [False, True])
def test_what_is_handed_over_keeps_its_memory(has_some: bool):
    """A request of which a part came, or none because it waited: the next connection goes on with it."""
    memory, disk = ConnectionMemory(LEAST_BYTES), RamDisk(SIZE)
    with served(disk, memory=memory) as before, served(disk, memory=memory) as other:
        if not has_some:
            rest_of_other = half(other)
            until(lambda: memory.counters()["used_bytes"] > 30 * MIB, "half a write")
        message = write(0, b"7" * LARGE)
        sent = LARGE // 2 if has_some else 100
        before.wire.send(message[:sent])
        until(lambda: before.connection.counters()["received_bytes"] == sent, "what was sent")
        if not has_some:
            waits(memory, 1)
        before.connection.pause()
        assert before.end() == End.PAUSED
        received, skipped = before.connection.rest()
        assert (len(received), skipped) == (sent, 0) and memory.counters()["waiting"] == 0
        with later(disk, memory, received) as (sock, after):
            if not has_some:
                other.wire.send(rest_of_other)
                assert other.wire.reply().error == 0
            sock.sendall(message[sent:])
            assert len(sock.recv(16, socket.MSG_WAITALL)) == 16
            assert after.counters()["writes"] == 1
    until(lambda: memory.counters()["used_bytes"] == 0, "giving it back")
    assert memory.counters()["most_bytes"] <= LEAST_BYTES


@contextmanager
def later(disk, memory, received):
    from cdpcore.nbd.connection import Connection

    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    connection = Connection(theirs, disk.capsule, read_only=False, structured=True, memory=memory)
    connection.resume(received)
    thread = threading.Thread(target=connection.serve, daemon=True)
    thread.start()
    with ours, theirs:
        yield ours, connection
        connection.stop()
        thread.join(DEADLINE_S)


def test_everybody_gets_through(connect: Connect, seeds):
    """Many connections at once with requests of any size, each in a part of the disk of its own that it remembers."""
    for seed in seeds(1):
        memory = ConnectionMemory(LEAST_BYTES)
        clients = [connect(memory) for _ in range(8)]
        share = SIZE // len(clients)

        def work(n: int, one: Client, seed: int = seed, share: int = share) -> None:
            rng, mine = random.Random(seed * 100 + n), bytearray(share)
            one.wire.ask(request(6, n * share, share))      # zeroes, over what an earlier seed left
            for _ in range(25):
                length = rng.choice((512, 65536, MIB, 3 * MIB, share))
                at = rng.randrange(0, share - length + 1, 512)
                if rng.random() < 0.5:
                    data = rng.randbytes(4096) * (length // 4096) or rng.randbytes(length)
                    mine[at:at + length] = data
                    assert one.wire.ask(write(n * share + at, data)).error == 0
                else:
                    assert one.wire.ask(request(READ, n * share + at, length, flags=4), length).data == \
                        mine[at:at + length]

        with at_once(*(lambda n=n, one=one: work(n, one) for n, one in enumerate(clients))):
            pass
        counted = memory.counters()
        assert counted["most_bytes"] <= counted["limit_bytes"] and counted["cuts"] == 0
        assert counted["waits"], "the bound was met"


@pytest.mark.parametrize("bad", [0, 1 << 62])
def test_a_bound_that_is_none(bad: int):
    with pytest.raises(InvalidRequest, match="memory of"):
        ConnectionMemory(bad)


# --- in C -----------------------------------------------------------------------------------------------------------

CORE = Path(__file__).resolve().parent.parent.parent / "src/cdpcore"


def check(tmp_path: Path, source: str, turns: int) -> subprocess.CompletedProcess[str]:
    """tests/c/nbd_memory_check.c, with `source` in place of nbd_memory.c."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler")
    (tmp_path / "nbd_memory.c").write_text(source)
    program = tmp_path / "check"
    subprocess.run([compiler, "-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Werror", f"-I{CORE}",
                    str(CORE.parent.parent / "tests/c/nbd_memory_check.c"), str(tmp_path / "nbd_memory.c"), "-lpthread",
                    "-o", str(program)], check=True)
    return subprocess.run([str(program), str(turns)], capture_output=True, text=True, check=False)


@pytest.mark.once
def test_the_bell_is_silent_once_the_turn_has_come(tmp_path: Path) -> None:
    """Else the connection's next wait for its client ends at once."""
    done = check(tmp_path, (CORE / "nbd/nbd_memory.c").read_text(), 60)
    assert (done.returncode, done.stdout) == (0, "60 turns\n"), done.stderr


@pytest.mark.planted
@pytest.mark.once
def test_a_bell_that_is_not_hushed_is_noticed(tmp_path: Path) -> None:
    source = (CORE / "nbd/nbd_memory.c").read_text()
    before, hush = source.split("void nbd_memory_hush(")
    assert hush.count("empty(bell);") == 1
    done = check(tmp_path, f"{before}void nbd_memory_hush({hush.replace('empty(bell);', 'bell = -1;')}", 1)
    assert done.returncode == 1 and "rings though its turn has come" in done.stderr
