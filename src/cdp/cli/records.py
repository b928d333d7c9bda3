"""records: the history, record by record."""
import sys

import click

from cdp.cli import cli
from cdp.cli.base import POINT_EXITS, State, command, note
from cdp.cli.refs import volume_only
from cdp.cli.restore import parse_range
from cdp.views import MAX_PAGE_ROWS
from cdpcore.base.errors import InvalidRequest

RECORDS_PAGE = MAX_PAGE_ROWS
FORMATS = ("text", "ndjson", "binary", "arrow", "parquet")


@command(cli, "records", examples=[
    ("cdp records web --since -10m", "what was written in the last ten minutes"),
    ("cdp records web --since '#100' --until '#200'", "records 101 to 200"),
    ("cdp records web --range 1M:64K --kind write,trim", "what changed these bytes"),
    ("cdp records web --since 'yesterday 14:00' --count", "how many of each kind, and their bytes"),
    ("cdp records web --limit 0 --json > history.jsonl", "the whole history, one JSON object a line"),
    ("cdp records web --limit 0 --format parquet > history.parquet", "for a data frame"),
], exit_codes=POINT_EXITS)
@click.argument("volume")
@click.option("--since", metavar="POINT", help="Records after this moment; default: the oldest.")
@click.option("--until", metavar="POINT", default="now", help="Records up to and including this moment; default: now.")
@click.option("--range", "byte_range", metavar="OFF:LEN", help="Only what is about these bytes, in part or whole.")
@click.option("--kind", "kinds", metavar="KIND,...", default="", help="Only records of these kinds.")
@click.option("--limit", metavar="N", type=click.IntRange(0), default=1000, show_default=True,
              help="At most N records; 0: all.")
@click.option("--count", is_flag=True, help="Only how many there are, of each kind.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text",
              help="On standard output. ndjson: as --json; arrow: a stream; binary: 34 bytes each, see below.")
def records(state: State, volume: str, since: str | None, until: str, byte_range: str | None, kinds: str, limit: int,
            count: bool, form: str) -> None:
    """List the history, record by record.

    Records are writes, trims, zeroes, flushes, bookmarks made and deleted, and restores. With --json the result is one
    object a line. As binary, a record is seq and time (ns since 1970 UTC) in 8 bytes each, kind and flags (2: FUA, 32:
    metadata) in one each, offset and length in 8 each, little-endian and packed.
    """
    if count and form != "text":
        raise InvalidRequest("--count has no --format", "leave one out; with --json the counts are JSON")
    from cdp.cli import record_writers

    form = "ndjson" if state.as_json and form == "text" else form
    writer = record_writers.Counts(state.as_json) if count else record_writers.made(form)
    location = volume_only(volume, "records")
    offset, length = parse_range(byte_range) if byte_range else (None, None)
    from cdp.service.connect import connect

    left, more = 0 if count else limit, None
    with connect(location, state.settings) as service, writer:
        since = since or f"#{service.window()['oldest']['seq']}"
        first, last = service.explain(since), service.explain(until)
        times = first["asked_ts_ns"] or 0, last["asked_ts_ns"] or sys.maxsize   # may differ with no record between them
        if times[0] > times[1] or first["resolved"]["seq"] > last["resolved"]["seq"]:
            raise InvalidRequest(f"since {since} until {until}: the first is the later one",
                                 f"write --since {until} --until {since}")
        until = f"#{last['resolved']['seq']}"  # the list does not run after a busy writer
        since = f"#{first['resolved']['seq']}"
        while True:
            page, more = service.history(since, until, min(left or RECORDS_PAGE, RECORDS_PAGE), kinds, offset, length)
            writer.write(page)
            left -= len(page) // record_writers.ROW_BYTES if left else 0
            if more is None or (limit and not count and left <= 0):
                break
            since = more
    if more is not None:
        note(f"there are more: --since '{more}' goes on, --limit 0 lists all")
