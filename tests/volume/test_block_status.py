"""Block status costs what is returned, not the length that is asked for: counted in steps of look-ups, for every kind
of disk that is exported."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support.ha import gate
from support.nbd import Wire, request, served

import cdp
from cdp.store.base_image import Base
from cdp.store.tuning import Tuning
from cdp.volume.volume import Volume
from cdpcore.nbd.connection import RELEASES_PAGES

pytestmark = pytest.mark.plain

STATUS, REQ_ONE = 7, 8
N = 3000                # stretches of data ...
APART = 16384           # ... one every so many bytes, each
LONG = 4096
SIZE = N * APART
KIND = {"data": 0, "zero": 2, "hole": 3}
# Many segments, so most of the index is in runs; not sealed: the last 300 records.
SMALL = Tuning(slot_bytes=80 << 10, n_slots=4, segment_bytes=640 << 10, max_records=300, merge_fanin=4,
               commit_interval_ms=1, threads=True, pending_bytes=1 << 20, pending_changes=512)


class Disk:
    """What is looked at: pages of its extents, and how many steps they took."""

    def __init__(self, made: Volume, owners: list[Volume], at: int | None = None) -> None:
        self.volume, self.owners, self.at = made, owners, at
        self.view = None if at is None else made._view(at)[1]

    def extents(self, offset: int, most: int) -> list[tuple[int, int, int]]:
        return self.volume._core.extents(offset, SIZE - offset, self.view, most)

    def steps(self) -> int:
        return sum(volume._core.stats()["map_steps"] + volume._core.stats()["map_seeks"] for volume in self.owners)

    def capsule(self) -> Any:
        return self.volume.target() if self.at is None else self.volume.at(self.at).target()


def fill(volume: Volume, at: int, n: int = N) -> None:
    for i in range(n):
        volume._core.pwrite(b"x" * LONG, i * APART + at)
    volume.flush()      # a hole of a disk in place is one until it is written to


def tuned(path: Path, stack: ExitStack, **how: Any) -> Volume:
    """Of a small index."""
    cdp.create(path, **how).close()
    return stack.enter_context(Volume(path, _tuning=SMALL))


def now(path: Path, stack: ExitStack) -> Disk:
    volume = tuned(path / "v", stack, size=SIZE)
    fill(volume, 0)
    return Disk(volume, [volume])


def past(path: Path, stack: ExitStack) -> Disk:
    """Half of what is in the index is newer, and not to be seen."""
    disk = now(path, stack)
    seq = disk.volume.window().newest.seq
    fill(disk.volume, 8192)
    return Disk(disk.volume, disk.owners, seq)


def early(path: Path, stack: ExitStack) -> Disk:
    """All of it but one record is newer."""
    volume = tuned(path / "v", stack, size=SIZE)
    volume._core.pwrite(b"x" * LONG, 0)
    fill(volume, 8192)
    return Disk(volume, [volume], 1)


def image(path: Path, stack: ExitStack) -> Disk:
    """Every stretch is its parent's."""
    volume = now(path, stack).volume
    volume.create_image("trial", at="now")
    return Disk(made := stack.enter_context(volume.open_image("trial")), [volume, made])


def image_written(path: Path, stack: ExitStack) -> Disk:
    """... and as many are its own."""
    disk = image(path, stack)
    fill(disk.volume, 8192)
    return disk


def base(path: Path, stack: ExitStack) -> Disk:
    """Every stretch is in the base, under one written one."""
    volume = tuned(path / "v", stack, size=SIZE, base=Base(
        lambda offset, view: view.__setitem__(slice(None), b"y" * len(view)), [(i * APART, 4096) for i in range(N)]))
    volume._core.pwrite(b"x" * LONG, SIZE - LONG)
    return Disk(volume, [volume])


def sparse(path: Path, data: bool) -> Path:
    with (path / "disk").open("wb") as file:
        file.truncate(SIZE)
        for i in range(N if data else 0):
            file.seek(i * APART)
            file.write(b"y" * 4096)
    return path / "disk"


def before(path: Path, stack: ExitStack) -> Disk:
    """On the disk since before the volume."""
    volume = tuned(path / "v", stack, disk=sparse(path, True))
    volume._core.pwrite(b"x" * LONG, SIZE - LONG)
    volume.flush()
    return Disk(volume, [volume])


def before_now(path: Path, stack: ExitStack) -> Disk:
    """The most part on the disk by now."""
    volume = tuned(path / "v", stack, disk=sparse(path, False))
    fill(volume, 0)
    return Disk(volume, [volume])


def before_past(path: Path, stack: ExitStack) -> Disk:
    """In the log as holes that were written over."""
    disk = before_now(path, stack)
    return Disk(disk.volume, disk.owners, N // 2)


def before_early(path: Path, stack: ExitStack) -> Disk:
    """Much is in the index, all of it older: the disk has what is asked for."""
    disk = before_now(path, stack)
    seq = disk.volume.window().newest.seq
    disk.volume._core.pwrite(b"x" * LONG, 0)
    disk.volume.flush()
    return Disk(disk.volume, disk.owners, seq)


KINDS = [now, past, early, image, image_written, base, before, before_now, before_past, before_early]


@pytest.fixture(scope="module", params=[pytest.param(kind, id=kind.__name__, marks=pytest.mark.xdist_group(
    f"block status {kind.__name__}")) for kind in KINDS])
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    """Made once for all tests, which only look at it."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        kind: Callable[[Path, ExitStack], Disk] = request.param
        yield kind(Path(folder), stack)


def walk(disk: Disk, most: int) -> Iterator[tuple[int, int, int]]:
    at = 0
    while at < SIZE:
        for extent in disk.extents(at, most):
            yield extent
            at = extent[0] + extent[1]


@pytest.mark.timeout(120)
def test_it_costs_what_is_returned(disk: Disk) -> None:
    whole = list(walk(disk, 1024))
    assert sum(length for _, length, _ in whole) == SIZE
    n = len(whole)
    begin = disk.steps()
    ones = list(walk(disk, 1))
    one_by_one = disk.steps() - begin
    assert ones == whole and all(a[2] != b[2] and a[0] + a[1] == b[0] for a, b in pairwise(ones))
    assert 0 < one_by_one <= 20 * max(n, N), f"{one_by_one} steps for {n} extents, each asked for with all that follows"
    begin = disk.steps()
    assert list(walk(disk, 100)) == whole
    paged = disk.steps() - begin
    assert paged <= 8 * max(n, N), f"{paged} steps for {n} extents, a hundred at a time"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("through", ["connection", "gateway"])
def test_a_client_that_asks_for_one(disk: Disk, through: str) -> None:
    """As qemu-img map does: for all that follows, and no more than one extent of it."""
    expected = [(length, {0: 0, 1: 2, 2: 3}[kind]) for _, length, kind in walk(disk, 1024)]

    def ask(wire: Wire) -> None:
        at, n, first = 0, 0, disk.steps()
        while at < SIZE and n < 500:
            (length, state), = wire.ask(request(STATUS, at, SIZE - at, flags=REQ_ONE)).extents
            assert (length, state) == expected[n]
            at += length
            n += 1
        assert disk.steps() - first <= 20 * N

    if through == "gateway":
        with gate(SIZE) as g, g.attached(disk.capsule()):
            ask(g.wire)
    else:
        class Target:
            capsule = disk.capsule()
        with served(Target()) as s:
            ask(s.wire)


def test_data_of_the_base_is_looked_for_once(tmp_path: Path) -> None:
    """The system walks a file's own extents, to the end of the data, each time that it is asked where that ends."""
    with ExitStack() as stack:
        volume = tuned(tmp_path / "v", stack, size=SIZE, base=Base(
            lambda offset, view: view.__setitem__(slice(None), b"y" * len(view)), [(0, SIZE)]))
        for i in range(N // 2):
            volume._core.pzero(LONG, i * 2 * APART + 8192, True)
        seeks = volume._core.stats()["map_seeks"]
        assert len(list(walk(Disk(volume, [volume]), 1))) == N + 1
        assert volume._core.stats()["map_seeks"] - seeks <= 1


def test_a_hole_that_comes_where_data_was_found_is_seen(tmp_path: Path) -> None:
    """What is remembered of a disk in place ends with the next hole that is punched into it."""
    with ExitStack() as stack:
        (tmp_path / "disk").write_bytes(b"y" * 1048576)
        volume = stack.enter_context(cdp.create(tmp_path / "v", disk=tmp_path / "disk"))
        assert [(e.kind, e.length) for e in volume.extents()] == [("data", 1048576)]
        volume.trim(65536, 262144)
        volume.flush()
        # A disk on which no hole can be punched, as on the plain build, gets zeros there.
        after = [("data", 262144), ("hole", 65536), ("data", 720896)] if RELEASES_PAGES else [("data", 1048576)]
        assert [(e.kind, e.length) for e in volume.extents()] == after
        assert volume.pread(65538, 262143) == b"y" + bytes(65536) + b"y"
