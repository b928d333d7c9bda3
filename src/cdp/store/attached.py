"""Folders of this process whose files are here in part only: which operating system reads them, and what people call
them.

A volume in such a folder opens like any other, to read. Threading: any thread.
"""
from __future__ import annotations

import errno
import os as _os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdp.text.paths import absolute
from cdpcore.base.errors import CdpError, Unavailable

if TYPE_CHECKING:       # the command line asks before it loads the engine
    from cdpcore.system.os import Os


FAILED = getattr(errno, "EREMOTEIO", errno.EIO)     # of a read that could not get what is not here


@dataclass(frozen=True)
class _Attached:
    os: Os
    name: str
    failed: Callable[[], CdpError | None]


_folders: dict[str, _Attached] = {}


def attach(directory: str, os: Os, name: str, failed: Callable[[], CdpError | None]) -> None:
    """From now on the volume in this folder is read through `os`; messages call the folder `name`. failed(): what went
    wrong last where something could not be read."""
    _folders[absolute(directory)] = _Attached(os, name, failed)


def detach(directory: str) -> None:
    _folders.pop(absolute(directory), None)


def os_of(directory: str) -> Os | None:
    """None: an ordinary folder."""
    found = _folders.get(directory)
    return found.os if found else None


def is_attached(directory: str) -> bool:
    return bool(_folders) and absolute(directory) in _folders


def named(text: str) -> str:
    """A message with the names of such folders instead of their paths."""
    for path, found in _folders.items():
        text = text.replace(path, found.name)
    return text


def explained(error: CdpError) -> CdpError:
    """Why what is not here could not be read, which the engine does not know; with the names of such folders."""
    if isinstance(error, Unavailable) and error.message.endswith(_os.strerror(FAILED)):
        for found in _folders.values():
            if (cause := found.failed()) is not None:
                return cause
    if (text := named(error.message)) != error.message:
        return type(error)(text, named(error.hint))
    return error
