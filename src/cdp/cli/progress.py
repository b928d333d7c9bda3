"""A progress bar on standard error, only where that is a terminal; else nothing at all.

Work is counted in any unit (bytes, records), of which the total is known or not. Calls come from one thread.
"""
import shutil
import sys
import time
from types import TracebackType
from typing import Self

from cdp.cli.output import say

REDRAW_SECONDS = 0.1
BAR_CELLS = 30


class Progress:
    """`with Progress("checking web") as progress: progress.at(done, total)`."""

    def __init__(self, title: str, total: int | None = None, quiet: bool = False):
        self.shown = not quiet and sys.stderr.isatty()
        self._title, self._total = title, total
        self._began_s = self._due_s = 0.0

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        return self

    def at(self, done: int, total: int | None = None, text: str = "") -> None:
        """`done` of `total` (or of the total given first) is done; `text`: more about it, such as a rate."""
        if total is not None:
            self._total = total
        now_s = time.monotonic()
        if self.shown and now_s >= self._due_s:
            self._due_s = now_s + REDRAW_SECONDS
            line = self._line(done, text, now_s - self._began_s)
            say(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K", end="")

    def _line(self, done: int, text: str, spent_s: float) -> str:
        parts = [self._title]
        if self._total:
            share = min(done / self._total, 1.0)
            parts.append(f"[{'#' * round(share * BAR_CELLS):.<{BAR_CELLS}}] {share:4.0%}")
        if text:
            parts.append(text)
        parts.append(_clock(spent_s))
        if self._total and done:
            parts.append(f"{_clock(spent_s * max(self._total - done, 0) / done)} left")
        return "  ".join(parts)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._due_s:
            say("\r\x1b[K", end="")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
