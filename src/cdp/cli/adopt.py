"""adopt: a new history of a disk that others changed."""
import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, WRITE_EXITS, State, command, emit
from cdp.cli.refs import volume_only


@command(cli, "adopt", setting_flags=ENGINE_KEYS, examples=[
    ("cdp adopt web", "the disk was changed by others: what would be lost with its history; nothing is changed yet"),
    ("cdp adopt web --discard-history", "its history begins anew with what the disk holds now"),
    ("cdp adopt web --keep-history", "the disk was moved or copied, its content is the same"),
], exit_codes=WRITE_EXITS)
@click.argument("volume")
@click.option("--keep-history", is_flag=True,
              help="The disk holds what it held, it was only copied, moved or touched; size and samples are compared.")
@click.option("--discard-history", is_flag=True, help="Delete the history that there is, with its bookmarks.")
@click.option("--format", "image_format", type=click.Choice(["raw"]),
              help="The disk's own bytes are meant, though it looks like a qcow2 image or another container.")
def adopt(state: State, volume: str, keep_history: bool, discard_history: bool, image_format: str | None) -> None:
    """Begin a new history with a protected disk as it is now.

    For a volume made with --mode before whose disk was written to by others while the volume was closed. The old
    history does not fit the disk any more, and is deleted, but only with --discard-history. If the disk that it belongs
    to can be put back, do that instead, and all of it is there again.
    """
    location = volume_only(volume, "adopt")
    from cdp.service.connect import find_server
    from cdp.service.local import VolumeService
    from cdp.volume.adopt import adopt as adopt_disk
    from cdpcore.base.errors import Busy, InvalidRequest

    if (remote := find_server(location)) is not None:
        with remote:
            protects = remote.info()["disk"]
        if not protects:
            raise InvalidRequest(f"{volume}: protects no disk in place", "only a volume made with --mode before does")
        raise Busy(f"{volume} is served, so its disk is as the volume left it",
                   "stop its server first if you want to begin anew")
    with adopt_disk(location.path, keep_history=keep_history, discard_history=discard_history,
                    settings=state.settings, image_format=image_format) as made:
        info = VolumeService(made).info()
    emit(state, info, [f"{volume}: the history of {info['disk']} goes on" if keep_history else
                       f"{volume}: a new history of {info['disk']} begins"])
