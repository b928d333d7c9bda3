"""SIGTERM and SIGINT of a process that serves: it stops, from the first moment on. Main thread only; elsewhere the caller stops it."""
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """While it lasts each of STOP_SIGNALS calls `stop`, at once if an interrupt came while the program was loaded with SIGINT ignored
    (cdp.__main__.Ignored)."""
    with ExitStack() as handlers:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                before = signal.signal(number, lambda _number, _frame: stop())
                handlers.callback(signal.signal, number, before)
                if getattr(before, "came", False):
                    stop()
        yield
