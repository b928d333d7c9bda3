"""The memory that the volumes of a process share: what was just written is read from it, its bound, and who gives."""
from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.sizes import KIB, tuning

from cdp.store import creation, memory
from cdp.volume.volume import Volume
from cdpcore.base.errors import CdpError
from cdpcore.log.memory import Memory
from cdpcore.log.ring import FrameRing

SIZE, SLOT, LIMIT = 4096 * KIB, 256 * KIB, 2048 * KIB
OWN = tuning(SLOT, 4096 * KIB, slots=2, records=4000)
SHARED = replace(OWN, memory_bytes=LIMIT)
PIECE = 24 * KIB


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(memory, "_process", [])
    yield


def made(path: Path, small: object = SHARED) -> Volume:
    creation.create(str(path), SIZE, OWN)
    return Volume(str(path), _tuning=small)


def ring(volume: Volume) -> FrameRing:
    found: FrameRing = volume._store.log.ring
    return found


def fill(volume: Volume, seed: int, bytes_: int = SIZE) -> bytes:
    content, rnd = bytearray(SIZE), random.Random(seed)
    for at in range(0, bytes_ - PIECE, PIECE):
        content[at:at + PIECE] = rnd.randbytes(PIECE)
        volume.pwrite(bytes(content[at:at + PIECE]), at)
    return bytes(content)


def without_files(path: Path) -> None:
    for file in (path / "log").glob("*.log"):
        file.rename(file.with_suffix(".gone"))


def test_what_was_written_is_read_from_memory_until_it_is_idle(tmp_path: Path) -> None:
    bytes_ = LIMIT // 2         # more than two slots, which is all that may wait to be written
    with made(tmp_path / "v") as volume:
        content = fill(volume, 1, bytes_)
        volume.flush()
        without_files(tmp_path / "v")
        assert volume.pread(bytes_ - PIECE, 0) == content[:bytes_ - PIECE]
        log = volume._store.log
        log.give_back()             # a first look
        assert ring(volume).bytes > 2 * SLOT
        assert volume.pread(4096, 0) == content[:4096]
        log.give_back()             # what was read meanwhile stays
        assert 0 < ring(volume).bytes <= SLOT and volume.pread(4096, 0) == content[:4096]
        log.give_back()
        log.give_back()
        assert ring(volume).bytes == 0 == memory.of_process(LIMIT).used_bytes
        with pytest.raises(CdpError):
            volume.pread(4096, 0)
        for file in (tmp_path / "v/log").glob("*.gone"):
            file.rename(file.with_suffix(".log"))
        assert volume.pread(SIZE, 0) == content
        volume.pwrite(b"x" * 4096, 0)
        assert volume.pread(4096, 0) == b"x" * 4096 and ring(volume).bytes == SLOT
    assert memory.of_process(LIMIT).used_bytes == 0     # closed: at once


def test_small_frames_share_a_slot(tmp_path: Path) -> None:
    """A flush ends its frame: a hundred of them are not a hundred slots, and all are read from memory."""
    with made(tmp_path / "v") as volume:
        for i in range(100):
            volume.pwrite(bytes([i]) * 4096, i * 4096)
            volume.flush()
        without_files(tmp_path / "v")
        assert volume.pread(100 * 4096, 0) == b"".join(bytes([i]) * 4096 for i in range(100))
        assert volume.stats()["memory_bytes"] == ring(volume).bytes <= LIMIT


def test_the_bound_holds_for_all_volumes_together(tmp_path: Path) -> None:
    volumes, contents = [made(tmp_path / f"v{i}") for i in range(3)], [b""] * 3
    for i, seed in ((0, 0), (1, 1), (2, 2), (0, 7)):
        contents[i] = fill(volumes[i], seed)
        volumes[i].flush()      # there are no threads: what is not written by now stays so, and nobody can have it
    shared = memory.of_process(LIMIT)
    assert shared.most_bytes <= LIMIT + 3 * SLOT and shared.used_bytes <= LIMIT + 3 * SLOT
    assert shared.used_bytes == sum(ring(volume).bytes for volume in volumes)
    assert min(ring(volume).bytes for volume in volumes[1:]) >= 2 * SLOT    # the one that wrote last has not all
    for volume, content in zip(volumes, contents, strict=True):
        assert volume.pread(SIZE, 0) == content
        volume.close()
        with Volume(volume.path, _tuning=OWN) as again:
            assert again.pread(SIZE, 0) == content
    assert shared.used_bytes == 0


def test_a_bound_that_is_ignored_is_seen(tmp_path: Path) -> None:
    with made(tmp_path / "v") as volume:
        ring(volume).break_rule("bound")
        fill(volume, 1)
        assert memory.of_process(LIMIT).most_bytes > LIMIT + SLOT


def test_one_that_came_late_gets_as_much(tmp_path: Path) -> None:
    with made(tmp_path / "a") as first, made(tmp_path / "b") as second:
        content = fill(first, 1)
        assert ring(first).bytes > LIMIT - 2 * SLOT
        fill(second, 2)
        assert abs(ring(first).bytes - ring(second).bytes) <= 2 * SLOT
        assert first.pread(SIZE, 0) == content


def test_memory_that_waits_for_its_devices_stops_nobody(tmp_path: Path) -> None:
    """Nothing is written before it has to be (no threads): two volumes have all memory, and none of it can be taken."""
    small = replace(SHARED, memory_bytes=4 * SLOT)
    volumes = [made(tmp_path / f"v{i}", small) for i in range(2)]
    contents = [fill(volume, i, 2 * SLOT - 80 * KIB) for i, volume in enumerate(volumes)]
    with made(tmp_path / "third", small) as third:
        content = fill(third, 3)
        assert third.pread(SIZE, 0) == content
        assert memory.of_process(4 * SLOT).most_bytes <= 4 * SLOT + 3 * SLOT
    for volume, content in zip(volumes, contents, strict=True):
        assert volume.pread(SIZE, 0) == content
        volume.close()


def test_one_whose_device_is_busy_does_not_keep_others_from_giving(tmp_path: Path) -> None:
    with made(tmp_path / "a") as busy, made(tmp_path / "b") as idle, made(tmp_path / "c") as third:
        content = fill(busy, 1, 26 * PIECE)     # none of it is written
        fill(idle, 2, 26 * PIECE)
        idle.flush()
        assert ring(busy).bytes == ring(idle).bytes == LIMIT // 2
        fill(third, 3, SLOT)
        assert ring(busy).bytes == LIMIT // 2 and ring(third).bytes == 2 * SLOT
        assert memory.of_process(LIMIT).most_bytes == LIMIT and busy.pread(SIZE, 0) == content


def test_a_log_grows_by_what_a_thread_prepared(tmp_path: Path) -> None:
    shared = memory.of_process(LIMIT)
    with made(tmp_path / "v", replace(SHARED, threads=True)) as volume:
        until, content = time.monotonic() + 60, b""
        while ring(volume).bytes < LIMIT - 2 * SLOT and time.monotonic() < until:
            content = fill(volume, 1)
            for at in range(0, SIZE, 4096):     # a part of it is not in memory any more, and more memory would have it
                volume.pread(4096, at)
        assert 2 * SLOT < ring(volume).bytes <= LIMIT and volume.pread(SIZE, 0) == content
        assert shared.most_bytes <= LIMIT + SLOT
    while shared.used_bytes and time.monotonic() < until:
        time.sleep(0.05)
    assert shared.used_bytes == 0       # what was prepared and is not wanted goes back, too


def test_writes_that_the_device_keeps_up_with_take_their_share_only(tmp_path: Path) -> None:
    """Nobody reads: memory beyond the share would cost each write as much as the write itself."""
    share = 8 * SLOT
    with made(tmp_path / "v", replace(tuning(SLOT, 4096 * KIB, slots=8, records=4000), memory_bytes=16 * share,
                                      threads=True)) as volume:
        for i in range(6 * share // PIECE):
            volume.pwrite(bytes([i % 251]) * PIECE, i * PIECE % (SIZE - PIECE))
            if i % 4 == 0:
                volume.flush()      # so that little waits for the device
        assert memory.of_process(16 * share).most_bytes <= share
        until = time.monotonic() + 60
        while ring(volume).bytes <= share and time.monotonic() < until:     # reads of it ask for more
            for at in range(0, SIZE, 4096):
                volume.pread(4096, at)
            for i in range(share // PIECE):
                volume.pwrite(bytes([i % 251]) * PIECE, i * PIECE % (SIZE - PIECE))
        assert share < ring(volume).bytes <= 16 * share


def test_a_lower_bound_is_reached(tmp_path: Path) -> None:
    with made(tmp_path / "v") as volume:
        content = fill(volume, 1)
        volume.flush()
        memory.of_process(2 * SLOT)
        volume._store.log.give_back()
        assert ring(volume).bytes <= 2 * SLOT and volume.pread(SIZE, 0) == content


def test_many_idle_volumes_cost_nothing(tmp_path: Path) -> None:
    with made(tmp_path / "v") as volume:
        assert ring(volume).bytes == 0
        volume.pread(SIZE, 0)
        assert ring(volume).bytes == 0


PROGRAM = """
import ctypes, sys
from cdp.store.memory import map_large_blocks
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.calloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.calloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_size_t] * 2, [
    ctypes.c_void_p]
if sys.argv[1] == "mapped":
    map_large_blocks()
libc.free(libc.malloc(30 << 20))    # from here on glibc takes blocks up to that from its heap ...
libc.free(libc.malloc(24 << 20))    # ... of which it cannot say what was touched
before = int(open("/proc/self/statm").read().split()[1])
zeros = [libc.calloc(1, 2 << 20) for _ in range(10)]
print((int(open("/proc/self/statm").read().split()[1]) - before) * 4096)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt") or "LD_PRELOAD" in os.environ, reason="glibc's malloc")
@pytest.mark.cold
def test_large_blocks_that_nobody_touches_take_no_memory() -> None:
    """As LMDB's: 2 MiB of zeros a volume."""
    taken = {how: int(subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True,
                                     text=True).stdout) for how in ("mapped", "usual")}
    assert taken["mapped"] < 4 << 20 <= taken["usual"]


def test_the_default_is_a_share_of_what_the_process_may_have(tmp_path: Path) -> None:
    proc, root = tmp_path / "cgroup", tmp_path / "fs"
    (root / "a/b").mkdir(parents=True)
    (root / "memory/a").mkdir(parents=True)
    proc.write_text("3:cpu,memory:/a\n2:cpu:/x\n0::/a/b\n")
    (root / "a/memory.max").write_text("1000000\n")
    (root / "a/b/memory.max").write_text("max\n")
    (root / "memory/a/memory.limit_in_bytes").write_text("2000000\n")
    assert sorted(memory._group_limits(str(proc), str(root))) == [1000000, 2000000]
    assert memory._group_limits(str(tmp_path / "none"), str(root)) == []
    assert memory.LEAST_BYTES <= memory.default_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with pytest.raises(CdpError, match="memory of 0 bytes"):
        Memory(0)
