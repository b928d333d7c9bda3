"""Where a server's alerts go: the platform's (the log), and what the settings name (a command, a webhook).

Any thread.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cdp.platform import AlertsImpl, Severity
from cdp.platform.alerting import AllAlerts, CommandAlerts, DeliveredAlerts, WebhookAlerts
from cdp.platform.python.services import Alerts
from cdp.text.timestamps import utc

if TYPE_CHECKING:
    from cdp import Volume
    from cdp.service.alerts import Alert
    from cdp.settings import Settings

SEVERITIES = {"warning": Severity.WARNING, "error": Severity.ERROR}


class Alerting:
    """Args: settings: alert_command, alert_webhook; alerts: gives the platform's, when it is needed; None: the log."""

    def __init__(self, settings: Settings, alerts: Callable[[], AlertsImpl] | None = None):
        self._log = Alerts()
        self._alerts = alerts or (lambda: self._log)
        self._delivered: list[DeliveredAlerts] = []
        if settings.alert_command:
            self._delivered.append(CommandAlerts(settings.alert_command))
        if settings.alert_webhook:
            self._delivered.append(WebhookAlerts(settings.alert_webhook))

    def report(self, volume: Volume, alert: Alert, raised: bool) -> None:
        """An alert of a volume was raised, or cleared."""
        what = f"{volume.path}: {alert.what}" if raised else f"{volume.path}: over: {alert.what}"
        about = {"volume": volume.path, "kind": alert.kind, "state": "raised" if raised else "cleared",
                 "since": utc(alert.since_ns)}
        AllAlerts([self._alerts(), *self._delivered]).alert(
            SEVERITIES[alert.level] if raised else Severity.INFO, what, alert.hint if raised else "", about=about)

    def close(self) -> None:
        """Idempotent."""
        for one in self._delivered:
            one.close()
