"""A mirror: an NBD client writes another disk's content into the volume, first all of it, then what is written there.

Such a client copies in whatever order it likes, so what the volume shows is the other disk only at certain moments; it
says so by a flush. QEMU's mirror job flushes its target when the first sync is complete and when the job ends, nbdcopy
--flush and qemu-img convert at the end; none of them passes on the flushes of a guest. So a moment is noted as whole
where the client flushed after it had changed something, and the first of a session becomes a bookmark.

Invariants
  1. What is noted was flushed by a client, and holds everything that it had been answered before
     (cdpcore.volume.flush_tap).
  2. A session is what the connections do that were there at its first change; when they are gone, the next change
     begins another.
  3. At most KEPT moments are kept, and the first.
step() belongs to one thread; target() and view() are for any.
"""
from __future__ import annotations

import threading
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING

from cdp.capture import position as positions
from cdp.capture.position import MirrorPosition
from cdp.capture.status import of_mirror
from cdp.views import CaptureView
from cdpcore.base.errors import RefusedPoint
from cdpcore.volume.flush_tap import Tap

if TYPE_CHECKING:
    from cdp import Volume

KEPT = 32
BOOKMARK = "mirror-synced"
SOURCE = "a mirror over NBD"


class Mirror:
    """The mirror that `begin` binds to a volume."""

    def __init__(self) -> None:
        self.position = MirrorPosition(SOURCE, 0)
        self._lock = threading.Lock()
        self._tap: Tap | None = None
        self._volume: Volume | None = None
        self._changes = self._unflushed = self._bytes = 0
        self._connections: list[int] = []
        self._session: set[int] = set()
        self._synced = False  # in this session
        self._seen = copy(self.position), "no client has written yet"   # by a look, for view(); replaced, not changed

    def target(self, volume: Volume) -> object:
        """What a client of the volume is given."""
        with self._lock:
            if self._tap is None:
                self._tap = Tap(volume.target(), volume._core)
            return self._tap.capsule()

    def begin(self, volume: Volume) -> None:
        """Raises RefusedPoint where the volume follows a log."""
        found = positions.load(volume.path)
        if isinstance(found, positions.LogPosition):
            raise RefusedPoint(f"{volume.path}: follows the log {found.source}", "a mirror needs a volume of its own")
        self._volume = volume
        self.position = found or self.position
        positions.save(volume.path, self.position)
        self._seen = copy(self.position), self._seen[1]

    def step(self, connected: Callable[[], list[int]]) -> None:
        """Look at what the clients did; `connected` gives the numbers of their connections."""
        tap, volume = self._tap, self._volume
        if tap is None or volume is None:
            return
        counters, flushed = tap.counters(), tap.take()
        # after the counters: who made a change is still there, or gone for good
        connections = self._connections = connected()
        self._bytes, self._unflushed = counters["changed_bytes"], counters["unflushed"]
        if counters["changes"] > self._changes:
            if self._session.isdisjoint(connections):
                self._session, self._synced = set(connections), False
                self.position.sessions += 1
            self._changes = counters["changes"]
        for seq in flushed:
            self._whole(volume, seq)
        if flushed:
            volume.sync()
            positions.save(volume.path, self.position)
        self._seen = copy(self.position), self._told()

    def _whole(self, volume: Volume, seq: int) -> None:
        moment = volume.resolve(seq)
        found = (moment.seq, moment.ts_ns, self.position.sessions)
        self.position.whole = [*self.position.whole, found][-KEPT:]
        self.position.synced = self.position.synced or found
        if not self._synced:
            self._synced = True
            volume.bookmark(positions.bookmark_name(BOOKMARK, (b.name for b in volume.bookmarks())), at=seq)

    def _told(self) -> str:
        if not self.position.sessions:
            return "no client has written yet"
        if not self._synced:
            return "not whole: the sync of this session is not complete"
        return f"whole at #{self.position.whole[-1][0]}" + ("; changed since" if self._unflushed else "")

    def finish(self) -> None:
        """Everything is durable, and what was whole is kept."""
        if self._volume is not None:
            self._volume.sync()
            positions.save(self._volume.path, self.position)

    def view(self, running: bool = True) -> CaptureView:
        seq = self._volume.window().newest.seq if self._volume and not self._volume.closed else 0
        position, note = self._seen
        return of_mirror(position, seq, len(self._connections) if running else None, self._bytes, note)
