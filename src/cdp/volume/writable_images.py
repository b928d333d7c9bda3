"""Writable images: volumes of their own under VOLUME/images/NAME whose base is the parent at a moment.

Creating one writes a few small files, whatever its size; deleting one is a rename, and its files go after that. An image
can have images itself, and everything that a volume can do (points, restore, undo) an image can do too.

Threading: under the volume's lock.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from cdp.moments import points
from cdp.moments.model import ImageInfo, Moment
from cdp.store import creation, layout
from cdp.store.catalog import CatalogFactory
from cdp.store.description import load
from cdp.store.tuning import Tuning
from cdpcore.base.errors import Busy, InvalidRequest, NotFound, RefusedPoint
from cdpcore.system.os import Os, posix

if TYPE_CHECKING:
    from cdp.volume.volume import Volume

DELETED = ".deleted"
SEGMENT_BYTES = 64 << 20
"""Of images: two are preallocated while one is open, and most images are written little."""


class Images:
    """The images made from one volume."""

    def __init__(self, volume: Volume, tuning: Tuning, os: Os | None, catalog: CatalogFactory):
        self._volume, self._tuning, self._os_arg, self._catalog = volume, tuning, os, catalog
        self._for_images = tuning.fitted(min(tuning.segment_bytes, SEGMENT_BYTES))
        self._os = os or posix()
        self._folder = f"{volume.path}/images"
        self._open: dict[str, Volume] = {}
        for name in [] if volume.read_only else self._os.list_dir(self._folder):    # an interrupted creation or deletion
            if name.endswith((".creating", DELETED)):
                layout.remove_tree(self._os, f"{self._folder}/{name}")

    def create(self, name: str, at: Moment) -> ImageInfo:
        if not points.valid_name(name) or name.endswith((".creating", DELETED)):
            raise InvalidRequest(f"image name {name!r}", points.NAMES)
        path = f"{self._folder}/{name}"
        if self._os.exists(path):
            raise InvalidRequest(f"{self._volume.path}: image {name!r} exists", "choose another name, or delete it first")
        # What the image shows must not be lost with the parent's unflushed writes.
        self._volume.flush()
        creation.create(path, self._volume.size_bytes, self._for_images, os=self._os, catalog=self._catalog,
                      parent=self._volume.geometry(), parent_at=(at.seq, at.ts_ns))
        return self._info(name)

    def list(self) -> list[ImageInfo]:
        return [self._info(n) for n in self._os.list_dir(self._folder) if not n.endswith((".creating", DELETED))]

    def open(self, name: str) -> Volume:
        from cdp.volume.volume import Volume
        self._check(name)
        image = self._open.get(name)
        if image is not None and image.retain_open():
            return image
        image = Volume(f"{self._folder}/{name}", settings=self._volume.settings, read_only=self._volume.read_only,
                       _tuning=self._tuning, _os=self._os_arg, _catalog=self._catalog, _parent=self._volume.retain())
        self._open[name] = image
        return image

    def delete(self, name: str) -> None:
        self._check(name)
        if self._is_open(name):
            raise Busy(f"{self._volume.path}: image {name!r} is open", "close it (or its NBD connections) first")
        path = f"{self._folder}/{name}"
        children = self._os.list_dir(f"{path}/images")
        if children:
            raise RefusedPoint(f"{self._volume.path}: image {name!r} has images of its own ({', '.join(children[:3])})",
                               "delete those first")
        self._os.rename(path, path + DELETED)
        self._os.sync_dir(self._folder)
        layout.remove_tree(self._os, path + DELETED)
        self._open.pop(name, None)

    def check_closed(self) -> None:
        """Raises Busy where an image is still open: its reads go through this volume."""
        for name in self._open:
            if self._is_open(name):
                raise Busy(f"{self._volume.path}: image {name!r} is open", "close it first")

    def any_open(self) -> bool:
        return any(self._is_open(name) for name in self._open)

    def _is_open(self, name: str) -> bool:
        return name in self._open and self._open[name].in_use()

    def _check(self, name: str) -> None:
        if not points.valid_name(name) or not self._os.exists(f"{self._folder}/{name}/volume.json"):
            raise NotFound(f"{self._volume.path}: no image {name!r}", "'cdp image list' lists them")

    def _info(self, name: str) -> ImageInfo:
        path = f"{self._folder}/{name}"
        geometry = load(self._os, path)
        image = self._open.get(name)
        if image is not None and not image.closed:
            log_bytes = image.stats()["log_bytes"]
        else:
            log_bytes = sum(self._os.size(f"{path}/log/{n}") for n in self._os.list_dir(f"{path}/log"))
        return ImageInfo(name, path, Moment(geometry.parent_seq, geometry.parent_ts_ns), geometry.created_ns, geometry.size_bytes,
                         log_bytes, len(self._os.list_dir(f"{path}/images")))
