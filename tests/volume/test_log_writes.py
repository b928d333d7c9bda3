"""How the log goes to its files: zeros ahead of small durable appends, and writes that outlive their process."""
import fcntl
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

import cdp

pytestmark = pytest.mark.plain

BLOCK = 4096


def stats(volume: cdp.Volume) -> dict[str, int]:
    return volume._store.log.stats()


def open_segment(volume: cdp.Volume) -> Path:
    return max((Path(volume.path) / "log").glob("*.log"))


def flush_until_zeros_are_written(volume: cdp.Volume) -> int:
    """Returns how many flushes there were."""
    until = time.monotonic() + 60
    n = 0
    while not stats(volume)["zero_bytes_written"]:
        volume.pwrite(n.to_bytes(2, "little") * (BLOCK // 2), n % 100 * BLOCK)
        volume.flush()
        n += 1
        assert time.monotonic() < until
    return n


def test_zeros_go_ahead_of_small_syncs(tmp_path):
    with cdp.create(tmp_path / "v", size=1 << 24) as volume:
        n = flush_until_zeros_are_written(volume)
        assert n >= 4, "small syncs in a row, before zeros pay"
        for i in range(200):    # into the zeros, and on
            volume.pwrite(i.to_bytes(1, "little") * BLOCK, i * BLOCK)
            volume.flush()
        with open_segment(volume).open("rb") as file:
            file.seek(stats(volume)["open_log_bytes"])
            assert not any(file.read(1 << 20)), "what is behind the last frame reads as zeros, written or not"
        assert volume.pread(200 * BLOCK, 0) == b"".join(i.to_bytes(1, "little") * BLOCK for i in range(200))


def test_a_stream_is_written_once(tmp_path):
    with cdp.create(tmp_path / "v", size=1 << 26) as volume:
        for i in range(64):
            volume.pwrite(b"s" * (1 << 20), i << 20)
            if i % 8 == 7:
                volume.flush()
        assert stats(volume)["zero_bytes_written"] == 0


def test_frames_over_zeros_are_found_after_a_crash(tmp_path):
    with cdp.create(tmp_path / "v", size=1 << 24) as volume:
        n = flush_until_zeros_are_written(volume)
        shutil.copytree(tmp_path / "v", tmp_path / "copy")
        with cdp.open(tmp_path / "copy") as found:
            assert found.pread(100 * BLOCK, 0) == volume.pread(100 * BLOCK, 0)
            assert len(found.records()) == 2 * n


def test_recovery_waits_for_writes_of_a_killed_process(tmp_path):
    """They keep the lock that the process had on the segment."""
    with cdp.create(tmp_path / "v", size=1 << 24) as volume:
        volume.pwrite(b"x" * BLOCK, 0)
        volume.flush()
        segment = open_segment(volume)
        shutil.copytree(tmp_path / "v", tmp_path / "copy")
        with segment.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "copy/log" / segment.name).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        released = threading.Event()

        def release() -> None:
            time.sleep(0.3)
            released.set()
            fcntl.flock(file, fcntl.LOCK_UN)

        thread = threading.Thread(target=release)
        thread.start()
        with cdp.open(tmp_path / "copy") as volume:
            assert released.is_set()
            assert volume.pread(BLOCK, 0) == b"x" * BLOCK
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_keeps_no_lock(tmp_path):
    with cdp.create(tmp_path / "v", size=1 << 24) as volume:
        volume.pwrite(b"x" * BLOCK, 0)
        volume.flush()
        segment = open_segment(volume)
        read_end, write_end = os.pipe()
        running, runs = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(runs, b"x")    # it has given up what it had of its parent
            os.close(write_end)
            os.read(read_end, 1)    # until the parent is done
            os._exit(0)
        os.close(read_end)
    try:
        os.read(running, 1)
        with segment.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(write_end)
        os.waitpid(child, 0)
        os.close(running)
        os.close(runs)
