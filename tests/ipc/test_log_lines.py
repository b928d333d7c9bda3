"""Log lines on standard error: as text, and as JSON with one object a line."""
import json
import re
import signal
import subprocess
import sys

import pytest

ENTRY = ["time", "level", "logger", "pid", "message", "event"]
NANOSECONDS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"
LOGS = """
import logging
from cdp.ipc import log_lines
log_lines.set_up({level!r}, {log_format!r}, {role!r})
log = logging.getLogger("cdp.serve")
log.debug("not %s", "this")
log.info("%d clients of %s", 3, "wéb\\n2")
logging.getLogger("httpx").info("chatter")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken")
print(log_lines.said_as_json("ready", logging.INFO))
"""


def logged(level="info", log_format="text", role=""):
    """(standard output, lines on standard error) of a process that logs."""
    code = LOGS.format(level=level, log_format=log_format, role=role)
    done = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.splitlines()


@pytest.mark.parametrize("role", ["", "gateway"])
def test_every_line_is_an_object(role):
    said, lines = logged(log_format="json", role=role)
    clients, broken, ready = map(json.loads, lines)     # three entries: no debug, no chatter
    assert said == "True"
    assert list(clients) == [*ENTRY[:4], *(["role"] if role else []), *ENTRY[4:]]
    assert (clients["level"], clients["logger"], clients.get("role", "")) == ("info", "cdp.serve", role)
    assert clients["message"] == "3 clients of wéb\n2" and clients["event"] == "%d clients of %s"
    assert re.fullmatch(NANOSECONDS, clients["time"])
    assert broken["level"] == "error" and broken["exception"].endswith("ZeroDivisionError: division by zero")
    assert (ready["message"], ready["logger"]) == ("ready", "cdp")


def test_what_people_wait_for_is_said_at_any_level():
    said, lines = logged("error", "json")
    assert said == "True" and [json.loads(line)["message"] for line in lines] == ["broken", "ready"]


def test_text_is_as_before():
    said, lines = logged(role="tsd")
    assert said == "False"
    assert re.fullmatch(r"[-\d]+ [:,\d]+ tsd\[\d+\] INFO cdp\.serve: 3 clients of wéb", lines[0])
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert re.fullmatch(r"[-\d]+ [:,\d]+ INFO cdp\.serve: 3 clients of wéb", logged()[1][0])


def test_a_server_says_nothing_but_objects(tmp_path):
    """From ready to its end, with an error of its own: a volume that is damaged."""
    cdp = [sys.executable, "-m", "cdp"]
    for name in ("good", "bad"):
        subprocess.run([*cdp, "create", name, "--size", "1M"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "bad/volume.json").write_text("{}")
    server = subprocess.Popen([*cdp, "serve", "good", "bad", "--unix", str(tmp_path / "nbd"), "--admin-socket",
                               str(tmp_path / "admin"), "--log-format", "json"], cwd=tmp_path, text=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with server:
        lines = []
        while not lines or lines[-1]["message"] != "ready":
            lines.append(json.loads(server.stderr.readline()))
        server.send_signal(signal.SIGTERM)
        lines += map(json.loads, server.stderr)
    assert server.returncode == 8
    assert all(list(line) == ENTRY for line in lines)
    assert any(line["level"] == "error" and "bad" in line["message"] for line in lines)
    assert any(line["message"] == "stopping" for line in lines)
