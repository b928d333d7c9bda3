"""Where the time of requests goes: counted in a volume, whoever makes them; over the administration; and as rates."""
import threading
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from support.interop import world  # noqa: F401

import cdp
from cdp.nbd.client import Client
from cdp.service.connect import connect
from cdp.service.rates import between, quantile
from cdp.views import InfoView, MetricsView
from cdpcore.base.stages import REQUEST_NAMES, SAMPLE, SOURCE_NAMES, STAGE_NAMES
from cdpcore.bench import loadgen

MIB = 1 << 20


@pytest.fixture
def volume(tmp_path: Path):
    with cdp.create(tmp_path / "web", size=16 * MIB) as made:
        yield made


def test_requests_of_python_are_counted(volume: cdp.Volume):
    for i in range(3):
        volume.pwrite(b"x" * 4096, i * 4096)
    volume.zero(8192, 65536)
    volume.flush()
    assert volume.pread(4096, 0) == b"x" * 4096
    found = volume.metrics()
    assert {name: one["count"] for name, one in found["requests"].items()} == {"read": 1, "write": 4, "flush": 1}
    assert found["request_bytes"] == {"read": 4096, "written": 3 * 4096}
    assert found["sources"]["memory"] == {"count": 1, "bytes": 4096}
    assert found["stages"]["commit"]["count"] >= 1
    assert found["log_bytes_written"] > 3 * 4096


def test_stages_of_writes_are_sampled_and_count_for_all(volume: cdp.Volume):
    loadgen.run(volume.target(), length_bytes=4096, requests=40 * SAMPLE)
    found = volume.metrics(buckets=True)
    for name in ("append", "publish"):
        one = found["stages"][name]
        assert one["count"] == 40 * SAMPLE and one["p50_ns"] <= one["p99_ns"] <= one["max_ns"]
        assert sum(count for _, count in one["buckets"]) == one["count"]
    assert found["requests"]["write"]["count"] == 0     # whoever calls a target counts for itself


def test_reads_say_where_they_were_answered_from(tmp_path: Path):
    def content(offset: int, view: memoryview) -> None:
        view[:] = b"b" * len(view)

    with cdp.create(tmp_path / "web", size=MIB) as volume:
        volume.import_base(content, [(0, MIB)])
        volume.pread(65536, 0)
        volume.pwrite(b"x" * 65536, 0)
        volume.pread(65536, 0)
        assert volume.metrics()["sources"]["base"] == {"count": 1, "bytes": 65536}
        assert volume.metrics()["sources"]["memory"] == {"count": 1, "bytes": 65536}
    with cdp.open(tmp_path / "web") as volume:
        volume.pread(65536, 0)
        found = volume.metrics()
        assert found["sources"]["memory"]["count"] == 0
        assert found["sources"]["cache"]["bytes"] + found["sources"]["device"]["bytes"] == 65536
        assert found["stages"]["file_read"]["count"] == 1 and found["stages"]["look_up"]["count"] == SAMPLE


def test_before_images_count_their_stages(tmp_path: Path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"d" * MIB)
    with cdp.create(tmp_path / "web", disk=disk) as volume:
        for i in range(8):
            volume.pwrite(b"x" * 4096, i * 4096)
        volume.flush()
        found = volume.metrics()
    assert found["stages"]["old_read"]["count"] == 8 and found["stages"]["disk_sync"]["count"] >= 1
    assert 1 <= found["stages"]["disk_write"]["count"] <= 8
    assert found["queues"]["pending_bytes"] == 0


def test_metrics_fit_their_description(volume: cdp.Volume):
    volume.pwrite(b"x" * 4096, 0)
    strict = TypeAdapter(MetricsView)
    for buckets in (False, True):
        found = volume.metrics(buckets)
        assert strict.validate_python(found, strict=True) == found
        assert list(found["requests"]) == list(REQUEST_NAMES) and list(found["stages"]) == list(STAGE_NAMES)
        assert list(found["sources"]) == list(SOURCE_NAMES)
        assert all(("buckets" in one) == buckets for one in found["stages"].values())


def test_a_server_counts_what_its_clients_do(world):  # noqa: F811
    world.create("web", 1)
    world.serve("web")
    with Client(world.uri("web")) as disk, connect(str(world.path / "web")) as service:
        for i in range(5):
            disk.pwrite(b"y" * 4096, i * 4096)
        disk.flush()
        assert disk.pread(4096, 0) == b"y" * 4096
        disk.flush()    # what a batch of replies took is counted just after it was sent: one more makes sure of it
        found = service.metrics(buckets=True)
        counts = {name: one["count"] for name, one in found["requests"].items()}
        assert counts["write"] == 5 and counts["read"] == 1 and counts["flush"] in (1, 2)
        assert found["request_bytes"] == {"read": 4096, "written": 5 * 4096}
        assert found["stages"]["reply"]["count"] >= 7 and found["stages"]["receive"]["count"] <= 8
        info = service.info()
        assert TypeAdapter(InfoView).validate_python(info) == info
        assert "buckets" not in info["metrics"]["requests"]["write"]
    with connect(str(world.path / "web")) as service:
        assert service.metrics()["queues"]["parked"] == 0


def histogram(*buckets: tuple[int, int], total_ns: int = 0, max_ns: int = 1 << 40) -> dict:
    return {"count": sum(count for _, count in buckets), "total_ns": total_ns, "p50_ns": 0, "p90_ns": 0, "p99_ns": 0,
            "p999_ns": 0, "max_ns": max_ns, "buckets": [list(one) for one in buckets]}


def look(at_s: int, write: dict, written: int, log: int) -> dict:
    none = histogram()
    return {"at_ns": at_s * 10**9, "requests": {"read": none, "write": write, "flush": none},
            "stages": {"append": write}, "request_bytes": {"read": 0, "written": written},
            "sources": {"memory": {"count": written, "bytes": written}}, "queues": {"parked": 3}, "log_bytes": log,
            "log_bytes_written": log}


def test_rates_are_of_what_came_between_two_looks():
    rates = between(look(1, histogram((100, 50), (200, 50), total_ns=10**9), 1000, 5000),
                    look(3, histogram((100, 50), (200, 60), (900, 90), total_ns=2 * 10**9), 3000, 9000))
    write = rates["requests"]["write"]
    assert write["per_second"] == 50 and write["bytes_per_second"] == 1000 and write["busy"] == 0.5
    assert (write["p50_ns"], write["p99_ns"]) == (900, 900)
    assert rates["sources"]["memory"]["share"] == 1.0 and rates["log_bytes_per_second"] == 2000
    assert rates["queues"] == {"parked": 3} and rates["requests"]["read"]["p99_ns"] == 0


def test_rates_of_a_volume_that_was_opened_again_are_of_all_since():
    rates = between(look(1, histogram((100, 50)), 1000, 5000), look(2, histogram((100, 5)), 200, 300))
    assert rates["requests"]["write"]["per_second"] == 5 and rates["requests"]["write"]["bytes_per_second"] == 200
    assert rates["log_bytes_per_second"] == 300


@pytest.mark.parametrize("per_mille, want", [(1, 10), (500, 10), (501, 20), (990, 30), (1000, 30)])
def test_a_quantile_of_buckets(per_mille: int, want: int):
    assert quantile([(10, 5), (15, 0), (20, 4), (30, 1)], per_mille) == want
    assert quantile([], per_mille) == 0


def test_looking_while_requests_run_loses_nothing(volume: cdp.Volume):
    over, seen = threading.Event(), []

    def looks() -> None:
        while not over.is_set():
            seen.append(volume.metrics(buckets=True)["requests"]["write"]["count"])

    thread = threading.Thread(target=looks)
    thread.start()
    for i in range(500):
        volume.pwrite(b"z" * 512, i * 512)
    over.set()
    thread.join()
    assert volume.metrics()["requests"]["write"]["count"] == 500 and seen == sorted(seen)
