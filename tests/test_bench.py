"""The benchmarks work: a tiny run of each, what it prints and keeps, and that it leaves nothing behind. No time is
asserted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.interop import Started

import cdp
from cdpcore.base.errors import Closed, InvalidRequest, NotFound
from cdpcore.bench import loadgen
from cdpcore.bench.plain_file import PlainFile
from cdpcore.bench.ram_disk import RamDisk

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import choosing, fio, nbd, peers, spread
from bench.scratch import NoSpace, scratch

# They look for processes by name: those of another one must not be there.
pytestmark = pytest.mark.xdist_group("bench")

needs_fio = pytest.mark.skipif(not fio.available(), reason="fio with the nbd engine is not installed")
FACTS = {
    "time",
    "commit",
    "version",
    "cpu",
    "cpus",
    "memory_bytes",
    "kernel",
    "python",
    "crc32c",
    "file_system",
    "load_1m",
}
KIB, MIB = 1 << 10, 1 << 20


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "bench", *args]


def environment(**changes: str) -> dict[str, str]:
    path = os.pathsep.join(str(Path(p).resolve()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)
    # Without what pytest-xdist says of its workers: pytest-benchmark measures nothing in one.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**outside, "PYTHONPATH": path, **changes}


def run(tmp_path, *args, status=0, **changes):
    """(what it said, its lines of JSON); checks that nothing stays behind."""
    data, kept = tmp_path / "data", tmp_path / "kept.jsonl"
    data.mkdir(exist_ok=True)
    done = subprocess.run(
        command(*args, "--quick", "--dir", str(data), "--json", str(kept)),
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert_nothing_left(data)
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for line in lines:
        assert (
            FACTS <= line["facts"].keys() and line["durability" if "durability" in line else "what"] and line["options"]
        )
    return done.stdout + done.stderr, lines


def assert_nothing_left(data):
    assert list(data.iterdir()) == []
    assert processes_naming(str(data)) == []


def processes_naming(text):
    """Command lines of running processes with `text` in them; empty where there is no /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and "pytest" not in line:
            found.append(line)
    return found


# --- each of them -----------------------------------------------------------------------------------------------------


@pytest.mark.long
@needs_fio
def test_nbd_all_peers(tmp_path):
    said, lines = run(tmp_path, "nbd", "--workload", "write-4k-qd32")
    ran = {line["peer"]: line for line in lines}
    assert "cdp" in ran
    for name, peer in peers.PEERS.items():
        assert (name in ran) == peer.installed()
        assert peer.installed() or f"{name} skipped: {peer.program} is not installed" in said
    for name, line in ran.items():
        assert len(line["rounds"]) == 1 and line["iops"]["median"] > 0
        assert ("cdp_over_peer" in line) == (name != "cdp")
    assert ran["cdp"]["settings"]["commit_interval_ms"] == 1000


@pytest.mark.long
@needs_fio
def test_nbd_all_workloads(tmp_path):
    said, lines = run(tmp_path, "nbd", "--peer", "cdp", "--seconds", "0.05")
    assert [line["workload"] for line in lines] == list(nbd.WORKLOADS)
    for line in lines:
        assert line["workload"] in said
        assert len(line["rounds"]) == 1 and all(r["requests"] > 0 for r in line["rounds"])


@pytest.mark.long
@needs_fio
def test_peers_that_are_not_installed_are_named(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("fio", "git"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    said, lines = run(tmp_path, "nbd", "--workload", "write-4k-qd32", "--rounds", "2", PATH=str(tools))
    assert {line["peer"] for line in lines} == {"cdp", "cdp-ha"}
    assert all(len(line["rounds"]) == 2 for line in lines)
    for name in ("nbdkit-file", "blklogwrites", "memory"):
        assert f"{name} skipped" in said


def test_without_a_client_nothing_is_claimed(tmp_path):
    said, lines = run(tmp_path, "nbd", status=1, PATH=str(tmp_path))
    assert "fio with the nbd engine is not installed" in said and "nothing was measured" in said
    assert lines == []


@pytest.mark.long
@needs_fio
def test_choosing(tmp_path):
    said, lines = run(tmp_path, "choosing", "--workload", "read-heavy")
    ran = {line["peer"]: line for line in lines}
    for name, peer in choosing.PEERS.items():
        assert peer.installed() == (name in ran)
        assert peer.installed() or f"{name} skipped: {peer.program} is not installed" in said
    for name, line in ran.items():
        assert line["workload"] == "read-heavy" and line["job"]["read_percent"] == 95
        assert line["iops"]["median"] > 0 and line["allocated_bytes"] > 0 and line["rounds"][0]["requests"] > 0
        assert ("over_plain" in line) == (name != choosing.PLAIN and choosing.PLAIN in ran)
    assert "after" in ran


@needs_fio
def test_choosing_of_what_is_asked_for(tmp_path):
    _, lines = run(tmp_path, "choosing", "--workload", "overwrite", "--peer", "after")
    assert [(line["workload"], line["peer"]) for line in lines] == [("overwrite", "after")]
    assert lines[0]["iops"]["median"] > 0 and lines[0]["job"]["hot_bytes"] == 4 << 20


@pytest.mark.long
@needs_fio
def test_table(tmp_path):
    said, lines = run(tmp_path, "table", "--row", "write-4k-qd1", "--row", "nbdcopy", "--row", "before-4k-cold")
    for line in lines:
        assert line["ratio"]["n"] == 1 and set(line["rates"]) == {line["ours"], line["peer"]}
        assert f"| {line['what']} | {line['peer']} | {line['ratio']['median']:.2f} (" in said
        assert str(tmp_path) not in json.dumps(line)
    assert len(lines) + said.count("skipped: ") == 3


def test_engine(tmp_path):
    _, lines = run(
        tmp_path,
        "engine",
        "--workload",
        "write-4k",
        "--workload",
        "write-512",
        "--workload",
        "read-64k-cold",
        "--workload",
        "write-flush-4k",
    )
    ran = {(line["workload"], line["target"]): line for line in lines}
    for workload in ("write-4k", "read-64k-cold", "write-flush-4k"):
        for target in ("cdp", "file", "ram"):
            line = ran[workload, target]
            assert line["per_second"]["n"] == 1 and line["rounds"][0]["requests"] > 0
            assert ("cdp_over_target" in line) == (target != "cdp")
    assert ("write-512", "file-direct") not in ran
    flushed = ran["write-flush-4k", "cdp"]["rounds"][0]
    assert flushed["flushes"] == flushed["writes"]


@pytest.mark.long
def test_history(tmp_path):
    said, lines = run(tmp_path, "history")
    results = lines[0]["results"]
    assert results["fill"]["records"] >= lines[0]["options"]["records"]
    assert results["fill"]["runs"] >= 1 and results["fill"]["log_overhead_bytes"] > 0
    for key in ("image_by_seq_ms", "image_by_time_ms", "restore_ms", "undo_ms"):
        assert 0 < results["look"][key]["min"] <= results["look"][key]["median"] <= results["look"][key]["max"]
    assert results["reopen"]["records"] > results["fill"]["records"]
    assert results["reopen"]["lost"] == 0
    assert "after kill -9" in said


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("mke2fs"), reason="needs mke2fs")
def test_finding(tmp_path):
    _, lines = run(tmp_path, "finding")
    assert {line["part"] for line in lines} == {"diff", "history", "year", "versions", "bisect", "group"}
    for line in lines:
        assert 0 < line["least_ms"] <= line["median_ms"] <= line["most_ms"] or line["part"] == "bisect"
    assert any(line["what"].endswith(": 22 versions") for line in lines)


@pytest.mark.long
@needs_fio
def test_failover(tmp_path):
    """Kills and a hand-over: no error for fio, no wrong block, every moment right, one owner at a time."""
    said, [line] = run(tmp_path, "failover", "--kills", "1")
    assert sorted(kind for kind, _ in line["pauses_ms"]) == ["kill -9", "switch"]
    assert line["verified_bytes"] > 0 and line["bookmarks"] == 3 and line["moments"] > 0
    assert "longest pause of a client" in said and "no error" in said


@pytest.mark.long
@needs_fio
def test_failover_of_a_stopped_process(tmp_path):
    _, [line] = run(tmp_path, "failover", "--kills", "0", "--switches", "0", "--stops", "1")
    assert [kind for kind, _ in line["pauses_ms"]] == ["SIGSTOP"]


@pytest.mark.long
def test_micro(tmp_path):
    pytest.importorskip("pytest_benchmark")
    _, lines = run(tmp_path, "micro")
    assert len(lines) >= 10 and all(line["seconds"]["min"] > 0 for line in lines)


@needs_fio
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_interrupted_it_cleans_up(tmp_path, number):
    data = tmp_path / "data"
    data.mkdir()
    seconds = f"15.{number:03}"       # by which its fio is known
    argv = command("nbd", "--quick", "--seconds", seconds, "--peer", "cdp", "--peer", "cdp-ha",
                   "--workload", "write-4k-qd32", "--dir", str(data))
    with Started(argv, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                 start_new_session=True) as child:
        deadline = time.monotonic() + 100
        while not any("fio" in p and f"--runtime=15{number:03}ms" in p for p in processes_naming("cdpb-")):
            assert child.poll() is None, child.stdout.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(number)
        said = child.communicate(timeout=60)[0].decode()
    assert child.returncode not in (0, -number), said
    assert_nothing_left(data)


def test_options_stand_behind_the_command(tmp_path):
    done = subprocess.run(
        command("--quick", "micro"),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and "behind the command" in done.stderr


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path):
    with scratch(tmp_path) as place, pytest.raises(NoSpace, match="give another --dir"):
        place.need(1 << 60, "a test")
    assert list(tmp_path.iterdir()) == []


# --- parts ------------------------------------------------------------------------------------------------------------


def test_spread_and_ratios():
    assert spread.ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"min": 1.0, "median": 2.0, "max": 3.0, "n": 3}
    with pytest.raises(ValueError):
        spread.ratios([1.0], [1.0, 2.0])
    assert [spread.percentile(range(1, 101), p) for p in (0, 50, 99, 100)] == [1, 50, 99, 100]
    assert [spread.order("abc", n) for n in (0, 1, 5)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


def test_fio_output_is_read_past_plain_lines():
    report = {
        "jobs": [
            {
                "error": 0,
                "write": {
                    "iops": 7.5,
                    "total_ios": 3,
                    "clat_ns": {"percentile": {"50.000000": 1000, "99.000000": 2000}},
                },
                "sync": {"lat_ns": {}},
            }
        ]
    }
    found = fio.parse("nbd: a line {of its own}\n" + json.dumps(report), 0, fio.Job("randwrite", 4096, 1))
    assert (found.iops, found.p50_us, found.p99_us, found.flush_p50_us) == (7.5, 1.0, 2.0, None)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("no JSON here", 0),
        ('{"jobs": []}', 0),
        ('{"jobs": [{"error": 5, "write": {"iops": 1, "total_ios": 1, "clat_ns": {"percentile": {}}}}]}', 0),
        ('{"jobs": [{"error": 0, "write": {"iops": 0, "total_ios": 0, "clat_ns": {"percentile": {}}}}]}', 0),
    ],
)
def test_a_failed_fio_is_no_figure(text, status):
    with pytest.raises(fio.FioFailed):
        fio.parse(text, status, fio.Job("randwrite", 4096, 1))


# --- the load generator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_sequential_load_covers_the_span_once(tmp_path, threads):
    path = tmp_path / "plain"
    path.write_bytes(bytes(48 * KIB))
    plain = PlainFile(path)
    load = loadgen.run(
        plain.capsule, length_bytes=4 * KIB, sequential=True, threads=threads, requests=9, span_bytes=36 * KIB
    )
    assert (load["requests"], load["writes"], load["reads"], load["bytes"]) == (9, 9, 0, 36 * KIB)
    assert 0 < load["p50_ns"] <= load["p99_ns"] <= load["p999_ns"] <= load["max_ns"] <= load["elapsed_ns"]
    data = path.read_bytes()
    assert [any(data[at : at + 4 * KIB]) for at in range(0, 48 * KIB, 4 * KIB)] == [True] * 9 + [False] * 3


def test_random_load_is_the_same_for_the_same_seed(tmp_path):
    def places(seed):
        with cdp.create(tmp_path / f"v{len(os.listdir(tmp_path))}", size=MIB) as volume:
            loadgen.run(
                volume.target(), length_bytes=512, requests=200, seed=seed, flush_every=100, span_bytes=512 * KIB
            )
            records = volume.records()
            writes = records[records["kind"] == 1]
            assert (records["kind"] == 4).sum() == 2
            assert set(writes["length"]) == {512} and int(writes["offset"].max()) < 512 * KIB
            return list(writes["offset"])

    assert places(5) == places(5) != places(6)
    assert len(set(places(5))) > 150


def test_mixed_load_reads_and_writes():
    load = loadgen.run(RamDisk(MIB).capsule, length_bytes=512, requests=1000, read_percent=30, threads=2)
    assert load["reads"] + load["writes"] == 1000 and 200 < load["reads"] < 400


def test_load_for_some_time_ends(tmp_path):
    load = loadgen.run(RamDisk(MIB).capsule, length_bytes=4096, seconds=0.02)
    assert load["requests"] > 0


def test_a_failing_target_is_raised_not_counted(tmp_path):
    volume = cdp.create(tmp_path / "v", size=MIB)
    capsule = volume.target()
    volume.close()
    with pytest.raises(Closed):
        loadgen.run(capsule, length_bytes=4096, requests=10, threads=4)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"requests": 0},
        {"requests": 1, "threads": 2},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"requests": 1, "length_bytes": 0},
        {"requests": 1, "length_bytes": (32 * MIB) + 1},
        {"requests": 1, "span_bytes": 2 * MIB},
        {"requests": 1, "span_bytes": 511},
        {"requests": 1, "threads": 0},
        {"requests": 65, "threads": 65},
        {"requests": 1, "read_percent": 101},
        {"requests": 1, "seed": -1},
        {"requests": 1, "flush_every": -1},
        {"requests": 4, "threads": 4, "sequential": True, "span_bytes": 1536},
    ],
)
def test_wrong_loads_are_refused(wrong):
    with pytest.raises(InvalidRequest):
        loadgen.run(RamDisk(MIB).capsule, **{"length_bytes": 512, **wrong})


def test_a_load_needs_a_target_that_takes_it():
    with pytest.raises(InvalidRequest):
        loadgen.run(object(), length_bytes=512, requests=1)
    with pytest.raises(InvalidRequest, match="read-only"):
        loadgen.run(RamDisk(MIB, read_only=True).capsule, length_bytes=512, requests=1)


def test_plain_file_that_is_not_there(tmp_path):
    with pytest.raises(NotFound):
        PlainFile(tmp_path / "none")


def test_plain_file_past_its_end_reads_zeros(tmp_path):
    path = tmp_path / "plain"
    path.write_bytes(b"x" * 8192)
    plain = PlainFile(path, direct=True)
    assert plain.size_bytes == 8192
    path.write_bytes(b"x" * 4096)
    assert loadgen.run(plain.capsule, length_bytes=4096, read_percent=100, requests=50)["reads"] == 50
