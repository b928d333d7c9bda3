"""The commands `cdp trace info`, `cdp trace convert` and `cdp trace formats`: a click group for the command line, and
`python -m cdp.trace` on its own. Errors leave as cdpcore.errors.CdpError; whoever runs the group turns them into a
message and an exit status (main() here, cdp's own main there)."""
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from cdp.trace.formats import FAMILIES, FORMATS, STAGES
from cdp.trace.model import Kind
from cdp.trace.reader import Trace, open_trace
from cdpcore.errors import CdpError

F = TypeVar("F", bound=Callable[..., Any])
_EXIT = """
\b
EXIT STATUS
  0  done
  2  the trace or the request is wrong (the message says file, line, column); or usage
  3  a file does not exist
  8  a file or device cannot be read or written
  130  interrupted
"""


@click.group("trace", epilog=_EXIT)
def trace_group() -> None:
    """Look into block traces and convert them.

    Formats are told from the content, .gz and .zst are read directly, and memory stays flat however long the trace.

    \b
    EXAMPLES
      cdp trace info prxy_0.csv.gz
      cdp trace info --plot load.png linux-mysql.load.gz
      cdp trace convert homes.blkparse homes.iolog
      cdp trace formats
    """


def trace_options(command: F) -> F:
    """The options of everything that reads a trace, as keyword arguments of open_trace()."""
    for option in reversed((
        click.option("--format", "-f", "format", metavar="F", help="Format or family; default: told from the content."),
        click.option("--skip-bad", is_flag=True, help="Count malformed lines and records and go on."),
        click.option("--stage", type=click.Choice(list(STAGES)),
                     help="blkparse, blktrace: the action that counts as a request; default D, else C, else Q."),
        click.option("--assume", type=click.Choice(["read", "write"]), default="write", show_default=True,
                     help="What requests are in a format without operations (oracle-general)."),
        click.option("--separate", is_flag=True, help="Devices of different files are different, whatever their names."),
        click.option("--align", type=click.Choice(["clock", "start"]), default="clock", show_default=True,
                     help="Several traces: times as they are, or each from its first record."),
    )):
        command = option(command)
    return command


def opened(paths: tuple[str, ...], options: dict[str, Any]) -> Trace:
    """The trace that the options of trace_options ask for."""
    options = dict(options)
    options["assume"] = Kind[options["assume"].upper()]
    return open_trace(list(paths), **options)


@trace_group.command("info", epilog=_EXIT)
@click.argument("paths", metavar="TRACE...", nargs=-1, required=True)
@trace_options
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N records.")
@click.option("--plot", "picture", metavar="OUT.png", help="Draw rates over time and request sizes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def info_command(paths: tuple[str, ...], limit: int | None, picture: str | None, as_json: bool, **options: Any) -> None:
    """What is in a trace: format, span, counts by kind, sizes, footprint, overwritten share, devices.

    Several files are read as one trace, by time: the days or disks of a trace, or blktrace's file per CPU.

    \b
    EXAMPLES
      cdp trace info Financial1.spc.zst
      cdp trace info --json trace.blktrace.* | jq .overwritten_share
      zcat huge.csv.gz | cdp trace info --format alibaba -

    The footprint is exact up to 4 million separate places and an upper bound beyond that; the report says which.
    """
    from cdp.trace import plot, report
    from cdp.trace.info import collect

    with opened(paths, options) as trace, progress_bar(trace, "reading") as progress:
        found = collect(trace, limit=limit, progress=progress)
    if picture:
        plot.save(found, picture)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        report.show(found)


@trace_group.command("convert", epilog=_EXIT)
@click.argument("paths", metavar="TRACE...", nargs=-1, required=True)
@click.argument("out", metavar="OUT")
@trace_options
@click.option("--to", "target", type=click.Choice(["fio", "csv"]), help="Default: by OUT's suffix; fio unless .csv.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N records.")
@click.option("--force", is_flag=True, help="Replace OUT; it stays as it was until the new one is complete.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object about the conversion (on standard error, if OUT is -).")
def convert_command(paths: tuple[str, ...], out: str, target: str | None, limit: int | None, force: bool, as_json: bool,
                    **options: Any) -> None:
    """Write a trace as a fio iolog (version 3) or as CSV; OUT - is standard output.

    \b
    EXAMPLES
      cdp trace convert linux-mysql.load.gz mysql.iolog
      fio --name=replay --read_iolog=mysql.iolog --replay_redirect=/dev/nbd0
      cdp trace convert --to csv dump.vscsi.gz - | head

    An iolog has no word for zeroing (it becomes a write), FUA and preflush (dropped), requests of no bytes and
    requests that the trace does not name (left out): what changed is counted. The CSV keeps all of them.
    """
    from cdp.trace import convert

    with opened(paths, options) as trace, progress_bar(trace, "converting") as progress:
        done = convert.convert(trace, out, target, force=force, limit=limit, progress=progress)  # type: ignore[arg-type]
    if as_json:
        click.echo(json.dumps(done.to_json()), err=out == "-")
        return
    click.echo(f"{out}: {done.records:,} records", err=True)
    for count, what in ((done.left_out, "left out: no bytes, or of a kind that the trace does not name"),
                        (done.zeroes_as_writes, "zeroing requests became writes"),
                        (done.flags_dropped, "carried FUA or preflush, which an iolog cannot say"),
                        (done.held_back, "were earlier than one before them and are given its time"),
                        (done.bad, f"malformed: passed over; the first: {done.first_bad}")):
        if count:
            click.echo(f"  {count:,} {what}", err=True)


@trace_group.command("formats")
@click.option("--json", "as_json", is_flag=True, help="A JSON array on standard output.")
def formats_command(as_json: bool) -> None:
    """The formats that are known, with their clock and whether they hold data.

    \b
    EXAMPLES
      cdp trace formats
      cdp trace formats --json | jq -r '.[].name'
    """
    if as_json:
        click.echo(json.dumps([{"name": f.name, "title": f.title, "clock": f.clock, "data": f.has_payload}
                               for f in FORMATS.values()]))
        return
    for f in FORMATS.values():
        click.echo(f"{f.name:<16}{f.clock:<10}{f.title}{', with data' if f.has_payload else ''}")
    click.echo("families: " + "; ".join(f"{family} = {' or '.join(members)}" for family, members in FAMILIES.items()))


@contextmanager
def progress_bar(trace: Trace, what: str) -> Iterator[Callable[[int], None] | None]:
    """A bar with rate and time left on a terminal's standard error; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
               TextColumn("{task.fields[records]:,} records"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=trace.stored_bytes, records=0)
        yield lambda records: bar.update(task, completed=trace.done_bytes(), records=records)


def main(arguments: list[str] | None = None) -> int:
    """Runs the group alone. Returns the exit status."""
    try:
        trace_group.main(arguments, prog_name="cdp trace", standalone_mode=False)
    except CdpError as error:
        click.echo(f"cdp trace: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("cdp trace: interrupted", err=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return 0
