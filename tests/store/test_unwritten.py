"""Points in the newest part of the history, which is in memory: they are found without waiting for the log, and are
what the files say later."""
from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from support.sizes import KIB, tuning

import cdp
from cdp.moments.points import Point
from cdp.store import creation
from cdp.volume.volume import Volume

SMALL = tuning(128 * KIB, 1024 * KIB, slots=4, records=4000, threads=True)


def elsewhere(call: Callable[[], object], seconds: float = 10) -> object:
    """The call's result, from another thread; it may not wait."""
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert got, "it waits for somebody"
    return got[0]


def test_nothing_waits_for_the_log(tmp_path: Path) -> None:
    """While somebody holds the append lock, as a writer does that waits for the device, moments of the open frame, of
    the open segment and of sealed ones are resolved, explained, listed, opened and read."""
    creation.create(str(tmp_path / "v"), 1024 * KIB, SMALL)
    with Volume(tmp_path / "v", _tuning=SMALL) as volume:
        rnd = random.Random(4)
        for i in range(1, 250):
            volume.pwrite(bytes([i % 250 + 1]) * 4096, 0)
            volume.pwrite(rnd.randbytes(4096), 4096 * rnd.randint(1, 250))
            if i % 40 == 0:
                volume.flush()
        newest = volume.window().newest
        deadline = time.monotonic() + 20
        while len(volume._store.timeline.rows()) < 1:
            assert time.monotonic() < deadline
        volume._core.freeze()
        try:
            records = elsewhere(volume.records)
            assert records["seq"].tolist() == list(range(1, newest.seq + 1))
            for row in records[[0, 30, -300, -150, -60, -2, -1]].tolist():
                moment = cdp.Moment(row[0], row[1])
                assert elsewhere(lambda row=row: volume.resolve(row[0])) == moment
                at_time = Point("then", "time", ts_ns=row[1])
                assert elsewhere(lambda at_time=at_time: volume.resolve(at_time)) == moment
                assert elsewhere(lambda row=row: volume.explain(row[0])).resolved == moment
                image = elsewhere(lambda row=row: volume.at(row[0]))
                firsts = records[(records["seq"] <= row[0]) & (records["kind"] == 1) & (records["offset"] == 0)]
                assert elsewhere(lambda image=image: image.pread(4096, 0)) == bytes([len(firsts) % 250 + 1]) * 4096
                image.close()
        finally:
            volume._core.thaw()
    with Volume(tmp_path / "v", _tuning=SMALL) as volume:
        assert (volume.records() == records).all()


def test_beside_writers(tmp_path: Path) -> None:
    """Lists and times taken while four threads write: whole records, no hole, nothing that is not visible, times that
    resolve to their own record, and the same list afterwards from the files."""
    creation.create(str(tmp_path / "v"), 1024 * KIB, SMALL)
    volume = Volume(tmp_path / "v", _tuning=SMALL)
    stop, taken = threading.Event(), []

    def write(seed: int) -> None:
        rnd = random.Random(seed)
        while not stop.is_set():
            n = rnd.choice((512, 4096, 4096, 40 * KIB))
            volume.pwrite(bytes(n), rnd.randrange(1024 * KIB - n))
            if rnd.random() < 0.05:
                volume.flush()

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            seen = volume.window().newest.seq
            records = volume.records(max(0, seen - 3000))
            assert len(records) == 0 or records["seq"].tolist() == list(
                range(max(0, seen - 3000) + 1, int(records["seq"][-1]) + 1)
            )
            assert len(records) == 0 or seen <= records["seq"][-1] <= volume.window().newest.seq
            if len(records):
                row = records[random.Random(seen).randrange(len(records))]
                then = volume.resolve(Point("then", "time", ts_ns=int(row["ts_ns"])))
                assert (then.seq, then.ts_ns) == (int(row["seq"]), int(row["ts_ns"]))
                taken.append(records)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    volume.close()
    assert len(taken) > 20
    with Volume(tmp_path / "v", _tuning=SMALL) as volume:
        final = volume.records()
        for records in taken:
            assert np.array_equal(final[int(records["seq"][0]) - 1:int(records["seq"][-1])], records)
