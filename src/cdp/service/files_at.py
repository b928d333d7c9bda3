"""The files of a moment of a volume, and what differs between two, through the operations of a service."""
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cdp.text.timestamps import utc
from cdp.views import ExtentView, Service

if TYPE_CHECKING:
    from cdp.files.model import Entry
    from cdp.files.session import Files


def files_at(service: Service, seq: int, partition: int | None) -> "Files":
    """The files of a record."""
    from cdp.files.session import Files

    return Files(lambda length, offset: service.read(offset, length, at=f"#{seq}!"), service.info()["size_bytes"],
                 partition)


def entry_view(entry: "Entry") -> dict[str, Any]:
    """As JSON. What is not UTF-8 in a name is written \\xNN."""
    return {"name": text_of(entry.name), "kind": entry.kind, "mode": f"{entry.mode:04o}", "links": entry.links,
            "uid": entry.uid, "gid": entry.gid, "size_bytes": entry.size_bytes, "mtime_ns": entry.mtime_ns,
            "mtime": utc(entry.mtime_ns), "ctime_ns": entry.ctime_ns, "inode": entry.inode,
            "target": None if entry.target is None else text_of(entry.target)}


def text_of(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def ranges(service: Service, a: int, b: int, offset: int = 0, length: int | None = None,
           compared: bool = True) -> Iterator[ExtentView]:
    """The ranges that differ between two records, page by page."""
    at: int | None = offset
    while at is not None:
        rest = None if length is None else offset + length - at
        page = service.diff(f"#{a}!", f"#{b}!", at, rest, compared=compared)
        yield from page["ranges"]
        at = page["next_offset"]
