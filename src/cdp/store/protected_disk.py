"""A disk that a before-image volume protects in place: adopted, locked, and known again.

The disk is the user's own raw file or block device and stays one. While it is not open here, anybody may write to it;
then the before-images do not fit it any more. So a clean close leaves a description of the disk (VOLUME/disk.json), and
opening compares: size, the file's change times and inode, and checksums of samples (a block device has no change times
of its own). What does not fit is refused: only `cdp adopt` begins a new history, because it ends the old one. After a
crash size and inode are known, and where nothing was under way then, when the file was changed last
(VOLUME/disk.state): another file is noticed, and a later write to the same one.

    disk.json   {"crc32c": "...", "disk": {...}}; "clean" in it while the volume is closed cleanly
"""
from __future__ import annotations

import os as _os
import stat
from dataclasses import asdict, dataclass, replace
from shlex import quote

from cdp.store import checked_json
from cdp.store.volume_files import VolumeFiles
from cdp.text.timestamps import utc
from cdpcore.base.checksum import crc32c
from cdpcore.base.errors import Busy, Corruption, InvalidRequest, NotFound, OutOfSpace, Unavailable
from cdpcore.inplace.disk_state import DiskState
from cdpcore.system.os import File, Os, PosixOs

EDGE_BYTES = 1 << 20    # of either end: where file systems and partition tables keep what changes with every mount
SAMPLES, SAMPLE_BYTES = 64, 4096
SECTOR_BYTES = 512      # the description is as long; it has some 250 bytes, and 512 at the most


@dataclass(frozen=True)
class Stamp:
    """How a disk looked. Times and inode are 0 for a block device and on a simulated machine."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    samples_crc: int
    clean: bool = True      # False: written while the volume was opened; times and samples do not count

    def differs(self, other: Stamp) -> str:
        """What is not the same, for a message; "" where all is."""
        found = []
        if self.size_bytes != other.size_bytes:
            found.append(f"{other.size_bytes} bytes instead of {self.size_bytes}")
        if self.clean and self.samples_crc != other.samples_crc:
            found.append("other content")
        if self.inode != other.inode:
            found.append("another file")
        elif self.clean and (self.mtime_ns, self.ctime_ns) != (other.mtime_ns, other.ctime_ns):
            found.append("written or touched since")
        return ", ".join(found)


def open_disk(os: Os, path: str, write: bool = True) -> File:
    """The disk, open and locked. Raises NotFound, Busy where another volume has it, InvalidRequest."""
    if isinstance(os, PosixOs):
        try:
            mode = _os.stat(path).st_mode
        except FileNotFoundError:
            raise NotFound(f"{path}: no such disk", "give the path of a raw disk image or a block device") from None
        except OSError as e:
            raise Unavailable(f"{path}: {e.strerror}", "give the path of a raw disk image or a block device") from None
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise InvalidRequest(f"{path}: neither a file nor a block device",
                                 "give the path of a raw disk image or a block device")
    file = os.open(path, write=write)
    try:
        file.lock()
    except Busy:
        file.close()
        raise Busy(f"{path}: another volume has this disk open",
                   "a disk is protected by one volume at a time") from None
    return file


def stamp(os: Os, path: str, file: File) -> Stamp:
    """The disk as it is now; reads about 2 MiB."""
    size = file.size()
    mtime = ctime = inode = 0
    if isinstance(os, PosixOs):
        found = _os.stat(path)
        if stat.S_ISREG(found.st_mode):
            mtime, ctime, inode = found.st_mtime_ns, found.st_ctime_ns, found.st_ino
    crc = 0
    for at, n in _samples(size):
        crc = crc32c(file.pread(n, at), crc)
    return Stamp(size, mtime, ctime, inode, crc)


def _samples(size: int) -> list[tuple[int, int]]:
    edge = min(EDGE_BYTES, size)
    step = max(SAMPLE_BYTES, size // SAMPLES // SAMPLE_BYTES * SAMPLE_BYTES)
    middle = [(at, min(SAMPLE_BYTES, size - at)) for at in range(edge, max(edge, size - edge), step)]
    return [(0, edge), *middle, (max(edge, size - edge), size - max(edge, size - edge))]


def save(os: Os, files: VolumeFiles, now: Stamp) -> None:
    """The volume is closed cleanly and its disk looks like this. Durable at return."""
    path, raw = files.disk_description, checked_json.packed("disk", asdict(now)).ljust(SECTOR_BYTES)
    try:
        os.write_file(path, raw)
    except OutOfSpace:
        if not os.exists(path):
            raise
        # over the old one, which has its block: inside a sector, so whole or not at all
        with os.open(path, write=True) as file:
            file.pwrite(raw, 0)
            file.datasync()


def opened(os: Os, files: VolumeFiles, now: Stamp) -> None:
    """From now on the disk changes: only which file it is stays known. Durable at return."""
    save(os, files, replace(now, clean=False))


def check_adopted(os: Os, files: VolumeFiles, path: str) -> None:
    """Raises Corruption where an adoption of the disk with its history was begun and not completed."""
    if os.exists(files.disk_adopting):
        raise Corruption(f"{path}: was changed outside, and its adoption is not complete",
                         f"repeat it: 'cdp adopt {quote(files.directory)} --keep-history'")


def check_unchanged(os: Os, files: VolumeFiles, path: str, file: File, size_bytes: int) -> Stamp:
    """How the disk looks; "clean" in it as the volume left it. Raises Corruption where it is not what the volume
    left."""
    now = stamp(os, path, file)
    if now.size_bytes != size_bytes:
        raise _changed(files, path, f"{now.size_bytes} bytes instead of {size_bytes}")
    if not os.exists(files.disk_description):    # a volume that was never opened has none
        return now
    was = left(os, files)
    difference = was.differs(now)
    if difference:
        raise _changed(files, path, difference)
    return replace(now, clean=was.clean)


def check_left_alone(files: VolumeFiles, path: str, file: File, state: DiskState) -> None:
    """After a crash, where the log ends with the record that `state` names: this program has not written to the disk
    since that was noted, but for a destructive restore that was being written back (not to be called then). Raises
    Corruption where another one has. An earlier time is no sign of it: a power cut loses times that no sync made
    durable."""
    changed_ns = file.changed_ns()
    if state.changed_ns and changed_ns > state.changed_ns:
        raise _changed(files, path, f"it was not closed cleanly; its last write was at {utc(state.changed_ns)}, and "
                                    f"the file was written to at {utc(changed_ns)}")


def left(os: Os, files: VolumeFiles) -> Stamp:
    """What disk.json says. Raises Corruption, NotFound."""
    try:
        return checked_json.made(Stamp, checked_json.unpacked(os.read_file(files.disk_description), "disk"))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise Corruption(f"{files.disk_description}: damaged ({e})",
                         "put it back from a copy, or 'cdp adopt' the disk anew") from None


def _changed(files: VolumeFiles, path: str, how: str) -> Corruption:
    directory = files.directory
    return Corruption(f"{path}: was changed outside since {directory} was closed ({how}): its history does not fit "
                      "the disk any more",
                      f"put the disk back as it was, or 'cdp adopt {quote(directory)}': with --keep-history its "
                      "history goes on with the disk as it is, without the old content of the blocks that were "
                      "changed, with --discard-history a new one begins")
