"""Alerts of a volume: rules over facts, each raised once, and cleared with hysteresis.

Invariants
  1. A kind that is raised is not raised again before it was cleared; it is cleared only where its value is better than
     the threshold by the margin of its rule, for HOLD_NS at least: what goes to and fro raises one alert.
  2. A value that is not known changes nothing.
Pure: facts and times are given. One thread at a time; `active` may be read by any.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdp.text.sizes import approx_duration

if TYPE_CHECKING:
    from cdp.settings import Settings

SECOND_NS = 1_000_000_000
HOLD_NS = 600 * SECOND_NS       # so long it must be well before an alert is cleared


@dataclass(frozen=True)
class Facts:
    """What the rules look at; None: not known, or it does not apply. days_left: until the device is full, or writes
    meet the limit; over_floor_bytes: of history that neither the floor nor a pin lets go, though it is over the limit;
    limit_percent: of the limit that refuses or slows writes, how much is used; runs: files of the index; failing: what
    maintenance cannot do; damage: problems of the scrub; clock_ns: by how much the wall clock jumped, or is behind the
    newest record; unflushed_ns: the age of the oldest write that no flush came after; suspicious_bytes, suspicious:
    cdp.service.suspicion, in words with the name of the bookmark; standby_ns, standby: how far the standby is behind,
    or how long it was not there, and which of the two, in words."""

    days_left: float | None = None
    over_floor_bytes: int | None = None
    limit_percent: float | None = None
    runs: int | None = None
    failing: str = ""
    damage: int | None = None
    clock_ns: int | None = None
    unflushed_ns: int | None = None
    suspicious_bytes: int | None = None
    suspicious: str = ""
    standby_ns: int | None = None
    standby: str = ""


@dataclass(frozen=True)
class Alert:
    """Raised at since_ns (wall clock, UTC). level: warning or error."""

    kind: str
    level: str
    what: str
    hint: str
    since_ns: int


@dataclass(frozen=True)
class _Rule:
    """Raised where value(facts) is at the threshold or worse; well where it is better than `margin` times that. Worse
    is more; less where margin > 1."""

    kind: str
    level: str
    setting: str
    margin: float
    value: Callable[[Facts], float | None]
    what: Callable[[Facts], str]
    hint: str

    def judge(self, facts: Facts, threshold: float) -> bool | None:
        """True: bad; False: well; None: not known, or between the two."""
        value = self.value(facts)
        if value is None:
            return None
        sign = -1 if self.margin > 1 else 1
        if sign * value >= sign * threshold:
            return True
        return False if sign * value < sign * threshold * self.margin else None


RULES = (
    _Rule("forecast", "warning", "alert_days_left", 1.25, lambda f: f.days_left,
          lambda f: f"space lasts for {f.days_left:.1f} days at the present rate",
          "give it a larger device, or keep less: 'cdp policy'"),
    _Rule("floor", "error", "alert_floor_bytes", 1.0, lambda f: f.over_floor_bytes,
          lambda f: f"the history is {f.over_floor_bytes} bytes over its limit, and the floor or a pin keeps it",
          "raise the limit, lower the floor, or delete what 'cdp pins' lists"),
    _Rule("limit", "warning", "alert_limit_percent", 0.95, lambda f: f.limit_percent,
          lambda f: f"{f.limit_percent:.0f} % of the limit are used; at 100 % writes are refused",
          "raise the limit, or keep less: 'cdp policy'"),
    _Rule("maintenance", "warning", "alert_index_runs", 0.75,
          lambda f: float("inf") if f.failing else f.runs,
          lambda f: f.failing or f"{f.runs} files of the index wait to be merged",
          "the device is too busy for maintenance, or the server's log has errors"),
    _Rule("scrub", "error", "alert_damage", 1.0, lambda f: f.damage,
          lambda f: f"the scrub found {f.damage} damaged places",
          "'cdp info' lists them; put the files back from a copy, then run 'cdp check'"),
    _Rule("clock", "warning", "alert_clock_ms", 0.5,
          lambda f: None if f.clock_ns is None else f.clock_ns / 1e6,
          lambda f: f"the clock jumped by, or is behind by, {approx_duration(f.clock_ns or 0)}",
          "look at what sets the clock; nothing expires by it"),
    _Rule("unflushed", "warning", "alert_unflushed_ms", 0.5,
          lambda f: None if f.unflushed_ns is None else f.unflushed_ns / 1e6,
          lambda f: f"no flush for {approx_duration(f.unflushed_ns or 0)} of writes: no newer moment is vouched for",
          "look at the cache mode of the client"),
    _Rule("suspicious", "error", "alert_suspicious_bytes", 0.5, lambda f: f.suspicious_bytes,
          lambda f: f"its content is being overwritten as if it were encrypted: {f.suspicious}",
          "look at what the client does, and disconnect it if it should not; 'cdp restore' takes the volume back"),
    _Rule("standby", "error", "alert_standby_ms", 0.5,
          lambda f: None if f.standby_ns is None else f.standby_ns / 1e6,
          lambda f: f"its standby {f.standby} {approx_duration(f.standby_ns or 0)}",
          "look at that host and the way to it; 'cdp standby VOLUME --detach' where there is to be none"),
)
KINDS = tuple(rule.kind for rule in RULES)


class AlertBook:
    """The alerts of one volume. settings: the thresholds, 0: that kind is never raised. raised, cleared: called in
    look()."""

    def __init__(self, settings: Settings, raised: Callable[[Alert], None] = lambda alert: None,
                 cleared: Callable[[Alert], None] = lambda alert: None):
        self._thresholds = {rule.kind: float(getattr(settings, rule.setting)) for rule in RULES}
        self._raised, self._cleared = raised, cleared
        self._active: dict[str, Alert] = {}
        self._well_since_ns: dict[str, int] = {}        # by the steady clock
        self.counts = dict.fromkeys(KINDS, 0)

    def threshold(self, kind: str) -> float:
        return self._thresholds[kind]

    @property
    def active(self) -> list[Alert]:
        """What is raised, in the order in which it was."""
        return list(self._active.values())

    def look(self, facts: Facts, now_ns: int, steady_ns: int) -> None:
        """now_ns: wall clock, for people; steady_ns: a clock that is never set."""
        for rule in RULES:
            threshold = self._thresholds[rule.kind]
            if not threshold:
                continue
            alert, bad = self._active.get(rule.kind), rule.judge(facts, threshold)
            if alert is None:
                if bad:
                    alert = Alert(rule.kind, rule.level, rule.what(facts), rule.hint, now_ns)
                    self._active = {**self._active, rule.kind: alert}
                    self.counts[rule.kind] += 1
                    self._raised(alert)
            elif bad is False:
                if steady_ns - self._well_since_ns.setdefault(rule.kind, steady_ns) >= HOLD_NS:
                    del self._well_since_ns[rule.kind]
                    self._active = {kind: one for kind, one in self._active.items() if kind != rule.kind}
                    self._cleared(alert)
            elif rule.value(facts) is not None:
                self._well_since_ns.pop(rule.kind, None)
