"""An archive that gives up its oldest history shows all that is left as before, goes on, and keeps no object that
nothing names; whatever stops it in the midst."""
from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from support.changing import KINDS as ALL_KINDS
from support.changing import SIZE, SMALL, change, content, made, openable
from support.object_store import MemoryStore
from support.seeds import Seeds

import cdp
from cdp.archive import deletion, retention
from cdp.archive import writer as writing
from cdp.archive.commits import Fenced
from cdp.archive.direct import DirectArchive
from cdp.archive.manifest import BasePart, Part
from cdp.archive.reader import Archive
from cdp.archive.source import VolumeSource
from cdp.archive.writer import Writer
from cdp.check.check import check
from cdp.moments.policy import BookmarkRule, Policy, Tier
from cdp.service.local import VolumeService
from cdp.volume.volume import Volume
from cdpcore.base.errors import InvalidRequest, RefusedPoint, Unavailable

KINDS = [kind for kind in ALL_KINDS if kind != "before"]
PART = 32_768
NOTHING = Policy((Tier(0, 1),), floor_ns=0, undo_ns=0)      # of what is older than a nanosecond


def new_writer(store: MemoryStore) -> Writer:
    return Writer(store, part_bytes=PART, commit_bytes=200_000)


def archived(volume: Volume, writer: Writer, tail: bool = False) -> VolumeSource:
    source = VolumeSource(VolumeService(volume), volume.path, tail)
    writer.up_to_date(source)
    return source


def give_up(writer: Writer, source: VolumeSource, policy: Policy = NOTHING) -> int:
    with retention.cut_of(writer.store, cdp.Settings(), policy, PART, source.oldest()) as cut:
        return writer.give_up(cut, source) if cut is not None else 0


def data_objects(store: MemoryStore) -> set[str]:
    return {name for name in store.objects if name.startswith(deletion.DATA)}


def shows(store: MemoryStore, folder: Path, known: dict[int, str]) -> int:
    """Both ways back show what is known and left, and nothing else; the record that it begins with."""
    found = Archive(store)
    assert not found.verify().problems
    start = int(found.manifest.volume.get("start_seq", 0))
    found.fetch(str(folder / "copy"), cdp.Settings())
    assert check(folder / "copy").ok
    direct = DirectArchive(store, str(folder / "direct"), cdp.Settings())
    for path, read_only in ((folder / "copy", False), (Path(direct.root), True)):
        with Volume(path, _tuning=SMALL, read_only=read_only) as copy:
            assert copy.window().oldest.seq == start and copy.window().newest.seq == found.manifest.seq
            for seq, shown in known.items():
                if seq >= start and not any(a.seq < seq < b.seq for a, b in copy.window().gaps):
                    assert content(copy, seq) == shown, f"#{seq} of #{start} to #{found.manifest.seq}"
                elif seq < start:
                    with pytest.raises(RefusedPoint):
                        content(copy, seq)
    direct.close()
    return start


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [False, True], ids=["sealed", "tail"])
def test_what_is_left_is_shown_as_before(kind: str, tail: bool, seeds: Seeds, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch):
    for seed in seeds(1):
        rnd = random.Random(f"{seed} {kind} {tail} retention")
        monkeypatch.setattr(writing, "PAGE_ITEMS", rnd.choice((2, 512)))
        folder, store, known, starts = tmp_path / str(seed), MemoryStore(), dict[int, str](), list[int]()
        folder.mkdir()
        with Volume(made(folder, kind), _tuning=SMALL) as volume:
            writer = new_writer(store)
            for turn in range(4):
                change(volume, rnd, rnd.choice((60, 150)))
                try:
                    source = archived(volume, writer, tail)
                except RefusedPoint:        # the volume gave up more than the archive had
                    store, starts = MemoryStore(), []
                    writer = new_writer(store)
                    source = archived(volume, writer, tail)
                upto = Archive(store).manifest.seq
                known |= {seq: content(volume, seq) for seq in openable(volume, rnd, upto)}
                if rnd.random() < 0.7 and give_up(writer, source):
                    # What a writer leaves where it gives nothing up goes under a later epoch.
                    assert data_objects(store) == deletion._names(store, Archive(store).manifest)
                (folder / str(turn)).mkdir()
                starts.append(shows(store, folder / str(turn), known))
            assert starts == sorted(starts)


def filled(folder: Path, mark: int = 0) -> tuple[MemoryStore, Volume, Writer, VolumeSource, dict[int, str]]:
    """An archive, its volume, which has given up most; and what that showed."""
    store, rnd = MemoryStore(), random.Random(5)
    volume = Volume(made(folder, "base"), _tuning=SMALL)
    writer = new_writer(store)
    for _ in range(200):
        volume.pwrite(rnd.randbytes(8192), rnd.randrange(SIZE // 4096 - 1) * 4096)
    if mark:
        volume.bookmark("release-1", at=f"#{mark}")
    source = archived(volume, writer)
    newest = volume.window().newest.seq
    known = {seq: content(volume, seq) for seq in range(1, newest, 11)}
    free(volume, newest)
    return store, volume, writer, source, known


def free(volume: Volume, seq: int) -> None:
    """The volume has no more than it must."""
    volume.free_before(seq, undo=False)
    while volume.freeing() is not None:
        volume._store.step()


def test_the_log_that_is_given_up_is_deleted(tmp_path: Path):
    store, volume, writer, source, known = filled(tmp_path)
    with volume:
        before = sum(map(len, (store.objects[name] for name in data_objects(store))))
        epoch = Archive(store).manifest.epoch
        gone = give_up(writer, source)
        after = sum(map(len, (store.objects[name] for name in data_objects(store))))
        assert gone > before // 2 and after < before - gone + SIZE + PART
        assert Archive(store).manifest.epoch == epoch + 1
        assert len([name for name in store.objects if name.startswith("man/")]) == 1
        assert not give_up(writer, source)      # nothing more
        assert shows(store, tmp_path, known) > 100
        volume.pwrite(b"later" + bytes(507), 0)
        assert writer.up_to_date(source).changed


def test_an_archive_never_has_less_than_the_volume(tmp_path: Path):
    """... which may be restored to what it has."""
    store, volume, writer, source, known = filled(tmp_path)
    with volume:
        oldest = volume.window().oldest.seq
        give_up(writer, source)
        start = Archive(store).manifest.volume["start_seq"]
        assert 0 < start <= oldest
        volume.restore(oldest)
        archived(volume, writer)
        known[volume.window().newest.seq] = content(volume, volume.window().newest.seq)
        shows(store, tmp_path, known)


def test_a_bookmark_holds_what_it_needs(tmp_path: Path):
    store, volume, writer, source, _ = filled(tmp_path, mark=60)
    with volume:
        give_up(writer, source, Policy((Tier(0, 1),), (BookmarkRule("release-*", None),), 0, 0))
        assert 0 < Archive(store).manifest.volume["start_seq"] <= 60


def test_a_cut_of_what_has_gone_on_since_is_refused(tmp_path: Path):
    store, volume, writer, source, known = filled(tmp_path)
    with volume, retention.cut_of(store, cdp.Settings(), NOTHING, PART, source.oldest()) as cut:
        assert cut is not None
        volume.pwrite(b"later" + bytes(507), 0)
        archived(volume, writer)
        assert writer.give_up(cut, source) == 0
        assert shows(store, tmp_path, known) == 0


class Broken(Exception):
    """The writer's process is killed."""


class Breaking(MemoryStore):
    """A store whose user dies at a request."""

    left = 1 << 30

    def _count(self, what: str, data: bytes = b"") -> None:
        super()._count(what, data)
        self.left -= 1
        if self.left < 0:
            raise Broken


def test_what_was_broken_off_is_harmless(tmp_path: Path):
    """... at any request; the next writer clears what is left."""
    whole, volume, _, _, known = filled(tmp_path)
    starts = set[int]()
    with volume:
        for left in (*range(12, 60, 9), *range(60, 400, 61)):
            store = Breaking()
            store.objects, store._versions = dict(whole.objects), dict(whole._versions)
            writer = new_writer(store)
            source = archived(volume, writer)
            store.left = left
            with suppress(Broken, Unavailable):     # the engine knows only that a read failed
                give_up(writer, source)
            store.left = 1 << 30
            (tmp_path / str(left)).mkdir()
            starts.add(shows(store, tmp_path / str(left), known))
            writer = new_writer(store)
            writer._take_over(source)
            deletion.delete_unnamed(store, writer._commits)     # type: ignore[arg-type]
            assert data_objects(store) == deletion._names(store, Archive(store).manifest)
    assert len(starts) == 2


def test_who_lost_the_archive_gives_up_nothing(tmp_path: Path):
    store, volume, writer, source, known = filled(tmp_path)
    with volume, retention.cut_of(store, cdp.Settings(), NOTHING, PART, source.oldest()) as cut:
        assert cut is not None
        other = new_writer(store)
        other._take_over(source)
        with pytest.raises(Fenced):
            writer.give_up(cut, source)
        shows(store, tmp_path, known)


def test_rules_that_an_archive_has_not():
    assert retention.parsed(("all for 90d", "bookmarks 'r-*' forever")).rules[0] == "all for 90d"
    for rules in (("all for 1d", "1h for 9d"), ("1h for 9d",), ("what",)):
        with pytest.raises(InvalidRequest):
            retention.parsed(rules)


def test_parts_that_are_covered_are_dropped():
    def part(offset: int, size: int) -> BasePart:
        return BasePart(offset, Part(f"base/{offset}-{size}", size))
    odd, first, last, new = part(50, 100), part(0, 100), part(200, 30), part(100, 100)
    assert retention.laid_over([odd, first, last, new], 230, 100) == [first, last, new]
    assert retention.laid_over([odd, last, new], 230, 100) == [odd, last, new]
    assert retention.laid_over([last, part(200, 30)], 230, 100) == [part(200, 30)]
