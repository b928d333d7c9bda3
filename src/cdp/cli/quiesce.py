"""A command before a moment is made, and one after it, as fsfreeze and its opposite: the second always runs.

It is the work of a shell of its own, which waits for this process to say so, to end, or to be killed: then it runs the
command. It runs at the latest when the time limit is over, whatever this process waits for.
"""
from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from cdpcore.base.errors import Unavailable

AFTER = 'read -r _; exec sh -c "$1" </dev/null'


@contextmanager
def quiesced(before: str | None, after: str | None, limit_s: float,
             variables: Mapping[str, str]) -> Iterator[Callable[[], bool]]:
    """`before` is run, and at the end of the block, or after limit_s, `after`. What the block gets says whether that
    has not begun yet. Raises Unavailable where a command fails, or takes longer than limit_s; it is killed then."""
    environ = {**os.environ, **variables}
    guard: subprocess.Popen[bytes] | None = None
    late = threading.Event()
    if after is not None:
        # A session of its own: an interrupt from the terminal is not for it.
        guard = subprocess.Popen(["sh", "-c", AFTER, "cdp-after", after], stdin=subprocess.PIPE, env=environ,
                                 start_new_session=True)

    def release() -> None:
        late.set()
        if guard is not None and guard.stdin is not None:
            with suppress(OSError):
                guard.stdin.close()

    timer = threading.Timer(limit_s, release)
    timer.daemon = True
    try:
        timer.start()
        if before is not None:
            command = subprocess.Popen(["sh", "-c", before], stdin=subprocess.DEVNULL, env=environ,
                                       start_new_session=True)
            _wait(command, "before", limit_s)
        yield lambda: not late.is_set()
    finally:
        timer.cancel()
        release()
        if guard is not None:
            _wait(guard, "after", limit_s)


def _wait(command: subprocess.Popen[bytes], which: str, limit_s: float) -> None:
    try:
        status = command.wait(limit_s)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        if command.poll() is None:      # too long, or we were interrupted
            os.killpg(command.pid, signal.SIGKILL)
            command.wait()
    if status is None:
        raise Unavailable(f"the command of --{which} took longer than {limit_s:g} s, and was killed",
                          "give it longer: --time-limit")
    if status:
        raise Unavailable(f"the command of --{which} failed with status {status}", "see what it printed")
