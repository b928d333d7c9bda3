"""A terminal that a command takes over for a while: its other screen, and keys one at a time.

Invariant: whatever ends the block, an error, Ctrl-C or SIGTERM, the terminal is as it was before.
Main thread only.
"""
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cdp.cli.output import put

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"      # the other screen, no cursor, no wrapping of long lines
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
UP, DOWN, QUIT = "up", "down", "quit"
KEYS = {b"q": QUIT, b"Q": QUIT, b"\x03": QUIT, b"\x04": QUIT, b"\x1b[A": UP, b"k": UP, b"\x1b[B": DOWN, b"j": DOWN}


class Screen:
    """Made by taken_over()."""

    def __init__(self) -> None:
        self._typed = b""

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        return shutil.get_terminal_size()

    def show(self, lines: list[str]) -> None:
        """The whole screen; what is too much for it is cut off."""
        rows = self.size()[1]
        put("\x1b[H" + "\x1b[K\n".join(lines[: rows - 1]) + "\x1b[K\x1b[J", end="")

    def key(self, seconds: float) -> str | None:
        """UP, DOWN or QUIT; another key: "". None: nothing came in so much time. QUIT also where input ended."""
        if not self._typed:
            if not select.select([sys.stdin], [], [], max(seconds, 0))[0]:
                return None
            self._typed = os.read(sys.stdin.fileno(), 64)
            if not self._typed:
                return QUIT
        for code, key in KEYS.items():
            if self._typed.startswith(code):
                self._typed = self._typed[len(code):]
                return key
        self._typed = self._typed[1:]
        return ""


@contextmanager
def taken_over() -> Iterator[Screen]:
    """Standard input and output are a terminal."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGTERM, end)
    try:
        tty.setcbreak(fd)
        put(ENTER, end="")
        yield Screen()
    finally:
        signal.signal(signal.SIGTERM, handler)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        put(LEAVE, end="")
