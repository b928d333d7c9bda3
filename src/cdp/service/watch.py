"""What a server looks at, every LOOK_S, for the alerts of one volume; the rules are cdp.service.alerts.

Threading: look() by one thread at a time.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from cdp.service.alerts import SECOND_NS, AlertBook, Facts
from cdp.service.changes import Changes
from cdp.store.steady_clock import Steady, steady
from cdpcore.base.errors import CdpError

if TYPE_CHECKING:
    from cdp.service.local import VolumeService
    from cdp.views import StandbyView

log = logging.getLogger("cdp.alerts")
LOOK_S = 10.0
SPACE_NS = 60 * SECOND_NS           # how often the files of the volume are measured
JUMP_NS = 3600 * SECOND_NS          # so long a jump of the clock is reported
FORECAST_FROM_NS = 3600 * SECOND_NS     # the growth of the first hour says little


def standby_lag(view: StandbyView | None, now_ns: int) -> tuple[int, str]:
    """How far a standby is behind, or how long it was not there, whichever is more, and which. 0: there is none."""
    if view is None:
        return 0, ""
    absent_ns = 0 if view["connected"] or view["since_ns"] is None else max(now_ns - view["since_ns"], 0)
    return (absent_ns, "was not connected for") if absent_ns >= view["lag_ns"] and absent_ns else \
        (view["lag_ns"], "is behind by")


class Watch:
    """Of one served volume. now_ns: the wall clock."""

    def __init__(self, service: VolumeService, book: AlertBook, now_ns: Callable[[], int], clock: Steady = steady):
        self.service, self.book = service, book
        self._now_ns, self._clock = now_ns, clock
        self._before: tuple[str, int, int] | None = None        # boot, steady, wall
        self._jump_ns, self._jumped_ns = 0, 0
        self._measured_ns = -SPACE_NS
        self._position: tuple[int, int] | None = None
        self._days_left: float | None = None
        self._over_floor: int | None = None
        self._limit_percent: float | None = None
        self.changes = Changes(service.volume, book.threshold("suspicious"))

    def look(self) -> None:
        """Look once, and raise or clear what is to be. Nothing is raised of a volume that cannot be asked."""
        boot, steady_ns = self._clock()
        now_ns = self._now_ns()
        self._look_at_clock(boot, steady_ns, now_ns)
        self.changes.look(steady_ns, now_ns)
        position = self.service.volume._core.position()
        idle, self._position = position == self._position, position
        if idle and not self.book.active and not self._jump_ns and self.service.standby() is None and \
                steady_ns - self._measured_ns < SPACE_NS:
            return      # of a thousand idle volumes, each takes this and no more
        try:
            if steady_ns - self._measured_ns >= SPACE_NS:
                self._measured_ns = steady_ns
                self._measure()
            facts = self._facts(now_ns)
        except CdpError as error:
            log.info("%s: not looked at: %s", self.service.volume.path, error)
            return
        self.book.look(facts, now_ns, steady_ns)

    def _look_at_clock(self, boot: str, steady_ns: int, now_ns: int) -> None:
        before, self._before = self._before, (boot, steady_ns, now_ns)
        if before is not None and before[0] == boot:
            jump_ns = abs((now_ns - before[2]) - (steady_ns - before[1]))
            if jump_ns >= self._jump_ns:
                self._jump_ns, self._jumped_ns = jump_ns, steady_ns
        if steady_ns - self._jumped_ns >= JUMP_NS:
            self._jump_ns = 0

    def _measure(self) -> None:
        """What takes a look at every file."""
        volume, space = self.service.volume, self.service.space()
        window = volume.window()
        policy, limit = volume.policy_keeper.policy, space["limit_bytes"]
        stops = policy is not None and limit is not None and policy.when_full != "thin"
        days = [space["days_to_full"], space["days_to_limit"] if stops else None]
        known = window.newest.ts_ns - window.oldest.ts_ns > FORECAST_FROM_NS
        # None is "never" here: as many days as there can be.
        self._days_left = min((one for one in days if one is not None), default=36_500.0) if known else None
        self._limit_percent = 100 * space["history_bytes"] / limit if stops and limit else 0.0
        over = limit is not None and space["history_bytes"] > limit
        self._over_floor = volume.policy_keeper.plan()[0].over_bytes if over else 0

    def _facts(self, now_ns: int) -> Facts:
        service, volume = self.service, self.service.volume
        stats, keeper = volume.stats(), volume.policy_keeper
        failed = keeper.report().failed or keeper.damaged
        state = service.care.scrub.state if service.care else None
        behind_ns, how = standby_lag(service.standby(), now_ns)
        return Facts(
            days_left=self._days_left, over_floor_bytes=self._over_floor, limit_percent=self._limit_percent,
            runs=stats["runs"], failing=f"its retention policy is not applied: {failed}" if failed else "",
            damage=None if state is None else state.last_n_problems + state.n_problems,
            clock_ns=max(self._jump_ns, volume.window().clock_behind_ns),
            unflushed_ns=self._unflushed_ns(now_ns) if service.clients() else 0,
            suspicious_bytes=self.changes.suspicion.bytes, suspicious=self.changes.words, standby_ns=behind_ns,
            standby=how)

    def _unflushed_ns(self, now_ns: int) -> int:
        now = self.service.explain("now")
        if now["flush_durable"]:
            return 0
        flushed = now["last_flush"] or self.service.window()["oldest"]
        waiting = self.service.explain(f"#{flushed['seq']}")["next"]
        return max(0, now_ns - waiting["ts_ns"]) if waiting else 0
