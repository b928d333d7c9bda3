"""How far the standby of a volume has come: its lag, and what of it survives the owner's process.

Threading: any.
"""
from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cdp.store import standby_file
from cdp.text.timestamps import utc
from cdp.views import StandbyView
from cdpcore.base.errors import CdpError
from cdpcore.log import shipping

if TYPE_CHECKING:
    from cdp import Volume

SAVE_S = 30.0


class Standing:
    """Of one open volume."""

    def __init__(self, volume: Volume):
        self._volume, self._store = volume, volume._store
        self._lock = threading.Lock()
        self._state = standby_file.load(self._store.os, self._store.files)
        self._connection: Any = None
        self._who = ""
        self._since_ns = time.time_ns() if self._state.id else 0
        self._saved_s = -SAVE_S
        self.sent_bytes = 0

    @property
    def epoch(self) -> int:
        return self._state.epoch

    @property
    def known(self) -> str:
        """The id of the standby; "": there is none."""
        return self._state.id

    def connected(self, connection: Any, id_: str, who: str) -> Any:
        """A standby is. Returns the connection that it takes the place of; None: there was none."""
        with self._lock:
            before, self._connection = self._connection, connection
            self._who, self._since_ns = who, time.time_ns()
            if id_ != self._state.id:
                self._state = replace(self._state.alone(), id=id_)
            self._save()
            return before

    def disconnected(self, connection: Any) -> None:
        with self._lock:
            if self._connection is connection:
                self._connection, self._since_ns = None, time.time_ns()
                self._save()

    def acknowledged(self, connection: Any, segment: int, offset: int, seq: int) -> None:
        """It has all up to record `seq`, durably."""
        with self._lock:
            if self._connection is not connection:
                return
            self._state = replace(self._state, segment=segment, offset=offset, seq=seq, ok_ns=time.time_ns())
            if time.monotonic() - self._saved_s >= SAVE_S:
                self._save()

    def forget(self) -> str:
        """There is no standby from now on. Returns its id; "": there was none."""
        with self._lock:
            connection, self._connection, was = self._connection, None, self._state.id
            self._state = self._state.alone()
            if was:
                self._save()
        if connection is not None:
            connection.close()
        return was

    def _save(self) -> None:
        if self._volume.read_only:
            return
        self._saved_s = time.monotonic()
        with suppress(CdpError):        # nothing but a figure in 'cdp info' depends on it
            self._store.check_folder()
            standby_file.save(self._store.os, self._store.files, self._state)

    def close(self) -> None:
        with self._lock:
            if self._state.id:
                self._save()

    def view(self) -> StandbyView | None:
        """None: no standby follows the volume."""
        with self._lock:
            state, connected, who, since_ns = self._state, self._connection is not None, self._who, self._since_ns
        if not state.id:
            return None
        newest_seq = self._volume._core.position()[0]
        records = max(newest_seq - state.seq, 0)
        return StandbyView(
            id=state.id, who=who, connected=connected, mode="async", since_ns=since_ns or None,
            since=utc(since_ns) if since_ns else None, epoch=state.epoch, seq=state.seq, lag_records=records,
            lag_bytes=self._lag_bytes(state.segment, state.offset) if records else 0,
            lag_ns=self._lag_ns(state.seq) if records else 0, sent_bytes=self.sent_bytes)

    def _lag_bytes(self, segment: int, offset: int) -> int:
        """Of the log behind that place."""
        rows = {row.number: row.file_bytes for row in self._store.timeline.rows()}
        rows.update(shipping.tails(self._store.log))
        return sum(size for number, size in rows.items() if number > segment) + max(rows.get(segment, 0) - offset, 0)

    def _lag_ns(self, seq: int) -> int:
        """The age of the oldest record that the standby lacks."""
        with suppress(CdpError):
            seq = max(seq, self._store.timeline.start.seq)
            return max(time.time_ns() - self._store.timeline.moment(seq + 1).ts_ns, 0)
        return 0
