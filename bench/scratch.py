"""Where a benchmark puts its files, and that nothing stays behind: files, sockets and processes.

Invariant: whatever ends the run (an error, Ctrl-C, SIGTERM, SIGHUP), processes are stopped first and then the files go.
SIGKILL leaves both; the folder's name, printed at the start, says what to remove then.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

from cdp.bench.place import undisturbed

STOP_SECONDS = 15.0
RESERVE_BYTES = 2 << 30  # of the device is left alone


class NoSpace(Exception):
    """The device cannot take what a benchmark would write."""


class Scratch:
    """A folder for data, and a short-named one for sockets (a socket's path has at most some 100 bytes)."""

    def __init__(self, data: Path, sockets: Path):
        self.data = data
        self.sockets = sockets

    def need(self, size_bytes: int, what: str) -> None:
        """Raises NoSpace unless so much fits, with a reserve."""
        free = shutil.disk_usage(self.data).free
        if free < size_bytes + RESERVE_BYTES:
            raise NoSpace(
                f"{what} needs {size_bytes / 2**30:.1f} GiB and {RESERVE_BYTES >> 30} GiB to spare; {self.data} has "
                f"{free / 2**30:.1f} GiB: give another --dir, or make it smaller"
            )

    def folder(self, name: str) -> Path:
        path = self.data / name
        path.mkdir()
        return path


@contextlib.contextmanager
def scratch(directory: Path | None) -> Iterator[Scratch]:
    """A new folder below `directory` (None: /var/tmp, which unlike /tmp is on a disk almost everywhere)."""
    if directory is None:
        directory = Path("/var/tmp") if os.access("/var/tmp", os.W_OK) else Path(tempfile.gettempdir())
    with contextlib.ExitStack() as stack:
        data = Path(tempfile.mkdtemp(prefix="cdp-bench-", dir=directory))
        stack.callback(_remove, data)
        sockets = Path(tempfile.mkdtemp(prefix="cdpb-"))
        stack.callback(_remove, sockets)
        yield Scratch(data, sockets)


def _remove(path: Path) -> None:
    with undisturbed():
        shutil.rmtree(path, ignore_errors=True)


def settle_files(path: Path, drop: bool = False) -> None:
    """Sync a file, or all files of a folder; `drop`: also take them out of the page cache, where the system can.

    Dropping is what makes a plain file fair: one that was filled or read with long requests lies in the page cache
    in large folios, and ext4 (Linux 6.18) then takes 30 us a random 4 KiB write instead of 1.2 us.
    """
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        with contextlib.suppress(FileNotFoundError):  # a merge removed it
            fd = os.open(file, os.O_RDONLY)
            try:
                os.fsync(fd)
                if drop and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


@contextlib.contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does: through every `finally`. Main thread only."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before: dict[int, Any] = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def process(
    command: list[str], *, stdout: int | IO[Any] | None = None, stderr: int | IO[Any] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A child in a session of its own (Ctrl-C reaches us, not it), gone at the end of the block: asked, then killed."""
    child = None
    try:
        with undisturbed():
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )
        yield child
    finally:
        if child is not None:
            with undisturbed():
                _end(child)


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    # Also its children (fio has some), whether or not it lives.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
