"""A protected disk that others changed: its history goes on. Each moment is right, or says that it is not known."""
from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cdp
from cdp.check import check
from cdp.service.local import VolumeService
from cdp.store.volume_files import VolumeFiles
from cdp.volume.adopt import adopt, look
from cdpcore.base.errors import Corruption, RefusedPoint
from cdpcore.nbd.connection import RELEASES_PAGES

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

SIZE, BLOCK, SECTOR = 256 << 10, 4096, 512


class Life:
    """A volume of before-images, what every moment of it is, and which sectors of which moments are not known."""

    def __init__(self, folder: Path, seed: int, size: int = SIZE):
        self.random = random.Random(seed)
        self.disk, self.path = folder / "disk.img", folder / "v"
        self.now = bytearray(self.random.randbytes(size))
        self.disk.write_bytes(self.now)
        self.moments = [bytes(self.now)]            # by seq
        self.written: list[range] = [range(0)]      # sectors, by seq
        self.lost: list[tuple[int, set[int]]] = []  # the first record behind a foreign write, its sectors
        self.inside: set[int] = set()   # moments that some of an adoption's records follow
        cdp.create(self.path, disk=self.disk).close()

    def use(self, n: int) -> None:
        with cdp.open(self.path) as volume:
            assert volume.pread(volume.size_bytes, 0) == self.now
            for _ in range(n):
                at = self.random.randrange(len(self.now) // SECTOR) * SECTOR
                length = min(self.random.choice((SECTOR, 3 * SECTOR, BLOCK, 5 * BLOCK)), len(self.now) - at)
                if self.random.random() < 0.7:
                    data = self.random.randbytes(length)
                    volume.pwrite(data, at)
                else:
                    data = bytes(length)
                    (volume.zero if self.random.random() < 0.5 else volume.trim)(length, at)
                self.now[at:at + length] = data
                self.note(volume, range(at // SECTOR, (at + length) // SECTOR))
            volume.flush()
            self.note(volume, range(0))

    def note(self, volume: cdp.Volume, sectors: range) -> None:
        seq = volume.window().newest.seq
        while len(self.moments) <= seq:
            self.moments.append(bytes(self.now))
            self.written.append(sectors)

    def others_write(self, n: int) -> set[int]:
        """Blocks that somebody changed."""
        changed = set()
        with self.disk.open("r+b") as disk:
            for _ in range(n):
                at = self.random.randrange(len(self.now) // SECTOR) * SECTOR
                data = self.random.randbytes(min(self.random.choice((SECTOR, BLOCK, 3 * BLOCK)), len(self.now) - at))
                disk.seek(at)
                disk.write(data)
                self.now[at:at + len(data)] = data
                changed |= set(range(at // BLOCK, -(-(at + len(data)) // BLOCK)))
        return changed

    def adopted(self, changed: set[int]) -> None:
        """Nothing was written again since; `changed`: blocks."""
        last = len(self.moments)
        self.lost.append((last, {s for b in changed for s in range(8 * b, 8 * b + 8)}))
        with cdp.open(self.path) as volume:
            assert volume.pread(volume.size_bytes, 0) == self.now
            self.note(volume, range(0))
        self.inside |= set(range(last, len(self.moments) - 1))

    def known(self, seq: int, sector: int) -> bool:
        for first, sectors in self.lost:
            if first > seq and sector in sectors and not any(sector in self.written[s] for s in range(seq + 1, first)):
                return False
        return True

    def every_moment(self, step: int = 1) -> int:
        """How many reads failed."""
        failed = 0
        with cdp.open(self.path) as volume:
            for seq in sorted(set(range(0, len(self.moments), step)) - self.inside):
                with volume.at(seq) as image:
                    for at in range(0, len(self.moments[seq]), BLOCK):
                        known = [self.known(seq, s) for s in range(at // SECTOR, at // SECTOR + 8)]
                        try:
                            got = image.pread(BLOCK, at)
                        except Corruption as e:
                            assert not all(known) and "not known" in str(e) and "outside" in str(e)
                            self.named(seq, at, str(e))
                            failed += 1
                            continue
                        assert all(known), f"#{seq}, byte {at}: read, though it is not known"
                        assert got == self.moments[seq][at:at + BLOCK], f"#{seq}, byte {at}: another content"
        return failed


    def named(self, seq: int, block: int, message: str) -> None:
        """The message names moments, this one among them, at which the range that it names is not known."""
        found = re.search(r"bytes (\d+) to (\d+) are not known at the moments #(\d+) to #(\d+)", message)
        assert found, message
        first, last, oldest, newest = map(int, found.groups())
        assert block <= first <= last < block + BLOCK and oldest <= seq <= newest, message
        sector = first // SECTOR
        assert not any(self.known(s, sector) for s in range(oldest, newest + 1) if s not in self.inside), message
        assert oldest == 0 or sector in self.written[oldest] or any(
            begins <= oldest and sector in sectors for begins, sectors in self.lost), message


@pytest.mark.parametrize("seed", range(3))
def test_the_history_goes_on_after_foreign_writes(tmp_path: Path, seed: int) -> None:
    life = Life(tmp_path, seed)
    for _ in range(3):
        life.use(15)
        changed = life.others_write(2)
        with pytest.raises(Corruption, match="changed outside"):
            cdp.open(life.path)
        found = look(life.path, compare=True)
        assert found.changed is not None and not found.changed.unknown
        assert {b for start, end in found.changed.differ for b in range(start // BLOCK, end // BLOCK)} == changed
        adopt(life.path, keep_history=True).close()
        with cdp.open(life.path, read_only=True) as volume:
            assert VolumeService(volume).info()["disk_checksums"]["unknown_blocks"] == 0
        life.adopted(changed)
    life.use(5)
    assert life.every_moment(5) > 0
    assert check.check(life.path).ok


def test_after_a_crash_what_was_written_last_is_not_known_either(tmp_path: Path) -> None:
    life = Life(tmp_path, 7)
    life.use(10)
    crash = ("import cdp, os, sys; v = cdp.open(sys.argv[1]); v.pwrite(b'1' * 8192, 16384); v.flush(); "
             "v.pwrite(b'2' * 4096, 16384); os._exit(9)")
    assert subprocess.run([sys.executable, "-c", crash, life.path], check=False).returncode == 9
    before = bytes(life.now)
    with life.disk.open("r+b") as disk:
        disk.seek(65536)
        disk.write(b"x" * BLOCK)
    os.utime(life.disk)
    with pytest.raises(Corruption, match="changed outside"):
        cdp.open(life.path)
    seq = len(life.moments) - 1
    with adopt(life.path, keep_history=True) as volume:
        now = volume.pread(SIZE, 0)
        assert now == life.disk.read_bytes() and now[65536:65536 + BLOCK] == b"x" * BLOCK
        with volume.at(seq) as image:       # before what was written last: the log has what that overwrote
            assert image.pread(8192, 16384) == before[16384:16384 + 8192]
            assert image.pread(65536 - 24576, 24576) == before[24576:65536]
            with pytest.raises(Corruption, match="not known"):
                image.pread(SECTOR, 65536)
        with volume.at(seq + 1) as image, pytest.raises(Corruption, match="not known"):
            image.pread(BLOCK, 20480)       # its own write is not known to be what the disk held


def test_a_disk_that_grew(tmp_path: Path) -> None:
    life = Life(tmp_path, 9, SIZE - 1024)       # it ends inside a block
    life.use(5)
    old = bytes(life.now)
    with life.disk.open("r+b") as disk:
        disk.seek(0, 2)
        disk.write(b"n" * (64 << 10))
    seq = len(life.moments) - 1
    with adopt(life.path, keep_history=True) as volume:
        assert volume.size_bytes == len(old) + (64 << 10)
        assert volume.pread(volume.size_bytes, 0) == old + b"n" * (64 << 10)
        with volume.at(seq) as image:
            assert image.pread(volume.size_bytes, 0) == old + bytes(64 << 10)


def test_it_is_refused_where_the_table_is_missing(tmp_path: Path) -> None:
    life = Life(tmp_path, 11)
    life.use(5)
    (life.path / "disk.sums").unlink()
    with life.disk.open("r+b") as disk:
        disk.write(b"other")
    with pytest.raises(Corruption, match="not what it was"):
        adopt(life.path, keep_history=True)


def test_restores_and_extents_say_what_is_not_known(tmp_path: Path) -> None:
    life = Life(tmp_path, 13)
    life.use(4)
    changed = life.others_write(1)
    adopt(life.path, keep_history=True).close()
    at, seq = min(changed) * BLOCK, len(life.moments) - 1
    with cdp.open(life.path) as volume:
        assert {e.kind for e in volume.extents(at, BLOCK, at=seq)} == {"unknown"}
        with pytest.raises(RefusedPoint, match="not known"):
            volume.restore(seq)
        assert [r for r in volume.records().tolist() if r[2] == 10]


def test_a_bit_that_rots_on_the_disk_is_found(tmp_path: Path) -> None:
    """By reads of an earlier moment; the volume is open while it happens."""
    life = Life(tmp_path, 17)
    life.use(5)
    rnd = random.Random(3)
    with cdp.open(life.path) as volume:
        volume.pwrite(b"1" * SECTOR, 0)
        volume.flush()
        seq = volume.window().newest.seq - 1
        for _ in range(20):
            at = rnd.randrange(BLOCK, SIZE)
            with life.disk.open("r+b") as disk:
                disk.seek(at)
                byte = disk.read(1)
                disk.seek(at)
                disk.write(bytes([byte[0] ^ 1 << rnd.randrange(8)]))
            with volume.at(seq) as image:
                with pytest.raises(Corruption, match="protected disk"):
                    image.pread(SECTOR, at // SECTOR * SECTOR)
                other = (at // BLOCK + 1) * BLOCK % SIZE
                image.pread(SECTOR, other)
            with life.disk.open("r+b") as disk:
                disk.seek(at)
                disk.write(byte)
            with volume.at(seq) as image:
                image.pread(SECTOR, at // SECTOR * SECTOR)
        assert volume.stats()["refused_reads"] >= 20


def test_the_table_is_made_for_volumes_without(tmp_path: Path) -> None:
    life = Life(tmp_path, 19)
    life.use(5)
    files = VolumeFiles(str(life.path))
    Path(files.disk_sums).unlink()
    life.use(3)
    changed = life.others_write(1)
    found = look(life.path, compare=True)
    assert found.changed is not None
    assert {b for start, end in found.changed.differ for b in range(start // BLOCK, end // BLOCK)} == changed


def test_blocks_without_a_checksum_count_as_changed_where_the_disk_was_touched(tmp_path: Path) -> None:
    """As while the table of a large disk is being made. Where its times say that nobody wrote, it is only a copy."""
    life = Life(tmp_path, 23)
    life.use(5)
    files = VolumeFiles(str(life.path))
    sums = bytearray(Path(files.disk_sums).read_bytes())
    sums[BLOCK + 5] ^= 1                # a page that is not valid knows no block
    Path(files.disk_sums).write_bytes(sums)
    copy = tmp_path / "copy.img"
    shutil.copy2(life.disk, copy)
    copy.rename(life.disk)
    found = look(life.path, compare=True)
    assert found.changed is not None and found.changed.lost_bytes == 0
    os.utime(life.disk)
    found = look(life.path, compare=True)
    assert found.changed is not None and not found.changed.differ and found.changed.unknown == [(0, SIZE)]
    adopt(life.path, keep_history=True).close()
    life.adopted(set(range(SIZE // BLOCK)))
    assert life.every_moment() > 0


def test_a_long_trim_is_read_again_while_the_volume_is_open(tmp_path: Path) -> None:
    """More than a GiB is not changed in the table block by block."""
    size = (1 << 30) + (16 << 20)
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(size)
    with cdp.create(tmp_path / "v", disk=disk) as volume:
        volume.pwrite(b"1" * BLOCK, 8 << 20)
        volume.flush()
        volume.trim(size, 0)
        volume.pwrite(b"2" * BLOCK, 64 << 20)
        volume.flush()
        kind = volume._store.kind
        until = time.monotonic() + 60
        while time.monotonic() < until and kind.disk_checksums()["unknown_blocks"]:
            kind.step()     # as the volume's own thread does, a second apart
        assert kind.disk_checksums()["unknown_blocks"] == 0
    assert check.check(tmp_path / "v").ok


@pytest.mark.skipif(not RELEASES_PAGES, reason="the plain build cannot ask where a file has holes")
def test_what_the_table_has_of_a_hole_is_not_read_page_by_page(tmp_path: Path) -> None:
    """A disk of 256 GiB has 65,600 pages: each start and end of its volume read them all."""
    size, disk = 256 << 30, tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(size)

    def reads() -> int:
        return int(re.findall(r"syscr: (\d+)", Path("/proc/self/io").read_text())[0])

    cdp.create(tmp_path / "v", disk=disk).close()
    before = reads()
    with cdp.open(tmp_path / "v") as volume:
        for at in range(0, size, size // 8):
            volume.pwrite(b"1" * BLOCK, at)
        volume.flush()
        kind = volume._store.kind
        while kind.step():
            pass
        assert kind.disk_checksums()["unknown_blocks"] == 0
    cdp.open(tmp_path / "v").close()
    assert reads() - before < 5_000
    assert check.check(tmp_path / "v").ok


def test_info_says_what_is_known_of_the_disk(tmp_path: Path) -> None:
    life = Life(tmp_path, 29)
    life.use(3)
    with cdp.open(life.path, read_only=True) as volume:
        info = VolumeService(volume).info()
        assert info["disk_checksums"] == {"present": True, "blocks": SIZE // BLOCK, "unknown_blocks": 0}
    Path(VolumeFiles(str(life.path)).disk_sums).unlink()
    with cdp.open(life.path, read_only=True) as volume:
        info = VolumeService(volume).info()
        assert info["disk_checksums"] == {"present": False, "blocks": SIZE // BLOCK, "unknown_blocks": SIZE // BLOCK}
    with cdp.create(tmp_path / "after", size=1 << 20) as volume:
        assert VolumeService(volume).info()["disk_checksums"] is None


def test_check_compares_the_disk_with_its_checksums(tmp_path: Path) -> None:
    """What others wrote unseen (samples miss it, and the times were set back), and a table that is damaged."""
    life = Life(tmp_path, 31, 4 << 20)
    life.use(3)
    files = VolumeFiles(str(life.path))
    assert check.check(life.path).ok
    table = Path(files.disk_sums)
    whole = table.read_bytes()
    for at, what in ((20, "header"), (BLOCK + 9, "page")):
        table.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        problems = check.check(life.path).problems
        assert [p.where for p in problems] == [files.disk_sums] and what in problems[0].what
    table.write_bytes(whole)
    with cdp.open(life.path) as volume:
        volume.pwrite(b"1" * SECTOR, 0)
        volume.flush()
        kind = volume._store.kind
        with life.disk.open("r+b") as disk:     # while it is open: the times at the close are of after that
            disk.seek(2 << 20)
            disk.write(b"other")
        assert kind.disk_checksums()["unknown_blocks"] == 0
    problems = check.check(life.path).problems
    assert [p.where for p in problems] == [str(life.disk)]
    assert f"bytes {2 << 20} to {(2 << 20) + BLOCK - 1} do not match" in problems[0].what
