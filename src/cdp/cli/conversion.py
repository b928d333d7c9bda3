"""Disk images that are not raw, in and out of a volume by QEMU's tools.

In: `qemu-nbd` serves what a guest sees of the image on a private unix socket, and our NBD client reads it, sparse. Out:
an NBD server of ours serves the moment on a private unix socket, and `qemu-img convert` reads that. Nothing is stored
between. Called from one thread.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from shlex import quote
from typing import IO, Any

from cdp.cli.transfer import Done, Range, Seekable
from cdp.ipc.stop_signals import ignore_if_ignored
from cdp.nbd import NbdServer, UnixAddress
from cdp.nbd.client import Client, unix_address
from cdp.nbd.protocol import StatusFlag
from cdp.views import Service
from cdpcore.base.errors import CdpError, InvalidRequest, NotFound, OutOfSpace, Unavailable
from cdpcore.channel.mdpacket import Op
from cdpcore.channel.python_target import PyTarget

START_SECONDS = 30.0
EXTENT_KINDS = {"data": 0, "zero": 1, "hole": 2, "unknown": 3}  # enum cdp_extent_kind
HINT = "install QEMU's tools (qemu-utils, qemu-img)"


def needed(tool: str, path: str, command: str) -> str:
    """The path of the program. Raises Unavailable with the command that does the same elsewhere."""
    found = shutil.which(tool)
    if found is None:
        raise Unavailable(f"{path}: {tool} is not installed", f"{HINT}, or, where they are: {command}")
    return found


class Converted(Seekable):
    """What a guest sees of the image at `path`, of the format that qemu-nbd calls `image_format`."""

    def __init__(self, path: str, image_format: str, volume: str):
        raw = quote(f"{path}.raw")
        tool = needed("qemu-nbd", path, f"qemu-img convert -f {image_format} -O raw {quote(path)} {raw}, "
                                        f"then: cdp import {raw} {quote(volume)}")
        self.path = path
        self._held = ExitStack()
        try:
            folder = self._held.enter_context(tempfile.TemporaryDirectory(prefix="cdp-"))
            said = self._held.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
            address = os.path.join(folder, "s")
            ignore_if_ignored()
            server = subprocess.Popen([tool, "--read-only", f"--format={image_format}", f"--socket={address}",
                                       os.path.abspath(path)], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            self._held.callback(_end, server)
            self._disk = self._held.enter_context(_connect(server, address, path, said))
        except BaseException:
            self._held.close()
            raise
        self.file_bytes = self.size_bytes = self._disk.size_bytes
        self._piece, self._piece_at = b"", 0

    def close(self) -> None:
        self._held.close()

    def data_ranges(self) -> Iterator[Range]:
        at = 0
        while at < self.size_bytes:
            for length, flags in self._disk.status(self.size_bytes - at, at):
                length = min(length, self.size_bytes - at)
                if length and not flags & StatusFlag.ZERO:
                    yield at, length
                at += length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """The runs of a piece are asked for again after it was scanned: the last one is kept."""
        begin = offset - self._piece_at
        if begin < 0 or begin + len(buffer) > len(self._piece):
            self._piece, self._piece_at, begin = self._disk.pread(len(buffer), offset), offset, 0
        buffer[:] = self._piece[begin:begin + len(buffer)]


def _connect(server: subprocess.Popen[bytes], address: str, path: str, said: IO[bytes]) -> Client:
    """As soon as the server takes a connection; it ends with its first one, so none is made to try."""
    end_s = time.monotonic() + START_SECONDS
    while True:
        try:
            return Client(unix_address(address, ""), block_status=True)
        except Unavailable as error:
            if server.poll() is None and time.monotonic() < end_s:
                time.sleep(0.01)
                continue
            said.seek(0)
            text = " ".join(said.read(2000).decode(errors="replace").split()) or error.message
        raise InvalidRequest(f"{path}: qemu-nbd does not serve it: {text}", "give its --format as 'qemu-img info' does")


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Moment:
    """One moment of a volume as an NBD export, whoever has the volume open. cdp.nbd.exports.Resolver and Export."""

    read_only, description = True, ""

    def __init__(self, service: Service, size_bytes: int, at: str, progress: Done):
        self._service, self._at, self._progress = service, at, progress
        self.size_bytes = size_bytes
        self._target = PyTarget(self._run, size_bytes, True, self._extents)
        self.capsule = self._target.capsule()

    def list(self) -> Sequence[tuple[str, str]]:
        return []

    def open(self, name: str) -> _Moment:
        if name:
            raise NotFound(f"no export {name!r}")
        return self

    def close(self) -> None:
        pass

    def _run(self, op: int, offset: int, length: int, buffer: memoryview | None, _fua: bool) -> None:
        if op == Op.READ and buffer is not None:
            buffer[:] = self._service.read(offset, length, at=self._at)
            self._progress(offset + length)

    def _extents(self, offset: int, length: int, limit: int) -> Sequence[tuple[int, int, int]]:
        page = self._service.map(offset, length, at=self._at, limit=limit)
        return [(e["offset"], e["length"], EXTENT_KINDS[e["kind"]]) for e in page["extents"]]


def export_converted(service: Service, size_bytes: int, at: str, out: str, image_format: str, progress: Done) -> None:
    """Write a moment to the file `out` as an image of that format: whole and durable, or what was there stays.

    It is made under its own name, which some formats hold, in a folder beside its place. Raises Unavailable,
    OutOfSpace.
    """
    raw = quote(f"{out}.raw")
    tool = needed("qemu-img", out, f"cdp export VOLUME {raw}, then: "
                                   f"qemu-img convert -f raw -O {image_format} {raw} {quote(out)}")
    parent, name = os.path.split(os.path.abspath(out))
    with tempfile.TemporaryDirectory(prefix=f"{name}.part-", dir=parent) as beside:
        made = os.path.join(beside, name)
        with tempfile.TemporaryDirectory(prefix="cdp-") as folder:
            address = os.path.join(folder, "s")
            with NbdServer(_Moment(service, size_bytes, at, progress), [UnixAddress(address)]):
                _run([tool, "convert", "-f", "raw", "-O", image_format, f"nbd+unix:///?socket={address}", made], out)
        fd = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(made, out)
    progress(size_bytes)


def _run(argv: list[str], out: str) -> None:
    ignore_if_ignored()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, errors="replace")
    try:
        _, said = process.communicate()
    finally:
        if process.poll() is None:
            _end(process)
    if process.returncode:
        text = " ".join(said.split()) or f"exit status {process.returncode}"
        kind: type[CdpError] = OutOfSpace if "No space left" in text else Unavailable
        raise kind(f"{out}: qemu-img convert: {text}", "see what it says, then repeat")
