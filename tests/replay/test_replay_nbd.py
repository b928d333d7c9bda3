"""cdp replay --nbd: the same load onto NBD servers, ours and others; what was written last is read back."""

import json
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from support.replay_traces import blkparse, fio, some

import cdp
from cdp.cli import cli
from cdp.nbd import NbdServer, UnixAddress
from cdp.nbd.client import parse
from cdpcore.base.errors import InvalidRequest, NotFound

SIZE = 8 << 20


def run(*args, status=0):
    result = CliRunner().invoke(cli, ["replay", *map(str, args), "--json"], prog_name="cdp")
    assert result.exit_code == status, result.output
    return json.loads(result.stdout) if status == 0 else result.stderr


class _Export:
    def __init__(self, volume):
        self.capsule, self.read_only, self.size_bytes, self.description = volume.target(), False, volume.size_bytes, ""

    def close(self):
        pass


class _Shelf:
    def __init__(self, volume):
        self._volume = volume

    def list(self):
        return [("v", "")]

    def open(self, name):
        if name != "v":
            raise NotFound(f"no export {name!r}")
        return _Export(self._volume)


@contextmanager
def ours(tmp_path):
    with cdp.create(tmp_path / "v", size=SIZE) as volume, NbdServer(_Shelf(volume), [UnixAddress(str(tmp_path / "s"))]):
        yield volume, f"nbd+unix:///v?socket={tmp_path / 's'}"


@contextmanager
def theirs(tmp_path, *command):
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]}")
    path = tmp_path / "s"
    process = subprocess.Popen([str(word).format(s=path, d=tmp_path / "disk") for word in command])
    try:
        for _ in range(500):
            if path.exists():
                break
            assert process.poll() is None
            time.sleep(0.02)
        yield f"nbd+unix:///?socket={path}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("depth", [1, 32, 256])
@pytest.mark.parametrize("aligned", [True, False])
def test_our_server_holds_what_the_trace_wrote(tmp_path, depth, aligned):
    trace = fio(tmp_path / "t.iolog", some(21, 2000, SIZE, aligned))
    with ours(tmp_path) as (volume, uri):
        got = run(trace, "--nbd", uri, "--depth", depth, "--verify")
        assert got["verify"][0]["ok"] and got["verify"][0]["bytes_compared"] > SIZE // 2
        log = volume.records()
        assert got["disks"][0]["changes"] == int((log["kind"] <= 3).sum()) == got["verify"][0]["changes_in_volume"]


def test_a_flush_stands_behind_what_it_flushes(tmp_path):
    """Many requests in flight: in the server's log, each flush comes after all changes before it in the trace, and
    before the others."""
    requests = [("WS", i % 900 * 8, 8) if i % 50 else ("FN", 0, 0) for i in range(1, 3000)]
    trace = blkparse(tmp_path / "t.txt", requests)
    with ours(tmp_path) as (volume, uri):
        run(trace, "--nbd", uri, "--depth", 64)
        log = volume.records()
    changes = 0
    wanted, logged = [], [int((log["kind"][:i] <= 3).sum()) for i in range(len(log)) if log["kind"][i] == 4]
    for rwbs, _, _ in requests:
        changes += rwbs == "WS"
        if rwbs == "FN":
            wanted.append(changes)
    # A later write may overtake a flush that is on its way, never the other way round.
    assert len(logged) >= len(wanted) and all(have >= want for have, want in zip(logged, wanted, strict=False))


def test_qemu_and_nbdkit(tmp_path):
    trace = fio(tmp_path / "t.iolog", some(22, 800, SIZE, aligned=True))
    (tmp_path / "disk").write_bytes(bytes(SIZE))
    with theirs(tmp_path, "qemu-nbd", "-k", "{s}", "-f", "raw", "-t", "{d}") as uri:
        got = run(trace, "--nbd", uri, "--verify")
        assert got["verify"][0]["ok"] and got["requests"]["write"]["count"] > 400
    (tmp_path / "s").unlink(missing_ok=True)
    with theirs(tmp_path, "nbdkit", "-f", "-U", "{s}", "memory", str(SIZE)) as uri:
        assert run(trace, "--nbd", uri, "--verify", "--depth", 8)["verify"][0]["ok"]


def test_every_target_reports_the_same_fields(tmp_path):
    """A server's verification has all fields of a volume's, among them what the trace's records left out."""
    trace = tmp_path / "t"
    line = "  8,0    0  {n:7d} {n:5d}.000000000  77  {action}  W {at} + 8 [x]\n"
    queued = "".join(line.format(n=n, action="Q", at=8 * n) for n in range(4))
    trace.write_text(queued + line.format(n=9, action="D", at=0))
    said = "device 8,0: 1 requests of stage D are read, stage Q has 4 (--stage Q reads them)"
    with ours(tmp_path) as (_, uri):
        server = run(trace, "--nbd", uri, "--verify")
        shown = CliRunner().invoke(cli, ["replay", str(trace), "--nbd", uri, "--verify"], prog_name="cdp")
    volume = run(trace, "--volume", tmp_path / "w", "--create", "--verify")
    assert server.keys() == volume.keys() and server["left_out_of_trace"] == [said]
    assert server["verify"][0].keys() == volume["verify"][0].keys()
    assert server["verify"][0]["left_out_of_trace"] == [said]
    assert shown.exit_code == 0 and f"not replayed: {said}" in shown.stdout


def test_a_wrong_server_is_found_out(tmp_path):
    """A server that throws away what it is given."""
    trace = fio(tmp_path / "t.iolog", [("write", i * 4096, 4096) for i in range(64)])
    with theirs(tmp_path, "nbdkit", "-f", "-U", "{s}", "null", str(SIZE)) as uri:
        assert "differences" in run(trace, "--nbd", uri, "--verify", status=5)


def test_refusals(tmp_path):
    trace = fio(tmp_path / "t.iolog", [("write", SIZE, 4096)])
    with ours(tmp_path) as (_, uri):
        assert "reaches to byte" in run(trace, "--nbd", uri, status=2)
        assert run(trace, "--nbd", uri, "--wrap", "--verify")["wrapped"] == 1
        assert "no export 'w'" in run(trace, "--nbd", uri.replace("/v?", "/w?"), status=3)
        assert "keeps no history" in run("--nbd", uri, "--verify-only", status=2)
    assert "start the server" in run(trace, "--nbd", uri, status=8)
    for uri in ("http://x/", "nbd:///v", "nbd+unix:///v", "nbds:///v", "nbds+unix:///v", "nbd+tcp://host/v",
                "nbd://host:99999/v"):
        with pytest.raises(InvalidRequest):
            parse(uri)
    assert parse("nbd://[::1]:7/a%20b").export == "a b" and parse("nbd://h").port == 10809
    secure = parse("nbds+unix:///v?socket=/s&tls-certificates=/pki&tls-hostname=web")
    assert (secure.tls, secure.path, secure.certificates, secure.tls_hostname) == (True, "/s", "/pki", "web")


def test_a_server_that_goes_away(tmp_path):
    trace = fio(tmp_path / "t.iolog", [("write", i % 1000 * 4096, 4096) for i in range(3000)], step_us=10_000)
    if not shutil.which("nbdkit"):
        pytest.skip("no nbdkit")
    path = tmp_path / "s"
    server = subprocess.Popen(["nbdkit", "-f", "-U", path, "memory", str(SIZE)])
    try:
        for _ in range(500):
            if path.exists():
                break
            time.sleep(0.02)
        threading.Timer(0.5, server.kill).start()
        result = CliRunner().invoke(
            cli, ["replay", str(trace), "--nbd", f"nbd+unix:///?socket={path}", "--speed", "realtime", "--json"]
        )
        got = json.loads(result.stdout)
        assert result.exit_code == 8 and got["ended"] == "error" and 0 < got["records"] < 3000
    finally:
        server.kill()
        server.wait()
