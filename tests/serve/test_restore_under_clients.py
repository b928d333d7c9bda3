"""A restore or undo is refused while NBD clients are connected that may write: behind `cdp serve`, and behind a gateway
and its daemon."""
import os
import subprocess
import time

import pytest
from support.interop import cdp_argv, environ, run, world  # noqa: F401

from cdp.nbd.client import Client
from cdp.service.connect import connect
from cdpcore.base.errors import Busy

DATA, CHANGED = b"a" * 4096, b"b" * 4096


@pytest.fixture(params=["serve", "ha serve"])
def served(world, request):  # noqa: F811
    """A served volume `web`, changed since its bookmark `good`."""
    world.create("web", 1)
    if request.param == "serve":
        world.serve("web")
    else:
        world.log.touch()
        with world.log.open("wb") as log:
            world.server = subprocess.Popen(
                cdp_argv("ha", "serve", "web", "--unix", world.socket, "--admin-socket", world.sockets / "admin.sock"),
                cwd=world.path, env=environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        until_s = time.monotonic() + 60
        while "cdp: ready" not in world.log.read_text() or not (world.path / "web/serving.json").exists():
            assert world.server.poll() is None and time.monotonic() < until_s, world.log.read_text()
            time.sleep(0.05)
    with Client(world.uri("web")) as client:
        client.pwrite(DATA, 0)
        client.flush()
        world.cdp("bookmark", "web", "good")
        client.pwrite(CHANGED, 0)
        client.flush()
    return world


def content(world, export="web"):  # noqa: F811
    with Client(world.uri(export)) as client:
        return client.pread(4096, 0)


def refused(world, *args):  # noqa: F811
    done = run(*cdp_argv(*args), cwd=world.path, status=7)
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_refused_named_forced(served):
    with Client(served.uri("web")) as client:
        said = refused(served, "restore", "web@good")
        assert "a client that may write is connected: connection " in said and f"process {os.getpid()}" in said
        assert "--wait 30s" in said and "--force" in said and client.pread(4096, 0) == CHANGED
        dry = run(*cdp_argv("restore", "web@good", "--dry-run"), cwd=served.path)
        assert "it would be refused: a client that may write is connected" in dry.stderr
        with connect(str(served.path / "web")) as service:
            found = service.clients()
            assert [(c["export"], c["read_only"]) for c in found] == [("web", False)] and found[0]["connected_ms"] >= 0
            with pytest.raises(Busy, match="may write"):
                service.restore("good")
        served.cdp("restore", "web@good", "--force")
        assert client.pread(4096, 0) == DATA
        assert "may write" in refused(served, "undo", "web")
        with Client(served.uri("web")):
            assert "2 clients that may write are connected" in refused(served, "undo", "web", "--wait", "100ms")
        served.cdp("undo", "web", "--force")
        assert client.pread(4096, 0) == CHANGED
    served.cdp("restore", "web@good")       # at once after the client has hung up
    assert content(served) == DATA
    served.stop()


def test_clients_of_other_disks_are_in_nobodys_way(served):
    served.cdp("image", "create", "web@good", "trial")
    with Client(served.uri("web@good")) as past, Client(served.uri("web/trial")) as image:
        served.cdp("restore", "web@good")
        assert content(served) == past.pread(4096, 0) == DATA
        served.cdp("undo", "web")
        image.pwrite(CHANGED, 0)
        assert "may write" in refused(served, "restore", "web/trial@#0")
    served.cdp("restore", "web/trial@#0")
    assert content(served, "web/trial") == DATA
    served.stop()


def test_wait(served):
    with Client(served.uri("web")) as client:
        waiting = subprocess.Popen(cdp_argv("restore", "web@good", "--wait", "30s"), cwd=served.path, env=environ(),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(1.5)
        assert waiting.poll() is None and client.pread(4096, 0) == CHANGED
    assert waiting.wait(20) == 0, waiting.communicate()
    waiting.communicate()
    assert content(served) == DATA
    run(*cdp_argv("undo", "web", "--force", "--wait", "1s"), cwd=served.path, status=2)
    served.stop()
