"""A server that is suspended: commands say so and end; a signal that comes meanwhile is not lost; a server at work is
waited for."""
import os
import signal
import subprocess
import sys
import time

from support import interop
from support.interop import MIB, world  # noqa: F401  (a fixture)

import cdp
from cdp.service import remote
from cdp.service.connect import connect

BOUND_SECONDS = 25  # two waits and two starts of Python on a busy machine
# `cdp`, with less patience than 5 s.
HASTY = """
import sys
from cdp.__main__ import main
from cdp.service import remote
remote.PING_SECONDS = remote.WATCH_SECONDS = 1.0
sys.argv[0] = "cdp"
main()
"""


def gives_up(process, began):
    """The command ended in time with one line that says which process to continue."""
    out, err = process.communicate(timeout=BOUND_SECONDS)
    assert time.monotonic() - began < BOUND_SECONDS
    assert process.returncode == 8, (out, err)
    assert err.count("\n") == 1 and "has not answered for 1 s" in err and "kill -CONT" in err, err


def test_commands_give_up_and_a_signal_is_not_lost(world):  # noqa: F811
    """SIGSTOP in the middle of an import; then every command, `serve` too, gives up; SIGTERM, SIGCONT: the server ends
    as it should."""
    cdp.create(world.path / "web", size=64 * MIB).close()
    with open(world.path / "disk.img", "wb") as file:
        file.writelines(bytes([i + 1]) * MIB for i in range(64))
    world.serve("web")
    pid = world.server.pid

    def start(*args):
        return subprocess.Popen([sys.executable, "-c", HASTY, *args], cwd=world.path, env=interop.environ(), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    with connect(str(world.path / "web")) as service:
        service.window()        # has the application loaded: the commands below have little patience
        importing = start("import", "disk.img", "web")
        while service.window()["newest"]["seq"] < 2:
            assert importing.poll() is None
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    running = [importing, start("info", "web"), start("bookmark", "web", "x"), start("serve", "web")]
    for process in running:
        gives_up(process, began)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    assert world.server.wait(30) == 0, world.log.read_text()
    world.server.stdout.close()
    world.server = None
    assert [mark["name"] for mark in world.json("bookmarks", "web")] in ([], ["x"])


def test_signals_while_suspended(world):  # noqa: F811
    """Whichever thread gets the signal when the process goes on."""
    cdp.create(world.path / "web", size=MIB).close()
    for _ in range(4):
        world.serve("web")
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
            os.kill(world.server.pid, number)
            time.sleep(0.05)
        assert world.server.wait(20) == 0
        world.server.stdout.close()


def test_a_server_at_work_is_waited_for(world, monkeypatch):  # noqa: F811
    """However long an answer takes: the server is asked meanwhile, and the answer comes."""
    cdp.create(world.path / "web", size=16 * MIB).close()
    world.serve("web")
    asked = []
    server = remote.RemoteService.server

    def counted(self):
        asked.append(1)
        return server(self)

    monkeypatch.setattr(remote, "WATCH_SECONDS", 0.001)
    monkeypatch.setattr(remote.RemoteService, "server", counted)
    with connect(str(world.path / "web")) as service:
        service.write(0, b"x" * (16 * MIB))
        assert service.read(0, 16 * MIB) == b"x" * (16 * MIB)
        assert service.check()["ok"]
    assert len(asked) > 1
    world.stop()
