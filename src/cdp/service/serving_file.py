"""VOLUME/serving.json: which server has the volume. A hint: what it says holds only once that server confirms it.

Any thread.
"""
import json
import os
from typing import Any

from cdp.views import ServedView
from cdp.volume_files import VolumeFiles


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
    """The server of the volume is this process, with these addresses."""
    path = VolumeFiles(root).serving
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(served, file, indent=1)
    os.replace(path + ".new", path)


def remove_serving(root: str) -> None:
    """Where the file is this process's."""
    if (read_serving(root) or {}).get("pid", os.getpid()) != os.getpid():
        return  # of another server: its volume is in that place now
    try:
        os.unlink(VolumeFiles(root).serving)
    except OSError:
        pass  # gone with its volume, or a read-only file system: a stale file is harmless
