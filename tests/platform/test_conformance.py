"""The platforms keep the contract of the portable API; and the suite that says so catches a platform that does not.

FAULTS breaks the reference platform in one place at a time. Each fault is what somebody who ports might really get
wrong.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cdp.conformance import RULES, kit, platform
from cdp.platform import CpSendReq
from cdp.platform.python import buffers, messages, requests, services
from cdp.platform.routers import base, forward, multipath, nbd
from cdp.platform.structures import Op
from cdpcore.base.errors import Busy, CdpError, NotFound, Unavailable

pytestmark = pytest.mark.plain


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the platforms report is what the faults are made to provoke."""
    logging.getLogger("cdp").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("cdp").setLevel(logging.NOTSET)


@pytest.mark.parametrize("name", ["python", "local", "posix"])
@pytest.mark.parametrize("rule", RULES)
def test_platform_keeps_the_rule(rule: str, name: str) -> None:
    RULES[rule].run(platform(name))


@pytest.mark.parametrize("name", ["nope", ":", "os:", ":path", "os:path", "nope:Nope"])
def test_what_is_no_platform(name: str) -> None:
    with pytest.raises(NotFound):
        platform(name)


# --- faults


@dataclass
class Fault:
    """`replace(original)` takes the place of owner.attribute."""

    rule: str
    owner: type
    attribute: str
    replace: Callable[[Any], Any]

    def __str__(self) -> str:
        return f"{self.rule}-{self.owner.__name__}.{self.attribute}-{self.replace.__name__}"


FAULTS: list[Fault] = []


def fault(rule: str, owner: type, attribute: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    def register(replace: Callable[[Any], Any]) -> Callable[[Any], Any]:
        FAULTS.append(Fault(rule, owner, attribute, replace))
        return replace
    return register


@fault("order_per_sender", messages.Listener, "receive")
def newest_first(original):
    return lambda self, max_msgs=64: original(self, max_msgs)[::-1]


@fault("many_messages_in_a_row", messages.Listener, "enable")
@fault("batching_by_time", messages.Listener, "enable")
def waits_for_a_full_batch(original):
    return lambda self, ready, user_data=None, *, max_msgs=1, max_usecs=0: original(
        self, ready, user_data, max_msgs=max_msgs, max_usecs=60_000_000
    )


@fault("batching_by_number", messages.Listener, "enable")
def no_batches(original):
    return lambda self, ready, user_data=None, **_: original(self, ready, user_data)


@fault("announced_once_and_never_overlapping", messages.Listener, "enable")
def announces_twice(original):
    def enable(self, ready, user_data=None, **how):
        def twice(*args):
            ready(*args)
            ready(*args)
        original(self, twice, user_data, **how)
    return enable


@fault("announced_once_and_never_overlapping", messages.Listener, "enable")
def thread_per_call(original):
    def enable(self, ready, user_data=None, **how):
        original(self, lambda *args: threading.Thread(target=ready, args=args, daemon=True).start(), user_data, **how)
    return enable


@fault("shadow_gets_what_was_not_freed", messages.Listener, "enable")
def only_new_messages(original):
    def enable(self, ready, user_data=None, **how):
        kept, self._group.queue = self._group.queue, {}
        original(self, ready, user_data, **how)
        self._group.queue.update(kept)
    return enable


@fault("shadow_gets_what_was_not_freed", messages.Listener, "enable")
def two_at_once(original):
    def enable(self, ready, user_data=None, **how):
        self._group.enabled = None
        original(self, ready, user_data, **how)
    return enable


@fault("disabled_listener_is_fenced", messages.ControlPlane, "free")
def frees_what_another_has(original):
    def free(self, message):
        group, entry, _ = message.handle
        original(self, message)
        with group.changed:
            if entry.refs:
                entry.refs = 0
                group.give_back(entry)
    return free


@fault("disabled_listener_is_fenced", messages.Listener, "disable")
def does_not_wait(original):
    def disable(self):
        thread = threading.Thread(target=original, args=(self,), daemon=True)
        thread.start()
    return disable


@fault("callback_may_use_the_plane", messages.Listener, "disable")
def not_in_a_callback(original):
    def disable(self):
        if threading.current_thread() is self._thread:
            raise Busy("in a callback")
        original(self)
    return disable


@fault("callback_that_raises", messages, "guarded")
def dies_of_it(original):
    def guarded(call, report):
        try:
            call()
        except RuntimeError:
            raise SystemExit from None
    return guarded


@fault("registration_refusals", messages.ControlPlane, "register")
def takes_anything(original):
    def register(self, group, *, bufs_per_sender=32, slop_bufs=32):
        found = self._system.groups.get(group)
        if found:
            found.bufs_per_sender, found.slop_bufs = bufs_per_sender, slop_bufs
        return original(self, group, bufs_per_sender=bufs_per_sender, slop_bufs=slop_bufs)
    return register


@fault("completion_once_and_in_order", messages.ControlPlane, "_complete")
def completes_twice(original):
    def complete(self, request, group, entry):
        original(self, request, group, entry)
        if request.complete and int(request.body) == 30:
            request.complete(request, None)
    return complete


@fault("completion_once_and_in_order", messages.ControlPlane, "_complete")
def forgets_a_completion(original):
    return lambda self, request, group, entry: None if request.body == b"30" else original(self, request, group, entry)


@fault("callbacks_on_threads_of_the_platform", messages.ControlPlane, "send")
def completes_at_once(original):
    def send(self, request, *, deadline=None):
        original(self, CpSendReq(request.to, request.body, request.sender), deadline=deadline)
        if request.complete:
            request.complete(request, None)
    return send


@fault("body_copied_at_send", messages.ControlPlane, "send")
def copies_later(original):
    return lambda self, request, *, deadline=None: threading.Timer(0.02, original, (self, request)).start()


@fault("body_copied_at_send", messages.Group, "put")
def forgets_a_field(original):
    def put(self, number, body, sender):
        if not isinstance(body, bytes):
            body.seq = 0
        return original(self, number, body, sender)
    return put


@fault("flow_control_bounds", messages.Group, "has_room")
@fault("flow_control_sleeping_receiver", messages.Group, "has_room")
def no_bound(original):
    return lambda self, sender: True


@fault("flow_control_bounds", messages.Group, "has_room")
def one_bound_for_all(original):
    return lambda self, sender: sum(self.used.values()) < self.bufs_per_sender


@fault("flow_control_sleeping_receiver", messages.ControlPlane, "send")
def drops_when_full(original):
    def send(self, request, *, deadline=None):
        try:
            original(self, request, deadline=0.0)
        except Busy:
            pass
    return send


@fault("references", messages.ControlPlane, "add_ref")
def no_counts(original):
    return lambda self, message: None


@fault("request_deadline_is_absolute", buffers.Pool, "request")
def deadline_starts_anew(original):
    def request(self, count, deadline):
        waiter = self._queue(count, None)
        seconds = max(0.0, deadline - time.monotonic())
        with self.changed:
            while not waiter.groups:
                if not self.changed.wait(seconds):
                    self.waiting.remove(waiter)
                    raise Busy("too late")
        return waiter.groups
    return request


@fault("requests_in_order_all_or_none", buffers.Pool, "serve")
def small_ones_first(original):
    def serve(self):
        for waiter in sorted(self.waiting, key=lambda waiter: waiter.count):
            if waiter.count <= len(self.free):
                self.waiting.remove(waiter)
                waiter.groups = self.take(waiter.count)
                if waiter.then:
                    waiter.then(waiter.groups)
        self.changed.notify_all()
    return serve


@fault("delivery_to_a_listener", buffers.BufferSupply, "deliver")
def delivers_only_at_once(original):
    def deliver(self, to, count=1, cookie=0):
        if self.available() >= count:
            original(self, to, count, cookie)
    return deliver


@fault("buffer_references", buffers.Pool, "take")
def no_generations(original):
    def take(self, count):
        for slot in self.slots:
            slot.generation = 0
        return original(self, count)
    return take


@fault("modified_is_seen_everywhere", buffers.DataPlane, "unmap")
def copies_nothing_back(original):
    return lambda self, view, modified: original(self, view, False)


@fault("not_modified_copies_nothing_back", buffers.DataPlane, "unmap")
def copies_always_back(original):
    return lambda self, view, modified: original(self, view, True)


@fault("mapped_group_stays", buffers.Pool, "put_back")
def goes_while_mapped(original):
    def put_back(self, i):
        if self.slots[i].refs == 0 and i not in self.free:
            self.free.append(i)
            self.serve()
    return put_back


@fault("replicate", buffers.DataPlane, "replicate")
def same_memory(original):
    def replicate(self, ref, instance, *, deadline=None):
        made = original(self, ref, instance, deadline=deadline)
        mine, its = self._pools.of(ref.home).slots[ref.slot], self._pools.of(instance).slots[made.slot]
        its.memory = mine.memory
        return made
    return replicate


@fault("mark_local", buffers.DataPlane, "_move")
def forgets_the_others(original):
    def move(self, pool, there, new):
        moved = original(self, pool, there, new)
        pool.slots[there.slot].moved = None
        return moved
    return move


@fault("request_and_answer", requests.Source, "_finish")
def own_cookie(original):
    def finish(self, request, answer):
        cookie = answer.cookie
        request.cookie = cookie
        original(self, request, answer)
    return finish


@fault("request_and_answer", requests.Source, "_finish")
def answers_twice(original):
    def finish(self, request, answer):
        original(self, request, answer.copy())
        self._answers.post(lambda: request.answered(answer))
    return finish


@fault("requests_in_order", requests.Source, "_try_send")
def two_by_two(original):
    held = []

    def try_send(self, message, lun):
        held.append(message)
        return len(held) < 2 or all([original(self, held.pop(), lun), original(self, held.pop(), lun)])
    return try_send


@fault("outstanding_bound", requests.Source, "__init__")
def unlimited(original):
    return lambda self, instance, sources, control, system, workload, _max, report: original(
        self, instance, sources, control, system, workload, 1000, report)


@fault("dead_source_is_no_error", requests.Source, "send_response")
def error_for_the_dead(original):
    def send_response(self, packet, send_complete=None):
        if packet.source_instance not in self._sources.by_node:
            raise Unavailable("the source is gone")
        original(self, packet, send_complete)
    return send_response


@fault("replay_after_a_takeover", requests.Source, "replay_here")
def replay_not_marked(original):
    def replay_here(self, lun, recovered_seq):
        sent = original(self, lun, recovered_seq)
        with self._changed:
            for request in self._outstanding.values():
                request.packet.flags = 0
        return sent
    return replay_here


@fault("replay_after_a_takeover", requests.Source, "take_answer")
def answers_of_any_owner(original):
    def take_answer(self, answer):
        if request := self._outstanding.get(answer.cookie):
            answer.epoch = request.packet.epoch
        original(self, answer)
    return take_answer


@fault("replay_after_a_takeover", requests.Source, "replay_here")
def replays_other_luns_too(original):
    return lambda self, lun, recovered_seq: original(self, lun, recovered_seq) + original(self, 8, recovered_seq)


@fault("request_without_an_owner_waits", requests.Source, "replay_here")
def no_replay(original):
    return lambda self, lun, recovered_seq: 0


@fault("workload_pushes", services.Workload, "_acknowledged")
def does_not_wait_for_acknowledgement(original):
    return lambda self, tsd, epoch, deadline: None


@fault("configuration_changes", services.Configuration, "_push")
def tells_on_the_setters_thread(original):
    return lambda self, subscriber, values: self._subscribers[subscriber](values)


@fault("alerts_and_tracing_never_block", services.Tracing, "emit")
def full_trace(original):
    def emit(self, event, **fields):
        if fields["number"] > 2000:
            raise Unavailable("the trace is full")
    return emit


@fault("router_to_a_file", base.Router, "_done")
def done_twice(original):
    def done(self, request, error):
        request.done(request, error)
        original(self, request, error)
    return done


@fault("router_to_a_file", base.Router, "submit")
def no_order(original):
    def submit(self, request, *, deadline=None):
        request.check(self.size_bytes)
        threading.Timer(0.01 if request.op is Op.WRITE else 0, original, (self, request)).start()
    return submit


@fault("router_to_an_nbd_server", nbd.NbdRouter, "_commands")
def trim_is_nothing(original):
    return lambda self, request: [] if request.op is Op.TRIM else original(self, request)


@fault("multipath_survives_a_lost_path", multipath.MultipathRouter, "_leg_done")
def tells_of_lost_paths(original):
    def leg_done(self, request, tried, i, path, leg, error):
        if error:
            self._finish(request, error)
        else:
            original(self, request, tried, i, path, leg, error)
    return leg_done


@fault("multipath_survives_a_lost_path", multipath.MultipathRouter, "_probe")
def never_looks_back(original):
    return lambda self: None


@fault("forwarding_to_the_owner", forward.ForwardRouter, "_attach")
def forgets_the_skew(original):
    def attach(self, packet, length):
        packet.skew_bytes = 0
        return original(self, packet, length)
    return attach


@fault("closing", messages.ControlPlane, "_alive")
def never_closed(original):
    return lambda self: None


def test_every_rule_has_a_fault() -> None:
    assert {fault.rule for fault in FAULTS} == set(RULES)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("broken", FAULTS, ids=str)
def test_the_suite_catches(broken: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "PATIENCE_S", 0.5)
    monkeypatch.setattr(broken.owner, broken.attribute, broken.replace(getattr(broken.owner, broken.attribute)))
    with pytest.raises((kit.Broken, CdpError)):     # what keeps the rule raises neither: see above
        RULES[broken.rule].run(platform("python"))
