"""What the writer of an archive sees of a volume that frees segments meanwhile."""
from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.changing import SMALL, change, made

from cdp.archive import source as sources
from cdp.archive.source import Gone, VolumeSource
from cdp.service.local import VolumeService
from cdp.volume.volume import Volume


def test_a_segment_that_was_freed_since_it_was_listed(tmp_path: Path):
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        change(volume, random.Random(1), 150)
        source = VolumeSource(VolumeService(volume), volume.path)
        first, *_, last = source.look(0)
        volume.free_before(volume.window().newest.seq, undo=False)
        while volume.freeing() is not None:
            volume._store.step()
        source.check(last)
        with pytest.raises(Gone):
            source.check(first)
        with pytest.raises(Gone):
            source.read(first, 0, 512)


def test_an_open_segment_that_is_gone_when_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    numbers = sources.segment_numbers
    monkeypatch.setattr(sources, "segment_numbers", lambda *where: [*numbers(*where), 9999])
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        volume.pwrite(b"x" * 4096, 0)
        volume.flush()
        seq = volume.window().newest.seq
        assert VolumeSource(VolumeService(volume), volume.path, tail=True).look(0)[-1].last_seq == seq
