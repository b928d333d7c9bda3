"""I/O routers, by where they lead: a file, an NBD server, a LUN's owner. Several places are paths to one disk."""
from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from cdp.platform.api import IORouterImpl, PlatformImpl
from cdpcore.base.errors import InvalidRequest

PLACES = "write file:PATH, nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH (nbds: TLS) or lun:NUMBER"


def open_router(where: Sequence[str], platform: PlatformImpl | None = None) -> IORouterImpl:
    """See PlatformImpl.open_router. Without a platform `lun:` is not known."""
    if not where:
        raise InvalidRequest("a router without a place", PLACES)
    if len(where) == 1:
        return _open(where[0], platform)
    from cdp.platform.routers.multipath import MultipathRouter

    return MultipathRouter([partial(_open, place, platform) for place in where])


def _open(place: str, platform: PlatformImpl | None) -> IORouterImpl:
    kind, _, rest = place.partition(":")
    if kind == "file" and rest:
        from cdp.platform.routers.file import FileRouter

        return FileRouter(rest)
    if kind in ("nbd", "nbd+unix", "nbds", "nbds+unix"):
        from cdp.platform.routers.nbd import NbdRouter

        return NbdRouter(place)
    if kind == "lun" and rest.isdecimal() and int(rest) < 1 << 32 and platform:
        from cdp.platform.routers.forward import ForwardRouter

        return ForwardRouter(platform, int(rest))
    raise InvalidRequest(f"no way to {place!r}", PLACES)
