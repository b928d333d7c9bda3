"""The owner's side of one standby's connection: what it lacks is sent, then what comes, in the order of the log.

What is sent is durable here. Frames come from the memory in which they were built; what is older, or was written before
the standby came, from the files. A segment's end (directory, checksums, trailer) follows when it is sealed.

Invariants
  1. volume.json is sent before the records that need it.
  2. A mark says what was sent whole: all up to its record, in every segment up to its own.
  3. What the standby has was compared with what is here before the first byte is sent.
"""
from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cdp.standby import wire
from cdp.standby.upkeep import refuse
from cdp.standby.wire import PIECE_BYTES, Channel
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import InvalidRequest, RefusedPoint
from cdpcore.log import shipping

if TYPE_CHECKING:
    from cdp import Volume
    from cdp.store.catalog import Segment

HEADER_BYTES = 4096
PACE_S = 0.004          # between two looks: what is flushed meanwhile goes together
LOOK_MS = 500
ANEW = "make the standby again, in a new folder"


class Sender:
    """Args: volume: open here; channel; hello: what the standby said. run() returns when stop() was called."""

    def __init__(self, volume: Volume, channel: Channel, hello: dict[str, Any]):
        self._volume, self._store, self._channel = volume, volume._store, channel
        self._files = VolumeFiles(volume.path)
        self._hello = hello
        self._following = bool(hello["following"])
        self._complete: int = hello["complete"]         # segments up to this number are complete there
        self._seq: int = hello["last_seq"]              # all up to this record was sent
        self._sent: dict[int, int] = {}                 # of others: how many bytes
        self._described: tuple[Any, str | None] | None = None
        self._retention_seen: tuple[int, int] | None = None
        self._retention: str | None = None
        self._marked_s = 0.0
        self._first = True
        self._stopped = False

    def stop(self) -> None:
        """Any thread. The channel is closed by who calls it."""
        self._stopped = True

    def run(self, epoch: int) -> None:
        """Raises Gone; RefusedPoint, InvalidRequest where the standby has to be made again."""
        refuse(self._store.geometry)
        self._compare()
        self._channel.send_json(wire.OFFER, {"epoch": epoch, "volume": asdict(self._store.geometry)})
        if not self._following:
            self._first_copy()
        seq = self._seq
        while not self._stopped:
            if self._round() or time.monotonic() - self._marked_s >= wire.ALIVE_S:
                self._mark()
            shipping.wait_durable(self._store.log, max(seq, self._seq) if self._seq >= seq else seq, LOOK_MS)
            seq = self._seq
            time.sleep(PACE_S)

    # --- what the standby has -----------------------------------------------------------------------------------------

    def _compare(self) -> None:
        hello, uuid = self._hello, self._store.geometry.uuid
        if hello["uuid"] is None:
            return
        if hello["uuid"] != uuid:
            raise InvalidRequest(f"{self._volume.name}: is another volume than the standby follows", ANEW)
        rows = {row.number: row for row in self._store.timeline.rows()}
        if self._complete:
            row = rows.get(self._complete)
            if row is None and self._complete > max(rows, default=0):
                raise self._elsewhere(self._seq)
            if row is None:
                raise RefusedPoint(f"{self._volume.name}: has given up, or freed, what comes after #{self._seq}", ANEW)
            if (row.last_seq, row.last_ts_ns) != (hello["last_seq"], hello["last_ts_ns"]):
                raise self._elsewhere(row.last_seq)
        ends = {number: end for number, _, _, end in shipping.unsealed(self._store.log)}
        for part in hello["parts"]:
            number, end = part["number"], part["end"]
            whole = rows[number].file_bytes if number in rows else ends.get(number, 0)
            if end > whole or not self._same(number, part["frame_offset"], part["frame_crc"]):
                raise self._elsewhere(part["last_seq"])
            self._sent[number] = end
            self._seq = max(self._seq, part["last_seq"])

    def _same(self, number: int, offset: int, crc: int) -> bool:
        """Whether that frame is here."""
        try:
            with open(self._files.segment(number), "rb", buffering=0) as file:
                file.seek(offset)
                return crc32c(file.read(HEADER_BYTES)) == crc
        except OSError:
            return False

    def _elsewhere(self, seq: int) -> RefusedPoint:
        return RefusedPoint(f"{self._volume.name}: is not what the standby followed up to #{seq}: it went on "
                            "elsewhere, or was brought back from a copy", ANEW)

    # --- the first copy -----------------------------------------------------------------------------------------------

    def _first_copy(self) -> None:
        """Segments, then the base, then volume.json: as cdp.cli.backup_copy, and for the same reasons."""
        self._store.seal()
        self._send_sealed()
        if self._store.geometry.base == "file":
            self._send_base()
        while self._seq < self._store.geometry.start_seq and not self._stopped:
            self._send_sealed()
        self._describe(wire.COMPLETE)
        self._following = True

    def _send_base(self) -> None:
        fd = os.open(self._files.base, os.O_RDONLY | os.O_CLOEXEC)
        try:
            at, end = 0, os.fstat(fd).st_size
            while at < end and not self._stopped:
                try:
                    begin = os.lseek(fd, at, os.SEEK_DATA)
                    stop = os.lseek(fd, begin, os.SEEK_HOLE)
                except OSError:
                    with suppress(OSError):
                        os.lseek(fd, 0, os.SEEK_HOLE)
                        return          # a hole up to the end
                    begin, stop = at, end
                while begin < stop:
                    piece = os.pread(fd, min(PIECE_BYTES, stop - begin), begin)
                    if not piece:
                        return
                    self._channel.send(wire.BASE, 0, begin, 0, piece)
                    begin += len(piece)
                at = stop
        finally:
            os.close(fd)

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _round(self) -> bool:
        """Send what is durable now. Returns whether there was something."""
        open_ones = shipping.unsealed(self._store.log)
        self._describe(wire.DESCRIPTION)        # as it was before the newest of these records
        numbers = {number for number, *_ in open_ones}
        before = self._seq, self._complete
        if self._first or any(number not in numbers for number in self._sent) or \
                open_ones and open_ones[0][1] > self._seq + 1:
            self._send_sealed()
            self._first = False
        for number, first_seq, last_seq, end in open_ones:
            if number <= self._complete:
                continue
            if first_seq > self._seq + 1 or any(other < number and other not in numbers for other in self._sent):
                break           # one before it is being sealed, and is not in the catalog yet
            if self._sent.get(number, 0) < end:
                self._send_bytes(number, end, live=True)
            self._seq = max(self._seq, last_seq)
        return (self._seq, self._complete) != before

    def _mark(self) -> None:
        number = max(self._sent, default=0)
        self._channel.send(wire.MARK, number, self._sent.get(number, 0), self._seq)
        self._marked_s = time.monotonic()

    def _send_sealed(self) -> None:
        """Segments of the catalog that are not complete there."""
        rows = [row for row in self._store.timeline.rows() if row.number > self._complete]
        for row in rows:
            if self._stopped:
                return
            self._check_joined(row)
            self._send_bytes(row.number, row.file_bytes, live=False)
            self._channel.send(wire.SEALED, row.number, row.file_bytes, row.last_seq)
            self._marked_s = time.monotonic()
            del self._sent[row.number]
            self._complete, self._seq = row.number, max(self._seq, row.last_seq)
            self._describe(wire.DESCRIPTION)

    def _check_joined(self, row: Segment) -> None:
        """The first copy may have holes that destructive restores made: its index is made from what it gets."""
        if row.first_seq > self._seq + 1 and (self._following or self._seq):
            holes = [] if self._following else self._store.gaps()
            if not any(lo <= self._seq and row.first_seq <= hi for lo, hi in holes):
                raise self._lacks(self._seq + 1, row.first_seq - 1)

    def _lacks(self, first: int, last: int) -> RefusedPoint:
        return RefusedPoint(f"{self._volume.name}: has given up, or freed, #{first} to #{last}, which the standby "
                            "lacks", ANEW)

    def _send_bytes(self, number: int, end: int, live: bool) -> None:
        """Of the segment's file, from what was sent up to byte `end`."""
        at, fd = self._sent.setdefault(number, 0), -1
        try:
            while at < end and not self._stopped:
                piece: Any = shipping.frames(self._store.log, number, at, end, PIECE_BYTES) if live and at else b""
                if not piece:
                    if fd < 0:
                        fd = os.open(self._files.segment(number), os.O_RDONLY | os.O_CLOEXEC)
                    piece = os.pread(fd, min(PIECE_BYTES if at else HEADER_BYTES, end - at), at)
                if not piece:
                    raise self._lacks(self._seq + 1, self._seq + 1)
                self._channel.send(wire.DATA, number, at, 0, piece)
                at += len(piece)
                self._sent[number] = at
                refuse(self._store.geometry)    # afterwards: it says so before the first byte of a segment goes
        except FileNotFoundError:
            raise self._lacks(self._seq + 1, self._seq + 1) from None
        finally:
            if fd >= 0:
                os.close(fd)

    # --- volume.json and retention.json -------------------------------------------------------------------------------

    def _describe(self, kind: int) -> None:
        geometry, retention = self._store.geometry, self._policy()
        refuse(geometry)
        if kind == wire.DESCRIPTION and (not self._following or (geometry, retention) == self._described):
            return
        if self._following and self._described is not None and self._described[0].base == "none" and \
                geometry.base == "file" and not self._seq:
            raise RefusedPoint(f"{self._volume.name}: content was imported into it, which the standby lacks", ANEW)
        self._channel.send_json(kind, {"volume": asdict(geometry), "retention": retention})
        self._described = geometry, retention

    def _policy(self) -> str | None:
        """retention.json; read again where the file changed."""
        try:
            found = os.stat(self._files.retention)
        except FileNotFoundError:
            self._retention_seen, self._retention = None, None
            return None
        seen = found.st_mtime_ns, found.st_size
        if seen != self._retention_seen:
            with suppress(OSError):
                with open(self._files.retention, encoding="utf-8") as file:
                    self._retention = file.read()
                self._retention_seen = seen
        return self._retention
