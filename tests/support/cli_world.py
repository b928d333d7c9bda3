"""A volume that commands look at and change, in this process: with a server that has it open, and without."""
import json
import os
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

import cdp
from cdp.cli import cli
from cdp.serve.admin import AdminServer
from cdp.serve.held import Held
from cdp.serve.image_cache import ImageCache
from cdp.service import connect as connecting
from cdp.service.connect import connect
from cdp.service.local import VolumeService
from cdp.service.locate import identity
from cdp.service.serving_file import remove_serving, write_serving
from cdp.views import ServedView

KIB, MIB = 1024, 1 << 20
SIZE = 2 * MIB


class World:
    """A directory with the volume `web`, and how to reach it."""

    def __init__(self, tmp_path, served):
        self.path, self.served = tmp_path, served
        self._volume = self._admin = None
        cdp.create("web", size=SIZE).close()
        self.serve()

    def serve(self):
        if not self.served:
            return
        self._volume = cdp.open("web")
        served = ServedView(pid=os.getpid(), admin_socket=str(self.path / "admin.sock"), name="web",
                            uris=["nbd://test/web"])
        self._image_cache = ImageCache(self._volume)
        held = Held(VolumeService(self._volume, served), self._image_cache, identity("web"),
                    lambda name: [f"nbd://test/{name}"])
        self._admin = AdminServer(served["admin_socket"], {"web": held})
        self._admin.start()
        write_serving("web", served)

    def close(self):
        if self._admin:
            remove_serving("web")
            self._admin.close()
            self._image_cache.close()
            self._volume.close()
            self._admin = None

    @contextmanager
    def volume(self):
        """The volume for the library, whoever holds it."""
        if self._volume is not None:
            yield self._volume
        else:
            with cdp.open("web") as volume:
                yield volume

    def run(self, *args):
        return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="cdp")

    def ok(self, *args):
        """Standard output of a command that must succeed."""
        result = self.run(*args)
        assert result.exit_code == 0, (args, result.output)
        assert "error" not in result.stderr
        return result.stdout

    def json(self, *args):
        return json.loads(self.ok(*args, "--json"))

    def refused(self, status, *args, hint=""):
        """A command that must fail, with one line, and change nothing."""
        before = self.state()
        result = self.run(*args)
        assert result.exit_code == status, (args, result.exit_code, result.output)
        assert result.stdout == ""
        assert result.stderr.startswith("cdp: error: ") and result.stderr.count("\n") == 1, result.stderr
        assert "; " in result.stderr.removeprefix("cdp: error: "), f"no next step: {result.stderr}"
        assert hint in result.stderr, result.stderr
        assert self.state() == before, args
        return result.stderr

    def state(self):
        """All that a command could have changed, but for what is only shown."""
        with connect("web") as service:
            names = sorted(os.listdir(self.path))
            return (service.window(), service.bookmarks(), service.images(), service.restores(),
                    service.read(0, SIZE), names)


@pytest.fixture(params=["local", "served"])
def world(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connecting, "LOCK_WAIT_SECONDS", 0.2)
    monkeypatch.delenv("CDP_CONFIG", raising=False)
    made = World(tmp_path, request.param == "served")
    yield made
    made.close()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args):
    return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="cdp")


def write(world, *pieces):
    """Write (offset, bytes) and flush; the seqs after each."""
    with world.volume() as volume:
        seqs = []
        for offset, data in pieces:
            volume.pwrite(data, offset)
            seqs.append(volume.window().newest.seq)
        volume.flush()
    return seqs


# create
