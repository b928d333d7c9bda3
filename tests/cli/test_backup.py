"""cdp backup: copies that are taken while the volume changes are volumes that show what it showed; a copy that was
broken off leaves the one before; what cannot be brought up to date is refused."""
from __future__ import annotations

import os
import random
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.changing import KIB, KINDS, SIZE, SMALL, SOURCE, change, content, made, openable
from support.cli_world import here, run, world  # noqa: F401
from support.seeds import Seeds

import cdp
from cdp.check.check import check
from cdp.cli import backup_copy
from cdp.cli.backup_copy import Backup, Copied
from cdp.service.local import VolumeService
from cdp.volume.volume import Volume
from cdpcore.base.errors import Corruption, InvalidRequest, RefusedPoint

MIB = 1 << 20
COPY = "copy"       # where the copy is


def backup(volume: Volume, folder: Path) -> Copied:
    copy = str(folder / COPY)
    first = volume.geometry().before and not os.path.exists(f"{copy}/volume.json")
    return Backup(VolumeService(volume), volume.path, copy, f"{copy}.img" if first else "", cdp.Settings(),
                  lambda done: None).run()


def settled(volume: Volume) -> None:
    """No restore is being written back: a backup would wait for it."""
    while volume.writeback is not None and volume.writeback.progress() is not None:
        time.sleep(0.005)


def shown(folder: Path, source: Volume, rnd: random.Random, least: int = 0) -> int:
    """The copy is sound, and shows what the volume showed. Returns the record that it is at."""
    Volume(folder / COPY, _tuning=SMALL).close()        # where it was broken off, this recovers
    report = check(folder / COPY)
    assert report.ok, [(p.where, p.what) for p in report.problems]
    with Volume(folder / COPY, _tuning=SMALL) as copy:
        newest = copy.window().newest.seq
        assert newest >= least
        for seq in openable(copy, rnd, newest):
            with suppress(RefusedPoint):        # the volume has given it up since
                assert content(source, seq) == content(copy, seq), f"#{seq} of #{newest}"
        if newest >= source.window().oldest.seq:
            upto = {m.name: m.at.seq for m in copy.bookmarks()}
            assert upto.items() >= {m.name: m.at.seq for m in source.bookmarks() if m.made.seq <= newest}.items()
    return newest


@pytest.mark.parametrize("kind", KINDS)
def test_copies_show_what_the_volume_showed(kind: str, seeds: Seeds, tmp_path: Path):
    for seed in seeds(1):
        rnd = random.Random(f"{seed} {kind}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        with Volume(made(folder, kind), _tuning=SMALL) as volume:
            for step in range(3):
                change(volume, rnd, rnd.choice((0, 20, 150)), destroy=step == 0 or rnd.random() < 0.3)
                settled(volume)
                upto = volume.window().newest.seq
                try:
                    done = backup(volume, folder)
                except RefusedPoint:        # too much was given up since the last one
                    assert step and not backup_fits(folder, volume)
                    for path in folder.glob(f"{COPY}*"):
                        path.rename(folder / f"old-{step}-{path.name}")
                    done = backup(volume, folder)
                    assert done.first
                assert done.upto is None and not upto or done.upto["seq"] >= upto
                assert shown(folder, volume, rnd) >= upto


def backup_fits(folder: Path, volume: Volume) -> bool:
    """Whether all that the volume had since the copy is still there."""
    with Volume(folder / COPY, _tuning=SMALL) as copy:
        at = copy.window().newest.seq
    window = volume.window()
    return at >= window.oldest.seq and not any(b.seq > at for a, b in window.gaps)


@pytest.mark.parametrize("kind", KINDS)
def test_under_load_a_copy_is_a_moment(kind: str, tmp_path: Path):
    with Volume(made(tmp_path, kind), _tuning=SMALL) as volume:
        stop, rnd = threading.Event(), random.Random(5)

        def load() -> None:
            mine = random.Random(6)
            while not stop.is_set():
                at = mine.randrange(SIZE // 4096) * 4096
                volume.pwrite(mine.randbytes(4096), at)
                if mine.random() < 0.02:
                    volume.flush()
                time.sleep(0.0003)
        thread = threading.Thread(target=load)
        thread.start()
        try:
            for _ in range(3):
                before = volume.window().newest.seq
                backup(volume, tmp_path)
                shown(tmp_path, volume, rnd, least=before)
                if kind == "base":
                    volume.free_before(before, undo=False)
        finally:
            stop.set()
            thread.join()


class Broken(BaseException):
    """The process ends here."""


class Breaking:
    """The module os, as the copier has it, until the n-th call that changes something."""

    CALLS = ("replace", "pwrite", "fsync", "unlink", "open", "truncate")

    def __init__(self, n: int):
        self.left = n

    def __getattr__(self, name: str):
        found = getattr(os, name)
        if name not in self.CALLS:
            return found

        def call(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise Broken
            return found(*args, **kwargs)
        return call


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_broken_off_leaves_the_one_before(kind: str, seeds: Seeds, tmp_path: Path, monkeypatch):
    for seed in seeds(1):
        rnd = random.Random(f"{seed} {kind}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        with Volume(made(folder, kind), _tuning=SMALL) as volume:
            earlier = -1
            for _ in range(5):
                change(volume, rnd, 30, destroy=False)
                settled(volume)
                breaking = Breaking(rnd.randrange(40))
                with monkeypatch.context() as patched:
                    patched.setattr(backup_copy, "os", breaking)
                    try:
                        backup(volume, folder)
                    except Broken:
                        pass
                    except RefusedPoint:
                        break
                if earlier >= 0 or (folder / COPY / "volume.json").exists() and breaking.left >= 0:
                    earlier = shown(folder, volume, rnd, least=earlier)
            with suppress(RefusedPoint):
                backup(volume, folder)
                assert shown(folder, volume, rnd) == volume.window().newest.seq


def test_before_images_are_put_back_where_the_disk_was_half_written(tmp_path: Path, monkeypatch):
    """The crash that needs the log's before-images: segments are there, some of the disk is, disk.state is not."""
    rnd = random.Random(3)
    with Volume(made(tmp_path, "before"), _tuning=SMALL) as volume:
        change(volume, rnd, 30, destroy=False)
        settled(volume)
        earlier = backup(volume, tmp_path).upto["seq"]
        disk = (tmp_path / f"{COPY}.img").read_bytes()
        change(volume, rnd, 30, destroy=False)
        settled(volume)

        def broken(*args, **kwargs):
            raise Broken
        with monkeypatch.context() as patched:
            patched.setattr(Backup, "_write_state", broken)
            with pytest.raises(Broken):
                backup(volume, tmp_path)
        assert (tmp_path / f"{COPY}.img").read_bytes() != disk
        assert shown(tmp_path, volume, rnd) == earlier
        assert (tmp_path / f"{COPY}.img").read_bytes() == disk
        backup(volume, tmp_path)
        assert shown(tmp_path, volume, rnd) == volume.window().newest.seq


def test_only_new_segments_are_copied(tmp_path: Path):
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        for n in range(3):
            volume.pwrite(bytes([n + 1]) * 4096, 0)
            done = backup(volume, tmp_path)
            assert done.segments == 1 and done.first == (n == 0) and done.log_bytes <= 64 * KIB
        assert backup(volume, tmp_path).segments == 0


def test_segments_that_a_copy_lost_are_copied_again(tmp_path: Path):
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        for n in range(4):
            volume.pwrite(bytes([n + 1]) * 4096, n * 4096)
            backup(volume, tmp_path)
        lost, cut, *_ = sorted((tmp_path / COPY / "log").glob("*.log"))
        lost.unlink()
        os.truncate(cut, 8192)
        assert backup(volume, tmp_path).segments == 2
        assert shown(tmp_path, volume, random.Random(1)) == 4
        assert backup(volume, tmp_path).segments == 0


def test_what_is_damaged_is_not_copied_for_sound(tmp_path: Path):
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        volume.pwrite(b"x" * 40_000, 0)
        volume._store.seal()
        path = next(Path(volume.path, "log").glob("*.log"))
        raw = bytearray(path.read_bytes())
        raw[9000] ^= 1
        path.write_bytes(raw)
        with pytest.raises(Corruption, match="byte 8192"):
            backup(volume, tmp_path)


def test_a_copy_that_was_written_to_is_none(tmp_path: Path):
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        volume.pwrite(b"x" * 4096, 0)
        backup(volume, tmp_path)
        with Volume(tmp_path / COPY, _tuning=SMALL) as copy:
            copy.pwrite(b"y" * 4096, 0)
        for _ in range(3):
            with pytest.raises((InvalidRequest, RefusedPoint), match="own|lacks"):
                backup(volume, tmp_path)
            volume.pwrite(b"z" * 4096, 0)


def test_history_that_was_given_up_asks_for_a_new_one(tmp_path: Path):
    with Volume(made(tmp_path, "after"), _tuning=SMALL) as volume:
        volume.pwrite(b"x" * 4096, 0)
        backup(volume, tmp_path)
        for n in range(300):
            volume.pwrite(bytes([n % 255 + 1]) * 4096, 4096)
        volume._store.seal()
        volume.free_before(250, undo=False)
        with pytest.raises(RefusedPoint, match="lacks #1.*begin a new backup"):
            backup(volume, tmp_path)


def test_a_disk_that_others_changed_asks_for_a_new_one(tmp_path: Path):
    made(tmp_path, "before")
    with Volume(tmp_path / SOURCE, _tuning=SMALL) as volume:
        volume.pwrite(b"x" * 4096, 0)
        volume._store.seal()
        while volume._store.kind.opened_content.sums.wants_filling():      # the table of the disk's checksums
            time.sleep(0.01)
        earlier = backup(volume, tmp_path).upto["seq"]
    with (tmp_path / "disk.img").open("r+b") as disk:
        disk.seek(65536)
        disk.write(b"others" * 100)
    cdp.adopt(tmp_path / SOURCE, keep_history=True).close()
    with Volume(tmp_path / SOURCE, _tuning=SMALL) as volume:
        with pytest.raises(RefusedPoint, match="changed outside.*begin a new backup"):
            backup(volume, tmp_path)
        with Volume(tmp_path / COPY, _tuning=SMALL) as copy:
            assert copy.window().newest.seq == earlier and copy.pread(4096, 0) == b"x" * 4096
        for path in tmp_path.glob(f"{COPY}*"):
            path.rename(tmp_path / f"old-{path.name}")
        backup(volume, tmp_path)
        assert (tmp_path / f"{COPY}.img").read_bytes() == (tmp_path / "disk.img").read_bytes()
        assert check(tmp_path / COPY).ok


def test_the_command(world):  # noqa: F811
    """Served and not; the way back is the same command."""
    with world.volume() as volume:
        volume.pwrite(b"a" * 4096, 0)
        volume.bookmark("here")
    got = world.json("backup", "web", "copy")
    assert got["first"] and got["segments"] >= 1 and got["dest"] == str(world.path / "copy")
    known = world.json("info", "web")["copies"]
    assert known["backup"]["where"] == str(world.path / "copy") and known["backup"]["upto"] == got["upto"]
    assert known["backup"]["missing"] is None and known["archive"] is None
    assert world.json("info", "copy")["copies"]["backup"] is None
    assert world.json("check", "copy")["ok"] and world.json("bookmarks", "copy")[0]["name"] == "here"
    with world.volume() as volume:
        volume.pwrite(b"b" * 4096, 4096)
    assert "brought up to date, as of #" in world.ok("backup", "web", "copy")
    assert world.json("backup", "copy", "again")["first"]
    with cdp.open("again") as again:
        assert again.pread(8192, 0) == b"a" * 4096 + b"b" * 4096
    world.refused(2, "backup", "web", "web/images/x", hint="another device")
    world.refused(2, "backup", "web", "copy", "--disk", "d.img", hint="leave off --disk")
    world.refused(2, "backup", "web@now", "copy", hint="leave off @now")
    world.refused(3, "backup", "web", "nowhere/copy", hint="create the folder first")
    (world.path / "other").mkdir()
    (world.path / "other" / "letter.txt").write_text("mine")
    world.refused(2, "backup", "web", "other", hint="take another name")
    world.ok("image", "create", "web@now", "trial")
    world.refused(2, "backup", "web/trial", "trial", hint="cdp export")


def test_the_disk_of_a_copy(here: Path):  # noqa: F811
    (here / "disk.img").write_bytes(b"d" * SIZE)
    assert run("create", "db", "--mode", "before", "--base", "disk.img").exit_code == 0
    with cdp.open("db") as volume:
        volume.pwrite(b"e" * 4096, 4096)
    assert run("backup", "db", "copy", "--disk", "disk.img").exit_code == 2       # it is there
    assert run("backup", "db", "copy", "--disk", "other.img").exit_code == 0
    assert (here / "other.img").read_bytes() == b"d" * 4096 + b"e" * 4096 + b"d" * (SIZE - 8192)
    with cdp.open("db") as volume:
        volume.pwrite(b"f" * 4096, 8192)
    assert run("backup", "db", "copy").exit_code == 0 and run("check", "copy").exit_code == 0
    assert (here / "other.img").read_bytes() == (here / "disk.img").read_bytes()
    with cdp.open("copy") as copy, copy.at(0) as first:
        assert first.pread(SIZE, 0) == b"d" * SIZE
