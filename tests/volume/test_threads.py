"""Many threads on one real volume: one serial order, whole requests, durability as promised, and close() at any time.

Requests describe themselves: every sector says which request wrote it, so an image after record N says what record N
was, and the records in their order must give every state that anybody can see. Small segments, so that rolls, seals and
merges go on all the time. The requests are of the seed; the interleaving is the machine's.
"""
from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.seeds import Seeds
from support.simcatalog import on
from support.sizes import KIB, tuning

from cdp.store import creation
from cdp.volume.volume import Volume
from cdpcore.base.errors import CdpError, Closed, InvalidRequest, NotFound, RefusedPoint
from cdpcore.system.os import SimOs

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

SECTOR = 512
SIZE = 512 * KIB
SMALL = tuning(128 * KIB, 1024 * KIB, slots=4, records=2000, files=3, threads=True)


def made(path: Path) -> str:
    creation.create(str(path), SIZE, SMALL)
    return str(path)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return made(tmp_path / "v")


def request(number: int, sectors: int) -> bytes:
    """`sectors` sectors, each of which says: request `number`, my sector i."""
    return b"".join(struct.pack("<QQ", number, i) * (SECTOR // 16) for i in range(sectors))


def numbers(content: bytes) -> np.ndarray:
    """Which request wrote each sector; every sector must be of one request."""
    words = np.frombuffer(content, "<u8").reshape(-1, SECTOR // 8)
    assert (words[:, ::2] == words[:, :1]).all() and (words[:, 1::2] == words[:, 1:2]).all(), "a sector of two requests"
    return words[:, 0]


def together(jobs: list[Callable[[], None]]) -> None:
    """Run all jobs, each in its thread; raise the first error."""
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as e:      # noqa: BLE001  (told by the test)
            errors.append(e)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join(240)
        assert not t.is_alive(), "a thread is stuck"
    if errors:
        raise errors[0]


@pytest.mark.soak
def test_serial_order(tmp_path: Path, seeds: Seeds) -> None:
    for seed in seeds(1):
        serial_order(made(tmp_path / str(seed)), seed)


def serial_order(path: str, seed: int) -> None:
    """Overlapping writes, trims and zeroes of 6 threads: replaying records() in order gives the final content, every
    image, and the content after opening again; each thread's own requests keep their order; no record is lost or made
    up."""
    volume = Volume(path, _tuning=SMALL)
    # of each thread: (request or kind, offset, length)
    done: list[list[tuple[int, int, int]]] = [[] for _ in range(6)]

    def writer(t: int) -> None:
        rnd = random.Random(seed * 100 + t)
        for k in range(350):
            start, sectors = rnd.randrange(SIZE // SECTOR - 200), rnd.choice((1, 2, 8, 16, 60, 150))
            offset, length = start * SECTOR, sectors * SECTOR
            what = rnd.random()
            if what < 0.85:
                number = (t + 1) << 32 | (k + 1)
                volume.pwrite(request(number, sectors), offset, fua=rnd.random() < 0.03)
                done[t].append((number, offset, length))
            elif what < 0.92:
                volume.trim(length, offset)
                done[t].append((0, offset, length))
            else:
                volume.zero(length, offset)
                done[t].append((0, offset, length))
            if rnd.random() < 0.05:
                volume.flush()

    together([lambda t=t: writer(t) for t in range(6)])
    records = volume.records()
    assert records["seq"].tolist() == list(range(1, len(records) + 1))
    assert (np.diff(records["ts_ns"].astype(np.int64)) > 0).all()
    changes = records[records["kind"] <= 3]
    assert len(changes) == sum(map(len, done))
    state = np.zeros(SIZE // SECTOR, np.uint64)
    seen: list[list[tuple[int, int, int]]] = [[] for _ in range(7)]
    moments = set(random.Random(seed).sample(range(1, len(records)), 60))
    checked = 0
    for r in records.tolist():
        seq, _, kind, _, offset, length = r
        a, b = offset // SECTOR, (offset + length) // SECTOR
        if kind == 1:
            with volume.at(seq) as image:
                content = image.pread(length, offset)
            number = int(numbers(content)[0])
            assert content == request(number, b - a), f"record #{seq} is not one request"
            state[a:b] = number
            seen[(number >> 32) - 1].append((number, offset, length))
        elif kind <= 3:
            state[a:b] = 0
            seen[6].append((0, offset, length))
        if seq in moments:
            with volume.at(seq) as image:
                assert (numbers(image.pread(SIZE, 0)) == state).all(), (
                    f"the image of #{seq} is not what the records give"
                )
            checked += 1
    assert checked == 60
    for t in range(6):
        assert seen[t] == [d for d in done[t] if d[0]]
    assert sorted(seen[6]) == sorted(d for ds in done for d in ds if not d[0])
    final = volume.pread(SIZE, 0)
    assert (numbers(final) == state).all()
    assert volume.stats()["runs"] >= 1
    volume.close()
    with Volume(path, _tuning=SMALL) as again:
        assert again.pread(SIZE, 0) == final
        assert (again.records() == records).all()


def test_requests_are_whole(path: str) -> None:
    """A read sees a request as a whole or not at all, and never an older one after a newer one; also one that is put
    together from sectors and long ones of many frames; also while a time image of the same place stays as it is."""
    volume = Volume(path, _tuning=SMALL)
    sectors = 160                       # 80 KiB: three frames' worth of parts
    volume.pwrite(request(1, sectors), 0)
    image = volume.at("now")
    stop = threading.Event()
    reads = [0, 0, 0]

    def write() -> None:
        try:
            for number in range(2, 250):
                volume.pwrite(request(number, sectors), 0, fua=number % 50 == 0)
        finally:
            stop.set()

    def read(i: int) -> None:
        last = 0
        while not stop.is_set():
            got = numbers(volume.pread(sectors * SECTOR, 0))
            assert (got == got[0]).all(), "a read of two requests"
            assert got[0] >= last, "back in time"
            last = int(got[0])
            reads[i] += 1
            if i == 2:
                assert numbers(image.pread(sectors * SECTOR, 0))[0] == 1
            if i == 1:      # as of a point: the same, and the seq says which
                with volume.at("now") as now:
                    first = now.pread(sectors * SECTOR, 0)
                    assert (numbers(first) == numbers(first)[0]).all()
                    assert now.pread(sectors * SECTOR, 0) == first

    together([write, *(lambda i=i: read(i) for i in range(3))])
    assert all(reads)
    image.close()
    volume.close()


@pytest.mark.soak
def test_unaligned_writes_do_not_lose_neighbours(tmp_path: Path, seeds: Seeds) -> None:
    for seed in seeds(1):
        unaligned_writes_do_not_lose_neighbours(made(tmp_path / str(seed)), seed)


def unaligned_writes_do_not_lose_neighbours(path: str, seed: int) -> None:
    """Threads that write different bytes of the same sectors: merging a sector is one step in the order, so no byte is
    lost."""
    volume = Volume(path, _tuning=SMALL)
    mine = [bytearray(20 * SECTOR) for _ in range(8)]

    def writer(t: int) -> None:
        rnd = random.Random(seed * 10 + t)
        for _ in range(300):
            at = rnd.randrange(20 * SECTOR // 8 - 1) * 8 + t        # its own byte of every eight
            value = rnd.randrange(1, 256)
            volume.pwrite(bytes([value]), at)
            mine[t][at] = value

    together([lambda t=t: writer(t) for t in range(8)])
    expected = bytes(max(column) for column in zip(*mine, strict=True))
    assert volume.pread(20 * SECTOR, 0) == expected
    volume.close()
    with Volume(path, _tuning=SMALL) as again:
        assert again.pread(20 * SECTOR, 0) == expected


@pytest.mark.soak
def test_flush_is_durable(tmp_path: Path, seeds: Seeds) -> None:
    for seed in seeds(1):
        flush_is_durable(made(tmp_path / str(seed)), seed)


def flush_is_durable(path: str, seed: int) -> None:
    """When flush() or a FUA write returns, the log has synced at least as far as what was acknowledged before."""
    volume = Volume(path, _tuning=SMALL)
    flushes = [0] * 4

    def writer(t: int) -> None:
        rnd = random.Random(seed * 7 + t)
        for k in range(150):
            volume.pwrite(request(k, rnd.choice((1, 8, 120))), rnd.randrange(800) * SECTOR)
            if rnd.random() < 0.4:
                before = volume._core.position()[0]
                volume.flush()
                assert volume.stats()["durable_seq"] >= before
                flushes[t] += 1
            elif rnd.random() < 0.3:
                volume.pwrite(request(k, 130), 0, fua=True)
                mine = volume.stats()
                assert mine["durable_seq"] > 0

    together([lambda t=t: writer(t) for t in range(4)])
    stats = volume.stats()
    assert 0 < stats["syncs"] and stats["flushes"] <= sum(flushes)
    volume.close()


@pytest.mark.soak
def test_acknowledged_is_durable_with_threads(seeds: Seeds) -> None:
    for seed in seeds(12):
        acknowledged_is_durable(seed)


def acknowledged_is_durable(seed: int) -> None:
    """On the simulated disk, with the writer and maintenance threads: FUA writes of many frames and flushes, from
    several threads; then the power goes and nothing un-synced survives. All that was acknowledged as durable is
    there."""
    sim = SimOs(seed)
    creation.create("/v", SIZE, SMALL, os=sim, catalog=on(sim))
    volume = Volume("/v", _tuning=SMALL, _os=sim, _catalog=on(sim))
    durable: list[dict[int, int]] = [{} for _ in range(4)]      # of each thread: place -> number
    stop = threading.Event()

    def writer(t: int) -> None:
        rnd = random.Random(seed * 10 + t)
        number, pending = 0, {}
        try:
            while not stop.is_set():
                number += 1
                place = rnd.randrange(2)
                fua = rnd.random() < 0.5
                volume.pwrite(request(number, 120), (2 * t + place) * 120 * SECTOR, fua=fua)
                pending[place] = number
                if fua:
                    durable[t][place] = number
                elif rnd.random() < 0.2:
                    volume.flush()
                    durable[t].update(pending)
        except CdpError:
            assert not sim.powered

    def cut() -> None:
        stop.wait(0.15)
        sim.cut_at(0)
        stop.set()

    together([cut, *(lambda t=t: writer(t) for t in range(4))])
    with pytest.raises(CdpError):
        volume.close()
    sim.power_on("drop")
    again = Volume("/v", _tuning=SMALL, _os=sim, _catalog=on(sim))
    for t in range(4):
        for place, number in durable[t].items():
            got = numbers(again.pread(120 * SECTOR, (2 * t + place) * 120 * SECTOR))
            assert (got == got[0]).all() and got[0] >= number, f"thread {t}: {number} was durable, {got[0]} is there"
    again.close()
    assert any(durable)


@pytest.mark.soak
def test_everything_at_once(tmp_path: Path, seeds: Seeds) -> None:
    for seed in seeds(1):
        everything_at_once(made(tmp_path / str(seed)), seed)


def everything_at_once(path: str, seed: int) -> None:
    """Writers, readers, restores, bookmarks, images, points and history together: no error but what a user may see, and
    what is there at the end is what the records say."""
    volume = Volume(path, _tuning=SMALL)
    stop = threading.Event()
    count = dict.fromkeys(("restore", "bookmark", "image", "time", "history", "destroy"), 0)

    def write(t: int) -> None:
        rnd = random.Random(seed + t)
        number = 0
        while not stop.is_set():
            number += 1
            volume.pwrite(request(number << 8 | t, rnd.choice((1, 8, 40))), rnd.randrange(SIZE // SECTOR - 64) * SECTOR)

    def restore() -> None:
        rnd = random.Random(seed)
        while not stop.is_set():
            newest = volume._core.position()[0]
            try:
                if rnd.random() < 0.2:
                    volume.undo()
                elif rnd.random() < 0.15:
                    count["destroy"] += 1
                    volume.restore(newest, destructive=True)
                else:
                    volume.restore(max(0, newest - rnd.randrange(50)), offset=0, length=rnd.choice((SIZE, SIZE // 2)))
                    count["restore"] += 1
            except CdpError as e:
                assert type(e).__name__ in ("RefusedPoint", "Busy"), e
            stop.wait(0.005)

    def bookmark() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            volume.bookmark(f"b{n}")
            assert f"b{n}" in {b.name for b in volume.bookmarks()} or any(r.destructive for r in volume.restores())
            try:
                volume.delete_bookmark(f"b{n}")
            except NotFound:
                assert any(r.destructive for r in volume.restores())
            count["bookmark"] += 1

    def image() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            volume.create_image(f"i{n}")
            with volume.open_image(f"i{n}") as mine:
                mine.pwrite(b"mine", 3)
                assert mine.pread(4, 3) == b"mine"
                before = mine.pread(SIZE - 4096, 4096)
                assert mine.pread(SIZE - 4096, 4096) == before      # the parent goes on; the image does not
            volume.delete_image(f"i{n}")
            count["image"] += 1

    def points() -> None:
        rnd = random.Random(seed)
        while not stop.is_set():
            newest = volume._core.position()
            try:
                found = volume.resolve(newest[0])
                assert found.seq == newest[0] and found.ts_ns == newest[1], f"#{newest} is {found}"
                from cdp.moments.points import Point
                by_time = volume.resolve(Point("t", "time", ts_ns=newest[1]))
                assert by_time.seq == newest[0], f"{newest} by its time is {by_time}"
                older = max(0, newest[0] - rnd.randrange(200))
                moment = volume.resolve(older)
                assert moment.seq == older
                volume.explain(older)
                volume.window()
                with volume.at(older) as view:
                    assert view.pread(SIZE, 0) == view.pread(SIZE, 0)
            except RefusedPoint:
                assert any(r.destructive for r in volume.restores())
            count["time"] += 1

    def history() -> None:
        while not stop.is_set():
            newest = volume._core.position()[0]
            since = max(0, newest - 300)
            try:
                got = volume.records(since=since, until=newest)
            except RefusedPoint:
                continue
            seqs = got["seq"].tolist()
            gaps = [(r.target.seq, r.seq) for r in volume.restores() if r.destructive]
            missing = set(range(since + 1, newest + 1)) - set(seqs)
            assert seqs == sorted(set(seqs)) and (not seqs or seqs[-1] <= newest)
            assert all(any(lo < s < hi for lo, hi in gaps)
                       for s in missing), f"missing {sorted(missing)[:5]} of {since}..{newest}"
            list(volume.extents())
            count["history"] += 1

    def clock() -> None:
        stop.wait(6)
        stop.set()

    def guarded(job: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                job()
            finally:
                stop.set()
        return run

    together([clock, *map(guarded, (lambda: write(1), lambda: write(2), restore, bookmark, image, points, history))])
    assert all(count.values()), count
    final = volume.pread(SIZE, 0)
    volume.close()
    with Volume(path, _tuning=SMALL) as again:
        assert again.pread(SIZE, 0) == final
        assert [i.name for i in again.images()] == []


@pytest.mark.soak
def test_freed_history_is_never_read(tmp_path: Path, seeds: Seeds) -> None:
    for seed in seeds(1):
        freed_history_is_never_read(made(tmp_path / str(seed)), seeds.pick(12, 118))


def freed_history_is_never_read(path: str, n_restores: int) -> None:
    """Destructive restores free the data of what they discard while others read: a read sees what was there before the
    restore or after it, never the hole."""
    volume = Volume(path, _tuning=SMALL)
    sectors = 60
    volume.pwrite(request(1, sectors), 0)
    base = volume._core.position()[0]
    stop = threading.Event()
    rounds = [0, 0]

    def change() -> None:
        try:
            for number in range(2, 2 + n_restores):
                for _ in range(4):
                    volume.pwrite(request(number, sectors), 0)
                    volume.pwrite(request(number, 100), 200 * SECTOR)
                volume.restore(base, destructive=True)
                rounds[0] += 1
        finally:
            stop.set()

    def read() -> None:
        while not stop.is_set():
            got = numbers(volume.pread(sectors * SECTOR, 0))
            assert (got == got[0]).all() and got[0] > 0, f"read {sorted(set(got.tolist()))}"
            rounds[1] += 1

    together([change, read, read, read])
    assert rounds[0] == n_restores and rounds[1]
    volume.close()


@pytest.mark.soak
def test_close_at_any_time(tmp_path: Path, seeds: Seeds) -> None:
    for seed in seeds(3):
        close_at_any_time(made(tmp_path / str(seed)), seed)


def close_at_any_time(path: str, seed: int) -> None:
    """close() while others read, write, look at the history and hold images: they get Closed, nothing else, nothing
    crashes, and what was acknowledged is there afterwards."""
    volume = Volume(path, _tuning=SMALL)
    for i in range(40):
        volume.pwrite(request(i + 1, 64), i * 16 * SECTOR)
    image = volume.at("now")
    acknowledged = [0]

    def until_closed(job: Callable[[random.Random], None]) -> Callable[[], None]:
        rnd = random.Random(seed)

        def run() -> None:
            while True:
                try:
                    job(rnd)
                except Closed:
                    assert volume.closed
                    return
        return run

    def write(rnd: random.Random) -> None:
        volume.pwrite(struct.pack("<Q", acknowledged[0] + 1), SIZE - 8)
        acknowledged[0] += 1

    jobs: list[Callable[[random.Random], None]] = [
        write, lambda _: volume.trim(4096, 8192), lambda _: volume.flush(), lambda rnd: volume.pread(SIZE, 0) and None,
        lambda _: image.pread(4096, 0) and None, lambda _: list(volume.extents()) and None,
        lambda _: volume.records() is None and None,
        lambda _: volume.bookmarks() and None, lambda rnd: volume.resolve("-0s") and None,
        lambda _: volume.explain("now") and None,
        lambda rnd: bookmark(volume, rnd), lambda rnd: volume.restores() and None, lambda rnd: volume.stats() and None,
        lambda _: volume.window() and None, lambda _: volume.images() and None, lambda _: volume.target() and None]

    def close() -> None:
        threading.Event().wait(0.02 + 0.02 * (seed % 8))
        volume.close()

    together([close, *map(until_closed, jobs)])
    with Volume(path, _tuning=SMALL) as again:
        assert struct.unpack("<Q", again.pread(8, SIZE - 8))[0] == acknowledged[0]


def test_a_forked_child_finds_it_closed(path: str) -> None:
    """It has none of the volume's threads, and would append to its parent's log."""
    with Volume(path, _tuning=SMALL) as volume:
        volume.pwrite(b"a" * 512, 0)
        volume.flush()
        calls: list[Callable[[], object]] = [lambda: volume.pwrite(b"c" * 512, 0), volume.flush,
                                             lambda: volume.pread(1, 0),
                                             lambda: volume.bookmark("c"), lambda: volume.at("now")]
        child = os.fork()
        if child == 0:
            refused = 0
            try:
                for call in calls:
                    try:
                        call()
                    except Closed:
                        refused += 1
                volume.close()
            finally:
                os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == len(calls)
        volume.pwrite(b"b" * 512, 512)
        volume.flush()
    with Volume(path, _tuning=SMALL) as again:
        assert again.pread(1024, 0) == b"a" * 512 + b"b" * 512 and again.window().newest.seq == 4


def bookmark(volume: Volume, rnd: random.Random) -> None:
    try:
        volume.bookmark(f"b{rnd.randrange(10**9)}")
    except InvalidRequest:
        pass


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """The engine's threads end with its volumes."""
    yield
    left = [t.name for t in threading.enumerate() if t.name.startswith("cdp-")]
    assert not left, left
