"""When the space of what a destructive restore discarded is freed; how that is done is cdp.store.reclaim's.

Not while somebody can still read it: through a view of before (a time image, an image), or, of before-images, from the
log because the disk does not hold the restored content yet. Then it is tried again: by maintenance, after a restore was
written back, and at the next opening.

Threading: under the volume's lock, which upkeep() takes itself.
"""
from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from cdp.moments.model import Moment
from cdp.store.catalog import RestoreRow
from cdp.store.reclaim import reclaim
from cdp.store.store import Store
from cdpcore.base.errors import Corruption
from cdpcore.index.view import View

log = logging.getLogger("cdp.volume")


class Reclaimer:
    """Args: store; lock: the volume's; views: what is being read; images_open: whether a writable image is open."""

    def __init__(self, store: Store, lock: threading.RLock, views: Mapping[View, Moment],
                 images_open: Callable[[], bool]):
        self._store, self._lock, self._views, self._images_open = store, lock, views, images_open

    def reclaim(self, row: RestoreRow, at_once: bool = False) -> None:
        """Free what this destructive restore discarded, or as much of it as can be freed now. at_once: also before the
        restore's own segment is sealed."""
        store = self._store
        if not self._may_free(row) or not reclaim(store, row, at_once):
            return
        done = replace(row, reclaimed=True)
        with store.catalog.write() as txn:
            txn.put(done)
        store.restores = [done if r.seq == row.seq else r for r in store.restores]
        store.renew_reserves()

    def reclaim_all(self, at_once: bool = False) -> None:
        """The same for every restore that waits for it."""
        for row in self.waiting():
            try:
                self.reclaim(row, at_once)
            except Corruption as e:     # must not keep the volume closed; it is tried again later
                log.warning("space that restore #%d freed: %s", row.seq, e)

    def waiting(self) -> list[RestoreRow]:
        """Destructive restores whose space is not freed yet."""
        return [r for r in self._store.restores if r.destructive and not r.reclaimed]

    def upkeep(self) -> None:
        """From the maintenance thread, which must not wait for a restore that waits for it."""
        waiting = self.waiting()
        if waiting and self._lock.acquire(blocking=False):
            try:
                self._store.core.set_aside(waiting[-1].seq)     # where it could not be before
                self.reclaim_all()
            finally:
                self._lock.release()

    def _may_free(self, row: RestoreRow) -> bool:
        return self._store.kind.may_free(bool(self._store.done_seq(row.seq)), bool(self._views) or self._images_open())
