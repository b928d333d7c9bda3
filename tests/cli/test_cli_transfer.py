"""Raw images in and out: what is read, what is written, and that holes stay holes. The volume here is a bytearray."""
import os

import pytest

from cdp.cli import transfer
from cdp.cli.transfer import BLOCK_BYTES, PIECE_BYTES, Source, nonzero_ranges
from cdpcore.base.errors import InvalidRequest, Unavailable

MIB = 1 << 20


class MemoryService:
    """What transfer uses of a Service, over bytes; blocks that read as zeros are holes. Counts what it is asked."""

    def __init__(self, data: bytes):
        self.data = bytearray(data)
        self.written, self.trimmed, self.largest = 0, 0, 0

    def map(self, offset=0, length=None, at=None, limit=3):
        limit = min(limit, 3)  # small pages, so that paging is seen
        end = offset + (len(self.data) - offset if length is None else length)
        extents = []
        while offset < end:
            kind, begin = self._kind(offset, end), offset
            while offset < end and self._kind(offset, end) == kind:
                offset = min(end, (offset // BLOCK_BYTES + 1) * BLOCK_BYTES)
            if len(extents) == limit:
                return {"extents": extents, "next_offset": begin}
            extents.append({"offset": begin, "length": offset - begin, "kind": kind})
        return {"extents": extents, "next_offset": None}

    def _kind(self, offset, end):
        block = offset // BLOCK_BYTES * BLOCK_BYTES
        return "data" if any(self.data[block : block + BLOCK_BYTES]) else "hole"

    def read(self, offset, length, at=None):
        self.largest = max(self.largest, length)
        return bytes(self.data[offset : offset + length])

    def write(self, offset, data, fua=False):
        assert offset % 512 == 0 and len(data) % 512 == 0
        self.written += len(data)
        self.data[offset : offset + len(data)] = data

    def zero(self, offset, length, hole=False):
        assert hole
        self.trimmed += length
        self.data[offset : offset + length] = bytes(length)

    def flush(self):
        pass


def pattern(*ranges, size):
    data = bytearray(size)
    for offset, length in ranges:
        data[offset : offset + length] = (offset // 512 + 1).to_bytes(8, "little") * (length // 8)
    return bytes(data)


def test_nonzero_ranges():
    block = BLOCK_BYTES
    assert list(nonzero_ranges(bytes(5 * block), 0)) == []
    assert list(nonzero_ranges(b"x" * 3, 512)) == [(512, 3)]
    data = bytearray(4 * MIB + 100)
    data[block] = data[3 * block - 1] = 1
    data[MIB - 1] = data[MIB] = 1  # a run across two windows
    data[-1] = 1
    assert list(nonzero_ranges(bytes(data), 1 << 40)) == [
        ((1 << 40) + block, 2 * block), ((1 << 40) + MIB - block, 2 * block), ((1 << 40) + 4 * MIB, 100)]


@pytest.mark.parametrize("ranges", [
    [], [(0, 24 * MIB)], [(0, 4096)], [(24 * MIB - 4096, 4096)],
    [(MIB, 9 * MIB), (12 * MIB, 8192), (12 * MIB + 16384, 4096)],
])
def test_export_to_file_and_stream(tmp_path, ranges):
    want = pattern(*ranges, size=24 * MIB)
    service = MemoryService(want)
    path = tmp_path / "out.img"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, len(want))
    seen = []
    transfer.export_file(service, len(want), "#1", fd, seen.append)
    os.close(fd)
    assert path.read_bytes() == want
    assert seen == sorted(seen) and seen[-1] == len(want)
    assert path.stat().st_blocks * 512 <= sum(length for _, length in ranges) + MIB
    out = []
    transfer.export_stream(service, len(want), "#1", out.append, seen.append)
    assert b"".join(out) == want
    assert service.largest <= PIECE_BYTES


def sparse_file(path, data, size):
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, piece in data:
            file.seek(offset)
            file.write(piece)
    return str(path)


def test_import_over_writes_data_and_trims_only_what_was_there(tmp_path):
    path = sparse_file(tmp_path / "in.img", [(0, b"a" * 4096), (MIB, bytes(MIB)), (10 * MIB, b"b" * 5000)], 16 * MIB)
    service = MemoryService(pattern((4 * MIB, 8192), (15 * MIB, 4096), size=20 * MIB))
    with Source(path) as source:
        seen = []
        transfer.import_over(source, service, seen.append)
    with open(path, "rb") as file:
        assert bytes(service.data[: 16 * MIB]) == file.read()
    assert service.written <= 4096 + 8192
    assert service.trimmed == 8192 + 4096
    assert seen[-1] == 16 * MIB


def test_a_file_that_ends_within_a_sector(tmp_path):
    path = sparse_file(tmp_path / "in.img", [(0, b"z" * 1000)], 1000)
    service = MemoryService(b"\xff" * 4096)
    with Source(path) as source:
        assert (source.file_bytes, source.size_bytes) == (1000, 1024)
        transfer.import_over(source, service, lambda _at: None)
    assert bytes(service.data[:1024]) == b"z" * 1000 + bytes(24)
    assert bytes(service.data[1024:]) == b"\xff" * 3072


def test_pieces_are_bounded_and_cover_a_large_extent(tmp_path):
    path = sparse_file(tmp_path / "in.img", [(MIB, b"q" * (2 * PIECE_BYTES + 4096))], 4 * PIECE_BYTES)
    with Source(path) as source:
        ranges = list(source.nonzero(lambda _at: None))
    assert sum(length for _, length in ranges) == 2 * PIECE_BYTES + 4096
    assert max(length for _, length in ranges) <= PIECE_BYTES


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = sparse_file(tmp_path / "in.img", [(0, b"z" * 8192)], 8192)
    with Source(path) as source:
        os.truncate(path, 4096)
        with pytest.raises(Unavailable, match="do not change the file"):
            source.read_into(0, memoryview(bytearray(8192)))


def test_what_cannot_be_imported(tmp_path):
    with pytest.raises(InvalidRequest, match="is a folder"):
        Source(str(tmp_path))
    with pytest.raises(InvalidRequest, match="neither a file nor a block device"):
        Source("/dev/null")
    with pytest.raises(FileNotFoundError):
        Source(str(tmp_path / "none"))
