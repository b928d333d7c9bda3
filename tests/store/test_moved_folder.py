"""The folder of an open volume is moved, deleted or replaced: noticed, told by both paths, nothing lost, and nothing
done to what is there now."""
import errno
import shutil
import time

import pytest

import cdp
from cdp.check import check
from cdp.serve.server import Server
from cdp.service.connect import connect
from cdp.store.folder_watch import FolderWatch
from cdpcore.base.errors import NotFound, Unavailable

MIB = 1 << 20
SETTINGS = cdp.Settings(segment_bytes=16 * MIB, pool_bytes=16 * MIB)


@pytest.fixture
def place(tmp_path):
    with cdp.create(tmp_path / "v", size=64 * MIB, settings=SETTINGS) as volume:
        volume.pwrite(b"1" * MIB, 0)
        volume.flush()
    return tmp_path / "v"


def refused(volume, said):
    """Writes until one is refused; how many were taken."""
    taken, until = 0, time.monotonic() + 10
    while time.monotonic() < until:
        try:
            volume.pwrite(b"2" * 4096, 4096 * taken)
            taken += 1
        except Unavailable as error:
            assert said in str(error)
            return taken
        except NotFound:        # no folder to make a segment in, before it was noticed
            pass
        time.sleep(0.01)
    raise AssertionError("never refused")


def files(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_nothing_is_lost_nor_done_to_what_is_there_now(place, caplog):
    away = place.with_name("w")
    with cdp.open(place, settings=SETTINGS) as volume:
        volume.pwrite(b"2" * 4096, 0)       # there is an open segment, and an empty one may follow
        place.rename(away)
        taken = max(1, refused(volume, "moved or deleted"))
        cdp.create(place, size=64 * MIB, settings=SETTINGS).close()
        (place / "log/0000000003.log").touch()      # as a volume in use has them
        (place / "runs/0000000002.run").touch()
        before = files(place)
        assert volume.pread(4096, 0) == b"2" * 4096
        with pytest.raises(Unavailable, match=rf"{place}: .* moved(?: to {away})?.* another one.*mv .* {place}"):
            volume._store.check_folder()
    assert files(place) == before
    assert any("moved" in r.message and r.levelname == "ERROR" for r in caplog.records)
    assert check.check(away).ok
    with cdp.open(away) as volume:
        assert volume.pread(4096 * taken, 0) == b"2" * 4096 * taken
        volume.pwrite(b"3" * 4096, 0)
    assert check.check(away).ok


def test_it_goes_on_when_it_is_back(place):
    away = place.with_name("w")
    with cdp.open(place, settings=SETTINGS) as volume:
        place.rename(away)
        refused(volume, "moved or deleted")
        away.rename(place)
        until = time.monotonic() + 10
        while True:
            try:
                volume.pwrite(b"3" * 20 * MIB, 0)       # needs another segment
                break
            except Unavailable:
                assert time.monotonic() < until
                time.sleep(0.05)
        volume.flush()
    assert check.check(place).ok


def test_an_import_that_is_refused_changes_nothing_about_it(tmp_path):
    place, away = tmp_path / "v", tmp_path / "w"
    with cdp.create(place, size=64 * MIB, settings=SETTINGS) as volume:
        place.rename(away)
        refused(volume, "moved or deleted")
        cdp.create(place, size=64 * MIB, settings=SETTINGS).close()
        before = files(place)
        with pytest.raises(Unavailable, match="moved"):
            volume.import_base(lambda offset, view: None, [(0, MIB)])
        for _ in range(3):      # the reasons are apart: the end of one is not the end of another
            volume._core.log.hold("import")
            volume._core.log.hold("import", False)
            with pytest.raises(Unavailable, match="moved or deleted"):
                volume.pwrite(b"2" * 4096, 0)
    assert files(place) == before


def test_a_path_that_cannot_be_looked_at_is_no_reason_to_refuse(place, monkeypatch):
    """Say a network file system that is away for a moment: what the open files take is taken."""
    folder = FolderWatch(str(place))

    def away(path):
        raise OSError(errno.ESTALE, "stale")

    monkeypatch.setattr("cdp.store.folder_watch.os.stat", away)
    folder.check()
    monkeypatch.undo()
    place.rename(place.with_name("w"))
    with pytest.raises(Unavailable, match="moved"):
        folder.check()
    folder.close()
    with pytest.raises(Unavailable, match=str(place)):
        FolderWatch(str(place))


def test_a_deleted_one(place):
    with cdp.open(place, settings=SETTINGS) as volume:
        while place.exists():   # the volume may make a file meanwhile
            shutil.rmtree(place, ignore_errors=True)
        refused(volume, "moved or deleted")
        with pytest.raises(Unavailable, match=rf"{place}: .* was deleted"):
            volume._store.check_folder()
    assert not place.exists()


def test_commands_say_where_it_was_and_is(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)     # a socket's path is short
    away = place.with_name("w")
    with (pytest.raises(Unavailable, match="v was not closed cleanly: .*/v: the folder of this open volume was moved"),
          Server([str(place)], cdp.Settings(unix_socket="s", admin_socket="a", segment_bytes=16 * MIB)) as server):
        place.rename(away)
        refused(server.volume("v"), "moved or deleted")
        with connect(str(away)) as service:
            for call in (lambda: service.bookmark("b"), lambda: service.create_image("i"),
                         lambda: service.read(512 << 10, 4096)):
                with pytest.raises(Unavailable, match=rf"{place}: the folder of this open volume was moved"):
                    call()
