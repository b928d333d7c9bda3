"""Alerts for people who do not read the log: a callback, a command, a webhook; and several of them as one.

Each delivers on a thread of its own, so alert() never waits. What it delivers is one JSON object:

    {"time": RFC 3339, "severity": "warning", "what": ..., "hint": ..., "lun": 0 or null, "volume": ..., "kind": ...}

with the fields of `about` beside the first five. At most MOST_WAITING wait; the next one says how many were left out.
"""
from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cdp.platform.services import AlertsImpl
from cdp.platform.structures import Severity
from cdp.text.timestamps import utc

log = logging.getLogger("cdp.alerts")
MOST_WAITING = 64
COMMAND_S, WEBHOOK_S = 30.0, 10.0       # how long one delivery may take
PAUSES_S = (1.0, 5.0)                   # between tries
CLOSE_S = 5.0


class DeliveredAlerts(AlertsImpl):
    """A base: deliver() is called on a thread of its own, with one alert at a time, and may raise. close() ends the
    thread, and waits a moment for what is being delivered; what waits then is dropped."""

    def __init__(self, name: str):
        self._name = name
        self._ready = threading.Condition()
        self._waiting: deque[dict[str, Any]] = deque()      # guarded by _ready, as are the next two
        self._left_out = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"cdp-alerts-{name}", daemon=True)
        self._thread.start()

    @abstractmethod
    def deliver(self, alert: dict[str, Any]) -> None:
        """Once; raises OSError, ValueError, subprocess.SubprocessError where it may work another time."""

    def alert(self, severity: Severity, what: str, hint: str = "", *, lun: int | None = None,
              about: Mapping[str, str] | None = None) -> None:
        entry = {"time": utc(time.time_ns()), "severity": severity.name.lower(), "what": what, "hint": hint,
                 "lun": lun, **(about or {})}
        with self._ready:
            if self._closed:
                return
            if len(self._waiting) >= MOST_WAITING:
                self._left_out += 1
                return
            self._waiting.append(entry)
            self._ready.notify_all()

    def close(self) -> None:
        """Idempotent."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                entry = self._waiting.popleft()
                if self._left_out:
                    entry["left_out"], self._left_out = self._left_out, 0
            self._try(entry)

    def _try(self, entry: dict[str, Any]) -> None:
        for pause_s in (*PAUSES_S, None):
            try:
                self.deliver(entry)
                return
            except Exception as error:      # noqa: BLE001  (whatever it was, the next alert must go out)
                if pause_s is None or self._stopped(pause_s):
                    log.warning("alert not delivered to the %s: %s: %s", self._name, type(error).__name__, error)
                    return

    def _stopped(self, pause_s: float) -> bool:
        with self._ready:
            return self._ready.wait_for(lambda: self._closed, pause_s)


class CallbackAlerts(DeliveredAlerts):
    """Calls `callback(alert)` with the object as a dict."""

    def __init__(self, callback: Callable[[dict[str, Any]], None]):
        self._callback = callback
        super().__init__("callback")

    def deliver(self, alert: dict[str, Any]) -> None:
        self._callback(alert)


class CommandAlerts(DeliveredAlerts):
    """Runs a program, without a shell and without arguments: the object is on its standard input, and its fields are in
    the environment as CDP_ALERT_VOLUME and so on."""

    def __init__(self, program: str):
        self._program = program
        super().__init__("command")

    def deliver(self, alert: dict[str, Any]) -> None:
        fields = {f"CDP_ALERT_{name.upper()}": "" if value is None else str(value) for name, value in alert.items()}
        done = subprocess.run([self._program], input=json.dumps(alert), text=True, timeout=COMMAND_S, check=False,
                              env={**os.environ, **fields}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode:
            raise OSError(f"{self._program} ended with status {done.returncode}: {done.stderr.strip()[-200:]}")


class WebhookAlerts(DeliveredAlerts):
    """Sends the object with POST; any answer of 200 to 299 is right."""

    def __init__(self, url: str):
        self._url = url
        super().__init__("webhook")

    def deliver(self, alert: dict[str, Any]) -> None:
        import httpx

        httpx.post(self._url, json=alert, timeout=WEBHOOK_S).raise_for_status()


class AllAlerts(AlertsImpl):
    """Several as one."""

    def __init__(self, each: Sequence[AlertsImpl]):
        self._each = list(each)

    def alert(self, severity: Severity, what: str, hint: str = "", *, lun: int | None = None,
              about: Mapping[str, str] | None = None) -> None:
        for one in self._each:
            one.alert(severity, what, hint, lun=lun, about=about)
