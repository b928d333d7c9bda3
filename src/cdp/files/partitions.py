"""Partition tables: GPT, and MBR with its logical partitions."""
from __future__ import annotations

import encodings.utf_16_le  # noqa: F401  (names in GPT; nothing can be imported when they are read)
import struct
import zlib
from dataclasses import dataclass

from cdp.files.model import Source
from cdpcore.base.errors import Corruption

SECTORS = (512, 4096)
MAX_PARTITIONS = 128
EXTENDED = (0x05, 0x0F, 0x85)
PROTECTIVE = 0xEE


@dataclass(frozen=True)
class Partition:
    """In bytes. `number`: as the kernel counts them."""

    number: int
    offset: int
    size_bytes: int
    name: str


def partitions(source: Source) -> list[Partition]:
    """The partitions of a disk, by number; none where it has no table. Raises Corruption."""
    if source.size_bytes < 1024:
        return []
    mbr = source.pread(512, 0)
    if mbr[510:] != b"\x55\xaa":
        return []
    entries = [_entry(mbr, i) for i in range(4)]
    if any(kind == PROTECTIVE for kind, _, _ in entries):
        return _gpt(source)
    # A boot sector of FAT or NTFS ends with the same two bytes.
    if any(mbr[446 + 16 * i] & 0x7F for i in range(4)):
        return []
    found = []
    for number, (kind, first, count) in enumerate(entries, 1):
        if kind in EXTENDED:
            found += _logical(source, first)
        elif kind and count:
            found.append(_checked(source, number, first * 512, count * 512, f"type {kind:#04x}"))
    return sorted(found, key=lambda one: one.number)


def _entry(sector: bytes, i: int) -> tuple[int, int, int]:
    kind, first, count = struct.unpack_from("<4xB3xII", sector, 446 + 16 * i)
    return kind, first, count


def _checked(source: Source, number: int, offset: int, size_bytes: int, name: str) -> Partition:
    if offset + size_bytes > source.size_bytes:
        raise Corruption(f"partition {number} ends behind the end of the disk")
    return Partition(number, offset, size_bytes, name)


def _logical(source: Source, extended: int) -> list[Partition]:
    found: list[Partition] = []
    at = extended
    while len(found) < MAX_PARTITIONS and (at + 1) * 512 <= source.size_bytes:
        sector = source.pread(512, at * 512)
        if sector[510:] != b"\x55\xaa":
            break
        (kind, first, count), (onwards, following, _) = _entry(sector, 0), _entry(sector, 1)
        if kind and count:
            found.append(_checked(source, 5 + len(found), (at + first) * 512, count * 512, f"type {kind:#04x}"))
        if onwards not in EXTENDED or extended + following <= at:
            break
        at = extended + following
    return found


def _gpt(source: Source) -> list[Partition]:
    for sector in SECTORS:
        for at in (sector, source.size_bytes - sector):     # the second one is a copy at the end
            if at + sector <= source.size_bytes and (found := _gpt_at(source, sector, at)) is not None:
                return found
    raise Corruption("the GPT partition table of the disk is damaged")


def _gpt_at(source: Source, sector: int, at: int) -> list[Partition] | None:
    head = source.pread(512, at)
    size, checksum = struct.unpack_from("<II", head, 12)
    table, count, entry_bytes, table_checksum = struct.unpack_from("<QIII", head, 72)
    if head[:8] != b"EFI PART" or not 92 <= size <= 512 or zlib.crc32(
            head[:16] + bytes(4) + head[20:size]) != checksum:
        return None
    if not 128 <= entry_bytes <= 4096 or count > 1024 or (table * sector) + count * entry_bytes > source.size_bytes:
        return None
    raw = source.pread(count * entry_bytes, table * sector)
    if zlib.crc32(raw) != table_checksum:
        return None
    found = []
    for number in range(1, count + 1):
        entry = raw[(number - 1) * entry_bytes:][:128]
        first, last = struct.unpack_from("<QQ", entry, 32)
        if entry[:16] != bytes(16) and last >= first:
            name = entry[56:].decode("utf-16-le", "replace").partition("\0")[0]
            found.append(_checked(source, number, first * sector, (last - first + 1) * sector, name))
    return found
