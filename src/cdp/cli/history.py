"""history: the versions of a range of bytes."""
import json

import click

from cdp.cli import cli
from cdp.cli.base import POINT_EXITS, State, command, note
from cdp.cli.output import put
from cdp.cli.refs import volume_only
from cdp.text.sizes import approx_size, parse_size
from cdp.text.timestamps import local
from cdp.views import MAX_PAGE_RECORDS, VersionView
from cdpcore.base.errors import InvalidRequest

BLOCK_BYTES = 4096


@command(cli, "history", examples=[
    ("cdp history web 1M", "every version of the 4 KiB at 1 MiB, oldest first"),
    ("cdp history web 0:64K --since -1h", "what changed the first 64 KiB in the last hour"),
    ("cdp history web 4096:512 --json", "one JSON object a line"),
], exit_codes=POINT_EXITS)
@click.argument("volume")
@click.argument("byte_range", metavar="OFF[:LEN]")
@click.option("--since", metavar="POINT", help="Versions after this moment; default: the oldest.")
@click.option("--until", metavar="POINT", default="now", help="Versions up to and including this moment; default: now.")
@click.option("--limit", metavar="N", type=click.IntRange(0), default=1000, show_default=True,
              help="At most N versions; 0: all.")
def history(state: State, volume: str, byte_range: str, since: str | None, until: str, limit: int) -> None:
    """List the versions of a range of bytes, oldest first.

    A line for each write, zero, trim and restore of the range. What the volume shows now came through those whose LINE
    is 'present'; the others were taken back by a restore, and can still be opened. Of a writable image: its own
    records; what it was made from has a history of its own. The versions are found by the index, however long the
    history is. With --json the result is one object a line.
    """
    location = volume_only(volume, "history")
    offset, length = _range(byte_range)
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        info = service.info()
        if ":" not in byte_range:
            length = min(length, max(info["size_bytes"] - offset, 0))
        until = f"#{service.explain(until)['resolved']['seq']}"     # the list does not run after a busy writer
        left, more, head = limit, None, True
        while True:
            page = service.versions(offset, length, since, until,
                                    min(left, MAX_PAGE_RECORDS) if limit else MAX_PAGE_RECORDS)
            for version in page["versions"]:
                if head and not state.as_json:
                    put(f"{'SEQ':<10}  {'TIME':<35}  {'KIND':<10}  {'OFFSET':>16}  {'LENGTH':>12}  LINE")
                head = False
                put(json.dumps(version) if state.as_json else _line(version))
            left -= len(page["versions"])
            more = page["next"]
            if more is None or limit and left <= 0:
                break
            since = more
    if more is not None:
        note(f"there are more: --since '{more}' goes on, --limit 0 lists all")
    elif head:
        note(f"{volume}: nothing changed this range")


def _range(text: str) -> tuple[int, int]:
    offset, colon, length = text.partition(":")
    pair = parse_size(offset, "offset"), parse_size(length, "length") if colon else BLOCK_BYTES
    if pair[1] == 0:
        raise InvalidRequest(f"range {text!r} is empty", "give a length above 0")
    return pair


def _line(version: VersionView) -> str:
    kind = version["kind"] + (" fua" if version["fua"] else "") + (" meta" if version["meta"] else "")
    line = "present" if version["present"] else "taken back"
    if version["target"] is not None:
        line += f", to #{version['target']}"
    return (f"#{version['seq']:<9}  {local(version['ts_ns']):<35}  {kind:<10}  {version['offset']:>16}  "
            f"{approx_size(version['length']):>12}  {line}")
