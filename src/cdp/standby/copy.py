"""The folder of a standby: a volume's log, byte by byte, as its owner has it.

    log/N.log     complete segments, verified: what a volume has
    log/N.part    segments that grow; each frame is verified once, and then counts
    standby.json  what it follows; while it says so, only this opens the folder

Invariants
  1. N.log of a standby is complete and durable. (After a promotion that was broken off, one may not be: begin() takes
     it back.)
  2. What is acknowledged is durable: the bytes, and the names of the files.
  3. volume.json, catalog and runs are the business of cdp.standby.upkeep: nothing here depends on them.
One thread.
"""
from __future__ import annotations

import os
import uuid as uuid_module
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

from cdp.store import standby_file
from cdp.store.layout import segment_numbers
from cdp.store.standby_file import STANDBY, StandbyState
from cdp.store.volume_files import VolumeFiles
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Busy, CdpError, Corruption, InvalidRequest, NotFound
from cdpcore.log.segment_file import SegmentFile
from cdpcore.log.shipping import FrameCheck
from cdpcore.system.os import File, posix

HEADER_BYTES = 4096
MOST_SEGMENT_BYTES = 5 << 30        # segment_bytes has a bound of 4 GiB


class _Part:
    """A segment that grows."""

    def __init__(self, path: str, number: int):
        self.path, self.number = path, number
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.high = os.fstat(self.fd).st_size
        self.check: FrameCheck | None = None
        self.dirty = False

    @property
    def end(self) -> int:
        return self.check.end if self.check else 0

    def close(self) -> None:
        if self.check:
            self.check.close()
            self.check = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Copy:
    """Args: folder. begin() makes it, or goes on with it; then it is held until close()."""

    def __init__(self, folder: str):
        self.os, self.files = posix(), VolumeFiles(folder)
        self.state = StandbyState()
        self.complete: list[int] = []       # numbers of the complete segments
        self.last_seq = self.last_ts_ns = 0     # of the newest one
        self._parts: dict[int, _Part] = {}
        self._base_fd = -1
        self._lock: File | None = None

    # --- from the folder ----------------------------------------------------------------------------------------------

    def begin(self, source: str, name: str) -> None:
        """Raises InvalidRequest where the folder is something else, Busy, NotFound."""
        files = self.files
        parent = os.path.dirname(files.directory) or "."
        if not os.path.isdir(parent):
            raise NotFound(f"{files.directory}: its folder does not exist", "create the folder first")
        self._check_folder()
        for folder in (files.directory, files.log, files.runs, files.images):
            with suppress(FileExistsError):
                os.mkdir(folder)
        for path in (files.lock, files.standby_lock):
            if not self.os.exists(path):
                self.os.open(path, write=True, create=True).close()
        self._hold()
        self.state = standby_file.load(self.os, files)
        if self.state.role == STANDBY and self.state.name != name:
            raise InvalidRequest(f"{files.directory}: is a standby of {self.state.name}", "take another folder")
        fresh = uuid_module.uuid4().hex if self.state.role != STANDBY else self.state.id
        if (self.state.role, self.state.source) != (STANDBY, source):
            self._save(role=STANDBY, source=source, name=name, id=fresh)
        self.os.sync_dir(files.directory)
        self.os.sync_dir(parent)
        self.reload()

    def _check_folder(self) -> None:
        """Only a standby's, or what the beginning of one left, may be there."""
        files = self.files
        if not os.path.lexists(files.directory):
            return
        if not os.path.isdir(files.directory):
            raise InvalidRequest(f"{files.directory}: exists, and is no folder", "take another name")
        names = set(os.listdir(files.directory))
        begun = {os.path.basename(path) for path in (files.log, files.runs, files.images, files.lock,
                                                     files.standby_lock, f"{files.standby}.tmp")}
        if self.os.exists(files.standby):
            if standby_file.load(self.os, files).role != STANDBY:
                raise InvalidRequest(f"{files.directory}: is a volume of its own", "a standby begins in a new folder")
        elif names - begun or os.path.isdir(files.log) and os.listdir(files.log):
            raise InvalidRequest(f"{files.directory}: exists, and is no standby", "take another name")

    def _hold(self) -> None:
        file = self.os.open(self.files.standby_lock, write=True)
        try:
            file.lock()
        except CdpError:
            file.close()
            raise Busy(f"{self.files.directory}: another process keeps this standby", "stop that one first") from None
        self._lock = file

    def take(self) -> None:
        """Hold a folder that is a standby, without a source: to promote it. Raises InvalidRequest, Busy."""
        if not self.os.exists(self.files.standby) or standby_file.load(self.os, self.files).role != STANDBY:
            raise InvalidRequest(f"{self.files.directory}: is no standby", "'cdp list' shows what is served here")
        self._hold()
        self.state = standby_file.load(self.os, self.files)
        self.reload()

    def reload(self) -> None:
        """What is there, verified: each part is cut behind its last valid frame."""
        self._close_parts()
        self.last_seq = self.last_ts_ns = 0
        self._take_back()
        self.complete = segment_numbers(self.os, self.files)
        if self.state.volume is None:
            return
        if self.complete:
            with closing(SegmentFile(self.os, self.files.segment(self.complete[-1]), self.uuid,
                                     self.complete[-1])) as newest:
                self.last_seq, self.last_ts_ns = newest.last_seq, newest.last_ts_ns
        for number in self._part_numbers():
            part = _Part(self.files.segment_part(number), number)
            try:
                part.check = FrameCheck(self.os, part.path, self.uuid, number)
                part.check.go_on(part.high)
            except Corruption:
                part.close()
            if part.end <= HEADER_BYTES or self.complete and number <= self.complete[-1]:
                part.close()
                os.unlink(part.path)
                continue
            os.ftruncate(part.fd, part.end)
            os.fsync(part.fd)
            part.high = part.end
            self._parts[number] = part
        self.os.sync_dir(self.files.log)

    def _part_numbers(self) -> list[int]:
        names = (name.removesuffix(".part") for name in os.listdir(self.files.log) if name.endswith(".part"))
        return sorted(int(name) for name in names if name.isdigit())

    def _take_back(self) -> None:
        """A promotion that was broken off named parts as if they were complete."""
        for number in segment_numbers(self.os, self.files)[-2:]:
            path = self.files.segment(number)
            try:
                with closing(SegmentFile(self.os, path, None, number)) as segment:
                    if segment.sealed:
                        continue
            except Corruption:
                pass
            os.rename(path, self.files.segment_part(number))

    def _save(self, **changes: Any) -> None:
        state = replace(self.state, **changes)
        standby_file.save(self.os, self.files, state)
        self.state = state

    @property
    def uuid(self) -> bytes:
        if self.state.volume is None:
            raise InvalidRequest(f"{self.files.directory}: nothing has come yet", "start 'cdp standby' for it first")
        return bytes.fromhex(self.state.volume["uuid"])

    def hello(self) -> dict[str, Any]:
        """What the owner has to know of it."""
        parts = []
        for number, part in sorted(self._parts.items()):
            if part.check:
                head = os.pread(part.fd, HEADER_BYTES, part.check.frame_offset)
                parts.append({"number": number, "end": part.end, "frame_offset": part.check.frame_offset,
                              "frame_crc": crc32c(head), "last_seq": part.check.last_seq})
        return {"id": self.state.id, "name": self.state.name, "epoch": self.state.epoch,
                "following": self.state.following, "uuid": self.state.volume["uuid"] if self.state.volume else None,
                "complete": self.complete[-1] if self.complete else 0, "last_seq": self.last_seq,
                "last_ts_ns": self.last_ts_ns, "parts": parts}

    @property
    def position(self) -> tuple[int, int, int]:
        """(segment, byte, record) up to which all is here."""
        newest = max(self._parts, default=0)
        part = self._parts.get(newest)
        if part and part.check and part.check.last_seq > self.last_seq:
            return newest, part.end, int(part.check.last_seq)
        number = self.complete[-1] if self.complete else 0
        return number, os.stat(self.files.segment(number)).st_size if number else 0, self.last_seq

    # --- what comes ---------------------------------------------------------------------------------------------------

    def offered(self, volume: dict[str, Any], epoch: int) -> None:
        """The owner says what it has; before anything else comes."""
        if self.state.volume is not None and self.state.volume["uuid"] != volume["uuid"]:
            raise InvalidRequest(f"{self.files.directory}: is a standby of another volume", "take another folder")
        if epoch < self.state.epoch:
            raise InvalidRequest(f"{self.state.source}: has epoch {epoch}, and this copy has seen {self.state.epoch}: "
                                 "it is not the owner any more", "follow the volume where it was promoted")
        if self.state.volume is None or epoch != self.state.epoch:
            self._save(volume=volume if self.state.volume is None else self.state.volume, epoch=epoch)

    def described(self, volume: dict[str, Any], retention: str | None) -> None:
        """Durable at return: before the records come that need it."""
        self._save(volume=volume, retention=retention)

    def write(self, number: int, offset: int, data: bytearray) -> None:
        """Raises Corruption where it cannot be."""
        if not 0 < number < 1 << 32 or self.complete and number <= self.complete[-1] or \
                offset + len(data) > MOST_SEGMENT_BYTES:
            raise Corruption(f"{self.state.source}: sent bytes of segment {number} at {offset}", "it is tried again")
        part = self._parts.get(number)
        if part is None:
            if len(self._parts) >= 2:
                raise Corruption(f"{self.state.source}: began a third segment, {number}", "it is tried again")
            part = self._parts[number] = _Part(self.files.segment_part(number), number)
            os.ftruncate(part.fd, 0)
            part.high = 0
            self.os.sync_dir(self.files.log)
        if offset != part.high:
            raise Corruption(f"{self.state.source}: sent segment {number} from {offset} on, not from {part.high}",
                             "it is tried again")
        view = memoryview(data)
        while view:
            count = os.pwrite(part.fd, view, part.high)
            view, part.high = view[count:], part.high + count
        part.dirty = True

    def mark(self, number: int, offset: int, seq: int) -> None:
        """All that came is durable at return, and verified. Raises Corruption where it is not what was sent."""
        for part in self._parts.values():
            if part.dirty:
                os.fdatasync(part.fd)
                part.dirty = False
                if part.check is None:
                    part.check = FrameCheck(self.os, part.path, self.uuid, part.number)
                part.check.go_on(part.high)
        part_of = self._parts.get(number)
        if part_of is not None and (part_of.end, part_of.check and part_of.check.last_seq) != (offset, seq):
            raise Corruption(f"{part_of.path}: what came is damaged behind byte {part_of.end}", "it is sent again")

    def sealed(self, number: int, size: int, last_seq: int) -> None:
        """The segment is complete: verified, durable, and a segment of the log at return."""
        part = self._parts.get(number)
        if part is None or part.high != size:
            raise Corruption(f"{self.state.source}: segment {number} was not sent whole", "it is sent again")
        os.ftruncate(part.fd, size)
        os.fsync(part.fd)
        with closing(SegmentFile(self.os, part.path, self.uuid, number)) as segment:
            if not segment.sealed or segment.last_seq != last_seq:
                raise Corruption(f"{part.path}: is not the segment that was sent", "it is sent again")
            for offset, what in segment.wrong_blocks(freed=True):
                raise Corruption(f"{part.path}: byte {offset}: {what}", "it is sent again")
            self.last_seq, self.last_ts_ns = segment.last_seq, segment.last_ts_ns
        del self._parts[number]
        part.close()
        os.rename(part.path, self.files.segment(number))
        self.os.sync_dir(self.files.log)
        self.complete.append(number)

    def drop(self, number: int) -> None:
        """Of a part that did not turn out to be what was sent: it comes anew, with the next connection."""
        part = self._parts.pop(number, None)
        if part is not None:
            part.close()
            os.unlink(part.path)

    def base(self, offset: int, data: bytearray) -> None:
        if self._base_fd < 0:
            self._base_fd = os.open(self.files.base_creating, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        view = memoryview(data)
        while view:
            count = os.pwrite(self._base_fd, view, offset)
            view, offset = view[count:], offset + count

    def completed(self, volume: dict[str, Any], retention: str | None) -> None:
        """The first copy is complete, durably at return."""
        if volume["base"] == "file":
            self.base(0, bytearray())
            os.ftruncate(self._base_fd, volume["size_bytes"])
            os.fsync(self._base_fd)
            os.rename(self.files.base_creating, self.files.base)
            self.os.sync_dir(self.files.directory)
        self._close_base()
        self._save(volume=volume, retention=retention, following=True)

    # --- the end ------------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """The folder is a volume from now on, with the next epoch; durably at return. To be followed by close()."""
        if not self.state.following:
            raise InvalidRequest(f"{self.files.directory}: the first copy is not complete, so it is no volume",
                                 "let 'cdp standby' complete it first, or use a backup")
        for number in sorted(self._parts):
            self._parts.pop(number).close()
            os.rename(self.files.segment_part(number), self.files.segment(number))
        self.os.sync_dir(self.files.log)
        if self.state.retention is not None:
            self.os.write_file(self.files.retention, self.state.retention.encode())
        self._save(role=standby_file.OWNER, epoch=self.state.epoch + 1, id="", volume=None, retention=None)

    def _close_parts(self) -> None:
        for part in self._parts.values():
            part.close()
        self._parts.clear()

    def _close_base(self) -> None:
        if self._base_fd >= 0:
            os.close(self._base_fd)
            self._base_fd = -1

    def disconnected(self) -> None:
        """What comes next begins where what is verified ends."""
        self._close_base()
        self.reload()

    def close(self) -> None:
        """Idempotent."""
        self._close_parts()
        self._close_base()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
