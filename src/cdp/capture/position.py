"""How far a capture has come: VOLUME/capture.json, and what the volume's own records say beyond it.

The file says that record `seq` of the volume is the state of the log at `place`, and is written after that record is
durable. After a kill -9 the volume has records behind it: a prefix, in order, of what the log says next. They are
compared with the log, so each entry is in the history once, and writes by somebody else are noticed.

Invariants
  1. The file is replaced as a whole, durably; its checksum is that of volume.json.
  2. A witness is a checksum of bytes of the log that were taken: where one differs, it is another log.
One thread.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from cdp.capture.log_entries import Place, Tail
from cdp.capture.source import LogSource
from cdp.moments.records import FUA, RESTORE, TRIM, WRITE, ZERO, changes_content
from cdp.store import checked_json
from cdp.store.volume_files import VolumeFiles
from cdp.trace.model import Flag, Kind
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Corruption, NotFound, RefusedPoint
from cdpcore.system.os import posix

WITNESS_BYTES = 1 << 16
KINDS = {Kind.WRITE: WRITE, Kind.ZERO: ZERO, Kind.TRIM: TRIM}  # of a log's request: of the record that it becomes
ANOTHER = "--new-log goes on with a log that begins where this volume is; anything else needs a volume of its own"


@dataclass(frozen=True)
class Witness:
    """Bytes [position, position + size) of the log had this CRC-32C."""

    position: int
    size: int
    crc: int


@dataclass
class LogPosition:
    """source: path of the log; sector_bytes: its unit; place: what is taken, which is the volume's state at `seq`."""

    source: str
    sector_bytes: int
    place: Place
    seq: int
    witnesses: list[Witness] = field(default_factory=list)
    kind: str = "log"


@dataclass
class MirrorPosition:
    """source: who mirrors, as far as is known. sessions: connections that wrote. whole: (seq, ts_ns, session) of the
    latest moments at which a client said that all it had sent was there; synced: the first of them."""

    source: str
    sessions: int
    whole: list[tuple[int, int, int]] = field(default_factory=list)
    synced: tuple[int, int, int] | None = None
    kind: str = "mirror"


Position = LogPosition | MirrorPosition


def save(directory: str, position: Position) -> None:
    """Durable at return."""
    text = json.dumps(asdict(position), sort_keys=True)
    line = f'{{"capture": {text}, "crc32c": "{crc32c(text.encode()):08x}", "format": 1}}\n'
    posix().write_file(VolumeFiles(directory).capture, line.encode())


def load(directory: str) -> Position | None:
    """None where nothing was captured into this volume. Raises Corruption."""
    path = VolumeFiles(directory).capture
    try:
        inner = checked_json.unpacked(posix().read_file(path), "capture", 1)
        kind: type[Position] = MirrorPosition if inner["kind"] == "mirror" else LogPosition
        return checked_json.made(kind, inner)
    except NotFound:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corruption(f"{path}: damaged ({error})",
                         "the volume is whole; capture into a new one, or put the file back") from None


def witness(source: LogSource, position: int, size: int) -> Witness:
    return Witness(position, size, crc32c(source.read(position, size)))


def check_witnesses(source: LogSource, position: LogPosition) -> None:
    """Raises RefusedPoint where the log is not the one that was taken."""
    for w in position.witnesses:
        if witness(source, w.position, w.size) != w:
            raise RefusedPoint(f"{source.path}: not the log that this volume took {position.place.entries} entries "
                               f"of: bytes {w.position} to {w.position + w.size} are others now", ANOTHER)


@dataclass
class _Owed:
    """What is left of one request of the log."""

    kind: int
    start: int
    end: int
    fua: bool
    begin: Place
    behind: Place


def catch_up(volume: Any, tail: Tail, position: LogPosition, entries: int) -> int:
    """Move `tail`, which is at `position.place`, behind everything that the volume has. Returns the seq of the last
    change found.

    entries: how many the log counts. Raises RefusedPoint where the volume's records are not what the log says.
    """
    newest = volume.window().newest.seq
    if newest < position.seq:
        raise RefusedPoint(f"{volume.path}: ends at #{newest}, but #{position.seq} had been captured",
                           "was an older copy of it put back? Capture into a new volume")
    owed: _Owed | None = None
    requests = _requests(tail, entries)
    found, place = position.seq, tail.place
    for record in _changes(volume, position.seq, newest):
        seq, kind, offset, length = (int(record[name]) for name in ("seq", "kind", "offset", "length"))
        if owed is None:
            owed = next(requests, None)
        if owed is None or (kind, offset, bool(record["flags"] & FUA)) != (owed.kind, owed.start, owed.fua) or \
                offset + length > owed.end:
            what = "nothing more" if owed is None else f"{owed.end - owed.start} bytes at {owed.start}"
            raise RefusedPoint(f"{volume.path}: #{seq} changes {length} bytes at {offset}, but {tail.source.path} has "
                               f"{what} behind entry {place.entries}",
                               "somebody else wrote to the volume: capture into a new one")
        owed.start += length
        found = seq
        if owed.start == owed.end:
            place, owed = owed.behind, None
        else:
            place = Place(owed.begin.entries, owed.begin.position, owed.begin.inside + length)
            owed.begin = place
    tail.place = place
    return found


def _changes(volume: Any, after: int, upto: int) -> Iterator[Any]:
    for batch in volume.iter_records(after, upto):
        restored = batch["seq"][batch["kind"] == RESTORE]
        if len(restored):
            raise RefusedPoint(f"{volume.path}: restored by #{restored[0]}, so it is not its source's copy any more",
                               "'cdp undo' does not make it one; capture into a new volume")
        yield from batch[changes_content(batch["kind"])]


def _requests(tail: Tail, entries: int) -> Iterator[_Owed]:
    while piece := tail.next(entries):
        begin = piece.start
        for record, behind in zip(piece.records, piece.ends, strict=True):
            length = int(record["length_bytes"])
            if record["kind"] in KINDS and length:
                offset = int(record["offset_bytes"])
                kind, fua = KINDS[Kind(int(record["kind"]))], bool(record["flags"] & Flag.FUA)
                yield _Owed(kind, offset, offset + length, fua, begin, behind)
            begin = behind


def bookmark_name(text: str, taken: Iterable[str]) -> str:
    """A bookmark's name for the mark `text` of a log, unlike those that are taken."""
    from cdp.moments.points import valid_new_name

    allowed = "".join(c if c.isascii() and (c.isalnum() or c in "._+-") else "-" for c in text)
    base = allowed[:160].lstrip("._+-") or "mark"
    if not valid_new_name(base):
        base = f"mark-{base}"
    known, number, name = set(taken), 1, base
    while name in known:
        number += 1
        name = f"{base}-{number}"
    return name


