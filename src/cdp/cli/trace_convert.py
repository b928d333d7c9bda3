"""trace convert: a trace as a fio iolog or as CSV."""
import json
from contextlib import nullcontext
from typing import Any

import click

from cdp.cli.base import State, command
from cdp.cli.output import put, say, standard_output
from cdp.cli.progress import Progress
from cdp.cli.trace import TRACE_EXITS, counter, opened, trace, trace_options
from cdp.store.output_files import output_file


@command(trace, "convert", examples=[
    ("cdp trace convert linux-mysql.load.gz mysql.iolog", "an iolog of version 3"),
    ("fio --name=replay --read_iolog=mysql.iolog --replay_redirect=/dev/nbd0", "and what replays it"),
    ("cdp trace convert --to csv dump.vscsi.gz - | head", "CSV on standard output"),
], exit_codes=TRACE_EXITS)
@click.argument("paths", metavar="TRACE...", nargs=-1, required=True)
@click.argument("out", metavar="OUT")
@trace_options
@click.option("--to", "target", type=click.Choice(["fio", "csv"]), help="Default: by OUT's suffix; fio unless .csv.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N records.")
@click.option("--force", is_flag=True, help="Replace OUT; it stays as it was until the new one is complete.")
def convert(state: State, paths: tuple[str, ...], out: str, target: str | None, limit: int | None, force: bool,
            **options: Any) -> None:
    """Write a trace as a fio iolog or as CSV.

    The iolog is of version 3. OUT - is standard output; with --json the counts are then printed on standard error.

    An iolog has no word for zeroing (it becomes a write), for FUA and preflush (dropped), for requests of no bytes and
    for requests that the trace does not name (left out): what changed is counted. The CSV keeps all of them.
    """
    from cdp.trace.convert import convert as convert_trace
    from cdp.trace.convert import target_for

    stdout = standard_output() if out == "-" else None
    kind: Any = target or target_for(out)
    with (nullcontext(out) if stdout else output_file(out) as real, opened(paths, options) as found,
          Progress("converting", found.stored_bytes) as progress):
        done = convert_trace(found, real, kind, force=force, limit=limit, progress=counter(progress, found),
                             stdout=stdout)
    if state.as_json:
        (say if out == "-" else put)(json.dumps(done.to_json(), indent=2, ensure_ascii=False))
        return
    say(f"{out}: {done.records:,} records")
    for count, what in ((done.left_out, "left out: no bytes, or of a kind that the trace does not name"),
                        (done.zeroes_as_writes, "zeroing requests became writes"),
                        (done.flags_dropped, "carried FUA or preflush, which an iolog cannot say"),
                        (done.held_back, "were earlier than one before them and are given its time"),
                        (done.bad, f"malformed: passed over; the first: {done.first_bad}")):
        if count:
            say(f"  {count:,} {what}")
    for line in done.not_read:
        say(f"  left out: {line}")
