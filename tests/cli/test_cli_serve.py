"""`cdp serve` as a process: exports, signals, what a killed server leaves behind, and what is refused before ready."""
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

import cdp
from cdp.cli import exits
from cdp.nbd.client import Client, unix_address
from cdp.nbd.protocol import TransmissionFlag
from cdp.service import connect as connecting
from cdp.service.connect import connect
from cdp.service.serving_file import read_serving
from cdpcore.base.errors import InvalidRequest, NotFound, Unavailable

MIB = 1 << 20
CLI = [sys.executable, "-m", "cdp"]


def nbd(path, name):
    return Client(unix_address(path, name))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("CDP_CONFIG", raising=False)
    monkeypatch.setattr(connecting, "LOCK_WAIT_SECONDS", 0.2)
    cdp.create("web", size=8 * MIB).close()
    return tmp_path


@contextmanager
def serving(*args):
    """A ready server: (process, URIs)."""
    process = subprocess.Popen([*CLI, "serve", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        log = []
        for line in process.stderr:
            log.append(line)
            if line == "cdp: ready\n":
                break
        else:
            pytest.fail(f"the server ended: {''.join(log)}")
        process.log = log
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def stopped(process, number=signal.SIGTERM):
    """Stop a server; its exit status."""
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    process.out = out
    return process.returncode


def run(*args):
    return subprocess.run([*CLI, *args], check=False, capture_output=True, text=True, timeout=120)


def refused(status, *args, hint=""):
    result = run(*args)
    assert result.returncode == status, result
    assert result.stdout == "" and result.stderr.count("\n") == 1, result
    assert result.stderr.startswith("cdp: error: ")
    assert "; " in result.stderr and hint in result.stderr, result.stderr
    return result.stderr


def socket_of(uri):
    return parse_qs(urlsplit(uri).query)["socket"][0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT], ids=lambda n: n.name)
def test_a_signal_stops_it_in_order(here, number, request):
    """What was acknowledged is kept, flushed or not; the socket and serving.json go."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)   # the tests may run under nohup
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, before))
    with serving("web", "--unix", here / "w.sock") as process:
        client = nbd(here / "w.sock", "web")
        client.pwrite(b"Z" * 4096, 0)
        assert stopped(process, number) == 0
    assert not (here / "w.sock").exists() and not (here / "web" / "serving.json").exists()
    with cdp.open("web") as volume:
        assert volume.pread(4096, 0) == b"Z" * 4096


def test_under_nohup_a_hangup_does_not_stop_it(here):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with serving("web", "--unix", here / "w.sock") as process:
            process.send_signal(signal.SIGHUP)
            with nbd(here / "w.sock", "web") as client:
                client.pwrite(b"Z" * 4096, 0)
                client.flush()
            assert process.poll() is None and stopped(process) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_whole_way(here):
    with serving("web") as process:
        uri = process.stdout.readline().strip()
        assert uri.startswith("nbd+unix:///web?socket=")
        path = socket_of(uri)
        assert path == str(here / "cdp" / "web.sock")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(here / "cdp" / "web.admin.sock").st_mode) == 0o600
        assert stat.S_IMODE(os.stat(here / "cdp").st_mode) == 0o700

        disk = nbd(path, "web")
        assert disk.size_bytes == 8 * MIB
        disk.pwrite(b"a" * 4096, 0)
        disk.flush()
        assert json.loads(run("bookmark", "web", "first", "--json").stdout)["at"]["seq"] > 0
        disk.pwrite(b"b" * 4096, 0)

        past = nbd(path, "web@first")
        assert past.pread(4096, 0) == b"a" * 4096 and TransmissionFlag.READ_ONLY in past.flags
        with pytest.raises(Unavailable, match="not permitted"):
            past.pwrite(b"x" * 512, 0)
        assert run("image", "create", "web@first", "test").returncode == 0
        image = nbd(path, "web/test")
        assert image.pread(4096, 0) == b"a" * 4096
        image.pwrite(b"c" * 4096, 0)
        assert run("image", "delete", "web", "test").returncode == exits.BUSY
        inner = nbd(path, "web/test@now")
        assert inner.pread(4096, 0) == b"c" * 4096
        assert disk.pread(4096, 0) == b"b" * 4096
        for connection in (past, image, inner):
            connection.close()

        # A restore under a client that stays connected.
        assert run("restore", "web@first", "--force").returncode == 0
        assert disk.pread(4096, 0) == b"a" * 4096
        assert run("undo", "web", "--force").returncode == 0
        assert disk.pread(4096, 0) == b"b" * 4096
        with pytest.raises(NotFound, match="nosuchmark"):
            nbd(path, "web@nosuchmark")
        with pytest.raises(NotFound):
            nbd(path, "other")
        assert stopped(process) == 0
    assert not os.path.exists(path) and read_serving("web") is None
    with cdp.open("web") as volume:
        assert volume.pread(4096, 0) == b"b" * 4096
    with connect("web/test") as service:
        assert service.read(0, 4096) == b"c" * 4096


def test_json_lists_volumes_images_and_every_address(here):
    cdp.create("db", size=MIB).close()
    with cdp.open("web") as volume:
        volume.create_image("test")
        with volume.open_image("test") as image:
            image.create_image("inner")
    with serving("web", "db", "--unix", "n.sock", "--tcp", "127.0.0.1:0", "--json") as process:
        assert stopped(process, signal.SIGINT) == 0
    view = json.loads(process.out)
    assert [export["name"] for export in view["exports"]] == ["web", "web/test", "web/test/inner", "db"]
    assert view["pid"] == process.pid and view["read_only"] is False
    for export in view["exports"]:
        unix, tcp = export["uris"]
        assert socket_of(unix) == str(here / "n.sock")
        assert urlsplit(tcp).scheme == "nbd" and urlsplit(tcp).port > 0
        assert unquote(urlsplit(tcp).path) == "/" + export["name"]


def test_two_volumes_and_tcp(here):
    cdp.create("db", size=MIB).close()
    with serving("web", "db", "--tcp", "127.0.0.1:0") as process:
        uris = [process.stdout.readline().strip() for _ in range(2)]
        for uri, size in zip(uris, (8 * MIB, MIB), strict=True):
            with Client(uri) as disk:
                assert disk.size_bytes == size
        for name in ("web", "db"):
            assert json.loads(run("info", name, "--json").stdout)["served"]["pid"] == process.pid


def test_read_only(here):
    with serving("web", "--read-only", "--unix", "n.sock"):
        with nbd("n.sock", "web") as disk, pytest.raises(Unavailable, match="not permitted"):
            assert TransmissionFlag.READ_ONLY in disk.flags
            disk.pwrite(b"x" * 512, 0)
        assert run("bookmark", "web", "still-works").returncode == 0


def test_a_second_signal_ends_it_at_once(here):
    # The first one is blocked by a stop that does not come to its end.
    code = """
import signal, sys
from cdp.cli import cli
from cdp.serve import server
server.Server.__exit__ = lambda self, *exc: (print("stopping", flush=True), signal.pause())
cli(["serve", "web", "--unix", "n.sock"])"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "cdp: ready\n" in process.stderr
    process.terminate()
    assert "stopping\n" in process.stdout
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped at once" in err


def test_what_a_killed_server_leaves_is_no_obstacle(here):
    with serving("web") as process:
        path = socket_of(process.stdout.readline().strip())
        disk = nbd(path, "web")
        disk.pwrite(b"k" * 4096, 0)
        disk.flush()
        process.kill()
        process.wait()
        process.communicate()
    assert read_serving("web") is not None and os.path.exists(path)
    info = json.loads(run("info", "web", "--json").stdout)
    assert info["served"] is None and info["window"]["newest"]["seq"] >= 1
    with serving("web") as process:
        disk = nbd(path, "web")
        assert disk.pread(4096, 0) == b"k" * 4096
        disk.close()


def test_another_server_on_the_old_socket_is_not_taken_for_it(here):
    """A stale serving.json whose socket now belongs to the server of another volume of the same name."""
    os.mkdir("other")
    cdp.create("other/web", size=MIB).close()
    with serving("other/web", "--unix", "n.sock", "--admin-socket", "a.sock"):
        shutil.copy("other/web/serving.json", "web/serving.json")
        assert json.loads(run("info", "web", "--json").stdout)["size_bytes"] == 8 * MIB


@pytest.mark.parametrize("args, status, hint", [
    (["web@now"], exits.USAGE, "the point is then the export web@now"),
    (["web/test"], exits.USAGE, "the image is then the export web/test"),
    (["web", "other/web"], exits.USAGE, "two servers"),
    (["web", "web"], exits.USAGE, ""),
    (["web", "--tcp", "10809"], exits.USAGE, "localhost:10809"),
    (["web", "--tcp", "192.0.2.1:1"], exits.UNAVAILABLE, ""),
    (["web", "--unix", "none/n.sock"], exits.NOT_FOUND, "mkdir -p none"),
    (["web", "--unix", "x" * 120], exits.USAGE, ""),
    (["web", "--unix", "file"], None, ""),
    (["web", "--admin-socket", "file"], exits.USAGE, "choose another path"),
    (["web", "--admin-socket", "none/a.sock"], exits.NOT_FOUND, "mkdir -p none"),
    (["web", "--tls", "require"], exits.USAGE, "--tls-cert"),
    (["web", "--tls-cert", "file"], exits.USAGE, "tls"),
    (["web", "--tls", "on", "--tls-cert", "none.pem", "--tls-key", "none.pem"], exits.USAGE, ""),
    (["web", "--tls", "on", "--tls-cert", "file", "--tls-key", "file"], exits.USAGE, ""),
    (["web", "--max-connections", "0"], exits.USAGE, "1 .. 4096"),
    (["web", "nowhere"], exits.NOT_FOUND, "cdp create nowhere"),
])
def test_what_serve_refuses(here, args, status, hint):
    os.mkdir("other")
    cdp.create("other/web", size=MIB).close()
    Path("file").write_text("x")
    with cdp.open("web") as volume:
        volume.create_image("test")
    before = sorted(os.listdir("."))
    result = run("serve", *args)
    assert result.returncode == status if status is not None else result.returncode in (
        exits.USAGE, exits.NOT_FOUND, exits.BUSY, exits.UNAVAILABLE), result
    assert result.stdout == "" and "; " in result.stderr and hint in result.stderr, result.stderr
    lines = result.stderr.splitlines()
    assert [line for line in lines if " INFO " not in line] == lines[-1:], lines
    assert lines[-1].startswith("cdp: error: ")
    assert sorted(set(os.listdir(".")) - {"cdp"}) == before
    assert read_serving("web") is None
    with cdp.open("web") as volume:  # let go of
        assert volume.window().newest.seq == 0
    assert Path("file").read_text() == "x"


def test_an_address_in_use(here):
    cdp.create("db", size=MIB).close()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        text = run("serve", "web", "--tcp", f"127.0.0.1:{other.getsockname()[1]}").stderr
        assert "cdp: error: " in text and "; " in text.splitlines()[-1]
    with serving("web", "--unix", "n.sock"):
        assert run("serve", "db", "--unix", "n.sock").returncode == exits.BUSY
        os.mkdir("other")
        cdp.create("other/web", size=MIB).close()
        with serving("other/web") as second:  # the same name, elsewhere
            assert socket_of(second.stdout.readline().strip()) == str(here / "cdp" / "web-2.sock")
            assert json.loads(run("info", "other/web", "--json").stdout)["size_bytes"] == MIB
            assert json.loads(run("info", "web", "--json").stdout)["size_bytes"] == 8 * MIB
        refused(exits.BUSY, "serve", "web", "--unix", "m.sock", hint="is served already")
        disk = nbd("n.sock", "web")  # undisturbed
        disk.close()


def test_the_administration_document(here):
    httpx = pytest.importorskip("httpx")
    with (serving("web", "--unix", "n.sock", "--admin-socket", "a.sock"),
          httpx.Client(transport=httpx.HTTPTransport(uds="a.sock"), base_url="http://cdp") as http):
        document = http.get("/openapi.json").json()
        assert document["openapi"].startswith("3.")
        for path in ("info", "window", "explain", "bookmarks", "images", "restores", "undo", "records", "map",
                     "content",
                     "zero", "flush", "check"):
            suffix = "" if path == "info" else f"/{path}"
            assert f"/v1/volumes/{{volume}}{suffix}" in document["paths"]
        assert "ErrorView" in document["components"]["schemas"]
        for request, status, kind in (
            (("GET", "/v1/volumes/none"), 404, "NotFound"),
            (("GET", "/v1/volumes/web?image=none"), 404, "NotFound"),
            (("GET", "/v1/volumes/web/explain?point=%2399"), 422, "RefusedPoint"),
            (("GET", "/v1/volumes/web/explain"), 400, "InvalidRequest"),
            (("GET", "/v1/volumes/web/records?limit=0"), 400, "InvalidRequest"),
            (("GET", "/v1/volumes/web/content?offset=0&length=99999999"), 400, "InvalidRequest"),
            (("GET", "/v1/volumes/web/content?offset=8388608&length=512"), 400, "InvalidRequest"),
            (("POST", "/v1/volumes/web/undo"), 400, "InvalidRequest"),
        ):
            answer = http.request(*request)
            body = answer.json()
            assert answer.status_code == status, (request, body)
            assert body["kind"] == kind and body["message"] and body["exit_code"] == getattr(cdp, kind).exit_code
        # A slip of the pen must not restore.
        strange = http.post("/v1/volumes/web/restores", json={"point": "now", "dryrun": True})
        assert strange.status_code == 400
        too_large = http.put("/v1/volumes/web/content?offset=0", content=iter([bytes(MIB)] * 33))
        assert too_large.status_code == 400
        assert http.get("/v1/volumes/web/restores").json() == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls(here):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", "k.pem", "-out", "c.pem", "-days", "2", "-subj", "/CN=localhost"], check=True,
                   capture_output=True)
    tls = ("--tls", "require", "--tls-cert", "c.pem", "--tls-key", "k.pem")
    with serving("web", "--tcp", "127.0.0.1:0", *tls) as process:
        uri = process.stdout.readline().strip()
        assert uri.startswith("nbds://127.0.0.1:")
        with pytest.raises(InvalidRequest, match="requires TLS"):
            Client(uri.replace("nbds", "nbd"))
        with pytest.raises(Unavailable, match="certificate"):
            Client(uri)     # signed by nobody whom this machine knows
