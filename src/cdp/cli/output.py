"""All that a command writes: results on standard output, as text (put) or as data (standard_output: `export -`,
`trace convert ... -`), and what is for people on standard error (say).

A result that cannot be written is an error of the command: cdp.cli.base.report() ends it, with exit status 141 where
its reader has gone away. What is only for people never is: neither an exit status nor a server depends on its reader.
"""
import contextlib
import io
import os
import select
import sys
from typing import Any

import click

from cdpcore.base.errors import InvalidRequest

NAME = "standard output"


def put(text: str, end: str = "\n") -> None:
    """Text on standard output, written at once. Raises OSError, which names it."""
    try:
        click.echo(text + end, nl=False)
    except OSError as error:
        error.filename = NAME
        raise


def say(text: str, end: str = "\n") -> None:
    """Text on standard error, if somebody reads it."""
    with contextlib.suppress(OSError):
        click.echo(text + end, nl=False, err=True)


def drop_unwritten() -> None:
    """At the end of a command: what could not be written is still buffered, and would fail again when Python ends,
    which then ends with a status of its own."""
    for fd, stream in (1, sys.stdout), (2, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


class StandardOutput(io.RawIOBase):
    """A writer of bytes onto standard output that takes every byte it is given. Raises OSError. One thread."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """All of `data`: a pipe takes what it has room for, also one that does not block."""
        try:
            fd = sys.stdout.fileno()
        except OSError:  # not a file: somebody collects it in memory
            return sys.stdout.buffer.write(data)
        view = memoryview(data).cast("B")
        size = len(view)
        while view:
            try:
                view = view[os.write(fd, view):]
            except BlockingIOError:
                select.select([], [fd], [])
            except OSError as error:
                error.filename = NAME
                raise
        return size


def standard_output() -> StandardOutput:
    """Where data goes that the user wants on standard output. Raises InvalidRequest where that was closed at the
    start."""
    context = click.get_current_context(silent=True)
    if sys.stdout is None or getattr(context and context.find_root().obj, "no_stdout", False):
        raise InvalidRequest(f"{NAME} is closed", "write to a file or a pipe")
    return StandardOutput()
