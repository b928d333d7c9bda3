"""`cdp ha serve` and its processes, as a user has them: what dies, what takes over, and what a client notices of it."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.interop import cdp_argv, environ, run

import cdp
from cdp.ipc.link import Link
from cdp.nbd.client import Client, unix_address
from cdp.serve.handover import VERSION, Taking
from cdpcore.base.errors import Unavailable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench.failover import alive

MIB = 1 << 20
WAIT_S = 30


def until(condition, what, seconds=WAIT_S):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return found


class Service:
    """A `cdp ...` process that says when it is ready."""

    def __init__(self, folder, *args):
        self.folder = folder
        self.log = folder / f"{args[0]}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(cdp_argv(*args), cwd=folder, env=environ(), stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=out)

    def ready(self):
        until(lambda: b"cdp: ready" in self.log.read_bytes() or self.process.poll() is not None, "ready")
        assert self.process.poll() is None, self.log.read_text()
        return self

    def stop(self, status=0):
        if self.process.poll() is None:
            self.process.terminate()
        assert self.process.wait(WAIT_S) == status, self.log.read_text()[-3000:]
        assert "Traceback" not in self.log.read_text(), self.log.read_text()[-3000:]


class Ha(Service):
    def __init__(self, folder, sockets):
        self.sockets = sockets
        super().__init__(folder, "ha", "serve", "web", "--unix", sockets / "nbd", "--control", sockets / "ha",
                         "--admin-socket", sockets / "admin")

    def client(self, export="web"):
        return Client(unix_address(self.sockets / "nbd", export))

    def status(self):
        return json.loads(run(*cdp_argv("ha", "status", "--control", self.sockets / "ha", "--json")).stdout)

    def pid(self, role, state=None):
        return next((p["pid"] for p in self.status()["processes"] if p["role"] == role and state in (None, p["state"])),
                    None)

    def standby(self):
        return until(lambda: self.pid("standby", "shadow"), "a standby")

    def another(self, role, state, former):
        return until(lambda: (pid := self.pid(role, state)) != former and pid, f"another {role}")


@pytest.fixture
def sockets():
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder:
        yield Path(folder)


@pytest.fixture
def ha(tmp_path, sockets):
    cdp.create(tmp_path / "web", size=8 * MIB).close()
    made = Ha(tmp_path, sockets).ready()
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.stop()


def test_a_normal_life_is_quiet(ha, tmp_path):
    assert f"nbd+unix:///web?socket={ha.sockets}/nbd\n" in ha.log.read_text()
    ha.stop()
    assert "WARNING" not in ha.log.read_text() and "ERROR" not in ha.log.read_text()


def words(folder, *args, status=0):
    return run(*cdp_argv(*args), cwd=folder, status=status).stdout


def test_everything_goes_on_after_the_active_one_was_killed(ha, tmp_path):
    """Also time images, writable images and the other commands; and what nobody flushed."""
    client = ha.client()
    client.pwrite(b"1" * 4096, 0)
    words(tmp_path, "bookmark", "web", "one")
    words(tmp_path, "image", "create", "web", "trial")
    image, past = ha.client("web/trial"), ha.client("web@one")
    client.pwrite(b"4" * 4096, 16384)
    newest = ha.client("web@now")           # a moment that only the active one's memory has
    image.pwrite(b"i" * 4096, 4096)
    client.pwrite(b"2" * 4096, 0)
    ha.standby()
    active = ha.pid("active")
    os.kill(active, signal.SIGKILL)
    client.pwrite(b"3" * 4096, 8192)      # answered by the next one
    assert client.pread(12288, 0) == b"2" * 4096 + bytes(4096) + b"3" * 4096
    assert image.pread(8192, 0) == b"1" * 4096 + b"i" * 4096
    assert past.pread(4096, 0) == b"1" * 4096
    assert newest.pread(20480, 0) == b"1" * 4096 + bytes(12288) + b"4" * 4096
    view = ha.status()
    assert view["luns"][0]["owner"] not in (active, None) and len(view["failovers"]) == 1
    until(lambda: ha.status()["connections"] == 4, "a beat")
    assert view["connection_memory"]["limit_bytes"] >= 64 << 20
    assert "connections: 4, with " in words(tmp_path, "ha", "status", "--control", ha.sockets / "ha")
    until(lambda: "one" in words(tmp_path, "bookmarks", "web", status=None), "administration")
    assert f"process {view['luns'][0]['owner']}" in words(tmp_path, "info", "web")
    (event,) = words(tmp_path, "events", "web", "--kind", "handed_over").splitlines()
    assert f"process {view['luns'][0]['owner']} took over, with " in event
    for each in (client, image, past, newest):
        each.close()
    ha.stop()
    assert json.loads(words(tmp_path, "check", "web", "--json"))["ok"]
    with cdp.open(tmp_path / "web") as volume:
        assert volume.pread(4096, 8192) == b"3" * 4096
        assert [int(r["kind"]) for r in volume.records()].count(1) == 4, "each write once"


def test_handing_over(ha):
    client = ha.client()
    client.pwrite(b"a" * 512, 0)
    standby, active = ha.standby(), ha.pid("active")
    told = json.loads(run(*cdp_argv("ha", "switch", "--control", ha.sockets / "ha", "--json")).stdout)
    assert told["pid"] == standby == ha.pid("active") and not alive(active)
    assert client.pread(512, 0) == b"a" * 512
    assert ha.status()["failovers"][0]["why"] == "switch" and ha.status()["failovers"][0]["replayed"] == 0


def test_a_standby_that_dies_or_hangs_is_replaced(ha):
    standby = ha.standby()
    os.kill(standby, signal.SIGKILL)
    second = ha.another("standby", "shadow", standby)
    os.kill(second, signal.SIGSTOP)
    ha.another("standby", "shadow", second)
    assert not alive(second) and not ha.status()["failovers"]


def test_a_gateway_that_dies_gives_the_daemon_no_error(ha, tmp_path):
    client = ha.client()
    client.pwrite(b"g" * 4096, 0)
    active, gateway = ha.pid("active"), ha.pid("gateway")
    os.kill(gateway, signal.SIGKILL)
    ha.another("gateway", "serving", gateway)
    again = until(lambda: _connected(ha), "the next gateway")
    assert again.pread(4096, 0) == b"g" * 4096
    assert ha.pid("active") == active and "ERROR cdp.platform.tsd" not in ha.log.read_text()
    assert "durable up to #2" in ha.log.read_text()


def _connected(ha):
    try:
        return ha.client()
    except OSError:
        return None


def test_without_a_manager_all_end_and_nothing_is_lost(ha, tmp_path):
    client = ha.client()
    client.pwrite(b"m" * 4096, 0)
    ha.standby()
    pids = [p["pid"] for p in ha.status()["processes"]]
    ha.process.kill()
    ha.process.wait()
    until(lambda: not any(alive(pid) for pid in pids), "all end")
    with cdp.open(tmp_path / "web") as volume:
        assert volume.pread(4096, 0) == b"m" * 4096


def test_by_hand(tmp_path, sockets):
    """A gateway, and one daemon after the other; the client of the first is served by the second."""
    cdp.create(tmp_path / "web", size=8 * MIB).close()
    gateway = Service(tmp_path, "gateway", "--daemons", sockets / "gw", "--unix", sockets / "nbd").ready()
    daemon = ("tsd", "web", "--gateway", sockets / "gw", "--admin-socket", sockets / "admin")
    first = Service(tmp_path, *daemon).ready()
    client = Client(unix_address(sockets / "nbd", "web"))
    client.pwrite(b"1" * 512, 0)
    first.process.kill()
    first.process.wait()
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(client.pwrite, b"2" * 512, 512)
        second = Service(tmp_path, *daemon).ready()
        waiting.result(WAIT_S)
    client.flush()
    assert client.pread(1024, 0) == b"1" * 512 + b"2" * 512
    refused = run(*cdp_argv(*daemon), cwd=tmp_path, status=7)
    assert refused.stderr.count("\n") == 1 and "cdp: error: " in refused.stderr
    client.close()
    second.stop()
    gateway.stop()


@pytest.mark.parametrize("args, status, needle", [
    (("ha", "serve", "nowhere"), 3, "no such volume"),
    (("ha", "status", "--control", "nowhere"), 8, "see whether"),
    (("tsd", "nowhere", "--gateway", "x"), 3, "no such volume"),
    (("gateway", "--daemons", "nowhere/x", "--unix", "nbd"), 8, "cannot make the socket"),
])
def test_errors_are_one_line(tmp_path, args, status, needle):
    done = run(*cdp_argv(*args), cwd=tmp_path, status=status)
    assert needle in done.stderr and done.stderr.count("\n") == 1 and "; " in done.stderr


def test_a_volume_that_somebody_has(tmp_path, sockets):
    with cdp.create(tmp_path / "web", size=8 * MIB):
        made = Ha(tmp_path, sockets)
        assert made.process.wait(WAIT_S) == 7
    assert "cdp: error: " in made.log.read_text() and "another process has the volume open" in made.log.read_text()


def test_the_gateway_is_replaced_under_its_clients(ha, tmp_path):
    """... again and again, and once the new one dies in the middle; commands and moments too."""
    client, other = ha.client(), ha.client()
    client.pwrite(b"0" * 4096, 0)
    past = ha.client("web@now")
    active = ha.pid("active")
    gateways = [ha.pid("gateway")]
    with ThreadPoolExecutor(1) as pool:
        stop = []

        def write():
            done = 0
            while not stop:
                other.pwrite(done.to_bytes(8, "little") * 64, 512 * (done % 64) + 65536)
                done += 1
            return done

        writing = pool.submit(write)
        try:
            for n in range(1, 3):
                told = json.loads(words(tmp_path, "ha", "switch", "--gateway", "--json", "--control",
                                        ha.sockets / "ha"))
                gateways.append(ha.another("gateway", "serving", gateways[-1]))
                assert told["pid"] == gateways[-1]
                client.pwrite(bytes([n]) * 4096, 4096 * n)
                assert past.pread(4096, 0) == b"0" * 4096
                assert not writing.done()
        finally:
            stop.append(True)
        done = writing.result(WAIT_S)
    assert len(set(gateways)) == 3 and ha.pid("active") == active and not ha.status()["failovers"]
    until(lambda: not any(alive(pid) for pid in gateways[:-1]), "the former gateways end")
    with ha.client() as late:
        assert late.pread(12288, 0) == b"0" * 4096 + b"".join(bytes([n]) * 4096 for n in range(1, 3))
        assert late.pread(8, 512 * ((done - 1) % 64) + 65536) == (done - 1).to_bytes(8, "little")
    standby = ha.standby()
    os.kill(active, signal.SIGKILL)         # the new gateway keeps what a dead daemon had not written
    client.pwrite(b"f" * 4096, 0)
    assert ha.pid("active") == standby
    for each in (client, other, past):
        each.close()
    ha.stop()
    said = ha.log.read_text()
    assert said.count("the gateway was replaced") == 2 and "is dead (exit status" not in said, said
    with cdp.open(tmp_path / "web") as volume:
        assert volume.pread(4096, 0) == b"f" * 4096
        assert sum(int(r["kind"]) == 1 for r in volume.records()) == done + 4


def test_a_gateway_that_does_not_take_over(tmp_path, sockets):
    """By hand; another version, and a new process that dies in the middle."""
    cdp.create(tmp_path / "web", size=8 * MIB).close()
    args = ("gateway", "--daemons", sockets / "gw")
    first = Service(tmp_path, *args, "--unix", sockets / "nbd").ready()
    daemon = Service(tmp_path, "tsd", "web", "--gateway", sockets / "gw", "--admin-socket", sockets / "admin").ready()
    with Client(unix_address(sockets / "nbd", "web")) as client:
        client.pwrite(b"1" * 512, 0)
        with Link.connect(str(sockets / "gw")) as link:
            link.send({"op": "replace", "version": VERSION + 1, "force": False})
            with pytest.raises(Unavailable, match=f"version {VERSION + 1}"):
                Taking(link).offer()
        with Link.connect(str(sockets / "gw")) as link:
            link.send({"op": "replace", "version": VERSION, "force": False})
            taking = Taking(link)
            taking.offer()
            taking.take()
            assert [c.name for c in taking.stopped.nbd.connections] == ["web"]
            taking.stopped.close()
        client.pwrite(b"2" * 512, 512)
        wrong = run(*cdp_argv(*args, "--replace", "--unix", sockets / "else"), cwd=tmp_path, status=2)
        assert f"listens at {sockets / 'nbd'}" in wrong.stderr
        second = Service(tmp_path, *args, "--replace").ready()
        assert first.process.wait(WAIT_S) == 0 and "Traceback" not in first.log.read_text()
        assert client.pread(1024, 0) == b"1" * 512 + b"2" * 512
        client.pwrite(b"3" * 512, 0)
    second.stop()
    daemon.stop()
    assert not (sockets / "nbd").exists() and not (sockets / "gw").exists()
