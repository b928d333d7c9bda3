"""What monitoring asks of a server: /metrics, /healthz, `cdp status`; and what a service manager expects of it."""
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.interop import cdp_argv, environ, world  # noqa: F401

import cdp
from cdp.cli import exits
from cdp.nbd.client import Client
from cdp.serve.prometheus import LIMITS_NS, Exposition
from cdp.service.local import VolumeService
from cdp.service.status import Limits, attention, late
from cdp.views import NotOpenView

MIB = 1 << 20


@pytest.fixture
def runtime(monkeypatch):
    """A runtime directory of the test's own, with a short path."""
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(name, label values but the volume's, sorted by label) to value."""
    return {(one.name, *(value for name, value in sorted(one.labels.items()) if name != "volume")): one.value
            for family in text_string_to_metric_families(text) for one in family.samples}


def scrape(volume: cdp.Volume) -> dict[tuple[str, ...], float]:
    return samples(Exposition({"web": VolumeService(volume)}).encode()[0].decode())


def json_status(world, *args, status=0):  # noqa: F811
    return json.loads(world.cdp("status", *args, "--json", status=status))


def get(address: tuple[str, int], path: str, accept: str = "*/*") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request("GET", path, headers={"Accept": accept})
    answer = connection.getresponse()
    with answer:
        return answer.status, answer.headers["content-type"], answer.read().decode()


def test_metrics_are_those_of_the_volume(tmp_path):
    with cdp.create(tmp_path / "web", size=16 * MIB) as volume:
        found = scrape(volume)
        assert found["cdp_volume_up",] == 1 and found["cdp_volume_size_bytes",] == 16 * MIB
        assert ("cdp_unflushed_since_timestamp_seconds",) not in found
        for i in range(5):
            volume.pwrite(b"x" * 4096, i * 4096)
        volume.flush()
        flushed = volume.window().newest
        volume.pwrite(b"y" * 4096, 0)
        volume.pwrite(b"z" * 4096, 0)
        found = scrape(volume)
        first = volume.records(since=flushed.seq)[0]
        assert found["cdp_flushed_moment_timestamp_seconds",] == pytest.approx(flushed.ts_ns / 1e9, abs=1e-6)
        assert found["cdp_unflushed_since_timestamp_seconds",] == pytest.approx(int(first["ts_ns"]) / 1e9, abs=1e-6)
        assert found["cdp_newest_moment_seq",] == volume.window().newest.seq
        assert found["cdp_request_bytes_total", "written"] == 7 * 4096
        buckets = [found["cdp_request_duration_seconds_bucket", key[1], "write"] for key in sorted(
            (key for key in found if key[0] == "cdp_request_duration_seconds_bucket" and key[2] == "write"),
            key=lambda key: float(key[1]))]
        assert len(buckets) == len(LIMITS_NS) + 1 and buckets == sorted(buckets) and buckets[-1] == 7
        assert found["cdp_space_bytes", "log"] == volume.usage().log
        volume.flush()
        assert ("cdp_unflushed_since_timestamp_seconds",) not in scrape(volume)


def test_the_memory_of_connections_is_the_servers():
    """It is told before any volume is open, too."""
    memory = {"limit_bytes": 64 * MIB, "used_bytes": MIB, "most_bytes": MIB, "waiting": 2, "waits": 5, "cuts": 1}
    found = samples(Exposition({}, memory=lambda: memory).encode()[0].decode())
    assert found["cdp_connection_memory_limit_bytes",] == 64 * MIB and found["cdp_connections_waiting",] == 2
    assert found["cdp_connection_memory_waits_total",] == 5


def test_the_last_restore_is_told_and_how_long_it_took(tmp_path):
    with cdp.create(tmp_path / "web", size=MIB) as volume:
        volume.pwrite(b"x" * 4096, 0)
        assert not [name for name, *_ in scrape(volume) if "last_restore" in name]
        volume.restore(0)
        done = volume.undo()
        found = scrape(volume)
        assert found["cdp_last_restore_timestamp_seconds",] == pytest.approx(done.ts_ns / 1e9, abs=1e-6)
        assert found["cdp_last_restore_duration_seconds",] > 0
    with cdp.open(tmp_path / "web") as volume:
        found = scrape(volume)
        assert found["cdp_last_restore_timestamp_seconds",] == pytest.approx(done.ts_ns / 1e9, abs=1e-6)
        assert ("cdp_last_restore_duration_seconds",) not in found


def test_the_age_of_copies_outlives_the_server(tmp_path):
    with cdp.create(tmp_path / "web", size=MIB) as volume:
        volume.pwrite(b"x" * 4096, 0)
        assert not [name for name, *_ in scrape(volume) if "backup" in name or "backed" in name or "archive" in name]
        first, service = volume.window().newest, VolumeService(volume)
        service.archived("s3://bucket/web", first.seq, first.ts_ns)
        assert ("cdp_not_archived_since_timestamp_seconds",) not in scrape(volume)
        volume.pwrite(b"y" * 4096, 0)
        second = volume.window().newest
        volume.pwrite(b"z" * 4096, 0)
        service.backed_up("/backup/web", second.seq, second.ts_ns)
        with volume.watch(0, 0) as watch:
            assert [event.kind for event in watch] == ["archived", "backed_up"]
    with cdp.open(tmp_path / "web") as volume:
        found, info = scrape(volume), VolumeService(volume).info()
        third = volume.window().newest
        for name, moment in (("cdp_archived_moment", first), ("cdp_not_archived_since", second),
                             ("cdp_backed_up_moment", second), ("cdp_not_backed_up_since", third)):
            assert found[f"{name}_timestamp_seconds",] == pytest.approx(moment.ts_ns / 1e9, abs=1e-6), name
        assert 0 <= time.time() - found["cdp_backup_last_end_timestamp_seconds",] < 3600
        assert info["copies"]["archive"]["where"] == "s3://bucket/web"
        assert info["copies"]["backup"]["missing"]["seq"] == third.seq
        said = list(late(info, third.ts_ns + 90 * 60 * 10**9, Limits()))
        assert len(said) == 1 and "archive s3://bucket/web lacks what was written since" in said[0]
        assert len(list(late(info, third.ts_ns + 3 * 86400 * 10**9, Limits()))) == 2
    (tmp_path / "web/copies.json").write_text("damaged")
    with cdp.open(tmp_path / "web") as volume:
        assert VolumeService(volume).info()["copies"] == {"backup": None, "archive": None}


def test_what_a_copy_lacks_where_its_moment_was_given_up(tmp_path):
    small = cdp.Settings(segment_bytes=16 * MIB)
    with cdp.create(tmp_path / "web", size=16 * MIB, settings=small) as volume:
        service = VolumeService(volume)
        volume.pwrite(b"x" * 4096, 0)
        service.backed_up("/backup/web", 1, volume.window().newest.ts_ns)
        for n in range(40):
            volume.pwrite(bytes([n]) * MIB, n % 16 * MIB)
        volume._store.seal()
        volume.free_before(30)
        assert service.info()["copies"]["backup"]["missing"] == service.window()["oldest"]


def test_a_volume_that_cannot_answer_hides_no_other(tmp_path):
    with cdp.create(tmp_path / "web", size=MIB) as web, cdp.create(tmp_path / "db", size=MIB) as db:
        opening = NotOpenView(name="third", path="third", state="opening", error=None)
        exposition = Exposition({"web": VolumeService(web), "db": VolumeService(db)}, lambda: [opening])
        (tmp_path / "web").rename(tmp_path / "moved")
        families = list(text_string_to_metric_families(exposition.encode()[0].decode()))
        up = {one.labels["volume"]: one.value for family in families for one in family.samples
              if one.name == "cdp_volume_up"}
        sizes = [one.labels["volume"] for family in families for one in family.samples
                 if one.name == "cdp_volume_size_bytes"]
        assert up == {"web": 0, "db": 1, "third": 0} and sizes == ["db"]
        (tmp_path / "moved").rename(tmp_path / "web")


def test_metrics_over_tcp_and_the_administration_socket(world):  # noqa: F811
    world.create("web", 1)
    world.serve("web", "--metrics", "127.0.0.1:0", "--json")
    view = json.loads(" ".join(world.printed))
    host, port = view["metrics"].removeprefix("http://").removesuffix("/metrics").split(":")
    address = host, int(port)
    status, kind, text = get(address, "/metrics")
    assert status == 200 and kind.startswith("text/plain") and samples(text)["cdp_volume_up",] == 1
    status, kind, text = get(address, "/metrics", "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text") and text.endswith("# EOF\n")
    assert get(address, "/healthz")[::2] == (200, "ok\n")
    # Nothing else is there, above all nothing that changes something.
    for path in ("/v1/server", "/v1/volumes/web", "/openapi.json"):
        assert get(address, path)[0] == 404
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(view["admin_socket"])
        sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert sock.makefile("rb").read().endswith(b"ok\n")
    shutil.move(world.path / "web", world.path / "moved")
    status, _, text = get(address, "/healthz")
    assert status == 503 and text.startswith("web: ")
    shutil.move(world.path / "moved", world.path / "web")
    world.stop()
    with pytest.raises(OSError):
        get(address, "/healthz")


def test_status(world, runtime):  # noqa: F811
    assert world.cdp("status", status=exits.ATTENTION) == "nothing is served\n"
    world.create("web", 1)
    assert json_status(world, "web", status=exits.ATTENTION)[0]["state"] == "not served"
    world.serve("web")
    with Client(world.uri("web")) as client:
        client.pwrite(b"x" * 4096, 0)
        time.sleep(0.01)
        found, = json_status(world, "web", "--unflushed", "0s", status=exits.ATTENTION)
        assert found["attention"] == [text for text in found["attention"] if text.startswith("no flush for ")] != []
        client.flush()
        found, = json_status(world)
        assert found["attention"] == [] and found["unflushed_ns"] == 0 and found["clients"] == 1
        assert found["volume"] == str(world.path / "web") and found["pid"] == world.server.pid
        client.pwrite(b"x" * 4096, 0)
    head, line = world.cdp("status").splitlines()
    assert head.split()[:3] == ["VOLUME", "STATE", "OLDEST"]
    assert line.split()[:2] == [str(world.path / "web"), "serving"]
    world.kill()
    found, = json_status(world, status=exits.ATTENTION)
    assert found["state"] == "died" and found["volume"] == os.path.realpath(world.sockets / "admin.sock")
    world.serve("web")
    world.stop()
    world.cdp("status", "nosuch", status=exits.NOT_FOUND)


def test_what_needs_attention(tmp_path):
    with cdp.create(tmp_path / "web", size=MIB) as volume:
        info, space = VolumeService(volume).info(), VolumeService(volume).space()
    assert list(attention(info, space, 0, Limits())) == []
    assert list(attention(info, {**space, "days_to_full": 0.1}, 0, Limits())) == [], "of the first hour"
    later = {**info["window"]["newest"], "ts_ns": info["window"]["newest"]["ts_ns"] + 7200 * 10**9}
    found = attention({**info, "stats": {**info["stats"], "failed_errno": 5, "damaged_blocks": 1, "runs": 300},
                       "window": {**info["window"], "clock_behind_ns": 60 * 10**9, "newest": later},
                       "retention": {**info["retention"], "failed": "no reason", "writes": "refused"},
                       "space": {"state": "low", "free_bytes": MIB, "low_bytes": 2 * MIB, "left_s": 60}},
                      {**space, "days_to_full": 6.5}, 3600 * 10**9, Limits())
    words = ("errno 5", "low: 1 MiB free, which lasts", "refused", "damaged", "flush", "clock", "6.5 days", "no reason",
             "300")
    for text, word in zip(found, words, strict=True):
        assert word in text


def test_ready_is_said_to_the_service_manager(world, monkeypatch):  # noqa: F811
    world.create("web", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(str(world.sockets / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(world.sockets / "notify"))
        world.serve("web")
        assert manager.recv(4096) == f"READY=1\nMAINPID={world.server.pid}".encode()
        world.stop()
        assert manager.recv(4096) == b"STOPPING=1"


# Stands between fork and exec, where LISTEN_PID is known.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET], ids=["unix", "tcp"])
def test_sockets_of_the_service_manager(world, family):  # noqa: F811
    """Clients that come before the server serves get an answer, also when it is started again; the socket stays the
    manager's."""
    world.create("web", 1)
    where = str(world.sockets / "given") if family == socket.AF_UNIX else ("127.0.0.1", 0)
    with socket.socket(family) as listener:
        listener.bind(where)
        listener.listen()
        uri = f"nbd+unix:///web?socket={where}" if family == socket.AF_UNIX else \
            f"nbd://127.0.0.1:{listener.getsockname()[1]}/web"
        for _ in range(2 if family == socket.AF_UNIX else 1):
            early = socket.socket(family)
            early.connect(listener.getsockname())
            server = subprocess.Popen(
                [cdp_argv()[0], "-c", ACTIVATE, str(listener.fileno()), *cdp_argv("serve", "web")], cwd=world.path,
                env={**environ(), "XDG_RUNTIME_DIR": str(world.sockets)}, pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                early.settimeout(60)
                assert early.recv(8) == b"NBDMAGIC"
                early.close()
                with Client(uri) as client:
                    client.pwrite(b"given", 0)
                    assert client.pread(5, 0) == b"given"
            finally:
                server.terminate()
                printed, said = server.communicate(timeout=60)
            assert server.returncode == 0, said
            assert printed.split()[0] == uri
        if family == socket.AF_UNIX:
            assert Path(where).is_socket()


def test_sockets_twice_are_refused(world, tmp_path):  # noqa: F811
    world.create("web", 1)
    with socket.socket(socket.AF_INET) as listener:
        listener.bind(("127.0.0.1", 0))
        for listening, words in ((False, "no listening socket"), (True, "--unix or --tcp names others")):
            if listening:
                listener.listen()
            done = subprocess.run(
                [cdp_argv()[0], "-c", ACTIVATE, str(listener.fileno()),
                 *cdp_argv("serve", "web", "--tcp", "localhost:0")],
                cwd=world.path, env={**environ(), "XDG_RUNTIME_DIR": str(world.sockets)}, check=False,
                pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            assert done.returncode == exits.USAGE and words in done.stderr
