"""The transmission phase of NBD over a socket pair: every command, every rejection, batches, ends, bounds."""
from __future__ import annotations

import random
import shutil
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from cdpcore.errors import InvalidRequest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbd_support import (
    BLOCK_STATUS,
    C_DATA,
    C_HOLE,
    C_NONE,
    CACHE,
    CLOSED,
    CORRUPT,
    DATA,
    DF,
    DISC,
    EINVAL,
    EIO,
    ENOMEM,
    ENOSPC,
    ENOTSUP,
    EOVERFLOW,
    EPERM,
    ESHUTDOWN,
    FAST_ZERO,
    FLUSH,
    FUA,
    HOLE,
    INVALID,
    MIB,
    NO_HOLE,
    NOSPACE,
    NOTFOUND,
    READ,
    REFUSED,
    REQ_ONE,
    T_FUA,
    T_HOLE,
    TRIM,
    UNAVAILABLE,
    WRITE,
    WRITE_ZEROES,
    ZERO,
    Spy,
    request,
    served,
    until,
    write,
)

from cdpcore.nbd import MAX_DRAIN_BYTES, MAX_PAYLOAD_BYTES, RELEASES_PAGES, Connection, End, inspect
from cdpcore.ramdisk import RamDisk

ROOT = Path(__file__).resolve().parent.parent
U32 = 2**32 - 1
both = pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])


@pytest.mark.parametrize("seed", range(4))
def test_leaves_under_sanitizers(tmp_path_factory, seed):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler")
    binary = tmp_path_factory.getbasetemp() / "nbd_wire_check"
    if not binary.exists():
        core = ROOT / "src/cdpcore/c"
        built = subprocess.run(
            [compiler, "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Werror", "-fsanitize=address,undefined",
             "-fno-sanitize-recover", f"-I{core}", ROOT / "tests/c/nbd_wire_check.c", core / "nbd_wire.c", "-o", binary],
            capture_output=True, text=True, check=False)
        if "sanitize" in built.stderr and built.returncode:
            pytest.skip("the compiler has no sanitizers")
        assert built.returncode == 0, built.stderr
    run = subprocess.run([binary, str(seed), "20000"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


# One test per rejection. (request, rules of the connection) -> error; the target must not be called.
REFUSED_REQUESTS = {
    "unknown command": (request(9), {}, EINVAL),
    "resize, which nobody has": (request(8), {}, EINVAL),
    "highest command": (request(0xFFFF), {}, EINVAL),
    "read beyond the end": (request(READ, MIB - 1, 2), {}, EINVAL),
    "read at the end": (request(READ, MIB, 1), {}, EINVAL),
    "read at 2^63": (request(READ, 2**63, 1), {}, EINVAL),
    "read at the last offset there is": (request(READ, 2**64 - 1, 1), {}, EINVAL),
    "read that wraps around": (request(READ, 2**64 - 512, 1024), {}, EINVAL),
    "read of nothing past the end": (request(READ, MIB + 1, 0), {}, EINVAL),
    "read with FUA and an unknown flag": (request(READ, 0, 1, flags=FUA | 1 << 15), {}, EINVAL),
    "read with REQ_ONE": (request(READ, 0, 1, flags=REQ_ONE), {}, EINVAL),
    "read with PAYLOAD_LEN": (request(READ, 0, 1, flags=1 << 5), {}, EINVAL),
    "write beyond the end": (write(MIB - 1, b"ab"), {}, ENOSPC),
    "write at 2^63": (write(2**63, b"ab"), {}, ENOSPC),
    "write that wraps around": (write(2**64 - 1, b"ab"), {}, ENOSPC),
    "write with DF": (write(0, b"ab", flags=DF), {}, EINVAL),
    "write to a read-only export": (write(0, b"ab"), {"read_only": True}, EPERM),
    "write of nothing to a read-only export": (write(0, b""), {"read_only": True}, EPERM),
    "trim beyond the end": (request(TRIM, 1, MIB), {}, EINVAL),
    "trim of all that 32 bits can say": (request(TRIM, 0, U32), {}, EINVAL),
    "trim on a read-only export": (request(TRIM, 0, 1), {"read_only": True}, EPERM),
    "trim with NO_HOLE": (request(TRIM, 0, 1, flags=NO_HOLE), {}, EINVAL),
    "zeroes beyond the end": (request(WRITE_ZEROES, MIB, 1), {}, ENOSPC),
    "zeroes on a read-only export": (request(WRITE_ZEROES, 0, 1), {"read_only": True}, EPERM),
    "zeroes with DF": (request(WRITE_ZEROES, 0, 1, flags=DF), {}, EINVAL),
    "fast zeroes that are not fast": (request(WRITE_ZEROES, 0, 1, flags=FAST_ZERO), {"fast_zero": False}, ENOTSUP),
    "cache beyond the end": (request(CACHE, MIB, 1), {}, EINVAL),
    "cache with a flag": (request(CACHE, 0, 1, flags=DF), {}, EINVAL),
    "flush with an offset": (request(FLUSH, 1, 0), {}, EINVAL),
    "flush with a length": (request(FLUSH, 0, 1), {}, EINVAL),
    "flush with a flag": (request(FLUSH, flags=DF), {}, EINVAL),
    "block status without a context": (request(BLOCK_STATUS, 0, 1), {"context_id": None}, EINVAL),
    "block status beyond the end": (request(BLOCK_STATUS, 1, MIB), {}, EINVAL),
    "block status of nothing": (request(BLOCK_STATUS, 0, 0), {}, EINVAL),
    "block status with DF": (request(BLOCK_STATUS, 0, 1, flags=DF), {}, EINVAL),
}


@both
@pytest.mark.parametrize("what", REFUSED_REQUESTS)
def test_refused(what, structured):
    data, rules, error = REFUSED_REQUESTS[what]
    spy = Spy()
    with served(spy, structured=structured, **rules) as s:
        reply = s.wire.ask(data)
        assert (reply.error, reply.cookie) == (error, 7)
        assert bool(reply.message) == structured  # structured errors say why
        assert spy.calls == []
        assert s.wire.ask(request(READ, 0, 4, cookie=8), 4).data == bytes(4)  # and the connection lives on
        assert s.connection.counters()["errors"] == 1


def test_df_needs_structured_replies():
    with served(Spy(), structured=False) as s:
        assert s.wire.ask(request(READ, 0, 1, flags=DF)).error == EINVAL


def test_block_status_needs_structured_replies():
    with served(Spy(), structured=False, context_id=1) as s:
        assert s.wire.ask(request(BLOCK_STATUS, 0, 1)).error == EINVAL


@both
@pytest.mark.parametrize("kind", [READ, CACHE])
@pytest.mark.parametrize("length", [MAX_PAYLOAD_BYTES + 1, 2**31 - 1, 2**31, 2**31 + 1, U32 - 1, U32])
def test_too_long_without_payload(kind, length, structured):
    spy = Spy(2**40, backed=0)
    with served(spy, structured=structured) as s:
        assert s.wire.ask(request(kind, 0, length)).error == (EOVERFLOW if structured else EINVAL)
    assert spy.calls == []


@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_at_the_edges_of_large_exports(size):
    """The last byte can be read, the one after it cannot; TRIM takes any 32-bit length."""
    spy = Spy(size, backed=0)
    with served(spy) as s:
        assert s.wire.ask(request(READ, size - 1, 1), 1).error == 0
        assert s.wire.ask(request(READ, size - 1, 2)).error == EINVAL
        assert s.wire.ask(request(TRIM, 0, 2**31 - 1)).error == 0
        assert s.wire.ask(request(WRITE_ZEROES, size - 5, 5)).error == 0
        assert s.wire.ask(request(BLOCK_STATUS, 0, min(size, U32))).extents == [(min(size, U32), 0)]
    assert ("zero", size - 5, 5, T_HOLE) in spy.calls


def test_a_refused_write_is_drained():
    """Up to MAX_DRAIN_BYTES of payload are thrown away, never stored; what follows is read on the right byte."""
    spy = Spy()
    with served(spy) as s:
        for length in (MAX_PAYLOAD_BYTES + 1, MAX_DRAIN_BYTES):
            s.wire.send(request(WRITE, 0, length))
            block = bytes(MIB)
            for _ in range(length // MIB):
                s.wire.send(block)
            s.wire.send(bytes(length % MIB), request(READ, 0, 8, cookie=9))
            reply = s.wire.reply()
            assert (reply.error, reply.message) == (EINVAL, "longer than the maximum payload")
            assert s.wire.reply(8).cookie == 9
    assert spy.names() == ["pread", "pread"]


@pytest.mark.parametrize("length", [MAX_DRAIN_BYTES + 1, 2**31 - 1, 2**31, U32])
def test_a_payload_too_long_to_skip_ends_the_connection(length):
    spy = Spy(2**33, backed=0)
    with served(spy) as s:
        s.wire.send(request(FLUSH, cookie=1), request(WRITE, 0, length))
        assert s.wire.reply().cookie == 1  # what came before is answered
        assert s.wire.ended()
        assert s.end() is End.OVERSIZE
    assert spy.names() == ["flush"]


def test_garbage_ends_the_connection():
    with served(Spy()) as s:
        s.wire.send(request(FLUSH, cookie=1), b"\0" * 28)
        assert s.wire.reply().cookie == 1
        assert s.wire.ended() and s.end() is End.GARBAGE


@pytest.mark.parametrize("end", [b"", request(FLUSH)[:1], request(FLUSH)[:27], request(WRITE, 0, 100, payload=bytes(99)),
                                 request(WRITE, 0, 32 * MIB, payload=bytes(3 * MIB)), request(WRITE, MIB, 9, payload=bytes(8))])
def test_client_killed_in_the_middle(end):
    """A request that did not come whole is never carried out."""
    spy = Spy()
    with served(spy) as s:
        s.wire.send(write(0, b"whole"))
        assert s.wire.reply().error == 0
        s.wire.send(end)
        s.wire.sock.close()
        assert s.end() in (End.HUNG_UP, End.RECV_FAILED)
    assert spy.names() == ["pwrite"] and spy.data[:6] == b"whole\0"


@both
def test_read_and_write(structured):
    spy = Spy()
    with served(spy, structured=structured) as s:
        assert s.wire.ask(write(3, b"hello", cookie=2**64 - 1)).cookie == 2**64 - 1
        reply = s.wire.ask(request(READ, 1, 10), 10)
        assert reply.data == b"\0\0hello\0\0\0"
        assert s.wire.ask(write(MIB - 1, b"z")).error == 0
        assert s.wire.ask(request(READ, MIB - 1, 1), 1).data == b"z"
    assert spy.calls[0] == ("pwrite", 3, 5, 0)


@both
def test_largest_requests(structured):
    disk = RamDisk(40 * MIB)
    data = random.Random(1).randbytes(MAX_PAYLOAD_BYTES)
    with served(disk, structured=structured) as s:
        sender = threading.Thread(target=s.wire.send, args=(write(5 * MIB + 1, data),))
        sender.start()
        assert s.wire.reply().error == 0
        sender.join()
        assert s.wire.ask(request(READ, 5 * MIB + 1, MAX_PAYLOAD_BYTES), MAX_PAYLOAD_BYTES).data == data
        counters = s.connection.counters()
    assert counters["written_bytes"] == counters["read_bytes"] == MAX_PAYLOAD_BYTES


@both
def test_zero_length_requests_do_nothing_and_succeed(structured):
    spy = Spy()
    with served(spy, structured=structured) as s:
        for data in (request(READ, 0, 0), request(READ, MIB, 0), write(MIB, b""), request(TRIM, 5, 0),
                     request(WRITE_ZEROES, 5, 0, flags=FUA), request(CACHE, 0, 0)):
            reply = s.wire.ask(data)
            assert (reply.error, reply.data) == (0, b"")
    assert spy.calls == []


def test_zero_length_read_is_a_structured_reply():
    with served(Spy()) as s:
        assert s.wire.ask(request(READ, 0, 0)).chunks == [(C_NONE, 0, 0)]


def test_trim_and_zeroes_reach_the_target():
    spy = Spy()
    with served(spy) as s:
        for data in (request(TRIM, 1, 2), request(TRIM, 1, 2, flags=FUA), request(WRITE_ZEROES, 3, 4),
                     request(WRITE_ZEROES, 3, 4, flags=NO_HOLE), request(WRITE_ZEROES, 3, 4, flags=FAST_ZERO | NO_HOLE | FUA)):
            assert s.wire.ask(data).error == 0
    assert spy.calls == [("zero", 1, 2, T_HOLE), ("zero", 1, 2, T_HOLE | T_FUA), ("zero", 3, 4, T_HOLE), ("zero", 3, 4, 0),
                         ("zero", 3, 4, T_FUA)]


def test_fua_is_taken_on_every_command():
    spy = Spy()
    with served(spy) as s:
        for kind in (READ, CACHE, BLOCK_STATUS, TRIM, WRITE_ZEROES):
            assert s.wire.ask(request(kind, 0, 4, flags=FUA), 4 if kind == READ else 0).error == 0
        assert s.wire.ask(request(FLUSH, flags=FUA)).error == 0
        assert s.wire.ask(write(0, b"data", flags=FUA)).error == 0
    assert [call for call in spy.calls if call[3] & T_FUA and call[0] != "map"] == [
        ("zero", 0, 4, T_HOLE | T_FUA), ("zero", 0, 4, T_HOLE | T_FUA), ("pwrite", 0, 4, T_FUA)]


def test_cache_reads_the_range():
    spy = Spy()
    with served(spy) as s:
        assert s.wire.ask(request(CACHE, 1000, 700_000)).error == 0
        spy.fail["pread"] = (UNAVAILABLE, EIO, b"reading")
        assert s.wire.ask(request(CACHE, 0, 1)).error == EIO
    read = [call for call in spy.calls if call[2] > 1]
    assert read[0][1] == 1000 and sum(call[2] for call in read) == 700_000


# What a failed target is called on the wire.
FAILURES = [
    (INVALID, 0, EINVAL), (NOTFOUND, 2, EIO), (NOSPACE, 28, ENOSPC), (NOSPACE, 0, ENOSPC), (CORRUPT, 0, EIO),
    (UNAVAILABLE, 5, EIO), (UNAVAILABLE, 30, EPERM), (UNAVAILABLE, 12, ENOMEM), (UNAVAILABLE, 122, ENOSPC),
    (UNAVAILABLE, 27, ENOSPC), (UNAVAILABLE, 16, EIO), (CLOSED, 0, ESHUTDOWN), (REFUSED, 0, EINVAL), (99, 0, EIO),
]


@both
@pytest.mark.parametrize(("code", "errno", "error"), FAILURES)
def test_failures_of_the_target(code, errno, error, structured):
    spy = Spy()
    spy.fail = dict.fromkeys(("pread", "pwrite", "zero", "flush"), (code, errno, b"doing a thing"))
    with served(spy, structured=structured) as s:
        for data in (request(READ, 0, 9), write(0, b"x"), write(0, b"x", flags=FUA), request(TRIM, 0, 1),
                     request(WRITE_ZEROES, 0, 1), request(CACHE, 0, 1)):
            reply = s.wire.ask(data)
            assert (reply.error, reply.message) == (error, "doing a thing" if structured else "")
        assert s.wire.ask(request(FLUSH)).error == error
        assert s.connection.counters()["errors"] == 7


def test_block_status_failure():
    spy = Spy()
    spy.fail["map"] = (CORRUPT, 0, b"looking up")
    with served(spy) as s:
        reply = s.wire.ask(request(BLOCK_STATUS, 0, 9))
    assert (reply.error, reply.message, reply.extents) == (EIO, "looking up", [])


def test_a_read_of_zeros_is_sent_as_a_hole():
    spy = Spy(backed=100, size_bytes=MIB)
    spy.data[0] = 1
    with served(spy) as s:
        assert s.wire.ask(request(READ, 4096, 4096), 4096).chunks == [(C_HOLE, 4096, 4096)]
        assert s.wire.ask(request(READ, 4096, 4096, flags=DF), 4096).chunks == [(C_DATA, 4096, 4096)]
        assert s.wire.ask(request(READ, 0, 4096), 4096).chunks == [(C_DATA, 0, 4096)]
        # shorter than the hole chunk itself: data
        assert s.wire.ask(request(READ, 500, 31), 31).chunks == [(C_DATA, 500, 31)]
        assert s.wire.ask(request(READ, 500, 32), 32).chunks == [(C_HOLE, 500, 32)]


def _extents_of(spans):
    def find(offset, length):
        found, at = [], 0
        for size, kind in spans:
            low, high = max(at, offset), min(at + size, offset + length)
            if low < high:
                found.append((low, high - low, kind))
            at += size
        return found
    return find


K = 1024
SPARSE = {
    "all data": ([(1024 * K, DATA)], [(C_DATA, 256 * K)]),
    "all hole": ([(1024 * K, HOLE)], [(C_HOLE, 256 * K)]),
    "hole then data": ([(64 * K, HOLE), (960 * K, DATA)], [(C_HOLE, 64 * K), (C_DATA, 192 * K)]),
    "data then zeros": ([(200 * K, DATA), (824 * K, ZERO)], [(C_DATA, 200 * K), (C_HOLE, 56 * K)]),
    "zeros next to holes": ([(8 * K, DATA), (8 * K, ZERO), (8 * K, HOLE), (1000 * K, DATA)],
                            [(C_DATA, 8 * K), (C_HOLE, 16 * K), (C_DATA, 232 * K)]),
    "holes too small to be worth it": ([(9 * K, DATA), (2 * K, HOLE), (1013 * K, DATA)], [(C_DATA, 256 * K)]),
    "small hole before a large one": ([(K, HOLE), (9 * K, DATA), (64 * K, HOLE), (950 * K, DATA)],
                                      [(C_DATA, 10 * K), (C_HOLE, 64 * K), (C_DATA, 182 * K)]),
}


@pytest.mark.parametrize("what", SPARSE)
def test_sparse_reads(what):
    spans, expected = SPARSE[what]
    spy, at = Spy(), 0
    for size, kind in spans:
        spy.data[at : at + size] = (b"\x5a" if kind == DATA else b"\0") * size
        at += size
    spy.extents = _extents_of(spans)
    with served(spy) as s:
        reply = s.wire.ask(request(READ, 0, 256 * K), 256 * K)
        assert reply.data == spy.data[: 256 * K]
        assert [(kind, size) for kind, _, size in reply.chunks] == expected
        whole = s.wire.ask(request(READ, 0, 256 * K, flags=DF), 256 * K)
        assert whole.data == reply.data and whole.chunks == [(C_DATA, 0, 256 * K)]
    with served(spy, structured=False) as s:
        assert s.wire.ask(request(READ, 0, 256 * K), 256 * K).data == reply.data


def test_sparse_read_with_more_extents_than_one_call_gives():
    spans = [(4 * K, HOLE if i % 2 else DATA) for i in range(256)]
    spy = Spy()
    for i in range(0, 256, 2):
        spy.data[i * 4 * K : (i + 1) * 4 * K] = bytes([i | 1]) * 4 * K
    spy.extents = _extents_of(spans)
    with served(spy) as s:
        reply = s.wire.ask(request(READ, 0, MIB), MIB)
    assert reply.data == spy.data and len(reply.chunks) > 100


def test_sparse_read_that_fails_half_way_is_one_error():
    spy = Spy()
    spy.extents = _extents_of([(64 * K, HOLE), (64 * K, DATA), (64 * K, HOLE), (832 * K, DATA)])
    preads = []

    def hook(name, offset, length):
        if name == "pread":
            preads.append(offset)
            if len(preads) == 2:
                spy.fail["pread"] = (UNAVAILABLE, EIO, b"reading")

    spy.hook = hook
    with served(spy) as s:
        reply = s.wire.ask(request(READ, 0, 256 * K), 256 * K)
        assert (reply.error, reply.chunks, len(preads)) == (EIO, [], 2)
        spy.fail.clear()
        assert s.wire.ask(request(READ, 0, 9), 9).error == 0


LIES = {
    "gap": lambda offset, length: [(offset, 4096, HOLE), (offset + 8192, length - 8192, HOLE)],
    "starts elsewhere": lambda offset, length: [(offset + 1, length - 1, HOLE)],
    "too long": lambda offset, length: [(offset, length + 1, HOLE)],
    "wraps": lambda offset, length: [(offset, 4096, DATA), (offset + 4096, 2**64 - 1, HOLE)],
    "empty": lambda offset, length: [(offset, 0, HOLE)],
    "none": lambda offset, length: [],
    "overlap": lambda offset, length: [(offset, 8192, DATA), (offset, 8192, HOLE)],
}


@pytest.mark.parametrize("what", LIES)
def test_a_target_that_lies_about_its_extents(what):
    """Block status says so; reads fall back to the data."""
    spy = Spy()
    spy.data[:] = b"\x11" * MIB
    spy.extents = LIES[what]
    with served(spy) as s:
        reply = s.wire.ask(request(BLOCK_STATUS, 0, 256 * K))
        assert reply.error == EIO and "fit together" in reply.message
        read = s.wire.ask(request(READ, 0, 256 * K), 256 * K)
        assert read.error == 0 and read.data[16 * K :] == b"\x11" * (240 * K)


def test_block_status():
    spy = Spy()
    spy.extents = _extents_of([(4096, DATA), (4096, DATA), (4096, ZERO), (8192, HOLE), (MIB - 20480, DATA)])
    with served(spy, context_id=0xDEAD) as s:
        reply = s.wire.ask(request(BLOCK_STATUS, 0, MIB))
        assert reply.context_id == 0xDEAD
        assert reply.extents == [(8192, 0), (4096, 2), (8192, 3), (MIB - 20480, 0)]
        assert s.wire.ask(request(BLOCK_STATUS, 100, 9000)).extents == [(8092, 0), (908, 2)]
        assert s.wire.ask(request(BLOCK_STATUS, 100, 9000, flags=REQ_ONE)).extents == [(8092, 0)]
        assert s.wire.ask(request(BLOCK_STATUS, 8192, 1, flags=REQ_ONE)).extents == [(1, 2)]


def test_block_status_of_very_many_extents_is_cut_short():
    size = 2**30
    spy = Spy(size, backed=0)
    spy.extents = lambda offset, length: [(offset + i * 512, 512, DATA if (offset // 512 + i) % 2 else HOLE) for i in range(128)]
    with served(spy) as s:
        extents = s.wire.ask(request(BLOCK_STATUS, 0, size)).extents
        assert 1000 < len(extents) <= 8192 and extents[:2] == [(512, 3), (512, 0)]


def _blocked(spy, s):
    """Make the connection wait inside the target until the returned event is set, so that what is sent now is a batch."""
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
            s.wire.send(write(0, b"a", flags=FUA, cookie=1), request(FLUSH, cookie=2), write(1, b"b", flags=FUA, cookie=3),
                        request(TRIM, 9, 1, flags=FUA, cookie=4), write(2, b"c", cookie=5))
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
        s.wire.send(write(0, b"a", flags=FUA, cookie=1), write(1, b"b", cookie=2), request(FLUSH, cookie=3),
                    request(WRITE_ZEROES, 4, 4, flags=FUA, cookie=4), request(TRIM, 4, 4, cookie=5))
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
        data = b"".join(write(0, b"x", cookie=i) for i in range(n)) + request(READ, 0, MAX_PAYLOAD_BYTES, flags=DF, cookie=n)
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
            "requests": 3, "errors": 0, "reads": 1, "writes": 1, "zeroes": 1, "flushes": 0, "read_bytes": 1,
            "written_bytes": 1000, "zeroed_bytes": 5000, "received_bytes": 28 * 3 + 1000, "sent_bytes": 29 + 16 + 16,
            "batches": 3}


def _resident_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return None


def test_memory_of_large_requests_is_given_back():
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
    st.tuples(st.sampled_from([READ, READ, WRITE, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS]), _offsets, _lengths,
              st.sampled_from([0, 0, 0, FUA, DF, NO_HOLE, REQ_ONE, FAST_ZERO, 64])), max_size=40)


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


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
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
        expected.append((kind, offset, length, flags, error, bytes(model[offset : offset + length]) if kind == READ else b""))
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
        for cookie, (kind, offset, length, flags, error, data) in enumerate(expected):
            reply = s.wire.reply(0 if error or kind != READ else length, offset)
            assert (reply.cookie, reply.error) == (cookie, error)
            if kind == READ and not error:
                assert reply.data == data
                assert not flags & DF or len(reply.chunks) == 1
            if kind == BLOCK_STATUS and not error:
                covered = sum(size for size, _ in reply.extents)
                assert 0 < covered <= length
                assert covered == length or flags & REQ_ONE
        sender.join()


@pytest.mark.parametrize("seed", range(20))
def test_random_garbage_never_hurts(seed):
    """Random bytes and near-requests to one connection; another connection to the same disk is unharmed."""
    rng = random.Random(seed)
    disk = RamDisk(MIB)
    with served(disk, read_only=True) as other, served(disk, structured=bool(seed % 2)) as s:
        s.wire.sock.settimeout(0.01)
        for _ in range(50):
            data = bytearray(request(rng.randrange(12), rng.choice([0, 4096, MIB - 5, 2**63, rng.getrandbits(64)]),
                                     rng.choice([0, 1, 4096, 70_000, rng.getrandbits(32)]), flags=rng.getrandbits(5)))
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
