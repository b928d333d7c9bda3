"""A progress bar on standard error, only where that is a terminal; else nothing at all.

Work is told in any unit (bytes, records) of which the total is known or not. Calls come from one thread.
"""
import sys
from types import TracebackType
from typing import Any, Self


class Progress:
    """`with Progress("checking web") as progress: progress.at(done, total)`."""

    def __init__(self, title: str, total: int | None = None, quiet: bool = False):
        self._title, self._total = title, total
        self._shown = not quiet and sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._shown:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                TaskProgressColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
                                 TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True),
                                 transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total)
        return self

    def at(self, done: int, total: int | None = None) -> None:
        """`done` of `total` (or of the total given first) is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, **({} if total is None else {"total": total}))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
