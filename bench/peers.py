"""Servers that are measured side by side: ours, and those that anybody can install. Each is a process with an NBD
socket.

A peer that is not installed is named and skipped. All serve a disk of the same size from the same file system; what
each promises about durability between flushes is said in `durability` and kept with its figures.
"""

import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cdp
from bench.facts import tool_version
from bench.scratch import Scratch, process, settle_files

READY_SECONDS = 30.0


@dataclass(frozen=True)
class Running:
    """A peer at work."""

    name: str
    uri: str
    pid: int
    files: tuple[Path, ...]  # what it writes to

    def settle(self, drop: bool = False) -> None:
        """Its files are on the device: no other peer pays for its dirty pages. `drop`: and not in the page cache."""
        for path in self.files:
            settle_files(path, drop)

    def cpu_seconds(self) -> float | None:
        """CPU time used so far, all threads and child processes; None where there is no /proc."""
        try:
            return sum(_ticks(pid) for pid in [self.pid, *_children(self.pid)]) / os.sysconf("SC_CLK_TCK")
        except OSError:
            return None


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _children(pid: int) -> list[int]:
    return [int(child) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for child in tasks.read_text().split()]


@dataclass(frozen=True)
class Peer:
    name: str
    what: str
    durability: str
    program: str | None  # that must be installed; None: comes with us
    version: Callable[[], str | None]
    # (folder for its data, socket, size) -> command, files, export name
    prepare: Callable[[Path, Path, int], tuple[list[str], tuple[Path, ...], str]]
    during: Callable[[Running], contextlib.AbstractContextManager[None]] = lambda _: contextlib.nullcontext()
    """What goes on beside a measurement."""

    def installed(self) -> bool:
        return self.program is None or shutil.which(self.program) is not None


class PeerFailed(Exception):
    """A server did not start."""


@contextlib.contextmanager
def serving(peer: Peer, scratch: Scratch, size_bytes: int) -> Iterator[Running]:
    """The peer with a new disk of its own; both gone at the end of the block."""
    folder = scratch.folder(peer.name)
    sock = scratch.sockets / f"{peer.name}.sock"
    log = folder / "server.log"

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        sock.unlink(missing_ok=True)

    with contextlib.ExitStack() as stack:
        stack.callback(remove)
        command, files, export = peer.prepare(folder, sock, size_bytes)
        with log.open("wb") as out:
            child = stack.enter_context(process(command, stdout=out, stderr=out))
        deadline = time.monotonic() + READY_SECONDS
        while not _answers(sock):
            if child.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().splitlines()
                raise PeerFailed(
                    f"{peer.name} did not start: {said[-1] if said else f'exit status {child.returncode}'}"
                )
            time.sleep(0.02)
        yield Running(peer.name, f"nbd+unix:///{export}?socket={sock}", child.pid, files)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(1.0)
        try:
            s.connect(str(path))
            return s.recv(8) == b"NBDMAGIC"
        except OSError:
            return False


def _plain(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def serve_command(volume: Path, sock: Path, serve: tuple[str, ...] = ("serve",)) -> list[str]:
    """`cdp serve` (or what else) of a volume on a socket."""
    return [
        sys.executable,
        "-m",
        "cdp",
        *serve,
        str(volume),
        "--unix",
        str(sock),
        "--admin-socket",
        str(sock.with_suffix(".admin")),
        "--log-level",
        "error",
    ]


def _cdp(folder: Path, sock: Path, size_bytes: int,
         serve: tuple[str, ...] = ("serve",)) -> tuple[list[str], tuple[Path, ...], str]:
    volume = folder / "vol"
    cdp.create(volume, size=size_bytes).close()
    return serve_command(volume, sock, serve), (volume,), "vol"


def _cdp_ha(folder: Path, sock: Path, size_bytes: int) -> tuple[list[str], tuple[Path, ...], str]:
    return _cdp(folder, sock, size_bytes, ("ha", "serve", "--control", str(sock.with_suffix(".ha"))))


def _nbdkit_file(folder: Path, sock: Path, size_bytes: int) -> tuple[list[str], tuple[Path, ...], str]:
    plain = _plain(folder / "plain.img", size_bytes)
    return ["nbdkit", "-f", "-U", str(sock), "file", str(plain)], (plain,), ""


def _nbdkit_memory(folder: Path, sock: Path, size_bytes: int) -> tuple[list[str], tuple[Path, ...], str]:
    return ["nbdkit", "-f", "-U", str(sock), "memory", str(size_bytes), "allocator=malloc"], (), ""


def _blklogwrites(folder: Path, sock: Path, size_bytes: int) -> tuple[list[str], tuple[Path, ...], str]:
    plain = _plain(folder / "plain.img", size_bytes)
    kept = _plain(folder / "kept.log", 0)
    options = (
        f"driver=blklogwrites,file.driver=file,file.filename={plain},log.driver=file,log.filename={kept},"
        "log-sector-size=512"
    )
    return ["qemu-nbd", "-k", str(sock), "-t", "-e", "8", "--image-opts", options], (plain, kept), ""


def _first_line(command: list[str]) -> Callable[[], str | None]:
    return lambda: tool_version(command)


SETTINGS: dict[str, Any] = {
    "pool_bytes": cdp.Settings().pool_bytes,
    "segment_bytes": cdp.Settings().segment_bytes,
    "commit_interval_ms": cdp.Settings().commit_interval_ms,
    "direct_io": cdp.Settings().direct_io,
}

PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "cdp",
            "cdp serve, its defaults: every write is kept and indexed",
            f"durable on flush and every {cdp.Settings().commit_interval_ms} ms",
            None,
            lambda: cdp.__version__,
            _cdp,
        ),
        Peer(
            "cdp-ha",
            "cdp ha serve, its defaults: gateway, active and standby in processes of their own",
            f"durable on flush and every {cdp.Settings().commit_interval_ms} ms; always survives a process's death",
            None,
            lambda: cdp.__version__,
            _cdp_ha,
        ),
        Peer(
            "nbdkit-file",
            "nbdkit's file plugin on a plain file: no history",
            "durable on flush; else when the kernel writes the page cache back",
            "nbdkit",
            _first_line(["nbdkit", "--version"]),
            _nbdkit_file,
        ),
        Peer(
            "blklogwrites",
            "qemu-nbd with QEMU's blklogwrites: every write is kept, in a file beside; no index",
            "durable on flush; else when the kernel writes the page cache back",
            "qemu-nbd",
            _first_line(["qemu-nbd", "--version"]),
            _blklogwrites,
        ),
        Peer(
            "memory",
            "nbdkit's memory plugin: nothing is stored; a ceiling",
            "none",
            "nbdkit",
            _first_line(["nbdkit", "--version"]),
            _nbdkit_memory,
        ),
    )
}
