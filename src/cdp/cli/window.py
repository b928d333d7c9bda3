"""window: the moments that can be opened."""
import click

from cdp.cli import cli
from cdp.cli.base import VOLUME_EXITS, State, command, emit, fields
from cdp.cli.explain import clock_pairs, moment_text, thinned_pairs
from cdp.cli.refs import volume_only


@command(cli, "window", examples=[
    ("cdp window web", "the oldest and the newest moment that can be opened"),
], exit_codes=VOLUME_EXITS)
@click.argument("volume")
def window(state: State, volume: str) -> None:
    """Which moments can I go back to?"""
    location = volume_only(volume, "window")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        got = service.window()
    pairs = [("oldest", moment_text(got["oldest"])), ("newest", moment_text(got["newest"]))]
    for gap in got["gaps"]:
        span = f"{moment_text(gap['first'])} to {moment_text(gap['last'])}"
        pairs.append(("not between", f"{span}: freed by a destructive restore"))
    pairs += thinned_pairs(got)
    pairs += clock_pairs(got)
    emit(state, got, fields(f"{volume}: any moment from the oldest to the newest can be opened", pairs))
