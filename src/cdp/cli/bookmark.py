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
    ("cdp bookmark web release-7 --for 90d", "a pin for 90 days: the retention policy does not take it"),
    ("cdp bookmark web lunch --delete", "take the name away; the history stays"),
], exit_codes=WRITE_EXITS)
@click.argument("volume", metavar="VOLUME[@POINT]")
@click.argument("name")
@click.option("--at", "at", metavar="POINT", help="The moment to name; default: now.")
@click.option("--for", "keep_for", metavar="SPAN", help="So long it is a pin: 30m, 48h, 90d.")
@click.option("--delete", is_flag=True, help="Take the bookmark away.")
def bookmark(state: State, volume: str, name: str, at: str | None, keep_for: str | None,
             delete: bool) -> None:
    """Give a moment a name.

    A name by itself keeps nothing: where a retention policy gives up the history around it, it is gone, too. --for
    makes a pin of it.
    """
    location, point = volume_and_point(volume, "bookmark", default="")
    if point and at:
        raise InvalidRequest("the point is given twice", f"leave off --at {at} or @{point}")
    if delete and (point or at or keep_for):
        raise InvalidRequest("--delete takes no point, and no span",
                             f"write cdp bookmark {quote(location.text)} {quote(name)} --delete")
    from cdp.moments.policy import span
    from cdp.service.connect import connect

    keep_ns = span(keep_for, "--for") if keep_for else None
    with connect(location, state.settings) as service:
        if delete:
            gone = next((mark for mark in service.bookmarks() if mark["name"] == name), None)
            service.delete_bookmark(name)
            emit(state, {"deleted": name, "at": gone["at"] if gone else None},
                 f"{location.text}: bookmark {name} is gone")
            if gone:
                note(f"to have it back: cdp bookmark {quote(location.text)} {quote(name)} --at '#{gone['at']['seq']}'")
            return
        made = service.bookmark(name, at=point or at or "now", keep_ns=keep_ns)
    pairs = [("names", moment_text(made["at"])), *([("pin for", keep_for)] if keep_for else [])]
    emit(state, made, fields(f"{location.text}: bookmark {made['name']}", pairs))
