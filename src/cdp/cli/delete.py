"""delete: a volume and its history, for good."""
import sys
from shlex import quote

import click

from cdp.cli import cli
from cdp.cli.base import WRITE_EXITS, State, command, emit, note
from cdp.cli.refs import volume_only
from cdpcore.base.errors import Busy, InvalidRequest


@command(cli, "delete", examples=[
    ("cdp delete web", "says what would be lost, and asks"),
    ("cdp delete web --dry-run", "says it, and changes nothing"),
    ("cdp delete web --yes", "does not ask, as for a script"),
], exit_codes=WRITE_EXITS)
@click.argument("volume")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also a damaged volume, and one whose protected disk is not as it left it.")
@click.option("--dry-run", is_flag=True, help="Say what would be lost, and change nothing.")
def delete(state: State, volume: str, yes: bool, force: bool, dry_run: bool) -> None:
    """Delete a volume and its history.

    There is no undo. A disk that it protects in place stays, as a plain raw disk with the current content. Refused
    while the volume is served or open, while it has writable images, and where its folder has other files in it.
    """
    location = volume_only(volume, "delete")
    if location.images:
        raise InvalidRequest(f"{volume} is a writable image",
                             f"write: cdp image delete {quote(location.root)} {quote('/'.join(location.images))}")
    from cdp.service.connect import find_server
    from cdp.volume.deletion import delete as delete_volume
    from cdp.volume.deletion import what_is_lost

    if (remote := find_server(location)) is not None:
        with remote:
            pid = remote.server()["pid"]
        raise Busy(f"{volume} is served, by process {pid}", "end that first")
    lost = what_is_lost(location.root) or "nothing: it has no history"
    if dry_run:
        emit(state, {"volume": volume, "deleted": False, "lost": lost}, f"{volume}: deleting it would lose {lost}")
        return
    if not yes:
        if not sys.stdin or not sys.stdin.isatty():
            raise InvalidRequest(f"deleting {volume} would lose {lost}", "repeat with --yes")
        note(f"deleting {volume} loses {lost}; there is no undo")
        if not click.confirm("delete it?", err=True):
            raise click.Abort
    disk = delete_volume(location.root, settings=state.settings, force=force)
    left = f"; {disk} stays, a plain raw disk" if disk else ""
    emit(state, {"volume": volume, "deleted": True, "lost": lost, "disk": disk or None}, f"{volume}: deleted{left}")
