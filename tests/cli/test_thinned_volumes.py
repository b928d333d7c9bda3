"""A volume whose history was thinned, from the command line: points mean the kept moment before, and say so; copies
that would promise more than there is are refused."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import cdp
from cdp.archive.source import VolumeSource
from cdp.check import rebuild
from cdp.cli import cli, exits
from cdp.service.local import VolumeService
from cdpcore.base.errors import RefusedPoint

GOLDEN = Path(__file__).parent.parent / "golden/v7"     # moments 0, 3, 8 and 15 are kept; see test_format_thinned.py


@pytest.fixture
def web(tmp_path: Path) -> Path:
    path = tmp_path / "web"
    shutil.copytree(GOLDEN, path)
    (path / "images").mkdir()
    (path / "lock").touch()
    assert rebuild.rebuild(path).ok
    return path


def run(capsys: pytest.CaptureFixture[str], *args: object, status: int = 0) -> tuple[str, str]:
    assert (cli.main([str(arg) for arg in args], standalone_mode=False) or 0) == status
    said = capsys.readouterr()
    return said.out, said.err


def test_what_is_said(web: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "explain", f"{web}@#6")
    assert "not kept     #6, " in out and "it means     #3, the kept moment before that" in out
    assert "next record  #8" in out
    view = json.loads(run(capsys, "explain", f"{web}@#6", "--json")[0])
    assert (view["resolved"]["seq"], view["not_kept"]["seq"], view["next"]["seq"]) == (3, 6, 8)
    out, _ = run(capsys, "window", web)
    assert ": 4 of these moments are kept" in out and ": 4 of these moments are kept" in run(capsys, "info", web)[0]
    assert json.loads(run(capsys, "window", web, "--json")[0])["thinned"]["points"] == 4
    _, err = run(capsys, "explain", f"{web}@#6!", status=exits.REFUSED)
    assert "#6 was thinned; nearest kept: #3" in err


def test_copies_of_moments(web: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "export", f"{web}@#6", tmp_path / "web.img")
    assert (tmp_path / "web.img").read_bytes()[:4097] == b"c" * 4096 + b"\0"
    run(capsys, "export", f"{web}@now", tmp_path / "some.delta", "--since", "#8")
    _, err = run(capsys, "export", f"{web}@now", tmp_path / "other.delta", "--since", "#6", status=exits.REFUSED)
    assert "#6 was thinned, so what changed since then is not known; #3 is the kept moment before it" in err


def test_copies_of_the_log_are_refused(web: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, "backup", web, tmp_path / "copy", status=exits.REFUSED)
    assert "its policy thins its history, and backups have no tiers" in err and not (tmp_path / "copy").exists()
    with cdp.open(web) as volume:
        source = VolumeSource(VolumeService(volume), str(web))
        with pytest.raises(RefusedPoint, match="archives have no tiers"):
            source.volume()
        for segment in source.look(0):
            with pytest.raises(RefusedPoint, match="archives have no tiers"):
                source.read(segment, 0, 4096)


def test_a_backup_that_its_own_policy_thinned_is_not_brought_up_to_date(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its volume.json would say again that all moments are there."""
    web, copy = tmp_path / "web", tmp_path / "copy"
    with cdp.create(web, size=1 << 16) as volume:
        for i in range(5):
            volume.pwrite(bytes([i + 1]) * 4096, 0)
    run(capsys, "backup", web, copy)
    with cdp.open(copy) as volume:
        planned = volume._thinner.plan([0, 5])
        assert planned is not None and volume._thinner.begin(planned[0])
    _, err = run(capsys, "backup", web, copy, status=exits.REFUSED)
    assert "was thinned by its own policy" in err
    with cdp.open(copy) as volume:
        assert volume.resolve("#3").seq == 0


@pytest.mark.parametrize(("offset", "good", "bad"), [(4096, 3, 8), (8192, 8, 15)])
def test_a_bisection_tries_what_is_kept(web: Path, offset: int, good: int, bad: int) -> None:
    """Block 1 was written by #5, block 2 by #14: neither is kept, and the last change before #15 is #14."""
    with cdp.open(web) as volume:
        found = cdp.bisect(volume, "#0", "#15", lambda image: image.pread(1, offset) == b"\0")
        assert (found.good.seq, found.bad.seq, found.unknown) == (good, bad, ())


def test_a_bisection_by_a_command(web: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "bisect", web, "#0", "#15", "--json", "--", "sh", "-c",
                   "case $CDP_SEQ in 0|3|8) exit 0;; *) exit 1;; esac")
    found = json.loads(out)
    assert (found["good"]["seq"], found["bad"]["seq"]) == (8, 15) and "#10 cannot be told" in err
