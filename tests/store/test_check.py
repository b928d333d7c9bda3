"""check finds what is wrong; rebuild makes catalog and runs anew from the log, and nothing of the history is lost."""
import hashlib
import random
import shutil
import time
from pathlib import Path

import pytest

import cdp
from cdp.check import check, rebuild
from cdp.settings import Settings
from cdp.store.catalog import LmdbCatalog
from cdpcore.nbd.connection import RELEASES_PAGES

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

SMALL = Settings(segment_bytes=16 << 20, pool_bytes=16 << 20)
SIZE = 16 << 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A volume of several segments and runs, with a bookmark, a restore and an image; and digests of its moments."""
    path = tmp_path_factory.mktemp("made") / "v"
    rng = random.Random(7)
    with cdp.create(path, size=SIZE, settings=SMALL) as v:
        for i in range(2400):
            n = rng.choice([512, 4096, 16384, 131072])
            v.pwrite(rng.randbytes(n), rng.randrange(0, (SIZE - n) // 512) * 512)
            if i == 1000:
                v.bookmark("mid")
            if i == 1800:
                v.restore("mid")
        v.create_image("copy", "mid")
        points = ["#0", "mid", "#1500", "#2000", "now"]
        digests = {p: digest(v, p) for p in points}
    return path, digests


@pytest.fixture
def filled(made, tmp_path: Path):
    """A copy of it."""
    path, digests = made
    return shutil.copytree(path, tmp_path / "v"), digests


def digest(v: cdp.Volume, point: str) -> str:
    with v.at(point) as image:
        return hashlib.sha256(image.pread(SIZE, 0)).hexdigest()


def test_sound_volume_has_no_problems(filled):
    path, _ = filled
    report = check.check(path)
    assert report.ok and report.problems == [] and report.segments > 4 and report.runs > 0 and report.records > 2400
    with cdp.open(path, settings=SMALL) as v:
        assert check.check_open(v).ok


@pytest.mark.parametrize("lost", ["catalog.lmdb", "runs", "both"])
def test_rebuild_from_the_log_alone(filled, lost):
    path, digests = filled
    if lost in ("catalog.lmdb", "both"):
        shutil.rmtree(path / "catalog.lmdb")
        with pytest.raises(cdp.Corruption, match="--rebuild"):
            cdp.open(path, settings=SMALL)
    if lost in ("runs", "both"):
        for run in (path / "runs").iterdir():
            run.unlink()
        assert not check.check(path).ok
    assert rebuild.rebuild(path, settings=SMALL).ok
    assert check.check(path).ok
    with cdp.open(path, settings=SMALL) as v:
        assert {p: digest(v, p) for p in digests} == digests
        assert [b.name for b in v.bookmarks()] == ["mid"] and len(v.restores()) == 1 and len(v.images()) == 1


def test_flipped_bits_are_found(filled):
    path, _ = filled
    rng = random.Random(3)
    for victim in [*(path / "log").iterdir(), *(path / "runs").iterdir()]:
        whole = victim.read_bytes()
        at = rng.randrange(len(whole))
        # padding is not covered by a checksum, data and headers are
        while not any(whole[at & ~511:(at & ~511) + 512]):
            at = rng.randrange(len(whole))
        raw = bytearray(whole)
        raw[at] ^= 1 << rng.randrange(8)
        victim.write_bytes(raw)
        report = check.check(path)
        assert not report.ok and any(victim.name in p.where for p in report.problems), (victim, at)
        victim.write_bytes(whole)
    assert check.check(path).ok


def test_missing_segment_is_found_and_not_rebuilt_over(filled):
    path, digests = filled
    middle = sorted((path / "log").iterdir())[1]
    kept = middle.read_bytes()
    middle.unlink()
    assert any("missing" in p.what or "no such" in p.what.lower() or middle.name in p.where
               for p in check.check(path).problems)
    before = sorted(p.name for p in path.rglob("*"))
    with pytest.raises(cdp.Corruption, match="missing"):
        rebuild.rebuild(path, settings=SMALL)
    middle.write_bytes(kept)
    assert [n for n in sorted(p.name for p in path.rglob("*")) if n != middle.name] == before
    with cdp.open(path, settings=SMALL) as v:
        assert digest(v, "now") == digests["now"]


def test_destructive_restore_frees_and_stays_sound(tmp_path):
    path = tmp_path / "v"
    with cdp.create(path, size=64 << 20, settings=SMALL) as v:
        v.pwrite(b"a" * 4096, 0)
        keep = v.resolve("now")
        for i in range(64):
            v.pwrite(bytes([i + 1]) * (1 << 20), i % 60 << 20)
        v.flush()
        before = sum(f.stat().st_blocks for f in (path / "log").iterdir())
        v.restore(keep.seq, destructive=True)
        # The plain build cannot punch holes: only whole segments are freed there, and the last one stays.
        most = before / 2 if RELEASES_PAGES else before * 0.6
        for _ in range(600):        # freed in the background, once the restore's own segment is sealed
            after = sum(f.stat().st_blocks for f in (path / "log").iterdir())
            if after < most:
                break
            time.sleep(0.05)
        assert after < most
        assert v.pread(4096, 0) == b"a" * 4096 and v.pread(4096, 1 << 20) == bytes(4096)
        with pytest.raises(cdp.RefusedPoint, match="freed"):
            v.at(keep.seq + 3)
        with pytest.raises(cdp.RefusedPoint):
            v.undo()
        v.pwrite(b"b" * 4096, 4096)
    assert check.check(path).ok
    assert rebuild.rebuild(path, settings=SMALL).ok
    with cdp.open(path, settings=SMALL) as v:
        assert v.pread(8192, 0) == b"a" * 4096 + b"b" * 4096
        assert v.window().gaps and check.check_open(v).ok


@pytest.mark.parametrize("left", ["filling", "between", "behind"])
def test_what_an_interrupted_rebuild_leaves_is_ended(tmp_path, left):
    """Killed while the new catalog was filled, between the two renames, or before the old one was removed."""
    path = tmp_path / "v"
    with cdp.create(path, size=1 << 20) as volume:
        volume.pwrite(b"1" * 4096, 0)
        volume.bookmark("b")
    catalog, new, old = (path / f"catalog.lmdb{end}" for end in ("", ".new", ".old"))
    if left == "filling":
        new.mkdir()
        (new / "data.mdb").write_bytes(b"half")
    else:
        shutil.copytree(catalog, new)
        catalog.rename(old)
        (old / "data.mdb").write_bytes(b"damaged")
        if left == "behind":
            new.rename(catalog)
    with cdp.open(path) as volume:
        assert volume.pread(4096, 0) == b"1" * 4096 and [b.name for b in volume.bookmarks()] == ["b"]
    assert catalog.exists() and not new.exists() and not old.exists()
    assert check.check(path).ok


def test_an_interrupt_in_a_rebuild_leaves_the_volume_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "v"
    with cdp.create(path, size=1 << 20) as volume:
        volume.pwrite(b"1" * 4096, 0)

    class Interrupted(LmdbCatalog):
        def write(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(rebuild, "LmdbCatalog", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        rebuild.rebuild(path)
    assert not (path / "catalog.lmdb.new").exists()
    with cdp.open(path) as volume:
        assert volume.pread(4096, 0) == b"1" * 4096
    assert check.check(path).ok
