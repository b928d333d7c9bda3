"""What a volume is: VOLUME/volume.json, one line of JSON, replaced as a whole.

    {"crc32c": "...", "volume": {"uuid": ..., "size_bytes": ..., ...}}

Valid if crc32c is the CRC-32C of the text of the inner object as json.dumps(sort_keys=True) writes it, and `format` is
1, or 2 for a volume of before-images, or 3 for either, once times of its records may go back, or 5 for either, once
its history starts later than with the first record, or 6 for a volume of before-images, once others changed its disk
and its history went on, or 7 for one of after-images, once moments of the middle of its history were given up. It is
written when the volume is made, when its base is filled or its size changes, before the first time that goes back, and
before history is given up; it makes a folder a volume.
"""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from cdp.moments.model import Moment
from cdp.store import checked_json
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Corruption, RefusedPoint
from cdpcore.system.os import Os

FOLLOWS_CLOCK = 3   # the first format in which the times of records follow the clock back
STARTS_LATER = 5    # the first format in which the history may start later than with the first record
GOES_ON = 6         # the first format with records of what others did to a protected disk
THINNED = 7         # the first format in which moments of the middle may be gone (cdp.store.thinned_file)


@dataclass(frozen=True)
class Geometry:
    """uuid: 32 hex digits. base: "none" (all holes), "file" (base.img), "parent", or "disk": the disk at the absolute
    path `disk`, written in place, with a log of before-images. parent_seq and what follows: for a writable image, the
    moment of its parent that it shows. start_seq, start_ts_ns: the oldest moment that can be opened, once it is not the
    base of #0; start_flushed: whether it is flush-durable."""

    uuid: str
    size_bytes: int
    created_ns: int
    segment_bytes: int
    base: str
    parent_seq: int = 0
    parent_ts_ns: int = 0
    parent_uuid: str = ""
    format: int = 1
    disk: str = ""
    start_seq: int = 0
    start_ts_ns: int = 0
    start_flushed: bool = True

    @property
    def before(self) -> bool:
        """Whether the log keeps before-images."""
        return self.base == "disk"

    @property
    def may_lack_content(self) -> bool:
        """Whether there may be content that is not known, since others changed the disk."""
        return self.before and self.format >= GOES_ON

    @property
    def start(self) -> Moment:
        """The oldest moment that can be opened."""
        return Moment(self.start_seq, self.start_ts_ns if self.start_seq else self.created_ns)


def _text(geometry: Geometry) -> str:
    fields = asdict(geometry)
    if not geometry.before:
        del fields["disk"]      # format 1 does not have it
    if not geometry.start_seq:
        for name in ("start_seq", "start_ts_ns", "start_flushed"):      # nor do formats before 5
            del fields[name]
    return json.dumps(fields, sort_keys=True)


def save(os: Os, files: VolumeFiles, geometry: Geometry) -> None:
    """Durable at return: the old file or the new one, never half."""
    text = _text(geometry)
    os.write_file(files.description, f'{{"crc32c": "{crc32c(text.encode()):08x}", "volume": {text}}}\n'.encode())


def load(os: Os, files: VolumeFiles) -> Geometry:
    """Raises NotFound, Corruption."""
    path = files.description
    raw = os.read_file(path)
    try:
        outer = checked_json.parsed(raw)
        number, base = outer["volume"].get("format"), outer["volume"].get("base")
        if number not in (1, 2, FOLLOWS_CLOCK, STARTS_LATER, GOES_ON, THINNED) or \
                number == THINNED and base not in ("none", "file"):
            raise Corruption(f"{path}: format {number!r} is not known here",
                             "use the version of cdp that made it")
        geometry = checked_json.made(Geometry, outer["volume"])
        if int(outer["crc32c"], 16) != crc32c(_text(geometry).encode()):
            raise ValueError("checksum")
        return geometry
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise Corruption(f"{path}: damaged ({e})", "put it back from a copy; it is one line of text") from None


def load_unthinned(os: Os, files: VolumeFiles, copies: str) -> Geometry:
    """As load(), for `copies` of the log. Raises RefusedPoint where moments of the middle were thinned: a copy would
    promise them."""
    geometry = load(os, files)
    if geometry.format >= THINNED:
        raise RefusedPoint(f"{files.directory}: its policy thins its history, and {copies} have no tiers",
                           "'cdp export' copies moments; what was copied before stays as it is")
    return geometry
