"""What a limit of the history does to writes, where the policy does not take history for it.

    refuse      at the limit writes are refused, until rules or pins end, or the limit is raised.
    throttle    the same, and before it: once less than a fifth of the limit is left, writes are slowed so that what is
                left lasts for a minute, or a fifth of what `all` says where that is less. It shrinks ever more slowly,
                until history ends as fast as it grows; then the limit is not met.

So neither takes anything that a rule keeps; both need rules that end, or they refuse for ever.

Pure functions.
"""
from __future__ import annotations

from dataclasses import dataclass

from cdp.moments.policy import NS, REFUSE, THIN, THROTTLE, Policy

LEFT_SHARE = 5          # of the limit
WITHIN_NS = 60 * NS     # what is left lasts for so long ...
SPAN_SHARE = 5          # ... or for such a part of the span of `all`: history that ends after 10 s comes back every 2

GO_ON, SLOWED, REFUSED = "go on", "slowed", "refused"


@dataclass(frozen=True)
class Admitted:
    """room_bytes: of log, which may still be added; None: there is no limit that writes meet. With less than slow_bytes
    left, writes are slowed so that it lasts for within_ns."""

    room_bytes: int | None
    slow_bytes: int = 0
    within_ns: int = 0

    @property
    def rate_bytes(self) -> int:
        """How much a second is let in now; 0: as much as comes."""
        if self.room_bytes is None or not 0 < self.room_bytes < self.slow_bytes:
            return 0
        return max(1, self.room_bytes * NS // self.within_ns)

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
    if policy.when_full == REFUSE:
        return Admitted(room)
    span_ns = policy.tiers[0].span_ns
    within_ns = WITHIN_NS if span_ns is None else min(WITHIN_NS, span_ns // SPAN_SHARE)
    return Admitted(room, policy.limit_bytes // LEFT_SHARE, within_ns)
