"""`cdp` and `python -m cdp`: the command line, and what an interrupt does around it.

Loading takes a tenth of a second, and a command loads more when it begins. An interrupt in the midst of an import would show a traceback,
be swallowed by whoever tries one import after another, or leave the import lock taken; nothing has begun then, so the process ends at
once, with one line. So it does when the command is done and the interpreter takes itself apart. Else an interrupt is a
KeyboardInterrupt, as usual, or what the command makes of it. (What Python loads before this file is beyond us.)
Main thread only.
"""
import _signal as signal  # type: ignore[import-not-found]  # below `signal`, which would load half a dozen modules first
import os

TYPE_CHECKING = False       # typing would load more still
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130           # cdp.cli.exits, which is not loaded yet
IMPORTING = "<frozen importlib._bootstrap>"


def _end(_number: int = 0, _frame: "FrameType | None" = None) -> "NoReturn":
    os.write(2, b"cdp: error: interrupted\n")
    os._exit(INTERRUPTED)


def _interrupt(_number: int, frame: "FrameType | None") -> None:
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            _end()
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the `cdp` script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:   # a shell has what it starts in the background ignore it
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from cdp.cli import cli

        cli()
    except KeyboardInterrupt:   # beside the command: before it began, or while its error was told
        _end()
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, _end)


if __name__ == "__main__":
    main()
