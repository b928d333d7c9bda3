"""A volume that is read where its archive lies shows what the volume showed, fetches only what is read, and never shows
a wrong byte."""
from __future__ import annotations

import hashlib
import json
import random
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.changing import KINDS as ALL_KINDS
from support.changing import SIZE, SMALL, change, content, made, openable
from support.object_store import MemoryStore
from support.seeds import Seeds

import cdp
from cdp.archive import missing
from cdp.archive.direct import DirectArchive
from cdp.archive.manifest import Listing, encode
from cdp.archive.names import manifest_name
from cdp.archive.outline import decoded
from cdp.archive.reader import Archive, Deleted
from cdp.archive.source import VolumeSource
from cdp.archive.writer import Writer
from cdp.moments.model import Moment
from cdp.service.local import VolumeService
from cdp.store import attached
from cdp.volume.volume import Volume
from cdpcore.base.errors import Corruption, RefusedPoint, Unavailable

KINDS = [kind for kind in ALL_KINDS if kind != "before"]


def archived(volume: Volume, store: MemoryStore, tail: bool = False) -> Writer:
    writer = Writer(store, part_bytes=32_768, commit_bytes=200_000)
    writer.up_to_date(VolumeSource(VolumeService(volume), volume.path, tail))
    return writer


@contextmanager
def direct(store: MemoryStore, folder: Path, limit_bytes: int = 1 << 30) -> Iterator[tuple[DirectArchive, Volume]]:
    (folder / "direct").mkdir()
    found = DirectArchive(store, str(folder / "direct" / "web"), cdp.Settings(), limit_bytes=limit_bytes)
    try:
        with Volume(found.root, _tuning=SMALL, read_only=True) as volume:
            yield found, volume
    finally:
        found.close()


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [False, True], ids=["sealed", "tail"])
def test_it_shows_what_the_volume_showed(kind: str, tail: bool, seeds: Seeds, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch):
    for seed in seeds(1):
        rnd = random.Random(f"{seed} {kind} {tail}")
        monkeypatch.setattr("cdp.archive.writer.PAGE_ITEMS", rnd.choice((2, 512)))
        folder, store = tmp_path / str(seed), MemoryStore()
        folder.mkdir()
        with Volume(made(folder, kind), _tuning=SMALL) as volume:
            change(volume, rnd, rnd.choice((0, 300)))
            archived(volume, store)
            change(volume, rnd, 60, destroy=False)
            volume.flush()
            try:
                archived(volume, store, tail)
            except RefusedPoint:        # the volume gave up more than the archive had
                store = MemoryStore()
                archived(volume, store, tail)
            upto = Archive(store).manifest.seq
            known = {seq: content(volume, seq) for seq in openable(volume, rnd, upto)}
            bookmarks = [mark for mark in volume.bookmarks() if mark.made.seq <= upto]
            with direct(store, folder, rnd.choice((1 << 30, 1 << 16))) as (_, copy):
                assert copy.window().newest.seq == upto
                assert gaps(copy, volume, upto) == gaps(volume, volume, upto)
                assert [mark for mark in copy.bookmarks() if mark in bookmarks] == bookmarks
                for seq in sorted(known, key=lambda seq: rnd.random()):
                    assert content(copy, seq) == known[seq] == by_extents(copy, seq), f"#{seq} of #{upto}"
                    assert copy.explain(f"#{seq}").resolved == volume.explain(f"#{seq}").resolved


def gaps(copy: Volume, volume: Volume, upto: int) -> list[tuple[Moment, Moment]]:
    """Where both know: an archive has also what the volume gave up, with its gaps."""
    start = volume.window().oldest.seq
    return [(lo, hi) for lo, hi in copy.window().gaps if start <= lo.seq and hi.seq <= upto]


def by_extents(volume: Volume, seq: int) -> str:
    """As content(), of who believes what is said to be zeros or a hole."""
    with volume.at(seq) as image:
        shown = bytearray(SIZE)
        for extent in image.extents():
            if extent.kind == "data":
                shown[extent.offset:extent.offset + extent.length] = image.pread(extent.length, extent.offset)
        return hashlib.sha256(shown).hexdigest()


class Watched(MemoryStore):
    """Remembers which objects were read. `together`: so many reads have to be under way at once before any ends."""

    def __init__(self, objects: dict[str, bytes]):
        super().__init__()
        self.objects = dict(objects)
        self.read: list[str] = []
        self.together: threading.Barrier | None = None

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | None:
        self.read.append(name)
        if self.together is not None and not name.startswith("man/"):
            self.together.wait(60)
        return super().get(name, offset, length)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryStore, dict[int, str]]:
    """The archive of a volume with a base, whose segments are sealed and not; and what the volume showed."""
    folder, store = tmp_path_factory.mktemp("volume"), MemoryStore()
    with Volume(made(folder, "base"), _tuning=SMALL) as volume:
        rnd = random.Random(7)
        for _ in range(5):
            for _ in range(30):
                volume.pwrite(rnd.randbytes(8192), rnd.randrange(SIZE // 4096 - 1) * 4096)
            volume.bookmark(f"b{rnd.random()}")
            archived(volume, store)
        for _ in range(5):
            volume.pwrite(rnd.randbytes(4096), rnd.randrange(SIZE // 4096) * 4096)
        volume.flush()
        archived(volume, store, tail=True)
        found = Archive(store)
        known = {seq: content(volume, seq) for seq in range(0, found.manifest.seq + 1, 9)}
    segments = list(found.segments())
    assert len(segments) > 4 and not segments[-1].sealed and all(s.sealed for s in segments[:-1])
    return store, known


def test_the_first_byte_takes_two_round_trips(sound: tuple[MemoryStore, dict[int, str]], tmp_path: Path):
    """One for the outlines, which are all asked for at once, and one for the data."""
    store = Watched(sound[0].objects)
    found = Archive(store)
    first = {outline.part.name for outline in found.outlines()}
    first |= {part.name for segment in found.segments() if not segment.sealed for part in segment.parts}
    assert store.requests == {"list": 1, "get": 1} and 4 < len(first) <= 16
    store.read.clear()
    store.together = threading.Barrier(len(first))
    with direct(store, tmp_path) as (_, copy):
        assert {name for name in store.read if not name.startswith("man/")} == first
        store.together = None
        store.read.clear()
        with copy.at(max(sound[1]) // 2) as image:
            (data, *_) = [extent for extent in image.extents() if extent.kind == "data"]
            assert not store.read
            image.pread(512, data.offset)
            assert len(store.read) == 1
        # What is told of the history needs no data at all.
        assert copy.explain("#20").resolved.seq == 20 and len(copy.records()) and copy.bookmarks()
        assert len(store.read) == 1


@pytest.mark.parametrize("folder", ["seg", "outline", "base"])
@pytest.mark.parametrize("what", ["flip", "cut", "lose"])
def test_what_is_damaged_is_never_shown(folder: str, what: str, sound: tuple[MemoryStore, dict[int, str]],
                                        tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store, known = Watched(sound[0].objects), sound[1]
    names = sorted(name for name in store.objects if name.startswith(folder))
    name = names[len(names) // 2 if folder == "seg" else 0]
    data = store.objects[name]
    if what == "lose":
        del store.objects[name]
    else:
        store.objects[name] = data[:-1] if what == "cut" else \
            bytes(byte ^ (at % 4096 == 50) for at, byte in enumerate(data))
    if folder == "outline" and what == "lose":
        with pytest.raises(Deleted, match=name):
            DirectArchive(store, str(tmp_path / "web"), cdp.Settings())
        return
    failed = 0
    with direct(store, tmp_path) as (_, copy):
        for seq, shown in known.items():
            try:
                assert content(copy, seq) == shown
            except (Unavailable, Corruption) as error:
                failed += 1
                assert isinstance(attached.explained(error), (Corruption, Deleted))
                assert name in attached.explained(error).message
    if folder == "outline":
        assert not failed and name in caplog.text       # the segment itself is there
    else:
        assert 0 < failed and name in caplog.text
        assert folder == "base" or failed < len(known)


def test_what_is_kept_is_bounded(sound: tuple[MemoryStore, dict[int, str]], tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch):
    """... and read again where it is wanted again, by several at once too."""
    monkeypatch.setattr(missing, "CHUNK", 4)
    monkeypatch.setattr(missing, "BASE_CHUNK", 4)
    store, known = Watched(sound[0].objects), sound[1]
    with direct(store, tmp_path, limit_bytes=128 << 10) as (found, copy):
        here = allocated(found.root)

        def read(seed: int) -> list[bool]:
            rnd = random.Random(seed)
            return [content(copy, seq) == known[seq] for seq in rnd.choices(list(known), k=6)]
        with ThreadPoolExecutor(4) as pool:
            assert all(all(right) for right in pool.map(read, range(4)))
        assert len(store.read) > len(set(store.read))
        # A thread may have more for a moment: up to 16 chunks are fetched, then room is made.
        assert allocated(found.root) <= here + (128 << 10) + 4 * 16 * 16384


def test_readers_who_want_more_than_is_kept_all_get_it(sound: tuple[MemoryStore, dict[int, str]], tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch):
    """Room is made after each range that is fetched; nobody loses what it waits for to another reader."""
    monkeypatch.setattr(missing, "CHUNK", 1)
    monkeypatch.setattr(missing, "BASE_CHUNK", 1)
    store, known = Watched(sound[0].objects), sound[1]
    with direct(store, tmp_path, limit_bytes=4096) as (_, copy), ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seq: content(copy, seq), list(known)[:8])) == list(known.values())[:8]


def allocated(root: str) -> int:
    return sum(path.stat().st_blocks * 512 for path in (Path(root) / "log").iterdir()) + \
        (Path(root) / "base.img").stat().st_blocks * 512


def test_an_archive_without_outlines_is_read_too(sound: tuple[MemoryStore, dict[int, str]], tmp_path: Path):
    """As they were made before there were any: the segments are fetched."""
    store = Watched(sound[0].objects)
    now = Archive(store).manifest
    text = json.loads(encode(replace(now, number=now.number + 1, outlines=Listing())))["manifest"]
    del text["outlines"]
    compact = json.dumps(text, sort_keys=True, separators=(",", ":"))
    sha = hashlib.sha256(compact.encode()).hexdigest()
    store.objects[manifest_name(now.number + 1)] = f'{{"manifest":{compact},"sha256":"{sha}"}}\n'.encode()
    with direct(store, tmp_path) as (found, copy):
        assert found.archive.manifest.number == now.number + 1
        assert all(content(copy, seq) == shown for seq, shown in sound[1].items())


def test_what_is_read_is_not_written(sound: tuple[MemoryStore, dict[int, str]], tmp_path: Path):
    store = Watched(sound[0].objects)
    with direct(store, tmp_path) as (_, copy):
        with pytest.raises(Unavailable, match="read-only"):
            copy.pwrite(bytes(512), 0)
        with pytest.raises(Unavailable, match="read-only"):
            copy.restore(1)
    assert {"create", "replace", "delete"}.isdisjoint(store.requests)


@pytest.mark.parametrize("text", [b"", b"x", zlib.compress(b"{}\n"), zlib.compress(b"[]"), zlib.compress(b"1\n"),
                                  zlib.compress(b'{"bytes":8192,"ranges":[[0,4096]]}'),
                                  zlib.compress(b'{"bytes":8192,"ranges":[[0,4096]]}\n' + bytes(4000)),
                                  zlib.compress(b'{"bytes":8192,"ranges":[[0,4096]]}\n' + bytes(9000))[:-12],
                                  zlib.compress(b'{"bytes":8192,"ranges":[[0,12288]]}\n' + bytes(12288)),
                                  zlib.compress(b'{"bytes":8192,"ranges":[[0,4096],[0,4096]]}\n' + bytes(8192)),
                                  zlib.compress(b'{"bytes":8192,"ranges":[[1,4096]]}\n' + bytes(4096)),
                                  zlib.compress(b'{"bytes":4096,"ranges":[[0,4096]]}\n' + bytes(4096)),
                                  zlib.compress(b"[" * 100_000 + b"\n")])
def test_what_is_no_outline_is_refused(text: bytes):
    with pytest.raises(Corruption):
        _, pieces = decoded(text, 8192, "here")
        assert sum(len(piece) for _, piece in pieces) == -1
