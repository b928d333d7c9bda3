"""bookmark: a name for a moment."""
from shlex import quote

import click

from cdp.cli import cli
from cdp.cli.base import WRITE_EXITS, State, command, emit, fields, note
from cdp.cli.explain import moment_text
from cdp.cli.refs import volume_and_point
from cdpcore.base.errors import InvalidRequest


@command(cli, "bookmark", examples=[
    ("cdp bookmark web before-upgrade", "name the state of now"),
    ("cdp bookmark web lunch --at 12:30", "name a moment of the past; the same as: cdp bookmark web@12:30 lunch"),
    ("cdp bookmark web lunch --delete", "take the name away; the history stays"),
], exit_codes=WRITE_EXITS)
@click.argument("volume", metavar="VOLUME[@POINT]")
@click.argument("name")
@click.option("--at", "at", metavar="POINT", help="The moment to name; default: now.")
@click.option("--delete", is_flag=True, help="Take the bookmark away.")
def bookmark(state: State, volume: str, name: str, at: str | None, delete: bool) -> None:
    """Give a moment a name."""
    location, point = volume_and_point(volume, "bookmark", default="")
    if point and at:
        raise InvalidRequest("the point is given twice", f"leave off --at {at} or @{point}")
    if delete and (point or at):
        raise InvalidRequest("--delete takes no point",
                             f"write cdp bookmark {quote(location.text)} {quote(name)} --delete")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        if delete:
            gone = next((mark for mark in service.bookmarks() if mark["name"] == name), None)
            service.delete_bookmark(name)
            emit(state, {"deleted": name, "at": gone["at"] if gone else None},
                 f"{location.text}: bookmark {name} is gone")
            if gone:
                note(f"to have it back: cdp bookmark {quote(location.text)} {quote(name)} --at '#{gone['at']['seq']}'")
            return
        made = service.bookmark(name, at=point or at or "now")
    emit(state, made, fields(f"{location.text}: bookmark {made['name']}", [("names", moment_text(made["at"]))]))
