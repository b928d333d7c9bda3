"""`cdp top`: lines, JSON, a terminal, and how it ends."""
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from support.interop import Started, cdp_argv, cdp_done, environ, run, world  # noqa: F401

from cdp.cli.top_view import Row, details, rate, summary
from cdp.service.rates import RatesView
from cdp.text.sizes import approx_ns
from cdpcore.base.stages import REQUEST_NAMES, SOURCE_NAMES, STAGE_NAMES

CLIENT = """
import sys
from cdp.nbd.client import Client
with Client(sys.argv[1]) as disk:
    print("connected", flush=True)
    while True:
        disk.pwrite(b"x" * 4096, 0), disk.flush(), disk.pread(4096, 0)
"""

# What is typed there, Ctrl-C too, goes to the program.
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def busy(world):  # noqa: F811
    """A served volume `web` that a client writes, flushes and reads all the time."""
    world.create("web", 1)
    world.serve("web")
    with Started([sys.executable, "-c", CLIENT, world.uri("web")], env=environ(), text=True,
                 stdout=subprocess.PIPE) as client:
        assert client.stdout.readline() == "connected\n"
        yield world
        client.kill()


def test_one_interval_as_json(busy):
    found = json.loads(run(*cdp_argv("top", "web", "--once", "--interval", "500ms", "--json"), cwd=busy.path).stdout)
    (one,) = found["volumes"]
    assert one["volume"].endswith("web") and one["interval_ns"] >= 500_000_000
    assert list(one["requests"]) == list(REQUEST_NAMES) and list(one["stages"]) == list(STAGE_NAMES)
    assert list(one["sources"]) == list(SOURCE_NAMES)
    for name in REQUEST_NAMES:
        got = one["requests"][name]
        assert got["per_second"] > 0 and 0 < got["p50_ns"] <= got["p99_ns"] <= got["p999_ns"]
    assert one["requests"]["write"]["bytes_per_second"] >= 4096 and one["log_bytes_per_second"] > 0
    assert one["stages"]["log_sync"]["busy"] > 0 and sum(s["share"] for s in one["sources"].values()) == 1.0
    assert set(one["queues"]) == {"frames_in_flight", "frames_waiting", "parked", "workers_busy", "workers_waiting",
                                  "pending_bytes"}


def test_all_that_is_served_as_lines(busy, monkeypatch):
    """Not a terminal: a line a volume, again and again, until it is ended."""
    (busy.path / "run").mkdir()
    runtime = {**environ(), "XDG_RUNTIME_DIR": str(busy.path / "run")}
    os.makedirs(busy.path / "run" / "cdp", mode=0o700)
    os.symlink(busy.sockets / "admin.sock", busy.path / "run" / "cdp" / "1.admin.sock")
    with Started(cdp_argv("top", "--interval", "100ms"), cwd=busy.path, env=runtime,
                 text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        lines = [process.stdout.readline() for _ in range(40)]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "cdp: error: interrupted\n"
    assert lines[0].split()[:2] == ["VOLUME", "READ/s"] and lines[1].startswith("web ")
    assert sum(line.startswith("VOLUME") for line in lines) >= 2


@pytest.mark.parametrize("end", [b"q", b"\x03", signal.SIGTERM], ids=["q", "ctrl-c", "sigterm"])
def test_a_terminal_is_left_as_it_was(busy, end):
    ours, theirs = pty.openpty()
    before = subprocess.run(["stty", "-a"], stdin=theirs, capture_output=True, text=True, check=True).stdout
    argv = [sys.executable, "-c", ON_TERMINAL, *cdp_argv("top", "web", "--interval", "100ms")]
    with Started(argv, cwd=busy.path, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
                 env={**environ(), "COLUMNS": "150", "LINES": "40"}, start_new_session=True) as process:
        seen, until_s = b"", time.monotonic() + 60
        while b"log_sync" not in seen and time.monotonic() < until_s:
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 65536)
        if b"log_sync" not in seen:
            process.kill()
        assert b"\x1b[?1049h" in seen and b"WRITE/s" in seen and b"log_sync" in seen
        os.write(ours, b"\x1b[B")
        if isinstance(end, bytes):
            os.write(ours, end)
        else:
            process.send_signal(end)
        while select.select([ours], [], [], 0.2)[0] or process.poll() is None:
            if select.select([ours], [], [], 0)[0]:
                seen += os.read(ours, 65536)
            if time.monotonic() > until_s:
                process.kill()
                pytest.fail("it does not end")
        assert process.wait(60) == 0 and process.stderr.read() == b""
    assert seen.endswith(b"\x1b[?7h\x1b[?25h\x1b[?1049l")
    assert subprocess.run(["stty", "-a"], stdin=theirs, capture_output=True, text=True, check=True).stdout == before
    os.close(ours)
    os.close(theirs)


def test_what_is_refused(world):  # noqa: F811
    world.create("web", 1)
    for args, status, said in ((("web",), 8, "web is not served"), (("nothing",), 3, "no such volume"),
                               (("web", "--interval", "1ms"), 2, "write 50ms to 1h"),
                               (("web", "--interval", "soon"), 2, "is not a duration"),
                               (("web@-1s",), 2, "takes a volume, not a point")):
        done = cdp_done("top", *args, cwd=world.path, status=status)
        assert said in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_server_that_goes_ends_it(busy):
    with Started(cdp_argv("top", "web", "--interval", "100ms", "--json"), cwd=busy.path, env=environ(),
                 text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == "{\n"
        busy.kill()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 8 and said.startswith("cdp: error: ") and said.count("\n") == 1


def test_nothing_is_served(tmp_path, monkeypatch):
    environment = {**environ(), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(cdp_argv("top", "--once", "--interval", "50ms"), env=environment, capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "nothing is served\n")


def test_a_volume_that_does_not_answer_has_a_line():
    idle = {"per_second": 0.0, "busy": 0.0, "p50_ns": 0, "p99_ns": 0, "p999_ns": 0}
    queues = dict.fromkeys(("frames_in_flight", "frames_waiting", "parked", "workers_busy", "workers_waiting",
                            "pending_bytes"), 0)
    none = {"per_second": 0.0, "bytes_per_second": 0.0, "share": 0.0}
    rates = RatesView(
        interval_ns=1, requests=dict.fromkeys(REQUEST_NAMES, idle), stages=dict.fromkeys(STAGE_NAMES, idle),
        sources=dict.fromkeys(SOURCE_NAMES, none), queues=queues, log_bytes=0, log_bytes_per_second=0.0)
    lines = summary([Row("web", rates), Row("db", None, "does not answer")])
    assert lines[1].split()[:3] == ["web", "0", "0.0"] and lines[2] == "db      does not answer"
    assert details(Row("web", rates))[-1] == "no requests" and details(Row("db", None, "x")) == ["db: x"]


@pytest.mark.parametrize("ns, text", [(0, "-"), (999, "999 ns"), (1000, "1.00 us"), (12_345, "12.3 us"),
                                      (456_789, "457 us"), (4_560_000, "4.56 ms"), (120 * 10**9, "120 s")])
def test_durations(ns, text):
    assert approx_ns(ns) == text


def test_rate_has_a_digit_where_it_is_small():
    assert [rate(x) for x in (0, 0.25, 9.96, 10, 12345.6)] == ["0", "0.2", "10.0", "10", "12,346"]
