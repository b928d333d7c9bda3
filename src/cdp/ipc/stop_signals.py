"""The signals that end a process that serves: it stops in order, from the first moment on.

SIGTERM, SIGINT, SIGQUIT, and SIGHUP unless it was ignored when the process began (nohup): a terminal that is closed
must not cost what was acknowledged. Main thread only; in another thread the caller stops what it runs.
"""
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


@contextmanager
def stop_on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """While it lasts each of STOP_SIGNALS calls `stop`, at once if an interrupt came while the program was loaded with
    SIGINT ignored (cdp.__main__.Ignored)."""
    with ExitStack() as handlers:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                before = signal.signal(number, lambda _number, _frame: stop())
                handlers.callback(signal.signal, number, before)
                if getattr(before, "came", False):
                    stop()
        yield


def ignore_if_ignored() -> None:
    """Before a command that does not serve starts another program: SIGINT, where it was ignored when this process
    began, is ignored again and so by that program. A handler (cdp.__main__.Ignored) would be the default action there.
    Main thread only; elsewhere it does nothing."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal.getsignal(signal.SIGINT), "came"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave_to_parent() -> None:
    """A helper process ends when its parent says so or is gone: what a terminal sends to every process of a job is not
    for it. SIGTERM keeps its effect."""
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
