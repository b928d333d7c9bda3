"""The control plane: registrations and messages at the hub."""
from __future__ import annotations

from typing import Any

from cdp.platform.api import ControlPlaneImpl, ListenerImpl, Ready
from cdp.platform.posix.wires import OneShots, Wires
from cdp.platform.structures import MAX_BODY_BYTES, CpMsg, CpSendReq, GroupName, MDPacket
from cdpcore.base.errors import InvalidRequest


class Listener(ListenerImpl):
    """A registration at the hub."""

    def __init__(self, wires: Wires, number: int):
        self._wires, self._number, self._token = wires, number, ""

    def enable(self, ready: Ready, user_data: Any = None, *, max_msgs: int = 1, max_usecs: int = 0) -> None:
        token = self._wires.callbacks(lambda n: ready(self, user_data, n))
        try:
            self._wires.call("enable", self._number, token, max_msgs, max_usecs)
        except BaseException:
            self._wires.end(token)
            raise
        self._token = token

    def disable(self) -> None:
        self._wires.call("disable", self._number)
        self._wires.end(self._token)

    def receive(self, max_msgs: int = 64) -> list[CpMsg]:
        found: list[CpMsg] = self._wires.call("receive", self._number, max_msgs)
        return found

    def close(self) -> None:
        if not self._wires.closed:
            self._wires.call("close_listener", self._number)
            self._wires.end(self._token)


class ControlPlane(ControlPlaneImpl):
    def __init__(self, wires: Wires):
        self._wires, self._completions = wires, OneShots()
        wires.callbacks(self._completions, "completions")

    def register(self, group: GroupName, *, bufs_per_sender: int = 32, slop_bufs: int = 32) -> ListenerImpl:
        return Listener(self._wires, self._wires.call("register", group, bufs_per_sender, slop_bufs))

    def send(self, request: CpSendReq, *, deadline: float | None = None) -> None:
        body = request.body if isinstance(request.body, MDPacket) else bytes(request.body)
        if isinstance(body, bytes) and len(body) > MAX_BODY_BYTES:
            raise InvalidRequest(f"a message of {len(body)} bytes",
                                 f"at most {MAX_BODY_BYTES}; data goes by the data plane")
        complete = request.complete
        number = self._completions.add((lambda error: complete(request, error)) if complete else lambda _error: None)
        try:
            self._wires.call("send", request.to, body, request.sender, number, deadline)
        except BaseException:
            self._completions.forget(number)
            raise

    def add_ref(self, message: CpMsg) -> None:
        self._wires.call("add_message_ref", message.handle)

    def free(self, message: CpMsg) -> None:
        self._wires.call("free", message.handle)

    def close(self) -> None:
        """With the node."""
