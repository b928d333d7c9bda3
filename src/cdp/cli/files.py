"""files: what a directory contains at a moment, without mounting it."""
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from cdp.cli import cli
from cdp.cli.base import POINT_EXITS, State, command, emit, note
from cdp.cli.refs import volume_and_point
from cdp.service.files_at import entry_view, files_at, text_of
from cdp.text.timestamps import local
from cdp.views import MomentView, Service

if TYPE_CHECKING:
    from cdp.files.model import Entry
    from cdp.files.session import Files

LETTERS = {"fifo": "p", "char": "c", "directory": "d", "block": "b", "file": "-", "symlink": "l", "socket": "s"}


def partition_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--partition", metavar="N", type=click.IntRange(1, 1024),
                        help="Of a disk with partitions; default: the only one that can be read.")(function)


@command(cli, "files", examples=[
    ("cdp files web@-1h /etc", "what was in /etc an hour ago"),
    ("cdp files web@before-upgrade /srv --recursive --json", "with all that is below, as JSON"),
    ("cdp files web@-1d --partition 2", "of a disk with partitions"),
], exit_codes=POINT_EXITS)
@click.argument("volume_at_point", metavar="VOLUME[@POINT]")
@click.argument("path", default="/")
@click.option("--recursive", is_flag=True, help="Also what is below.")
@partition_option
def files(state: State, volume_at_point: str, path: str, recursive: bool, partition: int | None) -> None:
    """List the files of a moment.

    Nothing is mounted: an ext2, ext3 or ext4 file system is read where it is, as it would be after a crash at that
    moment: committed transactions of its journal are applied, in memory. It is read by a process without rights, so
    that a damaged or hostile file system does no harm. Without @POINT: now, as far as it is written to the disk.
    """
    with files_of(state, volume_at_point, "files", partition) as (found, moment, _):
        entry = found.stat(path)
        if entry.kind != "directory" and not recursive:
            entries = [found.stat(path)]
        else:
            entries = found.entries(path, recursive)
        about = found.about()
    if about["note"]:
        note(about["note"])
    emit(state, {"at": moment, "file_system": about["kind"], "partition": about["partition"], "note": about["note"],
                 "path": path, "entries": [entry_view(one) for one in entries]}, map(_line, entries))


@contextmanager
def files_of(state: State, volume_at_point: str, verb: str,
             partition: int | None) -> "Iterator[tuple[Files, MomentView, Service]]":
    """The files of VOLUME[@POINT], their moment, and the volume."""
    location, point = volume_and_point(volume_at_point, verb, default="now")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        moment = service.explain(point)["resolved"]
        with files_at(service, moment["seq"], partition) as found:
            yield found, moment, service


def printable(name: str) -> str:
    """For a terminal: what a name holds that is no letter is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text_of(name))


def _line(entry: "Entry") -> str:
    mode = LETTERS[entry.kind] + stat.filemode(entry.mode)[1:]
    target = "" if entry.target is None else f" -> {printable(entry.target)}"
    return (f"{mode} {entry.links:>3} {entry.uid:>5} {entry.gid:>5} {entry.size_bytes:>12}  "
            f"{local(entry.mtime_ns)}  {printable(entry.name)}{target}")
