"""Two writers of one archive, and a store whose requests fail, are carried out though they fail, late or twice. A
writer stalls at any request while others do the work of hours, machines are lost and come back from the archive, and
the oldest history is given up. Every manifest of the chain is right, and what was acknowledged is in it.

The volumes are logs of random bytes: what is proven here is the archive, not the engine.
"""
from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest
from support.object_store import FaultyStore, MemoryStore
from support.seeds import Seeds, notice

from cdp.archive import commits, conditional, deletion
from cdp.archive import writer as writing
from cdp.archive.commits import Commits, Fenced
from cdp.archive.manifest import Manifest, decode
from cdp.archive.names import MANIFESTS, manifest_number
from cdp.archive.reader import Archive
from cdp.archive.retention import Cut
from cdp.archive.source import Gone, SourceSegment
from cdp.archive.writer import Writer
from cdp.moments.model import Moment
from cdp.store.description import Geometry
from cdpcore.base.errors import Busy, RefusedPoint, Unavailable

PART = 64
GEOMETRY = Geometry("ab" * 16, 1 << 20, 1, 1 << 20, "file")


@dataclass
class LogSegment:
    number: int
    first_seq: int
    data: bytes = b""
    ends: list[int] = field(default_factory=list)       # where each record ends
    sealed: bool = False

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.ends) - 1


class Log:
    """A volume, as cdp.archive.source.Source describes one."""

    def __init__(self, rnd: random.Random, base: bytes):
        self.rnd, self.base = rnd, base
        self.segments = [LogSegment(1, 1)]
        self.times: dict[int, int] = {0: 0}

    def write(self) -> None:
        open_one = self.segments[-1]
        for _ in range(self.rnd.randrange(1, 4)):
            open_one.data += self.rnd.randbytes(self.rnd.randrange(1, 90))
            open_one.ends.append(len(open_one.data))
            self.times[open_one.last_seq] = self.rnd.getrandbits(40)
        if self.rnd.random() < 0.3:
            self.seal()

    def seal(self) -> None:
        last = self.segments[-1]
        if last.ends:
            last.data += self.rnd.randbytes(20)
            last.sealed = True
            self.segments.append(LogSegment(last.number + 1, last.last_seq + 1))

    @property
    def newest(self) -> int:
        return self.segments[-1].last_seq

    def segment(self, number: int) -> LogSegment:
        return next(segment for segment in self.segments if segment.number == number)

    def volume(self) -> dict[str, Any]:
        return asdict(GEOMETRY)

    def look(self, after: int) -> list[SourceSegment]:
        if self.rnd.random() < 0.2:
            self.write()
        return [SourceSegment(s.number, s.first_seq, s.last_seq, self.times[s.last_seq], s.sealed,
                              len(s.data) if s.sealed else s.ends[-1])
                for s in self.segments if s.number > after and s.ends]

    def check(self, segment: SourceSegment) -> None:
        pass

    def read(self, segment: SourceSegment, offset: int, length: int) -> bytes:
        if self.rnd.random() < 0.02:
            raise Gone
        return self.segment(segment.number).data[offset:offset + length]

    def outline(self, segment: SourceSegment) -> bytes:
        return f"{segment.number}".encode()

    def freed(self) -> list[tuple[int, int]]:
        return []

    def oldest(self) -> Moment:
        return Moment(0, 0)

    def shows(self, seq: int, ts_ns: int) -> bool | None:
        return self.times.get(seq) == ts_ns

    def base_ranges(self, since: int) -> Iterator[tuple[int, int]]:
        if since < len(self.base):
            yield since, len(self.base) - since

    def read_base(self, offset: int, length: int) -> bytes:
        return self.base[offset:offset + length]

    def retention(self) -> str | None:
        return None


def come_back(found: Archive, rnd: random.Random) -> Log:
    """The volume as the archive has it, on another machine."""
    log = Log(rnd, base_of(found))
    log.segments = []
    for segment in found.segments():
        data = b"".join(found.content(part) for part in segment.parts)
        log.segments.append(LogSegment(segment.number, segment.first_seq, data,
                                       [len(data)] * (segment.last_seq - segment.first_seq + 1), segment.sealed))
        log.times[segment.last_seq] = segment.last_ts_ns
    if not log.segments or log.segments[-1].sealed:
        last = log.segments[-1] if log.segments else LogSegment(0, 1)
        log.segments.append(LogSegment(last.number + 1, last.last_seq + 1))
    return log


def base_of(found: Archive) -> bytes:
    base = b""
    for laid in found.base_parts():
        end = laid.offset + laid.part.size
        base = base[:laid.offset].ljust(laid.offset, b"\0") + found.content(laid.part) + base[end:]
    return base


def regions(size: int, seq: int) -> Iterator[tuple[int, bytes]]:
    """What the log up to `seq` changes of a base of so many bytes: every second region."""
    for offset in range(0, size, 2 * PART):
        yield offset, random.Random(f"{seq} {offset}").randbytes(PART)


def base_at(base: bytes, seq: int) -> bytes:
    """What the base is where the history begins after `seq`."""
    out = bytearray(base)
    for offset, data in regions(len(base), seq) if seq else ():
        out[offset:offset + PART] = data
    return bytes(out)


class Actor:
    """A process that archives `log`. Its nonces say who it is."""

    def __init__(self, world: World, number: int, log: Log):
        self.world, self.number, self.log = world, number, log
        self.busy = self.dead = False
        self.writer = self._start()

    def _start(self) -> Writer:
        return Writer(self.world.store, part_bytes=PART, commit_bytes=200,
                      nonces=lambda: f"{self.number:02x}{self.world.rnd.getrandbits(120):030x}")

    def step(self) -> None:
        if self.world.rnd.random() < 0.7:
            self.log.write()
        self.busy = True
        try:
            before = self.log.newest
            self.writer.up_to_date(self.log)
            self.world.acknowledged(self, before)
            if self.world.rnd.random() < self.world.cuts:
                self._give_up()
        except Fenced:
            self.world.fenced(self)
            self.writer = self._start()
        except (Unavailable, Busy):
            if self.world.rnd.random() < 0.3:       # the process is started again
                self.writer = self._start()
        except RefusedPoint:
            self.dead = True        # its volume is not the one in the archive
        finally:
            self.busy = False


    def _give_up(self) -> None:
        """Of what is sealed, all but the last segments, or less."""
        now = self.writer.newest
        assert now is not None
        sealed = [segment for segment in Archive(self.world, now).segments() if segment.sealed][:-1]
        if sealed:
            seq = self.world.rnd.choice(sealed).last_seq
            self.world.given_up += self.writer.give_up(
                Cut(now, seq, self.log.times.get(seq, 0), True, regions(len(self.world.base), seq)), self.log) > 0


class World(FaultyStore):
    """The store, who writes to it, and what has to be true. chain: the first manifest that was created of each number;
    another one that is created of that number when it was deleted is none."""

    def __init__(self, seed: int):
        self.rnd = random.Random(seed)
        super().__init__(self.rnd, self.rnd.choice((0.0, 0.05, 0.2, 0.4)))
        self.store = self
        self.chain: dict[int, Manifest] = {}
        self.depth = 0
        self.stalls = self.rnd.choice((0.0, 0.02, 0.05))
        self.cuts, self.given_up = self.rnd.choice((0.0, 0.1, 0.4)), 0
        self.between = self._others
        log = Log(self.rnd, self.rnd.randbytes(self.rnd.randrange(400)))
        self.logs, self.base = [log], log.base
        self.actors = [Actor(self, 0, log), Actor(self, 1, log)]
        self.promised: list[tuple[Log, int]] = []

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._step()
        self.flush_late()
        self.look()

    def _step(self) -> None:
        idle = [actor for actor in self.actors if not actor.busy and not actor.dead]
        if idle:
            self.rnd.choice(idle).step()
        if self.rnd.random() < 0.1:
            self.look()
        if self.rnd.random() < 0.03 and len(self.actors) < 6:
            self._lose_a_machine()

    def _others(self) -> None:
        """A writer stalls before a request: the others go on, for long."""
        if self.depth < 2 and self.rnd.random() < self.stalls:
            self.depth += 1
            for _ in range(self.rnd.choice((1, 3, 25))):
                self._step()
            self.depth -= 1

    def _lose_a_machine(self) -> None:
        """The volume comes back from the archive on another one; the old machine is not really gone."""
        if (found := self.look()) is not None and found.manifest.complete:
            log = come_back(found, self.rnd)
            self.logs.append(log)
            self.actors.append(Actor(self, len(self.actors), log))

    # --- what has to be true ------------------------------------------------------------------------------------------

    def _put(self, name: str, data: bytes) -> None:
        super()._put(name, data)
        number = manifest_number(name)
        if number is not None and number not in self.chain:
            manifest = decode(data, name, number)
            before = self.chain.get(number - 1)
            assert before is not None or number == 1
            assert before is None or manifest.epoch >= before.epoch, "a lower epoch after a higher one"
            assert before is None or manifest.epoch > before.epoch or manifest.nonce[:2] == before.nonce[:2], \
                "two writers with one epoch"
            self.chain[number] = manifest

    def acknowledged(self, actor: Actor, seq: int) -> None:
        manifest = actor.writer.newest
        assert manifest is not None and manifest.complete and manifest.seq >= seq
        assert self.chain[manifest.number] == manifest, "acknowledged, and not in the chain"
        self.promised.append((actor.log, seq))

    def fenced(self, actor: Actor) -> None:
        mine = actor.writer.newest
        assert mine is not None
        assert any(m.epoch > mine.epoch for m in self.chain.values()), "stopped, though nobody took over"

    def look(self) -> Archive | None:
        """What anybody sees who reads the archive now."""
        clean = MemoryStore()
        clean.objects = dict(self.objects)
        if not any(name.startswith(MANIFESTS) for name in clean.objects):
            return None
        found = Archive(clean)
        newest = found.manifest
        assert newest == self.chain[max(self.chain)], "the newest manifest is not the chain's last"
        assert not found.verify().problems
        if newest.complete:
            log = self.actors[int(newest.nonce[:2], 16)].log
            reach = newest.volume["start_seq"]
            assert base_of(found).rstrip(b"\0") == base_at(self.base, reach).rstrip(b"\0")
            for segment in found.segments():
                truth = log.segment(segment.number)
                data = b"".join(found.content(part) for part in segment.parts)
                assert data == truth.data[:len(data)] and segment.first_seq == truth.first_seq == reach + 1
                assert len(data) == len(truth.data) if segment.sealed else \
                    segment.last_seq == truth.first_seq + sum(end <= len(data) for end in truth.ends) - 1
                reach = segment.last_seq
            assert reach == newest.seq
            for promised_to, seq in self.promised:
                assert seq <= newest.seq and (promised_to.times[seq] == log.times.get(seq, promised_to.times[seq])), \
                    "acknowledged, and not in the archive"
        return found


def make_often(patch: pytest.MonkeyPatch) -> None:
    """Everything that is rare happens all the time."""
    patch.setattr(deletion, "KEEP", 2)
    patch.setattr(deletion, "EVERY", 2)
    patch.setattr(writing, "PAGE_ITEMS", 3)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    make_often(monkeypatch)


def history(seed: int) -> World:
    world = World(seed)
    world.run(25)
    return world


@pytest.mark.soak
def test_no_history_is_wrong(seeds: Seeds):
    done = [history(seed) for seed in seeds(30)]
    assert len(done) < 30 or (sum(len(world.promised) for world in done) > 100
                              and sum(world.given_up for world in done) > 5
                              and max(world.chain[max(world.chain)].epoch for world in done) > 5)


def believe_conflicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """412 is about this request: somebody else's object is there."""
    create = conditional.create_mine

    def bug(store: Any, name: str, data: bytes) -> bool:
        try:
            store.create(name, data)
            return True
        except conditional.Conflict:
            return False
        except Unavailable:
            return create(store, name, data)
    monkeypatch.setattr(commits, "create_mine", bug)


def believe_time_outs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What timed out was carried out, and is ours."""
    def bug(store: Any, name: str, data: bytes) -> bool:
        try:
            store.create(name, data)
        except conditional.Conflict:
            return bool(store.get(name) == data)
        except Unavailable:
            pass
        return True
    monkeypatch.setattr(commits, "create_mine", bug)


def do_not_look_at_the_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "read_boundary", lambda store: conditional.Boundary(0))


def delete_before_the_boundary_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    move = deletion._move

    def late(store: Any, mine: Commits, bound: int) -> None:
        for name in list(store.names(MANIFESTS)):
            if (manifest_number(name) or bound) < bound:
                store.delete(name)
        move(store, mine, bound)
    monkeypatch.setattr(deletion, "_move", late)


def accept_a_lower_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loses a number takes the next one, with the epoch that it has."""
    end_doubt = Commits.end_doubt

    def bug(self: Commits) -> None:
        try:
            end_doubt(self)
        except Fenced:
            now = commits.newest(self._store)
            assert now is not None and self._doubtful is not None
            self.last, self._doubtful = replace(now, epoch=self.last.epoch), None
    monkeypatch.setattr(Commits, "end_doubt", bug)


def delete_what_is_not_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of any epoch that this manifest does not name."""
    def bug(store: Any, mine: Commits) -> int:
        named = deletion._names(store, mine.last)
        for folder in deletion.DATA:
            for name in list(store.names(folder)):
                if name not in named:
                    store.delete(name)
        return 0
    monkeypatch.setattr(writing, "delete_unnamed", bug)


def commit_before_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(store: Any, name: str, data: bytes) -> None:
        try:
            store.create(name, data)
        except (conditional.Conflict, Unavailable):
            pass
    monkeypatch.setattr(writing, "create_data", bug)


def delete_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    give_up = Writer.give_up

    def bug(self: Writer, cut: Cut, source: Any) -> int:
        for segment in Archive(self.store, cut.of).segments():
            for part in segment.parts if segment.last_seq <= cut.seq else ():
                self.store.delete(part.name)
        return give_up(self, cut, source)
    monkeypatch.setattr(Writer, "give_up", bug)


def forget_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """The segments go, and what they changed with them."""
    monkeypatch.setattr(writing, "laid_over", lambda parts, size_bytes, region_bytes: parts[:-1])


@pytest.mark.planted
@pytest.mark.parametrize("plant", [believe_conflicts, believe_time_outs, do_not_look_at_the_boundary,
                                   delete_before_the_boundary_moves, accept_a_lower_epoch, delete_what_is_not_old,
                                   commit_before_sending, delete_before_the_commit, forget_the_base])
def test_a_planted_bug_is_noticed(plant: Any, monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch)
    notice(history, 400)
