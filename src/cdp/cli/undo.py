"""undo: the last restore undone."""
from shlex import quote

import click

from cdp.cli import cli
from cdp.cli.base import WRITE_EXITS, State, command, emit, fields, note
from cdp.cli.clients import clients_gone, under_clients
from cdp.cli.explain import moment_text
from cdp.cli.refs import volume_only
from cdp.cli.restore import restore_pairs


@command(cli, "undo", examples=[
    ("cdp undo web", "as if the last restore, and what was written since, had not been"),
    ("cdp undo web --dry-run", "show what that would be"),
], exit_codes=WRITE_EXITS)
@click.argument("volume")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@under_clients
def undo(state: State, volume: str, dry_run: bool, force: bool, wait: str | None) -> None:
    """Take the last restore back.

    The volume is then as it was just before that restore; what was written since is hidden too, and
    stays in the history. As 'cdp restore', it is refused while NBD clients are connected that may write.
    """
    location = volume_only(volume, "undo")
    from cdp.service.connect import connect
    from cdp.service.local import clients_text

    with connect(location, state.settings) as service:
        writers = clients_gone(service, force, wait, dry_run)
        done = service.undo(dry_run=dry_run, force=force)
        size_bytes = service.info()["size_bytes"]
    what = f"restore #{done['undo_of']}" if done["undo_of"] is not None else "the last restore"
    title = f"{volume}: {what} {'would be taken' if dry_run else 'is taken'} back"
    emit(state, done, fields(title, [("now as of", moment_text(done["target"])), *restore_pairs(done, size_bytes)]))
    if dry_run and writers:
        note(f"it would be refused: {clients_text(writers)}")
    if not dry_run:
        at = f"@#{done['seq'] - 1}"
        note(f"to take this back: cdp restore {quote(volume + at)}")
