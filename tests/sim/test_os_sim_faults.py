"""Faults of the simulated machine: flips, lost and misdirected writes, failing calls, a full disk, the clock."""
import errno
import mmap
from collections.abc import Callable

import pytest

from cdpcore.base.errors import InvalidRequest, NotFound, OutOfSpace, Unavailable
from cdpcore.system.os import File, SimOs

pytestmark = pytest.mark.sanitize

SECTOR = 512
PAGE = 4096
MIB = 1 << 20


def durable_file(sim: SimOs, path: str, data: bytes) -> File:
    f = sim.open(path, write=True, create=True)
    f.pwrite(data, 0)
    f.datasync()
    sim.sync_dir("/")
    return f


def test_a_flipped_bit_is_seen_where_the_sector_is_clean() -> None:
    sim = SimOs(0)
    f = durable_file(sim, "/f", b"\0" * 3 * SECTOR)
    f.pwrite(b"\1" * SECTOR, SECTOR)
    for byte, bit in ((0, 0), (SECTOR + 5, 7), (2 * SECTOR + 9, 3)):
        sim.flip("/f", byte, bit)
    data = f.pread(3 * SECTOR, 0)
    assert (data[0], data[SECTOR + 5], data[2 * SECTOR + 9]) == (1, 1, 8)
    assert data.count(0) == 2 * SECTOR - 2
    sim.power_on("drop")
    data = sim.read_file("/f")
    assert (data[0], data[SECTOR + 5], data[2 * SECTOR + 9]) == (1, 128, 8)
    assert data.count(0) == 3 * SECTOR - 3
    sim.flip("/f", 0)
    assert sim.read_file("/f")[0] == 0
    for byte, bit in ((3 * SECTOR, 0), (0, 8)):
        with pytest.raises(InvalidRequest):
            sim.flip("/f", byte, bit)
    with pytest.raises(NotFound):
        sim.flip("/g", 0)
    with pytest.raises(Unavailable):
        sim.flip("/", 0)


def test_a_flip_in_a_hole() -> None:
    sim = SimOs(0)
    f = durable_file(sim, "/f", b"")
    f.truncate(1 << 40)
    f.datasync()
    sim.flip("/f", 1 << 39, 1)
    assert f.pread(3, (1 << 39) - 1) == b"\0\2\0"


def test_a_lost_write() -> None:
    sim = SimOs(0)
    f = durable_file(sim, "/f", b"a" * 600)
    sim.lose_write(part="/f", n=2)
    assert [f.pwrite(b"b" * 100, offset) for offset in (0, 550, 100)] == [100, 100, 100]
    f.datasync()
    expected = b"b" * 200 + b"a" * 400 + b"\0" * 50
    assert f.pread(1000, 0) == expected
    sim.power_on("drop")
    assert sim.read_file("/f") == expected


def test_a_misdirected_write() -> None:
    sim = SimOs(0)
    f = durable_file(sim, "/f", b"a" * 3000)
    sim.misdirect_write(1000)
    f.pwrite(b"b" * 10, 500)
    sim.misdirect_write(-1000)
    f.pwrite(b"c" * 10, 1100)
    sim.misdirect_write(-1000)
    assert f.pwrite(b"gone", 10) == 4
    f.datasync()
    sim.power_on("drop")
    assert sim.read_file("/f") == b"a" * 100 + b"c" * 10 + b"a" * 1390 + b"b" * 10 + b"a" * 1490


def test_the_disk_fills_up_and_is_freed() -> None:
    sim = SimOs(0)
    sim.set_space(10 * PAGE)
    f = durable_file(sim, "/f", b"x" * 6 * PAGE)
    assert sim.space_used_bytes == 6 * PAGE
    with pytest.raises(OutOfSpace):
        f.pwrite(b"y" * 6 * PAGE, 5 * PAGE)
    assert f.pread(99 * PAGE, 0) == b"x" * 5 * PAGE + b"y" * 5 * PAGE
    f.pwrite(b"z" * 10 * PAGE, 0)
    with pytest.raises(OutOfSpace):
        f.allocate(10 * PAGE, 1)
    with pytest.raises(OutOfSpace):
        f.allocate(0, 1 << 50)
    f.punch(0, 3 * PAGE)
    assert sim.space_used_bytes == 7 * PAGE
    f.truncate(PAGE * 5 + 1)
    assert sim.space_used_bytes == 3 * PAGE
    f.allocate(0, 8 * PAGE)
    assert sim.space_used_bytes == 8 * PAGE
    with sim.open("/g", write=True, create=True) as g:
        with pytest.raises(OutOfSpace):
            g.pwrite(b"g" * 3 * PAGE, 0)
        assert g.size() == 2 * PAGE
        f.pwrite(b"reserved", 2 * PAGE)
    sim.unlink("/f")
    assert sim.space_used_bytes == 10 * PAGE
    f.close()
    assert sim.space_used_bytes == 2 * PAGE
    sim.power_on("drop")
    assert sim.space_used_bytes == 6 * PAGE
    with pytest.raises(InvalidRequest):
        sim.set_space(1 << 50)


@pytest.mark.parametrize("call", [
    "open", "create", "pread", "pwrite", "datasync", "allocate", "truncate", "punch", "size", "next_data", "lock",
    "rename", "unlink", "mkdir", "rmdir", "sync_dir", "list_dir", "any",
])
def test_calls_fail_when_told(call: str) -> None:
    calls: dict[str, Callable[[SimOs, File], object]] = {
        "open": lambda sim, f: sim.open("/f").close(), "create": lambda sim, f: sim.open("/n", create=True).close(),
        "pread": lambda sim, f: f.pread(1, 0), "pwrite": lambda sim, f: f.pwrite(b"x", 0),
        "datasync": lambda sim, f: f.datasync(), "allocate": lambda sim, f: f.allocate(0, 1),
        "truncate": lambda sim, f: f.truncate(5), "punch": lambda sim, f: f.punch(0, 1),
        "size": lambda sim, f: f.size(), "next_data": lambda sim, f: f.next_data(0), "lock": lambda sim, f: f.lock(),
        "rename": lambda sim, f: sim.rename("/f", "/f2"), "unlink": lambda sim, f: sim.unlink("/f2"),
        "mkdir": lambda sim, f: sim.mkdir("/d"), "rmdir": lambda sim, f: sim.rmdir("/d"),
        "sync_dir": lambda sim, f: sim.sync_dir("/"), "list_dir": lambda sim, f: sim.list_dir("/"),
    }
    sim = SimOs(0)
    f = durable_file(sim, "/f", b"abc")
    sim.fail(call, n=1, error=errno.EROFS)
    failed = []
    for name, make in calls.items():
        count = sim.count(name)
        try:
            make(sim, f)
        except Unavailable as error:
            assert "Read-only" in str(error)
            failed.append(name)
            make(sim, f)
            count += 1
        assert sim.count(name) == count + 1
    assert failed == [call if call != "any" else "open"]


def test_faults_choose_call_count_and_path() -> None:
    sim = SimOs(0)
    a, b = durable_file(sim, "/a", b""), durable_file(sim, "/b", b"")
    sim.fail("pwrite", part="/b", n=2, times=3, error=errno.ENOSPC)
    outcome = []
    for i in range(6):
        a.pwrite(b"a", i)
        try:
            b.pwrite(b"b", i)
            outcome.append("ok")
        except OutOfSpace:
            outcome.append("full")
    assert outcome == ["ok", "full", "full", "full", "ok", "ok"]
    sim.fail("pwrite", n=1)
    sim.clear_faults()
    a.pwrite(b"a", 0)


def test_faults_are_checked() -> None:
    sim = SimOs(0)
    with pytest.raises(InvalidRequest):
        sim.fail("fly")
    for wrong in ({"n": 0}, {"times": 0}, {"error": 0}, {"error": -5}, {"part": "p" * 300}):
        with pytest.raises(InvalidRequest):
            sim.fail("pwrite", **wrong)
    for _ in range(32):
        sim.fail("pwrite", n=1000)
    with pytest.raises(OutOfSpace):
        sim.lose_write()


def test_a_failing_write_may_leave_its_first_sectors() -> None:
    seen = set()
    for seed in range(100):
        sim = SimOs(seed)
        f = durable_file(sim, "/f", b"\0" * 4 * SECTOR)
        sim.fail("pwrite")
        with pytest.raises(Unavailable):
            f.pwrite(b"x" * 4 * SECTOR, 0)
        data = f.pread(4 * SECTOR, 0)
        assert data == b"x" * data.count(b"x") + b"\0" * data.count(b"\0")
        seen.add(data.count(b"x") // SECTOR)
    assert seen == {0, 1, 2, 3, 4}


def test_a_failed_datasync_loses_data_for_good() -> None:
    seen = set()
    for seed in range(100):
        sim = SimOs(seed)
        f = durable_file(sim, "/f", b"\0" * 16384)
        f.pwrite(b"x" * PAGE, 0)
        f.pwrite(b"y" * PAGE, 8192)
        sim.fail("datasync")
        with pytest.raises(Unavailable):
            f.datasync()
        assert f.pread(16384, 0) == b"x" * PAGE + b"\0" * PAGE + b"y" * PAGE + b"\0" * PAGE
        f.pwrite(b"z" * PAGE, 12288)
        f.datasync()
        assert f.pread(1, 0) == b"x"
        sim.power_on("keep")
        data = sim.read_file("/f")
        assert data[12288:] == b"z" * PAGE
        seen.add((data[0:PAGE] == b"x" * PAGE, data[8192:12288] == b"y" * PAGE))
    assert len(seen) == 4, seen


def test_without_holes() -> None:
    sim = SimOs(0)
    sim.set_sparse(False)
    f = durable_file(sim, "/f", b"")
    f.truncate(MIB)
    assert f.next_data(5) == (5, MIB)
    with pytest.raises(Unavailable, match="not supported"):
        f.punch(0, PAGE)
    sim.set_sparse(True)
    f.punch(0, PAGE)
    assert f.next_data(5) is None


def test_wrong_use_is_refused_and_counted() -> None:
    sim = SimOs(0)
    with sim.open("/f", write=True, create=True, direct=True) as f:
        buffer = mmap.mmap(-1, 2 * PAGE)
        f.pwrite(buffer, 0)
        assert sim.misuse == 0
        with memoryview(buffer) as view:
            for data, offset in ((view[:PAGE], 512), (view[:512], 0), (view[512 : PAGE + 512], 0)):
                with pytest.raises(InvalidRequest):
                    f.pwrite(data, offset)
                with pytest.raises(InvalidRequest):
                    f.pread_into(data, offset)
        assert sim.misuse == 6
        with pytest.raises(InvalidRequest):
            sim.open("/../f")


# --- clock, sparseness ------------------------------------------------------------------------------------------------


def test_the_clock_does_as_told() -> None:
    sim = SimOs(0)
    assert sim.now_ns() == 1767225600 * 10**9
    assert sim.now_ns() == 1767225600 * 10**9 + 1000
    sim.set_clock(100, 7)
    assert [sim.now_ns() for _ in range(3)] == [100, 107, 114]
    sim.set_clock(100, -60)
    assert [sim.now_ns() for _ in range(4)] == [100, 40, 0, 0]
    sim.set_clock(2**64 - 5, 3)
    assert [sim.now_ns() for _ in range(3)] == [2**64 - 5, 2**64 - 2, 2**64 - 1]
    sim.set_clock(5, 0)
    assert [sim.now_ns() for _ in range(2)] == [5, 5]


def test_a_huge_sparse_file_is_cheap() -> None:
    sim = SimOs(0)
    f = durable_file(sim, "/f", b"")
    f.truncate(64 << 40)
    for i in range(64):
        f.pwrite(bytes([i + 1]), i << 40)
    assert sim.space_used_bytes == 64 * PAGE
    f.datasync()
    f.truncate(32 << 40)
    f.truncate(2**63 - 1)
    f.pwrite(b"end", 2**63 - 4)
    sim.power_on("drop")
    with sim.open("/f", write=True) as f:
        assert f.size() == 64 << 40
        at, found = 0, []
        while (data := f.next_data(at)) is not None:
            found.append(data)
            at = data[1]
        assert found == [(i << 40, (i << 40) + PAGE) for i in range(64)]
        assert f.pread(2, 63 << 40) == b"\x40\0"
