"""What comes from a log file is checked: a bit that flips is found, or harmless, and never a wrong byte."""
from __future__ import annotations

import contextlib
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from support.seeds import Seeds

import cdp
from cdp.check import check
from cdp.store import kinds
from cdpcore.base.checksum import crc32c
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import PosixOs

pytestmark = pytest.mark.plain

SIZE, BLOCK = 1 << 20, 4096
KINDS = ["after", "before"]


class Place:
    """A closed volume with a small log, and what it shows at each of its moments."""

    def __init__(self, folder: Path, kind: str):
        self.path = folder / "v"
        rnd = random.Random(kind)
        disk = None
        if kind == "before":
            disk = folder / "disk.img"
            disk.write_bytes(rnd.randbytes(SIZE))
        self.moments: dict[int, bytes] = {}
        self.records: list[tuple[int, int, bytes]] = []     # a moment, where in it, and what it has there from the log
        content = bytearray(disk.read_bytes() if disk else bytes(SIZE))
        with cdp.create(self.path, size=None if disk else SIZE, disk=disk) as v:
            self.moments[0] = bytes(content)
            # Sectors, so that blocks of the log hold parts of several records; whole blocks; several at once.
            for n in (512, 4096, 1536, 8192, 4096, 512, 16384):
                at, data = rnd.randrange(SIZE // 512 - n // 512) * 512, rnd.randbytes(n)
                before = v.resolve("now").seq, at, bytes(content[at:at + n])
                content[at:at + n] = data
                v.pwrite(data, at)
                after = v.resolve("now").seq, at, data
                self.records.append(before if kind == "before" else after)
                self.moments[after[0]] = bytes(content)
            v.flush()
        self.log = self.path / "log/0000000001.log"
        self.whole = self.log.read_bytes()
        self.frames_end, = struct.unpack_from("<Q", self.whole, len(self.whole) - BLOCK + 48)
        self.table, = struct.unpack_from("<Q", self.whole, len(self.whole) - BLOCK + 72)

    def flip(self, at: int, bit: int) -> None:
        with self.log.open("r+b") as file:
            file.seek(at)
            file.write(bytes([self.whole[at] ^ 1 << bit]))

    def restore(self, at: int) -> None:
        with self.log.open("r+b") as file:
            file.seek(at)
            file.write(self.whole[at:at + 1])

    def look(self, seqs: list[int]) -> str:
        """What a user sees of these moments: "fine", "found", or "wrong"."""
        found = False
        try:
            with cdp.open(self.path, read_only=True) as v:
                for seq in seqs:
                    with v.at(f"#{seq}") as image:
                        for at in range(0, SIZE, 64 << 10):
                            try:
                                if image.pread(64 << 10, at) != self.moments[seq][at:at + (64 << 10)]:
                                    return "wrong"
                            except cdp.Corruption:
                                found = True
        except cdp.Corruption:
            found = True
        return "found" if found else "fine"


@pytest.fixture(params=KINDS)
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path, request.param)


def test_table_by_the_document(place: Place) -> None:
    raw = place.whole
    salt, = struct.unpack_from("<Q", raw, 56)
    page = raw[place.table:place.table + BLOCK]
    assert place.table % BLOCK == 0 and len(raw) == place.table + 2 * BLOCK
    n = place.frames_end // BLOCK
    sums = struct.unpack_from("<1023I", page)
    assert list(sums[1:n]) == [crc32c(raw[b * BLOCK:(b + 1) * BLOCK]) for b in range(1, n)] and not any(sums[n:])
    assert struct.unpack_from("<I", page, 4092)[0] == crc32c(struct.pack("<QQ", salt, 0) + page[:4092])


def test_flips_are_found_or_harmless(place: Place) -> None:
    rnd = random.Random(11)
    seen = {"fine": 0, "found": 0, "wrong": 0}
    n = len(place.whole)
    data = [rnd.randrange(BLOCK, place.frames_end) for _ in range(30)]
    ends = [rnd.randrange(start, start + 96) for start in (0, BLOCK, place.frames_end, place.table, n - BLOCK)
            for _ in range(2)]
    for at in [*data, *ends]:
        place.flip(at, rnd.randrange(8))
        seen[place.look(rnd.sample(sorted(place.moments), 2))] += 1
        place.restore(at)
    assert seen["wrong"] == 0 and seen["found"] > 10 and seen["fine"], seen
    assert place.look(list(place.moments)) == "fine"


class Bits:
    """One bit after the other, and what it can change: in the data of a record, reads of its sectors, for which the
    volume stays open; elsewhere, what is drawn from the file: by opening, by looking for a moment, and the checksums of
    its blocks. All that a user sees is looked at once for each different thing that is drawn, for each bit of headers,
    and for every `sample`-th."""

    def __init__(self, place: Place, sample: int):
        self.place, self.sample = place, sample
        self.seen = {"fine": 0, "found": 0, "wrong": 0}
        self.uuid = bytes.fromhex(json.loads((place.path / "volume.json").read_text())["volume"]["uuid"])
        self.os = PosixOs()
        self.opened = contextlib.ExitStack()
        self.images: dict[int, cdp.TimeImage] = {}
        self.records = [(place.whole.index(data), len(data), seq, at) for seq, at, data in place.records]
        self.known: dict[Any, str] = {}

    def drawn(self) -> Any:
        try:
            with contextlib.closing(SegmentFile(self.os, str(self.place.log), self.uuid, 1)) as s:
                return (s.sealed, s.first_seq, s.last_seq, s.first_ts_ns, s.last_ts_ns, s.flush_seq, s.end_bytes,
                        s.volume_bytes, s.created_ns, s.directory(), s.sums(0)[4:self.place.frames_end // BLOCK * 4],
                        s.records(BLOCK, 0))
        except cdp.Corruption as e:
            return str(e)

    def look(self, bit: int) -> None:
        at = bit // 8
        self.place.flip(at, bit % 8)
        record = next((r for r in self.records if r[0] <= at < r[0] + r[1]), None)
        if bit % (8 * BLOCK) // 8 < 128 and record is None or bit // 8 % self.sample == bit % 8:
            seen = self.all()
        elif record:
            seen = self.read(record[2], record[3] + (at - record[0]) // 512 * 512)
        else:
            drawn = self.drawn()
            if drawn not in self.known:
                self.known[drawn] = self.all()
            seen = self.known[drawn]
        self.seen[seen] += 1
        self.place.restore(at)

    def all(self) -> str:
        self.close()
        return self.place.look(list(self.place.moments))

    def close(self) -> None:
        self.images.clear()
        self.opened.close()

    def read(self, seq: int, at: int) -> str:
        if not self.images:
            v = self.opened.enter_context(cdp.open(self.place.path, read_only=True))
            self.images = {seq: self.opened.enter_context(v.at(f"#{seq}")) for seq in self.place.moments}
        try:
            right = self.images[seq].pread(512, at) == self.place.moments[seq][at:at + 512]
        except cdp.Corruption:
            return "found"
        return "fine" if right else "wrong"


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_in_turn(tmp_path: Path, kind: str, seeds: Seeds) -> None:
    """Of eight bits in a row one; eight seeds in a row take every single one."""
    place = Place(tmp_path, kind)
    bits = Bits(place, 509)
    for seed in seeds(1):
        for bit in range(seed % 8, 8 * len(place.whole), 8):
            bits.look(bit)
        assert bits.seen["wrong"] == 0 and bits.seen["found"] > 5000 and bits.seen["fine"], (seed, bits.seen)
    bits.close()
    assert place.log.read_bytes() == place.whole and place.look(list(place.moments)) == "fine"


@pytest.mark.planted
@pytest.mark.parametrize("kind", KINDS)
def test_reads_that_are_not_checked_are_noticed(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what test_flips_are_found_or_harmless and test_every_bit_in_turn do, in the first few bytes of data."""
    name = {"after": "AfterContent", "before": "BeforeContent"}[kind]
    made = getattr(kinds, name)

    def broken(*args: Any, **how: Any) -> Any:
        content = made(*args, **how)
        content.log_data.break_rule("check")
        return content

    monkeypatch.setattr(kinds, name, broken)
    place = Place(tmp_path, kind)
    rnd = random.Random(11)
    for _ in range(40):
        at, bit = rnd.randrange(2 * BLOCK, place.frames_end), rnd.randrange(8)
        place.flip(at, bit)
        seen = place.look(list(place.moments))
        place.restore(at)
        if seen == "wrong":
            bits = Bits(place, BLOCK)
            bits.look(8 * at + bit)
            bits.close()
            assert bits.seen["wrong"]
            return
    pytest.fail("nothing was noticed")


def test_a_damaged_table_is_made_up_for_by_the_frames(place: Place) -> None:
    place.flip(place.table + 40, 3)
    assert place.look(list(place.moments)) == "fine"
    report = check.check(place.path)
    assert [p.what for p in report.problems] == [f"byte {place.table}: a page of the table of checksums is damaged"]
    place.flip(place.frames_end - 1, 0)     # the last byte of the last frame, too
    place.flip(len(place.whole) - 1, 0)     # and the trailer
    assert place.look(list(place.moments)) != "wrong"


@pytest.mark.parametrize("lost", ["directory", "table"])
def test_a_trailer_without_what_was_written_with_it(place: Place, lost: str) -> None:
    """As a power cut may leave it, before the sync: it is noticed, and written again from the frames."""
    at = place.frames_end if lost == "directory" else place.table
    with place.log.open("r+b") as file:
        file.seek(at)
        file.write(bytes(BLOCK))
    uuid = bytes.fromhex(json.loads((place.path / "volume.json").read_text())["volume"]["uuid"])
    with contextlib.closing(SegmentFile(PosixOs(), str(place.log), uuid, 1, writable=True)) as segment:
        assert segment.sealed and not segment.ends_whole()
        segment.scan(1, verify_data=True)
        segment.seal()
        assert segment.ends_whole()
    assert place.log.read_bytes() == place.whole


def test_check_finds_what_no_record_has(tmp_path: Path) -> None:
    """Padding between records is nobody's data, but it shows that the device changes bits."""
    place = Place(tmp_path, "after")
    zeros = next(at for at in range(place.frames_end - 1, BLOCK, -1) if place.whole[at - 64:at] == bytes(64))
    place.flip(zeros, 1)
    assert place.look(list(place.moments)) in ("fine", "found")
    assert not check.check(place.path).ok


def test_reads_of_the_open_volume(tmp_path: Path) -> None:
    """Of the segment that is open, whose table is in memory; the ring is made to forget what was written."""
    with cdp.create(tmp_path / "v", size=64 << 20) as v:
        data = os.urandom(24 << 20)
        for at in range(0, len(data), 1 << 20):
            v.pwrite(data[at:at + (1 << 20)], at)
        v.flush()
        log = tmp_path / "v/log/0000000001.log"
        assert v.pread(len(data), 0) == data
        for _ in range(2):
            v._store.log.give_back()
        assert v.stats()["memory_bytes"] == 0
        at = log.read_bytes().find(data[12288:12288 + 512])
        with log.open("r+b") as file:
            file.seek(at)
            file.write(bytes([data[12288] ^ 4]))
        with pytest.raises(cdp.Corruption, match=r"log/0000000001\.log: a block does not match its checksum at byte"):
            v.pread(512, 12288)
        with pytest.raises(cdp.Corruption):
            v.pread(512, 12288 + 1024)      # another sector of that block
        assert v.pread(4096, 1 << 20) == data[1 << 20:(1 << 20) + 4096]
        with log.open("r+b") as file:
            file.seek(at)
            file.write(data[12288:12289])
        assert v.pread(len(data), 0) == data
