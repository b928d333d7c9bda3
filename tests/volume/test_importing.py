"""An import is all or nothing, also when it is killed; writers are held off; nothing is exported into a volume's own
folder."""
from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support import interop

import cdp
from cdp.store.base_image import Base
from cdpcore.base.errors import Busy, InvalidRequest, Unavailable

MIB = 1 << 20


def start(path: Path, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(interop.cdp_argv(*args), cwd=path, env=interop.environ(), text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def stop_in_the_middle(process: subprocess.Popen[str], building: Path) -> None:
    """Suspend it while the base is being filled."""
    while not building.exists() or building.stat().st_blocks * 512 < MIB:
        assert process.poll() is None, process.communicate()
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.05)
    assert building.exists()


def disk(path: Path) -> Path:
    image = path / "disk.img"
    with image.open("wb") as file:
        for i in range(256):
            file.write(bytes([i % 255 + 1]) * MIB)
    return image


def test_new_volume(tmp_path: Path) -> None:
    """Killed: no volume under the name; the next import of that name cleans up; one that lives is not disturbed."""
    image = disk(tmp_path)
    first = start(tmp_path, "import", "disk.img", "web")
    stop_in_the_middle(first, tmp_path / "web.creating" / "base.img.creating")
    busy = interop.run(*interop.cdp_argv("import", "disk.img", "web"), cwd=tmp_path, status=7)
    assert busy.stderr.count("\n") == 1 and "another process is making this volume" in busy.stderr
    first.kill()
    first.communicate()
    assert not (tmp_path / "web").exists()
    interop.run(*interop.cdp_argv("info", "web"), cwd=tmp_path, status=3)
    interop.run(*interop.cdp_argv("import", "disk.img", "web"), cwd=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"disk.img", "web"}
    with cdp.open(tmp_path / "web") as volume:
        for at in range(0, 256 * MIB, 32 * MIB):
            with image.open("rb") as file:
                file.seek(at)
                assert volume.pread(32 * MIB, at) == file.read(32 * MIB)


def test_only_what_a_creation_left_is_removed(tmp_path: Path) -> None:
    """Somebody's own folder or file, and a volume that was in use, stay where the next volume would be made."""
    (tmp_path / "a.creating").mkdir()
    (tmp_path / "a.creating" / "thesis.txt").write_text("precious")
    (tmp_path / "b.creating").write_text("precious")
    cdp.create(tmp_path / "c.creating", size=MIB).close()
    for name in "abc":
        with pytest.raises(InvalidRequest, match=f"{name}.creating: exists"):
            cdp.create(tmp_path / name, size=MIB)
    assert (tmp_path / "a.creating" / "thesis.txt").read_text() == (tmp_path / "b.creating").read_text() == "precious"
    cdp.open(tmp_path / "c.creating").close()
    assert not any((tmp_path / name).exists() for name in "abc")


def test_made_by_many_at_once(tmp_path: Path) -> None:
    """One of them makes it, whole; the others are told."""
    for n in range(10):
        outcomes: list[object] = []

        def make(path: Path = tmp_path / f"v{n}", outcomes: list[object] = outcomes) -> None:
            try:
                cdp.create(path, size=MIB).close()
                outcomes.append("made")
            except (Busy, InvalidRequest) as error:
                outcomes.append(type(error))
            except BaseException as error:      # noqa: BLE001  (looked at by the test)
                outcomes.append(error)

        threads = [threading.Thread(target=make) for _ in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert outcomes.count("made") == 1 and set(outcomes) <= {"made", Busy, InvalidRequest}, outcomes
        cdp.open(tmp_path / f"v{n}").close()
    assert {p.name for p in tmp_path.iterdir()} == {f"v{n}" for n in range(10)}


def test_empty_volume(tmp_path: Path) -> None:
    """Killed: the volume is as empty as it was, and what was half filled goes with the next opening."""
    disk(tmp_path)
    cdp.create(tmp_path / "web", size=256 * MIB).close()
    building = tmp_path / "web" / "base.img.creating"
    process = start(tmp_path, "import", "disk.img", "web")
    stop_in_the_middle(process, building)
    process.kill()
    process.communicate()
    with cdp.open(tmp_path / "web") as volume:
        assert not building.exists()
        assert [(e.kind, e.length) for e in volume.extents()] == [("hole", 256 * MIB)]
        with pytest.raises(ZeroDivisionError):
            volume.import_base(lambda _at, _view: 1 // 0, [(0, 512)])
        volume.import_base(lambda _at, view: view.__setitem__(slice(None), b"b" * len(view)), [(0, 512)])
        assert volume.pread(1024, 0) == b"b" * 512 + bytes(512)


def test_writers_are_held_off(tmp_path: Path) -> None:
    """While the base is filled a write is refused and leaves no record; afterwards it is taken."""
    began, go_on = threading.Event(), threading.Event()

    def read(_at: int, view: memoryview) -> None:
        began.set()
        assert go_on.wait(20)
        view[:] = b"b" * len(view)

    with cdp.create(tmp_path / "v", size=MIB) as volume:
        importing = threading.Thread(target=volume.import_base, args=(read, [(0, 4096)]))
        importing.start()
        assert began.wait(20)
        with pytest.raises(Unavailable, match="being filled"):
            volume.pwrite(b"x", 0)
        assert volume.pread(1, 0) == b"\0"
        go_on.set()
        importing.join()
        assert (volume.pread(4096, 0), volume.window().newest.seq) == (b"b" * 4096, 0)
        volume.pwrite(b"x", 0)
        assert volume.pread(2, 0) == b"xb"
        with pytest.raises(InvalidRequest, match="has content"):
            volume.import_base(read, [])


def test_create_with_a_base(tmp_path: Path) -> None:
    """The base is there with the volume, or the volume is not."""
    with pytest.raises(InvalidRequest):
        cdp.create(tmp_path / "v", size=MIB, base=Base(lambda _at, _view: None, [(MIB, 512)]))
    assert list(tmp_path.iterdir()) == []
    with cdp.create(tmp_path / "v", size=MIB,
                    base=Base(lambda _at, view: view.__setitem__(0, 7), [(512, 512)])) as volume:
        assert volume.pread(1, 512) == b"\7" and volume.window().newest.seq == 0


def test_no_export_into_the_volume(tmp_path: Path) -> None:
    """Not over its files, not beside them, not through a link; --force or not. Nothing changes."""
    with cdp.create(tmp_path / "web", size=MIB,
                    base=Base(lambda _at, view: view.__setitem__(0, 7), [(0, 512)])) as volume:
        volume.pwrite(b"x" * 512, 512)
    (tmp_path / "link").symlink_to(tmp_path / "web" / "log")
    before = sorted((str(p), p.stat().st_mtime_ns) for p in (tmp_path / "web").rglob("*"))
    for out in ("web/base.img", "web/log/0000000001.log", "web/new.img", "web/images/x.img", "link/0000000001.log"):
        done = interop.run(*interop.cdp_argv("export", "web", out, "--force"), cwd=tmp_path, status=2)
        assert done.stderr.count("\n") == 1 and "lies in the volume" in done.stderr
    assert sorted((str(p), p.stat().st_mtime_ns) for p in (tmp_path / "web").rglob("*")) == before
