"""I/O routers, by the place that they lead to: file, NBD server, the LUN's owner; several places are paths to one disk."""
from __future__ import annotations

from collections.abc import Sequence

from cdp.platform.api import IORouterImpl, PlatformImpl
from cdpcore.errors import InvalidRequest


def open_router(where: Sequence[str], platform: PlatformImpl | None = None) -> IORouterImpl:
    """See PlatformImpl.open_router. Without a platform `lun:` is not known."""
    raise InvalidRequest(f"no router to {' '.join(where)}", "not written yet")
