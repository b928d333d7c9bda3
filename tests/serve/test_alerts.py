"""Alerts: raised once each, cleared with hysteresis, shown everywhere, and delivered."""
from __future__ import annotations

import http.server
import json
import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cdp
from cdp.ipc.log_lines import JsonLines
from cdp.platform import Severity
from cdp.platform.alerting import MOST_WAITING, AllAlerts, CallbackAlerts, CommandAlerts, WebhookAlerts
from cdp.platform.python.services import Alerts
from cdp.serve.alerting import Alerting
from cdp.serve.prometheus import Exposition
from cdp.service.alerts import HOLD_NS, KINDS, SECOND_NS, Alert, AlertBook, Facts
from cdp.service.care import Care
from cdp.service.local import VolumeService
from cdp.service.status import Limits, attention
from cdp.service.watch import JUMP_NS, LOOK_S, SPACE_NS, Watch
from cdp.settings import Settings

MIB = 1 << 20
GOOD = Facts(days_left=90.0, over_floor_bytes=0, limit_percent=40.0, runs=9, damage=0, clock_ns=0, unflushed_ns=0,
             suspicious_bytes=0, standby_ns=0)
BAD = {"forecast": ("days_left", 5.0, 8.0), "floor": ("over_floor_bytes", 65 * MIB, 65 * MIB),
       "limit": ("limit_percent", 95.0, 89.0), "maintenance": ("runs", 50, 40), "scrub": ("damage", 2, 2),
       "clock": ("clock_ns", 3 * SECOND_NS, 3 * SECOND_NS // 2),
       "unflushed": ("unflushed_ns", 1000 * SECOND_NS, 600 * SECOND_NS),
       "suspicious": ("suspicious_bytes", 20 * MIB, 9 * MIB),
       "standby": ("standby_ns", 70 * SECOND_NS, 40 * SECOND_NS)}


class Night:
    """Looks of an AlertBook, LOOK_S apart, by a simulated clock."""

    def __init__(self, settings: Settings | None = None):
        self.raised: list[Alert] = []
        self.cleared: list[Alert] = []
        self.book = AlertBook(settings or Settings(), self.raised.append, self.cleared.append)
        self.ns = 10**18

    def look(self, facts: Facts, times: int = 1) -> None:
        for _ in range(times):
            self.ns += int(LOOK_S * 1e9)
            self.book.look(facts, self.ns, self.ns - 10**17)


def test_a_bad_night_raises_each_once():
    """Eight hours: each trouble comes at a random time, goes to and fro about its threshold, and stays until morning;
    sometimes nothing is known."""
    rnd, night = random.Random(3), Night()
    begins = {kind: rnd.randrange(100, 2000) for kind in KINDS}
    for look in range(2880):
        facts: dict[str, Any] = dict(vars(GOOD))
        for kind, (name, bad, nearly) in BAD.items():
            if look >= begins[kind]:
                facts[name] = rnd.choice([bad, nearly, None])
        night.look(Facts(**facts))
    assert sorted(alert.kind for alert in night.raised) == sorted(KINDS) and not night.cleared
    assert night.book.counts == dict.fromkeys(KINDS, 1)
    for alert in night.raised:
        assert alert.what and alert.hint and alert.level in ("warning", "error")
    # The morning: all is well, and stays so.
    night.look(GOOD, int(HOLD_NS / (LOOK_S * 1e9)) + 2)
    assert not night.book.active and sorted(alert.kind for alert in night.cleared) == sorted(KINDS)
    night.look(Facts(**{**vars(GOOD), "damage": 1}))
    assert night.book.counts["scrub"] == 2      # and it can be raised again


def test_a_good_night_raises_none():
    night = Night()
    night.look(GOOD, 2880)
    night.look(Facts(), 100)
    assert not night.raised


def test_it_is_cleared_only_after_it_was_well_for_long_enough():
    night, looks = Night(), int(HOLD_NS / (LOOK_S * 1e9))
    bad = Facts(**{**vars(GOOD), "days_left": 3.0})
    night.look(bad)
    night.look(GOOD, looks - 1)
    night.look(bad)             # the time begins anew
    night.look(GOOD, looks - 1)
    assert len(night.raised) == 1 and night.book.active
    night.look(GOOD, 3)
    assert not night.book.active


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_its_own_threshold_and_can_be_turned_off(kind: str):
    from cdp.service.alerts import RULES
    rule = next(rule for rule in RULES if rule.kind == kind)
    facts = Facts(**{**vars(GOOD), BAD[kind][0]: BAD[kind][1]})
    for settings, expected in ((Settings(), [kind]), (Settings(**{rule.setting: 0}), [])):
        night = Night(settings)
        night.look(facts)
        assert [alert.kind for alert in night.raised] == expected


class Clocks:
    def __init__(self) -> None:
        self.wall_ns, self.steady_ns = time.time_ns(), 5 * 10**12

    def now_ns(self) -> int:
        return self.wall_ns

    def steady(self) -> tuple[str, int]:
        return "boot", self.steady_ns

    def go(self, ns: int) -> None:
        self.wall_ns += ns
        self.steady_ns += ns


@pytest.fixture
def watched(tmp_path: Path):
    """A served volume's watch with simulated clocks."""
    with cdp.create(tmp_path / "v", size=16 * MIB, settings=Settings(segment_bytes=16 * MIB)) as volume:
        service, clocks = VolumeService(volume), Clocks()
        service.connected = lambda: [{}]    # type: ignore[list-item,typeddict-item]  # somebody is
        care = Care(volume, Settings(scrub_interval_ms=0))
        service.care = care
        yield service, clocks, Watch(service, care.book, clocks.now_ns, clocks.steady)
        care.close()


def raised(service: VolumeService) -> list[str]:
    return [alert["kind"] for alert in service.alerts()]


def test_a_clock_that_jumps_is_raised_once_either_way(watched):
    service, clocks, watch = watched
    for jump_s in (3600, -365 * 86400):
        watch.look()
        clocks.go(10 * SECOND_NS)
        watch.look()
        assert raised(service) == []
        clocks.wall_ns += jump_s * SECOND_NS
        for _ in range(5):
            clocks.go(10 * SECOND_NS)
            watch.look()
            assert raised(service) == ["clock"]
        # A clock behind the newest record, of which there is none here, would be reported for longer.
        clocks.go(JUMP_NS)
        watch.look()
        clocks.go(HOLD_NS)
        watch.look()
        assert raised(service) == []
    assert service.info()["alert_counts"]["clock"] == 2


def test_a_write_without_a_flush_is_noticed_where_a_client_is_there(watched):
    service, clocks, watch = watched
    service.volume.pwrite(b"x" * 4096, 0)
    clocks.wall_ns = time.time_ns()
    watch.look()
    assert raised(service) == []
    clocks.go(1000 * SECOND_NS)
    watch.look()
    assert raised(service) == ["unflushed"]
    service.volume.flush()
    for _ in range(3):
        clocks.go(HOLD_NS)
        watch.look()
    assert raised(service) == []


def test_a_history_over_its_limit_is_noticed(watched):
    service, clocks, watch = watched
    service.volume.set_policy('keep = ["all for 30d"]\nfloor = "7d"\nlimit = "64MiB"\nwhen_full = "refuse"')
    for i in range(60):
        service.volume.pwrite(bytes([i + 1]) * MIB, 0)
    service.volume.flush()
    service.seal()      # a segment that is just being sealed is counted by nobody
    clocks.wall_ns = time.time_ns()
    watch.look()
    assert raised(service) == ["limit"]
    service.volume.set_policy('keep = ["all for 30d"]\nfloor = "7d"\nlimit = "200MiB"\nwhen_full = "refuse"')
    for _ in range(3):
        clocks.go(max(HOLD_NS, SPACE_NS))
        watch.look()
    assert raised(service) == []


def test_what_is_raised_is_shown_everywhere(watched):
    service, clocks, watch = watched
    service.care.scrub.checked(clocks.wall_ns, 4096, [("log/1", "rotten", "copy")])
    watch.look()
    info = service.info()
    assert raised(service) == ["scrub"] and info["alerts"][0]["since"].endswith("Z")
    assert any("scrub found" in line for line in attention(info, service.space(), 0, Limits()))
    text = Exposition({"v": service}).encode()[0].decode()
    assert 'cdp_alert{kind="scrub",volume="v"} 1.0' in text and 'cdp_alert{kind="limit",volume="v"} 0.0' in text
    assert 'cdp_alerts_total{kind="scrub",volume="v"} 1.0' in text


# --- delivery ---------------------------------------------------------------------------------------------------------


def wait_for(true: Callable[[], object]) -> None:
    until_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_a_command_gets_the_alert(tmp_path: Path):
    out, program = tmp_path / "out", tmp_path / "notify"
    program.write_text(f"#!/bin/sh\ncat > {out}.part\necho \"$CDP_ALERT_KIND $CDP_ALERT_VOLUME\" > {out}.env\n"
                       f"mv {out}.part {out}\n")
    program.chmod(0o755)
    alerting = Alerting(Settings(alert_command=str(program)))
    with cdp.create(tmp_path / "v", size=MIB) as volume:
        alerting.report(volume, Alert("forecast", "warning", "space lasts for 2 days", "more", 10**18), True)
        wait_for(out.exists)
        got = json.loads(out.read_text())
        assert (got["kind"], got["severity"], got["state"]) == ("forecast", "warning", "raised")
        assert got["volume"] == volume.path and "2 days" in got["what"] and got["hint"] == "more"
        assert Path(f"{out}.env").read_text() == f"forecast {volume.path}\n"
    alerting.close()


def test_a_webhook_is_tried_again_and_gets_the_alert(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cdp.platform.alerting.PAUSES_S", (0.0, 0.0))
    came: list[dict] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(503 if len(came) == 1 else 204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        hook = WebhookAlerts(f"http://127.0.0.1:{server.server_port}/alerts")
        hook.alert(Severity.ERROR, "web: content is being overwritten", "look", about={"kind": "suspicious"})
        wait_for(lambda: len(came) == 2)
        hook.close()
        server.shutdown()
        thread.join()
    assert came[0] == came[1] and came[0]["kind"] == "suspicious" and came[0]["severity"] == "error"


def test_too_many_alerts_are_counted_and_none_waits():
    go, came = threading.Event(), []

    def callback(alert: dict) -> None:
        go.wait(60)
        came.append(alert)

    sink = CallbackAlerts(callback)
    for i in range(MOST_WAITING * 3):
        sink.alert(Severity.INFO, f"alert {i}")
    go.set()
    wait_for(lambda: len(came) >= MOST_WAITING)
    sink.alert(Severity.INFO, "after")
    wait_for(lambda: came[-1]["what"] == "after")
    assert sum(alert.get("left_out", 0) for alert in came) + len(came) == MOST_WAITING * 3 + 1
    sink.close()
    sink.alert(Severity.INFO, "dropped")


def test_a_sink_that_fails_is_a_line_of_the_log_and_the_others_go_on(caplog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cdp.platform.alerting.PAUSES_S", ())
    came: list[dict] = []
    failing, well = CommandAlerts("/nowhere/notify"), CallbackAlerts(came.append)
    with caplog.at_level(logging.WARNING, "cdp.alerts"):
        AllAlerts([failing, well]).alert(Severity.WARNING, "one")
        AllAlerts([failing, well]).alert(Severity.WARNING, "two")
        wait_for(lambda: len(came) == 2 and caplog.text.count("not delivered") == 2)
    failing.close()
    well.close()


def test_a_line_of_the_log_has_the_fields(caplog):
    with caplog.at_level(logging.INFO, "cdp.alerts"):
        Alerts().alert(Severity.ERROR, "v: damage", "copy", about={"kind": "scrub", "volume": "/v"})
    entry = json.loads(JsonLines().format(caplog.records[-1]))
    assert entry["level"] == "error" and entry["about"] == {"kind": "scrub", "volume": "/v"}
    assert entry["message"] == "v: damage; copy"
