"""adopt: a new history of a disk that others changed."""
import sys
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, WRITE_EXITS, State, command, emit, note
from cdp.cli.refs import volume_only

if TYPE_CHECKING:
    from cdp.volume.adopt import Found


@command(cli, "adopt", setting_flags=ENGINE_KEYS, examples=[
    ("cdp adopt web", "the disk was changed by others: what would be lost with its history; asks, on a terminal"),
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

    On a terminal it says what would be lost, and asks; to keep the history is offered where size and samples of the
    disk (1 MiB at both ends, 64 blocks between) are what they were. The history has what was overwritten, and relies on
    the disk for the rest: after a write by others that the samples miss, earlier moments show that write.
    """
    location = volume_only(volume, "adopt")
    from cdp.service.connect import find_server
    from cdp.service.local import VolumeService
    from cdp.volume.adopt import adopt as adopt_disk
    from cdp.volume.adopt import look
    from cdpcore.base.errors import Busy, InvalidRequest

    if (remote := find_server(location)) is not None:
        with remote:
            protects = remote.info()["disk"]
        if not protects:
            raise InvalidRequest(f"{volume}: protects no disk in place", "only a volume made with --mode before does")
        raise Busy(f"{volume} is served, so its disk is as the volume left it",
                   "stop its server first if you want to begin anew")
    if not keep_history and not discard_history and sys.stdin and sys.stdin.isatty():
        found = look(location.path)
        if found.lost:
            keep_history = _ask(found) == "keep"
            discard_history = not keep_history
    with adopt_disk(location.path, keep_history=keep_history, discard_history=discard_history,
                    settings=state.settings, image_format=image_format) as made:
        info = VolumeService(made).info()
    emit(state, info, [f"{volume}: the history of {info['disk']} goes on" if keep_history else
                       f"{volume}: a new history of {info['disk']} begins"])


def _ask(found: "Found") -> str:
    """keep or discard. Raises click.Abort for neither."""
    note(f"{found.disk}: {found.difference or 'its size is what it was'}")
    note(f"a new history loses {found.lost}; there is no undo")
    if found.compared:
        note("keep: it was copied, moved or touched only (size and samples are as they were), and the history goes on")
    elif found.may_keep:
        note("keep: only you know that nobody wrote to it: the volume was not closed cleanly, so it cannot be compared")
    else:
        note("the history cannot be kept with this content: put the disk back that it belongs to, and it fits again")
    note("discard: delete that history; nothing: leave all as it is")
    answers = [*(["keep"] if found.may_keep else []), "discard", "nothing"]
    default = "keep" if found.compared else "nothing"
    answer: str = click.prompt("the history?", type=click.Choice(answers), default=default, err=True)
    if answer == "nothing":
        raise click.Abort
    return answer
