"""What a destructive restore frees is nobody's to read any more: reads that began before it end first, and what is open keeps it from
beginning."""
from __future__ import annotations

import threading
from pathlib import Path

import pytest
from simcatalog import on
from world import KIB, tuning

import cdp
from cdp import store as stores
from cdp.volume import Volume
from cdpcore.errors import Busy, CdpError
from cdpcore.osapi import SimOs

SIZE = 8192 * KIB
PIECE = 4 * KIB


def pattern(number: int) -> bytes:
    return bytes([number]) * PIECE


def test_reads_in_flight() -> None:
    """A long read of thousands of scattered pieces goes on while its pieces are discarded: it never sees them punched or deleted."""
    sim = SimOs(1)
    small = tuning(128 * KIB, 2048 * KIB, records=4000)
    stores.create("/v", SIZE, small, os=sim, catalog=on(sim))
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
            kinds = {got[at:at + 1] for at in range(0, SIZE, 2 * PIECE)}
            reads[0] += 1
            if kinds - {b"\1", b"\2"}:
                wrong.append(sorted(kinds))

    readers = [threading.Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(10):
            scatter(2)
            volume.restore(base, destructive=True)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert reads[0] and not wrong, f"{len(wrong)} of {reads[0]} reads saw {wrong[:3]}"
    used = sim.space_used_bytes
    volume.close()
    assert used < 4 * SIZE, f"{used} bytes in use: nothing was freed"


def test_what_is_open_is_not_freed(tmp_path: Path) -> None:
    """A time image, a walk over one's extents, and a target of one that was closed keep a destructive restore away; then it goes on."""
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
