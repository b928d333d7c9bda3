"""`cdp bench`: what it says, that it changes nothing, and that nothing stays behind."""
import json
import os
import signal
import subprocess

import numpy as np
import pytest
from support.interop import Started, cdp_argv, cdp_done, environ, run, world  # noqa: F401

import cdp
from cdp.bench import place
from cdp.bench.load import Load, in_process, merged, over_nbd
from cdp.bench.place import plain_and
from cdp.bench.spread import order, ratios, spread
from cdpcore.base.errors import OutOfSpace

MIB = 1 << 20
TINY = ("--size", "1M", "--runtime", "100ms", "--rounds", "2")


def left_behind(path):
    return [name for name in os.listdir(path) if name.startswith("cdp-bench-")]


def test_a_new_volume_beside_a_plain_file(tmp_path):
    done = run(*cdp_argv("bench", "--scratch", tmp_path, *TINY, "--read-pct", "50", "--flush-every", "8", "--json"))
    found = json.loads(done.stdout)
    assert done.stderr == "" and left_behind(tmp_path) == []
    assert found["load"]["read_percent"] == 50 and found["load"]["span_bytes"] == MIB
    assert list(found["paths"]) == ["nbd", "process"]
    for path in found["paths"].values():
        assert list(path["disks"]) == ["volume", "plain file"]
        assert path["ratio"]["n"] == 2 and 0 < path["ratio"]["min"] <= path["ratio"]["median"] <= path["ratio"]["max"]
        for disk in path["disks"].values():
            assert [one["requests"] > 0 for one in disk["rounds"]] == [True, True]
            for kind in ("read", "write", "flush"):
                one = disk["latency"][kind]
                assert 0 < one["p50_ns"] <= one["p95_ns"] <= one["p99_ns"] <= one["p999_ns"] <= one["max_ns"]
                assert one["count"] == sum(count for _, count in one["buckets"])
            requests = sum(one["requests"] for one in disk["rounds"])
            assert requests == disk["latency"]["read"]["count"] + disk["latency"]["write"]["count"]
    assert "host" not in done.stdout and str(tmp_path) not in done.stdout


def test_a_volume_is_not_changed(tmp_path):
    with cdp.create(tmp_path / "web", size=MIB) as volume:
        volume.pwrite(b"x" * 4096, 0)
    said = run(*cdp_argv("bench", tmp_path / "web", *TINY, "--path", "process")).stdout
    assert "image / plain file: " in said and "WRITE" in said and "over NBD" not in said
    with cdp.open(tmp_path / "web") as volume:
        assert volume.pread(4096, 0) == b"x" * 4096 and volume.pread(4096, MIB - 4096) == bytes(4096)
        assert volume.images() == []
        assert all(record["kind"] != 1 or record["offset"] == 0 for record in volume.records())
    assert left_behind(tmp_path) == []


def test_a_served_volume_is_measured_over_nbd(world):  # noqa: F811
    world.create("web", 1)
    world.serve("web")
    found = json.loads(run(*cdp_argv("bench", "web", *TINY, "--json"), cwd=world.path).stdout)
    assert list(found["paths"]) == ["nbd"]
    refused = run(*cdp_argv("bench", "web", *TINY, "--path", "process"), cwd=world.path, status=2)
    assert "is served" in refused.stderr and refused.stderr.count("\n") <= 2
    assert world.cdp("image", "list", "web").startswith("web: no images") and left_behind(world.path) == []


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 130)], ids=["ctrl-c", "sigterm"])
def test_an_interrupt_leaves_nothing(tmp_path, number, status):
    argv = cdp_argv("bench", "--scratch", tmp_path, "--size", "1M", "--runtime", "1h")
    with Started(argv, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert "round 1" in process.stderr.readline()
        assert left_behind(tmp_path)
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
    assert process.returncode == status and out == "" and said == "cdp: error: interrupted\n"
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("args, status, said", [
    ((), 2, "give VOLUME, or --scratch DIR"),
    (("web", "--scratch", "."), 2, "give VOLUME, or --scratch DIR"),
    (("--scratch", "nowhere"), 3, "no such folder"),
    (("nothing",), 3, "no such volume"),
    (("--scratch", ".", "--bs", "1000"), 2, "a multiple of 512 bytes"),
    (("--scratch", ".", "--bs", "64M"), 2, "a multiple of 512 bytes"),
    (("--scratch", ".", "--read-pct", "101"), 2, "0<=x<=100"),
    (("--scratch", ".", "--iodepth", "0"), 2, "1<=x<=256"),
    (("--scratch", ".", "--runtime", "1ms"), 2, "100ms to 1h"),
    (("--scratch", ".", "--size", "4K", "--jobs", "2"), 2, "have no room for 2 jobs"),
    (("--scratch", ".", "--plot", "picture.txt"), 2, ".png, .svg or .pdf"),
    (("--scratch", ".", "--size", "4096T"), 6, "free"),
])
def test_what_is_refused(tmp_path, args, status, said):
    done = cdp_done("bench", *args, cwd=tmp_path, status=None)
    assert done.returncode == status and said in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_free_space_is_shared_by_the_measurements(tmp_path, monkeypatch):
    monkeypatch.setattr(place.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1 << 30}))
    assert place.write_budget(tmp_path, 256 * MIB, 4) == (1024 - 256 - 256) * MIB // 8
    with pytest.raises(OutOfSpace, match="free"):
        place.write_budget(tmp_path, 800 * MIB, 4)


@pytest.mark.parametrize("jobs, flush_every", [(1, 0), (3, 4)])
def test_a_load_ends_at_its_budget_and_counts_all(tmp_path, jobs, flush_every):
    load = Load(4096, MIB, read_percent=25, depth=8, jobs=jobs, flush_every=flush_every, seconds=60,
                write_bytes=200 * 4096)
    with plain_and(tmp_path, MIB) as server:
        disk = server.plain()
        for got in (over_nbd(disk.address, load, 1), in_process(disk.capsule, load, 1)):
            counts = {kind: sum(count for _, count in buckets) for kind, buckets in got.histograms.items()}
            assert counts["read"] + counts["write"] == got.requests and got.bytes == 4096 * got.requests
            assert 100 < counts["write"] <= 400 and counts["read"] > 10
            assert counts["flush"] >= (counts["write"] // flush_every - jobs if flush_every else 0)


def test_every_job_of_a_sequential_load_has_its_own_place(tmp_path):
    load = Load(4096, MIB, depth=4, jobs=2, sequential=True, seconds=60, write_bytes=256 * 4096)
    with plain_and(tmp_path, MIB) as server:
        disk = server.plain()
        before = np.fromfile(tmp_path / "plain.img", np.uint8).reshape(-1, 4096)
        over_nbd(disk.address, load, 1)
        after = np.fromfile(tmp_path / "plain.img", np.uint8).reshape(-1, 4096)
    assert (before != after).any(axis=1).all()


def test_spreads():
    assert spread([3, 1, 2]) == {"min": 1, "median": 2, "max": 3, "n": 3}
    assert ratios([2, 9], [1, 3]) == {"min": 2.0, "median": 2.5, "max": 3.0, "n": 2}
    assert [order(["a", "b", "c"], n)[0] for n in range(4)] == ["a", "b", "c", "a"]
    assert merged([[(1, 2), (3, 4)], [(3, 1)]]) == [(1, 2), (3, 5)]
    with pytest.raises(ValueError):
        spread([])


def test_a_picture_is_one(tmp_path):
    pytest.importorskip("matplotlib")
    run(*cdp_argv("bench", "--scratch", tmp_path, *TINY, "--path", "process", "--plot", tmp_path / "p.svg"))
    assert (tmp_path / "p.svg").read_text().lstrip().startswith("<?xml")
