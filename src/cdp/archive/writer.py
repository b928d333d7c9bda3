"""Brings an archive up to date with its volume: what is new in the log, once the base, then a manifest.

A first archive takes long, so it is committed as it grows (`complete` is false until it is a volume); what was
interrupted is continued, or begun anew where the volume gave up what would come next. The order is that of
cdp.cli.backup_copy: segments, then the base, then what became segments meanwhile. The base of an archive is that of its
own beginning: it keeps what the volume gives up later.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from cdp.archive.commits import Commits, new_nonce, newest, take_over
from cdp.archive.conditional import Nonces, create_data
from cdp.archive.deletion import delete_old, delete_unnamed, due
from cdp.archive.manifest import (
    PAGE_ITEMS,
    ArchivedSegment,
    BasePart,
    Listing,
    Manifest,
    Outline,
    Page,
    Part,
    page_text,
    segment_of,
)
from cdp.archive.names import BASE, OUTLINES, PAGES, SEGMENTS, data_name
from cdp.archive.objects import ObjectStore
from cdp.archive.reader import Archive
from cdp.archive.retention import Cut, laid_over
from cdp.archive.source import Gone, Source, SourceSegment
from cdp.store.description import FOLLOWS_CLOCK, STARTS_LATER
from cdpcore.base.errors import Busy, Corruption, InvalidRequest, RefusedPoint, Unavailable

PART_BYTES = 8 << 20
COMMIT_BYTES = 256 << 20    # a first archive is committed at least that often
ROUNDS = 8
_OF_THE_START = ("base", "start_seq", "start_ts_ns", "start_flushed")   # an archive keeps its own
_BEGIN = "begin a new archive, at another URL"
Done = Callable[[int], None]


@dataclass
class Written:
    """What was put into the archive. `changed`: there is a new manifest."""

    changed: bool = False
    first: bool = False
    segments: int = 0
    objects: int = 0
    bytes: int = 0
    given_up: int = 0       # bytes of the log, by the archive's policy


class Writer:
    """Args: store: the archive; progress: gets the bytes that were sent. Nothing is written before up_to_date() finds
    something to write."""

    def __init__(self, store: ObjectStore, progress: Done = lambda done: None, nonces: Nonces = new_nonce,
                 part_bytes: int = PART_BYTES, commit_bytes: int = COMMIT_BYTES):
        self._store, self._progress, self._nonces = store, progress, nonces
        self._part_bytes, self._commit_bytes = part_bytes, commit_bytes
        self._commits: Commits | None = None
        self._newest: Manifest | None = None
        self._looked = False
        self._done = Written()
        self._uncommitted = 0
        self._counted = 0, 0        # manifests and bytes of the commits, as reported
        self._swept = False
        self._outlines: list[Outline] = []      # that were sent, and no manifest has

    @property
    def store(self) -> ObjectStore:
        return self._store

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def newest(self) -> Manifest | None:
        """The newest manifest that this writer knows."""
        return self._commits.last if self._commits else self._newest

    def up_to_date(self, source: Source) -> Written:
        """Everything that `source` has now is in the archive at return.

        Raises Fenced: another writer took over, this one must stop; RefusedPoint, InvalidRequest: what the volume has
        cannot continue the archive; Corruption; Unavailable and Busy: repeat it.
        """
        self._done = Written()
        if self._commits:
            self._commits.end_doubt()
        elif not self._looked:
            self._newest = newest(self._store)
            if self._newest is not None:
                self._check_same(self._newest, source)
            self._looked = True
        for _ in range(ROUNDS):
            try:
                self._bring(source)
                break
            except RefusedPoint:
                if self._commits is None or self._commits.last.complete:
                    raise
                self._begin_anew(source, self._commits)
        else:
            raise self._too_fast()
        if self._commits:
            self._delete(self._commits)
            self._done.objects += self._commits.made - self._counted[0]
            self._done.bytes += self._commits.sent_bytes - self._counted[1]
            self._counted = self._commits.made, self._commits.sent_bytes
        return self._done

    def _bring(self, source: Source) -> None:
        if self._begins(source):
            self._done.first = True
            self._take_over(source)
            self._repeated(source, last=False)
            self._send_base(source)
        self._repeated(source, last=True)

    def _begin_anew(self, source: Source, commits: Commits) -> None:
        """The volume gave up what would come next. Nothing was promised yet."""
        commits.commit(volume=source.volume(), upto=None, segments=Listing(), outlines=Listing(), base=Listing(),
                       base_at=0, base_seq=0)
        self._uncommitted = 0
        self._swept = False

    def give_up(self, cut: Cut, source: Source) -> int:
        """The archive begins with `cut` from now on: what nobody needs any more is deleted. Returns the bytes of the
        log that are given up; 0: it has gone on since `cut` was made. Raises as up_to_date()."""
        commits = self._take_over(source)
        now = commits.last
        if replace(now, number=0, epoch=0, nonce="") != replace(cut.of, number=0, epoch=0, nonce=""):
            return 0
        archive = Archive(self._store, now)
        base = [*archive.base_parts(), *(BasePart(offset, self._send(BASE, offset, data)) for offset, data
                                         in cut.regions)]
        gone = [segment for segment in archive.segments() if segment.last_seq <= cut.seq]
        numbers = {segment.number for segment in gone}
        size = now.volume["size_bytes"]
        # A name that is deleted here must not be made again: a request to delete it may be late. So the epoch is new.
        commits.commit(
            epoch=commits.epoch + 1,
            volume={**now.volume, "base": "file", "start_seq": cut.seq, "start_ts_ns": cut.ts_ns,
                    "start_flushed": cut.flushed, "format": max(now.volume["format"], STARTS_LATER)},
            segments=self._relisted(segment.item() for segment in archive.segments() if segment.number not in numbers),
            outlines=self._relisted(o.item() for o in archive.outlines() if o.number not in numbers),
            base=self._relisted(laid.item() for laid in laid_over(base, size, self._part_bytes)), base_at=size)
        self._uncommitted = 0
        self._swept = False
        with suppress(Unavailable, Corruption):     # another time, by whoever writes then
            delete_old(self._store, commits, keep=0)
            delete_unnamed(self._store, commits)
            self._swept = True
        return sum(segment.size for segment in gone)

    def _relisted(self, items: Iterable[Any]) -> Listing:
        return self._paged(Listing((), tuple(items)))

    def _delete(self, commits: Commits) -> None:
        """Now and then what is not needed any more. What goes wrong there does not matter to what is archived."""
        with suppress(Unavailable, Corruption):
            if due(commits):
                delete_old(self._store, commits)
                if not self._swept:
                    delete_unnamed(self._store, commits)
                    self._swept = True

    def _begins(self, source: Source) -> bool:
        """The archive is not a volume yet; or one without records, whose content was imported since."""
        now = self.newest
        return now is None or not now.complete or now.seq == 0 and now.volume["base"] != source.volume()["base"]

    def _take_over(self, source: Source) -> Commits:
        if self._commits is None:
            self._commits = take_over(self._store, source.volume, lambda now: self._check_same(now, source),
                                      self._nonces)
            self._done.changed = True
        return self._commits

    def _check_same(self, now: Manifest, source: Source) -> None:
        """What the archive has is of this volume, and its newest record is one of its history."""
        volume, url = source.volume(), self._store.url
        if now.volume["uuid"] != volume["uuid"]:
            raise InvalidRequest(f"{url}: is the archive of another volume", "take another URL")
        if now.upto is None:
            return
        same = source.shows(*now.upto)
        if same is None and now.complete and not any(lo < now.seq < hi for lo, hi in source.freed()):
            raise RefusedPoint(f"{url}: ends with #{now.seq}, which the volume has given up", _BEGIN)
        if same is False:
            raise RefusedPoint(f"{url}: ends with #{now.seq}, which is not in this volume's history: it went on "
                               "elsewhere", _BEGIN)

    # --- the log ------------------------------------------------------------------------------------------------------

    def _repeated(self, source: Source, last: bool) -> None:
        for _ in range(ROUNDS):
            try:
                self._send_log(source, last)
                return
            except Gone:
                continue
        raise self._too_fast()

    def _too_fast(self) -> Busy:
        return Busy(f"{self._store.url}: the volume gives up history faster than it can be sent", "repeat this later")

    def _send_log(self, source: Source, last: bool) -> None:
        """What is new in the log. `last`: nothing else is to be sent, so that it is a volume then. Raises Gone."""
        now = self.newest
        if self._commits is None and last and now is not None and self._nothing_new(now, _look(now, source), source):
            return      # without a new epoch
        now = self._take_over(source).last
        # What was looked at before may be less than what another writer has sent since.
        sealed, growing = _known(now)
        rows = _look(now, source)
        if last and now.complete and self._nothing_new(now, rows, source):
            return
        # The archive begins where the volume does, which may still need for its base what it has given up.
        start = 0 if now.seq else source.volume().get("start_seq", 0)
        joined = max(start, self._check_joined(now, sealed, growing, rows, source, start))
        new: list[ArchivedSegment] = []
        self._outlines.clear()
        for row in rows:
            new.append(self._send_segment(source, row, growing.get(row.number)))
            if self._uncommitted >= self._commit_bytes and row.sealed and row.last_seq >= joined and row != rows[-1]:
                self._commit(source, sealed, new)
        self._commit(source, sealed, new, complete=last)

    def _nothing_new(self, now: Manifest, rows: list[SourceSegment], source: Source) -> bool:
        return ((rows[-1].last_seq if rows else now.seq) == now.seq
                and self._described(now, source, now.seq) == now.volume
                and _policy(source.retention()) == _policy(now.retention))

    def _check_joined(self, now: Manifest, sealed: list[ArchivedSegment], growing: dict[int, ArchivedSegment],
                      rows: list[SourceSegment], source: Source, start: int) -> int:
        """What the volume has goes on where the archive ends, but for what destructive restores freed. Returns the
        record from which on that is so: the last of those restores. Those up to `start` are not listed any more."""
        if sealed:
            reach = sealed[-1].last_seq
        elif growing:
            reach = min(segment.first_seq for segment in growing.values()) - 1
        elif now.complete:
            reach = 0
        else:
            reach = rows[0].first_seq - 1 if rows else 0
        joined, free = 0, None
        for row in rows:
            if row.first_seq > reach + 1:
                free = source.freed() if free is None else free
                over = [hi for lo, hi in free if lo <= reach and row.first_seq <= hi <= rows[-1].last_seq]
                if not over and row.first_seq > start:
                    raise RefusedPoint(f"{self._store.url}: ends with #{reach}, and the volume has given up what comes "
                                       f"before #{row.first_seq}", _BEGIN)
                joined = max(joined, min(over, default=0))
            reach = row.last_seq
        return joined

    def _send_segment(self, source: Source, row: SourceSegment, before: ArchivedSegment | None) -> ArchivedSegment:
        source.check(row)
        parts = list(before.parts) if before else []
        at = sum(part.size for part in parts)
        while at < row.size:
            data = source.read(row, at, min(self._part_bytes, row.size - at))
            parts.append(self._send(SEGMENTS, row.first_seq, data))
            at += len(data)
        if row.sealed:
            self._outlines.append(Outline(row.number, self._send(OUTLINES, row.first_seq, source.outline(row))))
        self._done.segments += 1
        return ArchivedSegment(row.number, row.first_seq, row.last_seq, row.last_ts_ns, row.sealed, tuple(parts))

    # --- the base -----------------------------------------------------------------------------------------------------

    def _send_base(self, source: Source) -> None:
        """All that an earlier attempt did not send."""
        assert self._commits is not None
        if source.volume()["base"] != "file":
            return
        parts, at = list(self._commits.last.base.items), self._commits.last.base_at
        for offset, length in source.base_ranges(at):
            for at in range(offset, offset + length, self._part_bytes):
                data = source.read_base(at, min(self._part_bytes, offset + length - at))
                if data.strip(b"\0"):
                    parts.append(BasePart(at, self._send(BASE, at, data)).item())
                at += len(data)
                if self._uncommitted >= self._commit_bytes:
                    self._commit_base(parts, at)
                    parts = list(self._commits.last.base.items)
        self._commit_base(parts, at)

    def _commit_base(self, items: list[Any], at: int) -> None:
        assert self._commits is not None
        base = self._paged(Listing(self._commits.last.base.pages, tuple(items)))
        self._commits.commit(base=base, base_at=at)
        self._uncommitted = 0

    # --- objects and commits ------------------------------------------------------------------------------------------

    def _send(self, folder: str, at: int, data: bytes) -> Part:
        assert self._commits is not None
        name = data_name(folder, at, self._commits.epoch, data)
        create_data(self._store, name, data)
        self._uncommitted += len(data)
        self._done.objects += 1
        self._done.bytes += len(data)
        self._progress(self._done.bytes)
        return Part(name, len(data))

    def _commit(self, source: Source, sealed: list[ArchivedSegment], new: list[ArchivedSegment],
                complete: bool = False) -> None:
        """`sealed`: what the manifest has; it is so afterwards, and `new` is empty."""
        assert self._commits is not None
        now = self._commits.last
        segments = [*sealed, *new]
        upto = (segments[-1].last_seq, segments[-1].last_ts_ns) if segments else now.upto
        if upto is not None and upto[0] < now.seq:
            raise Gone      # it looked at less than there is
        changes: dict[str, Any] = {"upto": upto, "segments": self._paged(
            Listing(now.segments.pages, tuple(segment.item() for segment in segments)))}
        if self._outlines:
            changes["outlines"] = self._paged(Listing(now.outlines.pages, (
                *now.outlines.items, *(outline.item() for outline in self._outlines))))
        if complete or now.complete:
            changes |= {"volume": self._described(now, source, upto[0] if upto else 0),
                        "retention": source.retention(), "complete": True}
        self._commits.commit(**changes)
        self._done.changed = True
        self._uncommitted = 0
        sealed[:] = _known(self._commits.last)[0]
        new.clear()
        self._outlines.clear()

    def _described(self, now: Manifest, source: Source, upto_seq: int) -> dict[str, Any]:
        """The volume as it is now, with the start that the archive has."""
        volume = source.volume()
        if not now.complete or not now.seq:
            if volume.get("start_seq", 0) > upto_seq:
                raise Gone      # given up since it was listed
            return volume
        described = {**volume, **{name: now.volume[name] for name in _OF_THE_START}}
        if described["format"] == STARTS_LATER and not described["start_seq"]:
            described["format"] = FOLLOWS_CLOCK
        elif described["format"] < STARTS_LATER and described["start_seq"]:
            described["format"] = STARTS_LATER
        return described

    def _paged(self, listing: Listing) -> Listing:
        """The oldest items in objects of their own, where there are too many."""
        pages, items = list(listing.pages), listing.items
        while len(items) >= 2 * PAGE_ITEMS:
            data = page_text(items[:PAGE_ITEMS])
            part = self._send(PAGES, sum(page.items for page in pages), data)
            pages.append(Page(part.name, part.size, PAGE_ITEMS))
            items = items[PAGE_ITEMS:]
        return Listing(tuple(pages), items)



def _known(now: Manifest | None) -> tuple[list[ArchivedSegment], dict[int, ArchivedSegment]]:
    """The segments that a manifest has itself: those that are sealed, and by number those that are not."""
    known = [segment_of(item) for item in now.segments.items] if now else []
    return [s for s in known if s.sealed], {s.number: s for s in known if not s.sealed}


def _look(now: Manifest, source: Source) -> list[SourceSegment]:
    """What comes after the sealed segments of a manifest. (What an archive has given up, the volume may still have.)"""
    sealed, growing = _known(now)
    return source.look(sealed[-1].number if sealed else min(growing, default=1) - 1)


def _policy(retention: str | None) -> Any:
    """What users said, of retention.json; not the clock that is in it, which changes all the time."""
    if retention is None:
        return None
    try:
        said = json.loads(retention)["retention"]
        return said["policy"], said["pins"]
    except (ValueError, KeyError, TypeError):
        return retention
