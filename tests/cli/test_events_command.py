"""cdp events: of a volume that is served."""
import json
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from support.interop import Started, cdp_argv, environ
from support.interop import cdp_done as run

import cdp
from cdp.cli import exits
from cdp.serve.server import Server

MIB = 1 << 20


@pytest.fixture
def served():
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder:     # of a short name, for the sockets
        path = Path(folder) / "web"
        cdp.create(path, size=MIB).close()
        settings = cdp.Settings(unix_socket=f"{folder}/nbd", admin_socket=f"{folder}/admin")
        with Server([str(path)], settings) as server:
            yield path, server.volume("web")


def test_what_is_kept(served):
    path, volume = served
    volume.bookmark("nightly")
    volume.restore("nightly")
    shown = run("events", str(path)).stdout.splitlines()
    assert [line.split()[1] for line in shown] == ["bookmark_made", "restored"] and "nightly" in shown[0]
    lines = [json.loads(line) for line in run("events", str(path), "--json").stdout.splitlines()]
    assert [line["number"] for line in lines] == [1, 2] and lines[0]["details"]["name"] == "nightly"
    assert set(lines[0]) == {"number", "stream", "ts_ns", "time", "kind", "text", "details"}
    later = run("events", str(path), "--since", f"{lines[0]['stream']}:1", "--json").stdout.splitlines()
    assert [json.loads(line) for line in later] == lines[1:]
    assert run("events", str(path), "--since", "1", "--kind", "bookmark_made").stdout == ""
    first = json.loads(run("events", str(path), "--since", "0123abcd:1", "--json").stdout.splitlines()[0])
    assert first["kind"] == "lost" and first["details"] == {"count": None}


def test_those_that_come_are_followed(served):
    path, volume = served
    with Started(cdp_argv("events", str(path), "--follow", "--kind", "bookmark_made"), env=environ(),
                 stdout=subprocess.PIPE, text=True) as follower:
        volume.bookmark("one")
        assert "bookmark one" in follower.stdout.readline()
        volume.delete_bookmark("one")
        volume.bookmark("two")
        assert "bookmark two" in follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        assert follower.wait(60) == exits.INTERRUPTED


@pytest.mark.parametrize("args, says", [
    (("--since", "yesterday"), "STREAM:NUMBER"), (("--since", "xyz:4"), "STREAM:NUMBER"),
    (("--kind", "birthday"), "no kind of event 'birthday'"),
])
def test_what_is_refused(served, args, says):
    path, _ = served
    assert says in run("events", str(path), *args, status=exits.USAGE).stderr


def test_a_volume_that_nobody_serves(tmp_path):
    cdp.create(tmp_path / "web", size=MIB).close()
    refused = run("events", str(tmp_path / "web"), status=exits.UNAVAILABLE).stderr
    assert "is not served" in refused and "cdp serve" in refused
    assert "takes a volume, not a point" in run("events", f"{tmp_path / 'web'}@now", status=exits.USAGE).stderr
