"""docs/format.md against real bytes, version 6: records of what others did to a protected disk, and the table of its
checksums. Golden files are read by a parser written from the document alone, and by the engine."""
import json
import shutil
import struct
from pathlib import Path

import pytest

from cdp.check import check, rebuild
from cdp.volume import adopt
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Corruption

pytestmark = pytest.mark.plain

GOLDEN = Path(__file__).parent.parent / "golden/v6"
BLOCK = 4096
# The disk had eight blocks of 4 KiB, each of one letter from a to h, and a hole of eight. Written were block 1 (W), a
# flush, block 2 (X), a flush, a bookmark "mark". Then others changed blocks 1 (to 1) and 4 to 6 (45... from byte 100 of
# block 4 on), and made it longer by 8704 bytes (n). It was adopted, block 4 written (Y), a flush.
OLD_END, END = 16 * BLOCK, 16 * BLOCK + 8704
KINDS = [1, 4, 1, 4, 5, 4, 10, 10, 10, 1, 4]


def zeroed_crc(block: bytes, at: int) -> int:
    return crc32c(block[:at] + bytes(4) + block[at + 4:])


def test_foreign_records_by_the_document() -> None:
    outer = json.loads((GOLDEN / "volume.json").read_text())
    geometry = outer["volume"]
    assert int(outer["crc32c"], 16) == crc32c(json.dumps(geometry, sort_keys=True).encode())
    assert (geometry["base"], geometry["format"], geometry["size_bytes"]) == ("disk", 6, END)
    found = []
    for path in sorted((GOLDEN / "log").iterdir()):
        raw = path.read_bytes()
        at, end = 4096, struct.unpack_from("<Q", raw, len(raw) - 4096 + 48)[0]
        while at < end:
            n_desc, data_bytes, tail_bytes = struct.unpack_from("<III", raw, at + 44)
            for i in range(n_desc):
                _, start, sectors, sector, crc, kind, flags, n = struct.unpack_from("<QQQIIHHI", raw, at + 64 + 40 * i)
                found.append((kind, flags, start * 512, sectors * 512, n, crc, sector))
            at += 4096 + data_bytes + tail_bytes
    assert [kind for kind, *_ in found] == KINDS
    before, hole = 4, 8
    assert [row[1:] for row in found if row[0] == 10] == [
        (before, BLOCK, BLOCK, 0, 0, 0), (before, 4 * BLOCK, 3 * BLOCK, 0, 0, 0),
        (before | hole, OLD_END, END - OLD_END, 0, 0, 0)]


def test_the_table_of_checksums_by_the_document() -> None:
    raw, disk = (GOLDEN / "disk.sums").read_bytes(), (GOLDEN / "disk.img").read_bytes()
    magic, version, crc, uuid, segment, zero, salt, n_blocks, seq, known = struct.unpack_from("<8sII16sIIQQQQ", raw)
    assert (magic, version, segment, zero) == (b"CDPSUM1\0", 1, 0, 0) and crc == zeroed_crc(raw[:BLOCK], 12)
    assert uuid.hex() == json.loads((GOLDEN / "volume.json").read_text())["volume"]["uuid"]
    assert salt == struct.unpack("<Q", uuid[:8])[0]
    assert (n_blocks, seq, known) == (19, len(KINDS), 19) and len(disk) == END
    page = raw[BLOCK:2 * BLOCK]
    blocks = [disk[at:at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, END, BLOCK)]
    assert list(struct.unpack_from("<19I", page)) == [crc32c(block) for block in blocks]
    assert not any(page[4 * 19:4 * 1023])
    assert struct.unpack_from("<I", page, 4 * 1023)[0] == crc32c(page[:4 * 1023], crc32c(struct.pack("<QQ", salt, 0)))
    assert len(raw) == 2 * BLOCK


def test_engine_reads_it(tmp_path: Path) -> None:
    """Beside its disk, as somebody would move both: volume.json names the new place, the catalog is rebuilt."""
    path, disk = tmp_path / "golden", tmp_path / "disk.img"
    shutil.copytree(GOLDEN, path)
    shutil.move(path / "disk.img", disk)
    (path / "images").mkdir()
    (path / "lock").touch()
    inner = {**json.loads((path / "volume.json").read_text())["volume"], "disk": str(disk)}
    text = json.dumps(inner, sort_keys=True)
    (path / "volume.json").write_text(f'{{"crc32c": "{crc32c(text.encode()):08x}", "volume": {text}}}\n')
    report = rebuild.rebuild(path)
    assert [(p.where, "changed outside" in p.what) for p in report.problems] == [(str(path / "log"), True)]
    now = disk.read_bytes()
    with adopt.adopt(path, keep_history=True) as v:
        assert [int(r["kind"]) for r in v.records()] == KINDS       # nothing differs: none was added
        assert v.pread(END, 0) == now and [b.name for b in v.bookmarks()] == ["mark"]
        letters = {0: b"abcd???h", 2: b"a?cd???h", 4: b"a?Xd???h", 6: b"a?Xd???h", 7: b"a1Xd???h", 9: b"a1Xd445h"}
        for seq, wanted in letters.items():
            with v.at(f"#{seq}") as image:
                for block, letter in enumerate(wanted):
                    if letter == ord("?"):
                        with pytest.raises(Corruption, match="not known at the moments"):
                            image.pread(512, block * BLOCK)
                    elif seq < 9 or block not in (4, 5, 6):
                        assert image.pread(BLOCK, block * BLOCK) == bytes([letter]) * BLOCK, (seq, block)
                assert image.pread(END - OLD_END, OLD_END) == (b"n" if seq == 9 else b"\0") * (END - OLD_END)
        with v.at("#9") as image:
            assert image.pread(BLOCK, 4 * BLOCK) == b"e" * 100 + (b"45" * BLOCK)[:BLOCK - 100]
        text = "bytes 4096 to 8191 are not known at the moments #1 to #6: others changed the disk outside cdp before #7"
        with v.at("#3") as image, pytest.raises(Corruption, match=text):
            image.pread(BLOCK, BLOCK)
    assert check.check(path).ok and disk.read_bytes() == now
