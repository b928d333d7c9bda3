"""The workload manager of one machine: it pushes the volumes to one time store daemon, keeps a second one in shadow
mode, and hands over when the first dies, hangs or is to be replaced. It starts all of them, and the gateway, and so
knows of every death.

Invariants
  1. Volumes are pushed to a daemon only when the daemon that had them is dead: this process is its parent, kills it
     (SIGKILL ends a stopped process too) and has collected its exit status. So no other process can write one more
     byte.
  2. A daemon that does not beat for hang_seconds is killed. One that is opening volumes may take its time.
  3. When this process ends, however it ends, the others do: their links break, and a daemon makes everything durable
     first.
Bounds: two daemons; MAX_FAILURES failures in a row, without a success or a minute's peace, then the service ends and
says why.
Threading: run() owns everything; a thread a process reads its link, one accepts control connections; all of them put
events.
"""
from __future__ import annotations

import logging
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from cdp.ipc.errors import decode_error, encode_error
from cdp.ipc.link import Link, Message, accept_links
from cdp.ipc.unix_socket import bind_unix, socket_path
from cdp.settings import Settings
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, Unavailable

log = logging.getLogger("cdp.ha")

CONTROL_OPTION = "--control SOCK"
HANG_SECONDS = 1.0
MAX_FAILURES = 5
STOP_SECONDS = 60.0
SWITCH_SECONDS = 30.0
FORGIVEN_SECONDS = 60.0     # a failure so long after the one before is the first again
HISTORY = 1000      # failovers that status remembers


@dataclass(eq=False)
class Child:
    """A process that this one started. state: starting, shadow, opening, active, releasing; a gateway: starting,
    serving, replaced (by another one, or about to be)."""

    role: str
    process: subprocess.Popen[bytes]
    link: Link
    state: str = "starting"
    beat_s: float = field(default_factory=time.monotonic)
    error: CdpError | None = None
    told: Message = field(default_factory=dict)     # with its last beat
    warned: threading.Event = field(default_factory=threading.Event)    # of the end of the gateway; or it is dead

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass
class Failover:
    """One change of owner. Times in milliseconds: from the death (or the order to hand over) to ..."""

    why: str
    old_pid: int
    new_pid: int
    dead_ms: float          # ... the old owner's exit status
    opened_ms: float        # ... the volumes open
    serving_ms: float       # ... the first new request
    replayed: int


Event = tuple[Child | None, Message | None, Callable[[Message], None] | None]


class Manager:
    """`with Manager(paths, settings) as manager: manager.run()`. Raises what the first opening of the volumes
    raises."""

    def __init__(self, paths: Sequence[str], settings: Settings, *, control: str | None = None, read_only: bool = False,
                 hang_seconds: float = HANG_SECONDS):
        from cdp.serve.addresses import ADMIN_OPTION, listen_addresses, named_roots, runtime_directory, runtime_sockets

        self._roots = {name: os.path.abspath(location.root) for name, location in named_roots(paths).items()}
        first = next(iter(self._roots))
        sockets = runtime_sockets(first)
        self.control = socket_path(control or os.path.join(runtime_directory(), f"{first}.ha.sock"), CONTROL_OPTION)
        if settings.standby_listen or settings.standby_socket:
            raise InvalidRequest("behind a gateway a volume has no standby on another host",
                                 "leave off --standby-listen and --standby-socket, or use 'cdp serve'")
        self._settings = settings if settings.admin_socket else replace(settings, admin_socket=sockets.admin)
        socket_path(self._settings.admin_socket or "", ADMIN_OPTION)
        self._addresses = listen_addresses(settings, sockets.nbd)
        self._read_only, self._hang_seconds = read_only, hang_seconds
        self._events: queue.Queue[Event] = queue.Queue(4096)
        self._stack = ExitStack()
        self._gateway: Child | None = None
        self._next_gateway: Child | None = None     # takes over from it
        self._retired: list[Child] = []             # gateways that were replaced and carry TLS connections
        self._daemons: list[Child] = []
        self._failures, self._failed_s = 0, 0.0
        # The change of owner under way: why, old pid, since, dead after ms.
        self._why = ("start", 0, time.monotonic(), 0.0)
        self._failovers: deque[Failover] = deque(maxlen=HISTORY)
        self._switching: list[Callable[[Message], None]] = []
        self._replacing: list[Callable[[Message], None]] = []
        self._served = False
        self._stopping = False
        self.uris: list[str] = []
        self.ready: Callable[[], None] = lambda: None
        """Called once, when the volumes are served for the first time."""

    # --- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = tempfile.mkdtemp(prefix="cdp-ha-")
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._listener = bind_unix(self.control)
            stack.callback(self._listener.close)
            accept_links(self._listener, self._converse, "ha")
            stack.callback(self._end_children)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def stop(self) -> None:
        """run() returns. Any thread, and a signal handler."""
        self._stopping = True
        with suppress(queue.Full):
            self._events.put_nowait((None, None, None))

    def run(self) -> None:
        """Serve until stop(). Raises what makes serving impossible."""
        self._start_gateway()
        for _ in range(2):
            self._start_daemon()
        while not self._stopping:
            try:
                child, message, answer = self._events.get(timeout=self._hang_seconds / 4)
            except queue.Empty:
                self._watch()
                continue
            if child:
                self._heard(child, message)
            elif message and answer:
                self._asked(message, answer)
            self._watch()

    # --- processes ----------------------------------------------------------------------------------------------------

    def _spawn(self, role: str, order: Message) -> Child:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen([sys.executable, "-m", "cdp.ha.process", role, str(theirs.fileno())],
                                       pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2,
                                       start_new_session=True)
        child = Child(role, process, Link(ours))
        child.link.send({**order, "settings": asdict(self._settings)})
        threading.Thread(target=self._follow, args=(child,), name=f"ha-{role}-{process.pid}", daemon=True).start()
        log.info("started %s, process %d", role, child.pid)
        return child

    def _follow(self, child: Child) -> None:
        """A process's link; at its end the process is dead, for certain."""
        while (got := child.link.receive()) is not None:
            if got[0].get("op") == "beat":
                child.beat_s, child.told = time.monotonic(), got[0]
            elif got[0].get("op") == "warned":
                child.warned.set()
            else:
                self._events.put((child, got[0], None))
        child.warned.set()
        if child.state not in ("releasing", "stopping", "replaced"):
            child.process.kill()
        child.process.wait()
        self._events.put((child, None, None))

    def _start_gateway(self) -> None:
        self._gateway = self._spawn("gateway", {"control": f"{self._folder}/gateway.sock", "addresses": self._addresses,
                                                 "names": list(self._roots)})

    def _replace_gateway(self, force: bool) -> None:
        assert self._gateway
        self._gateway.state = "replaced"
        self._next_gateway = self._spawn("gateway", {
            "control": f"{self._folder}/gateway.sock", "addresses": [], "names": list(self._roots), "replace": True,
            "force": force})

    def _gateway_replaced(self, child: Child) -> None:
        """The next one serves."""
        assert self._gateway
        if self._gateway.process.poll() is None:
            self._retired.append(self._gateway)
        log.info("the gateway, process %d, was replaced by process %d", self._gateway.pid, child.pid)
        self._gateway, self._next_gateway = child, None
        for answer in self._replacing:
            answer({"pid": child.pid})
        self._replacing.clear()

    def _gateway_not_replaced(self, child: Child) -> None:
        """The next one is dead: the one before goes on, or died meanwhile."""
        assert self._gateway
        self._next_gateway = None
        error = child.error or Unavailable(f"the new gateway is dead ({_status(child)})", "see the log")
        for answer in self._replacing:
            answer({"error": encode_error(error)})
        self._replacing.clear()
        self._gateway.state = "serving"
        self._gateway.beat_s = time.monotonic()
        if self._gateway.process.poll() is not None:
            self._died(self._gateway)

    def _start_daemon(self) -> None:
        order = {"gateway": f"{self._folder}/gateway.sock", "read_only": self._read_only}
        self._daemons.append(self._spawn("tsd", order))

    def _end_children(self) -> None:
        """The gateway first: what its clients sent is carried out. Then the daemons close the volumes."""
        self._stopping = True
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._daemons:
            child.link.send({"op": "ending"})
        for child in self._daemons:
            if child.state != "starting":       # that one loads its modules, and knows no gateway
                child.warned.wait(HANG_SECONDS)
        for child in [c for c in [*self._retired, self._next_gateway, self._gateway, *self._daemons] if c]:
            child.state = "stopping"
            child.link.send({"op": "stop" if child.role == "gateway" else "release"})
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("%s, process %d, does not end: killed", child.role, child.pid)
                child.process.kill()
                child.process.wait()
        if failed := [c for c in self._daemons if c.process.returncode]:
            raise Unavailable(f"a daemon ended with {_status(failed[0])}: its volumes may not be closed cleanly",
                              "see the log; the next opening recovers what was acknowledged")

    def _watch(self) -> None:
        """Kill what hangs; see to it that there is an owner, and a shadow."""
        now = time.monotonic()
        for child in [c for c in [self._gateway, *self._daemons] if c]:
            if child.state in ("active", "shadow", "serving") and now - child.beat_s > self._hang_seconds:
                log.error("%s, process %d, hangs (silent for %.1f s): killed", child.role, child.pid,
                          now - child.beat_s)
                child.beat_s = now
                child.process.kill()
            if child.state == "releasing" and now - self._why[2] > SWITCH_SECONDS:
                log.error("%s, process %d, does not release the volumes: killed", child.role, child.pid)
                child.process.kill()
        if not self._owner():
            shadow = next((c for c in self._daemons if c.state == "shadow"), None)
            if shadow:
                shadow.state = "opening"
                shadow.link.send({"op": "own", "paths": list(self._roots.values())})
        # A new shadow costs a second of CPU: not while a failover needs it.
        if len(self._daemons) < 2 and (not self._daemons or self._daemons[0].state in ("active", "starting")):
            self._start_daemon()

    def _owner(self) -> Child | None:
        return next((c for c in self._daemons if c.state in ("opening", "active", "releasing")), None)

    # --- events -------------------------------------------------------------------------------------------------------

    def _heard(self, child: Child, message: Message | None) -> None:
        if message is None:
            self._died(child)
            return
        child.beat_s = time.monotonic()
        match message.get("op"):
            case "serving":
                child.state = "serving"
                self.uris = message["uris"]
                if child is self._next_gateway:
                    self._gateway_replaced(child)
            case "shadow":
                child.state = "shadow"
            case "active":
                self._active(child, message)
            case "failed":
                child.error = decode_error(message.get("error"))
                log.error("%s, process %d: %s", child.role, child.pid, child.error)
                child.process.kill()

    def _active(self, child: Child, message: Message) -> None:
        first, self._served = not self._served, True
        child.state = "active"
        self._failures = 0
        why, old, since, dead_ms = self._why
        serving_ms = 1e3 * (time.monotonic() - since)
        opened_ms = serving_ms - message["serving_ms"] + message["opened_ms"]
        if not first:
            self._failovers.append(Failover(why, old, child.pid, dead_ms, opened_ms, serving_ms, message["replayed"]))
        log.log(logging.INFO if first or why == "switch" else logging.WARNING,
                "%s: process %d serves the volumes after %.0f ms (old one dead %.0f, open %.0f), %d changes redone",
                why, child.pid, serving_ms, dead_ms, opened_ms, message["replayed"])
        for answer in self._switching:
            answer({"pid": child.pid, "serving_ms": serving_ms})
        self._switching.clear()
        if first:
            self.ready()

    def _died(self, child: Child) -> None:
        now = time.monotonic()
        child.link.close()
        if child in self._retired:
            self._retired.remove(child)
            return
        if child is self._next_gateway:
            self._gateway_not_replaced(child)
            return
        if child.state == "replaced":       # the next one tells whether it was
            return
        if child is self._gateway:
            if child.error or self._stopping:
                raise child.error or Unavailable("the gateway ended")
            self._count_failure(Unavailable("the gateway keeps dying"))
            log.error("the gateway, process %d, is dead (%s): starting another", child.pid, _status(child))
            self._start_gateway()
            return
        was = child.state
        self._daemons.remove(child)
        if was in ("active", "releasing"):
            if was == "active":
                self._why = ("failover", child.pid, now, 0.0)
            else:
                self._why = (self._why[0], self._why[1], self._why[2], 1e3 * (now - self._why[2]))
            if was == "releasing" and not child.process.returncode:
                log.info("the daemon that was active, process %d, has released the volumes and ended", child.pid)
            else:
                log.warning("the active daemon, process %d, is dead (%s)", child.pid, _status(child))
        else:
            log.error("a daemon in state %s, process %d, is dead (%s)", was, child.pid, _status(child))
            if child.error and not self._served:
                raise child.error
            if was != "shadow":
                self._count_failure(child.error or Unavailable("daemons keep dying", "see the log"))

    def _count_failure(self, error: CdpError) -> None:
        now = time.monotonic()
        self._failures = 1 if now - self._failed_s > FORGIVEN_SECONDS else self._failures + 1
        self._failed_s = now
        if self._failures >= MAX_FAILURES:
            raise error

    # --- control ------------------------------------------------------------------------------------------------------

    def _converse(self, link: Link) -> None:
        """One request, one answer."""
        with link:
            if (got := link.receive()) is None:
                return
            answers: queue.Queue[Message] = queue.Queue(1)
            self._events.put((None, got[0], answers.put))
            try:
                link.send(answers.get(timeout=SWITCH_SECONDS))
            except queue.Empty:
                link.send({"error": encode_error(Unavailable("it takes too long", "see 'cdp ha status' and the log"))})

    def _asked(self, message: Message, answer: Callable[[Message], None]) -> None:
        match message.get("op"):
            case "status":
                answer(self.view())
            case "switch":
                owner = self._owner()
                if owner is None or owner.state != "active" or not any(c.state == "shadow" for c in self._daemons):
                    wait = Busy("there is no standby to hand over to yet", "wait for one, then repeat")
                    answer({"error": encode_error(wait)})
                    return
                self._switching.append(answer)
                self._why = ("switch", owner.pid, time.monotonic(), 0.0)
                owner.state = "releasing"
                owner.link.send({"op": "release"})
            case "replace gateway":
                if self._gateway is None or self._gateway.state != "serving":
                    answer({"error": encode_error(Busy("there is no gateway to replace yet", "wait, then repeat"))})
                    return
                self._replacing.append(answer)
                self._replace_gateway(bool(message.get("force")))
            case _:
                answer({"error": encode_error(Unavailable("an unknown request", "use a client of the same version"))})

    def view(self) -> dict[str, Any]:
        """What `cdp ha status --json` prints."""
        owner = self._owner()
        roles = {"active": "active", "releasing": "active", "opening": "active"}
        processes = [{"role": "manager", "pid": os.getpid(), "state": "serving"}]
        if self._gateway:
            processes.append({"role": "gateway", "pid": self._gateway.pid, "state": self._gateway.state})
        processes += [{"role": roles.get(c.state, "standby"), "pid": c.pid, "state": c.state} for c in self._daemons]
        told = self._gateway.told if self._gateway else {}
        return {"processes": processes, "uris": self.uris, "connections": told.get("connections"),
                "connection_memory": told.get("memory"),
                "luns": [{"lun": number, "name": name, "path": path, "owner": owner.pid if owner else None,
                          "served": owner is not None and owner.state == "active"}
                         for number, (name, path) in enumerate(self._roots.items())],
                "failovers": [asdict(one) for one in list(self._failovers)]}


def _status(child: Child) -> str:
    code = child.process.returncode
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit status {code}"


def ask(control: str, message: Message) -> Message:
    """One request to a manager's control socket. Raises Unavailable where none answers, and what it reports."""
    with Link.connect(control, CONTROL_OPTION) as link:
        link.sock.settimeout(SWITCH_SECONDS + 5)
        link.send(message)
        got = link.receive()
    if got is None:
        raise Unavailable(f"{control}: the service does not answer", "see whether 'cdp ha serve' still runs")
    if "error" in got[0]:
        raise decode_error(got[0].get("error"))
    return got[0]
