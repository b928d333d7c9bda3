"""A group of volumes: which they are, the moments of all of them that have a name, and what is going on. It is a folder
with group.json in it; docs/format.md defines that.

Invariants
  1. The file is replaced as a whole, durably. What changes volumes is written here before, as `pending`, and taken away
     together with the result, so that whoever opens the group next knows what was interrupted.
  2. One process at a time changes it: the lock. Reading needs none.
One thread at a time.
"""
from __future__ import annotations

import os as _os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from cdp.moments import points
from cdp.moments.model import GroupMoment, GroupRestore, Moment
from cdp.store import checked_json
from cdpcore.base.errors import Busy, CdpError, Corruption, InvalidRequest, NotFound
from cdpcore.system.os import File, Os

FORMAT = 1
FILE, LOCK = "group.json", "lock"
MAX_MEMBERS, MAX_MOMENTS, MAX_RESTORES = 64, 4096, 256
LIMIT_BYTES = 64 << 20

BOOKMARK, IMAGE, RESTORE, UNDO = "bookmark", "image", "restore", "undo"     # what can be pending


@dataclass(frozen=True)
class Member:
    """A volume of a group. path: of its folder, seen from the folder that the group's is in, or absolute."""

    path: str
    uuid: str


@dataclass(frozen=True)
class Pending:
    """What was begun, and is not known to be complete. kind: bookmark, image (what there is of it goes away), restore
    or undo (it is completed). name: of the bookmark or image, or the point of the restore; after: per member the seq of
    a record that is older than what is made; at: per member the moment, of an image and a restore; seqs: per member the
    restore that is undone."""

    kind: str
    name: str
    after: tuple[int, ...]
    at: tuple[Moment, ...] = ()
    seqs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Definition:
    """What the file says."""

    uuid: str
    created_ns: int
    members: tuple[Member, ...]
    moments: tuple[GroupMoment, ...] = ()
    restores: tuple[GroupRestore, ...] = ()
    pending: Pending | None = None

    def changed(self, **changes: Any) -> Definition:
        return replace(self, **changes)


def undone(restore: GroupRestore) -> GroupRestore:
    return replace(restore, undone=True)


def is_group(path: str) -> bool:
    """Whether a group is there. Looks at the file system of this machine."""
    return _os.path.isfile(_os.path.join(path, FILE))


def create(os: Os, path: str, definition: Definition) -> None:
    """Make the group in the folder `path`, which is not there, or is a leftover of a creation that was interrupted.
    Raises InvalidRequest, NotFound."""
    if not 1 <= len(definition.members) <= MAX_MEMBERS:
        raise InvalidRequest(f"a group of {len(definition.members)} volumes", f"name 1 to {MAX_MEMBERS}")
    if not points.valid_name(path.rstrip("/").rpartition("/")[2]):
        raise InvalidRequest(f"group name {path!r}", points.NAMES)
    parent = path.rpartition("/")[0] or "/"
    if not os.exists(parent):
        raise NotFound(f"{parent}: no such folder", "make it first, or choose another place")
    if not os.exists(path):
        os.mkdir(path)
    elif set(os.list_dir(path)) - {LOCK, f"{FILE}.tmp"}:
        raise InvalidRequest(f"{path} exists", "choose another name for the group")
    if not os.exists(f"{path}/{LOCK}"):
        os.open(f"{path}/{LOCK}", write=True, create=True).close()
    save(os, path, definition)
    os.sync_dir(parent)


def lock(os: Os, path: str) -> File:
    """The group's lock, held until the file is closed. Raises Busy."""
    file = os.open(f"{path}/{LOCK}", write=True)
    try:
        file.lock()
    except CdpError:
        file.close()
        raise Busy(f"{path}: another command changes this group", "wait for it, then repeat") from None
    return file


def save(os: Os, path: str, definition: Definition) -> None:
    """Durable at return: the old file or the new one."""
    os.write_file(f"{path}/{FILE}", checked_json.packed("group", asdict(definition), FORMAT))


def load(os: Os, path: str) -> Definition:
    """Raises NotFound, Corruption."""
    file = f"{path}/{FILE}"
    if not os.exists(file):
        raise NotFound(f"{path}: no such group", f"'cdp group create {path} VOLUME...' makes one")
    try:
        inner = checked_json.unpacked(os.read_file(file, LIMIT_BYTES), "group", FORMAT)
        return checked_json.made(Definition, inner)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corruption(f"{file}: damaged ({error})", "the volumes are not affected: remove the folder, and create "
                         "the group again; its bookmarks are in each volume") from None


def remove(os: Os, path: str) -> None:
    """The group is no more; its volumes and their bookmarks stay. Its lock is held."""
    os.unlink(f"{path}/{FILE}")
    os.sync_dir(path)
    for name in (f"{FILE}.tmp", LOCK):
        with suppress(NotFound):
            os.unlink(f"{path}/{name}")
    with suppress(CdpError):    # somebody else's files are in it
        os.rmdir(path)
