"""bookmarks: the names there are."""
from shlex import quote

import click

from cdp.cli import cli
from cdp.cli.base import VOLUME_EXITS, State, command, emit, table
from cdp.cli.refs import volume_only
from cdp.text.timestamps import local_utc_and_age


@command(cli, "bookmarks", examples=[("cdp bookmarks web", "all bookmarks, oldest moment first")],
         exit_codes=VOLUME_EXITS)
@click.argument("volume")
def bookmarks(state: State, volume: str) -> None:
    """List the bookmarks of a volume."""
    location = volume_only(volume, "bookmarks")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        got = sorted(service.bookmarks(), key=lambda mark: (mark["at"]["seq"], mark["name"]))
    rows = [(mark["name"], f"#{mark['at']['seq']}", local_utc_and_age(mark["at"]["ts_ns"])) for mark in got]
    emit(state, got, table(("NAME", "SEQ", "MOMENT"), rows) if got else
         f"{volume}: no bookmarks; 'cdp bookmark {quote(volume)} NAME' makes one")
