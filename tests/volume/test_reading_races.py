"""Reads beside what exchanges the files, and the checksums of the files, that they come from: right, and never refused.

Each rule that this rests on is broken in turn, which the same load must notice.
"""
from __future__ import annotations

import itertools
import random
import shutil
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdp.store import creation, kinds, store
from cdp.store.base_image import Base
from cdp.store.tuning import Tuning
from cdp.volume.volume import Volume
from cdpcore.base.errors import CdpError
from cdpcore.log.log import Log
from cdpcore.log.segment_fds import SegmentFds
from cdpcore.log.sums_file import SumsWriter
from cdpcore.system.os import PosixOs

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

BLOCK = 4096
MIB = 1 << 20
SMALL = Tuning(slot_bytes=80 << 10, n_slots=4, segment_bytes=640 << 10, max_records=2000, max_open_files=1,
               threads=False, commit_interval_ms=0)


def content(block: int, version: int = 0) -> bytes:
    return random.Random(block << 8 | version).randbytes(BLOCK)


def until_wrong(read: Callable[[int], str], threads: int, meanwhile: Callable[[], None]) -> str:
    """`threads` read in a loop while `meanwhile` runs; the first that was wrong, or ""."""
    wrong: list[str] = []
    over = threading.Event()

    def loop(seed: int) -> None:
        rnd = random.Random(seed)
        while not over.is_set() and not wrong:
            try:
                found = read(rnd.randrange(1 << 30))
            except (CdpError, OSError) as e:
                found = f"{type(e).__name__}: {e}"
            if found:
                wrong.append(found)

    readers = [threading.Thread(target=loop, args=(seed,)) for seed in range(threads)]
    for reader in readers:
        reader.start()
    try:
        meanwhile()
    finally:
        over.set()
        for reader in readers:
            reader.join()
    return wrong[0] if wrong else ""


def patched(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, break_rules: Callable[[Any], None]) -> None:
    made = getattr(module, name)

    def broken(*args: Any, **how: Any) -> Any:
        one = made(*args, **how)
        break_rules(one)
        return one

    monkeypatch.setattr(module, name, broken)


# --- handles of segment files ---------------------------------------------------------------------------------------


BLOCKS = 512


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A closed volume with its blocks in many segments."""
    path = str(tmp_path_factory.mktemp("segments") / "v")
    creation.create(path, BLOCKS * BLOCK, SMALL)
    v = Volume(path, _tuning=SMALL)
    try:
        for block in range(BLOCKS):
            v._store.maintainer.step()
            v.pwrite(content(block), block * BLOCK)
        v.flush()
    finally:
        v.close()
    return path


def reads_of_segments(path: str) -> str:
    v = Volume(path, _tuning=SMALL, read_only=True)
    left = itertools.count()

    def read(number: int) -> str:
        block = number % BLOCKS
        next(left)
        return "" if v.pread(BLOCK, block * BLOCK) == content(block) else f"block {block} is another one's"

    def wait() -> None:
        pause = threading.Event()
        for _ in range(400):
            if next(left) > 400:
                break
            pause.wait(0.01)

    try:
        return until_wrong(read, 3, wait)
    finally:
        v.close()


def test_a_handle_stays_open_under_its_readers(segments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patched(monkeypatch, store, "SegmentFds", lambda fds: fds.break_rule("slow"))
    assert reads_of_segments(segments) == ""


@pytest.mark.planted
def test_a_handle_that_does_not_is_noticed(segments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(fds: SegmentFds) -> None:
        fds.break_rule("slow")
        fds.break_rule("pins")

    patched(monkeypatch, store, "SegmentFds", breaks)
    for _ in range(20):
        if reads_of_segments(segments):
            return
    pytest.fail("nothing was noticed")


# --- a segment that is being sealed ---------------------------------------------------------------------------------


def reads_of_a_sealed_segment(path: str) -> str:
    """What was read of a segment before its last frames were written must not be what later reads are checked with."""
    large = replace(SMALL, segment_bytes=2 * MIB)
    creation.create(path, 4 * MIB, large)
    v = Volume(path, _tuning=large)
    try:
        for block in range(400):        # the last 80 are in memory, those before in the same segment's file
            v._store.maintainer.step()
            v.pwrite(content(block), block * BLOCK)
            if block > 90 and v.pread(BLOCK, (block - 90) * BLOCK) != content(block - 90):
                return f"block {block - 90} is another one's"
        v.flush()
        for block in range(400):
            if v.pread(BLOCK, block * BLOCK) != content(block):
                return f"block {block} is another one's"
    except CdpError as e:
        return f"{type(e).__name__}: {e}"
    finally:
        v.close()
    return ""


def test_a_segment_is_sealed_when_its_table_is_in_the_file(tmp_path: Path) -> None:
    assert reads_of_a_sealed_segment(str(tmp_path / "v")) == ""


@pytest.mark.planted
def test_one_that_counts_as_sealed_too_early_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(log: Log) -> None:
        log.files.break_rule("sealed")

    patched(monkeypatch, store, "Log", breaks)
    assert reads_of_a_sealed_segment(str(tmp_path / "v"))


# --- the base's table -----------------------------------------------------------------------------------------------


BASE_BYTES = 8 * MIB
SALT_AT = 40     # in the header of a table


def test_a_read_that_lasts_through_a_fold_and_a_new_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base is written in place and gets another table, again and again, while all of it is read: what a fold does.
    A read finds the old or the new content of a block."""
    made: list[Any] = []
    patched(monkeypatch, kinds, "AfterContent", made.append)
    path, last = tmp_path / "v", BASE_BYTES // BLOCK - 1
    whole = random.Random(5).randbytes(BASE_BYTES)
    contents = [whole[last * BLOCK:], content(last)]

    def fill(offset: int, view: memoryview) -> None:
        view[:] = whole[offset:offset + len(view)]

    creation.create(str(path), BASE_BYTES, Tuning(), base=Base(fill, [(0, BASE_BYTES)]))
    tables = [path / "base.sums", tmp_path / "other.sums"]
    shutil.copy(*tables)
    v = Volume(str(path))
    os_ = PosixOs()
    salt, = struct.unpack_from("<Q", tables[0].read_bytes(), SALT_AT)
    with os_.open(str(tables[1]), write=True) as table:
        writer = SumsWriter(table, bytes.fromhex(v.uuid), 0, salt)
        writer.put(last * BLOCK, contents[1])
        writer.finish(BASE_BYTES)

    def read(_: int) -> str:
        found = v.pread(BASE_BYTES, 0)
        return "" if found[:last * BLOCK] == whole[:last * BLOCK] and found[last * BLOCK:] in contents else "wrong"

    def folds() -> None:
        with os_.open(str(path / "base.img"), write=True) as data:
            for i in range(1, 400):
                made[0].check_base("")
                data.pwrite(contents[i % 2], last * BLOCK)
                assert made[0].check_base(str(tables[i % 2]))

    try:
        assert until_wrong(read, 2, folds) == ""
        assert v.stats()["refused_reads"] == 0
    finally:
        v.close()
