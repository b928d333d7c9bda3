"""window, explain, bookmark, bookmarks and records: which moments there are, and what they are called."""
import json
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import POINT_EXITS, VOLUME_EXITS, WRITE_EXITS, State, command, emit, fields, note, table
from cdp.cli.refs import volume_and_point, volume_only
from cdp.text.sizes import approx_size
from cdp.text.timestamps import local, local_utc_and_age
from cdpcore.base.errors import InvalidRequest

if TYPE_CHECKING:
    from cdp.views import ExplanationView, MomentView, RecordView

RECORDS_PAGE = 10_000


def moment_text(moment: "MomentView") -> str:
    """`#123  2026-11-23T11:00:00.1+01:00 (10:00:00.1Z, 5 s ago)`."""
    return f"#{moment['seq']}  {local_utc_and_age(moment['ts_ns'])}"


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
    emit(state, got, fields(f"{volume}: any moment from the oldest to the newest can be opened", pairs))


@command(cli, "explain", examples=[
    ("cdp explain web@-10m", "which write was the last one ten minutes ago"),
    ("cdp explain web@2026-11-23T10:00:00Z", "the same for a time; a time without a zone is local"),
    ("cdp explain 'web@#4711'", "by sequence number; quote the # for the shell"),
], exit_codes=POINT_EXITS)
@click.argument("volume_at_point", metavar="VOLUME@POINT")
def explain(state: State, volume_at_point: str) -> None:
    """Say how a point is understood, without opening it."""
    location, point = volume_and_point(volume_at_point, "explain")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        got = service.explain(point)
    emit(state, got, fields(volume_at_point, explanation_pairs(got)))


def explanation_pairs(got: "ExplanationView") -> list[tuple[str, str]]:
    """How a point was understood, in plain words."""
    resolved, following, flushed = got["resolved"], got["next"], got["last_flush"]
    pairs = []
    if got["asked_ts_ns"] is not None:
        pairs.append(("you asked for", local_utc_and_age(got["asked_ts_ns"])))
    how = {"now": ", the newest record", "seq": "", "bookmark": ", which the bookmark names"}
    what = how.get(got["kind"], ", the last record at or before it")
    if resolved["seq"] == 0:
        what = ", the volume as it was made"
    pairs.append(("it means", f"#{resolved['seq']}{what}, {local_utc_and_age(resolved['ts_ns'])}"))
    if following is None:
        pairs.append(("next record", "none: this is the newest state"))
    else:
        later = _span(following["ts_ns"] - resolved["ts_ns"])
        pairs.append(("next record", f"#{following['seq']}, {later} later, {local_utc_and_age(following['ts_ns'])}"))
    if got["flush_durable"]:
        pairs.append(("durable", "yes: all of it had been flushed"))
    elif flushed is None:
        pairs.append(("durable", "no: nothing had been flushed by then"))
    else:
        last = f"#{flushed['seq']}, {local_utc_and_age(flushed['ts_ns'])}"
        pairs.append(("durable", f"no: there were writes after the last flush, which was {last}"))
    return pairs


def _span(ns: int) -> str:
    for unit, scale in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if ns >= scale:
            return f"{ns / scale:.3g} {unit}" if ns < 1000 * scale else f"{ns // scale} {unit}"
    return f"{ns} ns"


@command(cli, "bookmark", examples=[
    ("cdp bookmark web before-upgrade", "name the state of now"),
    ("cdp bookmark web lunch --at 12:30", "name a moment of the past; the same as: cdp bookmark web@12:30 lunch"),
    ("cdp bookmark web lunch --delete", "take the name away; the history stays"),
], exit_codes=WRITE_EXITS)
@click.argument("volume", metavar="VOLUME[@POINT]")
@click.argument("name")
@click.option("--at", "at", metavar="POINT", help="The moment to name; default: now.")
@click.option("--delete", is_flag=True, help="Take the bookmark away.")
def bookmark(state: State, volume: str, name: str, at: str | None, delete: bool) -> None:
    """Give a moment a name."""
    location, point = volume_and_point(volume, "bookmark", default="")
    if point and at:
        raise InvalidRequest("the point is given twice", f"leave off --at {at} or @{point}")
    if delete and (point or at):
        raise InvalidRequest("--delete takes no point", f"write cdp bookmark {location.text} {name} --delete")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        if delete:
            gone = next((mark for mark in service.bookmarks() if mark["name"] == name), None)
            service.delete_bookmark(name)
            emit(state, {"deleted": name, "at": gone["at"] if gone else None},
                 f"{location.text}: bookmark {name} is gone")
            if gone:
                note(f"to have it back: cdp bookmark {location.text} {name} --at '#{gone['at']['seq']}'")
            return
        made = service.bookmark(name, at=point or at or "now")
    emit(state, made, fields(f"{location.text}: bookmark {made['name']}", [("names", moment_text(made["at"]))]))


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
         f"{volume}: no bookmarks; 'cdp bookmark {volume} NAME' makes one")


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
        until = f"#{service.explain(until)['resolved']['seq']}"  # the list does not run after a busy writer
        head = None if state.as_json else f"{'SEQ':<10}  {'TIME':<35}  {'KIND':<10}  {'OFFSET':>16}  {'LENGTH':>12}"
        while True:
            page = service.records(since=since, until=until, limit=min(left or RECORDS_PAGE, RECORDS_PAGE))
            if head:
                click.echo(head)
                head = None
            for record in page["records"]:
                click.echo(json.dumps(record) if state.as_json else _record_line(record))
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
