"""Edges of disks protected in place: what only goes wrong at one moment, or at one size."""
import errno
import gc
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.simcatalog import on

import cdp
from cdp.check import check, rebuild
from cdp.store import creation
from cdp.store.kinds import BeforeImages
from cdp.store.tuning import Tuning
from cdp.volume.volume import Volume
from cdpcore.base.errors import CdpError, OutOfSpace
from cdpcore.bench import loadgen
from cdpcore.inplace.writeback import RestoreWriter
from cdpcore.system.os import SimOs

pytestmark = pytest.mark.sanitize

MIB = 1 << 20


def make_disk(path: Path, size: int, seed: int = 1) -> bytes:
    content = random.Random(seed).randbytes(size)
    path.write_bytes(content)
    return content


def test_a_write_of_what_the_disk_still_holds_counts_while_a_restore_is_written_back(tmp_path: Path):
    """The disk has the content from before the restore, and the host writes just that: it is a change of what the
    volume shows."""
    disk = tmp_path / "disk.img"
    old = make_disk(disk, 4 * MIB)
    with cdp.create(tmp_path / "v", disk=disk,
                    settings=cdp.Settings(skip_unchanged_writes=True, restore_rate_bytes=64 << 10)) as volume:
        volume.pwrite(b"n" * (2 * MIB), 2 * MIB)
        volume.flush()
        volume.restore(0)
        assert volume.pread(4096, 3 * MIB) == old[3 * MIB:3 * MIB + 4096]
        volume.pwrite(b"n" * 4096, 3 * MIB)
        assert volume.pread(4096, 3 * MIB) == b"n" * 4096
    assert disk.read_bytes() == old[:3 * MIB] + b"n" * 4096 + old[3 * MIB + 4096:]


def test_the_largest_write_that_begins_inside_a_block(tmp_path: Path):
    """32 MiB of old content in 33 pieces of a MiB, one more than a record has room for."""
    disk = tmp_path / "disk.img"
    old = make_disk(disk, 34 * MIB)
    new = random.Random(2).randbytes(32 * MIB)
    with cdp.create(tmp_path / "v", disk=disk) as volume:
        for at in (512, 4096, 1536):
            volume.pwrite(new, at)
            assert volume.pread(32 * MIB, at) == new
        volume.flush()
        with volume.at(0) as image:
            assert image.pread(34 * MIB, 0) == old
    with cdp.open(tmp_path / "v") as volume, volume.at(0) as image:
        assert image.pread(34 * MIB, 0) == old


def test_a_reader_of_half_a_change_does_not_keep_the_other_half_from_others(tmp_path: Path):
    """A zero that begins inside a sector waits for the disk in parts. Where one is being read when all of them are on
    the disk, the others go on being readable."""
    disk, n = tmp_path / "disk.img", 30 * MIB
    make_disk(disk, 32 * MIB)
    with cdp.create(tmp_path / "v", disk=disk, settings=cdp.Settings(commit_interval_ms=60_000)) as volume:
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                volume.pread(n - 1024, 512)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for t in readers:
            t.start()
        try:
            for turn in range(15):
                volume.pwrite(b"x" * 512, 0)
                volume.zero(n - 1024, 1)
                volume.flush()
                done = threading.Thread(target=volume.pread, args=(512, 0), daemon=True)
                done.start()
                done.join(10)
                if done.is_alive():
                    os._exit(9) if os.environ.get("CDP_EDGE_CHILD") else pytest.fail(f"turn {turn}: the reader hangs")
        finally:
            stop.set()
            for t in readers:
                t.join()


RACE = r"""
import random, sys, threading, cdp
with cdp.open(sys.argv[1]) as volume:
    stop = threading.Event()
    def write():
        while not stop.is_set():
            volume.pwrite(b"x" * 4096, random.randrange(volume.size_bytes // 4096) * 4096)
    writers = [threading.Thread(target=write) for _ in range(2)]
    for t in writers:
        t.start()
    for turn in range(4):
        volume.trim(volume.size_bytes, 0)
    stop.set()
    for t in writers:
        t.join()
"""


def test_a_long_hole_that_is_written_to_while_it_is_trimmed(tmp_path: Path):
    """Then what it holds is read and kept, a request's worth at a time."""
    with (tmp_path / "disk.img").open("wb") as file:
        file.truncate(128 * MIB)
    cdp.create(tmp_path / "v", disk=tmp_path / "disk.img").close()
    subprocess.run([sys.executable, "-c", RACE, str(tmp_path / "v")], check=True)
    with cdp.open(tmp_path / "v") as volume, volume.at(0) as image:
        for at in range(0, 128 * MIB, 16 * MIB):
            assert image.pread(16 * MIB, at) == bytes(16 * MIB)


UNCLEAN = r"""
import os, sys, cdp
volume = cdp.open(sys.argv[1], settings=cdp.Settings(commit_interval_ms=60_000))
volume.pwrite(b"flushed" * 1000, 0)
volume.flush()
for at in range(100):
    volume.pwrite(b"not flushed" * 1000, at * 20_000)
volume.sync()           # the log is durable, the disk is behind
os._exit(0)
"""


def test_rebuilding_after_a_crash_puts_the_disk_back(tmp_path: Path):
    """The log's tail goes further than what the disk holds durably: it must not be sealed as it is."""
    disk, path = tmp_path / "disk.img", tmp_path / "v"
    old = make_disk(disk, 4 * MIB)
    cdp.create(path, disk=disk).close()
    subprocess.run([sys.executable, "-c", UNCLEAN, str(path)], check=True)
    assert rebuild.rebuild(path).ok
    with cdp.open(path) as volume, volume.at(0) as image:
        assert volume.pread(7000, 0) == b"flushed" * 1000
        assert image.pread(4 * MIB, 0) == old
    assert check.check(path).ok


def simulated(sim: SimOs, content: bytes, **how: Any) -> Volume:
    """A volume /v of the disk /disk, without threads."""
    small = Tuning(**{"slot_bytes": 80 << 10, "n_slots": 4, "segment_bytes": 640 << 10, "max_records": 300,
                      "commit_interval_ms": 0, "threads": False, **how})
    if not sim.exists("/disk"):
        with sim.open("/disk", write=True, create=True) as file:
            file.pwrite(content, 0)
            file.datasync()
        sim.sync_dir("/")
        creation.create("/v", 0, small, os=sim, catalog=on(sim), disk="/disk")
    return Volume("/v", _tuning=small, _os=sim, _catalog=on(sim))


def killed(sim: SimOs, volume: Volume) -> None:
    """The process ends, the machine goes on: its handles are gone, and so are their locks."""
    volume._store.log.files.disown()
    volume._store._release()


def test_what_a_killed_process_noted_of_the_disk_is_made_durable_before_it_counts():
    """Killed between writing the state and syncing it; opened again, which seals the log up to it; then the power
    goes."""
    sim = SimOs(1)
    volume = simulated(sim, bytes(64 << 10))
    volume.pwrite(b"a" * 4096, 0)
    volume.flush()
    volume.pwrite(b"b" * 4096, 4096)
    sim.fail("datasync", part="disk.state")     # as if it had not come to that
    with pytest.raises(CdpError):
        volume.flush()
    sim.clear_faults()
    killed(sim, volume)
    volume = simulated(sim, b"")
    assert volume.pread(4096, 4096) == b"b" * 4096
    del volume
    gc.collect()
    sim.cut_at(0)
    with pytest.raises(CdpError):
        sim.list_dir("/v")
    sim.power_on("drop")
    with simulated(sim, b"") as volume:
        assert volume.pread(4096, 0) == b"a" * 4096


def test_a_cut_while_a_destructive_restore_is_being_appended_loses_nothing_flushed():
    """The host goes on between the restore's record and its flush: what its writes overwrite in the log is what the
    restore shows, so that may not be put back onto a disk that has not come to the restore."""
    sim = SimOs(2)
    volume = simulated(sim, b"0" * (256 << 10), pending_bytes=64 << 10)
    volume.pwrite(b"1" * 4096, 0)
    volume.flush()

    def host_goes_on(event: object) -> None:
        for at in range(0, 256 << 10, 16 << 10):
            volume._core.pwrite(b"2" * (16 << 10), at)      # more than waits for the disk: it is written
        sim.cut_at(0)
        raise CdpError("the power goes")

    volume._store.finish_event = host_goes_on   # type: ignore[method-assign, assignment]
    with pytest.raises(CdpError):
        volume.restore(0, destructive=True)
    del volume, host_goes_on
    gc.collect()
    sim.power_on("keep")
    with simulated(sim, b"") as volume:
        seq = volume.window().newest.seq
        assert volume.pread(4096, 0) in ((b"1" * 4096,) if seq < 3 else (b"0" * 4096, b"2" * 4096)), seq


@pytest.mark.timeout(120)
def test_block_status_of_what_is_being_written_to_comes_to_an_end():
    """A look that finds its range changed is not begun anew for ever. (On the simulated machine, where no device makes
    the writer wait.)"""
    sim, size, most, over = SimOs(4), 48 * MIB, 25, threading.Event()
    content, rounds = random.Random(4).randbytes(size), list[int]()

    def write() -> None:        # 500,000 at the most: a look that goes on as long as they do must end, too, to be seen
        while not over.is_set() and len(rounds) < most:
            rounds.append(0)
            loadgen.run(volume.target(), length_bytes=512, requests=20_000)

    with simulated(sim, content, slot_bytes=MIB, segment_bytes=64 * MIB, max_records=100_000, pending_bytes=8 * MIB,
                   threads=True) as volume:
        load = threading.Thread(target=write)
        load.start()
        try:
            while volume.stats()["writes"] < 1000:
                time.sleep(0.001)
            then, now = list(volume.extents(at=0)), list(volume.extents())
            assert load.is_alive(), "they came to an end when the writes did"
        finally:
            over.set()
            load.join()
        for told in (then, now):
            assert [(e.offset, e.length, e.kind) for e in told] == [(0, size, "data")]
        with volume.at(0) as image:
            assert image.pread(size, 0) == content


def test_what_a_destructive_restore_puts_on_the_disk_leaves_what_is_settled_as_it_is():
    """It is no record's, so a flush does not wait for it, however much there is; and it is on the disk before the
    restore ends."""
    sim = SimOs(3)
    volume = simulated(sim, b"0" * (256 << 10), pending_bytes=64 << 10)
    for at in range(0, 256 << 10, 32 << 10):
        volume.pwrite(b"1" * (32 << 10), at)
    volume.flush()
    volume.restore(0, destructive=True)
    volume.pwrite(b"2" * 4096, 4096)
    volume.flush()
    core: Any = volume._core
    settled = core.stats()["synced_seq"]
    kind = volume._store.kind
    assert isinstance(kind, BeforeImages)
    images = kind.opened_content
    at, written = RestoreWriter(core, images).write_back(0, 256 << 10, 2)
    assert written and core.stats()["pending_bytes"] >= written
    assert core.stats()["synced_seq"] == settled
    syncs = sim.count("datasync")
    core.pflush()
    assert sim.count("datasync") == syncs, "a flush with nothing new behind it"
    assert volume.pread(12 << 10, 0) == b"0" * 4096 + b"2" * 4096 + b"0" * 4096
    assert not images.settler.on_disk()
    images.settler.settle_disk()
    assert images.settler.on_disk() and core.stats()["pending_bytes"] == 0
    with sim.open("/disk") as file:
        assert file.pread(at, 0) == b"0" * 4096 + b"2" * 4096 + b"0" * (at - 8192)
    volume.close()
    with sim.open("/disk") as file:
        assert file.pread(256 << 10, 0) == b"0" * 4096 + b"2" * 4096 + b"0" * (248 << 10)


def test_a_restore_that_the_catalog_could_not_take_is_written_back():
    """It is in the log and shown, so closing puts it on the disk; which once never ended."""
    sim = SimOs(3)
    volume = simulated(sim, b"0" * (256 << 10))
    volume.pwrite(b"1" * 4096, 0)
    volume.flush()
    sim.fail("rename", part="catalog", error=errno.ENOSPC)
    with pytest.raises(OutOfSpace):
        volume.restore(0)
    volume.close()
    with sim.open("/disk") as disk:
        assert disk.pread(4096, 0) == b"0" * 4096


def test_recovery_is_killed_at_any_call_and_then_the_power_goes():
    """Several frames are in the log and not on the disk, durable (even seeds) or not, so they are put back and cut off.
    What is left of that at any moment is neither damage nor somebody else's write."""
    for call in range(1, 100):
        for seed in range(6):
            sim = SimOs(seed)
            volume = simulated(sim, b"0" * (256 << 10), n_slots=2)
            volume.pwrite(b"1" * 4096, 0)
            volume.flush()
            for at in range(13 if seed % 2 else 5):
                volume._core.pwrite(b"2" * (16 << 10), at * (8 << 10))
                if seed % 2 == 0:
                    volume.sync()
            killed(sim, volume)
            sim.cut_at(call)
            try:
                killed(sim, simulated(sim, b""))
            except CdpError:
                pass
            whole = sim.powered
            if seed % 3:
                sim.power_on("killed")
            sim.power_on("seeded")
            with simulated(sim, b"") as volume:
                assert volume.pread(256 << 10, 0) == b"1" * 4096 + b"0" * (252 << 10), (call, seed)
                assert volume.window().newest.seq == 2
        if whole:
            return
    raise AssertionError("recovery takes more than 100 calls")
