"""What happens to a volume that another process serves: watch() of cdp.connect, and GET /v1/volumes/VOLUME/events."""
import tempfile
from pathlib import Path

import httpx
import pytest

import cdp
from cdp.archive.follow import Follower
from cdp.archive.places import store_at
from cdp.archive.writer import Writer
from cdp.moments.events import KEPT
from cdp.serve.server import Server
from cdp.service.locate import locate
from cdp.service.remote_watch import RemoteWatch
from cdpcore.base.errors import Unavailable

MIB = 1 << 20


@pytest.fixture
def served():
    """A server of this process, and the object of cdp.connect."""
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder:
        path = Path(folder) / "web"
        cdp.create(path, size=MIB).close()
        settings = cdp.Settings(unix_socket=f"{folder}/nbd", admin_socket=f"{folder}/admin")
        with Server([str(path)], settings) as server, cdp.connect(path) as remote:
            yield server, remote, f"{folder}/admin"


def test_a_served_volume_is_watched_as_one_that_is_open_here(served):
    server, remote, _ = served
    volume = server.volume("web")
    with volume.watch() as ours, remote.watch() as theirs, remote.watch(kinds=["restored"]) as some:
        assert theirs.get(0) is None
        remote.bookmark("one")
        volume.pwrite(b"a" * 4096, 0)
        volume.restore("one")
        remote.undo()
        wanted = list(iter(lambda: ours.get(0), None))
        assert [event.kind for event in wanted] == ["bookmark_made", "restored", "undone"]
        assert list(iter(lambda: theirs.get(0), None)) == wanted
        assert [event.kind for event in iter(lambda: some.get(0), None)] == ["restored"]
        with remote.watch(wanted[0], 0) as later:
            assert list(later) == wanted[1:]
        with remote.watch(0, 0) as all_:
            assert list(all_)[-3:] == wanted


def test_what_comes_while_nobody_asks_is_lost_and_that_is_said(served):
    server, remote, _ = served
    events = server.volume("web")._store.events
    with remote.watch() as watch:
        for n in range(KEPT + 7):
            events.publish("bookmark_removed", "x", name=str(n))
        first, second = watch.get(0), watch.get(0)
        assert first is not None and first.kind == "lost" and first.details == {"count": 7}
        assert second is not None and second.details == {"name": "7"}
        assert len(list(iter(lambda: watch.get(0), None))) == KEPT - 1


def test_the_events_in_pages(served):
    _, remote, socket = served
    for n in range(5):
        remote.bookmark(f"b{n}")
    found: list[int] = []
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://cdp/v1/volumes/web") as http:
        now = http.get("/events").json()
        assert now["events"] == [] and now["since"] == 5
        place = {"since": 0, "stream": now["stream"]}
        while (page := http.get("/events", params={**place, "limit": 2}).json())["events"]:
            found += [event["number"] for event in page["events"]]
            place = {"since": page["since"], "stream": page["stream"]}
        assert found == [1, 2, 3, 4, 5]
        other = http.get("/events", params={"since": 3, "stream": "another"}).json()["events"]
        assert other[0]["kind"] == "lost" and other[0]["details"] == {"count": None} and len(other) == 6
        for wrong in ({"limit": 0}, {"limit": KEPT + 1}, {"since": -1}):
            assert http.get("/events", params=wrong).status_code == 400


def test_an_archive_tells_the_server_how_far_it_has_come(served):
    server, remote, socket = served
    server.volume("web").pwrite(b"a" * 4096, 0, fua=True)
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder, remote.watch() as watch:
        follower = Follower(locate(remote.path), cdp.Settings(), Writer(store_at(f"file://{folder}")), tail=True)
        assert follower.up_to_date().changed
        event = watch.get(0)
        assert event is not None and event.kind == "archived" and event.text == f"file://{folder} has all up to #1"
        newest = remote.window().newest
        assert event.details == {"url": f"file://{folder}", "seq": 1, "ts_ns": newest.ts_ns}
        follower.up_to_date()
        assert watch.get(0) is None     # nothing new
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://cdp/v1/volumes/web") as http:
        for wrong in ({"url": "x" * 3000, "seq": 1, "ts_ns": 1}, {"url": "x", "seq": -1, "ts_ns": 1}, {}):
            assert http.post("/archived", json=wrong).status_code == 400
        assert remote.watch(0, 0).get(0).kind == "archived"


@pytest.mark.parametrize("wrong", [{"since": -1}, {"timeout_s": -1}, {"kinds": ["nothing"]}])
def test_a_wrong_watch_of_a_served_volume_is_refused(served, wrong):
    with pytest.raises(cdp.InvalidRequest):
        served[1].watch(**wrong)


def test_a_watch_ends_when_its_volume_is_closed_here(served):
    _, remote, _ = served
    watch = remote.watch()
    remote.close()
    assert list(watch) == [] and watch.closed


def test_a_server_that_is_away_for_a_moment_is_asked_again():
    asked = []

    def ask(since, stream):
        asked.append((since, stream))
        if len(asked) in (2, 3):
            raise Unavailable("away")
        return {"events": [], "stream": "s", "since": len(asked)}

    watch = RemoteWatch(ask, None, None, None)
    assert watch.get(0) is None and asked == [(None, None), (1, "s"), (1, "s"), (1, "s")]
