"""resize: a volume of another size."""
from shlex import quote

import click

from cdp.cli import cli
from cdp.cli.base import WRITE_EXITS, State, command, emit, note
from cdp.cli.refs import volume_only
from cdp.text import sizes as units
from cdpcore.base.errors import Busy


@command(cli, "resize", examples=[
    ("cdp resize web 40G", "larger: what is new reads as zeros, also at moments of before"),
    ("cdp resize web 10G --shrink", "smaller, where nothing was ever written beyond"),
], exit_codes=WRITE_EXITS)
@click.argument("volume")
@click.argument("size")
@click.option("--shrink", is_flag=True, help="It may become smaller.")
def resize(state: State, volume: str, size: str, shrink: bool) -> None:
    """Give a volume another size.

    For a volume that nobody serves: NBD clients learn the size when they connect. What a partition table or a file
    system on it says does not change by this. A volume can only become smaller where its history and its base have
    nothing beyond. One that protects a disk in place has that disk's size: make the disk larger while the volume is
    closed, then 'cdp adopt' it. Writable images keep their size.
    """
    location = volume_only(volume, "resize")
    from cdp.service.connect import find_server
    from cdp.volume.resizing import resize as resize_volume

    size_bytes = units.parse_size(size)
    if (remote := find_server(location)) is not None:
        with remote:
            pid = remote.server()["pid"]
        raise Busy(f"{volume} is served, by process {pid}", "end that first, and serve it again afterwards")
    before = resize_volume(location.path, size_bytes, shrink=shrink, settings=state.settings)
    emit(state, {"volume": volume, "size_bytes": size_bytes, "before_bytes": before},
         f"{volume}: {units.approx_size(size_bytes)} ({size_bytes} bytes), was {units.approx_size(before)}")
    if size_bytes < before:
        note(f"to take this back: cdp resize {quote(volume)} {before}")
