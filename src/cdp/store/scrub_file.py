"""How far the scrub of a volume has come, and what it found: VOLUME/scrub.json. docs/format.md defines it.

    {"crc32c": "...", "format": 1, "scrub": {"part": "log", "item": 12, "page": 3, ...}}

Invariants
  1. The file is replaced as a whole; its checksum is that of volume.json.
  2. Nothing depends on it but where a scrub goes on: without it one begins at the front.
One thread at a time.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from cdp.store import checked_json
from cdp.store.volume_files import VolumeFiles
from cdpcore.system.os import Os

FORMAT = 1
MOST_PROBLEMS = 64
PARTS = ("log", "runs", "base", "disk")     # in the order in which they are read

Problem = tuple[str, str, str]
"""where, what, hint"""


@dataclass(frozen=True)
class Place:
    """What is read next: part: one of PARTS; item: the number of a segment, or the id of a run; page: of its table of
    checksums."""

    part: str = PARTS[0]
    item: int = 0
    page: int = 0


@dataclass(frozen=True)
class ScrubState:
    """began_ns: when the scrub that is under way began, 0: none is; place, bytes_read, problems, n_problems: of that
    one; upto_segment, upto_run: the newest ones when it began: what comes later is the next one's. last_...: of the
    last one that ended; last_ended_ns 0: none did. Times in ns since 1970 UTC."""

    began_ns: int = 0
    place: Place = Place()
    upto_segment: int = 0
    upto_run: int = 0
    bytes_read: int = 0
    problems: tuple[Problem, ...] = ()
    n_problems: int = 0
    last_began_ns: int = 0
    last_ended_ns: int = 0
    last_bytes: int = 0
    last_problems: tuple[Problem, ...] = ()
    last_n_problems: int = 0

    def changed(self, **changes: Any) -> ScrubState:
        return replace(self, **changes)

    def found(self, where: str, what: str, hint: str) -> ScrubState:
        """With one problem more."""
        kept = (*self.problems, (where, what, hint)) if len(self.problems) < MOST_PROBLEMS else self.problems
        return replace(self, problems=kept, n_problems=self.n_problems + 1)

    def ended(self, now_ns: int) -> ScrubState:
        """The scrub that is under way is through."""
        return ScrubState(last_began_ns=self.began_ns, last_ended_ns=now_ns, last_bytes=self.bytes_read,
                          last_problems=self.problems, last_n_problems=self.n_problems)


def save(os: Os, files: VolumeFiles, state: ScrubState) -> None:
    fields = asdict(state)
    place = fields.pop("place")
    os.write_file(files.scrub, checked_json.packed("scrub", {**fields, **place}, FORMAT))


def load(os: Os, files: VolumeFiles) -> ScrubState:
    """What is there; a ScrubState of nothing where there is no file, or it is damaged."""
    if not os.exists(files.scrub):
        return ScrubState()
    try:
        fields = checked_json.unpacked(os.read_file(files.scrub), "scrub", FORMAT)
        place = {name: fields.pop(name) for name in ("part", "item", "page")}
        if place["part"] not in PARTS:
            raise ValueError("an unknown part")
        return checked_json.made(ScrubState, {**fields, "place": place})
    except (ValueError, KeyError, TypeError, AttributeError):
        return ScrubState()
