"""What docs/upgrading.md promises: a format rises when it must and at no other time, and one that is not known is
refused before anything is changed."""
import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest

import cdp
from cdp.check import rebuild
from cdp.check.check import check
from cdp.cli import cli
from cdp.nbd.client import Client
from cdp.serve.server import Server
from cdp.store import description
from cdp.volume import adopt
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Corruption

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests/golden"
AFTER_IMAGES = ("v1", "v3", "v5")


def written_format(volume: Path) -> int:
    return json.loads((volume / "volume.json").read_text())["volume"]["format"]


def with_format(volume: Path, number: int) -> None:
    inner = json.loads((volume / "volume.json").read_text())["volume"] | {"format": number}
    text = json.dumps(inner, sort_keys=True)
    (volume / "volume.json").write_text(f'{{"crc32c": "{crc32c(text.encode()):08x}", "volume": {text}}}\n')


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def golden(tmp_path: Path, name: str) -> Path:
    """A volume of that format, as its release left it."""
    path = tmp_path / "web"
    shutil.copytree(GOLDEN / name, path)
    (path / "images").mkdir()
    (path / "lock").touch()
    assert rebuild.rebuild(path).ok
    return path


@pytest.mark.parametrize("name", AFTER_IMAGES)
def test_a_volume_that_is_opened_and_written_keeps_its_format(tmp_path, name):
    path = golden(tmp_path, name)
    with cdp.open(path) as volume:
        volume.pwrite(b"1" * 4096, 0)
        volume.bookmark("upgraded")
        volume.restore(f"#{volume.window().oldest.seq}")
        volume.undo()
    assert written_format(path) == int(name[1:])


def test_there_is_a_golden_volume_of_every_format_and_the_page_lists_them():
    formats = {int(path.name[1:]) for path in GOLDEN.iterdir()}
    table = re.findall(r"(?m)^\| (\d+) \| ", (ROOT / "docs/upgrading.md").read_text())
    assert {1, 2, description.FOLLOWS_CLOCK, description.STARTS_LATER,
            description.GOES_ON} <= formats == {*map(int, table)}


@pytest.mark.parametrize("line", ["info {}", "check {} --rebuild", "adopt {} --keep-history",
                                  "restore {}@now", "delete {} --yes"])
def test_a_format_that_is_not_known_is_refused_and_nothing_changed(tmp_path, line, capsys):
    web = golden(tmp_path, "v1")
    with_format(web, 99)
    before = content(web)
    assert cli.main(line.format(web).split(), standalone_mode=False) == 5
    assert "format 99 is not known here; use the version of cdp that made it" in capsys.readouterr().err
    with pytest.raises(Corruption, match="format 99 is not known here"):
        cdp.open(web)
    assert content(web) == before


FORMATS = sorted(path.name for path in GOLDEN.iterdir())


def with_its_disk(tmp_path: Path, name: str) -> Path:
    """A volume of that format where it was moved to, and where it protects a disk, that disk too."""
    path, disk = tmp_path / "web", tmp_path / "disk.img"
    shutil.copytree(GOLDEN / name, path)
    (path / "images").mkdir()
    (path / "lock").touch()
    if (path / "disk.img").exists():
        shutil.move(path / "disk.img", disk)
        inner = {**json.loads((path / "volume.json").read_text())["volume"], "disk": str(disk)}
        text = json.dumps(inner, sort_keys=True)
        (path / "volume.json").write_text(f'{{"crc32c": "{crc32c(text.encode()):08x}", "volume": {text}}}\n')
    rebuild.rebuild(path)
    if disk.exists():       # another file than it was: that is said, and confirmed
        adopt.adopt(path, keep_history=True).close()
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_a_volume_of_each_format_is_served_written_and_opened_again(tmp_path, name):
    """An upgrade, as an operator does it: the new version serves what the old one left."""
    path = with_its_disk(tmp_path, name)
    with cdp.open(path) as volume:
        size, was, window = volume.size_bytes, volume.pread(volume.size_bytes, 0), volume.window()
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder:
        settings = cdp.Settings(unix_socket=f"{folder}/nbd", admin_socket=f"{folder}/admin")
        with Server([str(path)], settings) as server:
            with Client(server.uris()[0]) as client:
                assert client.pread(size, 0) == was
                client.pwrite(b"1" * 4096, size - 4096)
                client.flush()
            with cdp.connect(path) as remote:
                remote.bookmark("upgraded")
                remote.restore(f"#{window.newest.seq}")
                assert remote.pread(size, 0) == was
                remote.undo()
    with cdp.open(path) as volume:
        assert volume.pread(size, 0) == was[:size - 4096] + b"1" * 4096
        assert [mark.name for mark in volume.bookmarks()][-1] == "upgraded"
        with volume.at(f"#{window.newest.seq}") as image:
            assert image.pread(size, 0) == was
    assert check(path).ok and written_format(path) == int(name[1:])
