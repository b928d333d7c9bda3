"""Small parts in process, by pytest-benchmark: `python -m bench micro`. Each asserts what it computed, so that a broken
part cannot look fast."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cdp
from cdp.moments.points import Point
from cdpcore.base.checksum import crc32c, crc32c_by
from cdpcore.bench import loadgen
from cdpcore.index import inspect as index

SIZE = 64 << 20
RECORDS = 20_000
PAGE = bytes(range(256)) * 16


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[cdp.Volume]:
    """Empty."""
    with cdp.create(tmp_path / "vol", size=SIZE) as v:
        yield v


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cdp.Volume]:
    """RECORDS random 4 KiB writes, half of them in sealed segments."""
    path = tmp_path_factory.mktemp("aged") / "vol"
    with cdp.create(path, size=SIZE) as v:
        loadgen.run(v.target(), length_bytes=4096, requests=RECORDS // 2)
    with cdp.open(path) as v:
        loadgen.run(v.target(), length_bytes=4096, requests=RECORDS // 2, seed=2)
        v.flush()
        yield v


@pytest.mark.parametrize("n", [512, 4096, 65536])
def test_crc32c(benchmark: Any, n: int) -> None:
    data = (PAGE * 16)[:n]
    assert benchmark(crc32c, data) == crc32c_by("portable", data)


def test_tree_insert(benchmark: Any) -> None:
    """10,000 inserts at scattered places into an empty tree."""

    def insert() -> Any:
        tree = index.ExtentTree(20_000)
        for seq in range(1, 10_001):
            start = seq * 7919 % 65_536 * 8
            tree.insert(seq, start, start + 8, (1 << 32) + seq * 8)
        return tree

    tree = benchmark(insert)
    assert tree.find(10_000 * 7919 % 65_536 * 8, [(0, 1 << 40)])


def test_pwrite_4k(benchmark: Any, volume: cdp.Volume) -> None:
    """Python's API, one thread, the same place."""
    benchmark(volume.pwrite, PAGE, 8192)
    assert volume.pread(4096, 8192) == PAGE


def test_pread_4k_recent(benchmark: Any, volume: cdp.Volume) -> None:
    """Of data that is still in the pool."""
    volume.pwrite(PAGE, 8192)
    assert benchmark(volume.pread, 4096, 8192) == PAGE


def test_pread_4k_hole(benchmark: Any, volume: cdp.Volume) -> None:
    assert benchmark(volume.pread, 4096, 8192) == bytes(4096)


def test_image_by_seq(benchmark: Any, aged: cdp.Volume) -> None:
    def image() -> int:
        with aged.at(RECORDS // 3) as opened:
            return opened.moment.seq

    assert benchmark(image) == RECORDS // 3


def test_image_by_time(benchmark: Any, aged: cdp.Volume) -> None:
    moment = aged.resolve(RECORDS // 3)
    point = Point("time", "time", ts_ns=moment.ts_ns)

    def image() -> int:
        with aged.at(point) as opened:
            return opened.moment.seq

    assert benchmark(image) == RECORDS // 3


def test_pread_4k_of_image(benchmark: Any, aged: cdp.Volume) -> None:
    with aged.at(RECORDS // 3) as image:
        at = int(aged.records(RECORDS // 3 - 1, RECORDS // 3)["offset"][0])
        found = benchmark(image.pread, 4096, at)
    assert any(found)


def test_history(benchmark: Any, aged: cdp.Volume) -> None:
    """All records as an array."""
    assert len(benchmark(aged.records)) >= RECORDS


def test_extents(benchmark: Any, aged: cdp.Volume) -> None:
    """The whole volume's map."""
    found = benchmark(lambda: list(aged.extents()))
    assert sum(e.length for e in found) == SIZE


def test_restore_and_undo(benchmark: Any, tmp_path: Path) -> None:
    with cdp.create(tmp_path / "vol", size=SIZE) as v:
        v.pwrite(PAGE, 0)
        seq = v.window().newest.seq
        v.pwrite(bytes(4096), 0)

        def both() -> None:
            v.restore(seq)
            v.undo()

        benchmark.pedantic(both, rounds=20)
        assert v.pread(4096, 0) == bytes(4096)
