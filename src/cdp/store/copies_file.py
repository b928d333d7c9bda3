"""When copies of a volume were last brought up to date, and how far: VOLUME/copies.json. docs/format.md defines it.

    {"copies": {"archive": {"where": "s3://...", "seq": 7, "ts_ns": ..., "made_ns": ...}}, "crc32c": "...", "format": 1}

Who makes a copy says so; the file outlives the server, so that the age of the last good one is known after a restart.
Nothing depends on it but what monitoring is told. One thread at a time.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass

from cdp.store import checked_json
from cdp.store.volume_files import VolumeFiles
from cdpcore.system.os import Os

FORMAT = 1
KINDS = ("backup", "archive")


@dataclass(frozen=True)
class Copy:
    """where: a folder or a URL; seq, ts_ns: the newest moment that it has; made_ns: when it was brought up to that.
    Times in ns since 1970 UTC."""

    where: str
    seq: int
    ts_ns: int
    made_ns: int


def save(os: Os, files: VolumeFiles, copies: dict[str, Copy]) -> None:
    fields = {kind: asdict(copy) for kind, copy in copies.items()}
    os.write_file(files.copies, checked_json.packed("copies", fields, FORMAT))


def load(os: Os, files: VolumeFiles) -> dict[str, Copy]:
    """The last one of each kind; none where there is no file, or it is damaged."""
    if not os.exists(files.copies):
        return {}
    try:
        fields = checked_json.unpacked(os.read_file(files.copies), "copies", FORMAT)
        return {kind: Copy(**fields[kind]) for kind in KINDS if kind in fields}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
