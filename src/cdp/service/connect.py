"""From a path to the operations of its volume: on the volume itself, or through the server that has it open.

    with connect("/data/web") as service:
        service.bookmark("before-upgrade")

Invariants
  1. The caller sees no difference between the two ways: same methods (cdp.views.Service), same results, same errors.
  2. `VOLUME/serving.json` is believed only if a server answers on its socket and says that it has this very volume
     open; what a killed server left behind, or what came with a copy of the volume, is ignored.
A Service from here is used by one thread at a time.
"""
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cdp.service.local import VolumeService
from cdp.service.locate import Location, identity, locate
from cdp.service.remote import NoAnswer, RemoteService
from cdp.service.serving_file import read_serving
from cdp.store.attached import is_attached
from cdp.store.volume_files import VolumeFiles
from cdp.views import Service
from cdpcore.base.errors import Busy, CdpError

if TYPE_CHECKING:
    from cdp.settings import Settings

LOCK_WAIT_SECONDS = 2.0  # a command holds a volume for milliseconds: worth waiting for, unlike a server
LOCK_RETRY_SECONDS = 0.05


@contextmanager
def connect(where: str | Location, settings: "Settings | None" = None) -> Iterator[Service]:
    """The operations of the volume or image at `where`, through its server if it has one, else opened here.

    Raises NotFound, Busy (held by a process that serves nothing), Corruption, InvalidRequest.
    """
    location = where if isinstance(where, Location) else locate(where)
    from cdp.store.timeline import import_numpy_late

    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        remote = find_server(location)
        if remote is not None:
            with remote:
                yield remote
            return
        import_numpy_late()
        try:
            volume = open_volume(location.path, settings)
            break
        except Busy as error:
            if time.monotonic() >= deadline:
                hint = error.hint or "another process has it open: end that, or reach the volume through its server"
                raise Busy(error.message, hint) from None
        time.sleep(LOCK_RETRY_SECONDS)
    with volume:
        yield VolumeService(volume)


def open_volume(path: str, settings: "Settings | None" = None) -> Any:
    """cdp.open, imported only when a volume is really opened; to read where it cannot be written."""
    import cdp

    read_only = is_attached(path) or not os.access(VolumeFiles(path).lock, os.W_OK)
    return cdp.open(path, settings=settings, read_only=read_only)


def find_server(location: Location) -> "RemoteService | None":
    """The way to the live server of this volume, or None. The caller closes it. Raises Unavailable where it does not
    answer."""
    served = read_serving(location.root)
    if served is None:
        return None
    remote = RemoteService(served["admin_socket"], served["name"], location, served.get("pid"))
    try:
        known = remote.server()["volumes"]
    except NoAnswer:
        remote.close()
        raise
    except CdpError:
        known = {}
    if known.get(served["name"]) == identity(location.root):
        return remote
    remote.close()
    return None
