"""events: what happens to a served volume."""
import json
import re
from typing import TYPE_CHECKING

import click

from cdp.cli import cli, exits
from cdp.cli.base import State, command
from cdp.cli.output import put
from cdp.cli.refs import volume_only
from cdpcore.base.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from cdp.moments.events import Event


@command(cli, "events", examples=[
    ("cdp events web", "what happened lately: bookmarks, restores, images, alerts ..."),
    ("cdp events web --follow --kind alert_raised", "alerts, as they come; ends with Ctrl-C"),
    ("cdp events web --follow --since 5f0c7d1e:17 --json", "JSON lines from there on, for a program that was away"),
], exit_codes=[exits.OK, exits.USAGE, exits.NOT_FOUND, exits.UNAVAILABLE, exits.INTERRUPTED])
@click.argument("volume")
@click.option("--follow", is_flag=True, help="Go on with those that come.")
@click.option("--since", metavar="[STREAM:]NUMBER",
              help="Those after this one. [default: all that the server keeps, the last 1024]")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="This kind only; may be repeated.")
def events(state: State, volume: str, follow: bool, since: str | None, kinds: tuple[str, ...]) -> None:
    """Show what happened to a volume since its server opened it.

    Events are kept in the server's memory. One `lost` says how many are gone: they came too fast, or --since names
    the stream of an earlier opening. With --json one line an event: number, stream, ts_ns, time, kind, text, details.
    """
    after = place(since)
    location = volume_only(volume, "events")
    import cdp
    from cdp.service.connect import find_server

    served = find_server(location)
    if served is None:
        raise Unavailable(f"{location.text} is not served, so nothing tells its events", f"cdp serve {location.text}")
    served.close()
    with cdp.connect(location.path) as remote, remote.watch(after, None if follow else 0, kinds=kinds or None) as watch:
        for event in watch:
            put(line(event, state.as_json))


def place(since: str | None) -> "Event | int":
    """The event after which to begin."""
    if since is None:
        return 0
    match = re.fullmatch(r"(?:([0-9a-f]{1,32}):)?([0-9]{1,18})", since)
    if match is None:
        raise InvalidRequest(f"--since {since} is not the number of an event",
                             "write NUMBER, or STREAM:NUMBER as --json shows them")
    if match[1] is None:
        return int(match[2])
    from cdp.moments.events import Event

    return Event(int(match[2]), match[1], 0, "", "")


def line(event: "Event", as_json: bool) -> str:
    from cdp.text.timestamps import utc

    if not as_json:
        return f"{utc(event.ts_ns)}  {event.kind:<16}  {event.text}"
    return json.dumps({"number": event.number, "stream": event.stream, "ts_ns": event.ts_ns, "time": utc(event.ts_ns),
                       "kind": event.kind, "text": event.text, "details": dict(event.details)}, ensure_ascii=False)
