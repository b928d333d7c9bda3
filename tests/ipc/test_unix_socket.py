"""Binding unix sockets: what is stale and what is not, who may connect, what close() leaves."""

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from cdp.ipc import unix_socket
from cdp.ipc.errors import decode_error, encode_error
from cdp.ipc.link import Link, accept_links
from cdp.ipc.unix_socket import MAX_SOCKET_PATH_BYTES, answers, bind_unix, clear_stale_socket
from cdpcore.base import errors
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, NotFound, Unavailable


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return "s.sock"


def stale(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_a_listener_has_its_mode_and_takes_its_file_along(path, mode):
    listener = bind_unix(path, mode=mode)
    assert listener.path == os.path.abspath(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == mode
    assert answers(path)
    listener.close()
    listener.close()
    assert not os.path.lexists(path) and not answers(path)


@pytest.mark.parametrize("clear", [clear_stale_socket, bind_unix])
def test_only_a_stale_socket_is_replaced(path, clear, tmp_path):
    stale(path)
    assert not answers(path)
    if listener := clear(path):
        listener.close()
    assert not os.path.lexists(path)
    Path(path).write_text("precious")
    with pytest.raises(InvalidRequest, match="exists and is not a socket"):
        clear(path)
    assert Path(path).read_text() == "precious"
    os.unlink(path)
    os.symlink("elsewhere", path)
    with pytest.raises(InvalidRequest, match="exists and is not a socket"):
        clear(path)
    os.unlink(path)
    listener = bind_unix(path)
    with pytest.raises(Busy, match="in use"):
        clear(path)
    listener.close()
    with pytest.raises(Unavailable):
        clear("no/such/directory.sock")


def test_a_server_with_a_full_backlog_is_not_stale(path, monkeypatch):
    monkeypatch.setattr(unix_socket, "PROBE_SECONDS", 0.05)
    waiting = []
    with socket.socket(socket.AF_UNIX) as slow:
        slow.bind(path)
        slow.listen(0)
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            waiting.append(client)
            try:
                client.connect(path)
            except BlockingIOError:
                break
        with pytest.raises(Busy, match="in use"):
            bind_unix(path)
        for client in waiting:
            client.close()
    assert os.path.lexists(path)


def test_the_longest_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    room = MAX_SOCKET_PATH_BYTES - len(os.fsencode(tmp_path)) - 1
    if room < 1:
        pytest.skip("the temporary directory's path is too long")
    bind_unix("x" * room).close()
    with pytest.raises(InvalidRequest, match=str(MAX_SOCKET_PATH_BYTES)):
        bind_unix("x" * (room + 1))


def test_close_leaves_the_socket_of_a_successor_and_ends_accept(path):
    listener = bind_unix(path)
    ended = threading.Event()

    def accept():
        with pytest.raises(OSError):
            listener.sock.accept()
        ended.set()

    thread = threading.Thread(target=accept)
    thread.start()
    os.unlink(path)
    successor = bind_unix(path)
    listener.close()
    thread.join(10)
    assert ended.is_set()
    assert answers(path)
    successor.close()


def test_links_are_accepted_until_the_listener_is_closed(path):
    def echo(link):
        with link:
            while got := link.receive():
                link.send(got[0])

    listener = bind_unix(path)
    accept_links(listener, echo, "echo")
    with Link.connect(path) as one, Link.connect(path) as other:
        for number, link in enumerate((one, other, one)):
            link.send({"number": number})
            assert link.receive()[0] == {"number": number}
    listener.close()
    with pytest.raises(Unavailable):
        Link.connect(path)


def test_errors_keep_their_kind_between_processes():
    for error in (NotFound("what", "next"), Busy("what"), CdpError("what", "")):
        came = decode_error(encode_error(error))
        assert (type(came), came.message, came.hint) == (type(error), error.message, error.hint)
    came = decode_error(encode_error(ValueError("bad")))
    assert type(came) is CdpError and "internal error: ValueError: bad" in came.message
    for kind in ("NoSuchKind", "check", "os", None):
        assert type(decode_error({"kind": kind, "message": "x"})) is CdpError
    assert type(decode_error({"kind": "OutOfSpace"})) is errors.OutOfSpace
