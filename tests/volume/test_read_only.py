"""A volume that cannot be written is read all the same: nothing in its folder, nor of a disk that it protects in place,
changes; what would change it is refused in one line."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import interop

import cdp
from cdpcore.base.errors import Busy, InvalidRequest, RefusedPoint, Unavailable

MIB = 1 << 20


def make(path: Path, kind: str) -> None:
    with create(path, 8 * MIB, kind) as volume:
        volume.pwrite(b"one" * 1000, 0)
        volume.bookmark("one")
        volume.pwrite(b"two" * 1000, 0)
        volume.create_image("trial", at="one")
        with volume.open_image("trial") as image:
            image.pwrite(b"try" * 1000, 0)
        volume.restore("one")


def create(path: Path, size: int, kind: str) -> cdp.Volume:
    settings = cdp.Settings(segment_bytes=16 * MIB)
    if kind == "after":
        return cdp.create(path, size=size, settings=settings)
    with (path.parent / "disk.img").open("wb") as file:
        file.truncate(size)
    return cdp.create(path, disk=path.parent / "disk.img", settings=settings)


def files(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Of the volume's folder and what lies beside it."""
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size, p.read_bytes()) for p in sorted(path.parent.rglob("*"))
            if p.is_file()}


def changes(volume: cdp.Volume) -> list[Callable[[], object]]:
    return [lambda: volume.pwrite(b"x", 0), lambda: volume.pwrite(b"x" * 512, 0, fua=True), lambda: volume.trim(512, 0),
            lambda: volume.zero(512, 0), lambda: volume.bookmark("x"), lambda: volume.delete_bookmark("one"),
            lambda: volume.restore("one"), lambda: volume.restore("one", destructive=True), volume.undo,
            lambda: volume.create_image("x"), lambda: volume.delete_image("trial"),
            lambda: volume.import_base(lambda _offset, _view: None, [])]


@pytest.fixture(params=["after", "before"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_nothing_is_written(tmp_path: Path, kind: str) -> None:
    """All that reads works, all that writes is refused, and no byte or time of a file changes."""
    make(tmp_path / "v", kind)
    before = files(tmp_path / "v")
    with cdp.open(tmp_path / "v", read_only=True) as volume:
        assert volume.pread(3000, 0) == b"one" * 1000
        with volume.at("#5") as image:
            assert image.pread(3000, 0) in (b"one" * 1000, b"two" * 1000)
        volume.window(), volume.explain("one"), volume.stats(), list(volume.extents()), volume.images()
        assert len(volume.records()) == volume.window().newest.seq
        assert volume.restore("one", dry_run=True).seq == 0
        volume.flush()
        for change in changes(volume):
            with pytest.raises(Unavailable, match="open read-only"):
                change()
        with volume.open_image("trial") as trial:
            assert trial.read_only and trial.pread(3000, 0) == b"try" * 1000
            with pytest.raises(Unavailable, match="open read-only"):
                trial.pwrite(b"x", 0)
        with pytest.raises(Busy):
            cdp.open(tmp_path / "v")
    assert files(tmp_path / "v") == before
    # and the same is refused for other reasons, or done, where it may write
    with cdp.open(tmp_path / "v") as volume:
        for change in changes(volume)[:5]:
            change()
        with pytest.raises((RefusedPoint, InvalidRequest)):
            changes(volume)[7]()


def test_what_must_be_recovered(tmp_path: Path, kind: str) -> None:
    """A volume that was not closed is refused, unchanged, and can be read once it was opened writable."""
    path = tmp_path / "v"
    create(path, MIB, kind).close()
    child = f"import cdp, os; v = cdp.open({str(path)!r}); v.pwrite(b'x' * 512, 0); v.flush(); os._exit(0)"
    interop.run(*interop.cdp_argv()[:1], "-c", child)
    before = files(path)
    with pytest.raises(Unavailable, match="must be recovered") as refused:
        cdp.open(path, read_only=True)
    assert "open it once" in refused.value.hint
    assert files(path) == before
    cdp.open(path).close()
    with cdp.open(path, read_only=True) as volume:
        assert volume.pread(512, 0) == b"x" * 512


@pytest.fixture
def read_only_disk(tmp_path: Path, kind: str) -> Iterator[Path]:
    interop.need("mount", "umount")
    if os.geteuid():
        pytest.skip("mounting needs root")
    at = tmp_path / "disk"
    at.mkdir()
    if interop.run("mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", at, status=None).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        make(at / "v", kind)
        interop.run("mount", "-o", "remount,ro", at)
        yield at
    finally:
        interop.run("umount", "-l", at)


def test_commands_on_a_read_only_disk(read_only_disk: Path, tmp_path: Path) -> None:
    v = read_only_disk / "v"

    def command(*args: object, status: int = 0) -> str:
        done = interop.run(*interop.cdp_argv(*args), status=status)
        assert not status or (done.stderr.count("\n") == 1 and "open read-only" in done.stderr), done.stderr
        return done.stdout

    command("info", v)
    command("window", v)
    command("explain", f"{v}@one")
    command("records", v)
    command("restores", v)
    command("image", "list", v)
    command("export", f"{v}@one", tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes()[:3000] == b"one" * 1000
    command("export", f"{v}/trial", tmp_path / "trial.img")
    assert (tmp_path / "trial.img").read_bytes()[:3000] == b"try" * 1000
    assert "no problems" in command("check", v)
    command("bookmark", v, "x", status=8)
    command("restore", f"{v}@one", status=8)
    command("undo", v, status=8)
    command("image", "create", f"{v}@one", "x", status=8)
    command("import", tmp_path / "out.img", v, status=8)
