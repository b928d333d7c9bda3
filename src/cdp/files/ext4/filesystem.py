"""An ext2, ext3 or ext4 file system: paths, directories and contents."""
from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import lru_cache

from cdp.files.ext4.inode import ENCRYPTED, Inode
from cdp.files.ext4.journal import Journal, Overlay
from cdp.files.ext4.superblock import FAST_COMMIT, RECOVER, Superblock
from cdp.files.model import MAX_LINKS, Entry, FileSystem, Piece, Source
from cdpcore.base.errors import Corruption, InvalidRequest, NotFound, Unavailable

ROOT = 2
MAX_NAME_BYTES = 255
MAX_DIRECTORY_BYTES = 256 << 20     # some four million names
MAX_TARGET_BYTES = 4096
DEVICES = {"char": "character device", "block": "block device"}


class Ext4(FileSystem):
    """One thread. Raises Corruption, Unavailable (a feature that is not known).

    Args: source: the disk; journal: of an earlier moment of it, of which no block that was read has changed.
    Attributes: journal: what may be given at a later moment; blocks_read: the blocks that were read, and where the
    journal has them, or None.
    """

    kind = "ext4"

    def __init__(self, source: Source, journal: Journal | None = None):
        self._sb = sb = Superblock(source)
        self._source = source
        self.journal: Journal | None = None
        self._overlay: dict[int, tuple[int, bool]] = {}
        self.blocks_read: dict[int, tuple[int, bool] | None] = {}
        if sb.incompat & RECOVER:
            if sb.journal_device or not sb.journal_inode:
                raise Unavailable("the journal of the ext4 file system is on another device",
                                  "mount both: cdp shell VOLUME@POINT")
            runs = list(self._inode(sb.journal_inode).runs(self._block))
            found = Journal(source, sb.block_bytes, sb.blocks, runs)
            self.journal = journal if journal is not None and journal.is_at(found) else found
            self._overlay = self.journal.overlay()
            self._source = Overlay(source, sb.block_bytes, self._overlay) if self._overlay else source
            self._sb = sb = Superblock(self._source)
            if sb.compat & FAST_COMMIT:
                self.note = "the journal may end with fast commits, which are not applied"
        self._inodes = lru_cache(maxsize=4096)(self._inode)

    def where(self, block: int) -> tuple[int, bool] | None:
        """Where the journal has a block."""
        return self._overlay.get(block)

    def _read(self, length: int, offset: int) -> bytes:
        size = self._sb.block_bytes
        for block in range(offset // size, -(-(offset + length) // size)):
            self.blocks_read[block] = self._overlay.get(block)
        return self._source.pread(length, offset)

    def _block(self, number: int) -> bytes:
        if not self._sb.first_data_block < number < self._sb.blocks:
            raise Corruption(f"the ext4 file system refers to block {number} of {self._sb.blocks}")
        return self._read(self._sb.block_bytes, number * self._sb.block_bytes)

    def _inode(self, number: int) -> Inode:
        sb = self._sb
        if not 0 < number <= sb.inodes:
            raise Corruption(f"the ext4 file system refers to inode {number} of {sb.inodes}")
        group, index = divmod(number - 1, sb.inodes_per_group)
        descriptor = self._read(sb.desc_bytes, sb.descriptor_offset(group))
        table = int.from_bytes(descriptor[8:12], "little")
        if sb.desc_bytes >= 64:
            table |= int.from_bytes(descriptor[0x28:0x2C], "little") << 32
        if not sb.first_data_block < table < sb.blocks:
            raise Corruption(f"the descriptor of group {group} is damaged")
        return Inode(sb, number, self._read(sb.inode_bytes, table * sb.block_bytes + index * sb.inode_bytes))

    # --- content ------------------------------------------------------------------------------------------------------

    def _pieces(self, inode: Inode) -> Iterator[Piece]:
        left, block = inode.size_bytes, self._sb.block_bytes
        if inode.inline:
            yield Piece(left, data=b"".join(inode.inline_parts())[:left])
            return
        at = 0
        for first, count, disk in inode.runs(self._block):
            if first * block > at:
                yield Piece(first * block - at)
            at = min((first + count) * block, left)
            length = at - first * block
            if disk:
                yield from self._source.place(length, disk * block)
            else:
                yield Piece(length)
        if at < left:
            yield Piece(left - at)

    def _content(self, inode: Inode, most: int) -> bytes:
        """All of it: of a directory or link."""
        if inode.size_bytes > most:
            raise Corruption(f"inode {inode.number} is damaged: a {inode.kind} of {inode.size_bytes} bytes")
        if inode.inline:
            return b"".join(inode.inline_parts())[:inode.size_bytes]
        block, parts, at = self._sb.block_bytes, list[bytes](), 0
        for first, count, disk in inode.runs(self._block):
            parts.append(bytes((first - at) * block))
            parts.append(self._read(count * block, disk * block) if disk else bytes(count * block))
            at = first + count
        content = b"".join(parts)[:inode.size_bytes]
        return content + bytes(inode.size_bytes - len(content))

    # --- directories --------------------------------------------------------------------------------------------------

    def _names(self, inode: Inode) -> Iterator[tuple[bytes, int]]:
        """Names and inodes, without . and .. ."""
        if inode.kind != "directory":
            raise InvalidRequest("not a directory", "give the path of a directory")
        if inode.flags & ENCRYPTED:
            raise Unavailable(f"directory {inode.number} is encrypted", "mount it with its key: cdp shell VOLUME@POINT")
        if inode.inline:
            first, rest = inode.inline_parts()
            yield from self._records(inode, first[4:])      # before it: the inode of the directory above
            yield from self._records(inode, rest)
            return
        block, content = self._sb.block_bytes, self._content(inode, MAX_DIRECTORY_BYTES)
        for at in range(0, len(content), block):
            one = content[at:at + block]
            if len(one) != block or not inode.dir_block_is_right(one, at // block):
                raise Corruption(f"directory {inode.number} is damaged at byte {at}")
            yield from self._records(inode, one)

    def _records(self, inode: Inode, block: bytes) -> Iterator[tuple[bytes, int]]:
        at = 0
        while at + 8 <= len(block):
            number, size, length = struct.unpack_from("<IHB", block, at)
            if self._sb.block_bytes == 65536:
                size = 65536 if size in (0, 65535) else size
            if size < 8 + length or size % 4 or at + size > len(block):
                raise Corruption(f"directory {inode.number} is damaged")
            name = block[at + 8:at + 8 + length]
            at += size
            if number and name not in (b"", b".", b".."):
                if b"/" in name or b"\0" in name or length > MAX_NAME_BYTES:
                    raise Corruption(f"directory {inode.number} has a name that no file can have")
                yield name, number

    def _find(self, path: str, follow: bool) -> Inode:
        steps = [step for step in reversed(os.fsencode(path).split(b"/")) if step not in (b"", b".")]
        trail, links = [self._inodes(ROOT)], 0
        while steps:
            step = steps.pop()
            if step == b"..":
                trail = trail[:-1] or trail
                continue
            if trail[-1].kind != "directory":
                raise NotFound(f"{path}: no such file", "'cdp files VOLUME@POINT' lists what there is")
            number = next((number for name, number in self._names(trail[-1]) if name == step), 0)
            if not number:
                raise NotFound(f"{path}: no such file", "'cdp files VOLUME@POINT' lists what there is")
            inode = self._inodes(number)
            if inode.kind == "symlink" and (steps or follow):
                if (links := links + 1) > MAX_LINKS:
                    raise InvalidRequest(f"{path}: too many symbolic links", "give the path that they lead to")
                target = self._content(inode, MAX_TARGET_BYTES)
                steps += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
                trail = trail[:1] if target.startswith(b"/") else trail
                continue
            trail.append(inode)
        return trail[-1]

    def _entry(self, name: str, inode: Inode) -> Entry:
        target = os.fsdecode(self._content(inode, MAX_TARGET_BYTES)) if inode.kind == "symlink" and not (
            inode.flags & ENCRYPTED) else None
        return Entry(name, inode.kind, inode.number, inode.mode, inode.links, inode.uid, inode.gid, inode.size_bytes,
                     inode.mtime_ns, inode.ctime_ns, inode.generation, target)

    def stat(self, path: str, follow: bool = False) -> Entry:
        return self._entry(path.rstrip("/").rpartition("/")[2], self._find(path, follow))

    def entries(self, path: str) -> Iterator[Entry]:
        inode = self._find(path, True)
        if inode.kind != "directory":
            raise InvalidRequest(f"{path}: not a directory", "give the path of a directory")
        for name, number in self._names(inode):
            yield self._entry(os.fsdecode(name), self._inodes(number))

    def pieces(self, path: str) -> Iterator[Piece]:
        inode = self._find(path, True)
        if inode.kind != "file":
            raise InvalidRequest(f"{path}: a {DEVICES.get(inode.kind, inode.kind)}, not a file",
                                 "give the path of a file")
        yield from self._pieces(inode)
