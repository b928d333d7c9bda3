"""From the path that a user gives to a volume, or a writable image in one, and to the identity of its folder.

Any thread.
"""
import os
from dataclasses import dataclass
from shlex import quote

from cdp.store.group_file import is_group
from cdp.store.layout import is_volume
from cdp.store.volume_files import IMAGES
from cdp.text.paths import checked
from cdpcore.base.errors import CdpError, InvalidRequest, NotFound


@dataclass(frozen=True)
class Location:
    """A volume, or a writable image in it (`images` non-empty; ["A", "B"]: the image B of the image A)."""

    root: str
    images: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return os.path.join(self.root, *(part for name in self.images for part in (IMAGES, name)))

    @property
    def text(self) -> str:
        return "/".join((self.root, *self.images))


def locate(path: str) -> Location:
    """The volume at `path`, or the image VOLUME/IMAGE, VOLUME/images/IMAGE. Raises NotFound, InvalidRequest."""
    if not path:
        raise InvalidRequest("the path of the volume is empty", "give the folder of a volume")
    checked(path)
    path = os.path.normpath(path)
    root, names = path, list[str]()
    while True:
        head, name = os.path.split(root)
        inner = os.path.basename(head) == IMAGES and is_volume(os.path.dirname(head))
        if is_volume(root) and not inner:
            break
        if not name or name == ".." or (not head and not is_volume(".")):
            raise _no_volume(path)
        names.insert(0, name)
        root = os.path.dirname(head) if inner else head or "."
    images = tuple(names)
    for depth in range(1, len(images) + 1):
        if not is_volume(Location(root, images[:depth]).path):
            parent = Location(root, images[: depth - 1]).text
            raise NotFound(f"{parent}: no image {images[depth - 1]!r}",
                           f"'cdp image list {quote(parent)}' lists the images")
    return Location(root, images)


def _no_volume(path: str) -> CdpError:
    if is_group(path):
        return InvalidRequest(f"{path} is a group of volumes", "name one of them, as 'cdp group show "
                              f"{quote(path)}' lists them; restore, image create and export take GROUP@POINT")
    if os.path.isdir(path):
        return NotFound(f"{path} is a folder, but not a volume", "give the folder that 'cdp create' made")
    if os.path.exists(path):
        return NotFound(f"{path} is a file, not a volume",
                        f"'cdp import {quote(path)} VOLUME' makes a volume of a raw disk image")
    return NotFound(f"{path}: no such volume", f"'cdp create {quote(path)} --size 10G' makes one")


def identity(root: str) -> str:
    """Which folder this is: the same after it was renamed, another one for a copy (which has the same uuid)."""
    found = os.stat(root)
    return f"{found.st_dev}:{found.st_ino}"
