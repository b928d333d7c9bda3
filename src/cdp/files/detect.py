"""Which file system is on a disk, and where: on the whole of it, or in a partition."""
from __future__ import annotations

from cdp.files.ext4.filesystem import Ext4
from cdp.files.ext4.journal import Journal
from cdp.files.ext4.superblock import OFFSET, SIZE, is_ext
from cdp.files.model import FileSystem, Source, Window
from cdp.files.partitions import partitions
from cdpcore.base.errors import InvalidRequest, Unavailable

# What is named where there is no reader of it: (bytes, where).
MAGICS = {"XFS": (b"XFSB", 0), "btrfs": (b"_BHRfS_M", 0x10040), "NTFS": (b"NTFS    ", 3), "exFAT": (b"EXFAT   ", 3),
          "FAT": (b"FAT32   ", 82), "FAT16": (b"FAT", 54), "LUKS": (b"LUKS\xba\xbe", 0), "LVM": (b"LABELONE", 512),
          "swap": (b"SWAPSPACE2", 4086), "ISO 9660": (b"CD001", 0x8001), "ZFS": (b"\x0c\xb1\xba", 0x20000),
          "squashfs": (b"hsqs", 0), "f2fs": (b"\x10\x20\xf5\xf2", 1024), "md RAID": (b"\xfc\x4e\x2b\xa9", 4096)}


def kind_of(source: Source) -> str:
    """What is at the beginning of a disk: "ext4", a name of MAGICS, or ""."""
    if source.size_bytes >= OFFSET + SIZE and is_ext(source.pread(SIZE, OFFSET)):
        return "ext4"
    for name, (magic, at) in MAGICS.items():
        if at + len(magic) <= source.size_bytes and source.pread(len(magic), at) == magic:
            return name
    return ""


NOT_MOUNTED = ("", "LUKS", "LVM", "swap", "md RAID")


def placed(source: Source, partition: int | None) -> tuple[int, int]:
    """Offset and size of what can be mounted, in bytes: a partition, by number, or (None) the whole disk, or the only
    partition that holds a file system. Raises InvalidRequest, Corruption."""
    parts = partitions(source) if partition is not None or not kind_of(source) else []
    found = [one for one in parts if one.number == partition or partition is None and kind_of(
        Window(source, one.offset, one.size_bytes)) not in NOT_MOUNTED]
    if len(found) == 1:
        return found[0].offset, found[0].size_bytes
    if partition is not None:
        raise _no_partition(source, partition)
    if parts:
        raise _which(source, len(parts))
    return 0, source.size_bytes


def opened(source: Source, partition: int | None, journal: Journal | None = None) -> tuple[FileSystem, int | None]:
    """The file system of the disk, or of a partition: by number, or (None) the only one that can be read. `journal`: as
    for Ext4. Raises NotFound, InvalidRequest, Corruption, Unavailable."""
    if partition is None:
        if kind := kind_of(source):
            return _reader(source, kind, "", journal), None
        parts = partitions(source)
        readable = [one for one in parts if kind_of(Window(source, one.offset, one.size_bytes)) == "ext4"]
        if len(readable) != 1:
            raise _which(source, len(parts))
        partition = readable[0].number
    else:
        parts = partitions(source)
    for one in parts:
        if one.number == partition:
            part = Window(source, one.offset, one.size_bytes)
            return _reader(part, kind_of(part), f" in partition {partition}", journal), partition
    raise _no_partition(source, partition)


def _no_partition(source: Source, partition: int) -> Exception:
    return InvalidRequest(f"the disk has no partition {partition}", _listed(source) or "leave off --partition")


def _reader(source: Source, kind: str, where: str, journal: Journal | None) -> FileSystem:
    if kind == "ext4":
        return Ext4(source, journal)
    what = f"{kind}, which is not read here" if kind else "no file system that is known"
    raise Unavailable(f"there is {what}{where}", "mount the moment: cdp shell VOLUME@POINT")


def _which(source: Source, count: int) -> Exception:
    if not count:
        return Unavailable("there is no file system that is known, and no partition table",
                           "mount the moment: cdp shell VOLUME@POINT")
    return InvalidRequest(f"the disk has {count} partitions", _listed(source))


def _listed(source: Source) -> str:
    found = [f"{one.number} ({kind_of(Window(source, one.offset, one.size_bytes)) or one.name or 'not known'})"
             for one in partitions(source)]
    return f"give --partition N: {', '.join(found)}" if found else ""
