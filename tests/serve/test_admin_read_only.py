"""The second administration socket: it answers GET and nothing else, whatever the route, and only it is for the
group."""
import os
import stat

import httpx
import pytest
from support.interop import World, world  # noqa: F401

import cdp
from cdp.cli import exits
from cdp.serve.admin import AdminServer
from cdp.serve.held import Held
from cdp.serve.http_api import build_app
from cdp.serve.image_cache import ImageCache
from cdp.service.local import VolumeService
from cdpcore.base.errors import Busy

MIB = 1 << 20
# POST that changes nothing is refused as well: what a method does is not looked at.
METHODS = {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT"}


@pytest.fixture
def both(tmp_path):
    with cdp.create(tmp_path / "web", size=MIB) as volume:
        volume.pwrite(b"x" * 4096, 0)
        volume.bookmark("one")
        held = {"web": Held(VolumeService(volume), ImageCache(volume), "1:1", lambda name: [])}
        admin = AdminServer(str(tmp_path / "a"), held, read_path=str(tmp_path / "r"))
        admin.start()
        try:
            yield volume, tmp_path, held
        finally:
            admin.close()
    assert not (tmp_path / "r").exists() and not (tmp_path / "a").exists()


def client(path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://cdp", timeout=60)


def test_each_route_reads_or_is_refused(both):
    volume, folder, held = both
    routes = {(path, method.upper()) for path, methods in build_app(held).openapi()["paths"].items()
              for method in methods}
    routes |= {("/openapi.json", "GET")}
    before = volume.window().newest.seq
    answered = refused = 0
    with client(folder / "r") as reads:
        for path, described in sorted(routes):
            for method in sorted(METHODS | {described}):
                got = reads.request(method, path.format(volume="web"), json={"name": "no", "point": "one"})
                if method == "GET":
                    assert got.status_code != 403, (method, path)
                    answered += got.status_code == 200
                else:
                    assert got.status_code in (403, 400), (method, path, got.status_code)
                    refused += got.status_code == 403
                    if got.status_code == 403 and method != "HEAD":
                        assert got.json()["message"].endswith("this socket answers GET requests only")
    print(f"{len(routes)} routes: {answered} answered, {refused} requests refused")
    assert answered >= 10 and refused >= len(routes) * 6
    assert volume.window().newest.seq == before and [mark.name for mark in volume.bookmarks()] == ["one"]
    with client(folder / "a") as all_:
        assert all_.post("/v1/volumes/web/bookmarks", json={"name": "two"}).status_code == 201
    with client(folder / "r") as reads:
        assert [mark["name"] for mark in reads.get("/v1/volumes/web/bookmarks").json()] == ["one", "two"]
        assert reads.get("/v1/server").json()["volumes"] == {"web": "1:1"}


def test_modes(both):
    _, folder, _ = both
    assert stat.S_IMODE(os.stat(folder / "r").st_mode) == 0o660
    assert stat.S_IMODE(os.stat(folder / "a").st_mode) == 0o600


def test_a_path_that_is_taken_leaves_nothing_behind(both, tmp_path):
    _, folder, held = both
    with pytest.raises(Busy):
        AdminServer(str(tmp_path / "b"), held, read_path=str(folder / "r"))
    assert not (tmp_path / "b").exists()


def test_a_server_has_it_after_a_replacement_too(world: World):  # noqa: F811
    world.cdp("create", "web", "--size", "1M")
    path = world.sockets / "reads.sock"
    world.serve("web", "--admin-read-socket", str(path))
    with client(path) as reads:
        pid = reads.get("/v1/server").json()["pid"]
        assert pid == world.server.pid
        assert reads.post("/v1/volumes/web/bookmarks", json={"name": "no"}).status_code == 403
    old = world.server
    world.serve("web", "--admin-read-socket", str(path), "--replace")
    assert old.wait(60) == exits.OK
    old.stdout.close()
    with client(path) as reads:
        assert reads.get("/v1/server").json()["pid"] == world.server.pid != pid
        assert reads.delete("/v1/volumes/web/bookmarks", params={"name": "x"}).status_code == 403
    world.stop()
    assert not path.exists()
