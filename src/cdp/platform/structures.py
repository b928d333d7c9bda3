"""What the abstract classes of cdp.platform.api pass around. Plain values: no threads, no resources, no platform in
them.

MDPacket, the one with a C layout, is cdpcore.channel.mdpacket's. Counts of references are kept by the planes, never in
a structure.
"""
from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cdpcore.base.errors import CdpError, InvalidRequest
from cdpcore.channel.mdpacket import Flag, MDPacket, Op

__all__ = ["MAX_BODY_BYTES", "Assignment", "BgDeliveryMsg", "BgRef", "CpMsg", "CpSendReq", "Flag", "GroupName",
           "IoRequest", "Lun", "MDPacket", "Op", "Severity"]

MAX_BODY_BYTES = 4096   # of an opaque message: the control plane carries messages, the data plane carries data
_U16 = 1 << 16


class GroupName(NamedTuple):
    """Whom messages are for: `id` as a port, `instance` as a node. Both 16 bits; 0 is valid for either."""

    id: int
    instance: int

    def check(self) -> GroupName:
        """Itself. Raises InvalidRequest where a part does not fit 16 bits."""
        if not (0 <= self.id < _U16 and 0 <= self.instance < _U16):
            raise InvalidRequest(f"group name {self.id}.{self.instance}", "both parts are 0 to 65535")
        return self

    def __str__(self) -> str:
        return f"{self.id}.{self.instance}"


class BgRef(NamedTuple):
    """Part of a buffer group: `length_bytes` from byte `offset_bytes` of group (home, slot, generation).

    home        instance of the node whose pool the group is of
    slot        number of the group in that pool
    generation  of the slot when it was handed out (never 0): so a stale reference differs from its successor
    """

    home: int
    slot: int
    generation: int
    offset_bytes: int
    length_bytes: int

    def part(self, offset_bytes: int, length_bytes: int) -> BgRef:
        """A part of this part. Raises InvalidRequest outside it."""
        if offset_bytes < 0 or length_bytes < 1 or offset_bytes + length_bytes > self.length_bytes:
            raise InvalidRequest(f"bytes {offset_bytes}+{length_bytes} of a buffer of {self.length_bytes}",
                                 "stay inside it")
        return self._replace(offset_bytes=self.offset_bytes + offset_bytes, length_bytes=length_bytes)


def refs_of(packet: MDPacket) -> list[BgRef]:
    """The buffer references of a packet, in order."""
    return [BgRef(packet.bg_home, *packet.bg(i)) for i in range(min(packet.n_bgs, 4))]


def add_ref_to(packet: MDPacket, ref: BgRef) -> None:
    """Append a reference. Raises InvalidRequest for a fifth, or for a group of another home than the packet's
    others."""
    if packet.n_bgs and packet.bg_home != ref.home:
        raise InvalidRequest("buffer groups of two nodes in one packet", "replicate one of them first")
    packet.add_bg(ref.slot, ref.generation, ref.offset_bytes, ref.length_bytes)
    packet.bg_home = ref.home


@dataclass(frozen=True, slots=True, eq=False)
class CpMsg:
    """A received message.

    body         bytes (opaque, at most MAX_BODY_BYTES) or an MDPacket; valid until the message is freed. A packet may
                 lie in memory that the platform shares with others: setters then write through, copy() makes one that
                 is the caller's own.
    sender       as CpSendReq.sender
    redelivered  an earlier listener of the group received it and did not free it
    handle       the platform's own
    """

    body: bytes | MDPacket
    sender: GroupName
    redelivered: bool = False
    handle: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class CpSendReq:
    """A message to be sent.

    to         the group
    body       copied before send() returns
    sender     on whose behalf: order and flow control are per (sender, to). Needs no listener.
    complete   called exactly once for every send() that returned, on a thread of the platform: complete(request, None)
               when the message lies in the group's queue and cannot be lost any more; complete(request, error) when it
               never will: NotFound (the group has no listener), Closed (the plane was closed meanwhile), Unavailable
               (the other node is gone). Completions of one sender come in the order of its sends. It must not raise and
               should be short.
    user_data  for the sender
    """

    to: GroupName
    body: bytes | MDPacket
    sender: GroupName
    complete: Callable[[CpSendReq, CdpError | None], None] | None = None
    user_data: Any = None


@dataclass(frozen=True, slots=True)
class BgDeliveryMsg:
    """Buffer groups on their way to a listener (BGSSImpl.deliver): the receiver owns one reference to each, and
    releases it.

    Travels as the opaque bytes of a CpMsg: bytes(message) and BgDeliveryMsg.parse(body).
    """

    cookie: int
    groups: tuple[BgRef, ...]

    MAGIC = b"BGDM"
    MAX_GROUPS = 128

    def __bytes__(self) -> bytes:
        if len(self.groups) > self.MAX_GROUPS:
            raise InvalidRequest(f"{len(self.groups)} buffer groups in one delivery", f"at most {self.MAX_GROUPS}")
        return self.MAGIC + struct.pack("<QI", self.cookie, len(self.groups)) + b"".join(
            struct.pack("<HxxIIII", *group) for group in self.groups)

    @classmethod
    def parse(cls, body: bytes | MDPacket) -> BgDeliveryMsg:
        """Raises InvalidRequest for what is no delivery."""
        if isinstance(body, bytes) and body[:4] == cls.MAGIC and len(body) >= 16:
            cookie, n = struct.unpack_from("<QI", body, 4)
            if n <= cls.MAX_GROUPS and len(body) == 16 + 20 * n:
                return cls(cookie, tuple(BgRef(*struct.unpack_from("<HxxIIII", body, 16 + 20 * i)) for i in range(n)))
        raise InvalidRequest("a message that delivers no buffer groups", "look at the first four bytes: BGDM")


@dataclass(frozen=True, slots=True, eq=False)
class IoRequest:
    """One request to a router.

    op      READ fills `buffer`; WRITE takes it; ZERO and TRIM change `length` bytes; FLUSH has neither range nor buffer
    offset  bytes
    length  bytes; of READ and WRITE: len(buffer)
    buffer  contiguous bytes, writable for READ; the router's from submit() until done, then the caller's again
    fua     durable before done
    done    called exactly once for every submit() that returned, on a thread of the router: done(request, None or the
            error). It must not raise. It may submit.
    """

    op: Op
    offset: int = 0
    length: int = 0
    buffer: memoryview | None = None
    fua: bool = False
    done: Callable[[IoRequest, CdpError | None], None] = field(default=lambda _request, _error: None, repr=False)

    def check(self, size_bytes: int) -> None:
        """The one door of a router. Raises InvalidRequest."""
        hint = "stay inside the disk"
        if self.op is Op.FLUSH:
            if self.offset or self.length or self.buffer is not None:
                raise InvalidRequest("a flush with a range or a buffer", "leave them out")
            return
        if self.offset < 0 or self.length < 1 or self.offset + self.length > size_bytes:
            raise InvalidRequest(f"bytes {self.offset}+{self.length} of a disk of {size_bytes}", hint)
        if self.op in (Op.READ, Op.WRITE):
            if self.buffer is None or self.buffer.nbytes != self.length:
                raise InvalidRequest(f"a {self.op.name} of {self.length} bytes without a buffer of that size",
                                     "give one")
            if self.op is Op.READ and self.buffer.readonly:
                raise InvalidRequest("a READ into read-only memory", "give a writable buffer")
        elif self.buffer is not None:
            raise InvalidRequest(f"a {self.op.name} with a buffer", "leave it out")


@dataclass(frozen=True, slots=True)
class Lun:
    """A LUN that a TSD has to serve.

    lun        its number, the same on all nodes
    path       where the volume's folder is
    read_only  writes are refused
    """

    lun: int
    path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that a TSD is to serve, as of now.

    epoch     grows with every assignment of the workload manager, across all TSDs: of two owners the one with the
              higher is right
    luns      the whole list: what is not in it is to be closed
    takeover  some of them had an owner that is gone: outstanding requests are to be replayed
    """

    epoch: int
    luns: tuple[Lun, ...]
    takeover: bool = False


class Severity(enum.IntEnum):
    """Of an alert. INFO: nothing to do. WARNING: something is to be done some day. ERROR: now."""

    INFO = 1
    WARNING = 2
    ERROR = 3
