"""docs/format.md against real bytes: golden files are read by a parser written from the document alone, and by the
engine."""
import json
import re
import shutil
import struct
from pathlib import Path

import pytest

import cdp
from cdp.check import check, rebuild
from cdp.moments import records
from cdp.volume import adopt
from cdpcore.base.checksum import crc32c

pytestmark = pytest.mark.plain

GOLDEN = Path(__file__).parent.parent / "golden"
FORMAT_H = Path(__file__).parent.parent.parent / "src" / "cdpcore" / "base" / "format.h"
CONTENT = b"hello, past".ljust(512, b"\0")


def zeroed_crc(block: bytes, at: int) -> int:
    return crc32c(block[:at] + bytes(4) + block[at + 4:])


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """The golden volume, with a catalog rebuilt from its log."""
    path = tmp_path / "golden"
    shutil.copytree(GOLDEN / "v1", path)
    (path / "images").mkdir()
    (path / "lock").touch()
    report = rebuild.rebuild(path)
    assert report.ok and (report.segments, report.frames, report.records) == (1, 1, 2)
    return path


def test_segment_by_the_document():
    raw = (GOLDEN / "v1/log/0000000001.log").read_bytes()
    magic, version, crc, _uuid, size, created, number, flags, salt = struct.unpack_from("<8sII16sQQIIQ", raw)
    assert (magic, version, size, number, flags) == (b"CDPSEG1\0", 1, 1 << 20, 1, 0)
    assert crc == zeroed_crc(raw[:4096], 12)
    frame = raw[4096:8192]
    (magic, frame_salt, first, durable, flush, n, n_desc, data_bytes, tail_bytes, blocks, crc) = \
        struct.unpack_from("<8sQQQQIIIIII", frame)
    assert (magic, frame_salt, first, durable, flush) == (b"CDPFRM1\0", salt, 1, 0, 2)
    assert (n, n_desc, data_bytes, tail_bytes, blocks) == (0, 2, 4096, 0, 1)
    assert crc == zeroed_crc(frame, 60)
    ts, start, sectors, sector, data_crc, kind, rec_flags, n_bytes = struct.unpack_from("<QQQIIHHI", frame, 64)
    assert (start, sectors, kind, rec_flags, n_bytes) == (8, 1, 1, 0, 512)
    assert raw[sector * 512:sector * 512 + n_bytes] == CONTENT and crc32c(CONTENT) == data_crc
    later, _, _, no_data, _, kind, _, _ = struct.unpack_from("<QQQIIHHI", frame, 104)
    assert kind == 4 and no_data == 0 and later > ts > created
    trailer = raw[-4096:]
    (magic, end_salt, lo, hi, ts_lo, ts_hi, at, frames, dir_crc, number,
     crc) = struct.unpack_from("<8sQQQQQQIIII", trailer)
    assert (magic, end_salt, lo, hi, ts_lo, ts_hi, frames, number) == (b"CDPEND1\0", salt, 1, 2, ts, later, 1, 1)
    assert crc == zeroed_crc(trailer, 68) and dir_crc == crc32c(raw[at:at + 32 * frames])
    assert struct.unpack_from("<QQQII", raw, at) == (1, ts, 2, 1, 2)


def test_run_by_the_document():
    raw = (GOLDEN / "v1/runs/0000000001.run").read_bytes()
    (magic, version, crc, _, lo, hi, seg_lo, seg_hi, extents, versions, blocks, fences, crcs, size, crcs_crc, flags) = \
        struct.unpack_from("<8sII16sQQIIQQQQQQII", raw)
    assert (magic, version, lo, hi, seg_lo, seg_hi, extents, versions, blocks,
            flags) == (b"CDPRUN1\0", 1, 1, 2, 1, 1, 1, 1, 1, 0)
    assert crc == zeroed_crc(raw[:4096], 12) and size == len(raw) and crcs_crc == crc32c(raw[crcs:])
    assert struct.unpack_from("<I", raw, crcs)[0] == crc32c(raw[4096:crcs])
    start, at_versions, at_extents, n_extents, n_versions = struct.unpack_from("<QQQII", raw, fences)
    assert (start, at_versions, n_extents, n_versions) == (8, 4096, 1, 1)
    assert struct.unpack_from("<QQ", raw, at_versions) == (1, 1 << 32 | 16)
    assert struct.unpack_from("<QII", raw, at_extents) == (8, 1, 0)


def test_engine_reads_golden(volume: Path):
    with cdp.open(volume) as v:
        assert v.pread(512, 4096) == CONTENT
        assert v.at("#0").pread(512, 4096) == bytes(512)
        assert [(int(r["seq"]), int(r["kind"])) for r in v.records()] == [(1, 1), (2, 4)]
    assert check.check(volume).ok


@pytest.mark.parametrize("byte", [0, 8, 16, 48, 4096 + 16, 4096 + 70, 8192, 12288, 16384 + 20])
def test_every_damaged_part_is_found(volume: Path, byte: int):
    log = volume / "log/0000000001.log"
    raw = bytearray(log.read_bytes())
    raw[byte] ^= 0x40
    log.write_bytes(raw)
    report = check.check(volume)
    assert not report.ok and str(log) in report.problems[0].where


def test_unknown_version_and_flags_are_refused(volume: Path):
    log = volume / "log/0000000001.log"
    for at, value in ((8, 2), (52, 1), (52, 2)):     # flag 1 is for before-images, which these are not
        raw = bytearray(log.read_bytes())
        struct.pack_into("<I", raw, at, value)
        struct.pack_into("<I", raw, 12, zeroed_crc(bytes(raw[:4096]), 12))
        (volume / "log/bad").write_bytes(raw)
        shutil.copy(volume / "log/bad", log)
        assert not check.check(volume).ok
        shutil.copy(GOLDEN / "v1/log/0000000001.log", log)
    (volume / "log/bad").unlink()
    text = (volume / "volume.json").read_text()
    (volume / "volume.json").write_text(text.replace('"format": 1', '"format": 4'))
    with pytest.raises(cdp.Corruption, match="format 4"):
        cdp.open(volume)
    (volume / "volume.json").write_text(text.replace("1048576", "1048577"))
    with pytest.raises(cdp.Corruption, match="checksum"):
        cdp.open(volume)


# Version 2, before-images. The disk had eight blocks of 4 KiB, each of one letter from a to h, and a hole of eight. On
# it: a write (block 1), a zero (2), a trim (3), a write of the hole (9), a write of what was there (4), a flush, a
# bookmark "mark", a write with FUA (5), a restore to the bookmark, written back, a bookmark "kept", and "mark" deleted.
# (Flag HOLE is not in it: that a range was a hole is kept only of 64 MiB and more.)
BLOCK = 4096
DISK = b"".join(bytes([letter]) * BLOCK for letter in b"abcdefgh") + bytes(8 * BLOCK)
NOW = b"".join(bytes([letter]) * BLOCK for letter in b"aW\0\0efgh\0Y") + bytes(6 * BLOCK)
KINDS = [1, 2, 3, 1, 1, 4, 5, 4, 1, 6, 4, 8, 9, 4, 5, 4, 7, 4]


@pytest.fixture
def protected(tmp_path: Path) -> Path:
    """The golden volume of version 2 beside its disk, as somebody would move both: volume.json names the new place."""
    path, disk = tmp_path / "golden", tmp_path / "disk.img"
    shutil.copytree(GOLDEN / "v2", path)
    shutil.move(path / "disk.img", disk)
    (path / "images").mkdir()
    (path / "lock").touch()
    inner = {**json.loads((path / "volume.json").read_text())["volume"], "disk": str(disk)}
    text = json.dumps(inner, sort_keys=True)
    (path / "volume.json").write_text(f'{{"crc32c": "{crc32c(text.encode()):08x}", "volume": {text}}}\n')
    return path


def test_before_images_by_the_document():
    outer = json.loads((GOLDEN / "v2/volume.json").read_text())
    geometry = outer["volume"]
    assert int(outer["crc32c"], 16) == crc32c(json.dumps(geometry, sort_keys=True).encode())
    assert (geometry["base"], geometry["format"], geometry["disk"]) == ("disk", 2, "/srv/disk.img")
    raw = (GOLDEN / "v2/log/0000000001.log").read_bytes()
    crc, flags = struct.unpack_from("<I36xI", raw, 12)
    assert (crc, flags) == (zeroed_crc(raw[:4096], 12), 1)
    found = []
    at, end = 4096, struct.unpack_from("<Q", raw, len(raw) - 4096 + 48)[0]
    while at < end:
        n_desc, data_bytes, tail_bytes = struct.unpack_from("<III", raw, at + 44)
        for i in range(n_desc):
            _, start, sectors, sector, crc, kind, flags, n = struct.unpack_from("<QQQIIHHI", raw, at + 64 + 40 * i)
            data = raw[sector * 512:sector * 512 + n] if n else b""
            assert crc == (crc32c(data) if n else 0)
            found.append((kind, flags, start * 512, sectors * 512, data))
        at += 4096 + data_bytes + tail_bytes
    assert [kind for kind, *_ in found] == KINDS
    before, same, fua = 4, 16, 2
    assert [row[1:] for row in found if row[0] in (1, 2, 3, 8)] == [
        (before, 1 * BLOCK, BLOCK, b"b" * BLOCK), (before, 2 * BLOCK, BLOCK, b"c" * BLOCK),
        (before, 3 * BLOCK, BLOCK, b"d" * BLOCK), (before, 9 * BLOCK, BLOCK, b""),
        (before | same, 4 * BLOCK, BLOCK, b""), (before | fua, 5 * BLOCK, BLOCK, b"f" * BLOCK),
        (before, 5 * BLOCK, BLOCK, b"X" * BLOCK)]
    restore = next(data for kind, *_, data in found if kind == 6)
    assert struct.unpack_from("<QII", restore) == (6, 0, 0) and struct.unpack_from("<QQ", restore, 24) == (0, 0)
    assert next(start for kind, _, start, _, _ in found if kind == 9) == 10 * 512


def test_the_state_of_the_disk_by_the_document():
    raw = (GOLDEN / "v2/disk.state").read_bytes()
    copies = []
    for at in (0, 4096):
        magic, version, crc, uuid, generation, applied, _changed, zero = struct.unpack_from("<8sII16sQQQQ", raw, at)
        assert (magic, version, zero) == (b"CDPDSK1\0", 1, 0) and crc == zeroed_crc(raw[at:at + 64], 12)
        assert uuid.hex() == json.loads((GOLDEN / "v2/volume.json").read_text())["volume"]["uuid"]
        copies.append((generation, applied))
    assert max(copies)[1] == len(KINDS)
    outer = json.loads((GOLDEN / "v2/disk.json").read_text())
    assert int(outer["crc32c"], 16) == crc32c(json.dumps(outer["disk"], sort_keys=True).encode())
    assert outer["disk"]["clean"] is True and outer["disk"]["size_bytes"] == len(NOW)
    assert (GOLDEN / "v2/disk.img").read_bytes() == NOW


def test_engine_reads_golden_before_images(protected: Path):
    """A copy of the disk is another file, so the catalog is rebuilt, and the disk accepted as what it was."""
    report = rebuild.rebuild(protected)
    assert [(p.where, "changed outside" in p.what) for p in report.problems] == [
        (str(protected / "log"), True)] and report.records == len(KINDS)
    with adopt.adopt(protected, keep_history=True) as v:
        assert v.pread(len(NOW), 0) == NOW
        assert [int(r["kind"]) for r in v.records()] == KINDS
        assert [b.name for b in v.bookmarks()] == ["kept"] and [r.target.seq for r in v.restores()] == [6]
        wanted = DISK
        for seq, block, letter in [(0, 0, b"a"), (1, 1, b"W"), (2, 2, b"\0"), (3, 3, b"\0"), (4, 9, b"Y"), (5, 4, b"e"),
                                   (9, 5, b"X"), (10, 5, b"f"), (18, 5, b"f")]:
            wanted = wanted[:block * BLOCK] + letter * BLOCK + wanted[(block + 1) * BLOCK:]
            with v.at(f"#{seq}") as image:
                assert image.pread(len(NOW), 0) == wanted, seq
    assert check.check(protected).ok
    assert (protected.parent / "disk.img").read_bytes() == NOW


def test_kinds_and_flags_are_those_of_the_engine():
    text = FORMAT_H.read_text()
    kinds = {name: int(number) for name, number in re.findall(r"\bCDP_KIND_(\w+) = (\d+),", text)}
    assert kinds == {name.upper(): number for number, name in records.KIND_NAMES.items()} and len(kinds) >= 9
    assert all(getattr(records, name) == number for name, number in kinds.items())
    flags = {name: int(number) for name, number in re.findall(r"\bCDP_REC_(\w+) = (\d+),", text)}
    assert {name: flags[name] for name in ("MORE", "FUA", "META")} == \
        {"MORE": records.MORE, "FUA": records.FUA, "META": records.META}
    changes = re.search(r"cdp_kind_changes\(uint16_t kind\)\s*\{\s*return (.*?);\s*\}", text)
    assert changes
    rule = re.sub(r"CDP_KIND_(\w+)", lambda m: str(kinds[m[1]]), changes[1]).replace("||", "or")
    for kind in kinds.values():
        assert bool(records.keeps_data(kind)) == eval(rule, {"kind": kind})
