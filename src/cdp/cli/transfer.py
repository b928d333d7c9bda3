"""Raw disk images in and out of a volume, sparse on both sides.

Invariants
  1. Memory: a few pieces of PIECE_BYTES, whatever the size of the disk.
  2. What reads as zeros at BLOCK_BYTES granularity is left out on the side that is written: a hole in a file, nothing
     or a trim in a volume.
  3. An export is one moment of the volume, also while clients write.
Called from one thread; `progress` gets the offset that is done.
"""
import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Self

from cdp.views import MAX_PAGE_EXTENTS, ExtentView, Service
from cdpcore.base.errors import Corruption, InvalidRequest, Unavailable

BLOCK_BYTES = 4096
PIECE_BYTES = 8 << 20
SCAN_BYTES = 1 << 20  # one comparison with zeros; small enough to stay in the CPU's cache
SECTOR_BYTES = 512
_ZEROS = bytes(SCAN_BYTES)
SKIP = "export another moment, or add --skip-unknown: then they read as zeros"

Range = tuple[int, int]  # offset and length, bytes
Done = Callable[[int], None]


def nonzero_ranges(data: bytes, offset: int) -> Iterator[Range]:
    """Maximal runs of blocks of `data` (which lies at `offset`) that are not all zeros, in order."""
    begin: int | None = None
    for at in range(0, len(data), SCAN_BYTES):
        window = data[at : at + SCAN_BYTES]
        step = len(window) if window == _ZEROS[: len(window)] else BLOCK_BYTES
        for inner in range(0, len(window), step):
            block = window[inner : inner + step]
            if block == _ZEROS[: len(block)]:
                if begin is not None:
                    yield offset + begin, at + inner - begin
                    begin = None
            elif begin is None:
                begin = at + inner
    if begin is not None:
        yield offset + begin, len(data) - begin


class Content(ABC):
    """A disk to import: `size_bytes` in whole sectors, of which the last may go past the `file_bytes` that are there. A
    context manager."""

    path: str
    file_bytes: int
    size_bytes: int

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer; past the end of the file with zeros."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def pread(self, length: int, offset: int) -> bytes:
        """A copy of `length` bytes from byte `offset` on; past the end of the file zeros."""
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    @abstractmethod
    def nonzero(self, scanned: Done) -> Iterator[Range]:
        """Runs of blocks that are not all zeros, in order, in whole sectors, each at most PIECE_BYTES long. scanned: is
        called with the bytes that were looked at so far."""


class Seekable(Content):
    """A disk that can be read at any place, and more than once."""

    @abstractmethod
    def data_ranges(self) -> Iterator[Range]:
        """All that may be something else than zeros, in order."""

    def nonzero(self, scanned: Done) -> Iterator[Range]:
        buffer = bytearray(PIECE_BYTES)
        for begin, length in self.data_ranges():
            for at in range(begin, begin + length, PIECE_BYTES):
                count = min(PIECE_BYTES, begin + length - at)
                self.read_into(at, memoryview(buffer)[:count])
                for offset, part in nonzero_ranges(bytes(memoryview(buffer)[:count]), at):
                    # Holes end where the file ends; sectors go on.
                    yield offset, -(-part // SECTOR_BYTES) * SECTOR_BYTES
                scanned(at + count)
        scanned(self.size_bytes)


class Source(Seekable):
    """A raw image, file or block device, open for reading."""

    def __init__(self, path: str):
        self.path = path
        # O_NONBLOCK: opening a pipe without a writer must not wait
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            mode = os.fstat(self._fd).st_mode
            if stat.S_ISDIR(mode):
                raise InvalidRequest(f"{path} is a folder", "give a raw disk image or a block device")
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise InvalidRequest(f"{path} is neither a file nor a block device", "copy it to a file first")
            self.file_bytes = os.lseek(self._fd, 0, os.SEEK_END)
        except BaseException:
            os.close(self._fd)
            raise
        # A volume is made of whole sectors: the last one is filled up with zeros.
        self.size_bytes = -(-self.file_bytes // SECTOR_BYTES) * SECTOR_BYTES

    def close(self) -> None:
        os.close(self._fd)

    def data_ranges(self) -> Iterator[Range]:
        """What the file system says is not a hole."""
        at = 0
        while at < self.file_bytes:
            try:
                begin = os.lseek(self._fd, at, os.SEEK_DATA)
                end = os.lseek(self._fd, begin, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # nothing but a hole up to the end
                if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                    raise
                begin, end = at, self.file_bytes  # no holes are known, as in block devices: read it all
            yield begin, end - begin
            at = end

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer; past the end of the file with zeros."""
        done = 0
        while done < len(buffer):
            got = os.preadv(self._fd, [buffer[done:]], offset + done)
            if got == 0:
                if offset + done < self.file_bytes:
                    raise Unavailable(f"{self.path}: ended at byte {offset + done}, was {self.file_bytes}",
                                      "do not change the file while it is read")
                buffer[done:] = bytes(len(buffer) - done)
                return
            done += got


def import_over(source: Content, service: Service, progress: Done) -> None:
    """Make [0, source.size_bytes) of a volume read as the source, through ordinary writes, which history keeps."""
    buffer = bytearray(PIECE_BYTES)
    at = 0
    for offset, length in source.nonzero(progress):
        _clear(service, at, offset)
        view = memoryview(buffer)[:length]
        source.read_into(offset, view)
        service.write(offset, bytes(view))
        at = offset + length
    _clear(service, at, source.size_bytes)
    service.flush()


def _clear(service: Service, begin: int, end: int) -> None:
    """Trim what of [begin, end) is not a hole yet."""
    for extent in extents(service, begin, end - begin, None):
        if extent["kind"] != "hole":
            service.zero(extent["offset"], extent["length"], hole=True)


def extents(service: Service, offset: int, length: int, at: str | None) -> Iterator[ExtentView]:
    """All extents of a range, fetched page by page."""
    end = offset + length
    while offset < end:
        page = service.map(offset, end - offset, at=at, limit=MAX_PAGE_EXTENTS)
        yield from page["extents"]
        if page["next_offset"] is None:
            return
        offset = page["next_offset"]


def data_pieces(service: Service, size_bytes: int, at: str, skipped: list[Range] | None = None) -> Iterator[Range]:
    """What holds data, in order, gathered so that one read serves many small extents, each piece <= PIECE_BYTES. What
    is not known is in `skipped` then; None: raises Corruption."""
    begin = end = 0
    for extent in extents(service, 0, size_bytes, at):
        if extent["kind"] == "unknown":
            if skipped is None:
                raise Corruption(f"at {at}, bytes {extent['offset']} to {extent['offset'] + extent['length'] - 1} are "
                                 "not known: the disk was changed outside cdp later", SKIP)
            skipped.append((extent["offset"], extent["length"]))
            if begin < end:         # a piece must not reach across it
                yield begin, end - begin
                begin = end = 0
        if extent["kind"] != "data":
            continue
        offset, stop = extent["offset"], extent["offset"] + extent["length"]
        if begin < end and (stop - begin > PIECE_BYTES or offset - end > SCAN_BYTES):
            yield begin, end - begin
            begin = end = 0
        while stop - offset > PIECE_BYTES:
            yield offset, PIECE_BYTES
            offset += PIECE_BYTES
        begin, end = (offset if begin == end else begin), stop
    if begin < end:
        yield begin, end - begin


def export_file(service: Service, size_bytes: int, at: str, fd: int, progress: Done,
                skipped: list[Range] | None = None) -> None:
    """Write the data of a moment into an empty or punched file or device at its offsets; holes are left alone."""
    for offset, length in data_pieces(service, size_bytes, at, skipped):
        data = service.read(offset, length, at=at)
        for begin, part in nonzero_ranges(data, offset):
            _write_all(fd, memoryview(data)[begin - offset : begin - offset + part], begin)
        progress(offset + length)
    progress(size_bytes)


def export_stream(service: Service, size_bytes: int, at: str, write: Callable[[bytes], object], progress: Done,
                  skipped: list[Range] | None = None) -> None:
    """Write all bytes of a moment in order, zeros included."""
    position = 0
    for offset, length in data_pieces(service, size_bytes, at, skipped):
        _zeros(write, offset - position)
        write(service.read(offset, length, at=at))
        position = offset + length
        progress(position)
    _zeros(write, size_bytes - position)
    progress(size_bytes)


def _zeros(write: Callable[[bytes], object], count: int) -> None:
    while count > 0:
        part = min(count, SCAN_BYTES)
        write(_ZEROS[:part])
        count -= part


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
