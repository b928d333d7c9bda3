"""cdp replay on volumes: what is issued, what the report says, what is refused before anything is touched, pace,
interruption."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from support.replay_traces import blkparse, fio, some

import cdp
from cdp.cli import cli
from cdp.trace import samples
from cdp.trace.model import Kind
from cdp.trace.samples import Request

SIZE = 8 << 20


def run(*args, status=0):
    """The command; with --json its report."""
    result = CliRunner().invoke(cli, ["replay", *map(str, args)], prog_name="cdp")
    assert result.exit_code == status, result.output
    return result


def report(*args, status=0):
    return json.loads(run(*args, "--json", status=status).stdout)


def error(*args, status=2):
    result = run(*args, status=status)
    assert result.stderr.startswith("cdp: error: ") and result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize("aligned", [True, False])
def test_every_moment_of_a_mixed_load_is_right(tmp_path, aligned):
    trace = fio(tmp_path / "t.iolog", some(aligned, 3000, SIZE, aligned))
    got = report(trace, "--volume", tmp_path / "v", "--create", "--verify", "--moments", 60)
    assert got["ended"] == "end" and got["records"] == 3000
    counts = {kind: got["requests"][kind]["count"] for kind in got["requests"]}
    lines = [line.split()[2] for line in trace.read_text().splitlines()[3:]]
    assert counts == {
        "read": lines.count("read"),
        "write": lines.count("write"),
        "trim": lines.count("trim"),
        "zero": 0,
        "flush": lines.count("sync"),
    }
    check = got["verify"][0]
    assert check["ok"] and check["moments"] > 55 and check["changes_in_volume"] == counts["write"] + counts["trim"]
    assert got["disks"][0]["log_bytes_per_write"] > 512 and got["disks"][0]["index_bytes"] > 0
    assert (got["disks"][0]["reads_checked_sectors"] > 0) == aligned
    again = json.loads(run("--volume", tmp_path / "v", "--verify-only", "--json").stdout)["verify"][0]
    assert again["ok"] and again["flush_moments"] == again["flush_moments_known"] > 150
    with cdp.open(tmp_path / "v") as volume:
        names = {b.name: b.at.seq for b in volume.bookmarks()}
        assert names == dict(
            zip(
                got["disks"][0]["bookmarks"],
                (got["disks"][0]["start_seq"] - 1, got["disks"][0]["end_seq"]),
                strict=True,
            )
        )


def test_flags_of_a_trace_reach_the_log(tmp_path):
    trace = blkparse(
        tmp_path / "t.blkparse", [("WS", 0, 8), ("FWFS", 8, 8), ("D", 0, 4), ("R", 0, 8), ("WFS", 16, 1), ("FN", 0, 0)]
    )
    got = report(trace, "--volume", tmp_path / "v", "--create", "--verify")
    assert got["verify"][0]["ok"] and got["requests"]["flush"]["count"] == 2
    with cdp.open(tmp_path / "v") as volume:
        log = volume.records(f"#{got['disks'][0]['start_seq']}", f"#{got['disks'][0]['end_seq']}")
    log = log[1:] if log["kind"][0] == 4 else log  # the flush of the bookmark itself
    # Nothing was written between the last FUA write and the last flush, so that one leaves no record.
    assert list(zip(log["kind"].tolist(), log["flags"].tolist(), strict=True)) == [
        (1, 0),
        (4, 0),
        (1, 2),
        (3, 0),
        (1, 2),
    ]


def test_replaying_twice_is_verified_against_what_was_there(tmp_path):
    for seed in (1, 2):
        trace = fio(tmp_path / f"{seed}.iolog", some(seed, 500, SIZE))
        assert report(trace, "--volume", tmp_path / "v", "--create", "--size", SIZE, "--verify")["verify"][0]["ok"]
    with cdp.open(tmp_path / "v") as volume:
        assert len(volume.bookmarks()) == 4


def test_each_device_into_its_own_volume(tmp_path):
    for disk in ("8,0", "8,16", "9,1"):
        blkparse(tmp_path / f"{disk}.txt", [("W", i % 50 * 8, 8) for i in range(200)], disk)
    paths = sorted(tmp_path.glob("*.txt"))
    assert "3 devices (8,0, 8,16, 9,1)" in error(*paths, "--volume", tmp_path / "v", "--create")
    assert not (tmp_path / "v").exists()
    got = report(*paths, "--volume", tmp_path / "vols" / "{disk}", "--create", "--verify")
    assert min(os.listdir(tmp_path / "vols")) == "8_0" and len(got["disks"]) == 3
    assert got["records"] == 600 and all(v["ok"] and v["changes_in_volume"] == 200 for v in got["verify"])
    assert (
        len(json.loads(run("--volume", tmp_path / "vols" / "{disk}", "--verify-only", "--json").stdout)["verify"]) == 3
    )
    one = report(*paths, "--volume", tmp_path / "one", "--create", "--device", "9,1", "--verify")
    assert one["disks"][0]["changes"] == 200 and one["verify"][0]["ok"]


def test_too_small_is_said_before_anything_is_touched(tmp_path):
    trace = fio(tmp_path / "t.iolog", [("write", 10 << 20, 4096)])
    cdp.create(tmp_path / "v", size=1 << 20).close()
    assert f"reaches to byte {(10 << 20) + 4096}; create one of 11MiB, or fold what is beyond with --wrap" in error(
        trace, "--volume", tmp_path / "v"
    )
    with cdp.open(tmp_path / "v") as volume:
        assert volume.window().newest.seq == 0
    got = report(trace, "--volume", tmp_path / "v", "--wrap", "--verify")
    assert got["wrapped"] == 1 and got["verify"][0]["ok"]
    assert "no such volume; --create makes one of at least" in error(trace, "--volume", tmp_path / "w", status=3)


def test_limit_and_a_plot(tmp_path):
    trace = fio(tmp_path / "t.iolog", some(3, 1000, SIZE))
    got = report(
        trace, "--volume", tmp_path / "v", "--create", "--limit", 321, "--verify", "--plot", tmp_path / "p.png"
    )
    assert got["ended"] == "limit" and got["records"] == 321 and got["verify"][0]["ok"]
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert "folder does not exist" in error(trace, "--volume", tmp_path / "v", "--plot", tmp_path / "no" / "p.png")


def test_trace_times_are_points(tmp_path):
    trace = fio(tmp_path / "t.iolog", [("write", i * 4096, 4096) for i in range(100)], step_us=1_000_000)
    got = report(trace, "--volume", tmp_path / "v", "--create")
    times = got["disks"][0]["times"]
    assert (
        times[-1]["trace_seconds"] == 99 and times[-1]["point"] == f"#{got['disks'][0]['end_seq'] - 1}"
    )  # and a flush
    for when, changes in (("0", 1), ("0:41", 42), ("41.999s", 42), ("0:00:42", 43), ("9:59:59", 100)):
        found = json.loads(run("--volume", tmp_path / "v", "--when", when, "--json").stdout)[0]
        assert found["changes"] == changes
        with cdp.open(tmp_path / "v") as volume, volume.at(found["point"]) as image:
            assert any(image.pread(512, (changes - 1) * 4096)) and (
                changes == 100 or not any(image.pread(512, changes * 4096))
            )


def test_pace(tmp_path):
    trace = fio(tmp_path / "t.iolog", [("write", i * 4096, 4096) for i in range(41)], step_us=50_000)
    got = report(trace, "--volume", tmp_path / "v", "--create", "--speed", "10x", "--verify")
    # Two seconds of trace, never early; how late is the machine's affair.
    assert got["elapsed_seconds"] >= 0.2 and got["late_ms_max"] >= 0 and got["verify"][0]["ok"]
    assert "speed 'fast'" in error(trace, "--volume", tmp_path / "v", "--speed", "fast")


BAD = {
    "a cut line": ("2000 disk write 4096\n", ":5"),
    "a wrong column count": ("2000 disk write 0 4096 7 8\n", ":5"),
    "a negative size": ("2000 disk write 0 -4096\n", ":5"),
    "an offset past 2^63": ("2000 disk write 9223372036854775808 4096\n", ":5"),
}


@pytest.mark.parametrize("what", BAD)
def test_malformed_lines_leave_the_volume_untouched(tmp_path, what):
    line, place = BAD[what]
    trace = fio(tmp_path / "t.iolog", [("write", 0, 4096)])
    trace.write_text(trace.read_text() + line)
    cdp.create(tmp_path / "v", size=SIZE).close()
    assert f"{trace}{place}" in error(trace, "--volume", tmp_path / "v")
    with cdp.open(tmp_path / "v") as volume:
        assert volume.window().newest.seq == 0
    got = report(trace, "--volume", tmp_path / "v", "--skip-bad", "--verify")
    assert got["malformed"] == 1 and got["records"] == 1 and got["verify"][0]["ok"]


def test_other_things_that_are_no_traces(tmp_path):
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 64)
    mixed = fio(tmp_path / "mixed.iolog", [("write", 0, 4096)])
    mixed.write_text(mixed.read_text() + "128166372003061629,hm,1,Read,383496192,32768,413\n")
    for name in ("empty.csv", "binary.csv", "mixed.iolog"):
        assert name in error(tmp_path / name, "--volume", tmp_path / "v", "--create")
    error(tmp_path / "none.csv", "--volume", tmp_path / "v", "--create", status=3)
    assert not (tmp_path / "v").exists()


def test_a_malformed_line_in_mid_replay_leaves_what_the_report_says(tmp_path):
    trace = fio(tmp_path / "t.iolog", [("write", i % 100 * 4096, 4096) for i in range(5000)])
    with open(trace, "a") as out:
        out.write("nonsense\n")
    result = run(trace, "--volume", tmp_path / "v", "--create", "--size", SIZE, "--no-scan", "--json", status=2)
    got = json.loads(result.stdout)
    assert (
        f"{trace}:5004" in result.stderr
        and got["ended"] == "error"
        and got["records"] == 5000 == got["disks"][0]["changes"]
    )
    # The trace cannot be read to its end; as far as it was replayed it can.
    good = tmp_path / "good.iolog"
    good.write_text(trace.read_text().replace("nonsense\n", ""))
    again = json.loads(run(good, "--volume", tmp_path / "v", "--verify-only", "--json").stdout)["verify"][0]
    assert again["ok"] and again["changes_in_volume"] == 5000


def test_a_request_beyond_the_end_in_mid_replay(tmp_path):
    requests = [("write", i * 4096, 4096) for i in range(50)] + [("write", SIZE, 512)] + [("write", 0, 4096)]
    trace = fio(tmp_path / "t.iolog", requests)
    cdp.create(tmp_path / "v", size=SIZE).close()
    result = run(trace, "--volume", tmp_path / "v", "--no-scan", "--json", status=2)
    got = json.loads(result.stdout)
    assert got["error_where"] == f"{trace}:54" and got["disks"][0]["changes"] == 50 and "past the end" in result.stderr


def test_a_pipe(tmp_path):
    trace = fio(tmp_path / "t.iolog", some(8, 500, SIZE))
    packed = gzip.compress(trace.read_bytes())
    command = [sys.executable, "-m", "cdp", "replay", "-", "--volume", str(tmp_path / "v"), "--create", "--json"]
    result = subprocess.run([*command, "--size", str(SIZE)], input=packed, capture_output=True, check=True)
    assert json.loads(result.stdout)["records"] == 500
    assert json.loads(run(trace, "--volume", tmp_path / "v", "--verify-only", "--json").stdout)["verify"][0]["ok"]


def test_ctrl_c_stops_with_a_report(tmp_path):
    trace = fio(tmp_path / "t.iolog", [("write", i % 1000 * 4096, 4096) for i in range(20_000)], step_us=10_000)
    command = [
        sys.executable,
        "-m",
        "cdp",
        "replay",
        str(trace),
        "--volume",
        str(tmp_path / "v"),
        "--create",
        "--speed",
        "realtime",
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    acks = tmp_path / "v.replay.acks"
    while not (acks.exists() and int.from_bytes(acks.read_bytes()[:8], "little") > 20):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    got = json.loads(out)
    assert process.returncode == 130 and got["ended"] == "interrupted" and "interrupted" in err
    assert 20 < got["records"] == got["disks"][0]["changes"] < 20_000
    assert json.loads(run("--volume", tmp_path / "v", "--verify-only", "--json").stdout)["verify"][0]["ok"]


def test_killed_in_mid_replay_every_flushed_moment_is_right(tmp_path):
    trace = fio(tmp_path / "t.iolog", some(77, 60_000, SIZE, aligned=True))
    for attempt, wanted in enumerate((300, 2500)):
        volume = tmp_path / f"v{attempt}"
        command = [sys.executable, "-m", "cdp", "replay", str(trace), "--volume", str(volume), "--create"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        acks = tmp_path / f"v{attempt}.replay.acks"
        while not (acks.exists() and int.from_bytes(acks.read_bytes()[8:], "little") > wanted):
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        process.kill()
        process.wait()
        process.stderr.close()
        changes, durable = (int.from_bytes(acks.read_bytes()[i : i + 8], "little") for i in (0, 8))
        assert wanted < durable <= changes
        got = json.loads(run("--volume", volume, "--verify-only", "--json").stdout)["verify"][0]
        assert got["ok"] and got["durable_expected"] == durable <= got["changes_in_volume"] < got["changes_in_trace"]
        assert got["flush_moments"] == got["flush_moments_known"] > 10


@pytest.mark.parametrize("binary", [False, True])
def test_requests_of_other_stages_are_named(tmp_path, binary):
    """--verify proves what was replayed, and says which requests of the files were not."""
    trace = tmp_path / "t"
    if binary:
        queued, dispatched = 1, 7
        requests = [Request(i, "8,0", Kind.WRITE, 4096 * i, 4096) for i in range(4)]
        events = [samples._blktrace_event("<", r, i, queued) for i, r in enumerate(requests)]
        trace.write_bytes(b"".join(events) + samples._blktrace_event("<", requests[0], 9, dispatched))
    else:
        line = "  8,0    0  {n:7d} {n:5d}.000000000  77  {action}  W {at} + 8 [x]\n"
        queued = "".join(line.format(n=n, action="Q", at=8 * n) for n in range(4))
        trace.write_text(queued + line.format(n=9, action="D", at=0))
    said = "device 8,0: 1 requests of stage D are read, stage Q has 4 (--stage Q reads them)"
    got = report(trace, "--volume", tmp_path / "v", "--create", "--verify")
    assert got["records"] == 1 and got["left_out_of_trace"] == [said]
    assert got["verify"][0]["ok"] and got["verify"][0]["left_out_of_trace"] == [said]
    shown = run("--volume", tmp_path / "v", "--verify-only").stdout
    assert "every moment is right" in shown and f"not replayed: {said}" in shown
    assert said in run(trace, "--volume", tmp_path / "w", "--create").output
