"""The platform `posix` with a second process: messages, data in shared memory, and a node that is killed."""
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from support.interop import environ

from cdp.platform import BgRef, CpSendReq, GroupName
from cdp.platform.posix import PosixPlatform
from cdpcore.base.errors import InvalidRequest, NotFound, Unavailable

HERE, THERE = GroupName(7, 0), GroupName(7, 1)
CHILD = textwrap.dedent("""
    import sys, threading
    from cdp.platform import BgRef, CpSendReq, GroupName
    from cdp.platform.posix import PosixPlatform

    node = PosixPlatform.create(1, hub=sys.argv[1])

    def ready(listener, data, n):
        for message in listener.receive():
            ref = BgRef(*map(int, message.body.split()))
            view = node.data.map(ref)
            text = bytes(view).upper()
            view[:] = text
            node.data.unmap(view, True)
            node.control.free(message)
            node.control.send(CpSendReq(GroupName(7, 0), b"done", GroupName(7, 1)))

    node.control.register(GroupName(7, 1)).enable(ready)
    print("ready", flush=True)
    threading.Event().wait()
""")


@pytest.fixture
def node():
    with PosixPlatform.create(0, group_bytes=4096, group_count=4) as made:
        yield made


@pytest.fixture
def child(node):
    process = subprocess.Popen([sys.executable, "-c", CHILD, node.hub_path], env=environ(), stdout=subprocess.PIPE,
                               text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def completed(node, request):
    """Send, and wait for the completion; its error."""
    done, errors = threading.Event(), []

    def complete(_request, error):
        errors.append(error)
        done.set()

    node.control.send(CpSendReq(request.to, request.body, request.sender, complete), deadline=time.monotonic() + 10)
    assert done.wait(10)
    return errors[0]


def test_another_process_changes_a_buffer_in_place(node, child):
    answered = threading.Event()
    listener = node.control.register(HERE)
    listener.enable(lambda listener, _data, _n: [node.control.free(m) for m in listener.receive()] and answered.set())
    (group,) = node.buffers.request()
    ref = group.part(100, 5)
    view = node.data.map(ref)
    view[:] = b"hello"
    assert completed(node, CpSendReq(THERE, " ".join(map(str, ref)).encode(), HERE)) is None
    assert answered.wait(10)
    assert bytes(view) == b"HELLO", "the mapping itself, not a copy"
    node.data.unmap(view, False)
    node.buffers.release(group)
    with pytest.raises(NotFound):
        node.data.map(BgRef(*group))


def test_a_process_that_is_killed_is_a_node_that_is_gone(node, child):
    # its callback raises, which is its own affair
    assert completed(node, CpSendReq(THERE, b"0 0 0 0 0", HERE)) is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    for _ in range(200):
        if isinstance(completed(node, CpSendReq(THERE, b"x", HERE)), NotFound):
            break
        time.sleep(0.02)
    else:
        pytest.fail("the killed node still listens")


def test_the_hub_ends_with_its_system_and_its_loss_is_told(tmp_path):
    node = PosixPlatform.create(3)
    with pytest.raises(InvalidRequest):
        PosixPlatform.create(3, hub=node.hub_path)
    hub = node._hub._process
    os.kill(hub.pid, signal.SIGKILL)
    hub.wait()
    with pytest.raises(Unavailable, match="hub"):
        node.buffers.available()
    folder = os.path.dirname(node.hub_path)
    node.close()
    assert not os.path.exists(folder)
