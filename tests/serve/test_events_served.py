"""What happens to a volume that another process serves: watch() of cdp.connect, and GET /v1/volumes/VOLUME/events."""
import asyncio
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import cdp
from cdp.archive.follow import Follower
from cdp.archive.places import store_at
from cdp.archive.writer import Writer
from cdp.moments.events import KEPT, Events
from cdp.serve.server import Server
from cdp.serve.waiting import Waiting
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


def waiting(server: Server) -> Waiting:
    return server._admin._app.waiting


def until(true: Callable[[], object]) -> None:
    end_s = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_request_waits_for_the_next_event_and_ends_with_its_client(served):
    server, _, socket = served
    url = "http://cdp/v1/volumes/web/events"
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=120) as http, ThreadPoolExecutor(1) as pool:
        asked = {"since": 0, "wait_s": 30}
        answer = pool.submit(http.get, url, params=asked)
        until(lambda: waiting(server).count)
        assert http.get("http://cdp/healthz").text == "ok\n" and not answer.done()
        server.volume("web").bookmark("one")
        assert [event["text"] for event in answer.result(120).json()["events"]] == ["bookmark one names #0"]
        assert len(http.get(url, params=asked).json()["events"]) == 1 and waiting(server).count == 0
        assert http.get(url, params={"wait_s": 30}).json()["events"] == []      # without a place nothing is waited for
        assert http.get(url, params={"since": 0, "wait_s": 31}).status_code == 400
        with pytest.raises(httpx.TimeoutException):      # the client hangs up
            http.get(url, params={"since": 1, "wait_s": 30}, timeout=0.5)
        until(lambda: not waiting(server).count)


def test_no_more_wait_than_a_bound():
    async def scene() -> None:
        few, events, never = Waiting(2), Events(), asyncio.Event().wait

        async def receive() -> dict[str, str]:
            await never()
            return {"type": "http.disconnect"}

        tasks = [asyncio.create_task(few.until(events, 0, 3600, receive)) for _ in range(2)]
        while few.count < 2:
            await asyncio.sleep(0)
        await few.until(events, 0, 3600, receive)       # at once
        assert few.count == 2
        events.publish("image_deleted", "x", image="x")
        await asyncio.gather(*tasks)
        await few.until(events, 0, 3600, receive)       # there is one already
        tasks = [asyncio.create_task(few.until(events, 1, 3600, receive))]
        while not few.count:
            await asyncio.sleep(0)
        few.release()
        await asyncio.gather(*tasks)
        await few.until(events, 1, 3600, receive)
        few.resume()
        tasks = [asyncio.create_task(few.until(events, 1, 3600, receive))]
        while not few.count:
            await asyncio.sleep(0)
        events.close()
        await asyncio.gather(*tasks)
        assert few.count == 0 and not events._calls

    asyncio.run(asyncio.wait_for(scene(), 120))


def test_a_watch_waits_at_the_server_and_ends_from_another_thread(served):
    server, remote, _ = served
    asked = []
    with remote.watch() as watch, ThreadPoolExecutor(2) as pool:
        ask = watch._ask
        watch._ask = lambda *args: asked.append(args) or ask(*args)
        got = [pool.submit(watch.get) for _ in range(2)]
        until(lambda: waiting(server).count)
        assert remote.window() and len(asked) == 1      # the volume is for others meanwhile
        server.volume("web").bookmark("one")
        until(lambda: any(one.done() for one in got))
        server.volume("web").bookmark("two")
        assert sorted(one.result(120).details["name"] for one in got) == ["one", "two"]
        last = pool.submit(watch.get)
        until(lambda: waiting(server).count)
        watch.close()
        assert last.result(120) is None
        until(lambda: not waiting(server).count)
        assert len(asked) <= 4
        watch = remote.watch()
        last = pool.submit(list, watch)
        until(lambda: waiting(server).count)
        remote.close()
        assert last.result(120) == []


def test_a_server_that_stops_does_not_wait_for_who_waits():
    with tempfile.TemporaryDirectory(prefix="cdp-t") as folder, ThreadPoolExecutor(1) as pool:
        cdp.create(f"{folder}/web", size=MIB).close()
        settings = cdp.Settings(unix_socket=f"{folder}/nbd", admin_socket=f"{folder}/admin")
        with httpx.Client(transport=httpx.HTTPTransport(uds=f"{folder}/admin"), timeout=120) as http:
            with Server([f"{folder}/web"], settings) as server:
                answer = pool.submit(http.get, "http://cdp/v1/volumes/web/events", params={"since": 0, "wait_s": 30})
                until(lambda: waiting(server).count)
            assert answer.result(120).json()["events"] == []


def test_a_hand_over_does_not_wait_for_who_waits(served):
    server, _, socket = served
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=120) as http, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(http.get, "http://cdp/v1/volumes/web/events", params={"since": 0, "wait_s": 30})
        until(lambda: waiting(server).count)
        server._admin.hand_over(force=False).close()        # Busy where a request is at work
        assert answer.result(120).json()["events"] == []


def test_an_image_is_deleted_while_somebody_waits_for_its_events(served):
    server, remote, socket = served
    remote.create_image("trial")
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=120) as http, ThreadPoolExecutor(1) as pool:
        asked = {"image": "trial", "since": 0, "wait_s": 30}
        answer = pool.submit(http.get, "http://cdp/v1/volumes/web/events", params=asked)
        until(lambda: waiting(server).count or answer.done())
        remote.delete_image("trial")
        assert answer.result(120).status_code in (200, 404)


def test_a_server_that_does_not_wait_is_not_asked_without_a_pause():
    """One of an older version, or one with too many that wait."""
    asked = []

    def ask(since, stream, wait_s):
        asked.append(wait_s)
        return {"events": [], "stream": "s", "since": 1}

    watch = RemoteWatch(ask, 1, 1.0, None)
    assert list(watch) == [] and 0 < len(asked) < 10


def test_a_server_that_is_away_for_a_moment_is_asked_again():
    asked = []

    def ask(since, stream, wait_s):
        asked.append((since, stream))
        if len(asked) in (2, 3):
            raise Unavailable("away")
        return {"events": [], "stream": "s", "since": len(asked)}

    watch = RemoteWatch(ask, None, None, None)
    assert watch.get(0) is None and asked == [(None, None), (1, "s"), (1, "s"), (1, "s")]
