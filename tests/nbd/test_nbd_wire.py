"""NBD requests over a socket pair: every command, every rejection, every error, the shapes of replies."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from support.nbd import (
    BLOCK_STATUS,
    C_DATA,
    C_HOLE,
    C_NONE,
    CACHE,
    CLOSED,
    CORRUPT,
    DATA,
    DF,
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
    write,
)

from cdpcore.bench.ram_disk import RamDisk
from cdpcore.nbd.connection import MAX_DRAIN_BYTES, MAX_PAYLOAD_BYTES, End

pytestmark = pytest.mark.sanitize

ROOT = Path(__file__).resolve().parent.parent.parent
U32 = 2**32 - 1
both = pytest.mark.parametrize("structured", [False, True], ids=["simple", "structured"])


@pytest.mark.soak
@pytest.mark.once
def test_leaves_under_sanitizers(tmp_path, seeds):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler")
    binary, core = tmp_path / "nbd_wire_check", ROOT / "src/cdpcore"
    built = subprocess.run([compiler, "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Werror",
                            "-fsanitize=address,undefined",
                            "-fno-sanitize-recover", f"-I{core}", ROOT / "tests/c/nbd_wire_check.c",
                            core / "nbd/nbd_wire.c", "-o", binary],
                           capture_output=True, text=True, check=False)
    if "sanitize" in built.stderr and built.returncode:
        pytest.skip("the compiler has no sanitizers")
    assert built.returncode == 0, built.stderr
    for seed in seeds(4):
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


@pytest.mark.parametrize(
    "end",
    [
        b"",
        request(FLUSH)[:1],
        request(FLUSH)[:27],
        request(WRITE, 0, 100, payload=bytes(99)),
        request(WRITE, 0, 32 * MIB, payload=bytes(3 * MIB)),
        request(WRITE, MIB, 9, payload=bytes(8)),
    ],
)
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
        for data in (
            request(READ, 0, 0),
            request(READ, MIB, 0),
            write(MIB, b""),
            request(TRIM, 5, 0),
            request(WRITE_ZEROES, 5, 0, flags=FUA),
            request(CACHE, 0, 0),
        ):
            reply = s.wire.ask(data)
            assert (reply.error, reply.data) == (0, b"")
    assert spy.calls == []


def test_zero_length_read_is_a_structured_reply():
    with served(Spy()) as s:
        assert s.wire.ask(request(READ, 0, 0)).chunks == [(C_NONE, 0, 0)]


def test_trim_and_zeroes_reach_the_target():
    spy = Spy()
    with served(spy) as s:
        for data in (
            request(TRIM, 1, 2),
            request(TRIM, 1, 2, flags=FUA),
            request(WRITE_ZEROES, 3, 4),
            request(WRITE_ZEROES, 3, 4, flags=NO_HOLE),
            request(WRITE_ZEROES, 3, 4, flags=FAST_ZERO | NO_HOLE | FUA),
        ):
            assert s.wire.ask(data).error == 0
    assert spy.calls == [
        ("zero", 1, 2, T_HOLE),
        ("zero", 1, 2, T_HOLE | T_FUA),
        ("zero", 3, 4, T_HOLE),
        ("zero", 3, 4, 0),
        ("zero", 3, 4, T_FUA),
    ]


def test_fua_is_taken_on_every_command():
    spy = Spy()
    with served(spy) as s:
        for kind in (READ, CACHE, BLOCK_STATUS, TRIM, WRITE_ZEROES):
            assert s.wire.ask(request(kind, 0, 4, flags=FUA), 4 if kind == READ else 0).error == 0
        assert s.wire.ask(request(FLUSH, flags=FUA)).error == 0
        assert s.wire.ask(write(0, b"data", flags=FUA)).error == 0
    assert [call for call in spy.calls if call[3] & T_FUA and call[0] != "map"] == [
        ("zero", 0, 4, T_HOLE | T_FUA),
        ("zero", 0, 4, T_HOLE | T_FUA),
        ("pwrite", 0, 4, T_FUA),
    ]


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
    (INVALID, 0, EINVAL),
    (NOTFOUND, 2, EIO),
    (NOSPACE, 28, ENOSPC),
    (NOSPACE, 0, ENOSPC),
    (CORRUPT, 0, EIO),
    (UNAVAILABLE, 5, EIO),
    (UNAVAILABLE, 30, EPERM),
    (UNAVAILABLE, 12, ENOMEM),
    (UNAVAILABLE, 122, ENOSPC),
    (UNAVAILABLE, 27, ENOSPC),
    (UNAVAILABLE, 16, EIO),
    (CLOSED, 0, ESHUTDOWN),
    (REFUSED, 0, EINVAL),
    (99, 0, EIO),
]


@both
@pytest.mark.parametrize(("code", "errno", "error"), FAILURES)
def test_failures_of_the_target(code, errno, error, structured):
    spy = Spy()
    spy.fail = dict.fromkeys(("pread", "pwrite", "zero", "flush"), (code, errno, b"doing a thing"))
    with served(spy, structured=structured) as s:
        for data in (
            request(READ, 0, 9),
            write(0, b"x"),
            write(0, b"x", flags=FUA),
            request(TRIM, 0, 1),
            request(WRITE_ZEROES, 0, 1),
            request(CACHE, 0, 1),
        ):
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
    "zeros next to holes": (
        [(8 * K, DATA), (8 * K, ZERO), (8 * K, HOLE), (1000 * K, DATA)],
        [(C_DATA, 8 * K), (C_HOLE, 16 * K), (C_DATA, 232 * K)],
    ),
    "holes too small to be worth it": ([(9 * K, DATA), (2 * K, HOLE), (1013 * K, DATA)], [(C_DATA, 256 * K)]),
    "small hole before a large one": (
        [(K, HOLE), (9 * K, DATA), (64 * K, HOLE), (950 * K, DATA)],
        [(C_DATA, 10 * K), (C_HOLE, 64 * K), (C_DATA, 182 * K)],
    ),
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
    spy.extents = lambda offset, length: [
        (offset + i * 512, 512, DATA if (offset // 512 + i) % 2 else HOLE) for i in range(128)
    ]
    with served(spy) as s:
        extents = s.wire.ask(request(BLOCK_STATUS, 0, size)).extents
        assert 1000 < len(extents) <= 8192 and extents[:2] == [(512, 3), (512, 0)]
