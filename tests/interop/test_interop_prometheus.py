"""A real Prometheus scrapes a server and loads the rules; promtool checks text and rules; systemd reads the units."""
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest
from support.interop import need, run, world  # noqa: F401

import cdp
from cdp.serve.prometheus import Exposition
from cdp.service.local import VolumeService

CONTRIB = Path(__file__).parents[2] / "contrib"
MIB = 1 << 20


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def query(port: int, expression: str) -> list[dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    with connection.getresponse() as answer:
        return json.loads(answer.read())["data"]["result"]


def test_rules_are_raised_once_and_not_by_a_good_night():
    need("promtool")
    rules = CONTRIB / "prometheus"
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", rules / "cdp.rules.yml")
    run("promtool", "test", "rules", "cdp.rules.test.yml", cwd=rules)


def test_each_rule_is_raised_in_the_night_that_is_played():
    rules = re.findall(r"(?m)^      - alert: (\w+)$", (CONTRIB / "prometheus/cdp.rules.yml").read_text())
    played = re.findall(r'labels: \S*alertname="(\w+)"', (CONTRIB / "prometheus/cdp.rules.test.yml").read_text())
    assert len(rules) > 20 and sorted(rules) == sorted(played)


def test_promtool_finds_the_text_right(tmp_path):
    need("promtool")
    with cdp.create(tmp_path / "web", size=MIB) as volume:
        volume.pwrite(b"x" * 4096, 0)
        text, _ = Exposition({"web": VolumeService(volume)}).encode()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr


def test_prometheus_scrapes_a_server(world, tmp_path):  # noqa: F811
    """What the rules and the dashboard ask for is there."""
    need("prometheus")
    world.create("web", 1)
    world.serve("web", "--metrics", "127.0.0.1:0", "--json")
    where = json.loads(" ".join(world.printed))["metrics"].split("/")[2]
    shutil.copy(CONTRIB / "prometheus/cdp.rules.yml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [cdp.rules.yml]\n"
        f"scrape_configs:\n  - job_name: cdp\n    static_configs: [{{targets: ['{where}']}}]\n")
    port = free_port()
    with (tmp_path / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + 60
        while True:
            try:
                if found := query(port, "cdp_volume_up"):
                    break
            except (OSError, KeyError, ValueError):
                pass
            assert server.poll() is None and time.monotonic() < until_s, (tmp_path / "prometheus.log").read_text()
            time.sleep(0.1)
        assert found[0]["metric"]["volume"] == "web" and found[0]["value"][1] == "1"
        assert query(port, 'up{job="cdp"}')[0]["value"][1] == "1"
        for board in (CONTRIB / "grafana").glob("*.json"):
            for panel in json.loads(board.read_text())["panels"]:
                for target in panel.get("targets", ()):
                    query(port, target["expr"].replace("$volume", ".*").replace("$__rate_interval", "5s"))
        assert query(port, 'ALERTS{alertstate="firing"}') == []
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.mark.parametrize("unit", sorted(path.name for path in (CONTRIB / "systemd").iterdir()))
def test_systemd_reads_the_units(unit, tmp_path):
    """Every setting is known to it, and the order has no circle. The program that a unit starts need not be installed
    here: this Python stands for it."""
    need("systemd-analyze")
    for path in (CONTRIB / "systemd").iterdir():
        text = path.read_text().replace("/usr/bin/cdp", sys.executable)
        (tmp_path / path.name).write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", tmp_path / unit.replace("@.", "@web."), status=None)
    said = [line for line in (done.stdout + done.stderr).splitlines() if unit.split("@")[0] in line]
    assert done.returncode == 0 and not said, done.stderr
