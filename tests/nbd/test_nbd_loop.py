"""The loop of an NBD connection: batches, shared flushes, ends, bounds, a model, garbage."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.nbd import (
    BLOCK_STATUS,
    CACHE,
    DF,
    DISC,
    EINVAL,
    ENOSPC,
    EOVERFLOW,
    EPERM,
    FAST_ZERO,
    FLUSH,
    FUA,
    MIB,
    NO_HOLE,
    NOSPACE,
    READ,
    REQ_ONE,
    T_FUA,
    TRIM,
    WRITE,
    WRITE_ZEROES,
    Spy,
    request,
    served,
    until,
    write,
)
from support.seeds import examples

from cdpcore.base.errors import InvalidRequest
from cdpcore.bench.ram_disk import RamDisk
from cdpcore.nbd.connection import MAX_PAYLOAD_BYTES, RELEASES_PAGES, Connection, End, inspect

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

U32 = 2**32 - 1
both = pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])


def _blocked(spy, s):
    """Make the connection wait inside the target until the event is set, so that what is sent now is a batch."""
    event = threading.Event()
    spy.hook = lambda name, offset, length: name == "pread" and event.wait(20) and None
    s.wire.send(request(READ, 0, 1, cookie=0))
    until(lambda: s.connection.counters()["requests"] == 1, "the first request")
    return event


def test_a_batch_is_answered_in_order():
    spy = Spy()
    with served(spy) as s:
        first = _blocked(spy, s)
        s.wire.send(*(write(i, bytes([i])) if i % 2 else request(READ, 0, 8, cookie=i) for i in range(100)))
        first.set()
        assert s.wire.reply(1).error == 0
        for i in range(100):
            reply = s.wire.reply(0 if i % 2 else 8)
            assert reply.cookie == (7 if i % 2 else i)
            if i == 8:
                assert reply.data == b"\0\1\0\3\0\5\0\7"
        counters = s.connection.counters()
    assert counters["requests"] == 101 and counters["reads"] == 51 and counters["writes"] == 50
    assert spy.names()[1:5] == ["pread", "pwrite", "pread", "pwrite"]


def test_one_flush_serves_a_batch():
    """Where the batch is not cut in two because it took long, which a loaded machine does now and then."""
    flushes = set()
    for _ in range(50):
        spy = Spy()
        with served(spy) as s:
            event = _blocked(spy, s)
            s.wire.send(
                write(0, b"a", flags=FUA, cookie=1),
                request(FLUSH, cookie=2),
                write(1, b"b", flags=FUA, cookie=3),
                request(TRIM, 9, 1, flags=FUA, cookie=4),
                write(2, b"c", cookie=5),
            )
            event.set()
            assert [s.wire.reply(1).error] + [s.wire.reply().error for _ in range(5)] == [0] * 6
        names = spy.names()
        # A flush comes after the last request whose reply promises durability, which had no FUA of its own.
        last = [at for at, name in enumerate(names) if name == "flush"][-1]
        assert last > names.index("zero") and not [call for call in spy.calls if call[3] & T_FUA]
        flushes.add(names.count("flush"))
        if 1 in flushes:
            return
    raise AssertionError(f"never one flush for a batch: {flushes}")


def test_a_flush_that_fails_fails_all_that_relied_on_it():
    spy = Spy()
    spy.fail["flush"] = (NOSPACE, 28, b"flushing")
    with served(spy) as s:
        event = _blocked(spy, s)
        s.wire.send(
            write(0, b"a", flags=FUA, cookie=1),
            write(1, b"b", cookie=2),
            request(FLUSH, cookie=3),
            request(WRITE_ZEROES, 4, 4, flags=FUA, cookie=4),
            request(TRIM, 4, 4, cookie=5),
        )
        event.set()
        assert s.wire.reply(1).error == 0
        got = {reply.cookie: reply.error for reply in (s.wire.reply() for _ in range(5))}
        assert got == {1: ENOSPC, 2: 0, 3: ENOSPC, 4: ENOSPC, 5: 0}
        assert s.connection.counters()["errors"] == 3
        spy.fail.clear()
        assert s.wire.ask(request(FLUSH)).error == 0


def test_durable_replies_are_never_sent_before_the_flush():
    """More of them than PENDING_MAX in one batch."""
    spy = Spy()
    flushed_at: list[int] = []
    with served(spy) as s:
        event = _blocked(spy, s)
        s.wire.send(*(write(i, b"x", flags=FUA, cookie=i) for i in range(2000)))
        event.set()
        s.wire.reply(1)
        for i in range(2000):
            assert s.wire.reply().cookie == i
            flushed_at = [at for at, name in enumerate(spy.names()) if name == "flush"]
            writes = [at for at, call in enumerate(spy.calls) if call[0] == "pwrite" and call[1] == i]
            assert spy.calls[writes[0]][3] & T_FUA or (flushed_at and flushed_at[-1] > writes[0])
    assert len(flushed_at) >= 4


def test_more_flushes_in_a_batch_than_can_wait_for_one():
    spy = Spy()
    spy.fail["flush"] = (NOSPACE, 28, b"flushing")
    with served(spy) as s:
        event = _blocked(spy, s)
        s.wire.send(*(request(FLUSH, cookie=i) for i in range(3000)))
        event.set()
        s.wire.reply(1)
        for i in range(3000):
            reply = s.wire.reply()
            assert (reply.cookie, reply.error) == (i, ENOSPC)
        assert s.connection.counters()["errors"] == 3000
    assert len(spy.names()) < 3000


def test_refused_writes_and_the_largest_read_in_one_batch():
    """Thousands of error replies gathered, then a reply of 32 MiB: the reply buffer must not overflow."""
    disk = RamDisk(40 * MIB)
    n = 8000
    with served(disk, read_only=True) as s:
        data = b"".join(write(0, b"x", cookie=i) for i in range(n)) + request(
            READ, 0, MAX_PAYLOAD_BYTES, flags=DF, cookie=n
        )
        sender = threading.Thread(target=s.wire.send, args=(data,))
        sender.start()
        for i in range(n):
            reply = s.wire.reply()
            assert (reply.cookie, reply.error) == (i, EPERM)
        assert s.wire.reply(MAX_PAYLOAD_BYTES).data == bytes(MAX_PAYLOAD_BYTES)
        sender.join()


def test_byte_by_byte():
    spy = Spy()
    with served(spy) as s:
        for byte in write(5, b"slow", cookie=3) + request(READ, 5, 4, cookie=4):
            s.wire.send(bytes([byte]))
        assert s.wire.reply().cookie == 3
        assert s.wire.reply(4, 5).data == b"slow"


@both
def test_disconnect_answers_what_came_before(structured):
    spy = Spy()
    with served(spy, structured=structured) as s:
        s.wire.send(write(0, b"a"), request(DISC, 2**63, U32, flags=0xFFFF), request(FLUSH))
        assert s.wire.reply().error == 0
        assert s.wire.ended() and s.end() is End.DISCONNECTED
    assert spy.names() == ["pwrite"]


def test_half_closed_client_gets_its_replies():
    spy = Spy()
    with served(spy) as s:
        s.wire.send(write(0, b"a"), request(READ, 0, 1, cookie=2))
        s.wire.sock.shutdown(socket.SHUT_WR)
        assert s.wire.reply().error == 0
        assert s.wire.reply(1).data == b"a"
        assert s.end() is End.HUNG_UP


def test_stop_ends_an_idle_connection():
    with served(Spy()) as s:
        s.wire.ask(request(FLUSH))
        s.connection.stop()
        s.connection.stop()
        assert s.end() is End.STOPPED and s.wire.ended()


def test_stop_answers_what_was_received():
    spy = Spy()
    with served(spy) as s:
        event = _blocked(spy, s)
        s.connection.stop()
        event.set()
        assert s.wire.reply(1).error == 0
        assert s.end() is End.STOPPED and s.wire.ended()


def test_stop_now_ends_a_connection_whose_client_does_not_read():
    disk = RamDisk(64 * MIB)
    with served(disk, structured=False) as s:
        s.wire.send(*(request(READ, 0, 32 * MIB) for _ in range(3)))
        until(lambda: s.connection.counters()["reads"] >= 1, "the read")
        s.connection.stop()
        s.connection.stop(now=True)
        assert s.end() in (End.SEND_FAILED, End.STOPPED)


def test_counters_can_be_read_while_it_runs():
    spy = Spy()
    with served(spy) as s:
        event = _blocked(spy, s)
        assert s.connection.counters()["requests"] == 1  # the thread is inside the target now
        event.set()
        s.wire.reply(1)
        s.wire.ask(write(0, bytes(1000)))
        s.wire.ask(request(TRIM, 0, 5000))
        until(lambda: s.connection.counters()["batches"] == 3, "three sends")
        assert s.connection.counters() == {
            "requests": 3,
            "errors": 0,
            "reads": 1,
            "writes": 1,
            "zeroes": 1,
            "flushes": 0,
            "read_bytes": 1,
            "written_bytes": 1000,
            "zeroed_bytes": 5000,
            "received_bytes": 28 * 3 + 1000,
            "sent_bytes": 29 + 16 + 16,
            "batches": 3,
            "handed_over": 0,
        }


def _resident_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return None


def test_memory_of_large_requests_is_given_back():
    """In a process of its own: what other tests left in this one's heap would be counted as well."""
    if "CDP_TEST_ALONE" not in os.environ:
        name = f"{__file__}::test_memory_of_large_requests_is_given_back"
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name],
                              capture_output=True, text=True,
                              cwd=Path(__file__).parent.parent.parent, env={**os.environ, "CDP_TEST_ALONE": "1"},
                              check=False)
        assert done.returncode == 0, done.stdout[-3000:]
        return
    if not Path("/proc/self/status").exists() or _resident_bytes() is None:
        pytest.skip("no resident set size to read here")
    if not RELEASES_PAGES:
        pytest.skip("this build keeps the pages of large requests")
    if any(f"lib{kind}san.so" in Path("/proc/self/maps").read_text() for kind in "at"):
        pytest.skip("a sanitizer's shadow memory is resident too")
    disk = RamDisk(32 * MIB)
    with served(disk, structured=False) as s:
        for i in range(32):
            s.wire.ask(write(i * MIB, b"\2" * MIB))  # the disk's own pages
        before = _resident_bytes()
        for data in (b"\1" * (32 * MIB), b"\3" * (32 * MIB)):
            sender = threading.Thread(target=s.wire.send, args=(write(0, data),))
            sender.start()
            s.wire.reply()
            sender.join()
            assert s.wire.ask(request(READ, 0, 32 * MIB), 32 * MIB).data == data
        del data, sender
        # Both ranges were full: 66 MiB. Without another request they go back after IDLE_MS.
        until(lambda: _resident_bytes() < before + 20 * MIB, "giving back 62 MiB")
        assert s.wire.ask(request(READ, 31 * MIB, 4096), 4096).data == b"\3" * 4096


def test_a_connection_is_served_once():
    with served(Spy()) as s:
        s.wire.ask(request(FLUSH))
        with pytest.raises(InvalidRequest):
            s.connection.serve()


def test_capsules_are_checked():
    with pytest.raises(InvalidRequest, match="not a target"):
        inspect(object())
    a, b = socket.socketpair()
    with a, b, pytest.raises(InvalidRequest, match="not a target"):
        Connection(a, None, read_only=False, structured=True)
    assert inspect(Spy(12345).capsule) == (12345, False)
    assert inspect(RamDisk(5, read_only=True).capsule) == (5, True)


def test_a_read_only_target_makes_a_read_only_connection():
    disk = RamDisk(MIB, read_only=True)
    with served(disk) as s:
        assert s.wire.ask(write(0, b"x")).error == EPERM


# A model: any pipelined, arbitrarily cut sequence of valid and invalid requests against a bytearray.
SIZE = 300_000
_offsets = st.one_of(st.integers(0, SIZE + 10), st.sampled_from([0, SIZE, SIZE - 1, 2**63, 2**64 - 1, 4096, 65536]))
_lengths = st.one_of(st.integers(0, 9000), st.sampled_from([0, 1, 4096, 131072, 200_000, U32]))
_requests = st.lists(
    st.tuples(
        st.sampled_from([READ, READ, WRITE, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS]),
        _offsets,
        _lengths,
        st.sampled_from([0, 0, 0, FUA, DF, NO_HOLE, REQ_ONE, FAST_ZERO, 64]),
    ),
    max_size=40,
)


def _expect(kind, offset, length, flags, structured):
    """The error that the protocol asks for."""
    allowed = FUA | {READ: DF, WRITE_ZEROES: NO_HOLE | FAST_ZERO, BLOCK_STATUS: REQ_ONE}.get(kind, 0)
    if flags & ~allowed or (flags & DF and not structured) or (kind == BLOCK_STATUS and not structured):
        return EINVAL
    if kind == FLUSH:
        return EINVAL if offset or length else 0
    if kind in (READ, CACHE, WRITE) and length > MAX_PAYLOAD_BYTES:
        return EOVERFLOW if structured and kind != WRITE else EINVAL
    if offset + length > SIZE:
        return ENOSPC if kind in (WRITE, WRITE_ZEROES) else EINVAL
    return EINVAL if kind == BLOCK_STATUS and not length else 0


@pytest.mark.soak
@examples(60)
@given(_requests, st.integers(0, 2**32), st.booleans())
def test_model(requests, seed, structured):
    rng = random.Random(seed)
    disk, model = RamDisk(SIZE), bytearray(SIZE)
    requests = [r for r in requests if not (r[0] == WRITE and r[2] > MAX_PAYLOAD_BYTES)]
    stream, expected = bytearray(), []
    for cookie, (kind, offset, length, flags) in enumerate(requests):
        payload = rng.randbytes(length) if kind == WRITE else b""
        error = _expect(kind, offset, length, flags, structured)
        if not error and kind == WRITE:
            model[offset : offset + length] = payload
        elif not error and kind in (TRIM, WRITE_ZEROES):
            model[offset : offset + length] = bytes(length)
        expected.append(
            (kind, offset, length, flags, error, bytes(model[offset : offset + length]) if kind == READ else b"")
        )
        stream += request(kind, offset, length, flags=flags, cookie=cookie, payload=payload)
    with served(disk, structured=structured) as s:

        def feed():
            at = 0
            while at < len(stream):
                n = rng.choice([1, 27, 28, 29, 4096, 100_000])
                s.wire.send(stream[at : at + n])
                at += n

        sender = threading.Thread(target=feed)
        sender.start()
        reads = {cookie: (length if not error and kind == READ else 0, offset)
                 for cookie, (kind, offset, length, _, error, _) in enumerate(expected)}
        replies = sorted((s.wire.reply(reads=reads) for _ in expected), key=lambda reply: reply.cookie)
        for cookie, (kind, offset, length, flags, error, data) in enumerate(expected):
            reply = replies[cookie]
            assert (reply.cookie, reply.error) == (cookie, error)
            if kind == READ and not error:
                assert reply.data == data
                assert not flags & DF or len(reply.chunks) == 1
            if kind == BLOCK_STATUS and not error:
                covered = sum(size for size, _ in reply.extents)
                assert 0 < covered <= length
                assert covered == length or flags & REQ_ONE
        sender.join()


@pytest.mark.soak
def test_random_garbage_never_hurts(seeds):
    """Random bytes and near-requests to one connection; another connection to the same disk is unharmed."""
    for seed in seeds(20):
        garbage(seed)


def garbage(seed):
    rng = random.Random(seed)
    disk = RamDisk(MIB)
    with served(disk, read_only=True) as other, served(disk, structured=bool(seed % 2)) as s:
        s.wire.sock.settimeout(0.01)
        for _ in range(50):
            data = bytearray(
                request(
                    rng.randrange(12),
                    rng.choice([0, 4096, MIB - 5, 2**63, rng.getrandbits(64)]),
                    rng.choice([0, 1, 4096, 70_000, rng.getrandbits(32)]),
                    flags=rng.getrandbits(5),
                )
            )
            if rng.random() < 0.1:
                data[rng.randrange(28)] ^= 1 << rng.randrange(8)
            data += rng.randbytes(rng.choice([0, 0, 1, 4096, 70_000]))
            try:
                s.wire.send(data)
                s.wire.sock.recv(1 << 16)
            except TimeoutError:
                pass
            except OSError:
                break
        assert other.wire.ask(request(READ, 0, 4096), 4096).error == 0


def test_interleaved_connections_see_each_others_writes():
    disk = RamDisk(MIB)
    with served(disk) as a, served(disk, structured=False) as b:
        for i in range(50):
            assert a.wire.ask(write(i * 100, struct.pack(">I", i))).error == 0
            assert b.wire.ask(request(READ, i * 100, 4), 4).data == struct.pack(">I", i)
