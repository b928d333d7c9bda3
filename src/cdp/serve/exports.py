"""What an NBD client can name: a volume NAME, a moment NAME@POINT of it (a time image, opened for the connection), a
writable image NAME/IMAGE, and NAME/IMAGE@POINT.

Any thread.
"""
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cdp.moments.points import valid_name
from cdp.nbd.protocol import DIRTY_BITMAP, SINCE
from cdp.serve.image_cache import ImageCache
from cdp.store.layout import is_volume
from cdp.store.volume_files import VolumeFiles, is_complete
from cdpcore.base.errors import CdpError, NotFound

if TYPE_CHECKING:
    from cdp import TimeImage, Volume


MAX_LISTED = 1000       # bookmarks that are shown as contexts, the newest


@dataclass(frozen=True)
class OpenExport:
    """One connection's export (cdp.nbd.handshake.Export)."""

    capsule: object
    read_only: bool
    size_bytes: int
    description: str
    name: str
    multi_conn: bool
    volume: "Volume"
    """What it shows, open until close()."""
    _close: Callable[[], None]
    own_fua: bool = False
    image: "TimeImage | None" = None
    """Where it shows a moment of the volume."""

    def context(self, name: str) -> tuple[str, object] | None:
        """What was written since a bookmark (qemu:dirty-bitmap:NAME) or any point (cdp:since:POINT), up to what this
        export shows. Raises CdpError where that cannot be said."""
        for kind in (DIRTY_BITMAP, SINCE):
            if name.startswith(kind):
                point = name.removeprefix(kind)
                moment, capsule = self.volume.written_since(f"@{point}" if kind == DIRTY_BITMAP else point, self.image)
                return f"{SINCE}#{moment.seq}", capsule
        return None

    def contexts(self) -> list[str]:
        return [f"{DIRTY_BITMAP}{mark.name}" for mark in self.volume.bookmarks()[-MAX_LISTED:]]

    def close(self) -> None:
        self._close()


class Waits(Protocol):
    """Whether a volume is open yet (cdp.serve.opening.Opening)."""

    def wait(self, name: str) -> None: ...


class Capsules(Protocol):
    """Where the capsule of the volume with a number comes from (cdp.serve.luns.Luns)."""

    def capsule(self, number: int) -> object: ...


class Exports:
    """Export names to exports (cdp.nbd.handshake.Resolver).

    names: of all volumes, in the order of their numbers; image_caches, volumes: of those that are open. With `opening`
    others may come; open() waits for them."""

    def __init__(self, names: Sequence[str], image_caches: dict[str, ImageCache], volumes: "dict[str, Volume]",
                 read_only: bool, luns: "Capsules", target: "Callable[[Volume], object] | None" = None,
                 opening: "Waits | None" = None):
        self._names = tuple(names)
        self._opening = opening
        self._image_caches = image_caches
        self._volumes = volumes
        self._read_only = read_only
        self._luns = luns
        self._target = target

    def list(self) -> Sequence[tuple[str, str]]:
        """The volumes and all their images, from the folders: an image is not opened to be shown."""
        found: list[tuple[str, str]] = []
        for name in self._names:
            volume = self._volumes.get(name)
            found += [(name, "volume, not open")] if volume is None else [
                (name, f"volume of {volume.size_bytes} bytes"), *_images_in(name, volume.path)]
        return found

    def split(self, name: str) -> tuple[str, tuple[str, ...], str | None]:
        """Volume, image names and point of an export name. An empty name is the only volume. Raises NotFound."""
        if not name and len(self._names) == 1:
            name = self._names[0]
        path, point = name, None
        if name not in self._names and "@" in name:
            path, _, point = name.rpartition("@")
            if path.endswith("@"):
                path, point = path[:-1], f"@{point}"
        root, *images = path.split("/")
        if root not in self._names:
            raise NotFound(f"no export {name!r}", f"there are {', '.join(self._names)}")
        return root, tuple(images), point

    def open(self, name: str) -> OpenExport:
        """Raises CdpError, with names of exports in its text: a client is not told where the volumes are."""
        try:
            return self._open(name)
        except CdpError as error:
            raise type(error)(*(self._named(text) for text in (error.message, error.hint))) from error

    def _named(self, text: str) -> str:
        folders = sorted(((volume.path, name) for name, volume in list(self._volumes.items())), reverse=True)
        for path, name in folders:
            text = text.replace(path, name)
        return text

    def _open(self, name: str) -> OpenExport:
        root, images, point = self.split(name)
        if self._opening is not None:
            self._opening.wait(root)
        image_cache = self._image_caches[root]
        with ExitStack() as stack:
            volume = image_cache.acquire(images)
            stack.callback(image_cache.release, images)
            base = "/".join((root, *images))
            if point is None:
                own = None if images else self._target
                if own is not None:
                    capsule = own(volume)
                else:
                    capsule = volume.target() if images else self._luns.capsule(self._names.index(root))
                return OpenExport(capsule=capsule, own_fua=own is not None,
                                  read_only=self._read_only or volume.read_only,
                                  size_bytes=volume.size_bytes, description=base, name=base, multi_conn=True,
                                  volume=volume, _close=stack.pop_all().close)
            image = stack.enter_context(volume.at(point))
            at = f"#{image.moment.seq}"
            return OpenExport(capsule=image.target(), read_only=True, size_bytes=image.size_bytes,
                              description=f"{base} as of {at}", name=f"{base}@{at}",
                              # -10m is another moment for the next connection; a seq is not.
                              multi_conn=point in (at, f"{at}!"), volume=volume, image=image,
                              _close=stack.pop_all().close)


def shows(export: str, name: str) -> bool:
    """Whether the export of this canonical name is the volume or image `name`, or a moment of it."""
    return export == name or export.startswith(f"{name}@")


def _images_in(name: str, path: str) -> Iterator[tuple[str, str]]:
    try:
        images = sorted(os.listdir(VolumeFiles(path).images))
    except FileNotFoundError:
        return  # deleted meanwhile
    for image in images:
        inner = VolumeFiles(path).image(image)
        if valid_name(image) and is_complete(image) and is_volume(inner):
            yield f"{name}/{image}", f"writable image of {name}"
            yield from _images_in(f"{name}/{image}", inner)
