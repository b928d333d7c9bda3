"""Who a volume is to another host: VOLUME/standby.json. docs/format.md defines it.

    {"crc32c": "...", "format": 1, "standby": {"role": "standby", "epoch": 1, ...}}

Role "standby": the folder is a copy that follows a volume elsewhere, and nobody else may open it. Role "owner": of a
volume that a standby follows, or did, or that was one: how far that had come. Without the file a volume is an owner of
epoch 1 that nobody follows. One thread at a time.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from cdp.store import checked_json
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Busy, Corruption
from cdpcore.system.os import Os

FORMAT = 1
STANDBY, OWNER = "standby", "owner"


@dataclass(frozen=True)
class StandbyState:
    """epoch: of the ownership; raised by each promotion. id: of the standby, 32 hex digits. Of a standby: source, name:
    where the volume is, and its export there; following: the first copy is complete; volume, retention: the fields of
    the owner's volume.json, and its retention.json as text, as they came last. Of an owner: what the standby `id` has,
    durably: all up to record seq (its time, and the segment and byte where it ends); ok_ns: when that was known."""

    role: str = OWNER
    epoch: int = 1
    id: str = ""
    source: str = ""
    name: str = ""
    following: bool = False
    volume: dict[str, Any] | None = None
    retention: str | None = None
    seq: int = 0
    ts_ns: int = 0
    segment: int = 0
    offset: int = 0
    ok_ns: int = 0

    def alone(self) -> StandbyState:
        """Of an owner: without a standby."""
        return StandbyState(role=self.role, epoch=self.epoch)


def save(os: Os, files: VolumeFiles, state: StandbyState) -> None:
    """Durable at return."""
    os.write_file(files.standby, checked_json.packed("standby", asdict(state), FORMAT))


def load(os: Os, files: VolumeFiles) -> StandbyState:
    """Raises Corruption: who owns a volume is not guessed."""
    if not os.exists(files.standby):
        return StandbyState()
    try:
        state = StandbyState(**checked_json.unpacked(os.read_file(files.standby), "standby", FORMAT))
        if state.role not in (STANDBY, OWNER):
            raise ValueError(f"role {state.role!r}")
        return state
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corruption(f"{files.standby}: damaged ({error})", "put it back from a copy, or, only where no other host "
                         "has this volume, remove it") from None


def refuse(os: Os, files: VolumeFiles) -> None:
    """Raises Busy where the folder is a copy that follows a volume elsewhere."""
    state = load(os, files)
    if state.role == STANDBY:
        folder = quote(files.directory)
        raise Busy(f"{files.directory}: is the standby of {state.name} at {state.source}",
                   f"open the volume there; where that host is lost: 'cdp standby {folder} --promote'")
