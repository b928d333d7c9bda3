"""The simulated machine forgets, tears and fails as os_sim.h says: no less (or tests on it prove nothing), no more."""
from collections.abc import Callable

import pytest
from support.simdisk import MIB, PAGE, SECTOR, durable_file, sectors, stamp, tree

from cdpcore.base.errors import CdpError, InvalidRequest, NotFound, Unavailable
from cdpcore.system.os import File, Os, SimOs

pytestmark = pytest.mark.sanitize


# --- power: content ---------------------------------------------------------------------------------------------------


def test_synced_data_and_name_survive_every_mode() -> None:
    for mode in ("seeded", "drop", "keep"):
        for seed in range(20):
            sim = SimOs(seed)
            durable_file(sim, "/f", stamp(MIB, 1)).close()
            sim.power_on(mode)
            assert tree(sim) == {"/f": stamp(MIB, 1)}


def test_datasync_covers_the_writes_of_every_handle() -> None:
    sim = SimOs(0)
    with durable_file(sim, "/f", b"") as a, sim.open("/f", write=True) as b:
        a.pwrite(b"one", 0)
        b.pwrite(b"two", 3)
        a.datasync()
    sim.power_on("drop")
    assert sim.read_file("/f") == b"onetwo"


def test_drop_forgets_what_was_not_synced() -> None:
    sim = SimOs(0)
    f = durable_file(sim, "/f", b"old" * 10000)
    f.pwrite(b"new", 0)
    f.pwrite(b"longer", 50000)
    f.truncate(7)
    f.allocate(0, MIB)
    f.pwrite(b"tail", 2 * MIB)
    assert f.size() == 2 * MIB + 4
    sim.power_on("drop")
    assert sim.read_file("/f") == b"old" * 10000


def test_keep_keeps_all_the_call_in_flight_included() -> None:
    sim = SimOs(0)
    f = durable_file(sim, "/f", b"x" * 100000)
    f.truncate(10)
    f.allocate(0, 20000)
    sim.cut_at(1)
    with pytest.raises(Unavailable):
        f.pwrite(b"y" * 10, 15000)
    sim.power_on("keep")
    assert sim.read_file("/f") == b"x" * 10 + b"\0" * 14990 + b"y" * 10 + b"\0" * 4990


def test_writes_are_kept_dropped_and_torn_in_sectors() -> None:
    old, new = stamp(64 * SECTOR, 1), stamp(64 * SECTOR, 2)
    seen = {"kept": 0, "dropped": 0, "prefix": 0, "gap": 0}
    for seed in range(400):
        sim = SimOs(seed)
        f = durable_file(sim, "/f", old)
        f.pwrite(new, 0)
        sim.power_on()
        now = sectors(sim.read_file("/f"))
        assert all(got in (a, b) for got, a, b in zip(now, sectors(old), sectors(new), strict=True))
        fresh = [got == b for got, b in zip(now, sectors(new), strict=True)]
        if all(fresh):
            seen["kept"] += 1
        elif not any(fresh):
            seen["dropped"] += 1
        elif fresh == sorted(fresh, reverse=True):
            seen["prefix"] += 1
        else:
            seen["gap"] += 1
    assert min(seen.values()) >= 10, seen


def test_each_write_has_its_own_fate() -> None:
    seen = set()
    for seed in range(300):
        sim = SimOs(seed)
        f = durable_file(sim, "/f", b"\0" * 3 * SECTOR)
        for i in range(3):
            f.pwrite(b"x" * SECTOR, i * SECTOR)
        sim.power_on()
        seen.add(tuple(s[0] for s in sectors(sim.read_file("/f"))))
    assert len(seen) == 8, seen


def test_the_write_in_flight_may_be_torn_or_missing() -> None:
    seen = set()
    for seed in range(500):
        sim = SimOs(seed)
        f = durable_file(sim, "/f", b"\0" * 3 * SECTOR)
        sim.cut_at(1)
        with pytest.raises(Unavailable, match="Input/output error"):
            f.pwrite(b"x" * 3 * SECTOR, 0)
        sim.power_on()
        seen.add(tuple(s[0] for s in sectors(sim.read_file("/f"))))
    assert len(seen) == 8, seen


def test_sizes_may_outlive_their_data() -> None:
    seen = set()
    for seed in range(200):
        sim = SimOs(seed)
        f = durable_file(sim, "/f", b"")
        f.pwrite(b"x" * 1000, 0)
        sim.power_on()
        data = sim.read_file("/f")
        assert len(data) in (0, 512, 1000)
        assert all(s in (b"x" * len(s), b"\0" * len(s)) for s in sectors(data))
        seen.add(data)
    assert {b"", b"x" * 1000, b"\0" * 1000, b"x" * 512} <= seen


def test_punches_allocations_and_truncates_are_kept_or_dropped() -> None:
    seen = set()
    for seed in range(200):
        sim = SimOs(seed)
        f = durable_file(sim, "/f", b"x" * 3 * PAGE)
        f.punch(0, PAGE)
        f.truncate(2 * PAGE)
        f.allocate(0, 4 * PAGE)
        sim.power_on()
        data = sim.read_file("/f")
        punched, allocated = data[:PAGE] == b"\0" * PAGE, len(data) == 4 * PAGE
        truncated = data[2 * PAGE : 3 * PAGE] != b"x" * PAGE
        assert data == (b"\0x"[not punched :][:1] * PAGE + b"x" * PAGE + (b"" if truncated else b"x" * PAGE)).ljust(
            4 * PAGE if allocated else 0, b"\0")
        seen.add((punched, truncated, allocated))
    assert len(seen) == 8, seen


def test_what_lies_past_a_surviving_size_is_gone() -> None:
    hit = 0
    for seed in range(200):
        sim = SimOs(seed)
        f = durable_file(sim, "/f", b"")
        f.pwrite(b"x" * 400, 0)
        f.pwrite(b"y" * 10, 0)
        sim.power_on()
        with sim.open("/f", write=True) as f:
            if f.size() != 10:
                continue
            hit += 1
            f.truncate(400)
            assert f.pread(400, 0)[10:] == b"\0" * 390
    assert hit > 5


def test_a_synced_name_does_not_bring_its_data() -> None:
    sim = SimOs(0)
    with sim.open("/f", write=True, create=True) as f:
        f.pwrite(b"data", 0)
        sim.sync_dir("/")
    sim.power_on("drop")
    assert tree(sim) == {"/f": b""}


def test_synced_data_does_not_bring_its_name() -> None:
    sim = SimOs(0)
    with sim.open("/f", write=True, create=True) as f:
        f.pwrite(b"data", 0)
        f.datasync()
    sim.power_on("drop")
    assert tree(sim) == {}


# --- power: names -----------------------------------------------------------------------------------------------------


def test_a_prefix_of_name_operations_survives() -> None:
    lengths = set()
    for seed in range(200):
        sim = SimOs(seed)
        for name in "abcdefgh":
            sim.open(f"/{name}", create=True).close()
        sim.power_on()
        names = sim.list_dir("/")
        assert names == list("abcdefgh")[: len(names)]
        lengths.add(len(names))
    assert lengths == set(range(9))


def test_unlink_is_durable_only_after_sync_dir() -> None:
    for sync in (False, True):
        sim = SimOs(0)
        durable_file(sim, "/f", b"data").close()
        sim.unlink("/f")
        if sync:
            sim.sync_dir("/")
        assert not sim.exists("/f")
        sim.power_on("drop")
        assert tree(sim) == ({} if sync else {"/f": b"data"})


def test_rename_is_all_or_nothing() -> None:
    seen = set()
    for seed in range(100):
        sim = SimOs(seed)
        durable_file(sim, "/old", b"1").close()
        durable_file(sim, "/new", b"2").close()
        sim.rename("/new", "/old")
        sim.power_on()
        seen.add(tuple(sorted(tree(sim).items())))
    assert seen == {(("/new", b"2"), ("/old", b"1")), (("/old", b"2"),)}


@pytest.mark.parametrize("synced", ["/a", "/b"])
def test_a_rename_between_directories_is_never_half_durable(synced: str) -> None:
    for seed in range(50):
        sim = SimOs(seed)
        sim.mkdir("/a")
        sim.mkdir("/b")
        sim.sync_dir("/")
        sim.write_file("/a/f", b"data")
        sim.open("/a/tmp", create=True).close()
        sim.rename("/a/tmp", "/a/g")
        sim.rename("/a/f", "/b/f")
        sim.rename("/a/g", "/b/g")
        sim.sync_dir(synced)
        sim.power_on()
        assert tree(sim) == {"/a/": b"", "/b/": b"", "/b/f": b"data", "/b/g": b""}


def test_sync_dir_is_of_that_directory_only() -> None:
    sim = SimOs(0)
    sim.mkdir("/a")
    sim.mkdir("/b")
    sim.sync_dir("/")
    for path in ("/a/1", "/b/2"):
        sim.open(path, create=True).close()
    sim.sync_dir("/b")
    sim.power_on("drop")
    assert tree(sim) == {"/a/": b"", "/b/": b"", "/b/2": b""}


def test_a_directory_that_was_not_synced_is_lost_with_its_files() -> None:
    sim = SimOs(0)
    sim.mkdir("/a")
    sim.write_file("/a/f", b"data")
    sim.power_on("drop")
    assert tree(sim) == {}


def test_a_removed_directory_takes_what_happened_in_it_along() -> None:
    sim = SimOs(0)
    sim.mkdir("/a")
    sim.mkdir("/a/b")
    sim.mkdir("/c")
    sim.sync_dir("/")
    sim.sync_dir("/a")
    sim.write_file("/a/b/f", b"data")
    sim.rename("/a/b/f", "/c/f")
    sim.rmdir("/a/b")
    sim.sync_dir("/a")
    sim.power_on("drop")
    assert tree(sim) == {"/a/": b"", "/c/": b"", "/c/f": b"data"}


def test_directories_moved_into_each_other_stay_a_tree() -> None:
    for seed in range(100):
        sim = SimOs(seed)
        for path in ("/x", "/x/y", "/z"):
            sim.mkdir(path)
            sim.sync_dir(path.rsplit("/", 1)[0] or "/")
        sim.rename("/x/y", "/z/y")
        sim.rename("/x", "/z/y/x")
        sim.sync_dir("/z/y")
        sim.power_on()
        assert tree(sim) == {"/z/": b"", "/z/y/": b"", "/z/y/x/": b""}


# --- power: the cut ---------------------------------------------------------------------------------------------------


def test_the_cut_comes_at_the_nth_changing_call() -> None:
    calls: list[Callable[[SimOs, File], object]] = [
        lambda sim, f: f.pwrite(b"x", 0), lambda sim, f: f.datasync(), lambda sim, f: f.truncate(5),
        lambda sim, f: f.allocate(0, 9), lambda sim, f: f.punch(0, 1), lambda sim, f: sim.mkdir("/d"),
        lambda sim, f: sim.rename("/f", "/g"), lambda sim, f: sim.sync_dir("/"), lambda sim, f: sim.unlink("/g"),
        lambda sim, f: sim.rmdir("/d"), lambda sim, f: sim.open("/h", create=True).close(),
    ]
    for n in range(1, len(calls) + 1):
        sim = SimOs(n)
        f = durable_file(sim, "/f", b"")
        before = sim.calls
        sim.cut_at(n)
        for i, call in enumerate(calls, 1):
            sim.list_dir("/")
            f.pread(f.size(), 0)
            if i < n:
                call(sim, f)
                continue
            with pytest.raises(Unavailable, match="Input/output error"):
                call(sim, f)
            break
        assert sim.calls == before + n
        assert not sim.powered
        reads: list[Callable[[SimOs, File], object]] = [
            lambda sim, f: f.size(), lambda sim, f: f.pread(1, 0), lambda sim, f: sim.list_dir("/"),
            lambda sim, f: sim.open("/f"), lambda sim, f: f.lock(), lambda sim, f: f.next_data(0),
        ]
        for call in calls + reads:
            with pytest.raises(Unavailable, match="Input/output error"):
                call(sim, f)
        assert sim.calls == before + n
        sim.power_on()
        assert sim.powered
        with pytest.raises(Unavailable, match="Bad file descriptor"):
            f.pread(1, 0)
        sim.write_file("/again", b"works")
        with pytest.raises(Unavailable, match="Bad file descriptor"):
            f.close()
        assert sim.misuse == 0


def test_handles_left_open_are_counted_and_die_with_the_power() -> None:
    sim = SimOs(0)
    files = [durable_file(sim, f"/{i}", b"") for i in range(3)]
    files[0].lock()
    assert sim.open_handles == 3
    sim.cut_at(0)
    with pytest.raises(Unavailable):
        files[1].close()
    assert sim.open_handles == 2
    sim.power_on()
    assert sim.open_handles == 0
    with sim.open("/0") as f:
        f.lock()


def test_the_power_can_go_again() -> None:
    sim = SimOs(3)
    for i in range(5):
        f = durable_file(sim, f"/{i}", bytes([i]) * PAGE)
        f.pwrite(b"lost", 0)
        sim.power_on("drop")
    assert tree(sim) == {f"/{i}": bytes([i]) * PAGE for i in range(5)}


def test_cut_at_never() -> None:
    sim = SimOs(0)
    sim.cut_at(1)
    sim.cut_at(None)
    sim.mkdir("/a")
    assert sim.powered
    with pytest.raises(InvalidRequest):
        sim.power_on("perhaps")


# --- what it is for: finding code that is not crash-safe --------------------------------------------------------------


def replace_safely(os: Os, data: bytes) -> None:
    os.write_file("/f", data)


def without_datasync(os: Os, data: bytes) -> None:
    with os.open("/t", write=True, create=True) as f:
        f.pwrite(data, 0)
    os.rename("/t", "/f")
    os.sync_dir("/")


def without_sync_dir(os: Os, data: bytes) -> None:
    with os.open("/t", write=True, create=True) as f:
        f.pwrite(data, 0)
        f.datasync()
    os.rename("/t", "/f")


def in_place(os: Os, data: bytes) -> None:
    with os.open("/f", write=True) as f:
        f.pwrite(data, 0)
        f.truncate(len(data))
        f.datasync()


def replacements_go_wrong(replace: Callable[[Os, bytes], None]) -> set[str]:
    """Replace a file, with the power going at every call, and say what went wrong."""
    wrong = set()
    old, new = stamp(8 * SECTOR, 1), stamp(12 * SECTOR, 2)
    for seed in range(60):
        for cut in range(1, 12):
            sim = SimOs(seed)
            replace_safely(sim, old)
            sim.cut_at(cut)
            try:
                replace(sim, new)
                finished = True
            except CdpError:
                finished = False
            sim.power_on()
            try:
                now = sim.read_file("/f")
            except NotFound:
                now = b""
            if now not in (old, new):
                wrong.add("neither old nor new")
            if finished and now != new:
                wrong.add("lost after it was done")
    return wrong


def test_a_safe_replacement_survives_every_cut() -> None:
    assert replacements_go_wrong(replace_safely) == set()


@pytest.mark.parametrize(("replace", "expected"), [
    (without_datasync, {"neither old nor new", "lost after it was done"}),
    (without_sync_dir, {"lost after it was done"}),
    (in_place, {"neither old nor new"}),
])
def test_unsafe_replacements_are_found(replace: Callable[[Os, bytes], None], expected: set[str]) -> None:
    assert replacements_go_wrong(replace) == expected
