"""The demo, on a small disk: with the tools that are there, with none, and with something to find fault with."""
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner

from cdp.demo import __main__ as demo
from cdp.demo import narrator


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)
    yield tmp_path
    assert not list(tmp_path.iterdir()), "the demo leaves something behind"


def run():
    return CliRunner().invoke(demo.main, ["--quick"])


def proved(output):
    return int(re.search(r"All (\d+) claims were checked and are true", output)[1])


def test_with_the_tools_of_this_machine(scratch):
    result = run()
    assert result.exit_code == 0, result.output
    assert "FALSE" not in result.output and proved(result.output) >= 25


@pytest.mark.long
def test_without_any_tool(scratch, monkeypatch):
    """On a smaller disk: what differs is how the files get there and back."""
    monkeypatch.setattr(demo, "QUICK", replace(demo.QUICK, disk_bytes=6 * demo.MIB, files_bytes=2 * demo.MIB,
                                               garbage_bytes=demo.MIB, moments=2))
    monkeypatch.setattr(narrator.Teller, "has", lambda *_: False)
    result = run()
    assert result.exit_code == 0, result.output
    assert "a tar archive with" in result.output and "missing: e2fsprogs" in result.output
    assert proved(result.output) >= 25


def test_a_false_claim_is_told(scratch, monkeypatch):
    """The model is made to expect a byte that nobody wrote: every checksum of the volume must then be called wrong."""
    content = demo.Model.content

    def wrong(self, count=None):
        disk = content(self, count)
        disk[-1] ^= 1
        return disk

    monkeypatch.setattr(demo.Model, "content", wrong)
    monkeypatch.setattr(demo.Demo, "work_on", lambda self: (_ for _ in ()).throw(demo.Failed("enough seen")))
    result = run()
    assert result.exit_code == 1
    assert "FALSE: the volume holds the disk" in result.output or "✗ the volume holds the disk" in result.output
    assert "✗ the demo ran to its end: enough seen" in result.output or "FALSE: the demo ran" in result.output


def test_too_little_room(scratch, monkeypatch):
    monkeypatch.setattr(demo, "QUICK", demo.Scale(room_bytes=1 << 62))
    result = run()
    assert result.exit_code == 1 and "TMPDIR=" in result.output
