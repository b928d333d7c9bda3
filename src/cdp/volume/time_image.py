"""A volume as of a moment: a read-only virtual disk.

Threading: any thread. A time image is valid until it or its volume is closed, and keeps the volume from being
collected.
"""
from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cdp.moments.model import Extent, Moment
from cdp.volume.buffers import byte_count, bytes_of, extents_of
from cdp.volume.unknown_blocks import explained
from cdpcore.base.errors import Closed, Corruption
from cdpcore.index.view import View
from cdpcore.volume.core import VolumeCore
from cdpcore.volume.volume_target import Target

if TYPE_CHECKING:
    from cdp.files.session import Files


class TimeImage:
    """A volume as of a moment: a read-only virtual disk. A context manager; any thread. Valid until close() or the
    volume's; closed with a ResourceWarning where nothing refers to it any more.

    Args: core, view: what shows the content; moment; path: the volume's, for messages; volume: kept alive.
    """

    _view: View | None = None   # before __init__ is through, too

    def __init__(self, core: VolumeCore, view: View, moment: Moment, path: str, volume: Any):
        self.volume = volume
        self.moment = moment
        self.size_bytes: int = core.size_bytes
        self._core, self._path = core, path
        self._view = view

    @property
    def closed(self) -> bool:
        return self._view is None

    def _open_view(self) -> View:
        if self._view is None:
            raise Closed(f"{self._path}: the time image of #{self.moment.seq} is closed")
        return self._view

    def view(self) -> View:
        """What shows it. Raises Closed."""
        return self._open_view()

    def pread(self, length: int, offset: int) -> bytes:
        """As Volume.pread, of this moment."""
        out = bytearray(byte_count(length, self.size_bytes))
        self.pread_into(out, offset)
        return bytes(out)

    def pread_into(self, buffer: Any, offset: int) -> None:
        """As Volume.pread_into, of this moment."""
        view, out = self._open_view(), bytes_of(buffer, fill=True)
        try:
            self._core.pread_into(out, byte_count(offset), view)
        except Corruption as error:
            raise explained(error, self.volume, view, self.moment.seq, offset, len(out)) from None

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """As Volume.extents, of this moment."""
        return extents_of(self._core, self._open_view(), self.size_bytes, offset, length, self)

    def files(self, partition: int | None = None) -> Files:
        """The files of an ext2, ext3 or ext4 file system, as after a crash at this moment and a mount: what its journal
        has committed is applied, in memory. A context manager; valid as long as this image; one thread. They are read
        in a process of its own without rights. `partition`: None: the whole disk, or the only one that can be read."""
        from cdp.files.session import Files  # late: rare

        return Files(self.pread, self.size_bytes, partition)

    def target(self) -> Any:
        """As Volume.target; read-only."""
        return Target(self._core, self._open_view(), self).capsule()

    def close(self) -> None:
        """Idempotent."""
        self._view = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if self._view is not None:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:
                self.close()

    def __repr__(self) -> str:
        return f"<cdp.TimeImage {self._path}@#{self.moment.seq}{' closed' if self.closed else ''}>"
