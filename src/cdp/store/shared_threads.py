"""The threads that write, seal, merge and settle for all volumes of a process.

A volume has *tasks*. One thread of the process looks which of them want to run (several times a second, and when the
engine rings) and gives them to the threads of their *lane*; these are started when needed, up to a bound, and end when
they have been idle, or with the last task. A task runs on one thread at a time, and those of a lane take turns.

Lanes are apart by devices: a device that hangs keeps the threads of its volumes, and no others. And they are apart by
kind, because tasks wait for one another, in one direction only: what appends or makes durable may wait for a seal, a
seal for merges. So no lane is full of tasks that wait for others of it.

Threading: any thread. The child of a fork has no tasks.
"""
from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable

from cdpcore.base import bell

log = logging.getLogger("cdp.threads")
LANES = {"write": 16, "seal": 8, "merge": 4, "scrub": 1, "watch": 1}    # the most threads, for each set of devices
IDLE_S = 2.0            # a thread that had nothing to do for so long ends
LOOK_MS = 250           # how often tasks are looked at without being woken


class Task:
    """Something that is done again and again: body() when wanted(now_s) says so. wanted() is called often, on any
    thread, and must not wait. body() does what there is, and returns."""

    def __init__(self, lane: str, devices: Hashable, wanted: Callable[[float], bool], body: Callable[[], None]):
        self.lane, self.devices, self.wanted, self.body = lane, devices, wanted, body
        self.busy = False       # queued or running; guarded by _lock, as all below
        self.thread: threading.Thread | None = None


class _Lane:
    """Tasks that wait for a thread, and its threads. Guarded by _lock."""

    def __init__(self, name: str):
        self.name, self.most = name, LANES[name]
        self.waiting: deque[Task] = deque()
        self.wake = threading.Condition(_lock)
        self.threads: set[threading.Thread] = set()
        self.idle = 0
        self.working: set[threading.Thread] = set()
        self.over = False       # its threads end

    def put(self, task: Task) -> None:
        task.busy = True
        self.waiting.append(task)
        if self.idle >= len(self.waiting):
            self.wake.notify()
        elif len(self.threads) < self.most:
            thread = threading.Thread(target=_run, args=(self,), name=f"cdp-{self.name}", daemon=True)
            try:
                thread.start()
            except RuntimeError:        # no thread to be had: the task is looked at again
                self.waiting.remove(task)
                task.busy = False
            else:
                self.threads.add(thread)


# Reentrant: a volume that nobody closed may be collected, and closed, wherever memory is allocated.
_lock = threading.RLock()
_ended = threading.Condition(_lock)         # a task's body has returned
_tasks: dict[Task, _Lane] = {}              # guarded by _lock, as all here
_lanes: dict[tuple[str, Hashable], _Lane] = {}
_looking: threading.Thread | None = None    # the thread that looks


def add(task: Task) -> None:
    global _looking
    with _lock:
        _tasks[task] = _lanes.setdefault((task.lane, task.devices), _Lane(task.lane))
        if _looking is None:
            _looking = threading.Thread(target=_look, name="cdp-look", daemon=True)
            _looking.start()
    bell.rung()


def remove(task: Task) -> None:
    """It does not run any more at return, nor again; unless its own body calls this. With the last task the threads
    end, but for one that a device holds."""
    with _lock:
        lane = _tasks.pop(task, None)
        if lane is not None and task in lane.waiting:
            lane.waiting.remove(task)
            task.busy = False
        while task.busy and task.thread is not threading.current_thread():
            _ended.wait()
        ending = _end_threads() if not _tasks and not is_own() else []
    for thread in ending:
        thread.join()


def _end_threads() -> list[threading.Thread]:
    global _looking
    ending: list[threading.Thread] = []
    for lane in _lanes.values():
        ending += lane.threads - lane.working
        lane.over = True
        lane.wake.notify_all()
    _lanes.clear()
    if _looking is not None:
        ending.append(_looking)
        _looking = None
        bell.rung()
    return ending


def wake() -> None:
    """Look at the tasks now."""
    bell.rung()


def is_own() -> bool:
    """Whether the calling thread is one of these."""
    return getattr(_own, "yes", False)


_own = threading.local()


def _look() -> None:
    """The thread that looks which tasks want to run."""
    _own.yes = True
    seen, me = 0, threading.current_thread()
    while True:
        with _lock:
            if _looking is not me:
                return
            tasks = [task for task in _tasks if not task.busy]
        now_s = time.monotonic()
        for task in tasks:
            if _wanted(task, now_s):
                with _lock:
                    if task in _tasks and not task.busy:
                        _tasks[task].put(task)
        del tasks
        task = None     # type: ignore[assignment]  # nothing is kept alive by looking at it
        seen = bell.wait(seen, LOOK_MS)


def _wanted(task: Task, now_s: float) -> bool:
    try:
        return task.wanted(now_s)
    except Exception:
        log.exception("looking at a task of %s", task.devices)
        return False


def _run(lane: _Lane) -> None:
    """A thread of a lane."""
    _own.yes = True
    me = threading.current_thread()
    while True:
        with _lock:
            while not lane.waiting:
                lane.idle += 1
                there = not lane.over and lane.wake.wait(IDLE_S)
                lane.idle -= 1
                if not lane.waiting and not there:
                    lane.threads.discard(me)
                    return
            task = lane.waiting.popleft()
            task.thread = me
            lane.working.add(me)
        try:
            task.body()
        except Exception:
            log.exception("a task of %s", task.devices)
        again = _wanted(task, time.monotonic())
        with _lock:
            task.busy, task.thread = False, None
            lane.working.discard(me)
            _ended.notify_all()
            if again and task in _tasks:
                lane.put(task)
        del task


def _forget() -> None:
    """In the child of a fork: the threads are the parent's."""
    global _lock, _ended, _looking
    _lock = threading.RLock()
    _ended = threading.Condition(_lock)
    for task in _tasks:
        task.busy, task.thread = False, None
    _tasks.clear()
    _lanes.clear()
    _looking = None
    _own.yes = False


os.register_at_fork(after_in_child=_forget)
