"""Writable images that a server has open: shared by its NBD connections and its administration.

Invariants
  1. An image is opened and closed under one lock, so that nobody opens it while another is closing it.
  2. An image is open while somebody has it, and a few that nobody has stay open for the next (opening one recovers its
     log, closing one seals it: too much for every single request).
  3. Deleting an image closes it first if nobody has it.
Thread-safe.
"""
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote
from typing import TYPE_CHECKING

from cdpcore.base.errors import Closed, NotFound

if TYPE_CHECKING:
    from cdp import Volume

IDLE = 2  # images kept open that nobody has: each holds a buffer pool
Names = tuple[str, ...]


class ImageCache:
    """The images of one served volume, by their names from the volume down: ("A", "B") is B, an image of A."""

    def __init__(self, root: "Volume"):
        self._root = root
        self._lock = threading.Lock()
        self._open: dict[Names, tuple[Volume, int]] = {}  # how many have it; in the order of last use
        self._closed = False

    @contextmanager
    def lease(self, names: Names) -> Iterator["Volume"]:
        """The image for a while; the volume itself for no names. Raises NotFound."""
        volume = self.acquire(names)
        try:
            yield volume
        finally:
            self.release(names)

    def acquire(self, names: Names) -> "Volume":
        """As lease; to be given back with release(names)."""
        if not names:
            return self._root
        with self._lock:
            if self._closed:
                raise Closed("the server is stopping")
            if names in self._open:
                volume, count = self._open.pop(names)
            else:
                volume, count = self._open_image(names), 0
            self._open[names] = volume, count + 1
            return volume

    def _open_image(self, names: Names) -> "Volume":
        parent = self._root
        opened: list[Volume] = []
        try:
            for name in names:
                try:
                    opened.append(parent.open_image(name))
                except NotFound as error:
                    raise NotFound(error.message, f"'cdp image list {quote(parent.path)}' lists the images") from None
                parent = opened[-1]
            return opened.pop()
        finally:
            for volume in reversed(opened):  # an image keeps its parents open
                volume.close()

    def release(self, names: Names) -> None:
        if not names:
            return
        with self._lock:
            volume, count = self._open.pop(names)
            self._open[names] = volume, count - 1
            idle = [key for key, (_, users) in self._open.items() if users == 0]
            self._close(idle if self._closed else idle[: max(0, len(idle) - IDLE)])

    @contextmanager
    def deleting(self, names: Names) -> Iterator[None]:
        """While an image is deleted: it and its images are closed, unless somebody has them, and not opened again."""
        with self._lock:
            self._close([key for key, (_, users) in self._open.items() if users == 0 and key[: len(names)] == names])
            yield

    def close(self) -> None:
        """Close what nobody has; what somebody has closes when it is given back. No more is opened."""
        with self._lock:
            self._closed = True
            self._close([key for key, (_, users) in self._open.items() if users == 0])

    def _close(self, keys: list[Names]) -> None:
        for key in sorted(keys, key=len, reverse=True):
            self._open.pop(key)[0].close()
