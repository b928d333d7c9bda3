"""status: whether volumes are well, for people and for a check script."""
import time
from typing import TYPE_CHECKING

import click

from cdp.cli import cli, exits
from cdp.cli.base import State, command, emit, table
from cdp.text.sizes import approx_age, approx_duration, approx_size, parse_duration_ms

if TYPE_CHECKING:
    from cdp.views import StatusView


@command(cli, "status", examples=[
    ("cdp status", "every served volume: how far back it goes, what it takes, what needs attention"),
    ("cdp status /var/lib/cdp/web --days 14", "one volume, which has to be served; the device must last two weeks"),
    ("cdp status web db > /dev/null || echo look", "in a check script: both have to be served, and well"),
], exit_codes=[exits.OK, exits.USAGE, exits.NOT_FOUND, exits.UNAVAILABLE, exits.ATTENTION])
@click.argument("paths", metavar="[VOLUME]...", nargs=-1)
@click.option("--days", type=click.FloatRange(min=0), default=7.0, show_default=True,
              help="The device must not be full sooner than this.")
@click.option("--unflushed", metavar="TIME", default="15m", show_default=True,
              help="A connected client must flush within this time after a write.")
def status(state: State, paths: tuple[str, ...], days: float, unflushed: str) -> None:
    """Are the volumes well?

    Of the volumes named, or of all that this user's servers have: from when to when moments can be opened, when a
    client last flushed, what history takes, and in how many days the device is full, from an hour of history on. Below
    that, what needs attention; then the exit status is 9, and so it is where nothing is served. A volume that is not
    served is noticed where it is named, or where its server was killed.
    """
    from cdp.serve.addresses import runtime_directory
    from cdp.service.status import Limits
    from cdp.service.status import status as look

    limits = Limits(unflushed_ns=parse_duration_ms(unflushed, "--unflushed") * 1_000_000, days_left=days)
    now_ns = time.time_ns()
    found = list(look(runtime_directory(), paths, now_ns, limits))
    rows = [_row(view, now_ns) for view in found]
    lines = table(["VOLUME", "STATE", "OLDEST", "LAST WRITE", "UNFLUSHED", "CLIENTS", "HISTORY", "FULL IN"], rows)
    lines += [f"{view['volume']}: {text}" for view in found for text in view["attention"]]
    emit(state, found, lines if found else "nothing is served")
    if not found or any(view["attention"] for view in found):
        raise click.exceptions.Exit(exits.ATTENTION)


def _row(view: "StatusView", now_ns: int) -> list[str]:
    def age(ts_ns: int | None) -> str:
        return "?" if ts_ns is None else approx_age(max(now_ns - ts_ns, 0))

    waits, days = view["unflushed_ns"], view["days_left"]
    return [view["volume"], view["state"], age(view["oldest"] and view["oldest"]["ts_ns"]),
            age(view["newest"] and view["newest"]["ts_ns"]),
            "?" if waits is None else "-" if not waits else approx_duration(waits),
            "?" if view["clients"] is None else str(view["clients"]),
            "?" if view["history_bytes"] is None else approx_size(view["history_bytes"]),
            "-" if days is None else f"{days:.1f} days" if days < 100 else f"{days:.0f} days"]
