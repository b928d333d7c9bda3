"""I/O source of the reference platform: requests are kept here until they are answered, and one thread sends them, in
order.

Invariants
  1. _outstanding holds every request that is not answered, by the cookie that this source gave it, in the order of
     submit().
  2. A request is in _unsent, or in its owner's group, or with its owner; or nobody owns its LUN, and it waits for
     replay().
  3. An answer counts if it was given under the epoch that the request was last sent under.
"""
from __future__ import annotations

import threading
import time
from collections import deque
from functools import partial
from typing import Any

from cdp.platform.api import Answered, ControlPlaneImpl, IOsrcImpl, ResponseDone
from cdp.platform.callers import Caller, guarded, wait_until
from cdp.platform.python.messages import Messages
from cdp.platform.python.services import Workload
from cdp.platform.structures import CpSendReq, Flag, GroupName, MDPacket
from cdpcore.base.errors import Busy, CdpError, Closed, InvalidRequest, NotFound

SOURCE_ID = 1           # group id of every node's source; nobody listens there, answers come by send_response()
RETRY_S = 0.05
CDP_CLOSED = 6          # enum cdp_code


class Outstanding:
    """A request that is not answered. Guarded by its source's lock."""

    def __init__(self, packet: MDPacket, cookie: int, answered: Answered):
        self.packet, self.cookie, self.answered = packet, cookie, answered     # cookie: the caller's own


class Sources:
    """The sources of a system by node."""

    def __init__(self) -> None:
        self.by_node: dict[int, Source] = {}


class Source(IOsrcImpl):
    """One node's source."""

    def __init__(self, instance: int, sources: Sources, control: ControlPlaneImpl, messages: Messages,
                 workload: Workload, max_outstanding: int, report: Any):
        self._name = GroupName(SOURCE_ID, instance)
        self._sources, self._control, self._messages, self._workload = sources, control, messages, workload
        self._max_outstanding, self._report = max_outstanding, report
        self._changed = threading.Condition()
        self._outstanding: dict[int, Outstanding] = {}
        self._under_way = 0         # submitted, and answered() has not returned
        self._unsent: deque[Outstanding] = deque()
        self._sending: Outstanding | None = None
        self._replaying: set[int] = set()       # LUNs whose requests are not to be sent now
        self._last_cookie = 0
        self._closed = False
        self._answers = Caller(f"answers-{instance}", report)
        self._sender = threading.Thread(target=self._send_all, name=f"source-{instance}", daemon=True)
        self._sender.start()

    # --- the front end's half

    def submit(self, packet: MDPacket, answered: Answered, *, deadline: float | None = None) -> None:
        if packet.flags & Flag.RESPONSE:
            raise InvalidRequest("an answer where a request belongs", "clear RESPONSE")
        if not self._workload.is_known(packet.lun):
            raise NotFound(f"LUN {packet.lun} was never assigned", "assign it to a TSD first")
        request = Outstanding(packet.copy(), packet.cookie, answered)
        with self._changed:
            wait_until(self._changed, lambda: self._under_way < self._max_outstanding or self._closed, deadline,
                       f"{self._max_outstanding} requests are under way; none was answered")
            if self._closed:
                raise Closed("the I/O source is closed")
            self._last_cookie += 1
            request.packet.cookie = self._last_cookie
            request.packet.source_id, request.packet.source_instance = self._name
            request.packet.timestamp_ns = request.packet.timestamp_ns or time.time_ns()
            self._outstanding[self._last_cookie] = request
            self._under_way += 1
            self._unsent.append(request)
            self._changed.notify_all()

    def _send_all(self) -> None:
        while True:
            with self._changed:
                self._sending = None
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._unsent or self._closed)
                if self._closed:
                    return
                request = self._unsent.popleft()
                owner, epoch = self._workload.ownership(request.packet.lun)
                if not owner:
                    continue    # it waits for replay()
                request.packet.epoch = epoch
                self._sending = request
                message = CpSendReq(owner, request.packet.copy(), self._name, self._sent)
            while not self._try_send(message, request.packet.lun):
                pass

    def _try_send(self, message: CpSendReq, lun: int) -> bool:
        """Not under the lock, because it may wait for a buffer; for a moment only, because a replay may want it to
        stop."""
        try:
            self._control.send(message, deadline=time.monotonic() + RETRY_S)
        except Busy:
            with self._changed:
                return self._closed or lun in self._replaying
        except CdpError as error:
            self._sent(message, error)
        return True

    def _sent(self, message: CpSendReq, error: CdpError | None) -> None:
        if error:
            self._report(f"sending {message.body!r} to {message.to}: {error}; it waits for its LUN's next owner")

    # --- the owner's half

    def send_response(self, packet: MDPacket, send_complete: ResponseDone | None = None) -> None:
        if not packet.flags & Flag.RESPONSE:
            raise InvalidRequest(f"{packet} is no answer", "use MDPacket.answer()")
        answer = packet.copy()
        source = self._sources.by_node.get(answer.source_instance)
        if source:
            source.take_answer(answer)
        if send_complete:
            self._answers.post(partial(send_complete, answer, None))

    def take_answer(self, answer: MDPacket) -> None:
        """An answer for this node."""
        with self._changed:
            request = self._outstanding.get(answer.cookie)
            if not request or request.packet.epoch != answer.epoch:
                return
            self._finish(request, answer)

    def _finish(self, request: Outstanding, answer: MDPacket) -> None:
        """Lock held."""
        del self._outstanding[answer.cookie]
        answer.cookie = request.cookie
        self._answers.post(partial(self._tell, request, answer))

    def _tell(self, request: Outstanding, answer: MDPacket) -> None:
        guarded(partial(request.answered, answer), self._report)
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def replay(self, lun: int, recovered_seq: int) -> int:
        return sum(source.replay_here(lun, recovered_seq) for source in list(self._sources.by_node.values()))

    def replay_here(self, lun: int, recovered_seq: int) -> int:
        """The part of replay() that is this node's."""
        with self._changed:
            self._replaying.add(lun)
            self._changed.wait_for(lambda: not self._sending or self._sending.packet.lun != lun or self._closed)
            self._replaying.discard(lun)
            again = [request for request in self._outstanding.values() if request.packet.lun == lun]
            self._messages.withdraw({request.packet.cookie for request in again}, self._name.instance)
            self._unsent = deque(request for request in self._unsent if request.packet.lun != lun)
            sent = 0
            for request in again:
                if 0 < request.packet.seq <= recovered_seq:
                    answer = request.packet.copy()
                    answer.answer()
                    self._finish(request, answer)
                    continue
                request.packet.flags |= Flag.REPLAY
                self._unsent.append(request)
                sent += 1
            self._changed.notify_all()
            return sent

    def durable(self, lun: int, seq: int) -> None:
        """Nothing: an answered request is forgotten here, so there is nothing to release."""

    def offer(self, lun: int, capsule: object | None) -> None:
        """Nothing: requests go by packets."""

    def native(self, lun: int) -> object | None:
        return None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for request in list(self._outstanding.values()):
                answer = request.packet.copy()
                answer.answer(CDP_CLOSED)
                self._finish(request, answer)
        self._sources.by_node.pop(self._name.instance, None)
        self._sender.join()
        self._answers.close()
