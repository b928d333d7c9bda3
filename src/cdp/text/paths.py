"""What a path may look like, before the file system is asked: errors that say what is wrong with it.

Pure functions: any thread.
"""
import os
from pathlib import Path

from cdpcore.base.errors import InvalidRequest

MAX_PATH_BYTES = 3900       # PATH_MAX less what is added below a volume
MAX_NAME_BYTES = 255        # of ext4, XFS, Btrfs, ZFS, tmpfs
SHOWN = 60


def checked(path: str, room_bytes: int = 0) -> str:
    """`path`, if it can name a file. `room_bytes`: what will be added to its last part. Raises InvalidRequest."""
    shown = path if len(path) <= SHOWN else f"{path[:SHOWN]}..."
    if "\0" in path:
        raise InvalidRequest(f"{path!r}: a path cannot hold a zero byte", "give another path")
    try:
        path_bytes = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(f"{path!r} is not text in UTF-8",
                             "use such names only; a locale such as C.UTF-8 has to be set for them") from None
    if path_bytes > MAX_PATH_BYTES:
        raise InvalidRequest(f"{shown}: a path of {path_bytes} bytes", f"use at most {MAX_PATH_BYTES}")
    parts = path.rstrip("/").split("/")
    for part in parts:
        most = MAX_NAME_BYTES - (room_bytes if part is parts[-1] else 0)
        if (part_bytes := len(part.encode())) > most:
            raise InvalidRequest(f"{shown}: a name of {part_bytes} bytes", f"use at most {most}")
    return path


def absolute(path: str | os.PathLike[str], room_bytes: int = 0) -> str:
    """The absolute path, links as they are. Raises InvalidRequest."""
    return checked(str(Path(checked(os.fspath(path))).absolute()), room_bytes)
