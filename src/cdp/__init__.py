"""cdp: a time machine for block storage. Every write to a volume is kept; any past moment opens in milliseconds.

    import cdp
    with cdp.create("web", size=10 << 30) as volume:
        volume.pwrite(b"hello", 0)
        before = volume.bookmark("before")
        volume.pwrite(b"HELLO", 0)
        with volume.at("before") as image:
            assert image.pread(5, 0) == b"hello"
        volume.restore("before")
"""
from typing import TYPE_CHECKING, Any

from cdpcore.errors import (Busy, CdpError, Closed, Corruption, InvalidRequest, NotFound, OutOfSpace, RefusedPoint, Unavailable)

from .model import Bookmark, Explanation, Extent, ImageInfo, Moment, Restore, Window
from .settings import Settings
if TYPE_CHECKING:
    from .adopting import adopt, detach
    from .timeimage import TimeImage
    from .volume import Volume, create, open

__version__ = "0.1.0"
__all__ = ["Bookmark", "Busy", "CdpError", "Closed", "Corruption", "Explanation", "Extent", "ImageInfo", "InvalidRequest", "Moment",
           "NotFound", "OutOfSpace", "RefusedPoint", "Restore", "Settings", "TimeImage", "Unavailable", "Volume", "Window",
           "adopt", "create", "detach", "open"]

_ENGINE = frozenset({"TimeImage", "Volume", "create", "open"})


def __getattr__(name: str) -> Any:
    """The engine (and with it NumPy and LMDB, 150 ms) is loaded when it is first used: `cdp --version` needs none of it."""
    if name in ("adopt", "detach"):
        from . import adopting
        return getattr(adopting, name)
    if name in _ENGINE:
        from . import volume
        return getattr(volume, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
