"""The shared-memory way from a gateway's NBD connection to a daemon's target: every request, order, bounds, ends."""
import os
import random
import struct
import threading
import time
from contextlib import contextmanager

import pytest
from support.ha import SETTINGS, gate
from support.nbd import EIO, MIB, UNAVAILABLE, request, until, write
from support.slow_device import COLD, Device, durable_means_durable

import cdp
from cdpcore.base import workers
from cdpcore.base.errors import InvalidRequest
from cdpcore.bench.ram_disk import RamDisk
from cdpcore.channel.channel import SLOTS, Channel
from cdpcore.channel.executor import Executor, Left
from cdpcore.nbd.connection import End

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE = 1, 2, 4, 8
SIZE = 8 * MIB


@pytest.fixture
def volume(tmp_path):
    with cdp.create(tmp_path / "v", size=SIZE, settings=SETTINGS) as made:
        yield made


@pytest.mark.parametrize("structured", [True, False])
def test_every_request(volume, structured):
    with gate(SIZE, structured=structured) as g, g.attached(volume.target()):
        data = os.urandom(5000)
        assert g.wire.ask(write(777, data, flags=FUA)).error == 0
        assert volume.pread(5000, 777) == data
        assert g.wire.ask(request(READ, 700, 6000), 6000).data == volume.pread(6000, 700)
        assert g.wire.ask(request(READ, SIZE - 65536, 65536), 65536).data == bytes(65536)
        assert g.wire.ask(request(TRIM, 4096, 512)).error == 0
        assert g.wire.ask(request(ZEROES, 1024, 512, flags=NO_HOLE)).error == 0
        assert volume.pread(512, 1024) == volume.pread(512, 4096) == bytes(512)
        assert g.wire.ask(request(FLUSH)).error == 0
        assert g.wire.ask(request(CACHE, 0, MIB)).error == 0
        assert g.wire.ask(request(READ, 0, 0)).error == 0
        assert g.wire.ask(request(READ, SIZE - 512, 1024), 1024).error == 22
        assert g.wire.ask(write(SIZE - 512, bytes(1024))).error == 28
        assert g.wire.ask(request(99)).error == 22
        kinds = [int(r["kind"]) for r in volume.records()]
        assert kinds == [1, 3, 2, 4]      # written with FUA, trimmed, zeroed, flushed
        g.wire.send(request(DISC))
        assert g.end() == End.DISCONNECTED
    counted = g.connection.counters()
    assert counted["requests"] == 11 and counted["errors"] == 3 and counted["writes"] == 1 and counted["zeroes"] == 2


def test_block_status(volume):
    volume.pwrite(bytes([1]) * 4096, 8192)
    volume.zero(4096, 65536)
    with gate(SIZE) as g, g.attached(volume.target()):
        extents = [(e.offset, e.length, {"data": 0, "zero": 2, "hole": 3}[e.kind]) for e in volume.extents()]
        asked = g.wire.ask(request(STATUS, 0, SIZE))
        assert [(length, flags) for length, flags in asked.extents] == [(length, flags) for _, length, flags in extents]
        assert g.wire.ask(request(STATUS, 8192, SIZE - 8192, flags=REQ_ONE)).extents == [(4096, 0)]


@pytest.mark.parametrize("base", [True, False])
def test_block_status_of_several_contexts(volume, base):
    """A chunk for each, also where there are more ranges than a part of the reply holds, and at another owner."""
    volume.pwrite(b"1" * SIZE, 0)
    mark = volume.window().newest.seq
    for at in range(0, SIZE, 8192):
        volume.pwrite(b"2" * 512, at)
    later = volume.window().newest.seq
    volume.pwrite(b"3" * 4096, 4096)
    points = [f"#{mark}", f"#{later}", "now"]
    ids = [7, 9, 0xDEAD]
    with gate(SIZE, context_id=1 if base else None, contexts=ids) as g:
        for _ in range(2):
            maps = [volume.written_since(point)[1] for point in points]
            with g.attached(volume.target(), volume.window().newest.seq, select=(base, maps)):
                asked = g.wire.ask(request(STATUS, 0, SIZE)).by_context
                assert list(asked) == [1] * base + ids
                if base:
                    assert asked[1] == [(SIZE, 0)]
                some = asked[7]
                assert some[:6] == [(512, 1), (3584, 0), (4608, 1), (7680, 0), (512, 1), (7680, 0)]
                assert 300 < len(some) <= 2048 // (3 + base)    # the rest of the range is for another request
                assert asked[9] == [(4096, 0), (4096, 1), (SIZE - 8192, 0)] and asked[0xDEAD] == [(SIZE, 0)]
                asked = g.wire.ask(request(STATUS, 4096, SIZE - 4096, flags=REQ_ONE)).by_context
                assert asked[7] == [(4608, 1)] and asked[9] == [(4096, 1)] and asked[0xDEAD] == [(SIZE - 4096, 0)]
                assert g.wire.ask(request(READ, 0, 512), 512).data == b"2" * 512
    with pytest.raises(InvalidRequest, match="at most 15"), gate(SIZE, contexts=range(2, 18)):
        pass


def test_many_under_way_are_answered_in_their_order(volume):
    n = 3000
    with gate(SIZE, structured=False) as g, g.attached(volume.target()):
        sender = threading.Thread(target=g.wire.send, args=[b"".join(
            write(i % 100 * 512, struct.pack("<Q", i) * 64, cookie=i) if i % 7 else request(FLUSH, cookie=i)
            for i in range(1, n))])
        sender.start()
        cookies = [struct.unpack(">IIQ", g.wire.recv_exact(16)) for _ in range(1, n)]
        sender.join()
    assert cookies == [(0x67446698, 0, i) for i in range(1, n)]
    assert [int(r["kind"]) for r in volume.records()].count(1) == sum(1 for i in range(1, n) if i % 7)
    for i in range(n - 101, n):
        if i % 7:
            assert volume.pread(8, i % 100 * 512) in [struct.pack("<Q", k) for k in range(i, n, 100)]


def test_requests_of_all_sizes_go_round_the_buffers(tmp_path):
    """Several times round RECEIVE and REPLY, with what is kept in between; the largest request is 32 MiB."""
    size, chance = 64 * MIB, random.Random(5)
    model = bytearray(size)
    with cdp.create(tmp_path / "v", size=size,
                    settings=SETTINGS) as volume, gate(size) as g, g.attached(volume.target()):
        for n in [32 * MIB, *(int(512 * 2 ** chance.uniform(0, 13.5)) for _ in range(60)), 32 * MIB, 700]:
            at = chance.randrange(0, size - n + 1)
            data = chance.randbytes(min(n, 65536)) * (n // min(n, 65536) + 1)
            model[at:at + n] = data[:n]
            assert g.wire.ask(write(at, data[:n])).error == 0
            back = chance.randrange(0, size - n + 1)
            assert g.wire.ask(request(READ, back, n), n).data == model[back:back + n]
        until(lambda: (at := g.channel.positions())["head"] == at["answered"], "all is answered")
        assert g.channel.positions()["head"] - g.channel.positions()["tail"] <= SLOTS


def test_what_is_kept_is_bounded_though_nothing_is_flushed(tmp_path):
    """Far more small writes than slots, on a log that would write itself only when 4 MiB are full."""
    with cdp.create(tmp_path / "v", size=SIZE, settings=SETTINGS) as volume, gate(SIZE, structured=False) as g, \
            g.attached(volume.target()):
        n, piece = 2 * SLOTS + 100, write(0, b"x" * 1)
        threading.Thread(target=lambda: [g.wire.send(piece * 100) for _ in range(n // 100)], daemon=True).start()
        for _ in range(n // 100 * 100):
            assert g.wire.recv_exact(16)[4:8] == bytes(4)
        assert g.channel.positions()["head"] - g.channel.positions()["tail"] <= SLOTS
        assert volume.window().newest.seq == n // 100 * 100


def test_requests_wait_while_there_is_no_daemon(volume):
    with gate(SIZE) as g:
        g.wire.send(write(0, b"early" * 100), request(FLUSH))
        until(lambda: g.channel.positions()["head"] == 2, "both are received")
        time.sleep(0.05)
        assert g.channel.positions()["done"] == 0
        with g.attached(volume.target()):
            assert g.wire.reply().error == g.wire.reply().error == 0
        assert volume.pread(5, 0) == b"early"


def test_a_client_that_goes_leaves_nothing_unwritten(volume):
    with gate(SIZE) as g, g.attached(volume.target()):
        assert g.wire.ask(write(0, b"z" * 4096)).error == 0
        g.wire.send(request(DISC))
        assert g.end() == End.DISCONNECTED
        positions = g.channel.positions()
        assert positions["tail"] == positions["head"] == 1 and positions["written_seq"] == 1


def test_ends(volume):
    with gate(SIZE) as g:
        g.wire.send(write(0, b"z" * 4096))
        g.connection.stop()             # graceful: it waits for a daemon
        until(lambda: g.channel.positions()["head"] == 1, "received")
        g.connection.stop(now=True)
        assert g.end() == End.STOPPED
    with gate(SIZE) as g, g.attached(volume.target()) as left:
        g.wire.send(b"this is no request at all, not at all")
        assert g.end() == End.GARBAGE
        until(lambda: left, "the executor hears of it")
        assert left == [Left.GONE]


def test_a_read_only_target(volume):
    volume.pwrite(b"old" * 1000, 0)
    with volume.at("now") as image, gate(SIZE, read_only=True) as g, g.attached(image.target()):
        volume.pwrite(b"new" * 1000, 0)
        assert g.wire.ask(request(READ, 0, 3000), 3000).data == b"old" * 1000
        assert g.wire.ask(write(0, b"x" * 512)).error == 1


def test_a_daemon_believes_no_reference(volume):
    """A write whose range passes the end is refused by the executor too, and nothing is logged."""
    with gate(2 * SIZE) as g, g.attached(volume.target()):      # a gateway that has the size wrong
        assert g.wire.ask(write(SIZE, b"x" * 512)).error == 22
        assert g.wire.ask(request(READ, SIZE - 512, 1024), 1024).error == 22
        assert g.wire.ask(request(TRIM, SIZE, SIZE)).error == 22
    assert volume.window().newest.seq == 0


def test_what_is_refused(volume, tmp_path):
    with open(tmp_path / "f", "wb+") as file, pytest.raises(InvalidRequest):
        Channel(file.fileno())
    channel = Channel()
    with pytest.raises(InvalidRequest, match="does not return the seqs"):
        Executor(channel, os.dup(channel.fileno()), RamDisk(MIB).capsule, 1)
    with pytest.raises(InvalidRequest):
        Executor(channel, os.dup(channel.fileno()), object(), 1)
    with gate(MIB, read_only=True) as g, g.attached(RamDisk(MIB, read_only=True).capsule):
        assert g.wire.ask(request(READ, 0, 512), 512).data == bytes(512)


def crowd(g, device):
    """A request came while another waited on the spot: from now on they are handed over."""
    g.wire.send(request(READ, COLD, 1, cookie=0))
    until(lambda: device.waiting == 1, "a read on the spot")
    g.wire.send(request(READ, COLD, 1, cookie=1))
    until(lambda: g.connection.counters()["requests"] == 2, "another one")
    device.answers.set()
    assert [g.wire.reply(1, COLD).cookie for _ in range(2)] == [0, 1]
    device.answers.clear()


def test_a_device_has_many_requests_at_a_time():
    """Each is answered with its own data, in the order in which they were sent."""
    device = Device(SIZE)
    device.data[COLD : COLD + 64] = range(64)
    with gate(SIZE) as g, g.attached(device.capsule):
        crowd(g, device)
        g.wire.send(*(request(READ, COLD + i, 1, cookie=i) for i in range(40)), request(FLUSH, cookie=40))
        until(lambda: device.waiting == 41, "40 reads and a flush")
        device.answers.set()
        replies = [g.wire.reply(reads={i: (1, COLD + i) for i in range(40)}) for _ in range(41)]
        assert [reply.cookie for reply in replies] == list(range(41))
        assert [reply.data for reply in replies[:40]] == [bytes([i]) for i in range(40)]


def test_changes_go_on_while_a_flush_waits():
    device = Device(SIZE)
    with gate(SIZE) as g, g.attached(device.capsule):
        crowd(g, device)
        g.wire.send(request(FLUSH, cookie=1))
        until(lambda: device.waiting == 1, "a flush")
        g.wire.send(*(write(i, b"x", cookie=i) for i in range(2, 10)), write(10, b"x", flags=FUA, cookie=10))
        until(lambda: device.waiting == 2, "the writes are done, and the flush for the last")
        assert device.names().count("pwrite") == 9
        device.answers.set()
        assert [g.wire.reply().cookie for _ in range(10)] == list(range(1, 11))


def test_more_than_may_wait_at_a_time():
    device = Device(SIZE)
    with gate(SIZE) as g, g.attached(device.capsule):
        crowd(g, device)
        n = 1000
        g.wire.send(*(request(READ, COLD + i, 1, cookie=i) if i % 10 else request(FLUSH, cookie=i) for i in range(n)))
        until(lambda: device.waiting >= 32, "many of them")
        device.answers.set()
        reads = {i: (1, COLD + i) for i in range(n) if i % 10}
        assert [g.wire.reply(reads=reads).cookie for _ in range(n)] == list(range(n))


def test_one_request_at_a_time_pays_for_no_hand_over():
    device = Device(SIZE)
    device.answers.set()
    until(lambda: workers.counters()["threads"] == 0, "workers of other tests end")
    with gate(SIZE) as g, g.attached(device.capsule):
        for _ in range(50):
            g.wire.ask(request(READ, COLD, 8), 8)
            g.wire.ask(request(FLUSH))
    assert workers.counters()["threads"] == 0


def test_a_flush_that_fails_fails_for_all_that_wait_for_it():
    device = Device(SIZE)
    with gate(SIZE) as g, g.attached(device.capsule):
        crowd(g, device)
        device.fail["flush"] = (UNAVAILABLE, 5, b"making it durable")
        g.wire.send(request(READ, COLD, 1, cookie=0), *(request(FLUSH, cookie=i) for i in range(1, 20)))
        until(lambda: device.waiting >= 2, "the read and a flush")
        device.answers.set()
        replies = [g.wire.reply(reads={0: (1, COLD)}) for _ in range(20)]
        assert [(r.cookie, r.error) for r in replies] == [(0, 0)] + [(i, EIO) for i in range(1, 20)]


def test_an_executor_that_stops_answers_what_it_began():
    device = Device(SIZE)
    with gate(SIZE) as g:
        with g.attached(device.capsule) as left:
            crowd(g, device)
            g.wire.send(*(request(READ, COLD + i, 1, cookie=i) for i in range(20)))
            until(lambda: device.waiting == 20, "20 reads")
            threading.Timer(0.1, device.answers.set).start()
        assert left == [Left.STOPPED]
        after = Device(SIZE)
        with g.attached(after.capsule, 0):
            assert [g.wire.reply(1, COLD + i).cookie for i in range(20)] == list(range(20))
        assert after.calls == []


def test_an_owner_that_was_replaced_answers_nothing_more():
    """What it was reading when the channel got a new owner is read by that one again."""
    old, new = Device(SIZE), Device(SIZE)
    old.data[:] = b"o" * SIZE
    new.data[:] = b"n" * SIZE
    new.answers.set()
    with gate(SIZE) as g, g.attached(old.capsule) as left:
        crowd(g, old)
        g.wire.send(*(request(READ, COLD + i, 1, cookie=i) for i in range(20)))
        until(lambda: old.waiting == 20, "20 reads")
        with g.attached(new.capsule, 0):
            assert [g.wire.reply(1, COLD + i).data for i in range(20)] == [b"n"] * 20
            old.answers.set()
            until(lambda: left == [Left.DISOWNED], "the old owner ends")
            assert g.wire.ask(request(READ, COLD + 99, 1), 1).data == b"n"


@contextmanager
def through_a_gate(device, structured):
    with gate(device.size_bytes, structured=structured) as g, g.attached(device.capsule):
        yield g


@pytest.mark.soak
def test_durable_means_durable(seeds):
    for seed in seeds(8):
        durable_means_durable(seed, through_a_gate)
