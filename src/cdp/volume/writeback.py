"""Writing a restore back: a before-image volume shows the restored content at once, from its log, while this puts it on
the disk.

Piece by piece, from the volume's start to its end, beside the host's own I/O, at the speed of the disk or of
`restore_rate_bytes`. What the host has written since the restore is not touched. When nothing is left, a record says so
and reads go straight to the disk again. A crash in between costs nothing: the lineage in the log says what is not on
the disk yet, and the next opening goes on. A close finishes it first.

Invariants
 1. One destructive restore is written back alone: what the disk still holds of before it is not kept, which is wrong
    for another restore's history.
 2. What a destructive restore discards is freed only when the disk holds the rest, and nobody looks through a view from
    before.

Threading: begin() and step() under the volume's lock or from the thread here; a thread exists while there is work.
"""
from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from cdp.moments import lineage
from cdp.moments.model import Moment
from cdp.moments.records import RESTORED
from cdp.store.catalog import WritebackRow
from cdp.store.store import Store
from cdp.volume.reclaimer import Reclaimer
from cdpcore.base.errors import Busy, CdpError, Closed, RefusedPoint
from cdpcore.inplace.before_images import BeforeImages
from cdpcore.inplace.writeback import RestoreWriter

log = logging.getLogger("cdp.writeback")
WINDOW_BYTES = 4 << 20      # looked up at once; the index is locked for some milliseconds at the most
PIECE_BYTES = 1 << 20
RECORDS = 32                # made at once; one where nothing is sealed beside them
FREE_AGAIN_S = 1.0


@dataclass(frozen=True)
class Progress:
    """Of the restores that are being written back. restore_seq: the last one; bytes_left is counted, bytes_done since
    opening."""

    restore_seq: int
    bytes_done: int
    bytes_left: int


class WriteBack:
    """Of one open volume of before-images: `images`. lock: the volume's; reclaimer: frees what a restore discarded, in
    the end."""

    def __init__(self, store: Store, images: BeforeImages, lock: threading.RLock, reclaimer: Reclaimer):
        self._store, self._images, self._lock, self._reclaimer = store, images, lock, reclaimer
        self._core = store.core
        self._writer = RestoreWriter(self._core, images)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._at = 0            # everything in front of it is on the disk
        self._upto = 0          # the last restore when we were there
        self._done_bytes = 0
        self.unfinished = ""    # after finish(): why there is still something to be written back
        store.more_work.append(self.step)
        if self._store.unwritten():
            self.begin()

    # --- asked by the volume, under its lock --------------------------------------------------------------------------

    def check_may_begin(self, target: Moment, destructive: bool) -> None:
        """Raises Busy while a restore that does not go together with the next one is being written back; RefusedPoint
        where a destructive one would go to a moment at which the disk was not yet what the volume showed: what it would
        have to free is needed for the time before."""
        if self._store.unwritten() and (destructive or self._store.restores[-1].destructive):
            raise Busy(f"{self._store.directory}: restore #{self._store.restores[-1].seq} is still being written back",
                       "repeat this when it is done ('cdp info'); on a full device make room for the log first")
        for r in self._store.lineage_records() if destructive else []:
            if r.seq <= target.seq < r.done_seq:
                raise RefusedPoint(f"{self._store.directory}: at #{target.seq}, restore #{r.seq} was still being "
                                   f"written back", f"a destructive restore can go to #{r.seq - 1} or before, or to "
                                   f"#{r.done_seq} or after")

    def shown(self, destructive: bool) -> None:
        """Between freeze() and thaw(): the current lineage shows the restore."""
        self._store.kind.lineage_changed(True, destructive)

    def begin(self) -> None:
        """There is a restore to be written back."""
        self._at, self._upto = 0, self._store.restores[-1].seq
        if self._store.tuning.threads and self._thread is None and not self._stop.is_set():
            self._thread = threading.Thread(target=self._run, name="cdp-writeback", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Before the volume closes: the disk becomes what the volume shows, so that a plain raw disk is left behind.
        Without a rate. Where that fails (or the process is killed), it goes on at the next opening."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        try:
            while self._step():
                if not self._store.tuning.threads:
                    self._store.maintainer.step()
        except CdpError as e:
            self.unfinished = str(e)
            log.warning("%s: the restore is not written back to the disk completely: %s", self._store.directory, str(e))

    def progress(self) -> Progress | None:
        """How far it is; None where nothing is to be written back. Looks the rest of the volume up: some ms per GiB."""
        if not self._store.unwritten():
            return None
        size, left = self._core.size_bytes, 0
        for at in range(self._at, size, WINDOW_BYTES):
            left += self._writer.not_on_disk(at, min(WINDOW_BYTES, size - at))[1]
        return Progress(self._store.restores[-1].seq, self._done_bytes, left)

    # --- work ---------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One piece, or the end. Returns whether there is more to do."""
        return not self._stop.is_set() and self._step()

    def _step(self) -> bool:
        if not self._store.unwritten():
            return False
        size = self._core.size_bytes
        if self._at < size:
            end = min(self._at + WINDOW_BYTES, size)
            first, n = self._writer.not_on_disk(self._at, end - self._at)
            if n:
                piece = min(PIECE_BYTES, self._core.max_request_bytes, end - first)
                first, written = self._writer.write_back(first, piece, RECORDS if self._store.tuning.threads else 1)
                self._done_bytes += written
            self._at = max(self._at, first) if self._upto == self._store.restores[-1].seq else 0
            return True
        return self._finish()

    def _finish(self) -> bool:
        """Everything is on its way to the disk: once it is there, say so. Returns whether there is more to do."""
        self._images.settler.settle_disk()
        store = self._store
        if not self._take_lock():
            return False
        try:
            with store.frozen():
                upto = store.restores[-1].seq
                if self._upto != upto:
                    return True         # begin() has been called, or is about to be
                store.writebacks = [*store.writebacks, WritebackRow(self._core.position()[0] + 1, upto)]
                try:
                    event = store.append_event(RESTORED, upto, 0, b"", store.view_at(lineage.NOW), True)
                except BaseException:
                    store.writebacks = store.writebacks[:-1]
                    raise
                self._images.lineage_changed(False)
            store.finish_event(event)
            if self._reclaimer.waiting():
                self._core.set_aside()  # what it discarded is freed once the record's own segment is sealed
                store.step()
            self._reclaimer.reclaim_all(at_once=True)   # a full device needs the space to seal the record's own segment
            return False
        finally:
            self._lock.release()

    def _run(self) -> None:
        """The thread: until the disk holds everything, or the volume closes."""
        rate, began, logged = self._store.tuning.restore_rate_bytes, time.monotonic(), ""
        begun_bytes = self._done_bytes
        while not self._stop.is_set():
            try:
                if not self.step() and self._take_lock():
                    try:
                        if not self._store.unwritten():
                            self._thread = None
                            return
                    finally:
                        self._lock.release()
                logged = ""
            except Closed:
                return
            except CdpError as e:       # a full log, say: the volume goes on showing the right content; tried again
                if str(e) != logged:
                    log.error("writing a restore of %s back: %s", self._store.directory, e)
                    logged = str(e)
                self._stop.wait(FREE_AGAIN_S)
            if rate:
                ahead = (self._done_bytes - begun_bytes) / rate - (time.monotonic() - began)
                if ahead > 0:
                    self._stop.wait(ahead)

    def _take_lock(self) -> bool:
        """The volume's lock; False where the volume closes: close() has it, and waits for us."""
        while not self._lock.acquire(timeout=0.1):
            if self._stop.is_set():
                return False
        return True
