"""Writable images: volumes of their own under VOLUME/images/NAME whose base is the parent at a moment.

Creating one writes a few small files, whatever its size; deleting one is a rename, and its files are removed after
that. An image can have images itself, and everything that a volume can do (points, restore, undo) an image can do too.

Threading: under the volume's lock.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from cdp.moments import points
from cdp.moments.model import ImageInfo, Moment
from cdp.store import creation
from cdp.store.description import load
from cdp.store.layout import remove_tree
from cdp.store.store import Store
from cdp.store.tuning import Tuning
from cdp.store.volume_files import DELETED, VolumeFiles, is_complete
from cdpcore.base.errors import Busy, InvalidRequest, NotFound, RefusedPoint

SEGMENT_BYTES = 64 << 20
"""Of images: two are preallocated while one is open, and most images are written little."""


class OpenImage(Protocol):
    """What is asked of an image that is open (cdp.volume.volume.Volume)."""

    @property
    def closed(self) -> bool: ...
    def retain_open(self) -> bool: ...
    def in_use(self) -> bool: ...
    def stats(self) -> dict[str, Any]: ...


Image = TypeVar("Image", bound=OpenImage)


class Images(Generic[Image]):
    """The images made from one volume.

    Args: store, tuning: the volume's. Images that are open are known here, but not kept open: one that nothing else
    refers to closes itself.
    """

    def __init__(self, store: Store, tuning: Tuning):
        self._store = store
        self._tuning = tuning.fitted(min(tuning.segment_bytes, SEGMENT_BYTES))
        self._os, self._files = store.os, store.files
        self._open: weakref.WeakValueDictionary[str, Image] = weakref.WeakValueDictionary()
        if not store.read_only:
            for name in self._os.list_dir(self._files.images):
                if not is_complete(name):   # an interrupted creation or deletion
                    remove_tree(self._os, self._files.image(name))

    def create(self, name: str, at: Moment) -> ImageInfo:
        if not points.valid_name(name) or not is_complete(name):
            raise InvalidRequest(f"image name {name!r}", points.NAMES)
        path = self._files.image(name)
        if self._os.exists(path):
            raise InvalidRequest(f"{self._store.directory}: image {name!r} exists",
                                 "choose another name, or delete it first")
        # What the image shows must not be lost with the parent's unflushed writes.
        self._store.flush()
        geometry = self._store.geometry
        creation.create(path, geometry.size_bytes, self._tuning, os=self._os, catalog=self._store.catalog_factory,
                        parent=geometry, parent_at=(at.seq, at.ts_ns))
        self._store.events.publish("image_created", f"image {name} shows #{at.seq}", image=name, seq=at.seq,
                                   ts_ns=at.ts_ns)
        return self._info(name)

    def all(self) -> list[ImageInfo]:
        """By name."""
        return [self._info(name) for name in self._os.list_dir(self._files.images) if is_complete(name)]

    def open(self, name: str, open_image: Callable[[str], Image]) -> Image:
        """One object per image: opened by open_image(path), or retained once more. Raises NotFound."""
        self._check_exists(name)
        image = self._open.get(name)
        if image is None or not image.retain_open():
            image = self._open[name] = open_image(self._files.image(name))
            self._store.events.publish("image_opened", f"image {name} was opened", image=name)
        return image

    def delete(self, name: str) -> None:
        """Raises NotFound, Busy, RefusedPoint."""
        self._check_exists(name)
        path = self._store.directory
        if self._is_open(name):
            raise Busy(f"{path}: image {name!r} is open", "close it (or its NBD connections) first")
        folder = self._files.image(name)
        children = self._os.list_dir(VolumeFiles(folder).images)
        if children:
            raise RefusedPoint(f"{path}: image {name!r} has images of its own ({', '.join(children[:3])})",
                               "delete those first")
        self._os.rename(folder, folder + DELETED)
        self._os.sync_dir(self._files.images)
        remove_tree(self._os, folder + DELETED)
        self._open.pop(name, None)
        self._store.events.publish("image_deleted", f"image {name} was deleted", image=name)

    def check_closed(self) -> None:
        """Raises Busy where an image is still open: its reads go through this volume."""
        for name in list(self._open):
            if self._is_open(name):
                raise Busy(f"{self._store.directory}: image {name!r} is open", "close it first")

    def any_open(self) -> bool:
        return any(self._is_open(name) for name in list(self._open))

    def _is_open(self, name: str) -> bool:
        image = self._open.get(name)
        return image is not None and image.in_use()

    def _check_exists(self, name: str) -> None:
        if not points.valid_name(name) or not self._os.exists(VolumeFiles(self._files.image(name)).description):
            raise NotFound(f"{self._store.directory}: no image {name!r}", "'cdp image list' lists them")

    def _info(self, name: str) -> ImageInfo:
        files = VolumeFiles(self._files.image(name))
        geometry = load(self._os, files)
        image = self._open.get(name)
        if image is not None and not image.closed:
            log_bytes = image.stats()["log_bytes"]
        else:
            log_bytes = sum(self._os.size(f"{files.log}/{segment}") for segment in self._os.list_dir(files.log))
        return ImageInfo(name, files.directory, Moment(geometry.parent_seq, geometry.parent_ts_ns), geometry.created_ns,
                         geometry.size_bytes, log_bytes, len(self._os.list_dir(files.images)))
