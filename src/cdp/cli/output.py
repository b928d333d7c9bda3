"""Data on standard output: what `export -` and `trace convert ... -` write there.

Text goes through click.echo; a reader that has gone away ends either way in cdp.cli.base.report(), with exit status
141.
"""
import io
import os
import select
import sys
from typing import Any

import click

from cdpcore.base.errors import InvalidRequest


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
        return size


def standard_output() -> StandardOutput:
    """Where data goes that the user wants on standard output. Raises InvalidRequest where that was closed at the
    start."""
    context = click.get_current_context(silent=True)
    if sys.stdout is None or getattr(context and context.find_root().obj, "no_stdout", False):
        raise InvalidRequest("standard output is closed", "write to a file or a pipe")
    return StandardOutput()
