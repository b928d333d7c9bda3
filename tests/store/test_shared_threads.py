"""The volumes of a process share their threads: a bounded number of them, fair, and apart by devices."""
from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cdp
from cdp.store import shared_threads
from cdp.store.shared_threads import Task

WAIT_S = 60


class Work:
    """Tasks that count how often they ran; `gate` holds their bodies."""

    def __init__(self) -> None:
        self.gate, self.tasks, self.runs = threading.Event(), list[Task](), list[str]()
        self.gate.set()
        self.inside, self.most_inside, self._lock = 0, 0, threading.Lock()

    def add(self, name: str, lane: str = "merge", device: str = "a", gate: threading.Event | None = None,
            times: int = 1) -> Task:
        left = [times]
        held = gate or self.gate

        def body() -> None:
            with self._lock:
                left[0] -= 1
                self.inside += 1
                self.most_inside = max(self.most_inside, self.inside)
                self.runs.append(name)
            held.wait(WAIT_S)
            with self._lock:
                self.inside -= 1

        task = Task(lane, device, lambda now_s: left[0] > 0, body)
        self.tasks.append(task)
        shared_threads.add(task)
        return task


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.gate.set()
    for task in work.tasks:
        shared_threads.remove(task)


def until(what: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + WAIT_S
    while not what() and time.monotonic() < end_s:
        time.sleep(0.005)
    return what()


def test_a_lane_has_so_many_threads_at_most_and_uses_them(work: Work) -> None:
    most = shared_threads.LANES["merge"]
    work.gate.clear()
    for i in range(3 * most):
        work.add(str(i))
    assert until(lambda: work.inside == most)
    work.gate.set()
    assert until(lambda: len(work.runs) == 3 * most)
    assert work.most_inside == most


def test_two_tasks_wake_two_idle_threads(work: Work) -> None:
    """The second must not wait for the first where there is a thread, or room for one."""
    work.add("warm")
    assert until(lambda: len(work.runs) == 1 and work.inside == 0)
    work.gate.clear()
    for name in ("one", "two", "three"):
        work.add(name)
    assert until(lambda: work.inside == 3)


def test_a_device_that_hangs_holds_only_its_own_tasks(work: Work) -> None:
    hangs = threading.Event()
    try:
        for i in range(2 * shared_threads.LANES["merge"]):
            work.add(f"hangs{i}", device="hung", gate=hangs)
        work.add("well", device="well", times=3)
        assert until(lambda: work.runs.count("well") == 3)
        shared_threads.remove(work.tasks[-1])
    finally:
        hangs.set()


def test_tasks_take_turns(work: Work) -> None:
    """One that always has more to do goes behind those that wait."""
    work.gate.clear()
    most = shared_threads.LANES["merge"]
    for i in range(most):
        work.add(f"busy{i}", times=1 << 30)
    assert until(lambda: work.inside == most)
    work.add("other")
    work.gate.set()
    assert until(lambda: "other" in work.runs)


def test_removed_tasks_do_not_run_and_the_last_one_ends_the_threads() -> None:
    work = Work()
    tasks = [work.add(str(i), times=1 << 30) for i in range(6)]
    assert until(lambda: len(work.runs) > 20)
    before = set(threading.enumerate())
    for task in tasks:
        shared_threads.remove(task)
    ran = len(work.runs)
    assert not any(t.is_alive() for t in before if t.name == "cdp-merge") or shared_threads._tasks
    assert len(work.runs) == ran


def test_a_task_that_fails_goes_on(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    count = [0]

    def body() -> None:
        count[0] += 1
        raise ValueError("no")

    task = Task("merge", "a", lambda now_s: count[0] < 3, body)
    shared_threads.add(task)
    try:
        assert until(lambda: count[0] == 3)
    finally:
        shared_threads.remove(task)
    assert "a task of a" in caplog.text


def test_no_thread_to_be_had(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task waits until there is one."""
    start, refusals = threading.Thread.start, [3]

    def refuses(thread: threading.Thread) -> None:
        if thread.name == "cdp-merge" and refusals[0]:
            refusals[0] -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuses)
    work.add("late")
    assert until(lambda: work.runs == ["late"]) and not refusals[0]


def test_many_volumes_have_few_threads_and_each_becomes_durable(tmp_path: Path) -> None:
    """Without a flush of the client: within the commit interval."""
    before = threading.active_count()
    settings = cdp.Settings(commit_interval_ms=50, segment_bytes=16 << 20)
    volumes = [cdp.create(tmp_path / f"v{i}", size=1 << 20, settings=settings) for i in range(12)]
    try:
        for i, volume in enumerate(volumes):
            volume.pwrite(bytes([i + 1]) * 4096, 0)
        assert until(lambda: all(v.stats()["durable_seq"] >= 1 for v in volumes))
        assert threading.active_count() - before <= sum(shared_threads.LANES.values()) + 1
    finally:
        for volume in volumes:
            volume.close()
    assert until(lambda: threading.active_count() <= before)


def test_a_child_of_a_fork_has_threads_of_its_own(tmp_path: Path) -> None:
    with cdp.create(tmp_path / "parent", size=1 << 20):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with cdp.create(tmp_path / "child", size=1 << 20,
                                settings=cdp.Settings(commit_interval_ms=20)) as volume:
                    volume.pwrite(b"x" * 4096, 0)
                    status = 0 if until(lambda: volume.stats()["durable_seq"] >= 1) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
