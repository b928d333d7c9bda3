"""A group of volumes on the simulated machine: what is done to all of them is done to all or to none, also where the
power goes at any call."""
from __future__ import annotations

import gc
import random

import pytest
from support.garbage import set_apart
from support.seeds import Seeds, notice
from support.simcatalog import on
from support.simdisk import stamp
from support.sizes import KIB, tuning

from cdp.service import groups
from cdp.service.groups import Group
from cdp.store import creation
from cdp.store import group_file as file
from cdp.volume.volume import Volume
from cdpcore.base.errors import CdpError, InvalidRequest, RefusedPoint
from cdpcore.system.os import SimOs

pytestmark = pytest.mark.sanitize
SIZE = 64 * KIB
SMALL = tuning(80 * KIB, 640 * KIB)
PATHS = ("/a", "/b", "/c")
Content = tuple[bytes, ...]


class History:
    """Three volumes in a group. `marks`: what all of them showed at each bookmark of the group; `now`: what they show;
    `before`: what they showed before each restore that can be undone."""

    def __init__(self, seed: int):
        set_apart()     # crash() collects
        self.random, self.sim = random.Random(seed), SimOs(seed)
        for path in PATHS:
            creation.create(path, SIZE, SMALL, os=self.sim, catalog=on(self.sim))
        self.volumes: list[Volume] = []
        self.open_volumes()
        self.marks: dict[str, Content] = {}
        self.images: set[str] = set()
        self.before: list[Content] = []
        self.now: Content = (bytes(SIZE),) * len(PATHS)
        self.group = Group.create("/g", self.volumes, _os=self.sim)
        self.cuts = self.n = 0

    def open_volumes(self) -> None:
        self.volumes = [Volume(path, _tuning=SMALL, _os=self.sim, _catalog=on(self.sim)) for path in PATHS]

    def shown(self) -> Content:
        return tuple(volume.pread(SIZE, 0) for volume in self.volumes)

    def at(self, name: str) -> Content:
        found = list[bytes]()
        for volume in self.volumes:
            with volume.at(name) as image:
                found.append(image.pread(SIZE, 0))
        return tuple(found)

    def write(self) -> None:
        now = list(self.now)
        for _ in range(self.random.randint(1, 6)):
            i, self.n = self.random.randrange(len(PATHS)), self.n + 1
            length = 512 * self.random.randint(1, 16)
            offset = 512 * self.random.randrange((SIZE - length) // 512)
            data = stamp(length, self.n % 251)
            self.volumes[i].pwrite(data, offset)
            now[i] = now[i][:offset] + data + now[i][offset + length:]
        self.now = tuple(now)

    def step(self, cut: bool) -> None:
        """One thing is done, and the power may go in it."""
        rnd = self.random
        self.write()
        if cut:
            for volume in self.volumes:     # so that none of it is lost, and `now` is what comes back
                volume.flush()
            self.sim.cut_at(rnd.randint(1, rnd.choice((4, 15, 60))))
        self.n += 1
        what, name = rnd.choice(("bookmark", "bookmark", "restore", "undo", "image", "delete")), f"m{self.n}"
        was, to = self.now, self.now
        marks, images, before = dict(self.marks), set(self.images), list(self.before)
        try:
            if what == "bookmark":
                marks[name] = was
                self.group.bookmark(name)
            elif what == "image":
                images.add(name)
                self.group.create_image(name, at=rnd.choice([*self.marks, "now"]))
            elif what == "undo" and self.before:
                to = before.pop()
                self.group.undo()
            elif what == "restore" and self.marks:
                chosen = rnd.choice(sorted(self.marks))
                to = self.marks[chosen]
                before.append(was)
                self.group.restore(chosen)
            elif what == "delete" and self.marks:
                marks.pop(chosen := rnd.choice(sorted(self.marks)))
                self.group.delete_bookmark(chosen)
            if self.sim.powered:
                self.sim.cut_at(None)
                self.marks, self.images, self.before, self.now = marks, images, before, to
                return
        except CdpError:
            if self.sim.powered:
                raise
        self.crash()
        # What was begun is complete, or not there.
        assert self.group.interrupted is None
        found = {mark.name for mark in self.group.bookmarks()}
        assert found in (set(self.marks), set(marks))
        self.marks = {name: content for name, content in {**self.marks, **marks}.items() if name in found}
        there = [{image.name for image in volume.images()} for volume in self.volumes]
        assert there[0] in (self.images, images) and there.count(there[0]) == len(there)
        self.images = there[0]
        shown = self.shown()
        assert shown in (was, to), "restored in part"
        undoable = sum(not one.undone for one in self.group.restores())
        assert undoable in (len(self.before), len(before))
        if undoable == len(before):
            self.before = before
        self.now = shown

    def crash(self) -> None:
        """The power goes and comes back, perhaps again while what was interrupted is brought to an end."""
        self.cuts += 1
        while True:
            if self.sim.powered:
                self.sim.cut_at(0)
            del self.group
            self.volumes = []
            gc.collect()
            self.sim.power_on("seeded")
            try:
                self.open_volumes()
                if self.random.random() < 0.3:
                    self.sim.cut_at(self.random.randint(1, 30))
                self.group = Group("/g", volumes=self.volumes, _os=self.sim)
                self.group.recover()
                if self.sim.powered:
                    self.sim.cut_at(None)
                    return
            except CdpError:
                if self.sim.powered:
                    raise
                self.group = Group.__new__(Group)

    def check(self) -> None:
        assert self.shown() == self.now
        for volume in self.volumes:
            assert {mark.name for mark in volume.bookmarks()} == set(self.marks)
        for name, content in self.marks.items():
            assert self.at(name) == content
            assert self.group.moment(name).at == tuple(volume.resolve(name) for volume in self.volumes)

    def end(self) -> None:
        self.check()
        for volume in self.volumes:
            volume.close()


def run(seed: int, steps: int = 14) -> History:
    history = History(seed)
    for _ in range(steps):
        history.step(history.random.random() < 0.4)
        if history.random.random() < 0.3:
            history.check()
    history.end()
    return history


def test_all_or_none(seeds: Seeds) -> None:
    cuts = 0
    for seed in seeds(6):
        cuts += run(seed).cuts
    assert seeds.done < 6 or cuts >= 6


@pytest.mark.planted
def test_a_restore_that_is_not_completed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what is pending is forgotten at the next opening."""
    monkeypatch.setattr(Group, "_recover", lambda self, definition, force=False: self._begin(definition, None))
    notice(lambda seed: run(seed), 40)


@pytest.mark.planted
def test_a_bookmark_that_is_not_begun_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: group.json does not say that a bookmark is being made, before it is."""
    def begin(self: Group, definition: file.Definition, pending: file.Pending) -> file.Definition:
        definition = definition.changed(pending=pending)
        if pending.kind != file.BOOKMARK:
            self._save(definition)
        return definition

    monkeypatch.setattr(Group, "_begin", begin)
    notice(lambda seed: run(seed), 60)


def test_where_a_step_fails_the_others_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third volume's device refuses: nothing is left of what was done to the first two."""
    history = History(1)
    history.write()
    history.group.bookmark("here")
    history.marks["here"] = history.now
    history.write()
    step = Group._step

    def failing(self: Group, pending: file.Pending, number: int, force: bool) -> int:
        if number == 2:
            raise RefusedPoint("planted")
        return step(self, pending, number, force)

    with monkeypatch.context() as patch:
        patch.setattr(Group, "_step", failing)
        with pytest.raises(RefusedPoint, match="planted"):
            history.group.restore("here")
        assert history.group.interrupted is None
        history.check()
    history.group.restore("here")
    assert history.shown() == history.marks["here"]
    with monkeypatch.context() as patch:
        patch.setattr(Group, "_step", failing)
        with pytest.raises(RefusedPoint, match="planted"):
            history.group.undo()
        assert "undo here was interrupted" in (history.group.interrupted or "")
        with pytest.raises(RefusedPoint, match="planted"):
            history.group.bookmark("later")
    history.group.recover()
    assert history.group.interrupted is None
    history.end()


def test_a_volume_that_was_restored_by_itself_is_not_undone_with_the_group() -> None:
    history = History(2)
    history.group.bookmark("here")
    history.marks["here"] = history.now
    history.group.restore("here")
    history.volumes[1].restore("here")
    with pytest.raises(RefusedPoint, match="by itself"):
        history.group.undo()
    history.volumes[1].undo()
    history.group.undo()
    with pytest.raises(RefusedPoint, match="no restore to undo"):
        history.group.undo()
    history.end()


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(3)
    monkeypatch.setattr(groups.file, "MAX_MOMENTS", 2)
    for name in ("one", "two"):
        history.group.bookmark(name)
        history.marks[name] = history.now
    with pytest.raises(InvalidRequest, match="which is the bound"):
        history.group.bookmark("three")
    with pytest.raises(InvalidRequest, match="exists"):
        history.group.bookmark("one")
    with pytest.raises(InvalidRequest, match="record of one volume"):
        history.group.moment("#1")
    with pytest.raises(InvalidRequest, match="not its volumes"):
        Group("/g", volumes=history.volumes[:2], _os=history.sim)
    history.end()
