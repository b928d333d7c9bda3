"""create: a new volume."""
import os
from shlex import quote

import click

from cdp.cli import cli, exits
from cdp.cli.base import ENGINE_KEYS, State, command, emit, note
from cdp.text import sizes as units
from cdp.text.paths import checked
from cdpcore.base.errors import InvalidRequest, NotFound

SECTOR_BYTES = 512


@command(cli, "create", setting_flags=ENGINE_KEYS, examples=[
    ("cdp create web --size 10G", "a new volume of 10 GiB in the folder web"),
    ("cdp create /data/web --size 64T", "space is taken only as data is written"),
    ("cdp create web --mode before --base /srv/disk.img",
     "protect a raw disk that is there, in place; nothing is copied"),
], exit_codes=[exits.OK, exits.USAGE, exits.NOT_FOUND, exits.NO_SPACE, exits.BUSY, exits.UNAVAILABLE])
@click.argument("volume")
@click.option("--size", metavar="SIZE", help="Bytes, or a number with K, M, G or T; a multiple of 512.")
@click.option("--mode", type=click.Choice(["after", "before"]), default="after", show_default=True,
              help="What the log keeps: new data (a journal), or, of a disk written in place, the data that is "
                   "overwritten.")
@click.option("--base", metavar="DISK",
              help="With --mode before: the raw file or block device to protect; its size is the volume's.")
@click.option("--format", "image_format", type=click.Choice(["raw"]),
              help="With --base: DISK's own bytes are meant, though it looks like a qcow2 image or another container.")
def create(state: State, volume: str, size: str | None, mode: str, base: str | None, image_format: str | None) -> None:
    """Make a volume: an empty one, or one of a disk in place.

    VOLUME is a folder that does not exist yet. With --mode before --base DISK nothing is copied: the disk stays
    where and what it is, a plain raw disk with the current content, and must be written through the volume from then
    on. A qcow2 image or another container is refused.
    """
    if (mode == "before") != (base is not None):
        raise InvalidRequest("--mode before and --base DISK go together",
                             "give both, or neither for a new, empty volume")
    if image_format and base is None:
        raise InvalidRequest("--format says what --base DISK is", "leave it out of an empty volume")
    if size is None and base is None:
        raise click.MissingParameter(param_hint="'--size'", param_type="option")
    if size is not None and base is not None:
        raise InvalidRequest("the size of the volume is its disk's", "leave --size out")
    size_bytes = units.parse_size(size) if size is not None else None
    path = new_volume_path(volume)
    if size_bytes is not None:
        check_size(size_bytes)
    import cdp
    from cdp.service.local import VolumeService
    from cdp.store.free_space import shortage
    from cdp.store.timeline import import_numpy_late

    import_numpy_late()
    with cdp.create(path, size=size_bytes, disk=base, settings=state.settings, image_format=image_format) as made:
        info = VolumeService(made).info()
    text = units.approx_size(info["size_bytes"])
    emit(state, info,
         [f"{volume}: protects {info['disk']} ({text}) in place" if base else f"{volume}: a volume of {text}, empty",
                       f"  serve it:  cdp serve {quote(volume)}"])
    if short := shortage(path):
        note(f"warning: {short}")


def new_volume_path(volume: str) -> str:
    """The path, if a volume can be made there. Raises InvalidRequest or NotFound with what to do instead."""
    from cdp.store.layout import is_volume

    if not volume:
        raise InvalidRequest("the path of the volume is empty", "give the folder to make")
    path = checked(os.path.normpath(volume), len(".creating"))
    if is_volume(path):
        raise InvalidRequest(f"{volume} is a volume already", f"'cdp info {quote(volume)}' shows it; take another name")
    if os.path.lexists(path):
        raise InvalidRequest(f"{volume} exists already", "take a path that does not exist yet")
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        raise NotFound(f"{parent}: no such folder", f"make it first: mkdir -p {quote(parent)}")
    if "@" in os.path.basename(path) or "/" == path:
        raise InvalidRequest(f"{volume}: the name of a volume cannot hold @, which begins a point", "take another name")
    return path


def check_size(size_bytes: int) -> None:
    if size_bytes <= 0:
        raise InvalidRequest(f"size {size_bytes}: a volume has a sector or more",
                             f"take {SECTOR_BYTES}, or, for instance, 10G")
    if size_bytes % SECTOR_BYTES:
        up = -(-size_bytes // SECTOR_BYTES) * SECTOR_BYTES
        raise InvalidRequest(f"size {size_bytes} is not a multiple of {SECTOR_BYTES} bytes", f"take {up}")
