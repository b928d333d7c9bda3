"""Disks protected in place: adopted as they are, known again, left plain; restored under I/O, killed in the middle of
it."""
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import cdp
from cdp.check import check
from cdp.store.tuning import Tuning
from cdp.volume.volume import Volume
from cdpcore.base.errors import Busy, Corruption, InvalidRequest, NotFound, RefusedPoint, Unavailable

MIB = 1 << 20
BLOCK = 4096


def make_disk(path: Path, size: int, seed: int = 1) -> bytes:
    content = random.Random(seed).randbytes(size)
    path.write_bytes(content)
    return content


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    make_disk(tmp_path / "disk.img", 4 * MIB)
    return tmp_path / "disk.img"


def settled(volume: Volume) -> None:
    until = time.monotonic() + 60
    while volume.writeback is not None and volume.writeback.progress() is not None:
        assert time.monotonic() < until
        time.sleep(0.01)


# --- adopting ---------------------------------------------------------------------------------------------------------

def test_nothing_is_copied_and_a_plain_disk_is_left(tmp_path: Path, disk: Path):
    before = disk.read_bytes()
    with cdp.create(tmp_path / "v", disk=disk) as volume:
        assert volume.size_bytes == len(before) and volume.pread(len(before), 0) == before
        assert volume.stats()["log_bytes"] == 0
        volume.pwrite(b"new" * 1000, 5000)
        volume.trim(300_000, 1_000_001)
        volume.zero(10_000, 3_000_000)
        with volume.at(0) as image:
            assert image.pread(len(before), 0) == before
        now = volume.pread(len(before), 0)
    assert disk.read_bytes() == now != before
    with cdp.open(tmp_path / "v") as volume, volume.at("#0") as image:
        assert image.pread(len(before), 0) == before and volume.pread(len(before), 0) == now


CHANGES = ["byte", "append", "cut", "touch", "replace", "sneaky"]


def change(disk: Path, how: str, rng: random.Random) -> None:
    """What others do to a disk."""
    if how == "append":
        with disk.open("ab") as file:
            file.write(bytes(512))
    elif how == "cut":
        os.truncate(disk, disk.stat().st_size - 512)
    elif how == "touch":
        os.utime(disk)
    elif how == "replace":          # the same bytes in another file, its times set to the old ones
        old = disk.stat()
        copy = disk.with_suffix(".copy")
        copy.write_bytes(disk.read_bytes())
        os.utime(copy, ns=(old.st_atime_ns, old.st_mtime_ns))
        copy.rename(disk)
    else:                           # one byte; "sneaky" puts the time of the last change back
        old = disk.stat()
        at = rng.randrange(old.st_size)
        with disk.open("r+b") as file:
            file.seek(at)
            was = file.read(1)
            file.seek(at)
            file.write(bytes([was[0] ^ 1 << rng.randrange(8)]))
        if how == "sneaky":
            os.utime(disk, ns=(old.st_atime_ns, old.st_mtime_ns))


def test_a_change_outside_is_always_noticed(tmp_path: Path, disk: Path):
    """Fifty tries, of every kind; and each is told, refuses the volume, and ends with adopt."""
    rng, path = random.Random(5), tmp_path / "v"
    cdp.create(path, disk=disk).close()
    for turn in range(50):
        with cdp.open(path) as volume:          # unchanged: opens, with its history
            if turn % 3 == 0:
                volume.pwrite(rng.randbytes(512), rng.randrange(volume.size_bytes // 512) * 512)
        how = CHANGES[turn % len(CHANGES)]
        change(disk, how, rng)
        content = disk.read_bytes()
        with pytest.raises(Corruption, match="changed outside") as told:
            cdp.open(path)
        assert "cdp adopt" in told.value.hint, how
        assert disk.read_bytes() == content
        with cdp.adopt(path, discard_history=True) as volume:
            assert volume.window().newest.seq == 0 and volume.pread(len(content), 0) == content, how


def test_a_disk_that_was_only_moved_or_copied_can_be_vouched_for(tmp_path: Path, disk: Path):
    path = tmp_path / "v"
    with cdp.create(path, disk=disk) as volume:
        old = volume.pread(4096, 0)
        volume.pwrite(b"x" * 4096, 0)
    for how in ("touch", "replace"):
        change(disk, how, random.Random(1))
        with pytest.raises(Corruption, match="keep-history"):
            cdp.open(path)
        with cdp.adopt(path, keep_history=True) as volume, volume.at(0) as image:
            assert image.pread(4096, 0) == old
    (path / "disk.sums").unlink()      # with it, what differs would be recorded: test_foreign_writes.py
    with disk.open("r+b") as file:
        file.write(b"y")
    with pytest.raises(Corruption, match="not what it was"):
        cdp.adopt(path, keep_history=True)


def test_after_a_crash_another_file_is_noticed(tmp_path: Path, disk: Path):
    path = tmp_path / "v"
    cdp.create(path, disk=disk).close()
    child = subprocess.run([sys.executable, "-c", CRASH, str(path)], check=False)
    assert child.returncode == 9
    change(disk, "replace", random.Random(1))
    with pytest.raises(Corruption, match="another file"):
        cdp.open(path)
    (path / "disk.sums").unlink()
    with pytest.raises(Corruption, match="not closed cleanly"):
        cdp.adopt(path, keep_history=True)


def test_refusing_a_changed_disk_destroys_nothing(tmp_path: Path, disk: Path):
    """So that the old content can be put back; of a block device, which has no times, that is all it takes."""
    path = tmp_path / "v"
    with cdp.create(path, disk=disk) as volume:
        volume.pwrite(b"x" * 512, 0)
    change(disk, "byte", random.Random(1))
    with pytest.raises(Corruption):
        cdp.open(path)
    assert (path / "disk.json").exists() and list((path / "log").iterdir())


def test_wrong_uses(tmp_path: Path, disk: Path):
    with pytest.raises(InvalidRequest, match="size, or the disk"):
        cdp.create(tmp_path / "a")
    with pytest.raises(InvalidRequest, match="size, or the disk"):
        cdp.create(tmp_path / "a", size=MIB, disk=disk)
    with pytest.raises(NotFound, match="no such disk"):
        cdp.create(tmp_path / "a", disk=tmp_path / "nothing")
    with pytest.raises(InvalidRequest, match="neither a file nor a block device"):
        cdp.create(tmp_path / "a", disk=tmp_path)
    (tmp_path / "odd").write_bytes(bytes(1000))
    with pytest.raises(InvalidRequest, match="multiple of 512"):
        cdp.create(tmp_path / "a", disk=tmp_path / "odd")
    assert not (tmp_path / "a").exists()
    with cdp.create(tmp_path / "v", disk=disk) as volume:
        with pytest.raises(Busy, match="another volume has this disk open"):
            cdp.create(tmp_path / "w", disk=disk)
        with pytest.raises(Busy):
            cdp.adopt(tmp_path / "v")
        with pytest.raises(Busy):
            cdp.detach(tmp_path / "v")
        with pytest.raises(InvalidRequest, match="has content already"):
            volume.import_base(lambda offset, view: None, [])
    cdp.create(tmp_path / "plain", size=MIB).close()
    for what in (cdp.adopt, cdp.detach):
        with pytest.raises(InvalidRequest, match="protects no disk"):
            what(tmp_path / "plain")
        with pytest.raises(NotFound):
            what(tmp_path / "nothing")
    assert cdp.detach(tmp_path / "v") == str(disk)
    disk.unlink()
    with pytest.raises(NotFound, match="no such disk"):
        cdp.open(tmp_path / "v")


def test_adopting_is_refused_while_images_show_the_old_history(tmp_path: Path, disk: Path):
    with cdp.create(tmp_path / "v", disk=disk) as volume:
        volume.create_image("trial")
    change(disk, "byte", random.Random(1))
    with pytest.raises(RefusedPoint, match="writable images"):
        cdp.adopt(tmp_path / "v")


def test_a_disk_that_is_cut_while_it_is_open_is_an_error_not_zeros(tmp_path: Path, disk: Path):
    size = disk.stat().st_size
    with cdp.create(tmp_path / "v", disk=disk) as volume:
        os.truncate(disk, size // 2)
        for look in (volume, volume.at(0)):
            with pytest.raises(Unavailable, match="the disk ends before its data"):
                look.pread(BLOCK, size - BLOCK)
        os.truncate(disk, size)


def test_adopting_deletes_no_history_without_being_asked(tmp_path: Path, disk: Path):
    """What would be lost is named; the disk that the history belongs to is put back, and all of it is there."""
    path, kept = tmp_path / "v", tmp_path / "kept"
    with cdp.create(path, disk=disk) as volume:
        old = volume.pread(4096, 0)
        for i in range(5):
            volume.bookmark(f"b{i}")
        volume.pwrite(b"x" * 4096, 0)
    disk.rename(kept)
    disk.write_bytes(bytes(kept.stat().st_size))
    for options in ({}, {"image_format": "raw"}):
        with pytest.raises(RefusedPoint) as refused:
            cdp.adopt(path, **options)
    assert "the records up to #11, of 20" in str(refused.value)
    assert "the bookmarks b0, b1, b2 and 2 more" in str(refused.value)
    assert "--discard-history" in refused.value.hint and "put the disk back" in refused.value.hint
    with pytest.raises(InvalidRequest):
        cdp.adopt(path, keep_history=True, discard_history=True)
    kept.replace(disk)
    with cdp.adopt(path, keep_history=True) as volume, volume.at("b0") as image:
        assert image.pread(4096, 0) == old and volume.pread(4096, 0) == b"x" * 4096
    change(disk, "byte", random.Random(1))
    with cdp.adopt(path, discard_history=True) as volume:
        assert volume.window().newest.seq == 0 and volume.bookmarks() == []


def test_adopting_after_a_crash_names_what_is_not_in_the_catalog(tmp_path: Path, disk: Path):
    path = tmp_path / "v"
    cdp.create(path, disk=disk).close()
    assert subprocess.run([sys.executable, "-c", CRASH, str(path)], check=False).returncode == 9
    change(disk, "replace", random.Random(1))
    with pytest.raises(RefusedPoint, match="what was written last, before it was killed"):
        cdp.adopt(path)
    shutil.rmtree(path / "catalog.lmdb", ignore_errors=True)
    (path / "catalog.lmdb").unlink(missing_ok=True)
    with pytest.raises(RefusedPoint, match="its history, which cannot be read as it is"):
        cdp.adopt(path)
    cdp.adopt(path, discard_history=True).close()


def test_adopting_leaves_what_lies_beside_the_volume(tmp_path: Path, disk: Path):
    """`cp -a v v.old` is what somebody careful does before."""
    cdp.create(tmp_path / "v", disk=disk).close()
    for beside in ("v.old", "v.new"):
        shutil.copytree(tmp_path / "v", tmp_path / beside)
    change(disk, "byte", random.Random(1))
    cdp.adopt(tmp_path / "v").close()
    assert sorted(p.name for p in tmp_path.iterdir() if p != disk) == ["v", "v.new", "v.old"]


def test_a_write_of_what_is_there_keeps_no_data(tmp_path: Path, disk: Path):
    content = disk.read_bytes()
    with cdp.create(tmp_path / "v", disk=disk, settings=cdp.Settings(skip_unchanged_writes=True)) as volume:
        for at in range(0, MIB, BLOCK):
            volume.pwrite(content[at:at + BLOCK], at)
        volume.pwrite(b"y" * BLOCK, 0)
        volume.flush()
        stats = volume.stats()
        assert stats["unchanged_writes"] == MIB // BLOCK and stats["log_bytes_written"] < MIB // 4
        records = volume.records()
        # and the timeline has them all
        assert len(records) == MIB // BLOCK + 2 and list(records["kind"][:3]) == [1, 1, 1]
        with volume.at(MIB // BLOCK) as image:
            assert image.pread(len(content), 0) == content
    with cdp.open(tmp_path / "v") as volume, volume.at(0) as image:
        assert image.pread(len(content), 0) == content
    assert check.check(tmp_path / "v").ok


def test_a_trim_attack_keeps_the_data_and_zeros_cost_none(tmp_path: Path):
    disk = tmp_path / "disk.img"
    content = make_disk(disk, 8 * MIB)
    with disk.open("r+b") as file:
        file.truncate(64 * MIB)
    with cdp.create(tmp_path / "v", disk=disk) as volume:
        volume.trim(volume.size_bytes, 0)
        volume.flush()
        assert volume.pread(8 * MIB, 0) == bytes(8 * MIB)
        assert 8 * MIB <= volume.stats()["log_bytes_written"] < 8 * MIB + 400_000      # 56 MiB of hole cost nothing
        with volume.at(0) as image:
            assert image.pread(8 * MIB, 0) == content
    assert disk.stat().st_blocks * 512 < MIB        # and the disk's space is free


# --- restoring --------------------------------------------------------------------------------------------------------

def test_restored_content_is_there_at_once(tmp_path: Path, disk: Path):
    old = disk.read_bytes()
    with cdp.create(tmp_path / "v", disk=disk, settings=cdp.Settings(restore_rate_bytes=MIB)) as volume:
        volume.pwrite(b"z" * (3 * MIB), 0)
        volume.flush()
        new = volume.pread(4 * MIB, 0)
        done = volume.restore(0)
        assert volume.writeback is not None and volume.writeback.progress() is not None     # 3 s of work, and yet
        assert volume.pread(4 * MIB, 0) == old
        volume.pwrite(b"host" * 128, MIB)       # the host goes on meanwhile
        with volume.at(done.seq) as image, volume.at(done.seq - 1) as ruined, volume.at(0) as first:
            assert (image.pread(4 * MIB, 0), ruined.pread(4 * MIB, 0), first.pread(4 * MIB, 0)) == (old, new, old)
            settled(volume)
            assert (image.pread(4 * MIB, 0), ruined.pread(4 * MIB, 0), first.pread(4 * MIB, 0)) == (old, new, old)
        expected = old[:MIB] + b"host" * 128 + old[MIB + 512:]
        assert volume.pread(4 * MIB, 0) == expected
        volume.undo()
        assert volume.pread(4 * MIB, 0) == new
    assert disk.read_bytes() == new             # closing finished it, whatever the rate
    assert check.check(tmp_path / "v").ok


def test_a_destructive_restore_frees(tmp_path: Path, disk: Path):
    old = disk.read_bytes()
    with cdp.create(tmp_path / "v", disk=disk, settings=cdp.Settings(segment_bytes=16 * MIB)) as volume:
        for turn in range(30):
            volume.pwrite(random.Random(turn).randbytes(2 * MIB), turn % 2 * 2 * MIB)
        volume.flush()
        assert volume.stats()["log_bytes"] > 60 * MIB
        volume.restore(0, destructive=True)
        with pytest.raises(RefusedPoint):
            volume.at(10)
        assert volume.pread(4 * MIB, 0) == old
        settled(volume)
        until = time.monotonic() + 30
        while volume.stats()["log_bytes"] > 35 * MIB and time.monotonic() < until:      # the rest is punched, not cut
            time.sleep(0.05)
        assert volume.stats()["log_bytes"] < 35 * MIB
        volume.pwrite(b"after", 0)
        with volume.at(0) as image:
            assert image.pread(4 * MIB, 0) == old
    assert disk.read_bytes() == b"after" + old[5:]


CRASH = "import cdp, os, sys; v = cdp.open(sys.argv[1]); v.pwrite(b'x' * 512, 0); v.flush(); os._exit(9)"
CHILD = r"""
import sys, cdp
volume = cdp.open(sys.argv[1], settings=cdp.Settings(restore_rate_bytes=8 << 20))
volume.restore(0)
print("restored", flush=True)
sys.stdin.read()
"""


def test_killed_while_a_restore_is_written_back(tmp_path: Path):
    """kill -9 several times in the middle: it goes on at the next opening, and what is shown is right at every
    moment."""
    disk, path, size = tmp_path / "disk.img", tmp_path / "v", 32 * MIB
    old = make_disk(disk, size)
    with cdp.create(path, disk=disk) as volume:
        rng = np.random.default_rng(3)
        for at in rng.permutation(size // BLOCK)[: size // BLOCK // 2]:
            volume.pwrite(b"garbage!" * (BLOCK // 8), int(at) * BLOCK)
        ruined = volume.pread(size, 0)
        newest = volume.window().newest.seq
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)
    assert child.stdout and child.stdout.readline() == "restored\n"
    time.sleep(0.5)
    child.send_signal(signal.SIGKILL)
    child.wait()
    for turn in range(3):
        child = subprocess.Popen([sys.executable, "-c",
                                  CHILD.replace("volume.restore(0)", f"assert volume.pread(4096, {turn} << 20)"),
                                  str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout and child.stdout.readline() == "restored\n"
        time.sleep(0.2)
        child.send_signal(signal.SIGKILL)
        child.wait()
    with cdp.open(path) as volume:
        assert volume.writeback is not None and volume.writeback.progress() is not None
        assert volume.pread(size, 0) == old
        with volume.at(newest) as image:
            assert image.pread(size, 0) == ruined
        settled(volume)
        assert volume.pread(size, 0) == old
    assert disk.read_bytes() == old


# --- many at once -----------------------------------------------------------------------------------------------------

def test_readers_writers_and_images_at_once(tmp_path: Path):
    """Four writers with blocks of their own, readers of the present and of the past: each block is whole and one that
    was written, and an image does not change. A pool so small that the disk is written all the time, and tiny
    segments."""
    disk, size, blocks = tmp_path / "disk.img", 4 * MIB, 256
    size = blocks * BLOCK
    disk.write_bytes(bytes(size))
    tuning = Tuning(slot_bytes=256 << 10, n_slots=4, segment_bytes=4 * MIB, max_records=2000, commit_interval_ms=20,
                    pending_bytes=256 << 10, pending_changes=64)
    from cdp.store import creation
    creation.create(str(tmp_path / "v"), 0, tuning, disk=str(disk))
    volume = Volume(tmp_path / "v", _tuning=tuning)
    last = np.zeros(blocks, "u8")
    stop, failed = threading.Event(), []

    def guarded(body):
        def run():
            try:
                while not stop.is_set():
                    body()
            except BaseException as e:      # noqa: BLE001  (told by the test)
                failed.append(e)
                stop.set()
        return threading.Thread(target=run)

    def writer(n: int):
        rng = random.Random(n)

        def body():
            block = rng.randrange(blocks // 4) * 4 + n
            value = int(last[block]) + 1
            volume.pwrite(np.full(BLOCK // 8, value << 16 | block, "u8"), block * BLOCK, fua=rng.random() < 0.02)
            last[block] = value
        return body

    def reader():
        block = random.randrange(blocks)
        low = int(last[block])
        words = np.frombuffer(volume.pread(BLOCK, block * BLOCK), "u8")
        assert (words == words[0]).all(), "a torn block"
        assert (not words[0] and not low) or (words[0] & 0xFFFF == block
                                              and low <= words[0] >> 16 <= int(last[block]) + 1)

    def historian():
        with volume.at("now") as image:
            once = image.pread(size, 0)
            time.sleep(0.01)
            assert image.pread(size, 0) == once, "an image changed"

    threads = [guarded(writer(n)) for n in range(4)] + [guarded(reader), guarded(reader), guarded(historian)]
    for t in threads:
        t.start()
    time.sleep(3)
    for _ in range(3):
        if not stop.is_set():
            volume.flush()
    stop.set()
    for t in threads:
        t.join()
    assert not failed, failed[0]
    content = np.frombuffer(volume.pread(size, 0), "u8").reshape(blocks, -1)
    assert (content[:, 0] >> np.uint64(16) == last).all()
    volume.close()
    assert disk.read_bytes() == content.tobytes()
    assert check.check(tmp_path / "v").ok
