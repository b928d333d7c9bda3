"""docs/format.md against real bytes, version 7: a history of whose middle moments were given up. The golden files are
read by a parser written from the document alone, and by the engine."""
import json
import shutil
import struct
from pathlib import Path

import pytest

import cdp
from cdp.check import check, rebuild
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Corruption, RefusedPoint

pytestmark = pytest.mark.plain

GOLDEN = Path(__file__).parent.parent / "golden/v7"
BLOCK = 4096
# Block 0 was written ten times but once (#5, x into block 1), from a to i; a flush (#11), a bookmark of #3 and a flush;
# block 2 was written (z), a flush. Then only these moments were kept.
KEPT = [0, 3, 8, 15]
SHOWN = {0: b"\0\0\0", 3: b"c\0\0", 8: b"gx\0", 15: b"ixz"}
GONE = b"abdefh"


def with_list(path: Path, inner: dict[str, object]) -> None:
    text = json.dumps(inner, sort_keys=True)
    (path / "thinned.json").write_text(f'{{"crc32c": "{crc32c(text.encode()):08x}", "format": 1, "thinned": {text}}}\n')


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "golden"
    shutil.copytree(GOLDEN, path)
    (path / "images").mkdir()
    (path / "lock").touch()
    report = rebuild.rebuild(path)
    assert report.ok and report.records == 15, report.problems
    return path


def test_the_list_by_the_document() -> None:
    outer = json.loads((GOLDEN / "volume.json").read_text())
    assert outer["volume"]["format"] == 7 and "start_seq" not in outer["volume"]
    outer = json.loads((GOLDEN / "thinned.json").read_text())
    assert int(outer["crc32c"], 16) == crc32c(json.dumps(outer["thinned"], sort_keys=True).encode())
    assert (outer["format"], outer["thinned"]) == (1, {"kept": KEPT, "todo": []})


def test_what_no_moment_shows_is_gone_and_all_else_is_there() -> None:
    found = []
    for path in sorted((GOLDEN / "log").iterdir()):
        raw = path.read_bytes()
        at, end = 4096, struct.unpack_from("<Q", raw, len(raw) - 4096 + 48)[0]
        assert struct.unpack_from("<Q", raw, len(raw) - 4096 + 72)[0]      # with a table of checksums
        while at < end:
            n_desc, data_bytes, tail_bytes = struct.unpack_from("<III", raw, at + 44)
            for i in range(n_desc):
                _, _, _, sector, crc, kind, _, n = struct.unpack_from("<QQQIIHHI", raw, at + 64 + 40 * i)
                if kind == 1:
                    data = raw[sector * 512:sector * 512 + n]
                    assert data == bytes([data[0]]) * BLOCK and (crc == crc32c(data)) == bool(data[0])
                    found.append(data[:1])
            at += 4096 + data_bytes + tail_bytes
    assert b"".join(found) == b"\0\0c\0x\0\0g\0iz" and len(GONE) == 6


def test_engine_reads_it(volume: Path) -> None:
    with cdp.open(volume) as v:
        window = v.window()
        assert window.thinned is not None and window.thinned.points == 4
        assert (window.thinned.first.seq, window.thinned.last.seq) == (0, 15)
        for seq in range(16):
            kept = max(k for k in KEPT if k <= seq)
            with v.at(seq) as image:
                assert image.moment.seq == kept
                assert [image.pread(1, i * BLOCK) for i in range(3)] == [SHOWN[kept][i:i + 1] for i in range(3)]
        found = v.explain("#6")
        assert (found.resolved.seq, found.next and found.next.seq, found.not_kept and found.not_kept.seq) == (3, 8, 6)
        with pytest.raises(RefusedPoint, match=r"#6 was thinned; nearest kept: #3 \(.*\) or #8"):
            v.at("#6!")
        assert v.at("#8!").moment.seq == 8
        assert [b.at.seq for b in v.bookmarks()] == [3] and len(v.records()) == 15
        assert len(v.records(since="#6")) == 9      # records are not thinned
        v.pwrite(b"n" * BLOCK, 0)
        assert v.explain("now").resolved.seq == 16
    assert check.check(volume).ok


@pytest.mark.parametrize("what", ["missing", "cut", "changed", "descending", "unknown field"])
def test_without_a_sound_list_nothing_is_opened(volume: Path, what: str) -> None:
    path = volume / "thinned.json"
    text = path.read_text()
    if what == "missing":
        path.unlink()
    elif what == "descending":
        with_list(volume, {"kept": [0, 8, 3, 15], "todo": []})
    elif what == "unknown field":
        with_list(volume, {"kept": ["0"], "todo": []})
    else:
        path.write_text(text[:-9] if what == "cut" else text.replace("[0, 3", "[0, 4"))
    for open_ in (cdp.open, rebuild.rebuild):
        with pytest.raises(Corruption, match=r"thinned\.json: .*which moments can be opened is not known"):
            open_(volume)
    report = check.check(volume)
    assert not report.ok and "thinned.json" in report.problems[0].where


def test_a_list_that_was_interrupted_before_it_counted(tmp_path: Path) -> None:
    path = tmp_path / "web"
    with cdp.create(path, size=1 << 16) as v:
        for i in range(5):
            v.pwrite(bytes([i + 1]) * BLOCK, 0)
    with_list(path, {"kept": [0, 5], "todo": [[0, 5]]})
    with cdp.open(path) as v, v.at("#3!") as image:
        assert image.pread(1, 0) == b"\x03" and v.window().thinned is None


def test_damage_of_what_is_kept_is_still_found(volume: Path) -> None:
    """Zeros where a kept moment shows something are an error of a read; garbage anywhere is one of a check."""
    log = volume / "log/0000000001.log"
    raw = bytearray(log.read_bytes())
    at = raw.index(b"g" * BLOCK)
    raw[at:at + BLOCK] = bytes(BLOCK)
    log.write_bytes(raw)
    with cdp.open(volume) as v:
        with v.at("#8") as image, pytest.raises(Corruption):
            image.pread(BLOCK, 0)
        with v.at("#3") as image:
            assert image.pread(1, 0) == b"c"
    raw[at:at + BLOCK] = b"?" * BLOCK
    log.write_bytes(raw)
    assert [p.where for p in check.check(volume).problems] == [str(log)]
