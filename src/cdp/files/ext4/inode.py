"""An inode of ext4, and where the content of its file is: extents, block maps, or in the inode itself."""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from cdp.files.ext4.checksum import raw_crc
from cdp.files.ext4.superblock import Superblock
from cdp.files.model import KINDS
from cdpcore.base.errors import Corruption, Unavailable

EXTENTS, INLINE, ENCRYPTED, INDEXED = 0x80000, 0x10000000, 0x800, 0x1000
EXTENT_MAGIC, MAX_DEPTH, UNWRITTEN = 0xF30A, 5, 32768
MAX_NODES = 1 << 17     # blocks of a file's map: 40 million extents
XATTR_MAGIC, SYSTEM = 0xEA020000, 7
Run = tuple[int, int, int]      # first block of the file, number of blocks, first block on the disk (0: not written)
ReadBlock = Callable[[int], bytes]


class Inode:
    """Constant after it was read."""

    def __init__(self, sb: Superblock, number: int, raw: bytes):
        self._sb, self.number, self._raw = sb, number, raw
        mode, uid, size, ctime, mtime, gid, self.links, self.flags = struct.unpack_from("<HHI4xII4xHH4xI", raw)
        generation, size_high = struct.unpack_from("<I4xI", raw, 0x64)
        self.generation, self.mode = generation, mode & 0o7777
        self.kind = KINDS.get(mode & 0o170000, "")
        uid_high, gid_high = struct.unpack_from("<HH", raw, 0x78)
        self.uid, self.gid = uid | uid_high << 16, gid | gid_high << 16
        self.size_bytes = size | (size_high << 32 if self.kind in ("file", "directory") else 0)
        self._extra = struct.unpack_from("<H", raw, 0x80)[0] if len(raw) > 128 else 0
        if self._extra > len(raw) - 128:
            raise Corruption(f"inode {number} is damaged")
        extras = struct.unpack_from("<II", raw, 0x84) if self._extra >= 12 else (0, 0)
        self.ctime_ns, self.mtime_ns = _time(ctime, extras[0]), _time(mtime, extras[1])
        self._seed = raw_crc(sb.seed, struct.pack("<II", number, generation))
        if sb.checksums:
            self._check()
        if not self.kind or self.size_bytes >= 1 << 60:
            raise Corruption(f"inode {number} is damaged: it is no file, directory or other entry")

    def _check(self) -> None:
        raw, wide = bytearray(self._raw), self._extra >= 4
        found = struct.unpack_from("<H", raw, 0x7C)[0] | (struct.unpack_from("<H", raw, 0x82)[0] << 16 if wide else 0)
        raw[0x7C:0x7E] = bytes(2)
        if wide:
            raw[0x82:0x84] = bytes(2)
        if raw_crc(self._seed, bytes(raw)) & (0xFFFFFFFF if wide else 0xFFFF) != found:
            raise Corruption(f"the checksum of inode {self.number} is wrong")

    @property
    def inline(self) -> bool:
        """The content is in the inode."""
        return bool(self.flags & INLINE) or (
            self.kind == "symlink" and not self.flags & EXTENTS and self.size_bytes < 60)

    def inline_parts(self) -> list[bytes]:
        """The content that is in the inode: 60 bytes, and the rest, which is an extended attribute."""
        parts = [self._raw[0x28:0x28 + 60]]
        if self.flags & INLINE:
            parts.append(self._system_data())
        if self.size_bytes > sum(map(len, parts)):
            raise Corruption(f"inode {self.number} is damaged: {self.size_bytes} bytes do not fit into it")
        return parts

    def _system_data(self) -> bytes:
        raw, at = self._raw, 128 + self._extra
        if at + 4 > len(raw) or struct.unpack_from("<I", raw, at)[0] != XATTR_MAGIC:
            return b""
        first = at = at + 4
        while at + 16 <= len(raw) and raw[at:at + 4] != bytes(4):
            length, index, offset, inode, size = struct.unpack_from("<BBHII", raw, at)
            if index == SYSTEM and raw[at + 16:at + 16 + length] == b"data":
                if inode or first + offset + size > len(raw):
                    raise Corruption(f"inode {self.number} is damaged: its content is outside of it")
                return raw[first + offset:first + offset + size]
            at += 16 + (length + 3 & ~3)
        return b""

    def dir_block_is_right(self, block: bytes, number: int) -> bool:
        """The checksum at the end of a block of a directory; true where there is none. A block of its hash tree, which
        no reader here uses, has another one, and may still end with one that was right when it held names."""
        tree = self.flags & INDEXED and (number == 0 or struct.unpack_from("<IH", block) == (0, len(block)))
        inode, size, length, kind, found = struct.unpack_from("<IHBBI", block, len(block) - 12)
        if tree or not self._sb.checksums or (inode, size, length, kind) != (0, 12, 0, 0xDE):
            return True
        return bool(raw_crc(self._seed, block[:-12]) == found)

    def runs(self, read: ReadBlock) -> Iterator[Run]:
        """Where the blocks of the file are, in order; what is not named is a hole. Raises Corruption."""
        if self.flags & ENCRYPTED:
            raise Unavailable(f"inode {self.number} is encrypted", "mount it with its key: cdp shell VOLUME@POINT")
        found = self._extent_runs(read) if self.flags & EXTENTS else self._mapped_runs(read)
        at, blocks = 0, -(-self.size_bytes // self._sb.block_bytes)
        for first, count, disk in found:
            if first < at or disk and not self._sb.first_data_block < disk <= self._sb.blocks - count:
                raise Corruption(f"the block map of inode {self.number} is damaged")
            at = first + count
            if first < blocks:      # what lies behind the end is allocated in advance
                yield first, min(count, blocks - first), disk

    def _extent_runs(self, read: ReadBlock) -> Iterator[Run]:
        root = self._raw[0x28:0x28 + 60]
        depth, nodes = struct.unpack_from("<H", root, 6)[0], 0
        stack: list[tuple[int, int]] = [(-1, depth)]        # (block, depth), the next one last
        while stack:
            block, depth = stack.pop()
            node = root if block < 0 else read(block)
            magic, entries, most, found = struct.unpack_from("<HHHH", node)
            if magic != EXTENT_MAGIC or found != depth or entries > most or most > (len(node) - 12) // 12 \
                    or depth > MAX_DEPTH:
                raise Corruption(f"the extents of inode {self.number} are damaged")
            end = 12 + 12 * most
            if block >= 0 and self._sb.checksums and end + 4 <= len(node) and \
                    raw_crc(self._seed, node[:end]) != struct.unpack_from("<I", node, end)[0]:
                raise Corruption(f"the checksum of an extent block of inode {self.number} is wrong")
            if depth:
                if (nodes := nodes + entries) > MAX_NODES:
                    raise Corruption(f"inode {self.number} has more than {MAX_NODES} extent blocks")
                children = [struct.unpack_from("<IIH", node, 12 + 12 * i) for i in range(entries)]
                stack += [(high << 32 | low, depth - 1) for _, low, high in reversed(children)]
                continue
            for i in range(entries):
                first, count, high, low = struct.unpack_from("<IHHI", node, 12 + 12 * i)
                written = count <= UNWRITTEN
                yield first, count if written else count - UNWRITTEN, (high << 32 | low) if written else 0

    def _mapped_runs(self, read: ReadBlock) -> Iterator[Run]:
        """As ext2 and ext3 have it: twelve blocks, and trees of one, two and three levels."""
        pointers = struct.unpack_from("<15I", self._raw, 0x28)
        per_block, nodes = self._sb.block_bytes // 4, 0
        blocks = -(-self.size_bytes // self._sb.block_bytes)
        # (pointer, level, first block of the file), the next one last.
        starts = [12, 12 + per_block, 12 + per_block + per_block ** 2]
        stack = [(pointers[12 + level], level + 1, starts[level]) for level in (2, 1, 0)]
        stack += [(pointers[i], 0, i) for i in reversed(range(12))]
        run: list[int] = []
        while stack:
            pointer, level, first = stack.pop()
            if not pointer or first >= blocks:
                continue
            if level:
                if (nodes := nodes + 1) > MAX_NODES:
                    raise Corruption(f"inode {self.number} has more than {MAX_NODES} blocks of its map")
                below = struct.unpack(f"<{per_block}I", read(pointer))
                step = per_block ** (level - 1)
                stack += [(below[i], level - 1, first + i * step) for i in reversed(range(per_block)) if below[i]]
            elif run and run[0] + run[1] == first and run[2] + run[1] == pointer:
                run[1] += 1
            else:
                if run:
                    yield run[0], run[1], run[2]
                run = [first, 1, pointer]
        if run:
            yield run[0], run[1], run[2]


def _time(seconds: int, extra: int) -> int:
    signed = seconds - (1 << 32) if seconds >> 31 else seconds
    return (signed + ((extra & 3) << 32)) * 1_000_000_000 + min(extra >> 2, 999_999_999)
