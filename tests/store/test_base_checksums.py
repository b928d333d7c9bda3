"""What comes from base.img is checked; volumes from before there were checksums get them."""
from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest

import cdp
from cdp.check import check, rebuild
from cdp.store.base_image import Base

pytestmark = pytest.mark.plain

MIB, BLOCK = 1 << 20, 4096
SIZE = 16 * MIB + 512        # not a multiple of a block
GOLDEN = Path(__file__).parent.parent / "golden"


def made(path: Path, content: bytes, extents: list[tuple[int, int]]) -> None:
    def read(offset: int, view: memoryview) -> None:
        view[:] = content[offset:offset + len(view)]

    cdp.create(path, size=SIZE, base=Base(read, extents)).close()


def flip(path: Path, at: int, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << bit
    path.write_bytes(raw)


def look(path: Path, content: bytes) -> str:
    """As a user sees it: "fine", "found", or "wrong"."""
    found = False
    with cdp.open(path, read_only=True) as v:
        for at in range(0, SIZE, MIB):
            try:
                if v.pread(min(MIB, SIZE - at), at) != content[at:at + MIB]:
                    return "wrong"
            except cdp.Corruption:
                found = True
    return "found" if found else "fine"


@pytest.fixture
def based(tmp_path: Path) -> tuple[Path, bytes]:
    """Data that begins and ends inside of blocks, in pieces that are not in order; a hole; the last sector."""
    content = bytearray(SIZE)
    extents = [(5 * MIB + 512, MIB + 1024), (0, 2 * MIB), (2 * MIB, 1536), (SIZE - 512, 512)]
    for at, n in extents:
        content[at:at + n] = os.urandom(n)
    made(tmp_path / "v", bytes(content), extents)
    return tmp_path / "v", bytes(content)


def test_flips_of_the_base_are_found(based: tuple[Path, bytes]) -> None:
    path, content = based
    assert look(path, content) == "fine" and check.check(path).ok
    rnd = random.Random(3)
    for at in [rnd.randrange(3 * MIB) for _ in range(6)] + [5 * MIB + 700, 9 * MIB, SIZE - 1]:
        kept = (path / "base.img").read_bytes()
        flip(path / "base.img", at, rnd.randrange(8))
        assert look(path, content) == "found", at
        assert [str(path / "base.img") == p.where for p in check.check(path).problems] == [True]
        (path / "base.img").write_bytes(kept)
    for at in [0, 9, 60, BLOCK + 40, BLOCK + 4093, 2 * BLOCK + 5, 3 * BLOCK + 7]:
        kept = (path / "base.sums").read_bytes()
        flip(path / "base.sums", at, rnd.randrange(8))
        assert look(path, content) != "wrong" and not check.check(path).ok, at
        (path / "base.sums").write_bytes(kept)
    assert look(path, content) == "fine"


def test_a_base_without_checksums_gets_them(based: tuple[Path, bytes]) -> None:
    path, content = based
    (path / "base.sums").unlink()
    with cdp.open(path) as v:
        assert v.pread(SIZE, 0) == content
        wait_for(path / "base.sums")
    flip(path / "base.img", 5 * MIB + 700, 1)
    assert look(path, content) == "found"


def test_an_old_segment_gets_a_table(tmp_path: Path) -> None:
    path = tmp_path / "golden"
    shutil.copytree(GOLDEN / "v1", path)
    (path / "images").mkdir()
    (path / "lock").touch()
    assert rebuild.rebuild(path).ok
    log = path / "log/0000000001.log"
    old = log.read_bytes()
    flip(log, 8192, 3)
    with cdp.open(path, read_only=True) as v, pytest.raises(cdp.Corruption, match="does not match"):
        v.pread(512, 4096)      # by the checksums of its frame
    log.write_bytes(old)
    with cdp.open(path) as v:
        wait_for(path / "log/0000000001.sums")
        assert v.pread(512, 4096) == b"hello, past".ljust(512, b"\0")
    flip(log, 8192, 3)
    with cdp.open(path, read_only=True) as v, pytest.raises(cdp.Corruption, match="does not match"):
        v.pread(512, 4096)
    log.write_bytes(old)
    assert check.check(path).ok and log.read_bytes() == old


def test_what_is_damaged_is_reported_once(based: tuple[Path, bytes], caplog: pytest.LogCaptureFixture) -> None:
    path, _ = based
    with cdp.open(path) as v:
        v.pwrite(b"x" * 5000 + bytes(120), 8 * MIB)
    log = path / "log/0000000001.log"
    flip(log, log.read_bytes().index(b"x" * 512) + 100, 0)
    with cdp.open(path) as v:
        for _ in range(3):
            with pytest.raises(cdp.Corruption, match=r"log/0000000001\.log: .* at byte \d+"):
                v.pread(512, 8 * MIB)
        stats = v.stats()
        assert (stats["damaged_blocks"], stats["refused_reads"]) == (1, 3)
    said = [r.getMessage() for r in caplog.records if "does not match" in r.getMessage()]
    assert len(said) == 1 and "record #1 (" in said[0] and f"bytes {8 * MIB} to {8 * MIB + 5119}" in said[0]


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
