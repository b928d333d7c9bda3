"""Which volumes of a server are being opened still, or could not be: for those who ask for one.

A client that asks for an export whose volume is being opened waits for it, but for WAIT_S at most; and MAX_WAITING
clients at most wait, half of those that may be in a handshake, so that volumes that are open are served meanwhile.
Further ones get an error at once, and may come again.

Thread-safe.
"""
from __future__ import annotations

import threading
from collections.abc import Mapping

from cdp.views import NotOpenView
from cdpcore.base.errors import Busy, CdpError, Unavailable

WAIT_S = 30.0
MAX_WAITING = 8


class Opening:
    """roots: the folders of the volumes by name, all of which are being opened now."""

    def __init__(self, roots: Mapping[str, str]):
        self._roots = roots
        self._changed = threading.Condition()
        self._left = set(roots)                     # guarded by _changed, as all below
        self._failed: dict[str, Exception] = {}
        self._waiting = 0

    def opened(self, name: str) -> None:
        with self._changed:
            self._left.discard(name)
            self._changed.notify_all()

    def failed(self, name: str, error: Exception) -> None:
        with self._changed:
            self._left.discard(name)
            self._failed[name] = error
            self._changed.notify_all()

    def give_up(self, error: Exception) -> None:
        """What is not open yet will not be."""
        with self._changed:
            self._failed.update(dict.fromkeys(self._left, error))
            self._left.clear()
            self._changed.notify_all()

    def failures(self) -> dict[str, Exception]:
        """Of the volumes that could not be opened; a copy."""
        with self._changed:
            return dict(self._failed)

    def not_open(self) -> list[NotOpenView]:
        """In the order of the names that were given."""
        with self._changed:
            return [NotOpenView(name=name, path=root, state="cannot be opened" if name in self._failed else "opening",
                                error=str(self._failed[name]) if name in self._failed else None)
                    for name, root in self._roots.items() if name in self._left or name in self._failed]

    def wait(self, name: str) -> None:
        """Return when it is open. Raises Busy where that takes longer, and Unavailable where it could not be opened."""
        with self._changed:
            if name in self._left:
                if self._waiting < MAX_WAITING:
                    self._waiting += 1
                    self._changed.wait_for(lambda: name not in self._left, WAIT_S)
                    self._waiting -= 1
                if name in self._left:
                    raise Busy(f"{name} is being opened still, with {len(self._left) - 1} other volumes",
                               "connect again in a moment")
            if error := self._failed.get(name):
                raise unavailable(f"{name} could not be opened", error)


def unavailable(what: str, error: Exception) -> Unavailable:
    """`what`, and why."""
    if isinstance(error, CdpError):
        return Unavailable(f"{what}: {error.message}", error.hint)
    return Unavailable(f"{what}: {error}")
