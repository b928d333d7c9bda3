"""Recovery of a copy of the log that has more segments behind the catalog than an index has room for runs."""
from __future__ import annotations

import random
import shutil
from pathlib import Path

from support.changing import SIZE, SMALL, content, made

from cdp.check.check import check
from cdp.volume.volume import Volume


def test_any_number_of_segments_is_recovered(tmp_path: Path):
    path, rnd = made(tmp_path, "after"), random.Random(1)
    shutil.copytree(path, tmp_path / "copy")
    with Volume(path, _tuning=SMALL) as volume:
        while len(volume._store.timeline.rows()) < 90:
            volume.pwrite(rnd.randbytes(4096), rnd.randrange(SIZE // 4096) * 4096)
        newest = volume.window().newest.seq
        shown = {seq: content(volume, seq) for seq in (1, newest // 2, newest)}
    for segment in Path(path, "log").glob("*.log"):
        shutil.copy(segment, tmp_path / "copy" / "log")
    with Volume(tmp_path / "copy", _tuning=SMALL) as copy:
        assert copy.stats()["segments"] >= 90 and copy.stats()["runs"] <= 64
        assert {seq: content(copy, seq) for seq in shown} == shown
    assert check(tmp_path / "copy").ok
