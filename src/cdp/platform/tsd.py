"""The time store daemon: carries out the requests that come by a platform, on the volumes that it has to serve.

It knows of LUNs only what the workload manager pushes, and of nodes, sockets and processes nothing: `cdp serve` is this
with the platform `local`, where the requests take the native table that is offered here, and never come as packets at
all.

Invariants
  1. A request is answered exactly once, or not at all where its LUN is closed: then it stays with its source, for
     the next owner.
  2. Requests are carried out in the order in which they come, but a flush, which may wait for the disk, has a thread of
     its own.
  3. Between opening a LUN and the end of its replay no request to it is carried out.
  4. When an assignment is acknowledged, what is not in it is closed: not one more byte is written.
Threading: requests on the listener's thread; flushes on one of the TSD's; opening and closing on the workload
manager's. `_gate` is held while requests are taken and carried out, and while a LUN comes or goes.
"""
from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cdp.platform.api import ListenerImpl, PlatformImpl
from cdp.platform.callers import Caller
from cdp.platform.structures import Assignment, CpMsg, GroupName, Lun, MDPacket, Op, Severity, refs_of
from cdpcore.base.errors import CdpError, NotFound, code_of
from cdpcore.channel.packets import execute

if TYPE_CHECKING:
    from cdp import Volume

log = logging.getLogger("cdp.tsd")

TSD_ID = 2                  # group id of a TSD; its instance is the node's
CDP_NOTFOUND, CDP_CLOSED = 2, 6     # enum cdp_code
BATCH = 64


@dataclass
class Served:
    """A LUN that is open."""

    lun: Lun
    volume: Volume
    capsule: object


class Tsd:
    """A context manager: serves from entry to exit.

    platform  its control plane, data plane, source, workload manager, alerts and tracing are used; not closed here
    group     the TSD's name: where its requests go, and what the workload manager knows it by
    open_lun  opens a LUN's volume; cdp.open by default
    """

    def __init__(self, platform: PlatformImpl, group: GroupName | None = None, *,
                 open_lun: Callable[[Lun], Volume] | None = None):
        self.group = group or GroupName(TSD_ID, platform.instance)
        self._platform = platform
        self._open_lun = open_lun or _open
        self._gate = threading.Lock()
        self._served: dict[int, Served] = {}        # guarded by _gate
        self._failed: dict[int, Exception] = {}     # guarded by _gate: those that could not be opened
        self._listener: ListenerImpl | None = None
        self._enabled = False
        self._subscription: Any = None
        self._flusher: Caller | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Register, in shadow mode, and take LUNs. Raises Busy (another TSD has this name)."""
        self._flusher = Caller("tsd-flush", lambda text: self._platform.alerts.alert(Severity.ERROR, text))
        self._listener = self._platform.control.register(self.group)
        try:
            self._subscription = self._platform.workload.subscribe(self.group, self._assigned)
        except BaseException:
            self._listener.close()
            self._flusher.close()
            raise

    def close(self) -> None:
        """Take no more requests, answer what is under way, close the volumes. Idempotent."""
        if self._subscription:
            self._subscription.cancel()
        if self._listener:
            self._listener.close()
        if self._flusher:
            self._flusher.close()
        with self._gate:
            for number in list(self._served):
                self._let_go(number)

    def volume(self, number: int) -> Volume:
        """The volume of a LUN that is served, open as long as it is. Raises what opening it raised, or NotFound."""
        with self._gate:
            if number in self._failed:
                raise self._failed[number]
            if number not in self._served:
                raise NotFound(f"LUN {number} is not served here", "assign it to this TSD first")
            return self._served[number].volume

    def luns(self) -> list[Lun]:
        """What is served now."""
        with self._gate:
            return [served.lun for served in self._served.values()]

    # --- LUNs: on the workload manager's thread

    def _assigned(self, assignment: Assignment) -> None:
        wanted = {lun.lun: lun for lun in assignment.luns}
        with self._gate:
            self._failed.clear()
            for number in [number for number, served in self._served.items() if wanted.get(number) != served.lun]:
                self._let_go(number)
            new = [lun for number, lun in wanted.items() if number not in self._served]
        for lun in new:
            self._take(lun, assignment)
        if wanted and not self._enabled:
            assert self._listener
            self._enabled = True
            self._listener.enable(self._ready, max_msgs=BATCH)

    def _take(self, lun: Lun, assignment: Assignment) -> None:
        """Open a LUN. A failure is kept for volume(); the LUN's requests are answered with NotFound."""
        try:
            volume = self._open_lun(lun)
        except Exception as error:      # whatever it was, the requests must be answered, and volume() must raise it
            log.debug("opening LUN %d", lun.lun, exc_info=True)
            self._platform.alerts.alert(Severity.ERROR, f"cannot open {lun.path}: {error}", lun=lun.lun)
            with self._gate:
                self._failed[lun.lun] = error
            return
        with self._gate:
            newest = volume.window().newest.seq
            self._served[lun.lun] = Served(lun, volume, volume.target())
            # A request that came before was dropped, unanswered (see _run), and so is replayed now.
            replayed = self._platform.source.replay(lun.lun, newest)
            self._platform.source.offer(lun.lun, self._served[lun.lun].capsule)
        if assignment.takeover or replayed:
            self._platform.alerts.alert(Severity.INFO, f"taken over at #{newest}, {replayed} requests are replayed",
                                        lun=lun.lun)

    def _let_go(self, number: int) -> None:
        """Gate held, so no request is carried out here; those on the native table are waited for by close()."""
        served = self._served.pop(number)
        self._platform.source.offer(number, None)
        try:
            served.volume.close()
        except CdpError as error:
            self._platform.alerts.alert(Severity.ERROR, f"closing {served.lun.path}: {error.message}", error.hint,
                                        lun=number)

    # --- requests: on the listener's thread

    def _ready(self, listener: ListenerImpl, _user_data: Any, _n: int) -> None:
        more = True
        while more:     # the gate is free between batches, for a LUN that comes or goes
            with self._gate:
                batch = listener.receive(BATCH)
                for message in batch:
                    self._run(message)
            more = len(batch) == BATCH

    def _run(self, message: CpMsg) -> None:
        packet = message.body
        if not isinstance(packet, MDPacket):
            self._platform.alerts.alert(Severity.WARNING, f"a message from {message.sender} is no request",
                                        "see what sends to this group")
            self._platform.control.free(message)
            return
        served = self._served.get(packet.lun)
        if self._platform.tracing.enabled:
            self._platform.tracing.emit("request", lun=packet.lun, op=packet.op, cookie=packet.cookie,
                                        flags=packet.flags)
        if not served and packet.lun in self._failed:
            packet.answer(CDP_NOTFOUND)
            self._answer(message, packet)
        elif not served:
            self._platform.control.free(message)        # not ours yet, or not any more: its owner will ask for a replay
        elif packet.op == Op.FLUSH:
            assert self._flusher
            self._flusher.post(partial(self._flush, message, packet, served))
        else:
            self._carry_out(message, packet, served)

    def _flush(self, message: CpMsg, packet: MDPacket, served: Served) -> None:
        durable = served.volume.window().newest.seq if not served.volume.closed else 0
        self._carry_out(message, packet, served)
        if not packet.status and durable:
            self._platform.source.durable(packet.lun, durable)

    def _carry_out(self, message: CpMsg, packet: MDPacket, served: Served) -> None:
        data, views = self._platform.data, list[memoryview]()
        try:
            try:
                for ref in refs_of(packet):
                    views.append(data.map(ref))
                if why := execute(served.capsule, packet, list(views), served.lun.read_only):
                    log.info("%r: %s", packet, why)
            finally:
                for view in views:
                    data.unmap(view, modified=packet.op == Op.READ and not packet.status)
        except CdpError as error:       # a buffer group that is gone: so is its source, as a rule
            log.info("%r: %s", packet, error)
            packet.answer(code_of(error))
        if packet.status == CDP_CLOSED:
            self._platform.control.free(message)        # closed meanwhile
        else:
            self._answer(message, packet)

    def _answer(self, message: CpMsg, packet: MDPacket) -> None:
        self._platform.source.send_response(packet)
        self._platform.control.free(message)


def _open(lun: Lun) -> Volume:
    import cdp

    return cdp.open(lun.path)
