"""What copies there are of an open volume: backups (cdp backup) and archives (cdp archive), as who makes them says.

The last one of each kind is known, wherever it is; that of the volume's folder outlives the process
(cdp.store.copies_file). Any thread.
"""
from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from cdp.store import copies_file
from cdp.store.copies_file import Copy
from cdpcore.base.errors import CdpError, RefusedPoint

if TYPE_CHECKING:
    from cdp import Moment, Volume

log = logging.getLogger("cdp.serve")


class Copies:
    """Of one open volume."""

    def __init__(self, volume: Volume):
        self._volume = volume
        self._lock = threading.Lock()       # guards _known, and the file
        self._known = copies_file.load(volume._store.os, volume._store.files)

    def made(self, kind: str, where: str, seq: int, ts_ns: int) -> None:
        """A copy has all up to a record. Not kept over a restart where the folder cannot be written."""
        store = self._volume._store
        with self._lock:
            self._known = {**self._known, kind: Copy(where, seq, ts_ns, store.os.now_ns())}
            if store.read_only:
                return
            try:
                store.check_folder()
                copies_file.save(store.os, store.files, self._known)
            except CdpError as error:
                log.warning("%s: that there is a copy is not kept: %s", self._volume.path, error)

    def last(self, kind: str) -> Copy | None:
        return self._known.get(kind)

    def missing(self, copy: Copy) -> Moment | None:
        """The first moment that the volume has and a copy lacks; None: it has all."""
        volume = self._volume
        try:
            return volume.explain(f"#{copy.seq}").next
        except RefusedPoint:        # what the copy ends with was given up
            window = volume.window()
            return window.oldest if window.oldest.seq > copy.seq else None
