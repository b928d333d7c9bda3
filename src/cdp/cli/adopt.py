"""adopt: take a disk that others changed."""
import sys
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import ENGINE_KEYS, WRITE_EXITS, State, command, emit, note
from cdp.cli.progress import Progress
from cdp.cli.refs import volume_only
from cdp.text.sizes import approx_size

if TYPE_CHECKING:
    from cdp.volume.adopt import Found
    from cdp.volume.foreign_writes import Changed


@command(cli, "adopt", setting_flags=ENGINE_KEYS, examples=[
    ("cdp adopt web", "the disk was changed by others: what differs and what would be lost; asks, on a terminal"),
    ("cdp adopt web --keep-history", "the history goes on with the disk as it is now"),
    ("cdp adopt web --discard-history", "its history begins anew with what the disk holds now"),
], exit_codes=WRITE_EXITS)
@click.argument("volume")
@click.option("--keep-history", is_flag=True,
              help="The history goes on; the blocks that others changed cannot be read at moments before.")
@click.option("--discard-history", is_flag=True, help="Delete the history that there is, with its bookmarks.")
@click.option("--yes", "-y", is_flag=True, help="With --keep-history: do not ask.")
@click.option("--format", "image_format", type=click.Choice(["raw"]),
              help="The disk's own bytes are meant, though it looks like a qcow2 image or another container.")
def adopt(state: State, volume: str, keep_history: bool, discard_history: bool, yes: bool,
          image_format: str | None) -> None:
    """Take a protected disk that others changed as it is now.

    For a volume made with --mode before whose disk was written to while the volume was closed: by a mount, even a
    read-only one, which replays a journal. If the disk as it was can be put back, do that instead.

    --keep-history: the whole disk is read and compared with the checksums that the volume has of it (disk.sums, 0.1 %
    of its size, made in the background when the volume is first open). Blocks that differ are recorded: what they held
    is not known, and reading them at a moment before now fails, unless something was recorded for them in between. All
    else of the history stays, and it goes on. Where more than a quarter of the disk differs, a new history is the
    better choice. A block that has no checksum yet counts as one that differs. A disk that grew is taken with its new
    size. Where the volume has no table of checksums the history is kept only where size and samples of the disk (1 MiB
    at both ends, 64 blocks between) are what they were: it was copied, moved or touched.

    --discard-history: the old history is deleted, and a new one begins.

    On a terminal it says what differs and what would be lost, and asks.
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
    asks = not discard_history and not yes and bool(sys.stdin and sys.stdin.isatty())
    changed = None
    with Progress(f"comparing the disk of {volume}", quiet=state.as_json) as progress:
        if asks or keep_history and not discard_history:
            found = look(location.path, compare=True, progress=progress.at)
            changed = found.changed
    if keep_history and changed is not None and changed.lost_bytes:
        _say(changed)
        if asks:
            click.confirm("go on with this disk?", default=not changed.much, abort=True, err=True)
    elif asks and not keep_history and found.lost:
        keep_history = _ask(found) == "keep"
        discard_history = not keep_history
    with (Progress(f"comparing the disk of {volume}", quiet=state.as_json) as progress,
          adopt_disk(location.path, keep_history=keep_history, discard_history=discard_history, settings=state.settings,
                     image_format=image_format, changed=changed, progress=progress.at) as made):
        info = VolumeService(made).info()
    emit(state, info, [f"{volume}: the history of {info['disk']} goes on" if keep_history else
                       f"{volume}: a new history of {info['disk']} begins"])


def _say(changed: "Changed") -> None:
    """What keeping the history costs."""
    n = len(changed.differ) + len(changed.unknown)
    note(f"{approx_size(changed.lost_bytes)} of {approx_size(changed.old_bytes)} differ, in {n} ranges: what they held "
         "before cannot be read any more; all else of the history stays")
    if changed.unknown:
        unknown = sum(end - start for start, end in changed.unknown)
        note(f"of them {approx_size(unknown)} have no checksum, and may not have changed")
    if changed.much:
        note("that is more than a quarter of the disk: a new history is the better choice")


def _ask(found: "Found") -> str:
    """keep or discard. Raises click.Abort for neither."""
    note(f"{found.disk}: {found.difference or 'its size is what it was'}")
    note(f"a new history loses {found.lost}; there is no undo")
    changed = found.changed
    if changed is not None and changed.lost_bytes:
        _say(changed)
        note("keep: the history goes on with the disk as it is")
    elif found.compared:
        note("keep: it was copied, moved or touched only (size and samples are as they were), and the history goes on")
    elif found.may_keep:
        note("keep: only you know that nobody wrote to it: the volume was not closed cleanly, so it cannot be compared")
    else:
        note("the history cannot be kept with this content: put the disk back that it belongs to, and it fits again")
    note("discard: delete that history; nothing: leave all as it is")
    answers = [*(["keep"] if found.may_keep else []), "discard", "nothing"]
    kept = found.compared if changed is None or not changed.lost_bytes else not changed.much
    default = "keep" if kept else "nothing"
    answer: str = click.prompt("the history?", type=click.Choice(answers), default=default, err=True)
    if answer == "nothing":
        raise click.Abort
    return answer
