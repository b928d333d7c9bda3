"""The portable API: what the time store daemon needs of a platform. These docstrings are the specification, and
cdp.conformance is its test. (Names as in US patent 7,849,273.)

A platform is one node's view of a system of nodes: a PlatformImpl that holds one implementation of each abstract class.
Nodes may be objects of one process, processes of one machine, or machines.

Rules for all of them
  1. Every method may be called from any thread, also from callbacks, unless it says otherwise.
  2. Callbacks run on threads that the platform owns: never on the thread of the call that causes them, neither before
     it returns nor after. They must not raise; what they raise is reported by AlertsImpl and dropped. A slow callback
     holds up the callbacks of its own listener, router or source, and no others.
  3. A method blocks only where it says so, and then takes a `deadline`: an absolute time of time.monotonic() in
     seconds; None is no deadline; one that has passed means "try once". At the deadline it raises Busy and has done
     nothing. Waking up early and starting to wait again never makes the deadline later.
  4. Every queue has a bound that is written down here or in the platform's settings; where it is reached, the sender
     waits. Nothing is ever dropped.
  5. Errors are the kinds of cdpcore.base.errors: InvalidRequest (the call is wrong, nothing was done), NotFound, Busy
     (deadline, or another holds it), OutOfSpace (never fits the bound), Unavailable (the other side is gone or
     failing), Closed (this object was closed).
  6. close() is idempotent, ends the object's threads and waits for callbacks that run, unless it is called by one of
     them. Afterwards every other method raises Closed, and no callback comes except completions with Closed of what was
     still under way.
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from cdp.platform.structures import BgRef, CpMsg, CpSendReq, GroupName, IoRequest, MDPacket, Op
from cdpcore.base.errors import CdpError, Unavailable

if TYPE_CHECKING:
    from cdp.platform.services import AlertsImpl, ConfigurationImpl, TracingImpl, WorkloadManagerImpl

Ready = Callable[["ListenerImpl", Any, int], None]
"""ready(listener, user_data, n): n more messages can be received, which no earlier call has announced."""
ResponseDone = Callable[[MDPacket, CdpError | None], None]
Answered = Callable[[MDPacket], None]


class ListenerImpl(ABC):
    """One registration for a group (ControlPlaneImpl.register). In shadow mode until enabled.

    A group has one queue, and its listeners share it: messages are put in by senders and leave it when they are freed.
    At most one listener of a group is enabled at a time; it sees the queue from its oldest message on. The others are
    shadows: no callbacks, nothing to receive, but the one that is enabled later is given all that has not been freed
    until then: also what an earlier listener received without freeing it, marked CpMsg.redelivered. So a standby misses
    nothing that the active did not finish.
    """

    @abstractmethod
    def enable(self, ready: Ready, user_data: Any = None, *, max_msgs: int = 1, max_usecs: int = 0) -> None:
        """End shadow mode: from now on `ready` is called for messages, those that lie in the queue first.

        Batching: called when `max_msgs` messages are there that were not announced, or when the oldest of these has
        waited for `max_usecs` microseconds, whichever is first. max_usecs 0: as soon as there is one (several may be
        announced at once). Each message is announced by exactly one call, and calls never overlap; receive() may be
        called in it or elsewhere, later.
        Raises InvalidRequest (max_msgs 1 to 65535, max_usecs 0 to 60,000,000), Busy (enabled already, or another
        listener of the group is).
        """

    @abstractmethod
    def disable(self) -> None:
        """Back to shadow mode. When it returns no callback is running or will come (unless called in the callback:
        after that one); a callback that runs meanwhile may still receive. What was received and is not freed stays in
        the queue, and is delivered to the listener that is enabled next. No error in shadow mode."""

    @abstractmethod
    def receive(self, max_msgs: int = 64) -> list[CpMsg]:
        """Up to `max_msgs` (1 or more) messages, in order, without waiting; empty when there are none. Each has one
        reference, which the caller owns; until free() takes the last one, it occupies a buffer of its sender (flow
        control). Messages that `ready` has not announced yet may be among them; then it won't. Raises InvalidRequest in
        shadow mode."""

    @abstractmethod
    def close(self) -> None:
        """disable(), and give up the registration. Messages that are not freed stay with the group as long as it has
        another listener; with the last one they are gone."""


class ControlPlaneImpl(ABC):
    """Messages between groups, on one node or across nodes: small, ordered, never lost.

    Order: messages with the same `sender` to the same group are received in the order in which their send() returned;
    of different senders in any order. The order holds when a sender has to wait and when a shadow takes over.
    Flow control: a group has, for each sender, `bufs_per_sender` buffers, and `slop_bufs` more that all senders share.
    A message occupies one from send() until it is freed. A sender without one waits; others are not held up by it.
    Bound: (senders x bufs_per_sender + slop_bufs) messages a group, of at most MAX_BODY_BYTES each; 16 listeners a
    group.
    """

    @abstractmethod
    def register(self, group: GroupName, *, bufs_per_sender: int = 32, slop_bufs: int = 32) -> ListenerImpl:
        """A listener for `group`, whose instance must be this node's or that of a group meant to move between nodes; in
        shadow mode.

        Flow control is the group's: the first registration decides it, later ones must ask for the same.
        Raises InvalidRequest (bufs_per_sender 1 to 65535, slop_bufs 0 to 65535; other values than the group has), Busy
        (16 listeners).
        """

    @abstractmethod
    def send(self, request: CpSendReq, *, deadline: float | None = None) -> None:
        """Queue a message; blocks until it has a buffer, so never from a callback without a deadline. When it returns
        the body has been copied, the message has its place in the order, and `request.complete` will be called. With no
        listener registered for the group it does not wait: `complete` gets NotFound. Raises InvalidRequest (names, too
        long a body), Busy at the deadline, Closed."""

    @abstractmethod
    def add_ref(self, message: CpMsg) -> None:
        """One reference more: the message stays until free() was called once more. Raises InvalidRequest for a message
        that was freed; no effect where free() has none."""

    @abstractmethod
    def free(self, message: CpMsg) -> None:
        """One reference less; with the last one the message leaves the queue and its buffer is the sender's again. In
        any order.
        Raises InvalidRequest for a message that was freed. No effect and no error when its listener is not enabled any
        more and the message was delivered to another: the fenced one can't take it away."""

    @abstractmethod
    def close(self) -> None:
        """Close the node's listeners; complete what it was sending."""


class DataPlaneImpl(ABC):
    """Access to the bytes of buffer groups, wherever these live.

    A group's content is the home node's. A map elsewhere is a copy, unless both nodes see the same memory; `copies`
    says which. Data that was unmapped with modified=True before a message was sent is what the receiver of that message
    maps.
    """

    copies: ClassVar[bool]
    """True: what another node maps is a copy. False: nodes share the memory."""

    @abstractmethod
    def map(self, ref: BgRef) -> memoryview:
        """The bytes of `ref`: contiguous, writable, format "B", valid until unmapped. Blocks for the transfer where the
        group is elsewhere. The group cannot go while it is mapped: a release() takes effect at the last unmap(). Maps
        may overlap: who maps first is not kept from anything, and concurrent modified copies of the same bytes end as
        one of them.
        Raises NotFound (released, or never was), Unavailable (its home is gone), InvalidRequest (outside the group)."""

    @abstractmethod
    def unmap(self, view: memoryview, modified: bool) -> None:
        """Give back what map() returned, that very object; it is released and must not be used again. modified: what
        was written through it is the group's content for every later map, when this returns. Not modified: nothing is
        copied back; where `copies` is false the caller must not have written. Raises InvalidRequest for a view that is
        not mapped, Unavailable (its home is gone; the view is gone too)."""

    @abstractmethod
    def replicate(self, ref: BgRef, instance: int, *, deadline: float | None = None) -> BgRef:
        """A new group with the same content whose home is node `instance`; the caller owns one reference. Blocks for a
        group and for the transfer. The original is left as it is; later changes of either are not seen in the other.
        Raises NotFound (group or node), Busy at the deadline, Unavailable."""

    @abstractmethod
    def mark_local(self, ref: BgRef) -> BgRef:
        """Make this node the home of the whole group that `ref` is part of: maps here copy nothing from now on. The
        group's other references stay valid where they are held. Returns the reference to use from now on, to which the
        caller's reference has passed; the same `ref` where the group is at home already. Raises NotFound, Busy (it is
        mapped, or this node has no free group now), Unavailable."""


class BGSSImpl(ABC):
    """The supply of buffer groups: a fixed pool on each node. A group is `group_bytes` of contiguous memory.

    References are counted here, not in the group: request() and deliver() hand out one, add_ref() another, release()
    takes one back; with the last the group goes back to the pool, once it is not mapped. A group's content is undefined
    when handed out.
    """

    group_bytes: int
    """Size of every group of this node; constant, a multiple of 4096."""
    group_count: int
    """How many groups this node has; constant."""

    @abstractmethod
    def request(self, count: int = 1, *, deadline: float | None = None) -> list[BgRef]:
        """`count` groups of this node, each whole, all or none. Blocks until there are as many; waiters are served in
        the order of their calls. Raises Busy at the deadline, OutOfSpace for more than the pool has, InvalidRequest for
        less than 1."""

    @abstractmethod
    def deliver(self, to: GroupName, count: int = 1, cookie: int = 0) -> None:
        """The same without waiting: when `count` groups are there, they are sent to the listener of group `to` as a
        BgDeliveryMsg with `cookie` (its sender: GroupName(0, this node)). In the same queue as request(). At most 1024
        deliveries wait; then Busy. Groups that cannot be delivered (nobody is registered) go back to the pool, with a
        WARNING. Raises OutOfSpace, InvalidRequest, Busy."""

    @abstractmethod
    def add_ref(self, ref: BgRef) -> None:
        """One reference more to the group of `ref` (any part of it). Raises NotFound for one that was released."""

    @abstractmethod
    def release(self, ref: BgRef) -> None:
        """One reference less; from any node. Raises NotFound for a group that was released already."""

    @abstractmethod
    def available(self) -> int:
        """Groups in the pool now."""


class IOsrcImpl(ABC):
    """Where requests come from, and where answers go.

    Both halves of one class, because a node may have both: submit() is called where a front end takes requests in (a
    gateway), the others where they are carried out (a TSD). Requests travel as MDPackets over the control plane to the
    group of the TSD that the workload manager named as the LUN's owner; they are kept by the source's node until they
    are answered, and so survive the TSD.
    """

    @abstractmethod
    def submit(self, packet: MDPacket, answered: Answered, *, deadline: float | None = None) -> None:
        """A request of this node: sent to the LUN's owner in the order of submit() calls. source, cookie and (where it
        is 0) timestamp of the packet are filled in by the platform; the buffer groups stay the caller's, and must stay
        as they are until it is answered. `answered(packet)` is called exactly once for every submit() that returned:
        with the answer (RESPONSE set, the caller's cookie, status), or with status CDP_CLOSED when the source is closed
        first. No owner, or one that died: it waits for the next, and is replayed. Blocks while `max_outstanding`
        requests are under way. Raises InvalidRequest, Busy at the deadline, NotFound (a LUN that nobody was ever
        assigned). Never from `answered` without a deadline."""

    @abstractmethod
    def send_response(self, packet: MDPacket, send_complete: ResponseDone | None = None) -> None:
        """Answer a request: a packet with RESPONSE, as received otherwise (copied; the group's message is freed
        separately). Never blocks: every outstanding request has room for its answer. `send_complete(packet, None)` is
        called exactly once, when the caller may forget the request. A source that has died is no error: send_complete
        comes all the same, with None. An answer to what is not outstanding (answered before, or replayed to another
        owner since) is dropped in the same manner. Raises InvalidRequest for what is no answer."""

    @abstractmethod
    def replay(self, lun: int, recovered_seq: int) -> int:
        """Called by the new owner of `lun` before it enables its listener: every request of the LUN that is not
        answered is sent again, with REPLAY set, to its group: each once, in the order of submit(), before any new
        request; a copy that is still in the queue is withdrawn. Where sources keep writes until durable(), answered
        ones with seq > recovered_seq come first, in the order of seq. A request with 0 < seq <= recovered_seq is in the
        recovered history: it is answered as done and not sent. How many were sent."""

    @abstractmethod
    def durable(self, lun: int, seq: int) -> None:
        """Called by the owner: everything up to `seq` survives its death; sources need not keep it. Never goes back.
        Cheap; call it often."""

    @abstractmethod
    def offer(self, lun: int, capsule: object | None) -> None:
        """Called by the owner: a PyCapsule "cdpcore.target" (base/target.h) on which requests to `lun` may be carried
        out without packets, or None: no longer. A platform whose front ends are in this process hands it to them
        through native(); others ignore it."""

    @abstractmethod
    def native(self, lun: int) -> object | None:
        """For a front end of this node: the capsule, if there is a way past the packets; None where requests go through
        submit()."""

    @abstractmethod
    def close(self) -> None:
        """What is outstanding is answered with CDP_CLOSED."""


class PathLost(Unavailable):
    """The way to a disk is gone; the disk may be well. Whether a request under way was carried out is not known."""


class IORouterImpl(ABC):
    """One disk that blocks are read from and written to, wherever it is.

    Order: requests are carried out as if one after the other in the order of submit() wherever their ranges overlap. A
    flush covers every write that was done before it was submitted. At most `depth` requests are under way; then
    submit() waits.
    """

    size_bytes: int
    """Constant after opening."""
    read_only: bool
    depth: int

    @abstractmethod
    def submit(self, request: IoRequest, *, deadline: float | None = None) -> None:
        """Start a request; its `done` comes on a thread of the router. Blocks while `depth` are under way, unless
        called by a `done`.
        Raises InvalidRequest (IoRequest.check; a change to a read-only disk), Busy at the deadline, Closed. All other
        failures come by `done`: PathLost (whether it was carried out is not known), Unavailable (the disk failed),
        OutOfSpace."""

    def run(self, op: Op, offset: int = 0, length: int = 0, buffer: memoryview | None = None,
            fua: bool = False) -> None:
        """submit(), and wait until it is done; raises what went wrong. Never from a `done`."""
        finished: SimpleQueue[CdpError | None] = SimpleQueue()
        self.submit(IoRequest(op, offset, length, buffer, fua, lambda _request, error: finished.put(error)))
        if error := finished.get():
            raise error

    def target(self) -> object:
        """The same disk as a PyCapsule "cdpcore.target", for an NBD server or a replay. It does not outlive close(). A
        router whose storage can be used without Python overrides this."""
        from cdpcore.channel.python_target import PyTarget

        return PyTarget(lambda op, *rest: self.run(Op(op), *rest), self.size_bytes, self.read_only).capsule()

    @abstractmethod
    def close(self) -> None:
        """Waits for what is under way."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


class PlatformImpl(ABC):
    """One node: an implementation of each class, made and closed together. A context manager.

    Found by its entry point of group "cdp.platforms" and made by load(name, ...), which calls `create`.
    """

    name: ClassVar[str]
    """The entry point's name."""
    instance: int
    """This node's number: the instance of its groups, the home of its buffer groups."""
    control: ControlPlaneImpl
    data: DataPlaneImpl
    buffers: BGSSImpl
    source: IOsrcImpl
    configuration: ConfigurationImpl
    alerts: AlertsImpl
    tracing: TracingImpl
    workload: WorkloadManagerImpl

    @classmethod
    @abstractmethod
    def create(cls, instance: int = 0, **options: Any) -> Self:
        """A node of a new system. Options are the platform's own. Raises InvalidRequest for an unknown one."""

    @classmethod
    @abstractmethod
    def nodes(cls, count: int, *, group_bytes: int = 65536, group_count: int = 16,
              max_outstanding: int = 64) -> AbstractContextManager[Sequence[PlatformImpl]]:
        """`count` (1 to 4) nodes of one new system, instances 0 to count - 1, for tests: what the conformance suite
        runs on. The objects are in this process; what stands behind them need not be. Each has a pool of group_count
        groups of group_bytes, and a source with max_outstanding. All is closed at exit."""

    @abstractmethod
    def open_router(self, *where: str) -> IORouterImpl:
        """The router to a disk; several places are paths to the same disk, the first the one to prefer. Raises
        NotFound, Unavailable, InvalidRequest, which lists what can be written:

        file:PATH                       a file or block device
        nbd://..., nbd+unix://...       an NBD server; with nbds://... and nbds+unix://... over TLS
        lun:NUMBER                      the LUN, through the node that owns it

        cdp.platform.routers.open_router(where, self) does all of it over this API alone.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes all of it: source, listeners, control plane, buffers, in this order."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
