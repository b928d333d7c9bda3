"""Bookmarks: names of moments, kept as records of the log and in the catalog.

Threading: under the volume's lock.
"""
from __future__ import annotations

from cdp.moments import lineage, points
from cdp.moments.model import Bookmark, Moment
from cdp.moments.records import BOOKMARK, UNBOOKMARK
from cdp.store.catalog import BookmarkRow
from cdp.store.records import bookmark_data
from cdp.store.store import Store
from cdpcore.base.errors import InvalidRequest, NotFound


class Bookmarks:
    """The bookmarks of one open volume."""

    def __init__(self, store: Store):
        self._store = store

    def all(self) -> list[Bookmark]:
        """All that can be opened, by the moment they name."""
        gaps, start_seq = self._store.gaps(), self._store.timeline.start.seq
        rows: list[BookmarkRow] = self._store.catalog.rows(BookmarkRow)
        found = [Bookmark(r.name, Moment(r.at_seq, r.at_ts_ns), Moment(r.made_seq, r.made_ts_ns)) for r in rows
                 if r.at_seq >= start_seq and not lineage.freed(r.at_seq, gaps)]
        return sorted(found, key=lambda b: (b.at.seq, b.name))

    def find(self, name: str) -> Bookmark | None:
        return next((b for b in self.all() if b.name == name), None)

    def create(self, name: str, at: Moment) -> Bookmark:
        """Durable at return. The name is valid and not taken: check_name()."""
        made = self._append(BOOKMARK, at.seq, bookmark_data(name, at.ts_ns))
        self._store.events.publish("bookmark_made", f"bookmark {name} names #{at.seq}", name=name, seq=at.seq,
                                   ts_ns=at.ts_ns)
        return Bookmark(name, at, made)

    def check_name(self, name: str) -> None:
        """Raises InvalidRequest for a bad name or one that is taken."""
        if not points.valid_new_name(name):
            raise InvalidRequest(f"bookmark name {name!r}", points.NAMES)
        if self.find(name) is not None:
            raise InvalidRequest(f"{self._store.directory}: bookmark {name!r} exists",
                                 "choose another name, or delete it first")

    def delete(self, name: str) -> None:
        """Durable at return. Raises NotFound."""
        if self.find(name) is None:
            raise NotFound(f"{self._store.directory}: no bookmark {name!r}", "'cdp bookmarks' lists them")
        self._append(UNBOOKMARK, 0, name.encode())
        self._store.events.publish("bookmark_removed", f"bookmark {name} was deleted", name=name)

    def _append(self, kind: int, start: int, data: bytes) -> Moment:
        with self._store.frozen():
            event = self._store.append_event(kind, start, 0, data)
        self._store.finish_event(event)
        return Moment(event.seq, event.ts_ns)
