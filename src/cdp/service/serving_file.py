"""VOLUME/serving.json: which server has the volume. A hint: what it says holds only once that server confirms it.

Any thread.
"""
import errno
import json
import logging
import os
from contextlib import suppress
from typing import Any

from cdp.store.volume_files import VolumeFiles
from cdp.views import ServedView

log = logging.getLogger("cdp.serve")


def read_serving(root: str) -> dict[str, Any] | None:
    """What the last server of the volume wrote, if it did and it can be read."""
    try:
        with open(VolumeFiles(root).serving, encoding="utf-8") as file:
            served = json.loads(file.read(1 << 16))
    except (OSError, ValueError):
        return None
    fields = ("admin_socket", "name")
    if isinstance(served, dict) and all(isinstance(served.get(name), str) for name in fields):
        return served
    return None


def write_serving(root: str, served: ServedView) -> None:
    """The server of the volume is this process, with these addresses. A file that cannot be written is the log's: the
    server goes on, and other commands do not find it."""
    path = VolumeFiles(root).serving
    try:
        with open(_new_file(root), "w", encoding="utf-8") as file:
            json.dump(served, file, indent=1)
        os.replace(path + ".new", path)
    except OSError as error:
        log.warning("%s: %s; other commands do not find this server: remove the cause, then start it again", path,
                    error.strerror)
        with suppress(OSError):
            os.unlink(path + ".new")


def _new_file(root: str) -> str:
    """A file that is there, to be written and renamed: a spare one where no other can be made. Raises OSError."""
    files = VolumeFiles(root)
    path = files.serving + ".new"
    try:
        open(path, "w").close()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        for spare in files.spares():
            with suppress(FileNotFoundError):
                os.rename(spare, path)
                return path
        raise
    return path


def remove_serving(root: str) -> None:
    """Where the file is this process's."""
    if (read_serving(root) or {}).get("pid", os.getpid()) != os.getpid():
        return  # of another server: its volume is in that place now
    try:
        os.unlink(VolumeFiles(root).serving)
    except OSError:
        pass  # gone with its volume, or a read-only file system: a stale file is harmless
