"""activity: what was done to a volume, by time and by place."""
import shutil

import click

from cdp.cli import cli
from cdp.cli.base import POINT_EXITS, State, command, emit, note
from cdp.cli.extras import require
from cdp.cli.refs import volume_only
from cdp.text.sizes import parse_duration_ms

MARGIN = 14         # beside the map
DEFAULT_COLUMNS = 80


@command(cli, "activity", examples=[
    ("cdp activity web", "the whole window, as wide as the terminal"),
    ("cdp activity web --since -1h --by 1m", "the last hour, a column a minute"),
    ("cdp activity web --since -1d --by 5m --json", "numbers, and bytes written by place"),
    ("cdp activity web --since -7d --plot week.png", "with a picture"),
], exit_codes=POINT_EXITS)
@click.argument("volume")
@click.option("--since", metavar="POINT", help="From this time on; default: the oldest moment.")
@click.option("--until", metavar="POINT", default="now", help="Up to this time; default: now.")
@click.option("--by", metavar="DURATION", help="Length of an interval, such as 1m; default: to fit the terminal.")
@click.option("--plot", "picture", metavar="FILE", help="Draw it, too: .png, .svg or .pdf.")
def activity(state: State, volume: str, since: str | None, until: str, by: str | None, picture: str | None) -> None:
    """Show what was done, by time and by place.

    Bytes written, overwritten (of these, what held data before), trimmed and zeroed, and flushes; below, where in the
    volume was written, a row for each of up to 64 equal parts. A darker sign is more; the scale is logarithmic. It
    comes from summaries that are kept with the log: a year takes no longer than a minute. What a restore took back
    counts, too. Intervals are whole: a time is extended to their ends.

    'Overwritten' is exact up to 512 writes in a segment of the log, and estimated from as many beyond.
    """
    location = volume_only(volume, "activity")
    by_ns = None if by is None else parse_duration_ms(by, "--by") * 1_000_000
    if picture:
        require("matplotlib")
    from cdp.cli import activity_view
    from cdp.service.connect import connect

    columns = max(20, shutil.get_terminal_size((DEFAULT_COLUMNS, 24)).columns - MARGIN)
    with connect(location, state.settings) as service:
        found = service.activity(since, until, by_ns, places=True)
        if by is None and not picture and not state.as_json and len(found["writes"]) > columns:
            end_ns = found["begin_ns"] + len(found["writes"]) * found["by_ns"]
            from cdp.volume.activity import length

            found = service.activity(since, until, length(found["begin_ns"], end_ns, columns), places=True)
    if picture:
        from cdp.cli import activity_plot
        from cdp.store.output_files import output_file

        with output_file(picture):
            activity_plot.save(volume, found, picture)
    emit(state, found, activity_view.lines(volume, found, columns))
    if found["missing"]:
        note(f"{found['missing']} segments of the log have no summary yet: repeat this for them")
