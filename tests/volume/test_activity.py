"""What was done to a volume, from the summaries that are kept with the log: against its records, and its own parts
against each other."""
from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdp
from cdp.moments.records import ACTIVITY, FLUSH, TRIM, WRITE, ZERO
from cdp.store import activity_cells, creation
from cdp.store.activity import _Reader
from cdp.store.activity_cells import CELL, SLOT_BYTES, Summary, intervals, joined, unpacked
from cdp.store.tuning import Tuning
from cdp.volume.volume import Volume
from cdpcore.base.errors import InvalidRequest
from cdpcore.log.summaries import WIDTHS_NS

SIZE = 8 << 20
SMALL = Tuning(slot_bytes=80 << 10, n_slots=4, segment_bytes=640 << 10, max_records=300, merge_fanin=4,
               commit_interval_ms=20)
SECOND = 10**9


def make(path: Path, tuning: Tuning = SMALL, size: int = SIZE, disk: Path | None = None) -> Volume:
    if disk is not None:
        disk.write_bytes(bytes(size))
    creation.create(str(path), size, tuning, disk="" if disk is None else str(disk))
    return Volume(path, _tuning=tuning)


def work(volume: Volume, rnd: random.Random, n: int) -> None:
    for _ in range(n):
        at, length = rnd.randrange(SIZE // 512 - 64) * 512, rnd.randint(1, 24) * 512
        kind = rnd.random()
        if kind < 0.75:
            volume.pwrite(rnd.randbytes(length), at)
        elif kind < 0.85:
            volume.trim(length, at)
        elif kind < 0.92:
            volume.zero(length - 100, at)
        else:
            volume.flush()


def expected(volume: Volume, by_ns: int, begin_ns: int, n: int) -> Any:
    """By brute force, from all records; without what was overwritten."""
    out = np.zeros(n, ACTIVITY)
    out["ts_ns"] = np.uint64(begin_ns) + np.arange(n, dtype=np.uint64) * np.uint64(by_ns)
    named = {WRITE: ("writes", "written"), ZERO: ("zeroes", "zeroed"), TRIM: ("trims", "trimmed"),
             FLUSH: ("flushes", "flushes")}
    for _, ts_ns, kind, _, _, length in volume.records().tolist():
        if kind in named:
            count, size = named[kind]
            out[count][(ts_ns - begin_ns) // by_ns] += 1
            out[size][(ts_ns - begin_ns) // by_ns] += length
    return out


def check(volume: Volume, by_ns: int) -> cdp.Activity:
    while True:     # a restore that is being written back flushes, too
        newest = volume.window().newest
        found = volume.activity(by_ns=by_ns)
        rows, n = found.intervals, len(found.intervals)
        want = expected(volume, by_ns, int(rows["ts_ns"][0]), n)
        if volume.window().newest == newest:
            break
    assert found.missing == 0 and found.by_ns == by_ns
    for name in ("written", "zeroed", "trimmed", "writes", "zeroes", "trims", "flushes"):
        if found.resolution_ns <= by_ns:
            assert rows[name].tolist() == want[name].tolist(), name
        assert rows[name].sum() == want[name].sum(), name
    assert (rows["overwritten"] <= rows["written"]).all()
    assert found.places.shape == (n, -(-volume.size_bytes // found.place_bytes))
    assert np.allclose(found.places.sum(axis=1), rows["written"])
    sectors = [np.arange(offset // 512, (offset + length) // 512)
               for _, _, kind, _, offset, length in volume.records().tolist() if kind == WRITE]
    by_place = np.bincount(np.concatenate(sectors) * 512 // found.place_bytes, minlength=found.places.shape[1]) * 512
    assert np.allclose(found.places.sum(axis=0), by_place)
    return found


def settle(volume: Volume) -> None:
    """The background has kept what is sealed."""
    volume._store.seal()
    for _ in range(200):
        if not volume._store.activity.step() and not volume._store.activity._queued():
            return
    raise AssertionError("summaries are not kept")


def kept(path: Path, level: int, uuid: str) -> dict[int, Summary]:
    """The valid summaries of a level, by the place in the file."""
    found, file = {}, path / f"activity/{level}.cells"
    data = file.read_bytes() if file.exists() else b""
    for at in range(0, len(data), SLOT_BYTES):
        index = at // SLOT_BYTES
        if (one := unpacked(data[at:at + SLOT_BYTES], bytes.fromhex(uuid), index << 4 * level, level)) is not None:
            found[index] = one[0]
    return found


@pytest.mark.parametrize("before", [False, True])
def test_counts_are_those_of_the_records(tmp_path: Path, before: bool):
    with make(tmp_path / "v", disk=tmp_path / "disk" if before else None) as volume:
        rnd = random.Random(5)
        for _ in range(4):
            work(volume, rnd, 250)
            check(volume, SECOND)
            volume.restore(f"#{rnd.randrange(volume.window().newest.seq)}")
        settle(volume)
        check(volume, SECOND)
        check(volume, SECOND // 1000 * 7)
        summaries = kept(tmp_path / "v", 0, volume.uuid)
        assert len(summaries) == len(volume._store.timeline.rows()) > 4
    with Volume(tmp_path / "v", _tuning=SMALL) as volume:
        assert check(volume, SECOND).intervals["written"].sum() > 0


def test_what_is_counted_is_what_is_made_from_the_log(tmp_path: Path):
    """The same summary, whether counted while records came, or from their descriptors."""
    with make(tmp_path / "v") as volume:
        work(volume, random.Random(1), 900)
        settle(volume)
        counted = kept(tmp_path / "v", 0, volume.uuid)
        activity = volume._store.activity
        for row in volume._store.timeline.rows():
            made = activity._made(row)
            assert made.cells.tobytes() == counted[row.number].cells.tobytes()
            assert (made.width_ns, made.place_sectors) == (counted[row.number].width_ns, SIZE // 512 // 64)


def test_what_was_overwritten(tmp_path: Path):
    with make(tmp_path / "v") as volume:
        for i in range(16):
            volume.pwrite(bytes(4096), i * 4096)            # zeros are data, too
        for i in range(8):
            volume.pwrite(b"x" * 8192, i * 16384 + 4096 * 15)   # the first one: half of it
        volume.trim(65536, 0)
        volume.pwrite(b"y" * 4096, 0)                       # over a hole
        volume.restore("#16")
        volume.pwrite(b"z" * 4096, 0)                       # over what the restore shows
        found = volume.activity()
        assert found.intervals["overwritten"].sum() == 4096 + 4096
        assert found.intervals["written"].sum() == 16 * 4096 + 8 * 8192 + 8192


def test_what_was_overwritten_is_estimated_from_some(tmp_path: Path):
    with make(tmp_path / "v", replace(SMALL, segment_bytes=16 << 20, max_records=10_000)) as volume:
        rnd = random.Random(2)
        for i in range(1600):
            volume.pwrite(rnd.randbytes(512), i * 512)
        for _ in range(1600):
            volume.pwrite(rnd.randbytes(512), rnd.randrange(3200) * 512)
        found = volume.activity().intervals
        exact = 0
        seen = set(range(1600))
        for record in volume.records()[1600:]:
            exact += int(record["offset"]) // 512 in seen
            seen.add(int(record["offset"]) // 512)
        assert abs(int(found["overwritten"].sum()) // 512 - exact) < exact / 5      # 512 of 3200: 4 sigma


def test_groups(tmp_path: Path):
    """What groups of segments say is the sum of theirs, and what is asked is the same with and without them."""
    with make(tmp_path / "v", replace(SMALL, max_records=20)) as volume:
        for at in range(18 * 20):
            volume.pwrite(bytes(512), at * 512)
        settle(volume)
        singles, groups = (kept(tmp_path / "v", level, volume.uuid) for level in (0, 1))
        assert len(groups) >= 1
        for index, group in groups.items():
            parts = [singles[n] for n in range(index * 16, index * 16 + 16) if n in singles]
            for name in ("written", "writes"):
                assert group.cells[name].sum() == sum(part.cells[name].sum() for part in parts)
            places = sum(part.cells["places"].sum(axis=0) for part in parts)
            assert np.allclose(group.cells["places"].sum(axis=0), places)
        found = check(volume, 3600 * SECOND)
        (tmp_path / "v/activity/1.cells").unlink()
        assert volume.activity(by_ns=3600 * SECOND).intervals.tobytes() == found.intervals.tobytes()


@pytest.mark.parametrize("harm", ["gone", "flipped", "another's", "older"])
def test_summaries_that_are_not_valid_are_made_again(tmp_path: Path, harm: str):
    with make(tmp_path / "v") as volume:
        work(volume, random.Random(3), 700)
        settle(volume)
        whole = kept(tmp_path / "v", 0, volume.uuid)
    file = tmp_path / "v/activity/0.cells"
    if harm == "gone":
        shutil.rmtree(tmp_path / "v/activity")
    else:
        data = bytearray(file.read_bytes())
        for number in whole:
            at = number * SLOT_BYTES
            if harm == "flipped":
                data[at + 70] ^= 1
            elif harm == "another's":
                data[at + 16] ^= 1
            else:
                data[at:at + SLOT_BYTES] = bytes(SLOT_BYTES)
        file.write_bytes(data)
    with Volume(tmp_path / "v", _tuning=SMALL) as volume:
        check(volume, SECOND)
        settle(volume)
        again = kept(tmp_path / "v", 0, volume.uuid)
        assert {n: s.cells.tobytes() for n, s in again.items() if n in whole} == \
            {n: s.cells.tobytes() for n, s in whole.items()}
    with cdp.open(tmp_path / "v", read_only=True) as volume:
        assert volume.activity().intervals["writes"].sum() > 400


def test_given_up_history_is_not_counted(tmp_path: Path):
    with make(tmp_path / "v", replace(SMALL, max_records=20)) as volume:
        for at in range(20 * 20):
            volume.pwrite(bytes(512), at * 512)
        settle(volume)
        freed = volume.free_before(350)
        assert volume.activity().intervals["writes"].sum() == 400 - freed.start.seq
        until = time.monotonic() + 60
        while volume.freeing() is not None and time.monotonic() < until:
            time.sleep(0.02)
        settle(volume)
        check(volume, SECOND)
        first = volume._store.timeline.rows()[0].number
        assert min(kept(tmp_path / "v", 0, volume.uuid)) >= first >> 4 << 4


def test_a_resized_volume(tmp_path: Path):
    with make(tmp_path / "v") as volume:
        work(volume, random.Random(4), 600)
        settle(volume)
    cdp_resize(tmp_path / "v", 4 * SIZE)
    with Volume(tmp_path / "v", _tuning=SMALL) as volume:
        volume.pwrite(bytes(4096), 4 * SIZE - 4096)
        found = check(volume, SECOND)
        assert found.place_bytes == 4 * SIZE // 64 and found.places[:, -1].sum() == 4096


def cdp_resize(path: Path, size: int) -> None:
    from cdp.volume.resizing import resize

    resize(path, size)


def test_times_and_lengths(tmp_path: Path):
    with make(tmp_path / "v") as volume:
        begin_ns = volume.window().oldest.ts_ns
        assert volume.activity().intervals["writes"].sum() == 0
        volume.pwrite(bytes(512), 0)
        volume.bookmark("here")
        whole = volume.activity(since="#0", until="here", by_ns=SECOND)
        assert whole.intervals["ts_ns"][0] == begin_ns // SECOND * SECOND and whole.intervals["writes"].sum() == 1
        assert len(volume.activity("-1h").intervals) <= 121       # before the window: its beginning
        with pytest.raises(InvalidRequest, match="later one"):
            volume.activity("now", "#0")
        with pytest.raises(InvalidRequest, match="at most 10000"):
            volume.activity(by_ns=1)
        for wrong in (0, -5, 1.5, True, "1m"):
            with pytest.raises(InvalidRequest, match="an interval of"):
                volume.activity(by_ns=wrong)    # type: ignore[arg-type]


def year_of(rows: list[Any], seconds: float, rnd: random.Random) -> Callable[[int], Summary]:
    def summary(number: int) -> Summary:
        cells = np.zeros(40, CELL)
        width = WIDTHS_NS[6]        # 30 s
        cells["slot"] = int(rows[0].first_ts_ns + number * seconds * SECOND) // width + np.arange(40) // 4
        cells = cells[np.unique(cells["slot"], return_index=True)[1]]
        cells["written"], cells["writes"] = 100, 10
        cells["places"][:, number % 64] = 100
        return Summary(width, 1, cells)
    return summary


def test_a_year_is_read_from_few_summaries(tmp_path: Path):
    """600 segments of a year: what is asked by the week reads some tens of summaries, not thousands."""
    n, year = 600, 365 * 86400
    with make(tmp_path / "v", replace(SMALL, threads=False)) as volume:
        volume.pwrite(bytes(512), 0)
        volume._store.seal()
        row = volume._store.timeline.rows()[0]
        begin = row.first_ts_ns - year * SECOND
        rows = [replace(row, number=i + 1, first_seq=i + 1, last_seq=i + 1,
                        first_ts_ns=begin + i * year * SECOND // n, last_ts_ns=begin + (i + 1) * year * SECOND // n)
                for i in range(n)]
        made = year_of(rows, year / n, random.Random(1))
        store, activity = volume._store, volume._store.activity
        store.timeline._rows = rows
        activity._kept = True
        for one in rows:
            activity._put(0, one.number, made(one.number), one.last_seq)
        with _Reader(store.os, store.files, store.uuid) as reader:
            for last, number in zip(range(1, n), range(2, n + 1), strict=True):
                if last >> 4 != number >> 4:
                    activity._complete(reader, rows, last, number)
        found, missing = activity.cells(begin, begin + year * SECOND, 7 * 86400 * SECOND)
        assert missing == 0 and len(found) < 80
        assert sum(int(one.cells["written"].sum()) for one in found) == sum(
            int(made(one.number).cells["written"].sum()) for one in rows)
        near, _ = activity.cells(begin, begin + 86400 * SECOND, 60 * SECOND)
        assert len(near) < 30
        assert (tmp_path / "v/activity/2.cells").exists()


def test_cells_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch):
    """However many cells are put into intervals at a time, and of whatever widths: each counts, where it was."""
    rnd = np.random.default_rng(1)
    some = []
    for number in range(40):
        cells = np.zeros(30, CELL)
        width = WIDTHS_NS[number % 4]
        cells["slot"] = np.sort(rnd.choice(2000, 30, replace=False)) * WIDTHS_NS[0] // width
        cells = cells[np.unique(cells["slot"], return_index=True)[1]]
        cells["written"], cells["writes"] = rnd.integers(0, 10**6, len(cells)), rnd.integers(0, 100, len(cells))
        cells["places"] = rnd.integers(0, 100, (len(cells), 64))
        some.append(Summary(width, 8, cells))
    asked = (100 * WIDTHS_NS[0], 7 * WIDTHS_NS[0] // 2, 400, 8, (0, 1 << 60))
    rows, heat = intervals(some, *asked)
    monkeypatch.setattr(activity_cells, "AT_ONCE", 3)
    monkeypatch.setattr(activity_cells, "PAIRS", 5)
    again, again_heat = intervals(some, *asked)
    assert (rows == again).all() and np.allclose(heat, again_heat)
    begin, end = asked[0], asked[0] + asked[1] * asked[2]
    inner = [int(cell["writes"]) for one in some for cell in one.cells
             if begin <= cell["slot"] * one.width_ns and (cell["slot"] + 1) * one.width_ns <= end]
    touched = [int(cell["writes"]) for one in some for cell in one.cells
               if begin < (cell["slot"] + 1) * one.width_ns and cell["slot"] * one.width_ns < end]
    assert 0 < sum(inner) <= rows["writes"].sum() <= sum(touched)


def test_joined_is_no_finer_than_needed():
    cells = np.zeros(100, CELL)
    cells["slot"], cells["writes"] = np.arange(100) * 3, 1
    one = joined([Summary(WIDTHS_NS[0], 8, cells[:48]), Summary(WIDTHS_NS[1], 16, cells[48:96])])
    assert len(one.cells) <= 48 and one.cells["writes"].sum() == 96 and one.place_sectors == 16
    assert (np.diff(one.cells["slot"].astype(np.int64)) > 0).all()
