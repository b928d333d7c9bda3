"""VOLUME, VOLUME@POINT, VOLUME/IMAGE, VOLUME/IMAGE@POINT, URL and URL@POINT on the command line: the one place that
takes them apart.

Rules: what exists literally as a path is a path; else the last @ divides path and point. A bookmark may be written with
its own @ (`web@@name`) or without (`web@name`).
"""
import os
from dataclasses import dataclass
from shlex import quote

from cdp.service.locate import Location, locate
from cdp.store.group_file import is_group
from cdpcore.base.errors import InvalidRequest


@dataclass(frozen=True)
class Ref:
    """What a command was given: `volume` as the user wrote it, without the point; the point, or None."""

    volume: str
    point: str | None


def split(text: str) -> Ref:
    """Path and point of a command-line word. Looks at the file system, opens nothing. Raises InvalidRequest."""
    if not text:
        raise InvalidRequest("the name of the volume is empty", "give the folder of a volume")
    if "@" not in text or os.path.exists(text):
        return Ref(text, None)
    head, _, point = text.rpartition("@")
    if head.endswith("@") and not os.path.exists(head):
        head, point = head[:-1], "@" + point
    if not head:
        raise InvalidRequest(f"{text}: no volume before the @", "write VOLUME@POINT, for instance web@-10m")
    if point.strip("@") == "":
        raise InvalidRequest(f"{text}: no point after the @", f"write, for instance, {quote(head)}@-10m; "
                             f"'cdp window {quote(head)}' shows what can be opened")
    return Ref(head, point)


def group_at(text: str) -> Ref | None:
    """Where the word names a group of volumes (cdp.service.groups), the group and the point."""
    ref = split(text)
    return ref if is_group(ref.volume) else None


def volume_only(text: str, verb: str) -> Location:
    """The volume of a command that takes no point."""
    ref = split(text)
    location = _located(ref, verb)
    if ref.point is not None:
        raise InvalidRequest(f"'cdp {verb}' takes a volume, not a point", f"leave off @{ref.point}")
    return location


def _located(ref: Ref, verb: str) -> Location:
    """On this machine, or in an archive."""
    if "://" in ref.volume:
        from cdp.archive.places import is_url

        if is_url(ref.volume):
            from cdp.cli.archived import at_hand

            return at_hand(ref.volume, verb)
    return locate(ref.volume)


def volume_and_point(text: str, verb: str, default: str | None = None) -> tuple[Location, str]:
    """Volume and point; without a default the point must be there."""
    ref = split(text)
    location = _located(ref, verb)
    point = ref.point or default
    if point is None:
        raise InvalidRequest(f"'cdp {verb}' needs a point", f"write {quote(text)}@POINT, for instance "
                             f"{quote(text)}@-10m; 'cdp window {quote(text)}' shows what can be opened")
    return location, point


def with_point(group: Ref, verb: str, default: str | None = None) -> Ref:
    """A group and a point of it; without a default the point must be there."""
    point = group.point or default
    if point is None:
        name = quote(group.volume)
        raise InvalidRequest(f"'cdp {verb}' needs a point",
                             f"write {name}@POINT; 'cdp group show {name}' lists its bookmarks")
    return Ref(group.volume, point)
