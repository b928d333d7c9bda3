"""pins: what keeps moments from being given up."""
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import VOLUME_EXITS, State, command, emit, table
from cdp.cli.refs import volume_only
from cdp.text.sizes import approx_duration

if TYPE_CHECKING:
    from cdp.views import PinView


@command(cli, "pins", examples=[
    ("cdp pins web", "which bookmarks, images and restores hold history, and for how long yet"),
], exit_codes=VOLUME_EXITS)
@click.argument("volume")
def pins(state: State, volume: str) -> None:
    """What keeps moments of a volume from being given up?

    A pin holds its moment, and all that came after it, whatever the retention policy says: a bookmark that was made
    with --for or that a rule of the policy names, a writable image, an open time image, and for a while what 'cdp undo'
    would show.
    """
    location = volume_only(volume, "pins")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        got = service.pins()
    rows = [(pin["kind"], pin["owner"], f"#{pin['at']['seq']}", pin["at"]["time"], left_text(pin), pin["reason"])
            for pin in got]
    emit(state, got, table(("PIN", "OWNER", "SEQ", "TIME", "FOR", "WHY"), rows) if got else f"{volume}: no pins")


def left_text(pin: "PinView") -> str:
    """For how long it is a pin yet."""
    left_ns = pin["left_ns"]
    return "ever" if left_ns is None else approx_duration(left_ns) or "0 ms"
