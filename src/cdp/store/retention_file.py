"""What retention knows of a volume and its log does not: VOLUME/retention.json. docs/format.md defines it.

    {"crc32c": "...", "format": 1, "retention": {"policy": ..., "samples": [...], ...}}

Invariants
  1. The file is replaced as a whole, durably; its checksum is that of volume.json.
  2. What the volume shows does not depend on it. Without it nothing expires.
One thread at a time.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cdp.moments.ages import Sample
from cdp.store import checked_json
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Corruption
from cdpcore.system.os import Os

FORMAT = 1


@dataclass(frozen=True)
class Kept:
    """policy: its TOML text; "": none. pins: how long a bookmark is a pin, in ns since it was made, by its name.
    samples: cdp.moments.ages; boot, steady_ns: what the steady clock showed at the last one. last_run_ns: when the
    policy was applied last, by the wall clock; freed_bytes: by all runs; first_seq: as of the last run, before it
    nothing is needed."""

    policy: str = ""
    pins: dict[str, int] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    boot: str = ""
    steady_ns: int = 0
    last_run_ns: int = 0
    freed_bytes: int = 0
    first_seq: int = 0

    def changed(self, **changes: Any) -> Kept:
        return replace(self, **changes)


def save(os: Os, files: VolumeFiles, kept: Kept) -> None:
    """Durable at return: the old file or the new one."""
    fields = asdict(kept)
    fields["samples"] = [[s.seq, s.elapsed_ns, s.wall_ns] for s in kept.samples]
    os.write_file(files.retention, checked_json.packed("retention", fields, FORMAT))


def load(os: Os, files: VolumeFiles) -> Kept:
    """What is there; a Kept of nothing where there is no file. Raises Corruption."""
    path = files.retention
    if not os.exists(path):
        return Kept()
    try:
        inner = checked_json.unpacked(os.read_file(path), "retention", FORMAT)
        samples = [{"seq": seq, "elapsed_ns": elapsed, "wall_ns": wall} for seq, elapsed, wall in inner["samples"]]
        return checked_json.made(Kept, {**inner, "samples": samples})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corruption(f"{path}: damaged ({error})",
                         "nothing expires until a policy is set again: 'cdp policy VOLUME set FILE'") from None
