"""cdp.connect gives what cdp.open gives: the same calls on a volume that a server of this process has, and on the
object that reaches it through the server."""
import inspect
import socket
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import cdp
from cdp.serve.server import Server
from cdp.service.remote_content import Content
from cdp.service.remote_volume import RemoteTimeImage, RemoteVolume

SIZE = 1 << 20
REFUSED = {"sync": (), "target": (), "written_since": ("#1",), "free_before": (1,), "prune": (), "geometry": (),
           "retain": (), "retain_open": (), "import_base": (None, ())}


@pytest.fixture(scope="module")
def both():
    """The volume, and the object of cdp.connect."""
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder:
        path = Path(folder) / "web"
        with cdp.create(path, size=SIZE) as volume:
            for n in range(1, 6):
                volume.pwrite(bytes([n]) * 8192, n * 4096)
            volume.flush()
            volume.bookmark("before")
            volume.trim(4096, 8192)
            volume.zero(4096, 65536)
            volume.restore("before", offset=0, length=16384)
            volume.pwrite(b"x" * 512, 512, fua=True)
            volume.create_image("trial", at="before")
        settings = cdp.Settings(unix_socket=f"{folder}/nbd", admin_socket=f"{folder}/admin")
        with Server([str(path)], settings) as server, cdp.connect(path) as remote:
            yield server.volume("web"), remote


def public(kind):
    return {name for name, member in vars(kind).items()
            if not name.startswith("_") and (callable(member) or isinstance(member, property))}


@pytest.mark.parametrize("ours, theirs", [(RemoteVolume, cdp.Volume), (RemoteTimeImage, cdp.TimeImage)])
def test_the_same_methods(ours, theirs):
    assert public(theirs) <= public(ours)
    for name in public(theirs):
        if inspect.isfunction(member := getattr(theirs, name)):
            found, wanted = (inspect.signature(one).parameters for one in (getattr(ours, name), member))
            assert [(p.name, p.kind, p.default) for p in found.values()] == \
                [(p.name, p.kind, p.default) for p in wanted.values()], name


def in_image(point, work):
    def call(volume):
        with volume.at(point) as image:
            return image.moment, work(image)
    return call


CALLS = {
    "window": lambda v: v.window(), "size": lambda v: (v.path, v.name, v.size_bytes, v.uuid, v.created_ns, v.parent),
    "pread": lambda v: v.pread(SIZE, 0), "none": lambda v: v.pread(0, SIZE),
    "at": in_image("before", lambda image: (image.pread(SIZE, 0), list(image.extents()), image.size_bytes)),
    "at seq": in_image(2, lambda image: image.pread(16384, 0)),
    "resolve": lambda v: [v.resolve(p) for p in ("now", "before", "@before", "#3", 3, np.uint64(2))],
    "explain": lambda v: [v.explain(p) for p in ("now", "before", 3)],
    "datetime": lambda v: v.explain(datetime.now(UTC).replace(microsecond=0)),
    "records": lambda v: v.records(), "some records": lambda v: v.records("#2", "before", limit=3),
    "no records": lambda v: v.records("now"), "batches": lambda v: np.concatenate(list(v.iter_records(1))),
    "history": lambda v: v.history(8192), "limited": lambda v: v.history(0, 65536, since=1, limit=2),
    "end": lambda v: v.history(SIZE - 512), "diff": lambda v: v.diff("before"),
    "written": lambda v: v.diff(0, compared=False),
    "part": lambda v: v.diff("#0", "before", 4096, 8192), "same": lambda v: v.diff("now", "now"),
    "extents": lambda v: list(v.extents()), "extents at": lambda v: list(v.extents(4096, 65536, at="before")),
    "bookmarks": lambda v: v.bookmarks(), "images": lambda v: v.images(), "restores": lambda v: v.restores(),
    "preview": lambda v: [r.target for r in (v.restore("before", dry_run=True), v.undo(dry_run=True))],
    "policy": lambda v: v.policy(), "freeing": lambda v: v.freeing(),
    "pins": lambda v: [replace(pin, left_ns=None) for pin in v.pins()],
    "closed": lambda v: (v.closed, v.unclean, v.read_only), "in use": lambda v: v.in_use(),
    # what is wrong
    "past the end": lambda v: v.pread(512, SIZE), "past": lambda v: v.pwrite(b"x" * 512, SIZE),
    "negative": lambda v: v.pread(-1, 0), "no number": lambda v: v.pread("1", 0), "trim": lambda v: v.trim(512, SIZE),
    "read only": lambda v: v.pread_into(b"x", 0), "no point": lambda v: v.resolve("no-such"),
    "future": lambda v: v.resolve(10**6), "not a point": lambda v: v.resolve(True),
    "taken": lambda v: v.bookmark("before"),
    "bad name": lambda v: v.bookmark("-"), "no bookmark": lambda v: v.delete_bookmark("none"),
    "no image": lambda v: v.open_image("none"), "not deleted": lambda v: v.delete_image("none"),
    "bad range": lambda v: v.restore("before", offset=1, length=2), "bad limit": lambda v: v.records(limit=-1),
    "outside": lambda v: v.history(SIZE + 1), "bad policy": lambda v: v.set_policy("nonsense"),
}


def outcome(call, volume):
    try:
        return call(volume)
    except cdp.CdpError as error:
        return type(error)


def same(one, other):
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and one.tolist() == other.tolist()
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", CALLS)
def test_the_same_results(both, name):
    local, remote = (outcome(CALLS[name], volume) for volume in both)
    assert same(local, remote), (local, remote)


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_the_files_says_so(both, name):
    with pytest.raises(cdp.Unavailable, match="another process serves"):
        getattr(both[1], name)(*REFUSED[name])


def test_what_changes_the_volume(both):
    volume, remote = both
    remote.pwrite(b"remote" + bytes(506), 0, fua=True)
    assert volume.pread(6, 0) == remote.pread(6, 0) == b"remote"
    buffer = np.zeros(512, "u1")
    remote.pread_into(buffer, 0)
    assert buffer.tobytes()[:6] == b"remote"
    made = remote.bookmark("made")
    assert made == volume.bookmarks()[-1] and made == remote.bookmarks()[-1]
    remote.zero(512, 0)
    remote.trim(512, 512)
    remote.flush()
    assert volume.pread(1024, 0) == bytes(1024)
    done = remote.restore("made")       # its own connection is no client that is in the way
    assert done == volume.restores()[-1] and remote.pread(6, 0) == b"remote"
    assert remote.undo().undo_of == done.seq and volume.pread(1024, 0) == bytes(1024)
    remote.create_image("second", at="made")
    with remote.open_image("second") as image:
        image.pwrite(b"other" + bytes(507), 0)
        assert image.pread(5, 0) == b"other" and image.parent == volume.path
    remote.delete_bookmark("made")
    remote.set_policy('keep = ["all for 7d"]')
    assert remote.policy() == volume.policy()
    remote.set_policy(None)
    found, wanted = remote.activity(by_ns=10**9), volume.activity(by_ns=10**9)
    assert found.by_ns == wanted.by_ns and same(found.intervals[:1], wanted.intervals[:1])
    assert remote.usage().log > 0 and remote.stats()["records"] == volume.stats()["records"]


def relay(path, where, cut):
    """A way to a server, by a socket at `path`: what it answers is passed on until `cut` takes something of it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def pump(source, sink, ends):
        while (data := source.recv(1 << 16)) and not ends(data):
            sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def run():
        client, _ = listener.accept()
        with listener, client, socket.socket(socket.AF_UNIX) as server:
            server.connect(where)
            up = threading.Thread(target=pump, args=(client, server, lambda data: False))
            up.start()
            pump(server, client, cut)
            up.join()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_write_is_not_repeated_over_what_another_client_wrote(both, tmp_path):
    """The answer to it is lost, and another client writes there before anything else is done."""
    volume, remote = both
    other, began = bytes([7]) * 4096, volume._core.position()[0]

    def cut(_answer):
        if volume._core.position()[0] == began:     # of the handshake
            return False
        volume.pwrite(other, 4096)
        return True

    (address,) = remote._addresses
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder:
        thread = relay(f"{folder}/relay", address.path, cut)
        remote._content = Content([replace(address, path=f"{folder}/relay")], remote._alive, None)
        try:
            with pytest.raises(cdp.Unavailable, match="4096 bytes at 4096 may be written"):
                remote.pwrite(bytes(4096), 4096)
            assert volume.pread(4096, 4096) == other and volume._core.position()[0] == began + 2
        finally:
            thread.join()
            remote._content = remote._content_of(None)


def test_a_server_that_was_started_again_is_found_again():
    """Its connection is known to be gone before a write is sent, so that this is no error."""
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder:
        path = Path(folder) / "web"
        cdp.create(path, size=SIZE).close()
        settings = cdp.Settings(unix_socket=f"{folder}/nbd", admin_socket=f"{folder}/admin")
        with Server([str(path)], settings):
            remote = cdp.connect(path)
            remote.pwrite(b"1" * 512, 0)
        with Server([str(path)], settings) as server, remote:
            remote.pwrite(b"2" * 512, 512)
            assert server.volume("web").pread(1024, 0) == b"1" * 512 + b"2" * 512
            assert [client["export"] for client in server.clients("web")] == ["web"]    # not by the administration


def test_busy_names_it_and_where_nobody_serves(both, tmp_path):
    with cdp.create(tmp_path / "own", size=SIZE), pytest.raises(cdp.Unavailable, match=r"cdp.open\(\) opens it"):
        cdp.connect(tmp_path / "own")
    with pytest.raises(cdp.NotFound):
        cdp.connect(tmp_path / "none")


def test_closed(both):
    with cdp.connect(both[0].path) as remote:
        image = remote.at("now")
        image.close()
        with pytest.raises(cdp.Closed):
            image.pread(1, 0)
    for call in (remote.window, remote.flush, lambda: remote.pread(1, 0), lambda: remote.at("now")):
        with pytest.raises(cdp.Closed):
            call()
    assert both[0].pread(1, 0) is not None
