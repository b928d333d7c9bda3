"""What a limit of the history does to writes, where the policy does not take history for it.

    refuse      at the limit writes are refused, until rules or pins end, or the limit is raised.
    throttle    the same, and before it: once less than a fifth of the limit is left, a thirtieth of what is left may be
                written each second. Writers then come down to the rate at which history ends, and as long as it does,
                the limit is never met.

So neither takes anything that a rule keeps; both need rules that end, or they refuse for ever.

Pure functions.
"""
from __future__ import annotations

from dataclasses import dataclass

from cdp.moments.policy import REFUSE, THIN, THROTTLE, Policy

LEFT_SHARE = 5          # of the limit
WITHIN_S = 30           # what is left would be written in so long
LEAST_RATE = 64 << 10   # bytes a second: a flush after each small write still gets on

GO_ON, SLOWED, REFUSED = "go on", "slowed", "refused"


@dataclass(frozen=True)
class Admitted:
    """room_bytes: of log, which may still be added; None: there is no limit that writes meet. rate_bytes: a second; 0:
    as fast as they come."""

    room_bytes: int | None
    rate_bytes: int = 0

    @property
    def writes(self) -> str:
        """What happens to them."""
        if self.room_bytes is not None and self.room_bytes <= 0:
            return REFUSED
        return SLOWED if self.rate_bytes else GO_ON


def admitted(policy: Policy | None, taken_bytes: int) -> Admitted:
    """taken_bytes: of log and index, what is still needed."""
    if policy is None or policy.limit_bytes is None or policy.when_full == THIN:
        return Admitted(None)
    assert policy.when_full in (REFUSE, THROTTLE)
    room = max(0, policy.limit_bytes - taken_bytes)
    if policy.when_full == REFUSE or not 0 < room < policy.limit_bytes // LEFT_SHARE:
        return Admitted(room)
    return Admitted(room, max(LEAST_RATE, room // WITHIN_S))
