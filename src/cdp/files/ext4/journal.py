"""The journal of ext3 and ext4 (JBD2): what its committed transactions say is put over the disk, in memory.

As the kernel's recovery does it: transactions are taken in order for as long as each begins with the next number and
ends with a commit block whose checksum is right; a block that a later transaction revoked is not taken. Nothing is
copied: the overlay says for each block where in the journal it is. Integers of the journal are big-endian.
"""
from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator

from cdp.files.ext4.checksum import ALL, raw_crc
from cdp.files.model import Piece, Source
from cdpcore.base.errors import Corruption, Unavailable

MAGIC = 0xC03B3998
MAGIC_BYTES = struct.pack(">I", MAGIC)
DESCRIPTOR, COMMIT, SUPER_1, SUPER_2, REVOKE = 1, 2, 3, 4, 5
ESCAPED, SAME_UUID, DELETED, LAST = 1, 2, 4, 8
HAS_REVOKE, IS_64BIT, ASYNC_COMMIT, CSUM_2, CSUM_3, FAST_COMMIT = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
KNOWN = 0x3F
Run = tuple[int, int, int]


class Overlay(Source):
    """A disk with some blocks from elsewhere on it: {block: (block that it is in, its first four bytes are MAGIC)}."""

    def __init__(self, source: Source, block_bytes: int, blocks: dict[int, tuple[int, bool]]):
        self._source, self._size, self._blocks = source, block_bytes, blocks
        self._sorted = sorted(blocks)
        self.size_bytes = source.size_bytes

    def place(self, length: int, offset: int) -> Iterator[Piece]:
        self.check(length, offset)
        size, at, end = self._size, offset, offset + length
        for i in range(bisect_left(self._sorted, offset // size), len(self._sorted)):
            block = self._sorted[i]
            first = max(block * size, offset)
            if first >= end:
                break
            if first > at:
                yield from self._source.place(first - at, at)
            at = min((block + 1) * size, end)
            held, escaped = self._blocks[block]
            skip = first - block * size
            if escaped and skip < 4:
                magic = MAGIC_BYTES[skip:skip + at - first]
                yield Piece(len(magic), data=magic)
                first, skip = first + len(magic), skip + len(magic)
            if first < at:
                yield from self._source.place(at - first, held * size + skip)
        if at < end:
            yield from self._source.place(end - at, at)

    def pread(self, length: int, offset: int) -> bytes:
        self.check(length, offset)
        i = bisect_left(self._sorted, offset // self._size)
        if i == len(self._sorted) or self._sorted[i] * self._size >= offset + length:
            return self._source.pread(length, offset)
        parts, at = list[bytes](), offset
        size = self._size
        while at < offset + length:
            block, skip = divmod(at, size)
            n = min(size - skip, offset + length - at)
            held, escaped = self._blocks.get(block, (block, False))
            data = self._source.pread(n, held * size + skip)
            if escaped and skip < 4:
                data = (MAGIC_BYTES[skip:] + data[4 - skip:])[:n]
            parts.append(data)
            at += n
        return b"".join(parts)


class Journal:
    """A journal on a disk. `runs`: where its blocks are."""

    def __init__(self, source: Source, block_bytes: int, blocks: int, runs: list[Run]):
        self._source, self._size, self._disk_blocks, self._runs = source, block_bytes, blocks, runs
        self._starts = [first for first, _, _ in runs]
        raw = self._block(self.disk_block(0))
        magic, kind, _ = struct.unpack_from(">III", raw)
        size, length, first, self.sequence, self.start = struct.unpack_from(">IIIII", raw, 12)
        if magic != MAGIC or kind not in (SUPER_1, SUPER_2) or size != block_bytes:
            raise Corruption("the journal of the ext4 file system is damaged: it has no superblock")
        self._incompat = struct.unpack_from(">I", raw, 0x28)[0] if kind == SUPER_2 else 0
        if self._incompat & ~KNOWN:
            raise Unavailable(f"the journal has features that this reader does not know: {self._incompat:#x}",
                              "mount it: cdp shell VOLUME@POINT")
        self._checked = bool(self._incompat & (CSUM_2 | CSUM_3))
        if self._checked and raw_crc(ALL, raw[:0xFC], bytes(4), raw[0x100:1024]) != struct.unpack_from(
                ">I", raw, 0xFC)[0]:
            raise Corruption("the checksum of the superblock of the journal is wrong")
        self._seed = raw_crc(ALL, raw[0x30:0x40])
        self._first, self._end = first, length
        if self._incompat & FAST_COMMIT:
            self._end -= struct.unpack_from(">I", raw, 0x54)[0] or 256
        has = sum(count for _, count, _ in runs)
        if not 0 < first < self._end <= length <= has or self.start and not first <= self.start < self._end:
            raise Corruption("the journal of the ext4 file system is damaged: its sizes contradict each other")
        self._raw, self._at, self._sequence, self._left = raw, self.start, self.sequence, self._end - self._first
        self._used = 0
        self._found: dict[int, tuple[int, bool, int]] = {}
        self._revoked: dict[int, int] = {}
        self._tag_bytes = 16 if self._incompat & CSUM_3 else (
            8 + (4 if self._incompat & IS_64BIT else 0) + (2 if self._incompat & CSUM_2 else 0))

    def disk_block(self, number: int) -> int:
        """Where a block of the journal is on the disk."""
        i = bisect_left(self._starts, number + 1) - 1
        if i >= 0:
            first, count, disk = self._runs[i]
            if number < first + count and disk:
                return disk + number - first
        raise Corruption(f"the journal of the ext4 file system has no block {number}")

    def _block(self, disk_block: int) -> bytes:
        return self._source.pread(self._size, disk_block * self._size)

    def _next(self, number: int) -> int:
        return number + 1 if number + 1 < self._end else self._first

    def is_at(self, later: Journal) -> bool:
        """Does this journal, as it was read, go on as `later`, which is not scanned yet?"""
        return self._raw == later._raw and self._runs == later._runs

    def overlay(self) -> dict[int, tuple[int, bool]]:
        """What the committed transactions put over the disk (Overlay). Asked again, it goes on after the last
        transaction that it found."""
        while self._at and (one := self._transaction(self._at, self._sequence, self._left)):
            tags, revokes, at, used = one
            self._used += used
            self._found |= {block: (held, escaped, self._sequence) for block, held, escaped in tags}
            self._revoked |= dict.fromkeys(revokes, self._sequence)
            self._at, self._left, self._sequence = at, self._left - used, self._sequence + 1 & 0xFFFFFFFF
        return {block: (held, escaped) for block, (held, escaped, of) in self._found.items()
                if block not in self._revoked or 0 < of - self._revoked[block] & 0xFFFFFFFF < 1 << 31}

    def taken(self) -> list[tuple[int, int]]:
        """Offset and length on the disk of the transactions that were taken."""
        first = min(self._used, self._end - self.start)
        return [(piece.disk, piece.length) for start, n in ((self.start, first), (self._first, self._used - first))
                for disk, count in self._places(start, n)
                for piece in self._source.place(count * self._size, disk * self._size) if piece.disk is not None]

    def _places(self, number: int, count: int) -> Iterator[tuple[int, int]]:
        """Where blocks of the journal are on the disk."""
        for first, n, disk in self._runs:
            start, end = max(first, number), min(first + n, number + count)
            if start < end:
                yield disk + start - first, end - start

    def _transaction(self, at: int, sequence: int,
                     left: int) -> tuple[list[tuple[int, int, bool]], list[int], int, int] | None:
        """The transaction that begins at a block: its blocks (block, where, escaped), what it revokes, where the next
        one begins, how many blocks it takes; None: it is not committed."""
        tags: list[tuple[int, int, bool]] = []
        revokes: list[int] = []
        used = 0
        while used < left:
            raw = self._block(self.disk_block(at))
            magic, kind, found = struct.unpack_from(">III", raw)
            if magic != MAGIC or found != sequence:
                return None
            at, used = self._next(at), used + 1
            if kind == COMMIT:
                own = raw_crc(self._seed, raw[:0x10], bytes(4), raw[0x14:])
                right = not self._checked or own == struct.unpack_from(">I", raw, 0x10)[0]
                return (tags, revokes, at, used) if right else None
            if kind not in (DESCRIPTOR, REVOKE) or not self._tail_is_right(raw):
                return None
            if kind == REVOKE:
                revokes += self._revokes(raw)
                continue
            for block, escaped, checksum in self._tags(raw):
                if used >= left:
                    return None
                held = self.disk_block(at)
                if checksum is not None and not self._data_is_right(held, sequence, checksum):
                    return None     # with asynchronous commits the commit block may be there before the rest
                if not 0 <= block < self._disk_blocks:
                    raise Corruption(f"the journal of the ext4 file system writes block {block} of {self._disk_blocks}")
                tags.append((block, held, escaped))
                at, used = self._next(at), used + 1
        return None

    def _tail_is_right(self, raw: bytes) -> bool:
        return not self._checked or raw_crc(self._seed, raw[:-4], bytes(4)) == struct.unpack_from(
            ">I", raw, len(raw) - 4)[0]

    def _data_is_right(self, disk_block: int, sequence: int, checksum: int) -> bool:
        found = raw_crc(self._seed, struct.pack(">I", sequence), self._block(disk_block))
        return (found if self._incompat & CSUM_3 else found & 0xFFFF) == checksum

    def _tags(self, raw: bytes) -> Iterator[tuple[int, bool, int | None]]:
        """(block, escaped, checksum of its data)."""
        at, end = 12, len(raw) - (4 if self._checked else 0)
        wide = self._incompat & IS_64BIT
        while at + self._tag_bytes <= end:
            checksum: int | None
            if self._incompat & CSUM_3:
                block, flags, high, checksum = struct.unpack_from(">IIII", raw, at)
            else:
                block, found, flags = struct.unpack_from(">IHH", raw, at)
                high = struct.unpack_from(">I", raw, at + 8)[0] if wide else 0
                checksum = found if self._incompat & CSUM_2 else None
            yield block | (high << 32 if wide else 0), bool(flags & ESCAPED), checksum
            at += self._tag_bytes + (0 if flags & SAME_UUID else 16)
            if flags & LAST:
                return

    def _revokes(self, raw: bytes) -> list[int]:
        size = 8 if self._incompat & IS_64BIT else 4
        used = struct.unpack_from(">I", raw, 12)[0]
        if not 16 <= used <= len(raw) - (4 if self._checked else 0):
            raise Corruption("the journal of the ext4 file system is damaged: a list of revoked blocks is too long")
        return [int.from_bytes(raw[at:at + size], "big") for at in range(16, used - size + 1, size)]
