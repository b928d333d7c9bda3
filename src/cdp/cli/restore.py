"""restore: a volume put back to a point."""
from shlex import quote
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import WRITE_EXITS, State, command, emit, fields, note
from cdp.cli.clients import clients_gone, under_clients
from cdp.cli.explain import explanation_pairs
from cdp.cli.refs import group_at, volume_and_point, with_point
from cdp.text import sizes as units
from cdpcore.base.errors import InvalidRequest

if TYPE_CHECKING:
    from cdp.views import RestoreView


def parse_range(text: str) -> tuple[int, int]:
    """(offset, length) in bytes of OFF:LEN."""
    offset, colon, length = text.partition(":")
    if not colon:
        raise InvalidRequest(f"range {text!r} is not OFF:LEN", "write, for instance, --range 1M:64K")
    pair = units.parse_size(offset, "offset"), units.parse_size(length, "length")
    if pair[1] == 0:
        raise InvalidRequest(f"range {text!r} is empty", "give a length above 0")
    return pair


@command(cli, "restore", examples=[
    ("cdp restore web@-10m --dry-run", "show which moment that is and how much it would hide"),
    ("cdp restore web@-10m", "the volume is as it was; 'cdp undo web' takes that back"),
    ("cdp restore web@before-upgrade --range 0:1M", "only the first MiB"),
    ("cdp restore web@-10m --wait 30s", "as soon as clients that may write are gone, within 30 seconds"),
    ("cdp restore shop@before-upgrade", "all volumes of the group shop"),
    ("cdp restore web@-10m --destructive", "free what came later: it cannot be opened again"),
], exit_codes=WRITE_EXITS)
@click.argument("volume_at_point", metavar="VOLUME@POINT")
@click.option("--range", "byte_range", metavar="OFF:LEN", help="Only these bytes; sizes such as 4096, 64K, 1M.")
@click.option("--destructive", is_flag=True, help="Free the history after the point: there is no undo.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@under_clients
def restore(state: State, volume_at_point: str, byte_range: str | None, destructive: bool, dry_run: bool, force: bool,
            wait: str | None) -> None:
    """Put a volume back to a point.

    That takes no time, and the volume stays in service. GROUP@POINT puts all volumes of a group back.

    It is refused while NBD clients are connected that may write: what they have cached, as a mounted file system has,
    does not fit what they would read then, and what they write next damages it. Unmount before, and mount again
    afterwards. --force is for clients that cache nothing.
    """
    if group := group_at(volume_at_point):
        from cdp.cli.group import restore_group

        if byte_range or destructive:
            raise InvalidRequest("a group is restored as a whole, and with undo", "leave off --range and --destructive")
        restore_group(state, with_point(group, "restore"), dry_run, force, wait)
        return
    location, point = volume_and_point(volume_at_point, "restore")
    offset, length = parse_range(byte_range) if byte_range else (None, None)
    from cdp.service.connect import connect
    from cdp.service.local import clients_text

    with connect(location, state.settings) as service:
        explained = service.explain(point)
        writers = clients_gone(service, force, wait, dry_run)
        # By seq, so that what is explained is what is done, whatever is written in between.
        done = service.restore(f"#{explained['resolved']['seq']}!", offset=offset, length=length,
                               destructive=destructive, dry_run=dry_run, force=force)
        size_bytes = service.info()["size_bytes"]
    title = f"{location.text}: {'would be put back' if dry_run else 'put back'} to {point}"
    emit(state, {**done, "explanation": explained},
         fields(title, [*explanation_pairs(explained), *restore_pairs(done, size_bytes)]))
    if dry_run and writers:
        note(f"it would be refused: {clients_text(writers)}")
    if not dry_run:
        note(f"to take this back: cdp undo {quote(location.text)}" if done["undoable"] else "this cannot be undone")


def restore_pairs(done: "RestoreView", size_bytes: int) -> list[tuple[str, str]]:
    whole = done["length"] == size_bytes
    pairs = [("range", "all of it" if whole else f"{done['length']} bytes from byte {done['offset']}")]
    if done["bytes_hidden"] is not None:
        verb = "freed" if done["destructive"] else "hidden"
        pairs.append((verb, f"{units.approx_size(done['bytes_hidden'])} that were written later"))
    if not done["dry_run"]:
        pairs.append(("record", f"#{done['seq']}"))
    return pairs
