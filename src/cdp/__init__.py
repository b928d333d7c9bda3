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
TYPE_CHECKING = False   # as type checkers know it; typing itself takes longer to load than all that is here
if TYPE_CHECKING:
    from typing import Any

    from cdp.moments.events import Event, Watch
    from cdp.moments.model import (
        Activity,
        Bookmark,
        Explanation,
        Extent,
        GroupMoment,
        GroupRestore,
        ImageInfo,
        Moment,
        Restore,
        Window,
    )
    from cdp.service.groups import Group  # above this package, and loaded by name, as all of it
    from cdp.service.remote_volume import connect
    from cdp.settings import Settings
    from cdp.volume.adopt import adopt, detach
    from cdp.volume.bisect import bisect
    from cdp.volume.time_image import TimeImage
    from cdp.volume.volume import Volume, create, open
    from cdpcore.base.errors import (
        Busy,
        CdpError,
        Closed,
        Corruption,
        InvalidRequest,
        NotFound,
        OutOfSpace,
        RefusedPoint,
        Unavailable,
    )

__version__ = "0.1.0"
__all__ = ["Activity", "Bookmark", "Busy", "CdpError", "Closed", "Corruption", "Event", "Explanation", "Extent",
           "Group", "GroupMoment", "GroupRestore", "ImageInfo", "InvalidRequest", "Moment", "NotFound", "OutOfSpace",
           "RefusedPoint", "Restore", "Settings", "TimeImage", "Unavailable", "Volume", "Watch", "Window", "adopt",
           "bisect", "connect", "create", "detach", "open"]

_HOME = {"adopt": "cdp.volume.adopt", "detach": "cdp.volume.adopt", "bisect": "cdp.volume.bisect",
         "Group": "cdp.service.groups", "connect": "cdp.service.remote_volume",
         "TimeImage": "cdp.volume.time_image", **dict.fromkeys(("Event", "Watch"), "cdp.moments.events"),
         "Settings": "cdp.settings", **dict.fromkeys(("Volume", "create", "open"), "cdp.volume.volume"),
         **dict.fromkeys(("Activity", "Bookmark", "Explanation", "Extent", "GroupMoment", "GroupRestore", "ImageInfo",
                          "Moment", "Restore", "Window"),
                         "cdp.moments.model")}


def __getattr__(name: str) -> "Any":
    """Each name is loaded when it is first used: the engine (with NumPy and LMDB) takes 150 ms, and `cdp --version`
    needs none of it; the rest takes 50 ms, in which the command line could not answer to an interrupt
    (cdp.__main__)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(_HOME.get(name, "cdpcore.base.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
