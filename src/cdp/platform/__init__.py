"""The portable API (abstract classes in .api and .services, structures in .structures) and the way to a platform by its
name.

A platform is an entry point of group "cdp.platforms" that names a subclass of PlatformImpl: installing a package that
has one adds it.
"""
from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from cdp.platform.api import (
    BGSSImpl,
    ControlPlaneImpl,
    DataPlaneImpl,
    IORouterImpl,
    IOsrcImpl,
    ListenerImpl,
    PathLost,
    PlatformImpl,
)
from cdp.platform.services import AlertsImpl, ConfigurationImpl, Subscription, TracingImpl, WorkloadManagerImpl
from cdp.platform.structures import (
    Assignment,
    BgDeliveryMsg,
    BgRef,
    CpMsg,
    CpSendReq,
    Flag,
    GroupName,
    IoRequest,
    Lun,
    MDPacket,
    Op,
    Severity,
    add_ref_to,
    refs_of,
)
from cdpcore.base.errors import InvalidRequest, NotFound

__all__ = ["AlertsImpl", "Assignment", "BGSSImpl", "BgDeliveryMsg", "BgRef", "ConfigurationImpl", "ControlPlaneImpl",
           "CpMsg", "CpSendReq", "DataPlaneImpl", "Flag", "GroupName", "IORouterImpl", "IOsrcImpl", "IoRequest",
           "ListenerImpl", "Lun", "MDPacket", "Op", "PathLost", "PlatformImpl", "Severity", "Subscription",
           "TracingImpl", "WorkloadManagerImpl", "add_ref_to", "find", "names", "refs_of"]

GROUP = "cdp.platforms"


def names() -> list[str]:
    """The platforms that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def find(name: str) -> type[PlatformImpl]:
    """The platform of that name. Raises NotFound, or InvalidRequest for an entry point that is no platform."""
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise NotFound(f"no platform {name!r}",
                       f"there are {', '.join(names())}; a package can bring more (docs/porting.md)")
    try:
        found: Any = points[0].load()
    except (ImportError, AttributeError) as error:
        raise InvalidRequest(f"platform {name!r} cannot be loaded from {points[0].value}: {error}",
                             "repair or remove that package") from None
    if not (isinstance(found, type) and issubclass(found, PlatformImpl)):
        raise InvalidRequest(f"platform {name!r}: {points[0].value} is no PlatformImpl", "see docs/porting.md")
    return found
