"""`cdp` and `python -m cdp`: the command line, and what an interrupt does around it.

Loading takes a tenth of a second, and a command loads more when it begins. An interrupt in the midst of an import would
show a traceback, be swallowed by code that tries one import after another, or leave the import lock taken. While the
command line is loaded nothing has begun, so the process ends at once, with one line; a command that loads more may have
something to take back, and is interrupted as soon as the import is through, or at once by a second interrupt. It ends
at once also when the command is done and the interpreter shuts down, and where Python would only print an exception (in
a __del__, or in a callback). Else an interrupt is a KeyboardInterrupt, as usual, or what the command makes of it. (What
Python loads before this file is beyond us.)

A shell starts background jobs with SIGINT ignored. Commands keep it so, to the end: the interpreter, as it shuts down,
sets the default action, which ends the process, for every signal that has a handler of ours. Servers end by SIGINT all
the same, so an interrupt that comes while they load is remembered (Ignored, cdp.ipc.stop_signals). Main thread only.
"""
import _signal as signal  # type: ignore[import-not-found]  # `signal` would load half a dozen modules first
import os
import sys

TYPE_CHECKING = False       # typing would load more still
if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130           # cdp.cli.exits, which is not loaded yet
LOOK_AGAIN_S = 0.01
command_begins = False
IMPORTING = "<frozen importlib._bootstrap>"


def _end(_number: int = 0, _frame: "FrameType | None" = None) -> "NoReturn":
    os.write(2, b"cdp: error: interrupted\n")
    os._exit(INTERRUPTED)


def _importing(frame: "FrameType | None") -> bool:
    while frame is not None and frame.f_code.co_filename != IMPORTING:
        frame = frame.f_back
    return frame is not None


def _interrupt(_number: int, frame: "FrameType | None") -> None:
    if not _importing(frame):
        raise KeyboardInterrupt
    if not command_begins or signal.getsignal(signal.SIGALRM) is _again:
        _end()      # there is nothing to take back; or this is not the first
    signal.signal(signal.SIGALRM, _again)
    signal.setitimer(signal.ITIMER_REAL, LOOK_AGAIN_S)


def _again(_number: int, frame: "FrameType | None") -> None:
    """Some time after an interrupt came in the midst of an import."""
    if _importing(frame):
        signal.setitimer(signal.ITIMER_REAL, LOOK_AGAIN_S)
    elif signal.getsignal(signal.SIGINT) is _interrupt:
        raise KeyboardInterrupt
    else:
        signal.raise_signal(signal.SIGINT)      # a server has a handler of its own by now


class Ignored:
    """The handler where SIGINT was ignored when the process began. `came`: whether there was one."""

    came = False

    def __call__(self, _number: int, _frame: "FrameType | None") -> None:
        self.came = True


def _unraisable(what: "UnraisableHookArgs") -> None:
    if what.exc_type is KeyboardInterrupt:
        _end()
    sys.__unraisablehook__(what)


def main() -> None:
    """Entry point of the `cdp` script."""
    global command_begins
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        sys.unraisablehook = _unraisable
        signal.signal(signal.SIGINT, _interrupt)
    elif before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, Ignored())
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        # numpy's, which reads it when it is loaded: nobody here multiplies matrices; 40 ms on two cores. Not in
        # os.environ, which commands get that users give: theirs may multiply some.
        os.putenv("OPENBLAS_NUM_THREADS", "1")
    try:
        from cdp.cli import cli

        command_begins = True
        cli()
    except KeyboardInterrupt:   # beside the command: before it began, or while its error was printed
        _end()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        after = signal.getsignal(signal.SIGINT)
        if after is _interrupt:
            signal.signal(signal.SIGINT, _end)
        elif isinstance(after, Ignored):
            signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
