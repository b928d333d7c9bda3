"""trace info: what is in a trace."""
from typing import Any

import click

from cdp.cli.base import State, command, emit
from cdp.cli.extras import require
from cdp.cli.output import put
from cdp.cli.progress import Progress
from cdp.cli.trace import TRACE_EXITS, counter, opened, trace, trace_options
from cdp.store.output_files import output_file


@command(trace, "info", examples=[
    ("cdp trace info Financial1.spc.zst", "spans, counts, sizes, footprint, devices"),
    ("cdp trace info --plot load.png linux-mysql.load.gz", "with a picture of the rates over time"),
    ("cdp trace info --json sda.blktrace.* | jq .overwritten_share", "one file per CPU is one trace"),
    ("ssh host zcat huge.csv.gz | cdp trace info -", "through a pipe, in flat memory"),
], exit_codes=TRACE_EXITS)
@click.argument("paths", metavar="TRACE...", nargs=-1, required=True)
@trace_options
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N records.")
@click.option("--plot", "picture", metavar="OUT.png", help="Draw rates over time and request sizes.")
def info(state: State, paths: tuple[str, ...], limit: int | None, picture: str | None, **options: Any) -> None:
    """Show what is in a trace.

    Format, span, counts by kind, sizes, footprint, overwritten share, devices.

    Several files are read as one trace, by time: the days or disks of a trace, or blktrace's file per CPU.
    The footprint is exact up to a million separate places and an estimate beyond that; the report says which.
    """
    if picture:
        require("matplotlib")
    from cdp.trace.info import collect

    with opened(paths, options) as found, Progress("reading", found.stored_bytes) as progress:
        got = collect(found, limit=limit, progress=counter(progress, found))
    if picture:
        from cdp.trace import plot

        with output_file(picture):
            plot.save(got, picture)
    if state.as_json:
        emit(state, got.to_json(), "")
    else:
        from cdp.trace import report

        put(report.text(got), end="")
