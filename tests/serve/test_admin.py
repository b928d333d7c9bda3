"""The two ways to a volume offer the same; errors keep their kind over HTTP; images that a server has open."""
import inspect
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import cdp
from cdp.ipc.errors import encode_error
from cdp.serve.admin import AdminServer
from cdp.serve.held import Held
from cdp.serve.http_api import STATUS, build_app
from cdp.serve.image_cache import IDLE, ImageCache
from cdp.service.local import VolumeService
from cdp.service.remote import RemoteService
from cdp.views import MAX_PAGE_EXTENTS, MAX_PAGE_RECORDS, MAX_PIECE_BYTES, Service
from cdpcore.base import errors

MIB = 1 << 20
OPERATIONS = [name for name in vars(Service) if not name.startswith("_")]


@pytest.fixture
def volume(tmp_path):
    with cdp.create(tmp_path / "web", size=MIB) as made:
        yield made


@pytest.mark.parametrize("name", OPERATIONS)
def test_both_ways_have_the_same_operations(name):
    want = inspect.signature(getattr(Service, name))
    assert inspect.signature(getattr(RemoteService, name)) == want
    got = inspect.signature(getattr(VolumeService, name))
    assert got.return_annotation == want.return_annotation
    for key, parameter in want.parameters.items():
        assert got.parameters[key] == parameter
    extra = set(got.parameters) - set(want.parameters)
    assert all(got.parameters[key].default is not inspect.Parameter.empty for key in extra)


def test_every_kind_of_error_has_a_status_and_comes_back_as_itself():
    kinds = [kind for kind in vars(errors).values()
             if isinstance(kind, type) and issubclass(kind, errors.CdpError) and kind is not errors.CdpError]
    assert set(STATUS) == set(kinds)
    for kind in kinds:
        body = encode_error(kind("what", "next"))
        assert body == {"kind": kind.__name__, "message": "what", "hint": "next", "exit_code": kind.exit_code}
        assert 400 <= STATUS[kind] < 600


def test_every_answer_is_described(volume):
    image_cache = ImageCache(volume)
    document = build_app({"web": Held(VolumeService(volume), image_cache, "1:1", lambda name: [])}).openapi()
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            good = next(answer for status, answer in described["responses"].items() if status.startswith("2"))
            status = next(status for status in described["responses"] if status.startswith("2"))
            assert status == "204" or good["content"], (method, path)
            assert {"400", "404", "409", "422", "500", "503", "507"} <= set(described["responses"]), (method, path)


def test_pieces_and_pages_are_bounded(volume):
    service = VolumeService(volume)
    for call in (lambda: service.read(0, MAX_PIECE_BYTES + 1), lambda: service.read(0, -1),
                 lambda: service.write(0, bytes(MAX_PIECE_BYTES + 1)), lambda: service.records(limit=0),
                 lambda: service.records(limit=MAX_PAGE_RECORDS + 1), lambda: service.map(limit=0),
                 lambda: service.map(limit=MAX_PAGE_EXTENTS + 1)):
        with pytest.raises(errors.InvalidRequest):
            call()
    assert volume.window().newest.seq == 0


def test_map_in_pages_is_the_map(volume):
    for block in range(0, 64, 2):
        volume.pwrite(b"x" * 4096, block * 4096)
    service, offset, paged = VolumeService(volume), 0, []
    while offset is not None:
        page = service.map(offset, MIB - offset, limit=5)
        assert len(page["extents"]) <= 5
        paged += page["extents"]
        offset = page["next_offset"]
    assert [(e["offset"], e["length"], e["kind"]) for e in paged] == [
        (e.offset, e.length, e.kind) for e in volume.extents()]


# images that are open


def test_an_image_stays_open_for_the_next_and_few_do(volume):
    names = [f"i{n}" for n in range(IDLE + 3)]
    for name in names:
        volume.create_image(name)
    image_cache = ImageCache(volume)
    seen = {}
    for name in names:
        with image_cache.lease((name,)) as image:
            seen[name] = image
            assert not image.closed
    assert [name for name in names if not seen[name].closed] == names[-IDLE:]
    with image_cache.lease((names[-1],)) as again:
        assert again is seen[names[-1]]
    image_cache.close()
    assert all(image.closed for image in seen.values())
    with pytest.raises(errors.Closed), image_cache.lease((names[0],)):
        pass


def test_what_somebody_has_is_not_closed(volume):
    volume.create_image("a")
    image_cache = ImageCache(volume)
    first = image_cache.acquire(("a",))
    assert image_cache.acquire(("a",)) is first
    image_cache.release(("a",))
    image_cache.close()
    assert not first.closed
    image_cache.release(("a",))
    assert first.closed


def test_deleting_closes_the_idle_ones_below_first(volume):
    volume.create_image("a")
    image_cache = ImageCache(volume)
    with image_cache.lease(("a",)) as image:
        image.create_image("b")
    with image_cache.lease(("a", "b")):
        pass
    with image_cache.deleting(("a", "b")), image_parent(volume) as parent:
        parent.delete_image("b")
    with image_cache.lease(("a",)), image_cache.deleting(("a",)), pytest.raises(errors.Busy):
        volume.delete_image("a")
    with image_cache.deleting(("a",)):
        volume.delete_image("a")
    with pytest.raises(errors.NotFound, match="cdp image list"), image_cache.lease(("a",)):
        pass
    image_cache.close()


def image_parent(volume):
    return volume.open_image("a")


def test_many_at_once(volume):
    for name in ("a", "b", "c", "d"):
        volume.create_image(name)
    image_cache = ImageCache(volume)
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        for turn in range(25):
            name = "abcd"[(number + turn) % 4]
            with image_cache.lease((name,)) as image:
                image.pwrite(bytes([number + 1]) * 512, number * 512)
                assert image.pread(512, number * 512) == bytes([number + 1]) * 512
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    image_cache.close()
    for name in "abcd":
        with volume.open_image(name) as image:
            assert image.pread(4096, 0) == b"".join(bytes([number + 1]) * 512 for number in range(8))


ONE_SERVER = """
import os, socket, sys
from cdp.serve.admin import AdminServer
def server(n):
    made = AdminServer(f"admin{n}.sock", {})
    made.start()
    return made
def asked(n, path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"admin{n}.sock")
        client.sendall(f"GET {path} HTTP/1.1\\r\\nHost: cdp\\r\\nConnection: close\\r\\n\\r\\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))
server(0).close()
AdminServer("admin1.sock", {}).close()
one = server(2)
assert asked(2, "/v1/server").startswith(b"HTTP/1.1 200 ")
assert "fastapi" not in sys.modules
assert b'"kind":"NotFound"' in asked(2, "/v1/volumes/none") and "fastapi" in sys.modules
one.close()
taken = server(3).hand_over(force=False)
with socket.socket(socket.AF_UNIX) as waiting:      # a client of the next server, in the queue since before it
    waiting.connect("admin3.sock")
    after = AdminServer("admin3.sock", {}, listener=taken)
    after.start()
    waiting.sendall(b"GET /v1/server HTTP/1.1\\r\\nHost: cdp\\r\\nConnection: close\\r\\n\\r\\n")
    assert waiting.recv(15) == b"HTTP/1.1 200 OK"
after.close()
assert not [name for name in os.listdir() if name.endswith(".sock")]
"""


def test_the_application_is_loaded_by_the_first_request_for_it(tmp_path):
    done = subprocess.run([sys.executable, "-W", "error", "-c", ONE_SERVER], cwd=tmp_path, capture_output=True,
                          text=True, timeout=100, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_who_the_server_is_is_answered_while_the_application_is_loaded(tmp_path, monkeypatch):
    loading, go_on = threading.Event(), threading.Event()

    def slow(*_of_the_server):
        loading.set()
        assert go_on.wait(100)
        raise ImportError("no such module")

    monkeypatch.setattr("cdp.serve.http_api.build_app", slow)
    server = AdminServer(str(tmp_path / "admin.sock"), {})
    server.start()
    transport = httpx.HTTPTransport(uds=server.path)
    with ThreadPoolExecutor(1) as pool, httpx.Client(transport=transport, timeout=100) as http:
        answer = pool.submit(http.get, "http://cdp/v1/volumes/web")
        assert loading.wait(100)
        assert http.get("http://cdp/v1/server").json() == {"pid": os.getpid(), "volumes": {}, "not_open": []}
        assert not answer.done()
        go_on.set()
        assert answer.result(100).status_code == 500        # and it is in the log
    server.close()
