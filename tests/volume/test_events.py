"""volume.watch(): what happens to a volume, in order; what is lost is said, and nothing waits for who watches."""
import os
import threading

import pytest

import cdp
from cdp.moments.events import DETAILS, KEPT, Events
from cdp.service.alerts import HOLD_NS, Facts
from cdp.service.care import Care
from cdp.settings import Settings
from cdp.store import space_watch

MIB = 1 << 20


@pytest.fixture
def volume(tmp_path):
    with cdp.create(tmp_path / "web", size=16 * MIB) as opened:
        yield opened


def kinds(watch: cdp.Watch) -> list[str]:
    """Of all that came already."""
    found = []
    while event := watch.get(0):
        assert set(event.details) == set(DETAILS[event.kind]) and event.text
        found.append(event.kind)
    return found


def test_what_is_done_to_a_volume_is_an_event_once_and_in_order(volume):
    volume.bookmark("early")
    with volume.watch() as watch:
        volume.pwrite(b"a" * 4096, 0)
        volume.bookmark("before")
        volume.pwrite(b"b" * 4096, 0)
        done = volume.restore("before")
        undone = volume.undo()
        volume.restore("before", dry_run=True)
        volume.delete_bookmark("before")
        volume.create_image("trial", "early")
        with volume.open_image("trial"), volume.open_image("trial"):
            pass
        volume.delete_image("trial")
        found = list(iter(lambda: watch.get(0), None))
    assert [event.kind for event in found] == [
        "bookmark_made", "restored", "undone", "bookmark_removed", "image_created", "image_opened", "image_closed",
        "image_deleted"]
    assert [event.number for event in found] == list(range(2, 10)) and len({event.stream for event in found}) == 1
    assert found[0].details["name"] == "before" and found[4].details["image"] == "trial"
    assert (found[1].details["seq"], found[2].details["seq"]) == (done.seq, undone.seq)
    assert found[2].details["undo_of"] == done.seq
    assert found[1].details["target_seq"] == done.target.seq


def test_an_image_has_events_of_its_own(volume):
    volume.create_image("trial")
    with volume.open_image("trial") as image, image.watch() as own, volume.watch() as above:
        image.bookmark("inside")
        assert kinds(own) == ["bookmark_made"] and kinds(above) == []


def test_what_is_given_up_is_an_event(tmp_path):
    small = cdp.Settings(segment_bytes=16 * MIB)
    with cdp.create(tmp_path / "web", size=16 * MIB, settings=small) as volume, volume.watch() as watch:
        for n in range(48):
            volume.pwrite(bytes([n]) * MIB, n % 16 * MIB)
        volume._store.seal()
        freed = volume.free_before(40, dry_run=True)
        assert kinds(watch) == [] and freed.freed_bytes
        volume.free_before(40)
        event = watch.get(0)
        assert event is not None and event.kind == "history_freed"
        assert (event.details["seq"], event.details["bytes"]) == (freed.start.seq, freed.freed_bytes)
        began, ended = watch.get(60), watch.get(60)
        assert volume.freeing() is None
    assert (began.kind, ended.kind) == ("maintenance_began", "maintenance_ended")
    assert began.details == ended.details == {"work": "freeing", "seq": freed.start.seq}


def test_a_scrub_that_ends_is_an_event(volume):
    volume.pwrite(b"a" * 4096, 0)
    care = Care(volume, Settings())
    try:
        with volume.watch() as watch:
            while not care.scrub.state.last_ended_ns:
                care.scrub.step()
            event = watch.get(0)
            care.scrub.checked(1, 4096, [("log", "damaged", "copy")])
            second = watch.get(0)
    finally:
        care.close()
    assert event is not None and event.kind == "scrub_ended" and event.details["problems"] == 0
    assert second is not None and second.details == {"bytes": 4096, "problems": 1}


def test_alerts_are_events_too_when_they_are_raised_and_when_they_are_cleared(volume):
    reported = []
    care = Care(volume, Settings(), lambda volume, alert, raised: reported.append((alert.kind, raised)))
    try:
        with volume.watch() as watch:
            for facts, steady_ns in ((Facts(damage=1), 0), (Facts(damage=2), 1), (Facts(damage=0), 2),
                                     (Facts(damage=0), 3 + HOLD_NS)):
                care.book.look(facts, 7, steady_ns)
            raised, cleared, more = watch.get(0), watch.get(0), watch.get(0)
    finally:
        care.close()
    assert raised is not None and cleared is not None and more is None
    assert (raised.kind, raised.details["alert"], raised.details["level"]) == ("alert_raised", "scrub", "error")
    assert (cleared.kind, cleared.details["alert"]) == ("alert_cleared", "scrub")
    assert reported == [("scrub", True), ("scrub", False)]


def test_a_device_that_becomes_low_is_an_event_once():
    events = Events()
    watch = events.watch()
    for low in (False, True, True, False, False, True):
        events.space_is(low, 5 * MIB, "8:1")
    assert kinds(watch) == ["space_low", "space_ok", "space_low"]


def test_an_open_volume_watches_its_device(tmp_path, monkeypatch):
    """What maintenance finds is an event, once, and of each volume of the device."""
    monkeypatch.setattr(space_watch, "LOOK_S", 0)
    low = Settings(low_space_bytes=1 << 50)
    with (cdp.create(tmp_path / "web", size=MIB, settings=low) as web,
          cdp.create(tmp_path / "db", size=MIB, settings=low) as db):
        watch, other = web.watch(0, kinds=["space_low", "space_ok"]), db.watch(0, kinds=["space_low"])
        first, second = watch.get(60), other.get(60)
        assert first is not None and second is not None and first.kind == second.kind == "space_low"
        found = os.stat(tmp_path).st_dev
        assert first.details["device"] == second.details["device"] == f"{os.major(found)}:{os.minor(found)}"
        assert first.details["free_bytes"] > 0 and other.get(0) is None
        # As the device of a larger machine is.
        free = os.statvfs_result((4096, 4096, 1 << 50, 1 << 50, 1 << 50, 1, 1, 1, 0, 255))
        monkeypatch.setattr(space_watch.os, "statvfs", lambda _path: free)
        after = watch.get(60)
        assert after is not None and after.kind == "space_ok" and after.details["free_bytes"] == 1 << 62
    assert list(watch) == [] and list(other) == []      # nothing came twice


def test_a_clock_that_is_set_is_an_event():
    events = Events()
    watch = events.watch()
    events.clock_stepped(7, 5_000_000_000, 2_000_000_000)
    event = watch.get(0)
    assert event is not None and event.kind == "clock_stepped" and "back by 3 s" in event.text


def test_who_is_too_slow_is_told_how_many_were_lost_and_goes_on(volume):
    watch = volume.watch()
    for n in range(KEPT + 5):
        volume._store.events.publish("bookmark_removed", "x", name=str(n))
    first = watch.get(0)
    assert first is not None and first.kind == "lost" and first.details == {"count": 5} and "5 events" in first.text
    second = watch.get(0)
    assert second is not None and second.number == first.number + 1 and second.details == {"name": "5"}
    assert len(kinds(watch)) == KEPT - 1


def test_a_watch_of_some_kinds_gets_those_and_what_was_lost():
    events = Events(kept=2)
    watch = events.watch(kinds=["image_opened"])
    events.publish("image_opened", "x", image="a")
    events.publish("image_closed", "x", image="a")
    assert kinds(watch) == ["image_opened"]
    for image in "bcd":
        events.publish("image_opened", "x", image=image)
    assert kinds(watch) == ["lost", "image_opened", "image_opened"]


def test_a_watch_begins_after_the_event_that_it_names(volume):
    for name in ("one", "two", "three"):
        volume.bookmark(name)
    names = [event.details["name"] for event in volume.watch(0, 0)]
    assert names == ["one", "two", "three"]
    second = list(volume.watch(0, 0))[1]
    assert [event.details["name"] for event in volume.watch(2, 0)] == ["three"]
    assert [event.details["name"] for event in volume.watch(second, 0)] == ["three"]


def test_an_event_of_another_opening_is_known_as_such(tmp_path):
    with cdp.create(tmp_path / "web", size=MIB) as volume, volume.watch(0) as watch:
        volume.bookmark("one")
        old = watch.get(0)
    with cdp.open(tmp_path / "web") as volume:
        volume.bookmark("two")
        first, second = list(volume.watch(old, 0))
        assert first.kind == "lost" and first.details == {"count": None} and second.details["name"] == "two"
        assert [event.kind for event in volume.watch(500, 0)] == ["lost", "bookmark_made"]


def test_a_watch_ends_with_its_volume_after_what_came(tmp_path):
    with cdp.create(tmp_path / "web", size=MIB) as volume:
        watch = volume.watch()
        volume.bookmark("last")
    assert [event.kind for event in watch] == ["bookmark_made"] and watch.closed
    with pytest.raises(cdp.Closed):
        volume.watch()


def test_who_waits_gets_what_comes_and_is_woken_by_close(volume):
    watch, found = volume.watch(), []
    thread = threading.Thread(target=lambda: found.extend(watch))
    thread.start()
    volume.bookmark("one")
    deadline = threading.Event()
    while not found:
        deadline.wait(0.01)
    watch.close()
    thread.join(60)
    assert not thread.is_alive() and [event.kind for event in found] == ["bookmark_made"]
    assert watch.get(0) is None and watch.closed


def test_many_threads_get_the_same_events_in_the_same_order():
    events = Events()
    watches = [events.watch() for _ in range(8)]
    found: list[list[int]] = [[] for _ in watches]

    def read(n: int) -> None:
        found[n].extend(event.number for event in watches[n])

    threads = [threading.Thread(target=read, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    writers = [threading.Thread(target=lambda: [events.publish("image_opened", "x", image="a") for _ in range(100)])
               for _ in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    events.close()
    for thread in threads:
        thread.join()
    assert all(numbers == list(range(1, 401)) for numbers in found)


@pytest.mark.parametrize("wrong", [{"since": -1}, {"since": True}, {"since": "7"}, {"timeout_s": -1},
                                   {"timeout_s": float("nan")}, {"kinds": ["nothing"]}])
def test_a_wrong_watch_is_refused(volume, wrong):
    with pytest.raises(cdp.InvalidRequest):
        volume.watch(**wrong)


def test_a_watch_of_the_parent_is_closed_in_a_child(volume):
    watch = volume.watch()
    pid = os.fork()
    if pid == 0:
        try:
            watch.get(0)
        except cdp.Closed:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_watch_keeps_no_volume_open(tmp_path):
    volume = cdp.create(tmp_path / "web", size=MIB)
    watch = volume.watch()
    with pytest.warns(ResourceWarning):
        del volume
    assert list(watch) == []
