"""A running `cdp serve` is replaced by another process while its clients stay connected."""
import json
import signal
import subprocess
import sys
import time

import pytest
from support.handover import Replaced, Writer
from support.interop import MIB, cdp_argv, environ, run
from support.nbd_fixtures import pki

import cdp
from cdp.cli import exits
from cdp.nbd.client import Client
from cdp.serve import handover
from cdp.serve.handover import VERSION, Taking, meet
from cdp.service.connect import find_server
from cdp.service.locate import locate
from cdpcore.base.errors import Unavailable

__all__ = ["pki"]


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
        for _ in range(2):
            before = writer.done
            said = upgraded.replace("web")
            pids.append(upgraded.server.pid)
            assert f"process {pids[-1]} serves web now" in said
            assert upgraded.json("info", "web")["served"]["pid"] == pids[-1]
            (event,) = upgraded.cdp("events", "web", "--kind", "handed_over", "--json").splitlines()
            assert json.loads(event)["details"] == {"pid": pids[-1], "connections": 3}      # with the writer's
            assert past.pread(4096, 0) == b"1" * 4096
            image.pwrite(b"i" * 4096, 4096 * len(pids))
            until_s = time.monotonic() + 60
            while writer.done < before + 20 and not writer.error:
                assert time.monotonic() < until_s
                time.sleep(0.01)
        assert image.pread(4 * 4096, 0) == b"1" * 4096 + bytes(4096) + b"i" * 2 * 4096
        with find_server(locate(str(upgraded.path / "web"))) as remote:
            clients = [one["export"] for one in remote.clients()]
        assert sorted(clients) == ["web", "web", "web@#1"]
        client.pwrite(b"end", 7 * MIB, fua=True)
        writer.finish()
        assert len(set(pids)) == 3
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
    path = str(web.sockets / "new.sock")
    with find_server(location) as remote, meet(path, lambda: remote.hand_over(path, VERSION, False)) as link:
        taking = Taking(link)
        assert taking.offer()["pid"] == web.server.pid
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
from cdp.serve.handover import Taking, VERSION, meet
from cdp.service.connect import find_server
from cdp.service.locate import locate
import cdp
path, remote = {str(web.sockets / 'killed.sock')!r}, find_server(locate('web'))
with meet(path, lambda: remote.hand_over(path, VERSION, False)) as link:
    taking = Taking(link)
    taking.offer()
    taking.take()
    volume = cdp.open('web')
    print('open', flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""], cwd=web.path, env=environ(), stdout=subprocess.PIPE, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL and killed.stdout == b"open\n"
    before = writer.done
    until_s = time.monotonic() + 30
    while writer.done < before + 20 and not writer.error or web.log.read_text().count("not handed over") < 4:
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
        said = web.replace("web", "--read-only", status=exits.BUSY)
        assert "open for writing" in said
        with find_server(locate(str(web.path / "web"))) as remote, pytest.raises(Unavailable, match="version 2"):
            remote.hand_over("/nowhere", 2, False)
        client.pwrite(b"x", 0)
    web.replace("web", "--read-only")
    with Client(web.uri("web")) as client:
        assert client.pread(1, 0) == b"x"
        with pytest.raises(Unavailable, match="not permitted"):
            client.pwrite(b"y", 0)
    web.stop()


def test_the_version_of_this_process_is_not_the_running_ones(web, monkeypatch):
    monkeypatch.setattr(handover, "VERSION", VERSION + 1)
    with pytest.raises(Unavailable, match=f"hands over by version {VERSION + 1}, the new one takes version"):
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


def test_the_old_process_stays_as_long_as_a_tls_connection(web, pki):
    tls = ("--tls", "require", "--tls-cert", pki / "server-cert.pem", "--tls-key", pki / "server-key.pem")
    web.serve("web", *tls)
    uri = f"nbds+unix:///web?socket={web.socket}&tls-certificates={pki}&tls-hostname=localhost"
    old = web.server
    with Client(uri) as client:
        client.pwrite(b"1" * 512, 0)
        new = subprocess.Popen(cdp_argv("serve", "web", "--replace", *map(str, tls)), cwd=web.path, env=environ(),
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        web.server = new
        assert "cdp: ready\n" in iter(new.stderr.readline, "")
        assert client.pread(512, 0) == b"1" * 512
        client.pwrite(b"2" * 512, 0, fua=True)
        with Client(uri) as late:
            assert late.pread(512, 0) == b"2" * 512
        assert old.poll() is None
    assert old.wait(30) == 0
    old.stdout.close()
    new.send_signal(signal.SIGTERM)
    _, said = new.communicate(timeout=60)
    web.server = None
    assert new.returncode == 0 and "Traceback" not in said
