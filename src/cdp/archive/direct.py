"""An archive as a volume that can be read at once: its outlines are fetched, index and catalog made of them, and data
comes when it is read.

After the manifest that is one round trip for the outlines, all at the same time, and then one for each piece of data
that is read; one more, before, where the manifest's lists have pages. Segments without an outline are fetched whole:
those that are not sealed, at most two; and those of an archive that was made before there were outlines.

Threading: one thread; what is open then may be read by any.
"""
from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from shlex import quote

from cdp.archive.manifest import ArchivedSegment, BasePart, Part
from cdp.archive.missing import LIMIT_BYTES, Missing
from cdp.archive.objects import ObjectStore
from cdp.archive.outline import decoded
from cdp.archive.reader import Archive, Deleted, Done
from cdp.check.rebuild import make_index
from cdp.settings import Settings
from cdp.store import attached, description
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Corruption, InvalidRequest
from cdpcore.system.os import posix

log = logging.getLogger("cdp.archive")
AT_ONCE = 16        # requests
TRIES = 3           # manifests: objects of an older one may be deleted while they are fetched


class DirectArchive:
    """The volume in an archive, in the new folder `root`: read-only, and only in this process.

    Args: store; root: its last part is the volume's name; settings; limit_bytes: of the data that is kept. Raises
    NotFound, InvalidRequest (no volume yet), Deleted, Corruption, Unavailable, OutOfSpace.
    """

    def __init__(self, store: ObjectStore, root: str, settings: Settings, progress: Done = lambda done: None,
                 limit_bytes: int = LIMIT_BYTES):
        self.root, self._store, self._settings, self._progress = root, store, settings, progress
        self._limit = limit_bytes
        self._fetched = 0
        self._counting = threading.Lock()
        self.archive = Archive(store)
        for _ in range(TRIES):
            try:
                self._missing = self._open()
                break
            except Deleted:
                newer = Archive(store)
                if newer.manifest.number == self.archive.manifest.number:
                    raise
                shutil.rmtree(root)
                self.archive = newer
        else:
            raise Deleted(f"{store.url}: changes faster than it can be read", "repeat this")

    def close(self) -> None:
        """No volume in the folder is open any more. The folder may be removed."""
        attached.detach(self.root)

    def _open(self) -> Missing:
        self.archive.require_complete()
        manifest, files = self.archive.manifest, VolumeFiles(self.root)
        if manifest.volume["base"] not in ("none", "file"):
            raise InvalidRequest(f"{self._store.url}: is of a disk that was protected in place",
                                 f"bring it back: cdp archive {quote(self._store.url)} FOLDER")
        for folder in (files.directory, files.log, files.runs, files.images):
            os.makedirs(folder, 0o700, exist_ok=True)
        with open(files.lock, "a"):
            pass
        missing = Missing(self.archive, self._limit)
        self._fetch_log(missing)
        if manifest.volume["base"] == "file":
            parts = list(self.archive.base_parts())
            self._lay_out_base(parts, manifest.volume["size_bytes"])
            missing.add_base(files.base, parts)
        if manifest.retention is not None:
            posix().write_file(files.retention, manifest.retention.encode())
        description.save(posix(), files, manifest.geometry)
        make_index(self.root, missing.os, self._settings)
        attached.attach(self.root, missing.os, self._store.url, lambda: missing.failed)
        return missing

    def _fetch_log(self, missing: Missing) -> None:
        """Of each segment the outline, or all of it; several requests at a time."""
        files = VolumeFiles(self.root)
        outlines = {outline.number: outline.part for outline in self.archive.outlines()}
        work: list[Callable[[], None]] = []
        for segment in self.archive.segments():
            path = files.segment(segment.number)
            with open(path, "wb") as file:
                file.truncate(segment.size)
            outline = outlines.get(segment.number)
            if segment.sealed and outline is not None:
                work.append(partial(self._sketch, missing, path, segment, outline))
            else:
                work += self._whole(path, segment)
        with ThreadPoolExecutor(AT_ONCE, "cdp-archive") as pool:
            try:
                for done in [pool.submit(fetch) for fetch in work]:
                    done.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _sketch(self, missing: Missing, path: str, segment: ArchivedSegment, outline: Part) -> None:
        try:
            ranges, pieces = decoded(self.archive.content(outline), segment.size, f"{self._store.url}/{outline.name}")
            with open(path, "r+b") as file:
                for offset, piece in pieces:
                    file.seek(offset)
                    file.write(piece)
        except Corruption as error:
            log.warning("%s; the whole segment is fetched", error.message)
            for fetch in self._whole(path, segment):
                fetch()
            return
        self._count(outline)
        missing.add_segment(path, segment, ranges)

    def _whole(self, path: str, segment: ArchivedSegment) -> Iterator[Callable[[], None]]:
        at = 0
        for part in segment.parts:
            yield partial(self._put, path, at, part)
            at += part.size

    def _put(self, path: str, at: int, part: Part) -> None:
        data = self.archive.content(part)
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(data)
        self._count(part)

    def _lay_out_base(self, parts: list[BasePart], size: int) -> None:
        with open(VolumeFiles(self.root).base, "wb") as file:
            file.truncate(max([size, *(laid.offset + laid.part.size for laid in parts)]))

    def _count(self, part: Part) -> None:
        with self._counting:
            self._fetched += part.size
            self._progress(self._fetched)
