"""Where a benchmark puts its files: a folder of its own beside what is measured, free space, and the disks in it.

Invariant: whatever ends the block (an error, Ctrl-C, SIGTERM, SIGHUP), what was made is removed: the folder, and the
image of a volume. SIGKILL leaves it; the name of the folder, cdp-bench-..., says what to remove then.
"""
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import cdp
from cdp.nbd.client import ExportAddress, parse, unix_address
from cdp.nbd.listeners import UnixAddress
from cdp.nbd.server import NbdServer
from cdp.text.sizes import approx_size
from cdpcore.base.errors import NotFound, OutOfSpace
from cdpcore.bench.plain_file import PlainFile

if TYPE_CHECKING:
    from cdp.views import Service

RESERVE_BYTES = 256 << 20       # of the device is left alone
LEAST_WRITE_BYTES = 16 << 20    # of one measurement: less says nothing
PIECE_BYTES = 1 << 20


def write_budget(directory: Path, fixed_bytes: int, measurements: int) -> int:
    """How much one of so many measurements may write, beside files of fixed_bytes. Raises OutOfSpace."""
    free = shutil.disk_usage(directory).free
    need = fixed_bytes + RESERVE_BYTES + measurements * LEAST_WRITE_BYTES * 2
    if free < need:
        raise OutOfSpace(f"{directory} has {approx_size(free)} free, and this needs {approx_size(need)}",
                         "use a smaller --size or fewer --rounds, or another folder")
    return (free - fixed_bytes - RESERVE_BYTES) // (2 * measurements)   # a log takes more than what it is given


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does: through every `finally`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """A signal waits until the block is done: what is half removed would stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before: dict[int, Any] = {n: signal.signal(n, lambda number, _frame: came.append(number))
                              for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def folder(beside: Path) -> Iterator[Path]:
    """A new folder in `beside`, which is there. Raises NotFound, OSError."""
    if not beside.is_dir():
        raise NotFound(f"{beside}: no such folder", "give one that is there, on the device to be measured")
    made = Path(tempfile.mkdtemp(prefix="cdp-bench-", dir=beside))
    try:
        yield made
    finally:
        with undisturbed():
            shutil.rmtree(made, ignore_errors=True)


class Disk:
    """What is measured. capsule: its target, where it is in this process; address: of it as an NBD export."""

    def __init__(self, name: str, capsule: object | None, address: ExportAddress, settle: Any):
        self.name, self.capsule, self.address = name, capsule, address
        self.settle = settle    # makes durable what was written: nobody pays for another's dirty pages


class _Export:
    """A target as an NBD export."""

    read_only, description = False, "a benchmark's disk"

    def __init__(self, capsule: object, size_bytes: int):
        self.capsule, self.size_bytes = capsule, size_bytes

    def close(self) -> None:
        pass


class _Exports:
    """All exports of a benchmark, by name."""

    def __init__(self) -> None:
        self.made: dict[str, _Export] = {}

    def list(self) -> list[tuple[str, str]]:
        return [(name, export.description) for name, export in self.made.items()]

    def open(self, name: str) -> _Export:
        return self.made[name]


@contextmanager
def plain_and(place: Path, span_bytes: int) -> Iterator["Server"]:
    """A server with a plain file, filled, to which a volume is added."""
    with ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdp-b-")))
        exports = _Exports()
        # A capsule keeps its target alive until the last connection has ended.
        stack.enter_context(NbdServer(exports, [UnixAddress(str(sockets / "nbd.sock"))], max_connections=256))
        yield Server(stack, exports, sockets / "nbd.sock", place, span_bytes)
        exports.made.clear()


class Server:
    """The NBD server of a benchmark, in this process; see plain_and()."""

    def __init__(self, stack: ExitStack, exports: _Exports, socket: Path, place: Path, span_bytes: int):
        self._stack, self._exports, self._socket = stack, exports, socket
        self._place, self._span_bytes = place, span_bytes

    def plain(self) -> Disk:
        """A plain file, filled, written back, and out of the page cache (a file that was filled with long requests lies
        there in large folios, which makes a random 4 KiB write 25 times dearer on some kernels)."""
        path = self._place / "plain.img"
        block = os.urandom(PIECE_BYTES)
        with path.open("wb") as file:
            for at in range(0, self._span_bytes, PIECE_BYTES):
                file.write(block[: min(PIECE_BYTES, self._span_bytes - at)])
        plain = PlainFile(path)

        def settle() -> None:
            os.fsync(plain.fileno())

        settle()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(plain.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return self._add("plain file", "plain", plain.capsule, self._span_bytes, settle)

    def scratch(self, settings: Any) -> Disk:
        """A new volume, filled."""
        volume = self._stack.enter_context(cdp.create(self._place / "volume", size=self._span_bytes,
                                                      settings=settings))
        block = os.urandom(PIECE_BYTES)
        for at in range(0, self._span_bytes, PIECE_BYTES):
            volume.pwrite(block[: min(PIECE_BYTES, self._span_bytes - at)], at)
        volume.flush()
        return self._add("volume", "volume", volume.target(), self._span_bytes, volume.flush)

    def image(self, volume: "cdp.Volume") -> Disk:
        """A writable image of a volume that is open here, which is deleted in the end."""
        name = self._place.name
        volume.create_image(name)

        def delete() -> None:
            with undisturbed():
                volume.delete_image(name)

        self._stack.callback(delete)
        image = self._stack.enter_context(volume.open_image(name))
        return self._add("image", "image", image.target(), image.size_bytes, image.flush)

    def remote_image(self, service: "Service", name: str) -> Disk:
        """The same of a volume that a server has: `name` there, over NBD only."""
        info = service.info()
        image = self._place.name
        service.create_image(image)

        def delete() -> None:
            with undisturbed():
                _delete_when_idle(service, image)

        self._stack.callback(delete)
        uris = info["served"]["uris"] if info["served"] else []
        address = parse(uris[0])
        export = f"{address.export or name}/{image}"
        there = unix_address(address.path, export) if address.path else ExportAddress(
            address.uri, address.host, address.port, None, export, address.tls, address.certificates,
            address.tls_hostname)
        return Disk("image", None, there, lambda: None)

    def _add(self, name: str, export: str, capsule: object, size_bytes: int, settle: Any) -> Disk:
        self._exports.made[export] = _Export(capsule, size_bytes)
        return Disk(name, capsule, unix_address(self._socket, export), settle)


def _delete_when_idle(service: "Service", image: str) -> None:
    """The server closes an image a moment after its last connection."""
    import time

    from cdpcore.base.errors import Busy

    until_s = time.monotonic() + 30
    while True:
        try:
            return service.delete_image(image)
        except Busy:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)
