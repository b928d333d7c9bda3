"""An archive shows what the volume showed at every moment, also what the volume has given up since; what cannot
continue it is refused; what is damaged or missing is found."""
from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from support.changing import SIZE, SMALL, change, content, made, openable
from support.object_store import MemoryStore
from support.seeds import Seeds

import cdp
from cdp.archive import manifest as manifests
from cdp.archive import writer as writing
from cdp.archive.reader import Archive, Deleted
from cdp.archive.source import VolumeSource
from cdp.archive.writer import Writer, Written
from cdp.check.check import check
from cdp.service.local import VolumeService
from cdp.volume.volume import Volume
from cdpcore.base.errors import Corruption, InvalidRequest, NotFound, RefusedPoint

KINDS = ["after", "base"]


def archive(volume: Volume, writer: Writer, tail: bool = False) -> Written:
    return writer.up_to_date(VolumeSource(VolumeService(volume), volume.path, tail))


def writes(store: MemoryStore) -> Writer:
    return Writer(store, part_bytes=30_000, commit_bytes=200_000)


def shows(store: MemoryStore, folder: Path, known: dict[int, str], name: str = "copy") -> int:
    """What is in the archive is a volume that is sound, and shows what is known. Returns its newest record."""
    found = Archive(store)
    assert not found.verify().problems
    found.fetch(str(folder / name), cdp.Settings())
    assert check(folder / name).ok
    with Volume(folder / name, _tuning=SMALL) as copy:
        window = copy.window()
        assert window.newest.seq == found.manifest.seq
        for seq, shown in known.items():
            if window.oldest.seq <= seq <= window.newest.seq and \
                    not any(a.seq < seq < b.seq for a, b in copy.window().gaps):
                assert content(copy, seq) == shown, f"#{seq} of #{window.newest.seq}"
        return window.newest.seq


def note(volume: Volume, rnd: random.Random, known: dict[int, str]) -> None:
    for seq in openable(volume, rnd, volume.window().newest.seq):
        known.setdefault(seq, content(volume, seq))


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [False, True], ids=["sealed", "tail"])
def test_the_archive_shows_what_the_volume_showed(kind: str, tail: bool, seeds: Seeds, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch):
    for seed in seeds(1):
        rnd = random.Random(f"{seed} {kind} {tail}")
        monkeypatch.setattr(writing, "PAGE_ITEMS", rnd.choice((2, 4, 512)))
        folder = tmp_path / str(seed)
        folder.mkdir()
        known: dict[int, str] = {}
        store = MemoryStore()
        path = made(folder, kind)
        for _ in range(2):
            with Volume(path, _tuning=SMALL) as volume:
                writer: Writer | None = None
                for _ in range(2):
                    change(volume, rnd, rnd.choice((0, 20, 150)))
                    note(volume, rnd, known)
                    if writer is None or rnd.random() < 0.3:
                        writer = Writer(store, part_bytes=rnd.choice((5_000, 300_000)), commit_bytes=100_000)
                    try:
                        archive(volume, writer, tail)
                    except RefusedPoint:
                        assert volume.window().oldest.seq > 0       # more was given up than it had
                        known.clear()
                        note(volume, rnd, known)
                        store = MemoryStore()
                        writer = Writer(store)
                        archive(volume, writer, tail)
                    newest = Archive(store).manifest.seq
                    assert newest <= volume.window().newest.seq and (tail or newest == volume.window().newest.seq)
        shows(store, folder, known)


def only_writes(volume: Volume, rnd: random.Random, n: int) -> None:
    for _ in range(n):
        volume.pwrite(rnd.randbytes(8192), rnd.randrange(SIZE // 4096 - 1) * 4096)


def free_all_but(volume: Volume, n: int) -> None:
    volume.free_before(volume.window().newest.seq - n, undo=False)
    while volume.freeing() is not None:
        volume._store.step()


def test_history_that_the_volume_gave_up_stays_in_the_archive(tmp_path: Path):
    rnd, known, store = random.Random(1), dict[int, str](), MemoryStore()
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        writer = writes(store)
        for _ in range(4):
            only_writes(volume, rnd, 80)
            note(volume, rnd, known)
            archive(volume, writer)
        free_all_but(volume, 20)
        start = volume.window().oldest.seq
        assert start > 100
        only_writes(volume, rnd, 30)
        archive(volume, writer)
        assert any(seq < start for seq in known)
        assert shows(store, tmp_path, known) == volume.window().newest.seq
    with Volume(tmp_path / "copy", _tuning=SMALL) as copy:
        assert copy.window().oldest.seq == 0


def test_what_comes_back_from_the_archive_goes_on_in_it(tmp_path: Path):
    store = MemoryStore()
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        change(volume, random.Random(1), 50)
        archive(volume, writes(store))
        change(volume, random.Random(2), 50)        # lost with the machine
    known: dict[int, str] = {}
    at = shows(store, tmp_path, known)
    with Volume(tmp_path / "copy", _tuning=SMALL) as copy:
        change(copy, random.Random(3), 70)
        note(copy, random.Random(4), known)
        done = archive(copy, writes(store))
        assert done.changed and not done.first
    assert shows(store, tmp_path, known, "copy2") > at
    with Volume(tmp_path / "v", _tuning=SMALL) as volume, pytest.raises(RefusedPoint, match="went on elsewhere"):
        archive(volume, writes(store))


def test_an_idle_volume_makes_no_requests_but_reads(tmp_path: Path):
    store = MemoryStore()
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        change(volume, random.Random(1), 50)
        writer = writes(store)
        assert archive(volume, writer).first
        for one, reads in ((writer, {}), (writes(store), {"list": 1, "get": 1})):
            store.requests.clear()
            done = archive(volume, one)
            assert not done.changed and not done.objects and store.requests == reads
        volume.bookmark("new")
        assert archive(volume, writer).changed


def test_a_gap_is_refused_and_the_archive_stays(tmp_path: Path):
    store = MemoryStore()
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        only_writes(volume, random.Random(1), 50)
        archive(volume, writes(store))
        only_writes(volume, random.Random(2), 300)
        free_all_but(volume, 20)
        before = Archive(store).manifest
        with pytest.raises(RefusedPoint, match="given up"):
            archive(volume, writes(store))
    assert Archive(store).manifest == before
    shows(store, tmp_path, {})


def test_the_archive_of_another_volume_is_refused(tmp_path: Path):
    store = MemoryStore()
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        archive(volume, writes(store))
    (tmp_path / "other").mkdir()
    with Volume(made(tmp_path / "other", "after"), _tuning=SMALL) as volume, \
            pytest.raises(InvalidRequest, match="another volume"):
        archive(volume, writes(store))


def test_an_import_into_an_archived_volume_without_records_is_archived(tmp_path: Path):
    store = MemoryStore()
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        archive(volume, writes(store))
        assert Archive(store).manifest.complete

        def read(at: int, view: memoryview) -> None:
            view[:] = b"\x55" * len(view)
        volume.import_base(read, [(0, SIZE)])
        archive(volume, writes(store))
        shows(store, tmp_path, {0: content(volume, 0)})


class Broken(Exception):
    """The writer's process is killed."""


class Breaking(MemoryStore):
    """A store whose user dies at a request."""

    left = 0

    def create(self, name: str, data: bytes) -> None:
        self.left -= 1
        if self.left < 0:
            raise Broken
        super().create(name, data)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_broken_off_is_continued(kind: str, tmp_path: Path):
    rnd, known, store = random.Random(3), dict[int, str](), Breaking()
    with Volume(made(tmp_path, kind), _tuning=SMALL) as volume:
        change(volume, rnd, 150, destroy=False)
        note(volume, rnd, known)
        breaks = 0
        for left in range(3, 100, 4):
            store.left = left
            with suppress(Broken):
                archive(volume, writes(store))
                break
            breaks += 1
            found = Archive(store)
            assert not found.verify().problems
            if not found.manifest.complete:
                with pytest.raises(InvalidRequest, match="interrupted"):
                    found.fetch(str(tmp_path / "early"), cdp.Settings())
        assert breaks > 2
    shows(store, tmp_path, known)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("same_writer", [False, True])
def test_a_first_archive_whose_volume_gives_up_history_begins_anew(kind: str, same_writer: bool, tmp_path: Path):
    """... where it gave up what would come next, between two attempts or while it is sent."""
    rnd, known, store = random.Random(3), dict[int, str](), Breaking()
    with Volume(made(tmp_path, kind), _tuning=SMALL) as volume:
        only_writes(volume, rnd, 200)
        writer = writes(store)
        store.left = 40
        with pytest.raises(Broken):
            archive(volume, writer)
        found = Archive(store).manifest
        assert 0 < found.seq < 150 and not found.complete
        only_writes(volume, rnd, 100)
        free_all_but(volume, 40)
        assert volume.window().oldest.seq > found.seq + 1
        note(volume, rnd, known)
        store.left = 1000
        assert archive(volume, writer if same_writer else writes(store)).first
        assert shows(store, tmp_path, known) == volume.window().newest.seq
        assert not archive(volume, writes(store)).changed


@pytest.fixture(scope="module")
def three_kinds(tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    """An archive with objects of every kind."""
    folder, store = tmp_path_factory.mktemp("volume"), MemoryStore()
    with pytest.MonkeyPatch.context() as patch, Volume(made(folder, "base"), _tuning=SMALL) as volume:
        patch.setattr(writing, "PAGE_ITEMS", 2)
        change(volume, random.Random(1), 300, destroy=False)
        archive(volume, writes(store))
    assert {name.partition("/")[0] for name in store.objects} == {"man", "seg", "outline", "base",
                                                                              "page"}
    return store


@pytest.mark.parametrize("folder", ["seg", "outline", "base", "page"])
@pytest.mark.parametrize("what", ["flip", "cut", "lose"])
def test_what_is_damaged_is_found(folder: str, what: str, three_kinds: MemoryStore, tmp_path: Path):
    store = MemoryStore()
    store.objects = dict(three_kinds.objects)
    name = next(name for name in store.objects if name.startswith(folder))
    data = store.objects[name]
    if what == "lose":
        del store.objects[name]
    else:
        store.objects[name] = data[:-1] if what == "cut" else data[:50] + bytes([data[50] ^ 1]) + data[51:]
    assert [problem.where for problem in Archive(store).verify().problems] == [name]
    if folder == "outline":     # which a copy of all of it does not need
        Archive(store).fetch(str(tmp_path / "copy"), cdp.Settings())
        return
    with pytest.raises(Deleted if what == "lose" else Corruption, match="missing" if what == "lose" else "damaged"):
        Archive(store).fetch(str(tmp_path / "copy"), cdp.Settings())


def test_a_damaged_manifest_is_refused(three_kinds: MemoryStore):
    store = MemoryStore()
    store.objects = dict(three_kinds.objects)
    newest = max(name for name in store.objects if name.startswith("man"))
    store.objects[newest] = store.objects[newest].replace(b'"complete":true', b'"complete":false')
    with pytest.raises(Corruption, match="damaged"):
        Archive(store)


def test_no_archive_is_there():
    with pytest.raises(NotFound, match="no archive"):
        Archive(MemoryStore())


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"manifest": {}, "sha256": ""}', b"\xff\xfe",
                                  b"[" * 100_000, b'{"manifest": 1, "sha256": "1"}'])
def test_what_is_no_manifest_is_refused(text: bytes):
    with pytest.raises(Corruption):
        manifests.decode(text, "here", 1)
