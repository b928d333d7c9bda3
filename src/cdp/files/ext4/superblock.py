"""The superblock of ext4: how large everything is, which features there are, and where the groups' descriptors are."""
from __future__ import annotations

import struct

from cdp.files.ext4.checksum import ALL, raw_crc
from cdp.files.model import Source
from cdpcore.base.errors import Corruption, Unavailable

OFFSET, SIZE = 1024, 1024
MAGIC = 0xEF53
RECOVER, META_BG, IS_64BIT, CSUM_SEED = 0x4, 0x10, 0x80, 0x2000
METADATA_CSUM, SPARSE_SUPER, SPARSE_SUPER2, FAST_COMMIT = 0x400, 0x1, 0x200, 0x400
# Of the features that forbid reading: all but compression, a journal's own device and Lustre's directories.
KNOWN = {0x2: "filetype", 0x4: "needs_recovery", 0x10: "meta_bg", 0x40: "extent", 0x80: "64bit", 0x100: "mmp",
         0x200: "flex_bg", 0x400: "ea_inode", 0x2000: "metadata_csum_seed", 0x4000: "large_dir", 0x8000: "inline_data",
         0x10000: "encrypt", 0x20000: "casefold"}


def is_ext(raw: bytes) -> bool:
    """Does this superblock look like one of ext2, ext3 or ext4?"""
    return len(raw) == SIZE and struct.unpack_from("<H", raw, 0x38)[0] == MAGIC


class Superblock:
    """Constant after it was read."""

    def __init__(self, source: Source):
        raw = source.pread(SIZE, OFFSET)
        if not is_ext(raw):
            raise Corruption("there is no ext4 superblock")

        def word(at: int) -> int:
            return int.from_bytes(raw[at:at + 4], "little")

        def half(at: int) -> int:
            return int.from_bytes(raw[at:at + 2], "little")

        self.compat, self.incompat, self.ro_compat = word(0x5C), word(0x60), word(0x64)
        if unknown := self.incompat & ~sum(KNOWN):
            raise Unavailable(f"the ext4 file system has features that this reader does not know: {unknown:#x}",
                              "mount it: cdp shell VOLUME@POINT")
        if word(0x18) > 6:
            raise Corruption(f"the ext4 superblock has blocks of 2**{10 + word(0x18)} bytes")
        self.block_bytes = 1024 << word(0x18)
        self.inodes, self.first_data_block = word(0), word(0x14)
        self.blocks_per_group, self.inodes_per_group = word(0x20), word(0x28)
        self.blocks = word(4) | (word(0x150) << 32 if self.incompat & IS_64BIT else 0)
        self.inode_bytes = half(0x58) if word(0x4C) else 128
        self.desc_bytes = half(0xFE) if self.incompat & IS_64BIT else 32
        self.journal_inode, self.journal_device = word(0xE0), word(0xE4)
        self._first_meta_bg, self._backup_groups = word(0x104), (word(0x24C), word(0x250))
        self.checksums = bool(self.ro_compat & METADATA_CSUM)
        self.seed = word(0x270) if self.incompat & CSUM_SEED else raw_crc(ALL, raw[0x68:0x78])
        self._check(source)
        if self.checksums and raw_crc(ALL, raw[:0x3FC]) != word(0x3FC):
            raise Corruption("the checksum of the ext4 superblock is wrong")

    def _check(self, source: Source) -> None:
        block, groups = self.block_bytes, self.blocks_per_group
        for wrong in (
                not 128 <= self.inode_bytes <= block or self.inode_bytes & (self.inode_bytes - 1),
                not 32 <= self.desc_bytes <= block or self.desc_bytes & (self.desc_bytes - 1),
                not 0 < groups <= 16 * 8 * block, not 0 < self.inodes_per_group <= 8 * block,
                self.first_data_block > 1, not self.first_data_block < self.blocks):
            if wrong:
                raise Corruption("the ext4 superblock is damaged: its sizes contradict each other")
        if self.blocks * block > source.size_bytes:
            raise Corruption(f"the ext4 file system has {self.blocks * block} bytes, the disk {source.size_bytes}")

    def descriptor_offset(self, group: int) -> int:
        """Where the descriptor of a group is, in bytes."""
        per_block = self.block_bytes // self.desc_bytes
        nr, within = divmod(group, per_block)
        if not self.incompat & META_BG or nr < self._first_meta_bg:
            block = OFFSET // self.block_bytes + 1 + nr
        else:
            first = nr * per_block
            block = self.first_data_block + first * self.blocks_per_group + self._has_super(first)
            if first == 0 and self.block_bytes == 1024 and self.first_data_block == 0:
                block += 1
        return block * self.block_bytes + within * self.desc_bytes

    def _has_super(self, group: int) -> bool:
        if group == 0:
            return True
        if self.compat & SPARSE_SUPER2:
            return group in self._backup_groups
        if group == 1 or not self.ro_compat & SPARSE_SUPER:
            return True
        for base in (3, 5, 7):
            power = base
            while power < group:
                power *= base
            if power == group:
                return True
        return False
