"""Keeps an archive up to date, of a volume that is served or not: once, or every few seconds until it is stopped.

An idle volume costs a look at four files each time, and no request: where none of them changed, there is nothing new.
A volume that nobody serves is opened only when they changed. One thread.
"""
from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from cdp.archive.commits import Fenced
from cdp.archive.reader import Archive
from cdp.archive.retention import cut_of, may_be_due
from cdp.archive.source import VolumeSource
from cdp.archive.writer import PART_BYTES, Writer, Written
from cdp.moments.policy import Policy
from cdp.service.connect import connect
from cdp.service.locate import Location
from cdp.settings import Settings
from cdp.store.volume_files import VolumeFiles
from cdp.views import Service
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, OutOfSpace, Unavailable
from cdpcore.system.os import posix

RETAIN_S = 3600.0           # between two looks at what the policy gives up
LONGEST_WAIT_S = 60.0       # between attempts that fail
Seen = list[tuple[int, int] | None]


class Follower:
    """Args: location: the volume; writer: of its archive; tail: read the open segment of a served volume where it is;
    else it is sealed each time."""

    def __init__(self, location: Location, settings: Settings, writer: Writer, tail: bool,
                 policy: Policy | None = None):
        self._location, self._settings, self._writer, self._tail = location, settings, writer, tail
        self._files = VolumeFiles(location.root)
        self._seen: Seen | None = None
        self._policy, self._looked_s = policy, -RETAIN_S

    def up_to_date(self) -> Written:
        """As Writer's."""
        seen = self._look()
        look = self._policy is not None and time.monotonic() - self._looked_s >= RETAIN_S
        if seen == self._seen and not look:
            return Written()
        with connect(self._location, self._settings) as service:
            info = service.info()
            if info["disk"] is not None:
                raise InvalidRequest(f"{self._location.text}: protects a disk in place, which an archive does not hold",
                                     "use 'cdp backup'")
            tail = self._tail and info["served"] is not None
            source = VolumeSource(service, self._location.root, tail)
            done = self._writer.up_to_date(source)
            if look:
                done.given_up = self._retain(source)
            if done.changed:
                self._tell(service)
            open_here = info["served"] is None
        # what closing it here has changed is nothing new; what a server has written meanwhile may be
        self._seen = self._look() if open_here else seen
        return done

    def _retain(self, source: VolumeSource) -> int:
        """Give up what the policy does not keep. Returns the bytes of the log."""
        self._looked_s = time.monotonic()
        policy, store, now = self._policy, self._writer.store, self._writer.newest
        if policy is None or now is None or not may_be_due(Archive(store, now), policy, posix().now_ns()):
            return 0
        with cut_of(store, self._settings, policy, PART_BYTES, source.oldest()) as cut:
            return self._writer.give_up(cut, source) if cut is not None else 0

    def _tell(self, service: Service) -> None:
        """An event for who watches the volume. A server of an older version refuses it, which no archive minds."""
        newest = self._writer.newest
        if newest is not None and newest.upto is not None:
            with suppress(CdpError):
                service.archived(self._writer.url, *newest.upto)

    def run(self, every_s: float, wait: Callable[[float], bool], done: Callable[[Written], None],
            failed: Callable[[CdpError], None]) -> None:
        """Until wait(seconds) returns true. done: is called after each time that something was archived; failed: when
        it is tried again later. Raises what repeating it does not help against: Fenced, RefusedPoint, InvalidRequest,
        Corruption ..."""
        pause_s = every_s
        while True:
            try:
                written = self.up_to_date()
                pause_s = every_s
                if written.changed:
                    done(written)
            except Fenced:
                raise
            except (Busy, Unavailable, OutOfSpace) as error:
                failed(error)
                pause_s = min(max(2 * pause_s, 1.0), max(LONGEST_WAIT_S, every_s))
            if wait(pause_s):
                return

    def _look(self) -> Seen:
        """What changes with every record, with every opening, and with the volume's description and policy."""
        found: Seen = []
        names: list[str] = []
        with suppress(OSError):
            names = sorted(name for name in os.listdir(self._files.log) if name.endswith(".log"))
        for path in (self._files.log, self._files.description, self._files.retention,
                     *(f"{self._files.log}/{name}" for name in names[-2:])):
            try:
                status = os.stat(path)
                found.append((status.st_mtime_ns, status.st_size))
            except OSError:
                found.append(None)
        return found
