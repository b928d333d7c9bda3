"""The JSON files of a volume, an archive and a group: a damaged one is refused by name, and what is accepted has fields
of the types that it says, whatever its checksum."""
from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cdp.archive import manifest
from cdp.capture import position
from cdp.store import description, group_file, protected_disk, retention_file, scrub_file, thinned_file
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import CdpError
from cdpcore.system.os import SimOs

OS = SimOs(1)
OS.mkdir("/v")
FILES = VolumeFiles("/v")
THINNED = description.Geometry("0" * 32, 1 << 20, 1, 1 << 20, "none", format=description.THINNED)
CAPTURE = Path(tempfile.mkdtemp(prefix="cdp-fuzz-"))

# name of the inner object, its format, where it is, how it is read, what that must be
KINDS: list[tuple[str, int | None, str, Callable[[], Any], Any]] = [
    ("volume", None, FILES.description, lambda: description.load(OS, FILES), description.Geometry),
    ("retention", 1, FILES.retention, lambda: retention_file.load(OS, FILES), retention_file.Kept),
    ("scrub", 1, FILES.scrub, lambda: scrub_file.load(OS, FILES), scrub_file.ScrubState),
    ("thinned", 1, FILES.thinned, lambda: thinned_file.load(OS, FILES, THINNED), thinned_file.Thinned),
    ("disk", None, FILES.disk_description, lambda: protected_disk.left(OS, FILES), protected_disk.Stamp),
    ("group", 1, f"/v/{group_file.FILE}", lambda: group_file.load(OS, "/v"), group_file.Definition),
    ("capture", 1, "", lambda: position.load(str(CAPTURE)),
     position.LogPosition | position.MirrorPosition),
]
GEOMETRY = TypeAdapter(description.Geometry)
ORACLES = [TypeAdapter(kind) for *_, kind in KINDS]


def _text(found: Any) -> str:
    """For an oracle, which has a look at every field of what is JSON."""
    return json.dumps(asdict(found))


def _with_checksum(data: bytes, name: str, version: int | None) -> bytes:
    """The same inner object with the right checksum, where there is one."""
    try:
        inner = json.loads(data)
        text = json.dumps(inner, sort_keys=True)
    except (ValueError, RecursionError):
        return data
    known = "" if version is None else f'"format": {version}, '
    return f'{{"crc32c": "{crc32c(text.encode()):08x}", {known}"{name}": {text}}}\n'.encode()


def _manifest(data: bytes, mend: bool) -> None:
    if mend:
        try:
            text = json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"))
        except (ValueError, RecursionError):
            return
        data = f'{{"manifest":{text},"sha256":"{hashlib.sha256(text.encode()).hexdigest()}"}}\n'.encode()
    try:
        found = manifest.decode(data, "manifest", 1)
    except CdpError:
        return
    GEOMETRY.validate_json(_text(found.geometry), strict=True)
    manifest.encode(found)


def one(data: bytes) -> None:
    if not data:
        return
    which, mend, data = data[0] & 15, bool(data[0] & 16), data[1:]
    if which >= len(KINDS):
        _manifest(data, mend)
        return
    name, version, path, load, _ = KINDS[which]
    raw = _with_checksum(data, name, version) if mend else data
    if path:
        OS.write_file(path, raw)
    else:
        Path(VolumeFiles(str(CAPTURE)).capture).write_bytes(raw)
    try:
        found = load()
    except CdpError as error:
        assert error.message and "\n" not in error.message
        return
    if found is not None:
        ORACLES[which].validate_json(_text(found), strict=True)
