"""records: the history, record by record."""
import json
import sys
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import POINT_EXITS, State, command, note
from cdp.cli.output import put
from cdp.cli.refs import volume_only
from cdp.text.sizes import approx_size
from cdp.text.timestamps import local
from cdpcore.base.errors import InvalidRequest

if TYPE_CHECKING:
    from cdp.views import RecordView

RECORDS_PAGE = 10_000


@command(cli, "records", examples=[
    ("cdp records web --since -10m", "what was written in the last ten minutes"),
    ("cdp records web --since '#100' --until '#200'", "records 101 to 200"),
    ("cdp records web --limit 0 --json > history.jsonl", "the whole history, one JSON object a line"),
], exit_codes=POINT_EXITS)
@click.argument("volume")
@click.option("--since", metavar="POINT", default="#0", help="Records after this moment; default: the beginning.")
@click.option("--until", metavar="POINT", default="now", help="Records up to and including this moment; default: now.")
@click.option("--limit", metavar="N", type=click.IntRange(0), default=1000, show_default=True,
              help="At most N records; 0: all.")
def records(state: State, volume: str, since: str, until: str, limit: int) -> None:
    """List the history, record by record.

    Records are writes, trims, zeroes, flushes, bookmarks made and deleted, and restores. With --json the result is one
    object a line.
    """
    location = volume_only(volume, "records")
    from cdp.service.connect import connect

    left, more = limit, None
    with connect(location, state.settings) as service:
        first, last = service.explain(since), service.explain(until)
        times = first["asked_ts_ns"] or 0, last["asked_ts_ns"] or sys.maxsize   # may differ with no record between them
        if times[0] > times[1] or first["resolved"]["seq"] > last["resolved"]["seq"]:
            raise InvalidRequest(f"since {since} until {until}: the first is the later one",
                                 f"write --since {until} --until {since}")
        until = f"#{last['resolved']['seq']}"  # the list does not run after a busy writer
        head = None if state.as_json else f"{'SEQ':<10}  {'TIME':<35}  {'KIND':<10}  {'OFFSET':>16}  {'LENGTH':>12}"
        while True:
            page = service.records(since=since, until=until, limit=min(left or RECORDS_PAGE, RECORDS_PAGE))
            if head:
                put(head)
                head = None
            for record in page["records"]:
                put(json.dumps(record) if state.as_json else _record_line(record))
            left -= len(page["records"]) if limit else 0
            more = page["next"]
            if more is None or (limit and left <= 0):
                break
            since = more
    if more is not None:
        note(f"there are more: --since '{more}' goes on, --limit 0 lists all")


def _record_line(record: "RecordView") -> str:
    kind = record["kind"] + (" fua" if record["fua"] else "") + (" meta" if record["meta"] else "")
    extent = f"{record['offset']:>16}  {approx_size(record['length']):>12}" if record["length"] else ""
    return f"#{record['seq']:<9}  {local(record['ts_ns']):<35}  {kind:<10}  {extent}".rstrip()
