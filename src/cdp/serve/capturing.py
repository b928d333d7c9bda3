"""The server of a volume that is being captured: everything can be looked at meanwhile, nothing but the capture writes.

Invariant: while a capture runs, no restore, undo or write comes in any other way, because the volume would not be its
source's copy any more. Images of it are volumes of their own, and may be written.
Service is thread-safe as VolumeService is.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from cdp.service.local import VolumeService
from cdp.views import CaptureView, RestoreView, ServedView
from cdpcore.base.errors import Busy

if TYPE_CHECKING:
    from cdp import Volume


class CapturedService(VolumeService):
    """VolumeService without what would change the volume's content. view: what the capture says of itself."""

    def __init__(self, volume: Volume, served: ServedView | None, view: Callable[[], CaptureView]):
        super().__init__(volume, served)
        self._view = view

    def capture(self) -> CaptureView | None:
        return self._view()

    def restore(self, point: str, offset: int | None = None, length: int | None = None, destructive: bool = False,
                dry_run: bool = False, force: bool = False) -> RestoreView:
        if not dry_run:
            self._refuse("restored")
        return super().restore(point, offset, length, destructive, dry_run, force)

    def undo(self, dry_run: bool = False, force: bool = False) -> RestoreView:
        if not dry_run:
            self._refuse("restored")
        return super().undo(dry_run, force)

    def write(self, offset: int, data: bytes, fua: bool = False) -> None:
        self._refuse("written to")

    def zero(self, offset: int, length: int, hole: bool = False) -> None:
        self._refuse("written to")

    def _refuse(self, what: str) -> NoReturn:
        raise Busy(f"{self.volume.path}: is being captured from {self._view()['source']}, so it cannot be {what}",
                   "'cdp image create' makes a copy that can; or end the capture first, for good")
