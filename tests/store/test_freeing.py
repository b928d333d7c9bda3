"""What a destructive restore frees is nobody's to read any more: reads that began before it end first, and what is open
keeps it from beginning."""
from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.seeds import Seeds
from support.simcatalog import on
from support.sizes import KIB, tuning

import cdp
from cdp.store import creation
from cdp.volume.volume import Volume
from cdpcore.base.errors import Busy, CdpError, NotFound
from cdpcore.system.os import SimOs

SIZE = 8192 * KIB
PIECE = 4 * KIB


def pattern(number: int) -> bytes:
    return bytes([number]) * PIECE


@pytest.mark.soak
def test_reads_in_flight(seeds: Seeds) -> None:
    for seed in seeds(1):
        reads_in_flight(seed, n_readers=seeds.pick(3, 6), n_rounds=seeds.pick(4, 10))


def reads_in_flight(seed: int, n_readers: int, n_rounds: int) -> None:
    """A long read of thousands of scattered pieces goes on while its pieces are discarded: it never sees them punched
    or deleted."""
    sim = SimOs(seed)
    small = tuning(128 * KIB, 2048 * KIB, records=4000)
    creation.create("/v", SIZE, small, os=sim, catalog=on(sim))
    volume = Volume("/v", _tuning=small, _os=sim, _catalog=on(sim))

    def scatter(number: int) -> None:
        for at in range(0, SIZE // PIECE, 2):
            volume.pwrite(pattern(number), at * PIECE)

    scatter(1)
    base = volume._core.position()[0]
    stop, wrong, reads = threading.Event(), list[object](), [0]

    def read() -> None:
        while not stop.is_set():
            try:
                got = volume.pread(SIZE, 0)
            except CdpError as e:
                wrong.append(e)
                continue
            kinds = set(got[::2 * PIECE])
            reads[0] += 1
            if kinds - {1, 2}:
                wrong.append(sorted(kinds))

    readers = [threading.Thread(target=read) for _ in range(n_readers)]
    for reader in readers:
        reader.start()
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)     # the writer gets the GIL in time: 10 s instead of 60
    try:
        for _ in range(n_rounds):      # unfreed, 4 rounds would leave 2.9 * SIZE
            scatter(2)
            volume.restore(base, destructive=True)
    finally:
        sys.setswitchinterval(usual)
        stop.set()
        for reader in readers:
            reader.join()
    assert reads[0] and not wrong, f"{len(wrong)} of {reads[0]} reads saw {wrong[:3]}"
    used = sim.space_used_bytes
    volume.close()
    assert used < 2 * SIZE, f"{used} bytes in use: nothing was freed"


def test_what_is_open_is_not_freed(tmp_path: Path) -> None:
    """A time image, a walk over one's extents, and a target of one that was closed keep a destructive restore away;
    then it goes on."""
    with cdp.create(tmp_path / "v", size=1 << 20) as volume:
        volume.pwrite(pattern(1), 0)
        volume.pwrite(pattern(2), 0)
        image = volume.at("#2")
        target = image.target()
        walk = volume.extents(at="#2")
        for let_go in (image.close, lambda: None):
            with pytest.raises(Busy, match="time image of #2 is open"):
                volume.restore("#1", destructive=True)
            let_go()
        del target
        with pytest.raises(Busy):
            volume.restore("#1", destructive=True)
        del walk
        volume.restore("#1", destructive=True)
        assert volume.pread(PIECE, 0) == pattern(1)


def sealed_volume(sim: SimOs) -> tuple[Volume, int]:
    """A volume of several sealed segments, and a seq in the first."""
    small = tuning(128 * KIB, 2048 * KIB, records=100)
    creation.create("/v", SIZE, small, os=sim, catalog=on(sim))
    volume = Volume("/v", _tuning=small, _os=sim, _catalog=on(sim))
    for number in range(800):
        volume.pwrite(pattern(number % 250), number % 9 * PIECE)
    assert len(volume._store.timeline.rows()) >= 5
    return volume, 50


def test_history_that_is_freed_while_it_is_read() -> None:
    volume, base = sealed_volume(SimOs(2))
    with volume:
        batches = volume.iter_records()
        seqs = next(batches)["seq"].tolist()
        volume.restore(base, destructive=True)
        for batch in batches:       # what is left of it; once: NotFound, a file that is gone
            seqs += batch["seq"].tolist()
        assert seqs == sorted(set(seqs)) and seqs[0] == 1 and len(seqs) < 800


@pytest.mark.parametrize("look", ["record", "at_time", "last_flush"])
def test_a_moment_whose_segment_is_freed_between_finding_and_reading(look: str) -> None:
    volume, base = sealed_volume(SimOs(3))
    with volume:
        timeline = volume._store.timeline
        frames, ts_ns = timeline._frames, int(timeline.record(400)["ts_ns"])

        def freed_first(part: Any) -> Any:
            timeline._frames = frames
            volume.restore(base, destructive=True)
            return frames(part)

        timeline._frames = freed_first      # type: ignore[method-assign]
        if look == "record":
            with pytest.raises(NotFound, match="not in the log"):
                timeline.record(400)
        elif look == "at_time":
            assert timeline.at_time(ts_ns).seq <= base + 100     # of the segment that is left
        else:
            assert timeline.last_flush(400) == 0
