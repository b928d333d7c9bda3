"""Trees, runs, merges and look-ups against a model: for every sector, the list of its versions."""
import ctypes
import random
import subprocess
import sysconfig
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdpcore.base.errors import Busy, CdpError, Closed, Corruption, InvalidRequest, NotFound
from cdpcore.index.inspect import (
    LOC_BASE,
    LOC_HOLE,
    LOC_ZERO,
    MAX_SECTORS,
    ExtentTree,
    Run,
    lookup,
    lookup_runs,
    merge,
    write_tree,
)

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

ROOT = Path(__file__).parent.parent.parent
C_DIR = ROOT / "src" / "cdpcore"
UUID = b"0123456789abcdef"
ALL = [(0, 2**64 - 1)]
SECTORS = 64  # of the small volumes here
BASES = [0, 2**31 - 20, 2**32 - 20, 2**40 - 20, MAX_SECTORS - SECTORS]

Interval = tuple[int, int]
Record = tuple[int, int, int, int]  # seq, start, end, loc
History = tuple[int, list[list[Record]]]  # base, parts
no_deadline = settings(deadline=None)
on_disk = settings(no_deadline, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def at(loc: int, delta: int) -> int:
    return loc + delta if loc >> 32 else loc


@dataclass
class Model:
    """sector -> [(seq, loc)], oldest first."""

    versions: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def insert(self, seq: int, start: int, end: int, loc: int) -> None:
        for sector in range(start, end):
            self.versions.setdefault(sector, []).append((seq, at(loc, sector - start)))

    def find(self, sector: int, intervals: Sequence[Interval]) -> tuple[int | None, int | None]:
        visible = [v for v in self.versions.get(sector, ()) if any(lo < v[0] <= hi for lo, hi in intervals)]
        return visible[-1] if visible else (None, None)

    def without(self, dropped: Sequence[Interval]) -> "Model":
        kept = {s: [v for v in vs if not any(lo < v[0] <= hi for lo, hi in dropped)] for s, vs in self.versions.items()}
        return Model({s: vs for s, vs in kept.items() if vs})


def flat(extents: Iterable[tuple[int, int, list[tuple[int, int]]]]) -> dict[int, list[tuple[int, int]]]:
    """The same as a model's versions; checks that extents ascend, do not overlap and are not empty."""
    out: dict[int, list[tuple[int, int]]] = {}
    before = 0
    for start, end, column in extents:
        assert before <= start < end
        assert column
        before = end
        for sector in range(start, end):
            out[sector] = [(seq, at(loc, sector - start)) for seq, loc in column]
    return out


def per_sector(pieces: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    return [(sector, at(loc, sector - start)) for start, end, loc in pieces for sector in range(start, end)]


# --- what hypothesis draws ------------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> History:
    base = draw(st.sampled_from(BASES))
    parts, seq = [], 0
    for number in range(1, draw(st.integers(1, 4)) + 1):
        part = []
        for _ in range(draw(st.integers(0, 25))):
            seq += draw(st.integers(1, 3))
            start = draw(st.integers(0, SECTORS - 1))
            end = min(SECTORS, start + draw(st.sampled_from([1, 2, 8, 8, 8, 16, SECTORS])))
            loc = draw(st.sampled_from([LOC_ZERO, LOC_HOLE, number << 32 | seq * 1000, number << 32 | seq * 1000]))
            part.append((seq, base + start, base + end, loc))
        parts.append(part)
    return base, parts


@st.composite
def intervals(draw: st.DrawFn, most: int = 3) -> list[Interval]:
    """Disjoint, newest first."""
    n = draw(st.integers(1, most))
    edges = sorted(draw(st.lists(st.integers(0, 80), min_size=2 * n, max_size=2 * n)), reverse=True)
    out = [(edges[2 * i + 1], edges[2 * i]) for i in range(n)]
    return [(out[0][0], 2**64 - 1), *out[1:]] if draw(st.booleans()) else out


@st.composite
def views(draw: st.DrawFn, base: int) -> list[tuple[int, int, list[Interval]]]:
    cuts = sorted(draw(st.sets(st.integers(1, SECTORS - 1), max_size=3)))
    edges = [0, *(base + c for c in cuts), base + SECTORS]
    return [(a, b, draw(intervals())) for a, b in pairwise(edges)]


def build(parts: list[list[Record]]) -> tuple[Model, list[ExtentTree]]:
    model, trees = Model(), []
    for part in parts:
        tree = ExtentTree(128)
        for record in part:
            tree.insert(*record)
            model.insert(*record)
        trees.append(tree)
    return model, trees


def write_runs(tmp_path: Path, parts: list[list[Record]], trees: list[ExtentTree]) -> list[Run]:
    runs, last = [], 0
    for i, (part, tree) in enumerate(zip(parts, trees, strict=True)):
        first, last = last + 1, max([last, *(r[0] for r in part)])  # last < first: empty
        write_tree(tmp_path / f"{i}.run", tree, UUID, (first, last), (i + 1, i + 1))
        runs.append(Run(tmp_path / f"{i}.run", UUID))
    return runs


def check_source(source: ExtentTree | Run, model: Model, base: int, visible: Sequence[Interval]) -> None:
    sector = base
    while sector < base + SECTORS:
        seq, loc, until = source.find(sector, visible)
        assert until > sector
        for x in range(sector, min(until, base + SECTORS)):  # the answer holds that far
            assert model.find(x, visible) == (seq, loc if loc is None else at(loc, x - sector))
        sector += 1


# --- against the model ----------------------------------------------------------------------------------------------


@no_deadline
@given(histories(), intervals())
def test_tree(history: History, visible: list[Interval]) -> None:
    base, parts = history
    model, (tree,) = build([[r for part in parts for r in part]])
    assert flat(tree.extents()) == model.versions
    check_source(tree, model, base, visible)


@on_disk
@given(histories(), intervals(), st.lists(intervals(), max_size=1), st.data())
def test_runs_and_merges(
    tmp_path: Path, history: History, visible: list[Interval], dropped: list[list[Interval]], data: st.DataObject
) -> None:
    base, parts = history
    _, trees = build(parts)
    runs = write_runs(tmp_path, parts, trees)
    for run, tree, part in zip(runs, trees, parts, strict=True):
        run.verify()
        assert run.extents() == tree.extents()
        check_source(run, build([part])[0], base, visible)
    first = data.draw(st.integers(0, len(runs) - 1))
    last = data.draw(st.integers(first, len(runs) - 1))
    gaps = dropped[0] if dropped else []
    chosen = runs[first : last + 1]
    merge(tmp_path / "m.run", chosen, UUID, (chosen[0].header["seqs"][0], chosen[-1].header["seqs"][1]),
          (first + 1, last + 1), gaps)
    model = build(parts[first : last + 1])[0].without(gaps)
    with Run(tmp_path / "m.run", UUID) as merged:
        merged.verify()
        assert flat(merged.extents()) == model.versions
        check_source(merged, model, base, visible)
        extents = merged.extents()
        for (a, b, column), (start, _, following) in pairwise(extents):
            continued = [(seq, at(loc, b - a)) for seq, loc in column]
            assert b < start or continued != following, "neighbours that say the same"


@on_disk
@given(histories(), st.integers(1, 9), st.data())
def test_lookup(tmp_path: Path, history: History, cap: int, data: st.DataObject) -> None:
    base, parts = history
    model, trees = build(parts)
    runs = write_runs(tmp_path, parts, trees)
    view = data.draw(views(base))
    as_runs = data.draw(st.integers(0, len(parts)))
    new_trees, old_runs = trees[as_runs:][::-1], runs[:as_runs][::-1]
    end = base + SECTORS
    whole, reached = lookup(view, new_trees, old_runs, base, end)
    assert reached == end
    assert lookup_runs(view, old_runs, lookup(view, new_trees, [], base, end)[0]) == (whole, end)
    position = base
    for start, stop, loc in whole:
        assert start == position
        position = stop
        for x in range(start, stop):
            visible = next(iv for a, b, iv in view if a <= x < b)
            expected = model.find(x, visible)[1]
            assert at(loc, x - start) == (LOC_BASE if expected is None else expected)
    assert position == end
    for (a, b, loc), (_, _, loc_next) in pairwise(whole):
        assert at(loc, b - a) != loc_next, "pieces that should be one"
    few, position = [], base
    while position < end:  # with little room, from where the last one ended
        some, position = lookup(view, new_trees, old_runs, position, end, cap)
        assert 0 < len(some) <= cap
        few += some
    assert per_sector(few) == per_sector(whole)


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_one_extent_of_64_tib(tmp_path: Path) -> None:
    sectors = 2**46 // 512
    tree = ExtentTree(4)
    tree.insert(1, 5, 5 + sectors, 1 << 32 | 8)
    tree.insert(2, 2**32, 2**32 + 1, LOC_ZERO)
    write_tree(tmp_path / "a", tree, UUID, (1, 2), (1, 1))
    with Run(tmp_path / "a", UUID) as run:
        run.verify()
        assert run.header["n_extents"] == 3 + sectors // 0xFFFFFFF8
        for source in (tree, run):
            for sector in (5, 2**31, 2**32 - 1, 2**32 + 1, 2**32 + 4, 2**33, 2**36 - 1, sectors + 4):
                assert source.find(sector, ALL)[:2] == (1, (1 << 32 | 8) + sector - 5)
            assert source.find(4, ALL) == (None, None, 5)
            assert source.find(2**32, ALL)[:2] == (2, LOC_ZERO)
            assert source.find(2**32, [(0, 1)])[:2] == (1, (1 << 32 | 8) + 2**32 - 5)
            assert source.find(sectors + 5, ALL) == (None, None, 2**64 - 1)
        assert lookup([(0, MAX_SECTORS, ALL)], [], [run], 0, sectors + 10)[0] == [
            (0, 5, LOC_BASE), (5, 2**32, 1 << 32 | 8), (2**32, 2**32 + 1, LOC_ZERO),
            (2**32 + 1, sectors + 5, (1 << 32 | 8) + 2**32 - 4), (sectors + 5, sectors + 10, LOC_BASE),
        ]
        merge(tmp_path / "b", [run], UUID, (1, 2), (1, 1))
        assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_same_block_many_times(tmp_path: Path) -> None:
    n = 100_000
    tree = ExtentTree(n)
    inserted = 0
    while tree.has_room:
        inserted += 1
        tree.insert(2 * inserted, 8, 16, 1 << 32 | inserted)
    assert inserted == n
    with pytest.raises(InvalidRequest, match="full"):
        tree.insert(2 * n + 1, 0, 1, LOC_ZERO)
    write_tree(tmp_path / "a", tree, UUID, (1, 2 * n), (1, 1))
    with Run(tmp_path / "a", UUID) as run:
        run.verify()
        assert run.header["n_extents"] == 1
        assert run.header["n_versions"] == n
        rnd = random.Random(1)
        for source in (tree, run):
            for hi in [1, 2, 3, 2 * n, 2 * n + 1, *(rnd.randrange(2 * n) for _ in range(2000))]:
                expected = hi // 2 if hi <= 2 * n else n
                found = (2 * expected, (1 << 32 | expected) + 3) if expected else (None, None)
                assert source.find(11, [(0, hi)])[:2] == found


def test_writes_over_everything_end_before_memory_does() -> None:
    """Every such write gives each extent one more version; has_room must foresee the last."""
    tree = ExtentTree(1000)
    small = seq = 300
    for i in range(300):
        tree.insert(i + 1, i * 16, i * 16 + 8, 1 << 32 | 8 * i)
    while tree.has_room:
        seq += 1
        tree.insert(seq, 0, MAX_SECTORS, LOC_HOLE)
    assert small + 5 < seq < 1000  # by versions, not by records
    model = tree.extents()
    assert len(model) == 600
    assert all(column[-seq + small :] == [(s, LOC_HOLE) for s in range(small + 1, seq + 1)] for _, _, column in model)


def test_ascending_and_descending_writes_fill_many_leaves() -> None:
    for order in (range(5000), range(4999, -1, -1), random.Random(3).sample(range(5000), 5000)):
        tree = ExtentTree(5000)
        model = Model()
        for seq, i in enumerate(order, 1):
            tree.insert(seq, i * 3, i * 3 + 2, 1 << 32 | seq * 8)
            model.insert(seq, i * 3, i * 3 + 2, 1 << 32 | seq * 8)
        assert flat(tree.extents()) == model.versions
        assert tree.bytes < 5000 * 130


def test_fences_that_do_not_fit_memory_spill(tmp_path: Path) -> None:
    """More than 16384 blocks of 128 extents; nothing is left of the second file."""
    n = 16384 * 128 + 1000
    tree = ExtentTree(n)
    for i in range(n):
        tree.insert(i + 1, 2 * i, 2 * i + 1, 1 << 32 | i)
    write_tree(tmp_path / "a", tree, UUID, (1, n), (1, 1))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with Run(tmp_path / "a", UUID) as run:
        run.verify()
        assert run.header["n_blocks"] == -(-n // 128) > 16384
        rnd = random.Random(2)
        for i in [0, n - 1, 16384 * 128 - 1, 16384 * 128, *(rnd.randrange(n) for _ in range(200))]:
            assert run.find(2 * i, ALL) == (i + 1, 1 << 32 | i, 2 * i + 1)
            assert run.find(2 * i + 1, ALL) == (None, None, 2 * i + 2 if i + 1 < n else 2**64 - 1)


# --- rules of use ---------------------------------------------------------------------------------------------------


def test_empty_tree_and_run(tmp_path: Path) -> None:
    tree = ExtentTree(1)
    assert tree.extents() == []
    assert tree.find(7, ALL) == (None, None, 2**64 - 1)
    write_tree(tmp_path / "a", tree, UUID, (5, 4), (3, 3))
    with Run(tmp_path / "a") as run:
        run.verify()
        assert run.header == {"uuid": UUID, "seqs": (5, 4), "segments": (3, 3), "n_extents": 0, "n_versions": 0,
                              "n_blocks": 0, "file_bytes": 4096}
        assert run.find(0, ALL) == (None, None, 2**64 - 1)
        assert lookup([(0, 9, ALL)], [tree], [run], 2, 5) == ([(2, 5, LOC_BASE)], 5)
        merge(tmp_path / "b", [run, run], UUID, (5, 4), (3, 3))
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_bad_arguments(tmp_path: Path) -> None:
    for n in (0, 2**28 + 1):
        with pytest.raises(MemoryError):
            ExtentTree(n)
    tree = ExtentTree(10)
    tree.insert(5, 0, 8, LOC_ZERO)
    for seq, start, end in ((0, 0, 1), (4, 0, 1), (6, 1, 1), (6, 2, 1), (6, 0, MAX_SECTORS + 1)):
        with pytest.raises(InvalidRequest):
            tree.insert(seq, start, end, LOC_ZERO)
    for bad in ([(2, 1)], [(0, 5), (3, 9)], [(4, 9), (0, 5)]):
        with pytest.raises(InvalidRequest):
            tree.find(0, bad)
    for view in ([], [(1, 9, ALL)], [(0, 4, ALL), (5, 9, ALL)], [(0, 0, ALL)], [(0, 3, ALL)]):
        with pytest.raises(InvalidRequest):
            lookup(view, [tree], [], 0, 8)
    for seqs, segments in (((6, 9), (1, 1)), ((1, 4), (1, 1)), ((0, 9), (1, 1)), ((1, 9), (2, 1))):
        with pytest.raises(InvalidRequest):
            write_tree(tmp_path / "a", tree, UUID, seqs, segments)
    with pytest.raises(InvalidRequest):
        write_tree(tmp_path / "a", tree, b"short", (1, 9), (1, 1))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFound):
        Run(tmp_path / "a")
    with pytest.raises(CdpError):
        write_tree(tmp_path / "no" / "a", tree, UUID, (1, 9), (1, 1))


def test_merge_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    runs = []
    for i, uuid in enumerate([UUID, UUID, b"f" * 16]):
        tree = ExtentTree(10)
        tree.insert(10 * i + 1, 0, 8, LOC_ZERO)
        write_tree(tmp_path / str(i), tree, uuid, (10 * i + 1, 10 * i + 9), (i + 1, i + 1))
        runs.append(Run(tmp_path / str(i), uuid))
    a, b, foreign = runs
    for bad in ([], [b, a], [a, a], [a, foreign], [a] * 65):
        with pytest.raises(InvalidRequest):
            merge(tmp_path / "m", bad, UUID, (1, 99), (1, 3))
    with pytest.raises(InvalidRequest):
        merge(tmp_path / "m", [a, b], UUID, (1, 5), (1, 3))  # a seq outside
    with pytest.raises(Corruption):
        Run(tmp_path / "2", UUID)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2"]


def test_closed_and_foreign_objects(tmp_path: Path) -> None:
    tree = ExtentTree(10)
    tree.insert(1, 0, 8, LOC_ZERO)
    write_tree(tmp_path / "a", tree, UUID, (1, 1), (1, 1))
    run = Run(tmp_path / "a", UUID)
    run.close()
    run.close()
    for use in (lambda: run.find(0, ALL), run.verify, run.extents, lambda: run.header,
                lambda: lookup([(0, 8, ALL)], [], [run], 0, 8),
                lambda: merge(tmp_path / "m", [run], UUID, (1, 1), (1, 1))):
        with pytest.raises(Closed):
            use()
    with pytest.raises(TypeError):
        lookup([(0, 8, ALL)], [run], [], 0, 8)  # type: ignore[list-item]
    with pytest.raises(TypeError):
        lookup([(0, 8, ALL)], [], [tree], 0, 8)  # type: ignore[list-item]


def test_close_while_others_read(tmp_path: Path) -> None:
    tree = ExtentTree(5000)
    for i in range(5000):
        tree.insert(i + 1, 2 * i, 2 * i + 1, 1 << 32 | i)
    write_tree(tmp_path / "a", tree, UUID, (1, 5000), (1, 1))
    for _ in range(20):
        run = Run(tmp_path / "a", UUID)
        finds: list[int] = []
        barrier = threading.Barrier(4)

        def read(run: Run = run, finds: list[int] = finds, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                while True:
                    run.verify()
                    assert run.find(8000, ALL)[0] == 4001
                    finds.append(1)
            except Closed:
                pass

        threads = [threading.Thread(target=read) for _ in range(3)]
        for t in threads:
            t.start()
        barrier.wait()
        while not finds:
            pass
        run.close()
        for t in threads:
            t.join()


SHIM = """
#include <stdatomic.h>
#include "plain_os.h"
static atomic_int held, waiting;
static int slow_sync(void *ctx, int fd)
{
    waiting = 1;
    while (held)
        usleep(100);
    return plain_datasync(ctx, fd);
}
static cdp_os os;
const cdp_os *table(void) { os = plain_os; os.datasync = slow_sync; return &os; }
void fuse(int64_t n) { plain_fuse = n; }
void hold(int on) { held = on; }
int is_waiting(void) { return waiting; }
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The small OS table of the C programs: its calls can be made to fail, its datasync to wait."""
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    cc = (sysconfig.get_config_var("CC") or "cc").split()
    subprocess.run([*cc, "-std=c11", "-D_GNU_SOURCE", "-shared", "-fPIC", f"-I{C_DIR}", f"-I{ROOT / 'tests' / 'c'}",
                    str(folder / "shim.c"), "-o", str(folder / "shim.so")], check=True)
    lib = ctypes.CDLL(str(folder / "shim.so"))
    lib.table.restype = ctypes.c_void_p
    lib.fuse.argtypes = [ctypes.c_int64]
    return lib


def capsule_of(shim: ctypes.CDLL) -> object:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    capsule: object = new(shim.table(), b"cdpcore.os", None)
    return capsule


def test_operating_system_from_a_capsule(tmp_path: Path, shim: ctypes.CDLL) -> None:
    capsule = capsule_of(shim)
    tree = ExtentTree(10)
    tree.insert(1, 0, 8, LOC_ZERO)
    shim.fuse(2)
    with pytest.raises(CdpError):
        write_tree(tmp_path / "a", tree, UUID, (1, 1), (1, 1), os=capsule)
    shim.fuse(-1)
    assert list(tmp_path.iterdir()) == []
    write_tree(tmp_path / "a", tree, UUID, (1, 1), (1, 1), os=capsule)
    with Run(tmp_path / "a", UUID, os=capsule) as run:
        assert run.find(0, ALL) == (1, LOC_ZERO, 8)
        merge(tmp_path / "b", [run], UUID, (1, 1), (1, 1), os=capsule)
    with pytest.raises(ValueError, match="[Cc]apsule"):
        Run(tmp_path / "a", UUID, os=7)


def test_tree_is_not_changed_while_it_is_written(tmp_path: Path, shim: ctypes.CDLL) -> None:
    capsule = capsule_of(shim)
    tree = ExtentTree(10)
    tree.insert(1, 0, 8, LOC_ZERO)
    writer = threading.Thread(target=write_tree, args=(tmp_path / "a", tree, UUID, (1, 1), (1, 1), capsule))
    shim.hold(1)
    writer.start()
    while not shim.is_waiting():
        pass
    try:
        with pytest.raises(Busy):
            tree.insert(2, 0, 1, LOC_ZERO)
        with pytest.raises(Busy):
            tree.extents()
        assert tree.find(3, ALL) == (1, LOC_ZERO, 8)  # reading is fine
    finally:
        shim.hold(0)
        writer.join()
    tree.insert(2, 0, 1, LOC_ZERO)
