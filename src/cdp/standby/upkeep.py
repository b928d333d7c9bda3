"""What makes a volume of a standby's segments: volume.json, catalog, index, and the base where history was given up.

The folder is opened as a volume for a moment, with the code that opens every volume, now and then: what it finds are
complete segments. So a promotion has little to recover, and the history that the owner gives up is given up here, too.
The policy is not applied here: it is the owner's, and comes as volume.json.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import cdp
from cdp.check.rebuild import rebuild
from cdp.settings import Settings, checked
from cdp.store import description
from cdp.store.base_image import make_empty
from cdp.store.description import FOLLOWS_CLOCK, Geometry
from cdp.store.layout import segment_numbers
from cdp.store.tuning import Tuning
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.errors import Corruption, InvalidRequest
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import posix


def geometry_of(fields: dict[str, Any]) -> Geometry:
    """volume.json of the owner, as it was sent. Raises Corruption, and InvalidRequest for what has no standby."""
    try:
        geometry = Geometry(**fields)
        known = len(bytes.fromhex(geometry.uuid)) == 16 and geometry.size_bytes > 0 and geometry.segment_bytes > 0
    except (TypeError, ValueError):
        known = False
    if not known:
        raise Corruption("the owner's description of the volume is not understood",
                         "see whether both run the same version of cdp")
    refuse(geometry)
    return geometry


def refuse(geometry: Geometry) -> None:
    """Raises InvalidRequest for a volume that has no standby."""
    if geometry.base not in ("none", "file"):
        what = "protects a disk in place" if geometry.before else "is a writable image"
        raise InvalidRequest(f"the volume {what}, and has no standby", "'cdp backup' copies it")
    if geometry.format >= description.THINNED:
        raise InvalidRequest("the policy of the volume thins its history, and a standby has no tiers",
                             "'cdp export' copies moments of it")


class Upkeep:
    """Of the standby in `folder`. One thread; files that end in .part are not looked at."""

    def __init__(self, folder: str, settings: Settings):
        self._os, self._files, self._settings = posix(), VolumeFiles(folder), settings

    def describe(self, owner: Geometry) -> None:
        """volume.json, as far as what is here allows: the start moves when all up to it is here."""
        files = self._files
        has_base = self._os.exists(files.base)
        here = description.load(self._os, files) if self._os.exists(files.description) else None
        wanted = owner
        if here is not None and owner.start_seq > self._last_seq():
            wanted = replace(owner, start_seq=here.start_seq, start_ts_ns=here.start_ts_ns,
                             start_flushed=here.start_flushed,
                             format=here.format if here.start_seq else min(owner.format, FOLLOWS_CLOCK))
        if wanted.base == "file" and not has_base:
            make_empty(self._os, files, wanted.size_bytes)
            self._os.sync_dir(files.directory)
        elif wanted.base == "none" and has_base:
            wanted = replace(wanted, base="file")
        if wanted.base == "file" and self._os.size(files.base) != wanted.size_bytes:
            with self._os.open(files.base, write=True) as base:
                base.truncate(wanted.size_bytes)
                base.datasync()
        if wanted != here:
            description.save(self._os, files, wanted)

    def _last_seq(self) -> int:
        numbers = segment_numbers(self._os, self._files)
        if not numbers:
            return 0
        with closing(SegmentFile(self._os, self._files.segment(numbers[-1]), None, numbers[-1])) as segment:
            return int(segment.last_seq)

    def catalogue(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """What is complete gets into catalog and index, and what was given up goes. Raises Corruption."""
        files = self._files
        if not self._os.exists(files.catalog):
            report = rebuild(files.directory, settings=self._settings)
            if not report.ok:
                problem = report.problems[0]
                raise Corruption(f"{problem.where}: {problem.what}", "make the standby again, in a new folder")
        tuning = replace(Tuning.from_settings(checked(self._settings)), threads=False, standby=True)
        with cdp.Volume(files.directory, settings=self._settings, _tuning=tuning) as volume:
            while not stopped() and volume._store.maintainer.merge_once():
                pass
            while volume.freeing() is not None and not stopped():
                volume._store.step()
