"""A LUN as a disk, wherever its owner is: requests are forwarded as packets, by the platform.

Invariant: a piece of a request holds its buffer groups until it is answered, and asks for all of them at once; so
pieces never wait for each other. Threading: one thread cuts requests and waits for groups and for the source; answers
come on the source's thread.
"""
from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial

from cdp.platform.api import PlatformImpl
from cdp.platform.callers import Caller, wait_until
from cdp.platform.routers.base import Router, log
from cdp.platform.structures import BgRef, Flag, IoRequest, MDPacket, Op, add_ref_to
from cdpcore.base.errors import CdpError, error_of
from cdpcore.channel.mdpacket import MAX_BGS

OPEN_S = 10.0


@dataclass(eq=False)
class Whole:
    """A request and what is left of it. Guarded by the router's _pieces."""

    request: IoRequest
    left: int
    error: CdpError | None = None


class ForwardRouter(Router):
    """ForwardRouter(platform, lun). Asks the owner for the size first: Busy where no owner answers in 10 s, NotFound
    for an unknown LUN."""

    def __init__(self, platform: PlatformImpl, lun: int):
        self._platform, self._lun = platform, lun
        self._pieces = threading.Condition()
        answers: list[MDPacket] = []

        def answered(packet: MDPacket) -> None:
            with self._pieces:
                answers.append(packet)
                self._pieces.notify_all()

        deadline = time.monotonic() + OPEN_S
        platform.source.submit(MDPacket(Op.INQUIRE, lun), answered, deadline=deadline)
        with self._pieces:
            wait_until(self._pieces, lambda: answers, deadline, f"no owner of LUN {lun} answered")
        packet = answers[0]
        if packet.status:
            raise error_of(packet.status, packet.sys_errno, f"LUN {lun}")
        self.size_bytes, self.read_only = packet.length_bytes, bool(packet.flags & Flag.READ_ONLY)
        super().__init__(f"lun:{lun}")
        groups = min(MAX_BGS, platform.buffers.group_count)
        self._piece_bytes = groups * platform.buffers.group_bytes
        self._cutter = Caller(f"forward {lun}", log.error)

    def _start(self, request: IoRequest) -> None:
        self._cutter.post(partial(self._cut, request))

    def _cut(self, request: IoRequest) -> None:
        has_data = request.op in (Op.READ, Op.WRITE)
        fua = request.fua and request.op not in (Op.READ, Op.FLUSH)
        steps = range(0, request.length, self._piece_bytes) if has_data else range(1)
        whole = Whole(request, len(steps))
        for at in steps:
            length = min(self._piece_bytes, request.length - at) if has_data else request.length
            packet = MDPacket(request.op, self._lun, offset_bytes=request.offset + at, length_bytes=length,
                              flags=Flag.FUA if fua else 0)
            refs = list[BgRef]()
            try:
                if has_data:
                    refs = self._attach(packet, length)
                    if request.op is Op.WRITE:
                        self._copy(request, at, refs)
                self._platform.source.submit(packet, partial(self._answered, whole, at, refs))
            except CdpError as error:
                self._release(refs)
                self._piece_done(whole, error)

    def _attach(self, packet: MDPacket, length: int) -> list[BgRef]:
        size = self._platform.buffers.group_bytes
        refs = []
        for i, group in enumerate(self._platform.buffers.request(-(-length // size))):
            refs.append(group.part(0, min(size, length - i * size)))
            add_ref_to(packet, refs[-1])
        return refs

    def _copy(self, request: IoRequest, at: int, refs: list[BgRef]) -> None:
        """Into the groups for a WRITE, out of them for a READ."""
        assert request.buffer is not None
        data = request.buffer.cast("B")
        for ref in refs:
            view = self._platform.data.map(ref)
            if request.op is Op.WRITE:
                view[:] = data[at:at + ref.length_bytes]
            else:
                data[at:at + ref.length_bytes] = view
            self._platform.data.unmap(view, modified=request.op is Op.WRITE)
            at += ref.length_bytes

    def _answered(self, whole: Whole, at: int, refs: list[BgRef], packet: MDPacket) -> None:
        error: CdpError | None = None
        if packet.status:
            error = error_of(packet.status, packet.sys_errno, f"LUN {self._lun}")
        try:
            if not error and whole.request.op is Op.READ:
                self._copy(whole.request, at, refs)
        except CdpError as failure:
            error = failure
        self._release(refs)
        self._piece_done(whole, error)

    def _release(self, refs: list[BgRef]) -> None:
        for ref in refs:
            try:
                self._platform.buffers.release(ref)
            except CdpError as error:
                log.warning("%s: releasing a buffer group: %s", self.name, error)

    def _piece_done(self, whole: Whole, error: CdpError | None) -> None:
        with self._pieces:
            whole.left -= 1
            whole.error = whole.error or error
            done = not whole.left
        if done:
            self._finish(whole.request, whole.error)

    def _shutdown(self) -> None:
        self._cutter.close()
