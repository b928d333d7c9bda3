"""The I/O source: requests that the hub keeps until they are answered."""
from __future__ import annotations

from cdp.platform.api import Answered, IOsrcImpl, ResponseDone
from cdp.platform.posix.wires import OneShots, Wires
from cdp.platform.structures import Flag, MDPacket
from cdpcore.base.errors import InvalidRequest


class Source(IOsrcImpl):
    def __init__(self, wires: Wires):
        self._wires, self._answers = wires, OneShots()
        wires.callbacks(self._answers, "answers")

    def submit(self, packet: MDPacket, answered: Answered, *, deadline: float | None = None) -> None:
        number = self._answers.add(lambda reply, _error: answered(reply))
        try:
            self._wires.call("submit", packet, number, deadline)
        except BaseException:
            self._answers.forget(number)
            raise

    def send_response(self, packet: MDPacket, send_complete: ResponseDone | None = None) -> None:
        if not packet.flags & Flag.RESPONSE:
            raise InvalidRequest(f"{packet} is no answer", "use MDPacket.answer()")
        self._wires.call("send_response", packet, self._answers.add(send_complete) if send_complete else None)

    def replay(self, lun: int, recovered_seq: int) -> int:
        return int(self._wires.call("replay", lun, recovered_seq))

    def durable(self, lun: int, seq: int) -> None:
        self._wires.call("durable", lun, seq)

    def offer(self, lun: int, capsule: object | None) -> None:
        """Nothing: front ends are other processes."""

    def native(self, lun: int) -> object | None:
        return None

    def close(self) -> None:
        """With the node."""
