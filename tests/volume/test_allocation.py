"""A segment's file grows in steps that follow the rate: an idle volume takes little space, and a stream has whole
segments. Without space for a step nothing is lost."""
from __future__ import annotations

from pathlib import Path

import pytest
from support.simcatalog import simulated
from support.sizes import KIB, tuning

import cdp
from cdp.volume.volume import Volume
from cdpcore.base.errors import OutOfSpace
from cdpcore.system.os import SimOs

MIB = 1 << 20
SECOND = 10**9


def allocated(log: Path) -> int:
    return sum(f.stat().st_blocks * 512 for f in log.iterdir())


def test_little_written_takes_little(tmp_path: Path) -> None:
    """With the segments of a default volume, 256 MiB."""
    with cdp.create(tmp_path / "v", size=1 << 30) as volume:
        volume.pwrite(bytes(range(256)) * 256, 0)
        volume.flush()
        assert 64 << 10 <= allocated(tmp_path / "v" / "log") <= 2 * MIB
        said = volume.stats()
        assert said["allocated_log_bytes"] == allocated(tmp_path / "v" / "log")


def test_a_stream_gets_whole_segments(tmp_path: Path) -> None:
    with cdp.create(tmp_path / "v", size=64 * MIB, settings=cdp.Settings(segment_bytes=16 * MIB)) as volume:
        for i in range(48):
            volume.pwrite(bytes([i + 1]) * MIB, i * MIB)
        volume.flush()
        assert volume.stats()["allocated_log_bytes"] % (16 * MIB) == 0
    with cdp.open(tmp_path / "v") as volume:
        assert all(volume.pread(4096, i * MIB) == bytes([i + 1]) * 4096 for i in range(48))


class Slow:
    """A simulated volume without threads: each write at a time of its own."""

    def __init__(self, sim: SimOs, volume: Volume):
        self.sim, self.volume, self.now_ns, self.count = sim, volume, 2_000_000_000 * SECOND, 0

    def write(self, pause_ns: int) -> None:
        self.now_ns += pause_ns
        self.sim.set_clock(self.now_ns)
        self.volume.pwrite(bytes([self.count % 255 + 1]) * 16 * KIB, self.count % 12 * 16 * KIB)
        self.volume.flush()
        self.count += 1

    def unused(self) -> int:
        said = self.volume.stats()
        return said["allocated_log_bytes"] - said["open_log_bytes"]


@pytest.mark.sanitize
def test_steps_follow_the_rate() -> None:
    sim = SimOs(1)
    with simulated(sim, "after", 192 * KIB, tuning(1 << 20, 64 * MIB, records=100_000)) as volume:
        slow = Slow(sim, volume)
        for _ in range(100):
            slow.write(SECOND)
        assert slow.unused() <= 3 * MIB     # 16 KiB/s: steps of 1 MiB
        most = 0
        for _ in range(400):
            slow.write(SECOND // 1000)
            most = max(most, slow.unused())
        assert most > 6 * MIB               # 16 MiB/s
        for _ in range(12):
            slow.write(20 * SECOND)
        assert slow.unused() <= 4 * MIB     # what the stream was given is given back


@pytest.mark.sanitize
def test_no_space_to_grow() -> None:
    """A write that needs a step is refused; what it leaves suffices for flushes and bookmarks."""
    sim = SimOs(2)
    with simulated(sim, "after", 192 * KIB, tuning(256 * KIB, 4 * MIB)) as volume:
        volume.pwrite(b"first" * 1000, 0)
        volume.flush()
        sim.set_space(sim.space_used_bytes + 64 * KIB)
        with pytest.raises(OutOfSpace):
            for _ in range(200):
                volume.pwrite(b"x" * 16 * KIB, 32 * KIB)
        volume.flush()
        content = volume.pread(192 * KIB, 0)
        sim.set_space(sim.space_used_bytes + 16 * KIB)      # of the simulated catalog, which needs space for each
        for i in range(5):
            volume.bookmark(f"b{i}")
        sim.set_space(1 << 30)
        volume.pwrite(b"again" * 1000, 0)
        volume.flush()
        content = b"again" * 1000 + content[5000:]
        assert volume.pread(192 * KIB, 0) == content
