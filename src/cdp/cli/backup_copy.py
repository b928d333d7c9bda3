"""The copy of a volume that 'cdp backup' makes, and brings up to date: a volume of its own.

Sealed segments never change, so the log is copied segment by segment, the oldest first, each under another name until
it is whole, verified and durable. What else a copy needs is made so that it is right at every step:

after-images    the base is copied once, after the segments and before volume.json. While history is being given up it
                may hold, for any sector, what it held before or what it shows at the volume's start; both are right
                where volume.json has that start and the log goes on from before it (docs/format.md, *Start*).
before-images   the disk is written after the segments, and disk.state after the disk: after a crash in between, the
                next opening puts back what was overwritten, from the segments, and the copy is what it was before.

The moment of the copy is the end of a sealed segment. What a destructive restore frees while segments are copied is
noticed, and a new copy goes on up to that restore; an earlier one cannot be brought up to date over what is missing. At
the end the copy is opened, which catalogues what is new; a new one is checked as a whole before.

Not copied: catalog and index (made anew), writable images, and how far a capture has come.
"""
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from shlex import quote
from typing import TYPE_CHECKING

import cdp
from cdp.check.rebuild import rebuild
from cdp.cli.transfer import PIECE_BYTES, Source, export_file
from cdp.settings import Settings, checked
from cdp.store import description, layout
from cdp.store.base_image import make_empty
from cdp.store.description import Geometry
from cdp.store.protected_disk import opened, stamp
from cdp.store.tuning import Tuning
from cdp.store.volume_files import CREATING, VolumeFiles
from cdp.views import MAX_PAGE_EXTENTS, MAX_PAGE_RECORDS, MomentView, Service
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Busy, Corruption, InvalidRequest, NotFound, RefusedPoint
from cdpcore.inplace.disk_state import DiskState
from cdpcore.log.segment_file import SegmentFile
from cdpcore.system.os import posix

if TYPE_CHECKING:
    from cdp.views import SegmentView

ROUNDS = 8      # of segments that were freed while they were copied; each takes less than the one before
Done = Callable[[int], None]


@dataclass
class Copied:
    """What was done. `first`: there was no copy before; segments, log_bytes: that were copied; disk: of before-images,
    where its content is; disk_bytes: of it, or of the base, that were written."""

    first: bool
    upto: MomentView | None = None
    segments: int = 0
    log_bytes: int = 0
    disk: str | None = None
    disk_bytes: int = 0


class Backup:
    """Args: service: the volume; folder: its folder, readable here; dest: the copy's, new or an earlier copy's; disk:
    of before-images, where the content of a new copy's disk goes (a new file or a block device)."""

    def __init__(self, service: Service, folder: str, dest: str, disk: str, settings: Settings, progress: Done):
        self._service, self._settings, self._progress = service, settings, progress
        self._os, self._from, self._to = posix(), VolumeFiles(folder), VolumeFiles(dest)
        self._disk = disk
        self._geometry = self._describes_all()
        self._uuid = bytes.fromhex(self._geometry.uuid)
        self._done = Copied(True)
        self._reach = 0                 # all of the log up to this record is copied
        self._new: list[str] = []       # segments that were

    def _describes_all(self) -> Geometry:
        return description.load_unthinned(self._os, self._from, "backups")

    def run(self) -> Copied:
        """Raises InvalidRequest where `dest` is something else, RefusedPoint where a new copy must be begun, Corruption
        where what was copied is damaged, and what reading and writing raise; an earlier copy is left as it was."""
        earlier = self._os.exists(self._to.description)
        if earlier:
            self._update()
        else:
            self._make()
        return self._done

    @property
    def _again(self) -> str:
        return f"begin a new backup, with another name than {quote(self._to.directory)}"

    # --- a new copy ---------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        files = self._to
        self._check_begun()
        for folder in (files.directory, files.log, files.runs, files.images):
            with suppress(FileExistsError):
                os.mkdir(folder)
        if not self._os.exists(files.lock):
            self._os.open(files.lock, write=True, create=True).close()
        with closing(layout.lock(self._os, files)):
            first = self._copy_segments(0)
            for number in layout.segment_numbers(self._os, files):
                if number < first:      # of an interrupted beginning, and given up since
                    self._os.unlink(files.segment(number))
            if description.load(self._os, self._from).base == "file":
                self._done.disk_bytes = _copy(self._from.base, files.base_creating, self._progress)
                os.replace(files.base_creating, files.base)
            geometry = self._copy_log(0)
            upto = self._reach
            if geometry.base == "file" and not self._os.exists(files.base):
                make_empty(self._os, files, geometry.size_bytes)    # what it has by now, the copy's log has, too
            if geometry.before:
                self._done.disk = self._disk
                geometry = replace(geometry, disk=os.path.realpath(self._disk))
                self._fill_disk(geometry, upto)
                self._write_state(geometry, upto, create=True)
            self._describe(geometry)
            for folder in (files.log, files.directory, os.path.dirname(files.directory)):
                self._os.sync_dir(folder)
        report = rebuild(files.directory, settings=self._settings)
        if not report.ok:
            problem = report.problems[0]
            raise Corruption(f"{problem.where}: {problem.what}", f"run 'cdp check {quote(self._from.directory)}'")
        self._open()

    def _check_begun(self) -> None:
        """Only what an interrupted beginning left may be there."""
        files = self._to
        if not os.path.isdir(os.path.dirname(files.directory)):
            raise NotFound(f"{files.directory}: its folder does not exist", "create the folder first")
        if not os.path.lexists(files.directory):
            return
        names = os.listdir(files.directory) if os.path.isdir(files.directory) else ["it is no folder"]
        if any(not files.is_own(name) for name in names):
            raise InvalidRequest(f"{files.directory}: exists, and is no backup of this volume", "take another name")

    def _fill_disk(self, geometry: Geometry, upto: int) -> None:
        """The content at `upto`."""
        size, path = geometry.size_bytes, geometry.disk
        device = os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode)
        building = path if device else f"{path}{CREATING}"
        fd = os.open(building, os.O_RDWR | os.O_CLOEXEC | (0 if device else os.O_CREAT | os.O_TRUNC), 0o600)
        try:
            if device:
                room = os.lseek(fd, 0, os.SEEK_END)
                if room != size:
                    raise InvalidRequest(f"{path} has {room} bytes, the disk {size}", "take a device of that size")
                for at in range(0, size, PIECE_BYTES):
                    _write(fd, self._service.read(at, min(PIECE_BYTES, size - at), at=f"#{upto}"), at)
                    self._progress(at)
            else:
                os.ftruncate(fd, size)
                export_file(self._service, size, f"#{upto}", fd, self._progress)
            os.fsync(fd)
            self._done.disk_bytes = size if device else min(size, os.fstat(fd).st_blocks * 512)
        finally:
            os.close(fd)
        if not device:
            os.replace(building, path)
            self._os.sync_dir(os.path.dirname(path))

    # --- an earlier copy ----------------------------------------------------------------------------------------------

    def _update(self) -> None:
        old = description.load(self._os, self._to)
        if old.uuid != self._geometry.uuid:
            raise InvalidRequest(f"{self._to.directory}: is another volume", "take another name")
        if old.format >= description.THINNED:   # when it was opened: it lacks moments that the volume has
            raise RefusedPoint(f"{self._to.directory}: was thinned by its own policy", self._again)
        if self._disk and os.path.realpath(self._disk) != old.disk:
            raise InvalidRequest(f"{self._to.directory}: has its disk at {old.disk or 'no other place'}",
                                 "leave off --disk")
        self._done.first, self._done.disk = False, old.disk or None
        if not self._os.exists(self._to.catalog):       # it was broken off when all of it was copied
            rebuild(self._to.directory, settings=self._settings)
        at_seq, at_ts_ns = self._open()     # after a crash: what that left is completed, or put back
        self._check_same_history(old, at_seq, at_ts_ns)
        with closing(layout.lock(self._os, self._to)):
            if old.before:
                with self._os.open(old.disk, write=True) as disk:
                    disk.lock()
                    opened(self._os, self._to, stamp(self._os, old.disk, disk))
            self._repair(at_seq)
            self._reach = at_seq
            geometry = self._copy_log(at_seq)
            if old.before and self._reach > at_seq:
                self._bring_disk(old, at_seq, self._reach)
                self._write_state(old, self._reach)
            elif old.before:
                self._os.unlink(self._to.disk_description)
            elif geometry.base == "file":
                self._bring_base(old, geometry.size_bytes)
            self._describe(replace(geometry, disk=old.disk))
        self._open()

    def _repair(self, at_seq: int) -> None:
        """Segments of the copy that are missing or cut, and that the volume still has, are copied again. (What is
        inside of the others is not read: 'cdp check' does that.)"""
        for row in self._segments():
            path = self._to.segment(row["number"])
            if row["last_seq"] <= at_seq and (not self._os.exists(path) or self._os.size(path) < row["file_bytes"]):
                with suppress(FileNotFoundError):       # it was freed after it was listed
                    self._copy_segment(row)
        self._os.sync_dir(self._to.log)
        self._new = []

    def _bring_base(self, old: Geometry, size_bytes: int) -> None:
        """What history that was given up has put into the volume's base, the copy puts into its own by itself."""
        if old.base == "none":
            make_empty(self._os, self._to, size_bytes)
        elif size_bytes > self._os.size(self._to.base):
            with self._os.open(self._to.base, write=True) as base:
                base.truncate(size_bytes)
                base.datasync()

    def _check_same_history(self, old: Geometry, at_seq: int, at_ts_ns: int) -> None:
        """The copy is at a moment of the volume, and what came after it is all there."""
        dest = self._to.directory
        if at_seq == 0 and self._geometry.base != old.base:
            raise RefusedPoint(f"{dest}: is from before the content of {self._from.directory} was imported",
                               self._again)
        if old.before and self._geometry.size_bytes != old.size_bytes:
            raise RefusedPoint(f"{self._from.directory}: its disk has another size than when {dest} was made",
                               self._again)
        try:
            same = self._service.explain(f"#{at_seq}")["resolved"]
        except RefusedPoint as error:
            raise RefusedPoint(f"{self._from.directory}: lacks #{at_seq}, at which {dest} is ({error.message})",
                               self._again) from None
        if (same["seq"], same["ts_ns"]) != (at_seq, at_ts_ns):
            raise InvalidRequest(f"{dest}: has records of its own: it was written to since it was a backup",
                                 self._again)
        if old.before and self._service.history(f"#{at_seq}", limit=1, kinds="foreign")[0]:
            # what those overwrote is not known, so the copy's disk could not be put back
            raise RefusedPoint(f"{self._from.directory}: its disk was changed outside, and adopted, since the backup "
                               f"{dest}", self._again)

    def _bring_disk(self, old: Geometry, at_seq: int, upto: int) -> None:
        """From one moment to a later one: what differs is written."""
        fd = os.open(old.disk, os.O_RDWR | os.O_CLOEXEC)
        try:
            for offset, length in self._changed(at_seq, upto):
                for at in range(offset, offset + length, PIECE_BYTES):
                    count = min(PIECE_BYTES, offset + length - at)
                    _write(fd, self._service.read(at, count, at=f"#{upto}"), at)
                    self._done.disk_bytes += count
                self._progress(offset + length)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _changed(self, at_seq: int, upto: int) -> Iterator[tuple[int, int]]:
        offset: int | None = 0
        while offset is not None:
            page = self._service.diff(f"#{at_seq}", f"#{upto}", offset, self._geometry.size_bytes - offset,
                                      limit=MAX_PAGE_EXTENTS)
            for found in page["ranges"]:
                yield found["offset"], found["length"]
            offset = page["next_offset"]

    # --- the log ------------------------------------------------------------------------------------------------------

    def _copy_log(self, at_seq: int) -> Geometry:
        """All of it after record `at_seq`; the volume as it is described then."""
        for _ in range(ROUNDS):
            policy = self._os.read_file(self._from.retention) if self._os.exists(self._from.retention) else None
            self._copy_segments(at_seq)
            geometry = self._describes_all()
            freed = any(r["destructive"] and r["seq"] > self._reach for r in self._service.restores())
            if self._reach >= geometry.start_seq and not freed:
                if policy is not None:
                    self._os.write_file(self._to.retention, policy)
                return geometry
        raise self._too_fast()

    def _copy_segments(self, at_seq: int) -> int:
        """What is sealed now, after record `at_seq`. Returns the number of the first segment that there is."""
        for _ in range(ROUNDS):
            sealed = self._service.seal()["upto"]
            upto = sealed["seq"] if sealed is not None else 0
            rows = [row for row in self._segments() if at_seq < row["last_seq"] <= upto]
            self._check_joined(rows, at_seq)
            try:
                for row in rows:
                    self._copy_segment(row)
            except FileNotFoundError:
                continue        # it was freed after it was listed
            self._os.sync_dir(self._to.log)
            self._reach, self._done.upto = max(upto, self._reach), sealed
            return rows[0]["number"] if rows else 0
        raise self._too_fast()

    def _check_joined(self, rows: "list[SegmentView]", at_seq: int) -> None:
        """What is listed joins what is copied."""
        reach = self._reach
        if not at_seq:
            if reach and rows and rows[0]["first_seq"] > reach + 1:
                raise self._too_fast()
            return
        for row in rows:
            if row["first_seq"] > reach + 1:
                for path in reversed(self._new):
                    self._os.unlink(path)
                raise RefusedPoint(f"{self._from.directory}: has given up, or freed, #{reach + 1} to "
                                   f"#{row['first_seq'] - 1}, which {self._to.directory} lacks", self._again)
            reach = max(reach, row["last_seq"])

    def _too_fast(self) -> Busy:
        return Busy(f"{self._from.directory}: gives up history faster than it can be copied", "repeat this later")

    def _segments(self) -> "Iterator[SegmentView]":
        after: int | None = 0
        while after is not None:
            page = self._service.segments(after, MAX_PAGE_RECORDS)
            yield from page["segments"]
            after = page["next"]

    def _copy_segment(self, row: "SegmentView") -> None:
        number = row["number"]
        source, path = self._from.segment(number), self._to.segment(number)
        if self._is_there(path, row):
            return
        part, sums = f"{path}.tmp", self._to.segment_sums(number)
        _copy(source, part, lambda done: None)
        self._check_segment(part, row)
        self._describes_all()       # afterwards: it says so before the first byte of a segment goes
        with suppress(FileNotFoundError):
            _copy(self._from.segment_sums(number), f"{sums}.tmp", lambda done: None)
            os.replace(f"{sums}.tmp", sums)
        os.replace(part, path)
        self._new.append(path)
        self._done.segments += 1
        self._done.log_bytes += row["file_bytes"]
        self._progress(self._done.log_bytes)

    def _is_there(self, path: str, row: "SegmentView") -> bool:
        """A copy that was interrupted has it already."""
        if not os.path.exists(path):
            return False
        try:
            self._check_segment(path, row)
        except Corruption:
            return False
        return True

    def _check_segment(self, path: str, row: "SegmentView") -> None:
        with closing(SegmentFile(self._os, path, self._uuid, row["number"])) as segment:
            found = segment.first_seq, segment.last_seq, segment.last_ts_ns, segment.file_bytes
            if not segment.sealed or found != (row["first_seq"], row["last_seq"], row["last_ts_ns"], row["file_bytes"]):
                raise Corruption(f"{path}: is not the segment that it should be", "repeat this; then 'cdp check'")
            for offset, what in segment.wrong_blocks(freed=True):
                raise Corruption(f"{self._from.segment(row['number'])}: byte {offset}: {what}",
                                 f"run 'cdp check {quote(self._from.directory)}'")

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _describe(self, geometry: Geometry) -> None:
        description.save(self._os, self._to, geometry)

    def _write_state(self, geometry: Geometry, upto: int, create: bool = False) -> None:
        """The disk holds everything up to `upto`; where it lies and when it was changed says nothing: it may be
        copied."""
        if create and self._os.exists(self._to.disk_state):
            self._os.unlink(self._to.disk_state)
        with closing(DiskState(self._os, self._to.disk_state, self._uuid, create=create)) as state:
            state.holds(upto)
        if self._os.exists(self._to.disk_description):
            self._os.unlink(self._to.disk_description)
        self._os.sync_dir(self._to.directory)

    def _open(self) -> tuple[int, int]:
        """Open and close the copy, which completes what is to be completed. Returns its newest record and time. Its
        policy is not applied."""
        tuning = replace(Tuning.from_settings(checked(self._settings)), threads=False)
        with cdp.Volume(self._to.directory, settings=self._settings, _tuning=tuning) as volume:
            while volume.freeing() is not None:
                volume._store.step()
            newest = volume.window().newest
        return newest.seq, newest.ts_ns


def _copy(source: str, target: str, progress: Done) -> int:
    """A file, with its holes, durable and read back. Returns the bytes of its data. Raises FileNotFoundError."""
    with Source(source) as content:
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, content.file_bytes)
            ranges, crc, done = [], 0, 0
            for begin, length in content.data_ranges():
                for at in range(begin, begin + length, PIECE_BYTES):
                    data = content.pread(min(PIECE_BYTES, begin + length - at), at)
                    _write(fd, data, at)
                    crc, done = crc32c(data, crc), done + len(data)
                    ranges.append((at, len(data)))
                    progress(done)
            os.fsync(fd)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            again = 0
            for at, length in ranges:
                again = crc32c(os.pread(fd, length, at), again)
            if again != crc:
                raise Corruption(f"{target}: what was written does not read back", "look at that device")
            return done
        finally:
            os.close(fd)


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
