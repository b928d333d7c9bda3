"""The limit of an open volume's history, where its policy refuses or slows writes: measured, and given to the core.

The log counts what it adds, so the limit holds between two looks, too: but for requests that are under way, and the
index of the open segment. History that was given up counts until its files are gone.

History goes in whole segments, and neither the open one nor the last sealed one can go. So at the limit an open segment
that has much of it is sealed; and where only one is left, and nothing needs it, it does not count: or writes, which
alone can bring the next segment, would be refused for ever.

Threading: look() by one thread at a time; report() from any.
"""
from __future__ import annotations

import logging

from cdp.moments.limit import REFUSED, Admitted, admitted
from cdp.moments.policy import Policy
from cdp.store.store import Store
from cdp.text.sizes import approx_size
from cdpcore.base.errors import CdpError

log = logging.getLogger("cdp.retention")
SEAL_SHARE = 8          # an open segment with more than such a part of the limit is sealed


class LimitKeeper:
    """Of one open volume."""

    def __init__(self, store: Store):
        self._store = store
        self._admitted = Admitted(None)

    def report(self) -> Admitted:
        """As of the last look."""
        return self._admitted

    def look(self, policy: Policy | None, first_seq: int) -> Admitted:
        """Measure, and let writes in or not. first_seq: nothing before it is needed."""
        store, before = self._store, self._admitted
        logged = store.core.admission.logged()      # before the files are measured: nothing is missed
        rows, open_bytes = store.timeline.rows(), int(store.core.stats()["open_log_bytes"])
        taken = open_bytes + sum(map(store.log_bytes, rows)) + sum(r.file_bytes for r in store.maintainer.runs)
        if len(rows) == 1 and rows[0].last_seq <= first_seq:
            taken -= store.log_bytes(rows[0])
        now = self._admitted = admitted(policy, taken)
        if now.room_bytes is not None or before.room_bytes is not None:
            store.core.admission.set(logged, now.room_bytes, now.slow_bytes, now.within_ns)
        if now.writes != before.writes:
            self._say(now, policy)
        if now.writes == REFUSED and policy is not None and open_bytes * SEAL_SHARE > (policy.limit_bytes or 0):
            self._seal()
        return now

    def _say(self, now: Admitted, policy: Policy | None) -> None:
        where = self._store.directory
        if now.writes == REFUSED:
            log.warning("%s: writes are refused: the history has reached its limit of %s", where,
                        approx_size((policy.limit_bytes or 0) if policy else 0))
        elif now.rate_bytes:
            log.warning("%s: writes are slowed down to %s/s: %s are left to the limit of the history", where,
                        approx_size(now.rate_bytes), approx_size(now.room_bytes or 0))
        else:
            log.info("%s: writes go on: the history is below its limit", where)

    def _seal(self) -> None:
        try:
            self._store.core.set_aside()
            self._store.step()
        except CdpError as error:
            log.warning("%s", str(error))
