"""The group `cdp trace`, and what all commands that read a trace share: its options, and opening it.

Reading one needs the extra `replay` (cdp.cli.extras).
"""
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdp.cli import cli, exits
from cdp.cli.base import CdpGroup
from cdp.trace.formats import STAGES

if TYPE_CHECKING:
    from cdp.cli.progress import Progress
    from cdp.trace.reader import Trace

F = TypeVar("F", bound=Callable[..., Any])
TRACE_EXITS = (exits.OK, exits.USAGE, exits.NOT_FOUND, exits.NO_SPACE, exits.UNAVAILABLE, exits.INTERRUPTED)
TRACE_OPTIONS = ("format", "columns", "skip_bad", "stage", "assume", "separate", "align")


@cli.group("trace", cls=CdpGroup, examples=[
    ("cdp trace info prxy_0.csv.gz", "what is in it"),
    ("cdp trace info msr.tar/usr_0.csv.gz", "one of an archive"),
    ("cdp trace convert homes.blkparse homes.iolog", "for fio --read_iolog"),
    ("cdp trace formats", "what can be read"),
], exit_codes=TRACE_EXITS)
def trace() -> None:
    """Look into block traces and convert them.

    The format is recognized by the content, and memory stays flat however long the trace. .gz, .zst, .xz and .bz2 are
    read directly; a .tar or .zip stands for the traces in it, ARCHIVE/NAME for one of them.
    """


def trace_options(command: F) -> F:
    """The options of everything that reads a trace, as keyword arguments of open_trace()."""
    for option in reversed((
        click.option("--format", "-f", "format", metavar="F",
                     help="Format or family; default: recognized by the content."),
        click.option("--columns", metavar="SPEC",
                     help="Any other table of text: which column holds what, such as time=2:us,op=4,offset=5:bytes,"
                          "size=6 (columns from 1; offset and size in bytes, sectors or units of N bytes, time in s, "
                          "ms, us or ns, then :utc if since 1970; op=4:0=read:1=write for other words)."),
        click.option("--skip-bad", is_flag=True, help="Count malformed lines and records and go on."),
        click.option("--stage", type=click.Choice(list(STAGES)),
                     help="blkparse, blktrace: the action that counts as a request; default: for each device D, "
                          "else C, else Q, else I."),
        click.option("--assume", type=click.Choice(["read", "write"]), default="write", show_default=True,
                     help="What requests are in a format without operations (oracle-general, --columns without op)."),
        click.option("--separate", is_flag=True, help="Devices of different files differ, whatever their names."),
        click.option("--align", type=click.Choice(["clock", "start"]), default="clock", show_default=True,
                     help="Several traces: times as they are, or each from its first record."),
    )):
        command = option(command)
    return command


def opened(paths: Sequence[str], options: dict[str, Any]) -> "Trace":
    """The trace that the options of trace_options ask for."""
    from cdp.trace.model import Kind
    from cdp.trace.reader import open_trace

    return open_trace(list(paths), **(options | {"assume": Kind[options["assume"].upper()]}))


def counter(progress: "Progress", trace: "Trace") -> Callable[[int], None] | None:
    """What shows the records read so far; None where nobody sees it."""
    if not progress.shown:
        return None
    return lambda records: progress.at(trace.done_bytes(), text=f"{records:,} records")
