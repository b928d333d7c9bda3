"""What `cdp serve` stands on: a platform, the TSD on it, and the volumes that it serves as LUNs 0, 1, ...

The front end (an NBD server) gets each LUN as a capsule: the native table where the platform has one, and otherwise a
disk in Python that makes packets of the requests. Invariant: capsules are handed out while the front is open, and not
used after close(). Thread-safe after start().
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from cdp.platform import AlertsImpl, Lun, Severity, find
from cdp.platform.tsd import Tsd
from cdp.store.space_watch import Space, report

if TYPE_CHECKING:
    from cdp import Volume

OPENED_AT_A_TIME = 16


class Luns:
    """Luns("local", paths, open_lun): start() or open_each() opens the volumes, close() closes them. Raises NotFound
    for an unknown platform."""

    def __init__(self, platform: str, paths: Sequence[str], open_lun: Callable[[Lun], Volume]):
        self._luns = tuple(Lun(number, path) for number, path in enumerate(paths))
        self._stack = ExitStack()
        self._platform = self._stack.enter_context(find(platform).create())
        self._open_lun = open_lun
        self._opened: dict[int, Volume] = {}
        self._tsd = Tsd(self._platform, open_lun=lambda lun: self._opened.pop(lun.lun))
        self._lock = threading.Lock()
        self._disks: dict[int, Any] = {}    # guarded by _lock: of a platform without a native table

    def start(self) -> list[Volume]:
        """The volumes, in the order of the paths. Raises what opening one of them raised, the first one in that order;
        then none is open. They are opened before anything else is done, so that a failure is its caller's alone."""
        with ExitStack() as opened:
            self._open_all(opened)
            self._stack.enter_context(self._tsd)
            self._platform.workload.assign(self._tsd.group, self._luns)
            volumes = [self._tsd.volume(lun.lun) for lun in self._luns]
            opened.pop_all()        # the TSD closes them
        return volumes

    def open_each(self) -> Generator[tuple[int, Volume | Exception]]:
        """Each volume with its number as soon as it is open and may be served, in whatever order; or why it could not
        be opened. What was not begun when the caller goes away is not opened."""
        self._stack.enter_context(self._tsd)
        assigned: list[Lun] = []
        with ThreadPoolExecutor(OPENED_AT_A_TIME, "cdp-open") as pool:
            opening = {pool.submit(self._open_lun, lun): lun for lun in self._luns}
            try:
                for ended in as_completed(list(opening)):
                    lun = opening.pop(ended)
                    try:
                        self._opened[lun.lun] = ended.result()
                        assigned.append(lun)
                        self._platform.workload.assign(self._tsd.group, tuple(assigned))
                        found: Volume | Exception = self._tsd.volume(lun.lun)
                    except Exception as error:      # noqa: BLE001  (whatever it was, the others go on)
                        found = error
                    yield lun.lun, found
            finally:
                for volume in reversed(opening):    # so that no thread begins with the next one meanwhile
                    volume.cancel()
                for volume in opening:
                    with suppress(BaseException):
                        volume.result().close()

    def _open_all(self, opened: ExitStack) -> None:
        """Several at a time: opening waits for syncs of the device, and recovery for reads."""
        with ThreadPoolExecutor(OPENED_AT_A_TIME, "cdp-open") as pool:
            opening = [pool.submit(self._open_lun, lun) for lun in self._luns]
            try:
                for lun, volume in zip(self._luns, opening, strict=True):
                    self._opened[lun.lun] = opened.enter_context(volume.result())
            except BaseException:
                for volume in opening:
                    volume.cancel()
                for volume in opening[len(self._opened):]:
                    with suppress(BaseException):
                        volume.result().close()
                raise

    @property
    def alerts(self) -> AlertsImpl:
        """The platform's."""
        return self._platform.alerts

    def alert_space(self, path: str, space: Space) -> None:
        """The device of a volume is running out of space, or has it again (cdp.store.space_watch)."""
        self._platform.alerts.alert(Severity.INFO if space.state == "ok" else Severity.WARNING, report(path, space))

    def capsule(self, number: int) -> Any:
        """PyCapsule "cdpcore.target" of a LUN: for one connection, or for many."""
        if native := self._platform.source.native(number):
            return native
        with self._lock:
            if number not in self._disks:
                self._disks[number] = self._stack.enter_context(self._platform.open_router(f"lun:{number}"))
            return self._disks[number].target()

    def close(self) -> None:
        """Close routers, then the TSD with its volumes, then the platform."""
        self._stack.close()
