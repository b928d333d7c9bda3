"""What docs/upgrading.md promises: a format rises when it must and at no other time, and one that is not known is
refused before anything is changed."""
import json
import re
import shutil
from pathlib import Path

import pytest

import cdp
from cdp.check import rebuild
from cdp.cli import cli
from cdp.store import description
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
