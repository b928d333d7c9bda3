"""Operations in flight: io_uring, threads and the simulated machine keep the same rules (system/io_queue.h)."""
import os
import random
import select
import threading

import pytest

from cdpcore.base.errors import CdpError, InvalidRequest, OutOfSpace, Unavailable
from cdpcore.system.io_queue import IoQueue
from cdpcore.system.os import Os, SimOs, posix

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

BLOCK = 4096


class Machine:
    def __init__(self, system: Os, folder: str):
        self.os, self.folder = system, folder

    def file(self, name="f", **how):
        return self.os.open(f"{self.folder}/{name}", write=True, create=True, **how)


@pytest.fixture(params=["best", "threads", "sim"])
def machine(request, tmp_path):
    if request.param == "sim":
        sim = SimOs(7)
        sim.mkdir("/d")
        sim.sync_dir("/")
        yield Machine(sim, "/d")
        assert sim.misuse == 0 and sim.open_queues == 0
    else:
        yield Machine(posix(threads=request.param == "threads"), str(tmp_path))


def drain(queue):
    found = []
    while queue.in_flight:
        got = queue.complete()
        assert got
        found += got
    return found


@pytest.mark.parametrize("direct", [False, True])
def test_what_was_written_is_read(machine, direct):
    rng = random.Random(1)
    blocks = [rng.randbytes(BLOCK) for _ in range(200)]
    order = list(range(200))
    rng.shuffle(order)
    with machine.file(direct=direct) as f:
        queue = IoQueue(machine.os, 64)
        results = {}
        for i in order:
            if queue.in_flight == 64:
                results.update(queue.complete())
            queue.write(f, blocks[i], i * BLOCK, i)
        results.update(drain(queue))
        assert results == dict.fromkeys(range(200), BLOCK)
        for i in order[:64]:
            queue.read(f, BLOCK, i * BLOCK, i)
        assert dict(drain(queue)) == {i: blocks[i] for i in order[:64]}
        queue.datasync(f, "sync")
        assert drain(queue) == [("sync", 0)]
        assert f.pread(200 * BLOCK, 0) == b"".join(blocks)


def test_a_read_stops_at_the_end_of_the_file(machine):
    with machine.file() as f:
        f.pwrite(b"x" * 5000, 0)
        queue = IoQueue(machine.os, 4)
        queue.read(f, BLOCK, 4096, "short")
        queue.read(f, BLOCK, 3 * BLOCK, "behind")
        assert dict(drain(queue)) == {"short": b"x" * 904, "behind": b""}


def test_the_depth_is_a_bound(machine):
    with machine.file() as f:
        queue = IoQueue(machine.os, 3)
        for i in range(3):
            queue.write(f, b"y" * BLOCK, i * BLOCK)
        with pytest.raises(Unavailable, match="in flight"):
            queue.write(f, b"y" * BLOCK, 0)
        assert len(drain(queue)) == 3
        queue.write(f, b"z" * BLOCK, 0)
        assert len(drain(queue)) == 1 and queue.complete() == [] and queue.complete(wait=False) == []
    with pytest.raises(InvalidRequest):
        IoQueue(machine.os, 0)


def test_a_failure_is_the_result(machine):
    path = machine.file().path
    with machine.os.open(path) as f:
        queue = IoQueue(machine.os, 4)
        queue.write(f, b"q" * BLOCK, 0, "write")
        queue.read(f, 10, 0, "read")
        found = dict(drain(queue))
        assert isinstance(found["write"], CdpError) and path in str(found["write"]) and found["read"] == b""


def test_a_write_can_be_durable_by_itself(machine):
    f = machine.file()
    f.allocate(0, 16 * BLOCK)
    f.datasync()
    machine.os.sync_dir(machine.folder)
    queue = IoQueue(machine.os, 4)
    queue.write(f, b"a" * BLOCK, 0, durable=True)
    assert drain(queue) == [(None, BLOCK)]
    if isinstance(machine.os, SimOs):
        machine.os.cut_at(0)
        machine.os.power_on("drop")
    assert machine.os.read_file(f.path)[:BLOCK] == b"a" * BLOCK


def test_another_thread_submits_while_one_waits(machine):
    with machine.file() as f:
        queue = IoQueue(machine.os, 32)
        seen = []

        def submit():
            for i in range(300):
                while True:
                    try:
                        queue.write(f, bytes([i % 251]) * BLOCK, i * BLOCK, i)
                        break
                    except Unavailable:
                        continue

        thread = threading.Thread(target=submit)
        thread.start()
        while len(seen) < 300:
            seen += queue.complete()
        thread.join()
        assert sorted(seen) == [(i, BLOCK) for i in range(300)]
        assert f.pread(BLOCK, 299 * BLOCK) == bytes([299 % 251]) * BLOCK


@pytest.mark.parametrize("machine", ["best", "threads"], indirect=True)
def test_a_poll_waits_for_a_completion(machine):
    with machine.file() as f:
        queue = IoQueue(machine.os, 8)
        for _ in range(3):
            assert select.select([queue.fd], [], [], 0)[0] == []
            queue.write(f, b"p" * BLOCK, 0)
            queue.datasync(f)
            n = 0
            while n < 2:
                assert select.select([queue.fd], [], [], 60)[0]
                n += len(queue.complete(wait=False))


def test_a_queue_that_is_dropped_waits_for_what_is_in_flight(machine):
    with machine.file() as f:
        queue = IoQueue(machine.os, 64)
        for i in range(50):
            queue.write(f, b"d" * BLOCK, i * BLOCK)
        del queue
        assert f.pread(50 * BLOCK, 0) == b"d" * 50 * BLOCK


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_files_of_another_system_are_refused(tmp_path):
    sim = SimOs(1)
    queue = IoQueue(sim, 2)
    with (
        posix().open(tmp_path / "f", write=True, create=True) as f,
        pytest.raises(InvalidRequest, match="not a file of"),
    ):
        queue.write(f, b"x", 0)


# --- what the simulated machine does with operations in flight --------------------------------------------------------

def simulated(seed):
    sim = SimOs(seed)
    f = sim.open("/f", write=True, create=True)
    f.allocate(0, 64 * BLOCK)
    f.datasync()
    sim.sync_dir("/")
    return sim, f, IoQueue(sim, 64)


def test_operations_complete_in_an_order_of_the_seed():
    orders = set()
    for seed in range(20):
        sim, f, queue = simulated(seed)
        for i in range(8):
            queue.write(f, bytes([i]) * BLOCK, i * BLOCK, i)
        orders.add(tuple(tag for tag, _ in drain(queue)))
        again, f2, queue2 = simulated(seed)
        for i in range(8):
            queue2.write(f2, bytes([i]) * BLOCK, i * BLOCK, i)
        assert tuple(tag for tag, _ in drain(queue2)) in orders
        assert again.calls == sim.calls
    assert len(orders) > 10


def test_a_sync_does_not_cover_what_was_in_flight_when_it_was_submitted():
    lost = 0
    for seed in range(40):
        sim, f, queue = simulated(seed)
        f.pwrite(b"a" * BLOCK, 0)
        queue.write(f, b"b" * BLOCK, BLOCK)
        queue.datasync(f)
        drain(queue)
        sim.cut_at(0)
        sim.power_on("drop")
        data = sim.read_file("/f")
        assert data[:BLOCK] == b"a" * BLOCK, "completed before the sync was submitted"
        lost += data[BLOCK:2 * BLOCK] != b"b" * BLOCK
    assert lost == 40, "in flight when the sync was submitted: not covered, whichever came first"


def test_a_power_cut_finds_writes_under_way():
    whole = part = none = 0
    for seed in range(200):
        sim, f, queue = simulated(seed)
        queue.write(f, b"w" * 8 * BLOCK, 0)
        sim.cut_at(0)
        assert [isinstance(result, CdpError) for _, result in drain(queue)] == [True]
        sim.power_on()
        there = sim.read_file("/f")[:8 * BLOCK].count(b"w")
        whole, part, none = whole + (there == 8 * BLOCK), part + (0 < there < 8 * BLOCK), none + (there == 0)
    assert min(whole, part, none) >= 5, (whole, part, none)


def test_a_cut_in_the_middle_of_completing_ends_the_rest():
    for seed in range(50):
        sim, f, queue = simulated(seed)
        for i in range(8):
            queue.write(f, bytes([i + 1]) * BLOCK, i * BLOCK, i)
        sim.cut_at(4)
        results = [result for _, result in drain(queue)]
        assert results[:3] == [BLOCK] * 3 and all(isinstance(result, CdpError) for result in results[3:])


def test_a_durable_write_stays_on_top_of_earlier_ones_that_are_not():
    for seed in range(60):
        sim, f, queue = simulated(seed)
        f.pwrite(bytes(BLOCK * 4), 0)
        queue.write(f, b"n" * BLOCK, BLOCK, durable=True)
        drain(queue)
        sim.cut_at(0)
        sim.power_on()
        assert sim.read_file("/f")[BLOCK:2 * BLOCK] == b"n" * BLOCK


def test_a_full_disk_is_the_result_of_a_write():
    sim, f, queue = simulated(3)
    sim.set_space(sim.space_used_bytes)
    queue.write(f, b"x" * BLOCK, 100 * BLOCK)
    assert isinstance(drain(queue)[0][1], OutOfSpace)
