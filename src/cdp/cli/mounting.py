"""An NBD export mounted in a folder: nbdfuse makes a file of it, a loop device a disk of that file. Needs root.

Whatever happens, all of it is taken away again; processes that still use the folder are the caller's.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cdp.cli.output import say
from cdp.files.detect import placed
from cdp.files.model import Source
from cdpcore.base.errors import Unavailable

TOOLS = ("nbdfuse", "losetup", "mount", "umount")
START_S, END_S = 30.0, 30.0
# Nobody should run, or open, what a hostile file system calls a device or a program of root's.
OPTIONS = "nosuid,nodev"
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))


class CannotMount(Unavailable):
    """The kernel refuses the file system: it is damaged, or none that it knows."""


def lacks() -> str:
    """Why nothing can be mounted here; "": it can."""
    if os.geteuid() != 0:
        return "only root may mount"
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=_PATH) is None]:
        return f"{', '.join(missing)} not found (packages libnbd-bin, util-linux)"
    return "" if os.path.exists("/dev/fuse") else "there is no /dev/fuse"


class _File(Source):
    def __init__(self, path: str):
        self._fd = os.open(path, os.O_RDONLY)
        self.size_bytes = os.stat(path).st_size

    def pread(self, length: int, offset: int) -> bytes:
        self.check(length, offset)
        return os.pread(self._fd, length, offset)

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def mounted(uri: str, partition: int | None = None) -> Iterator[str]:
    """The folder where it is mounted, for reading and writing. `partition`: None: the whole disk, or the only one with
    a file system. Raises Unavailable, InvalidRequest."""
    if why := lacks():
        raise Unavailable(f"cannot mount: {why}", "use the NBD export, or 'cdp files' and 'cdp cat'")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cdp-mount-"))
        fuse, mnt = os.path.join(folder, "fuse"), os.path.join(folder, "mnt")
        os.chmod(folder, 0o711)     # a command may be another user's
        os.mkdir(fuse)
        os.mkdir(mnt)
        disk = os.path.join(fuse, "disk")
        process = subprocess.Popen(["nbdfuse", disk, uri], env={**os.environ, "PATH": _PATH}, start_new_session=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(_wait, process)
        stack.callback(_unmount, fuse)
        until_s = time.monotonic() + START_S
        while not os.path.exists(disk):
            if process.poll() is not None or time.monotonic() > until_s:
                raise Unavailable(f"nbdfuse does not show {uri}", f"try it by hand: nbdfuse FOLDER/disk '{uri}'")
            time.sleep(0.01)
        source = _File(disk)
        try:
            offset, size_bytes = placed(source, partition)
        finally:
            source.close()
        device = _run("losetup", "--find", "--show", "--offset", str(offset), "--sizelimit", str(size_bytes), disk)
        stack.callback(_try, "losetup", "--detach", device)
        try:
            _run("mount", "-o", OPTIONS, device, mnt)
        except Unavailable as error:
            raise CannotMount(error.message, error.hint) from None
        stack.callback(_unmount, mnt)
        yield mnt


def _run(*argv: str) -> str:
    done = subprocess.run(argv, env={**os.environ, "PATH": _PATH, "LC_ALL": "C"}, check=False, capture_output=True,
                          stdin=subprocess.DEVNULL, text=True, errors="replace")
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise Unavailable(f"{argv[0]}: {said}", "another moment, or the NBD export without mounting it")
    return done.stdout.strip()


def _try(*argv: str) -> bool:
    try:
        _run(*argv)
    except Unavailable as error:
        say(f"cdp: {error.message}")
        return False
    return True


def _unmount(folder: str) -> None:
    """Where it is in use, by others than the caller's: as soon as it is not."""
    if not _try("umount", folder):
        _try("umount", "--lazy", folder)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """nbdfuse ends when its folder is unmounted."""
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
