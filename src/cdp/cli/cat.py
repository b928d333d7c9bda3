"""cat: a file of a moment, without mounting it."""
import hashlib

import click

from cdp.cli import cli
from cdp.cli.base import POINT_EXITS, State, command, emit
from cdp.cli.files import files_of, partition_option
from cdp.cli.output import standard_output
from cdp.service.files_at import entry_view


@command(cli, "cat", examples=[
    ("cdp cat web@-1h /etc/hosts", "the file as it was an hour ago"),
    ("cdp cat web@before-upgrade /srv/db.tar > db.tar", "take a file back"),
    ("cdp cat web@-1h /etc/hosts --json", "what it is, and the SHA-256 of its content"),
], exit_codes=POINT_EXITS)
@click.argument("volume_at_point", metavar="VOLUME[@POINT]")
@click.argument("path")
@partition_option
def cat(state: State, volume_at_point: str, path: str, partition: int | None) -> None:
    """Write a file of a moment to standard output.

    Symbolic links are followed, within the file system. With --json: what the file is, and the SHA-256 of its content,
    in place of the content. See 'cdp files --help' for what can be read.
    """
    with files_of(state, volume_at_point, "cat", partition) as (found, moment, _):
        if state.as_json:
            digest = hashlib.sha256()
            for part in found.content(path):
                digest.update(part)
            entry = entry_view(found.stat(path, follow=True))
            emit(state, {"at": moment, **entry, "sha256": digest.hexdigest()}, "")
            return
        out = standard_output()
        for part in found.content(path):
            out.write(part)
