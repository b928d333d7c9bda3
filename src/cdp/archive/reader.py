"""Reads an archive: what it holds, whether all of it is there and sound, and back into a folder that is a volume.

Every object is compared with the digest in its name. What is read belongs to one manifest; where its objects were
deleted meanwhile, there is a newer one: Deleted.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from shlex import quote

from cdp.archive.commits import newest
from cdp.archive.manifest import (
    ArchivedSegment,
    BasePart,
    Listing,
    Manifest,
    Outline,
    Page,
    Part,
    base_part_of,
    outline_of,
    page_items,
    segment_of,
)
from cdp.archive.names import digest, parsed
from cdp.archive.objects import ObjectStore
from cdp.check.rebuild import rebuild
from cdp.settings import Settings
from cdp.store import description, layout
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Corruption, InvalidRequest, NotFound, Unavailable
from cdpcore.system.os import Os, posix

Done = Callable[[int], None]


class Deleted(Unavailable):
    """An object is not there. Where the archive has a newer manifest, that may explain it."""


@dataclass
class Problem:
    """Something that is wrong with an object."""

    where: str
    what: str


@dataclass
class Verified:
    """What verify() found."""

    manifest: Manifest
    problems: list[Problem] = field(default_factory=list)
    segments: int = 0
    records: int = 0
    objects: int = 0
    bytes_read: int = 0


class Archive:
    """What a manifest holds; without one, the newest. Raises NotFound where there is no archive; Corruption,
    Unavailable."""

    def __init__(self, store: ObjectStore, manifest: Manifest | None = None):
        self.store = store
        found = manifest or newest(store)
        if found is None:
            raise NotFound(f"{store.url}: there is no archive", f"'cdp archive VOLUME {quote(store.url)}' makes one")
        self.manifest = found

    def require_complete(self) -> None:
        """Raises InvalidRequest where the first archiving has not got far enough to be a volume."""
        if not self.manifest.complete:
            raise InvalidRequest(f"{self.store.url}: its first archiving was interrupted, and is no volume yet",
                                 f"repeat 'cdp archive VOLUME {quote(self.store.url)}'")

    def content(self, part: Part | Page) -> bytes:
        """An object, whole. Raises Deleted, Corruption."""
        data = self.store.get(part.name)
        where = f"{self.store.url}/{part.name}"
        if data is None:
            raise Deleted(f"{where}: is missing", f"repeat this, then run 'cdp check {quote(self.store.url)}'")
        name = parsed(part.name)
        if len(data) != part.size or name is None or digest(data) != name.digest:
            raise Corruption(f"{where}: damaged: it has not the content that its name says",
                             "see whether the store has an earlier version of it")
        return data

    def segments(self) -> Iterator[ArchivedSegment]:
        return (segment_of(item) for item in self._items(self.manifest.segments))

    def outlines(self) -> Iterator[Outline]:
        return (outline_of(item) for item in self._items(self.manifest.outlines))

    def base_parts(self) -> Iterator[BasePart]:
        return (base_part_of(item) for item in self._items(self.manifest.base))

    def _items(self, listing: Listing) -> Iterator[object]:
        for page in listing.pages:
            yield from page_items(self.content(page), page)
        yield from listing.items

    # --- all of it ----------------------------------------------------------------------------------------------------

    def verify(self, progress: Done = lambda done: None) -> Verified:
        """Read everything. Raises Unavailable."""
        found = Verified(self.manifest)

        def read(part: Part | Page) -> bytes | None:
            found.objects += 1
            try:
                data = self.content(part)
            except (Corruption, Deleted) as error:
                found.problems.append(Problem(part.name, error.message.removeprefix(f"{self.store.url}/")))
                return None
            found.bytes_read += len(data)
            progress(found.bytes_read)
            return data

        def items(listing: Listing) -> Iterator[object]:
            for page in listing.pages:
                if (data := read(page)) is not None:
                    yield from page_items(data, page)
            yield from listing.items

        before: ArchivedSegment | None = None
        for segment in map(segment_of, items(self.manifest.segments)):
            found.segments += 1
            found.records += segment.last_seq - segment.first_seq + 1
            if before is not None and (segment.number <= before.number or segment.first_seq <= before.last_seq):
                found.problems.append(Problem(f"segment {segment.number}", "is out of order in the manifest"))
            before = segment
            for part in segment.parts:
                read(part)
        for outline in map(outline_of, items(self.manifest.outlines)):
            read(outline.part)
        for laid in map(base_part_of, items(self.manifest.base)):
            read(laid.part)
        return found

    def fetch(self, dest: str, settings: Settings, progress: Done = lambda done: None) -> int:
        """Make the volume in the folder `dest`, which is new, or what an interrupted call has left. Returns the bytes
        that were fetched. Raises InvalidRequest, Deleted, Corruption, and what writing raises."""
        self.require_complete()
        fetched = _Fetching(self, dest, progress).run()
        report = rebuild(dest, settings=settings)
        if not report.ok:
            problem = report.problems[0]
            raise Corruption(f"{problem.where}: {problem.what}", f"run 'cdp check {quote(self.store.url)}'")
        return fetched


class _Fetching:
    """From a manifest to the folder of a volume: segments, base, and last volume.json, which makes it one."""

    def __init__(self, archive: Archive, dest: str, progress: Done):
        self._archive, self._progress = archive, progress
        self._os, self._to = posix(), VolumeFiles(dest)
        self._done = 0

    def run(self) -> int:
        files, manifest = self._to, self._archive.manifest
        _check_begun(self._os, files)
        for folder in (files.directory, files.log, files.runs, files.images):
            with suppress(FileExistsError):
                os.mkdir(folder)
        if not self._os.exists(files.lock):
            self._os.open(files.lock, write=True, create=True).close()
        with closing(layout.lock(self._os, files)):
            segments = {segment.number: segment for segment in self._archive.segments()}
            for number in layout.segment_numbers(self._os, files):
                if number not in segments:      # of an interrupted call, and deleted since
                    self._os.unlink(files.segment(number))
            for segment in segments.values():
                self._fetch_segment(segment)
            if manifest.volume["base"] == "file":
                self._fetch_base(manifest.volume["size_bytes"])
            if manifest.retention is not None:
                self._os.write_file(files.retention, manifest.retention.encode())
            for folder in (files.log, files.directory):
                self._os.sync_dir(folder)
            description.save(self._os, files, manifest.geometry)
            self._os.sync_dir(os.path.dirname(files.directory))
        return self._done

    def _fetch_segment(self, segment: ArchivedSegment) -> None:
        path = self._to.segment(segment.number)
        if not self._is_there(path, segment):
            with open(f"{path}.tmp", "wb") as file:
                for part in segment.parts:
                    file.write(self._archive.content(part))
                    self._sent(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{path}.tmp", path)

    def _is_there(self, path: str, segment: ArchivedSegment) -> bool:
        """An interrupted call has fetched it already."""
        if not os.path.exists(path) or os.path.getsize(path) != segment.size:
            return False
        with open(path, "rb") as file:
            return all((name := parsed(part.name)) is not None and digest(file.read(part.size)) == name.digest
                       for part in segment.parts)

    def _fetch_base(self, size: int) -> None:
        with open(self._to.base_creating, "wb") as file:
            for laid in self._archive.base_parts():
                file.seek(laid.offset)
                file.write(self._archive.content(laid.part))
                self._sent(laid.part)
            end = file.seek(0, os.SEEK_END)
            file.truncate(max(size, end))
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._to.base_creating, self._to.base)

    def _sent(self, part: Part) -> None:
        self._done += part.size
        self._progress(self._done)


def _check_begun(os_: Os, files: VolumeFiles) -> None:
    """Only what an interrupted call left may be there."""
    if not os.path.isdir(os.path.dirname(files.directory)):
        raise NotFound(f"{files.directory}: its folder does not exist", "create the folder first")
    if not os.path.lexists(files.directory):
        return
    if os_.exists(files.description):
        raise InvalidRequest(f"{files.directory} exists", "take another name, or move it away")
    names = os.listdir(files.directory) if os.path.isdir(files.directory) else ["it is no folder"]
    if any(not files.is_own(name) for name in names):
        raise InvalidRequest(f"{files.directory}: exists, and is no volume", "take another name")
