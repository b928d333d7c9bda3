"""A running `cdp serve` is replaced by another process while its clients stay connected."""
import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.interop import MIB, READY_SECONDS, World, cdp_argv, environ, need, run

import cdp
from cdp.nbd.client import Client
from cdp.serve import handover
from cdp.serve.handover import VERSION, Taking
from cdp.service.connect import find_server
from cdp.service.locate import locate
from cdpcore.base.errors import Unavailable


class Replaced(World):
    """A world whose server is replaced by new processes."""

    def replace(self, *args, status=None):
        """Start `cdp serve ARGS --replace`. It takes over, and the old one ends with status 0; the old one's log. With
        a `status`: it ends with that, and the old one goes on; what it said."""
        new_log = self.path / f"serve-{time.monotonic_ns()}.log"
        with new_log.open("wb") as log:
            new = subprocess.Popen(cdp_argv("serve", *args, "--replace", "--log-level", "info"), cwd=self.path,
                                   env=environ(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=log)
        if status is not None:
            try:
                assert new.wait(60) == status, new_log.read_text()
            finally:
                new.kill()
                new.stdout.close()
            assert self.server.poll() is None, self.log.read_text()
            return new_log.read_text()
        old, self.server = self.server, new
        try:
            until_s = time.monotonic() + READY_SECONDS
            while "cdp: ready" not in new_log.read_text():
                assert new.poll() is None and time.monotonic() < until_s, new_log.read_text()
                time.sleep(0.02)
        except BaseException:
            old.kill()
            raise
        assert old.wait(60) == 0, self.log.read_text()
        old.stdout.close()
        said, self.log = self.log.read_text(), new_log
        assert "Traceback" not in said
        return said


@pytest.fixture(params=["after", "before"])
def upgraded(request, tmp_path):
    made = Replaced(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def web(tmp_path):
    made = Replaced(tmp_path)
    made.create("web", 8)
    yield made
    made.close()


class Writer(threading.Thread):
    """Writes numbered blocks one after the other, and reads each again; `waits`: the longest times."""

    def __init__(self, uri):
        super().__init__(daemon=True)
        self.client, self.done, self.slowest_s, self.error = Client(uri), 0, 0.0, None
        self.stop = threading.Event()

    def run(self):
        try:
            while not self.stop.is_set():
                began = time.monotonic()
                block = self.done.to_bytes(8, "little") * 512
                self.client.pwrite(block, self.done % 512 * 4096, fua=self.done % 7 == 0)
                assert self.client.pread(4096, self.done % 512 * 4096) == block
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                self.done += 1
        except Exception as error:  # noqa: BLE001  (shown by finish)
            self.error = error

    def finish(self):
        self.stop.set()
        self.join(60)
        if self.error:
            raise self.error
        self.client.close()


def test_clients_of_a_replaced_server_go_on(upgraded):
    """The volume, a moment of it and a writable image; commands; and what was written is in the history."""
    upgraded.create("web", 8)
    upgraded.serve("web")
    with Client(upgraded.uri("web")) as client:
        client.pwrite(b"1" * 4096, 0)
    upgraded.cdp("bookmark", "web", "one")
    upgraded.cdp("image", "create", "web", "trial")
    with (Client(upgraded.uri("web@one")) as past, Client(upgraded.uri("web/trial")) as image,
          Client(upgraded.uri("web")) as client):
        writer = Writer(upgraded.uri("web"))
        writer.start()
        pids = [upgraded.server.pid]
        for _ in range(3):
            before = writer.done
            said = upgraded.replace("web")
            pids.append(upgraded.server.pid)
            assert f"process {pids[-1]} serves web now" in said
            assert upgraded.json("info", "web")["served"]["pid"] == pids[-1]
            assert past.pread(4096, 0) == b"1" * 4096
            image.pwrite(b"i" * 4096, 4096 * len(pids))
            until_s = time.monotonic() + 60
            while writer.done < before + 20 and not writer.error:
                assert time.monotonic() < until_s
                time.sleep(0.01)
        assert image.pread(5 * 4096, 0) == b"1" * 4096 + bytes(4096) + b"i" * 3 * 4096
        clients = [one["export"] for one in upgraded.json("clients", "web")]
        assert sorted(clients) == ["web", "web", "web@#2"]
        client.pwrite(b"end", 7 * MIB, fua=True)
        writer.finish()
        assert len(set(pids)) == 4
    upgraded.stop()
    assert not (upgraded.path / "web" / "serving.json").exists() and not upgraded.socket.exists()
    with cdp.open(str(upgraded.path / "web")) as volume:
        assert volume.pread(3, 7 * MIB) == b"end"
        last = writer.done - 1
        assert volume.pread(8, last % 512 * 4096) == last.to_bytes(8, "little")
        assert volume.at("one").pread(4096, 0) == b"1" * 4096
    assert upgraded.json("check", "web")["ok"]


def _take(web, act):
    """Be the new process, up to act(taking)."""
    location = locate(str(web.path / "web"))
    with find_server(location) as remote, Taking(str(web.sockets / "new.sock")) as taking:
        taking.meet(lambda: remote.hand_over(taking.path, VERSION, False))
        act(taking)


def test_a_new_process_that_does_not_take_over(web):
    """... says so, ends, or is killed in the middle: the running one goes on, and its clients notice nothing."""
    web.serve("web", "--log-level", "info")
    writer = Writer(web.uri("web"))
    writer.start()

    def fail(taking):
        taking.take()
        assert len(taking.stopped.nbd.connections) == 1
        taking.failed(Unavailable("cannot open it"))

    _take(web, lambda taking: None)
    _take(web, fail)
    _take(web, lambda taking: (taking.take(), taking.stopped.close()))
    killed = subprocess.run([sys.executable, "-c", f"""
import os, signal
from cdp.serve.handover import Taking, VERSION
from cdp.service.connect import find_server
from cdp.service.locate import locate
import cdp
with Taking({str(web.sockets / 'killed.sock')!r}) as taking:
    remote = find_server(locate('web'))
    taking.meet(lambda: remote.hand_over(taking.path, VERSION, False))
    taking.take()
    volume = cdp.open('web')
    print('open', flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""], cwd=web.path, env=environ(), stdout=subprocess.PIPE, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL and killed.stdout == b"open\n"
    before = writer.done
    until_s = time.monotonic() + 30
    while writer.done < before + 20 and not writer.error:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    said = web.log.read_text()
    assert said.count("not handed over") == 4 and "cannot open it" in said
    assert "the new process ended" in said and said.count("for nothing") == 3
    assert web.json("info", "web")["served"]["pid"] == web.server.pid
    web.replace("web")
    writer.finish()
    web.stop()


def test_what_is_refused_before_anything_stops(web, tmp_path):
    web.create("other", 1)
    assert "web is not served; start it without --replace" in run(
        *cdp_argv("serve", "web", "--replace"), cwd=web.path, status=None).stderr.replace(str(tmp_path) + "/", "")
    web.serve("web")
    with Client(web.uri("web")) as client:
        said = web.replace("web", "--unix", web.sockets / "else.sock", status=2)
        assert f"listens at {web.socket}" in said and "give the same addresses or none" in said
        said = web.replace("web", "--admin-socket", web.sockets / "else.sock", status=2)
        assert "administration socket of the running server is" in said
        said = web.replace("web", "--read-only", status=6)
        assert "open for writing" in said
        with find_server(locate(str(web.path / "web"))) as remote, pytest.raises(Unavailable, match="version 2"):
            remote.hand_over("/nowhere", 2, False)
        client.pwrite(b"x", 0)
    web.replace("web", "--read-only")
    with Client(web.uri("web")) as client:
        assert client.read_only and client.pread(1, 0) == b"x"
    web.stop()


def test_the_version_of_this_process_is_not_the_running_ones(web, monkeypatch):
    monkeypatch.setattr(handover, "VERSION", VERSION + 1)
    with pytest.raises(Unavailable, match=f"hands over by version {VERSION + 1}, the new process takes version"):
        handover.check_version(VERSION)


def test_a_kill_of_the_old_process_in_the_middle(web):
    """Who takes over goes on with what it was given."""
    web.serve("web")
    with Client(web.uri("web")) as client:
        client.pwrite(b"1" * 512, 0)

        def kill(taking):
            taking.take()
            web.server.kill()
            web.server.wait()
            taking.taken()
            (connection,) = taking.stopped.nbd.connections
            assert connection.name == "web" and connection.received == b""
            taking.stopped.hang_up()

        _take(web, kill)
    with cdp.open(str(web.path / "web")) as volume:
        assert volume.pread(512, 0) == b"1" * 512


@pytest.mark.interop
def test_fio_verifies_through_twenty_upgrades(upgraded):
    need("fio")
    upgraded.create("web", 64)
    upgraded.serve("web")
    job = [f"--{key}={value}" for key, value in {
        "name": "x", "ioengine": "nbd", "uri": upgraded.uri("web"), "rw": "randrw", "bsrange": "512-64k",
        "bs_unaligned": 1, "size": "32M", "iodepth": 16, "verify": "crc32c", "verify_backlog": 64, "time_based": 1,
        "runtime": 600, "fsync": 50, "output-format": "json"}.items()]
    fio = subprocess.Popen(["fio", *job], cwd=upgraded.path, env=environ(), stdout=subprocess.PIPE, text=True)
    waits_ms = []
    try:
        time.sleep(1)
        for _ in range(20):
            upgraded.replace("web")
            waits_ms.append(float(upgraded.log.read_text().split("their clients waited ")[1].split()[0]))
            assert fio.poll() is None
        fio.send_signal(signal.SIGINT)
        out, _ = fio.communicate(timeout=60)
    finally:
        fio.kill()
    result = json.loads(out[out.index("{"):])["jobs"][0]
    assert result["error"] == 0 and result["write"]["total_ios"] > 100
    print(f"clients waited: median {sorted(waits_ms)[10]:.0f} ms, max {max(waits_ms):.0f} ms")
    upgraded.stop()
    assert upgraded.json("check", "web")["ok"]
