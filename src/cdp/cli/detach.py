"""detach: the end of protecting a disk in place."""
from shlex import quote

import click

from cdp.cli import cli
from cdp.cli.base import WRITE_EXITS, State, command, emit, note
from cdp.cli.refs import volume_only


@command(cli, "detach", examples=[
    ("cdp detach web", "all of it is on the disk, which is a plain raw disk"),
    ("cdp detach web && mount -o loop /srv/disk.img /mnt",
     "(writing to the disk ends its history: 'cdp adopt' begins anew)"),
], exit_codes=WRITE_EXITS)
@click.argument("volume")
def detach(state: State, volume: str) -> None:
    """Leave a protected disk plain, and say where it is.

    For a volume made with --mode before that nobody serves. Its history stays, and fits as long as nobody writes to
    the disk.
    """
    location = volume_only(volume, "detach")
    from cdp.service.connect import find_server
    from cdp.volume.adopt import detach as detach_disk
    from cdpcore.base.errors import Busy, InvalidRequest

    if (remote := find_server(location)) is not None:
        with remote:
            protects = remote.info()["disk"]
        if not protects:
            raise InvalidRequest(f"{volume}: protects no disk in place", "only a volume made with --mode before does")
        raise Busy(f"{volume} is served", "stop its server: that leaves the disk plain, too")
    disk = detach_disk(location.path, settings=state.settings)
    emit(state, {"disk": disk}, [f"{volume}: {disk} is a plain raw disk with the current content"])
    note(f"to forget its history: rm -r {quote(volume)}")
