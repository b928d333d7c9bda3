"""The commands `cdp trace info`, `convert` and `formats`: a click group for cdp's command line, which runs on its own
too (main()). Errors leave as cdpcore.base.errors.CdpError; cdp.cli.base turns them into one line and an exit status.
Nothing heavy is imported before a command's body runs.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdp.trace.formats import FAMILIES, FORMATS, STAGES

if TYPE_CHECKING:
    from cdp.trace.reader import Trace

F = TypeVar("F", bound=Callable[..., Any])
EXIT_STATUS = (
    ("0", "done"),
    ("2", "the trace is malformed (the message says file, line, column), or the command line is wrong"),
    ("3", "no such file"),
    ("6", "no space for what is written"),
    ("8", "a file cannot be read or written"),
    ("130", "interrupted by the user"),
)


class TraceCommand(click.Command):
    """A command whose help ends with examples and exit statuses."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _epilog(self.examples, formatter)


class TraceGroup(click.Group):
    """The same, for the group."""

    examples = (("cdp trace info prxy_0.csv.gz", "what is in it"),
                ("cdp trace convert homes.blkparse homes.iolog", "for fio --read_iolog"),
                ("cdp trace formats", "what can be read"))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _epilog(self.examples, formatter)


def _epilog(examples: Sequence[tuple[str, str]], formatter: click.HelpFormatter) -> None:
    with formatter.section("Examples"):
        for line, meaning in examples:
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")
            formatter.write(f"{'':{formatter.current_indent + 4}}{meaning}\n")
    with formatter.section("Exit status"):
        formatter.write_dl(EXIT_STATUS)


@click.group("trace", cls=TraceGroup, short_help="Look into block traces and convert them.")
def trace() -> None:
    """Look into block traces and convert them.

    Formats are told from the content, .gz and .zst are read directly, and memory stays flat however long the trace.
    """


trace_group = trace  # for modules where `trace` is a Trace


def trace_options(command: F) -> F:
    """The options of everything that reads a trace, as keyword arguments of open_trace()."""
    for option in reversed((
        click.option("--format", "-f", "format", metavar="F", help="Format or family; default: told from the content."),
        click.option("--skip-bad", is_flag=True, help="Count malformed lines and records and go on."),
        click.option("--stage", type=click.Choice(list(STAGES)),
                     help="blkparse, blktrace: the action that counts as a request; default D, else C, else Q."),
        click.option("--assume", type=click.Choice(["read", "write"]), default="write", show_default=True,
                     help="What requests are in a format without operations (oracle-general)."),
        click.option("--separate", is_flag=True, help="Devices of different files differ, whatever their names."),
        click.option("--align", type=click.Choice(["clock", "start"]), default="clock", show_default=True,
                     help="Several traces: times as they are, or each from its first record."),
    )):
        command = option(command)
    return command


def opened(paths: Sequence[str], options: dict[str, Any]) -> Trace:
    """The trace that the options of trace_options ask for."""
    from cdp.trace.model import Kind
    from cdp.trace.reader import open_trace

    return open_trace(list(paths), **(options | {"assume": Kind[options["assume"].upper()]}))


def wants_json(given: bool) -> bool:
    """--json of the command, or of cdp itself where the group is mounted there."""
    context = click.get_current_context(silent=True)
    return given or bool(context and getattr(context.find_root().obj, "as_json", False))


@trace.command("info", cls=TraceCommand, short_help="Show what is in a trace.", examples=(
    ("cdp trace info Financial1.spc.zst", "spans, counts, sizes, footprint, devices"),
    ("cdp trace info --plot load.png linux-mysql.load.gz", "with a picture of the rates over time"),
    ("cdp trace info --json sda.blktrace.* | jq .overwritten_share", "one file per CPU is one trace"),
    ("ssh host zcat huge.csv.gz | cdp trace info -", "through a pipe, in flat memory"),
))
@click.argument("paths", metavar="TRACE...", nargs=-1, required=True)
@trace_options
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N records.")
@click.option("--plot", "picture", metavar="OUT.png", help="Draw rates over time and request sizes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def info_command(paths: tuple[str, ...], limit: int | None, picture: str | None, as_json: bool, **options: Any) -> None:
    """Show what is in a trace: format, span, counts by kind, sizes, footprint, overwritten share, devices.

    Several files are read as one trace, by time: the days or disks of a trace, or blktrace's file per CPU.
    The footprint is exact up to a million separate places and an estimate beyond that; the report says which.
    """
    from cdp.trace import plot, report
    from cdp.trace.info import collect

    with opened(paths, options) as found, progress_bar(found, "reading") as progress:
        info = collect(found, limit=limit, progress=progress)
    if picture:
        plot.save(info, picture)
    if wants_json(as_json):
        click.echo(json.dumps(info.to_json(), indent=2, ensure_ascii=False))
    else:
        click.echo(report.text(info), nl=False)


@trace.command("convert", cls=TraceCommand, short_help="Write a trace as a fio iolog or as CSV.", examples=(
    ("cdp trace convert linux-mysql.load.gz mysql.iolog", "an iolog of version 3"),
    ("fio --name=replay --read_iolog=mysql.iolog --replay_redirect=/dev/nbd0", "and what replays it"),
    ("cdp trace convert --to csv dump.vscsi.gz - | head", "CSV on standard output"),
))
@click.argument("paths", metavar="TRACE...", nargs=-1, required=True)
@click.argument("out", metavar="OUT")
@trace_options
@click.option("--to", "target", type=click.Choice(["fio", "csv"]), help="Default: by OUT's suffix; fio unless .csv.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N records.")
@click.option("--force", is_flag=True, help="Replace OUT; it stays as it was until the new one is complete.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON (on standard error if OUT is -).")
def convert_command(paths: tuple[str, ...], out: str, target: str | None, limit: int | None, force: bool, as_json: bool,
                    **options: Any) -> None:
    """Write a trace as a fio iolog (version 3) or as CSV; OUT - is standard output.

    An iolog has no word for zeroing (it becomes a write), for FUA and preflush (dropped), for requests of no bytes and
    for requests that the trace does not name (left out): what changed is counted. The CSV keeps all of them.
    """
    from cdp.cli.output import standard_output
    from cdp.trace.convert import convert

    stdout = standard_output() if out == "-" else None
    with opened(paths, options) as found, progress_bar(found, "converting") as progress:
        done = convert(found, out, "csv" if target == "csv" else "fio" if target else None, force=force, limit=limit,
                       progress=progress, stdout=stdout)
    if wants_json(as_json):
        click.echo(json.dumps(done.to_json(), indent=2, ensure_ascii=False), err=out == "-")
        return
    click.echo(f"{out}: {done.records:,} records", err=True)
    for count, what in ((done.left_out, "left out: no bytes, or of a kind that the trace does not name"),
                        (done.zeroes_as_writes, "zeroing requests became writes"),
                        (done.flags_dropped, "carried FUA or preflush, which an iolog cannot say"),
                        (done.held_back, "were earlier than one before them and are given its time"),
                        (done.bad, f"malformed: passed over; the first: {done.first_bad}")):
        if count:
            click.echo(f"  {count:,} {what}", err=True)


@trace.command("formats", cls=TraceCommand, short_help="List the formats that are known.", examples=(
    ("cdp trace formats", "names for --format"),
    ("cdp trace formats --json | jq -r '.[].name'", "for scripts"),
))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def formats_command(as_json: bool) -> None:
    """List the formats that are known, with what their times count from and whether they hold data."""
    if wants_json(as_json):
        click.echo(json.dumps([{"name": f.name, "title": f.title, "clock": f.clock, "data": f.has_payload}
                               for f in FORMATS.values()], indent=2))
        return
    for f in FORMATS.values():
        click.echo(f"{f.name:<16}{f.clock:<10}{f.title}{', with data' if f.has_payload else ''}")
    click.echo("families: " + "; ".join(f"{family} = {' or '.join(members)}" for family, members in FAMILIES.items()))


@contextmanager
def progress_bar(source: Trace, what: str) -> Iterator[Callable[[int], None] | None]:
    """A bar with rate and time left on a terminal's standard error; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
               TextColumn("{task.fields[records]:,} records"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=source.stored_bytes, records=0)
        yield lambda records: bar.update(task, completed=source.done_bytes(), records=records)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the group as `cdp trace` does. Returns the exit status."""
    from cdp.cli import cli

    return cli.main(["trace", *(sys.argv[1:] if arguments is None else arguments)], standalone_mode=False) or 0
