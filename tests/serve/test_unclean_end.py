"""A server that could not close a volume cleanly says so, and does not end with status 0."""
import signal
import subprocess
import time

import pytest
from support.interop import cdp_argv, environ, run, world  # noqa: F401

from cdp.nbd.client import Client


@pytest.mark.parametrize("command", [("serve",), ("ha", "serve")], ids=" ".join)
def test_the_folder_was_moved(world, command):  # noqa: F811
    world.create("web", 1)
    with world.log.open("wb") as log:
        server = subprocess.Popen(
            cdp_argv(*command, "web", "--unix", world.socket, "--admin-socket", world.sockets / "admin.sock"),
            cwd=world.path, env=environ(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
    try:
        until_s = time.monotonic() + 60
        while "cdp: ready" not in world.log.read_text():
            assert server.poll() is None and time.monotonic() < until_s, world.log.read_text()
            time.sleep(0.05)
        with Client(world.uri("web")) as client:
            client.pwrite(b"1" * 4096, 0, fua=True)
        (world.path / "web").rename(world.path / "away")
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 8, world.log.read_text()
        said = world.log.read_text()
        assert "closed cleanly" in said and "the folder of this open volume was moved" in said
        assert "Traceback" not in said
    finally:
        server.kill()
        server.wait()
    assert "#1 " in run(*cdp_argv("records", "away"), cwd=world.path).stdout


def test_detach_of_a_served_volume_without_a_disk(world):  # noqa: F811
    world.create("web", 1)
    world.serve("web")
    for command in ("detach", "adopt"):
        done = run(*cdp_argv(command, "web"), cwd=world.path, status=2)
        assert "web: protects no disk in place" in done.stderr
    world.stop()


def test_a_planned_switch_warns_of_nothing(world):  # noqa: F811
    world.create("web", 1)
    control = world.sockets / "ha.sock"
    with world.log.open("wb") as log:
        server = subprocess.Popen(
            cdp_argv("ha", "serve", "web", "--unix", world.socket, "--admin-socket", world.sockets / "admin.sock",
                     "--control", control),
            cwd=world.path, env=environ(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
    try:
        until_s = time.monotonic() + 60
        while run(*cdp_argv("ha", "switch", "--control", control), cwd=world.path, status=None).returncode:
            assert server.poll() is None and time.monotonic() < until_s, world.log.read_text()
            time.sleep(0.2)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        said = world.log.read_text()
        assert "is dead" not in said and " has released the volumes and ended" in said
        assert [line for line in said.splitlines() if " WARNING " in line and "gateway" not in line] == []
    finally:
        server.kill()
        server.wait()
