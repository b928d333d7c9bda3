"""A volume, its images and the model of each, driven together by operations that are (name, number) pairs.

An operation draws its parameters from its own number, and takes them modulo what there is, so every sub-list of a
program is a program: that makes a failing one small (`shrink`). The same driver runs on the simulated disk and on the
real one.
"""
from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from support import clock_model
from support.model import BOOKMARK, FLUSH, RESTORE, RESTORED, SECTOR, UNBOOKMARK, WRITEBACK, Model
from support.simcatalog import on

from cdp.moments.points import Point
from cdp.store import creation
from cdp.store.catalog import Segment
from cdp.store.tuning import Tuning
from cdp.volume.volume import Volume
from cdpcore.base.errors import Busy, CdpError, InvalidRequest, NotFound, RefusedPoint
from cdpcore.log.clock_steps import CLOCK_STEP_NS
from cdpcore.system.os import Os, SimOs

Op = tuple[str, int]
LETTER = {"data": b"d", "zero": b"z", "hole": b"h"}
WEIGHTS = {"write": 46, "small": 14, "zero": 10, "flush": 6, "bookmark": 3, "unbookmark": 2, "restore": 3, "destroy": 1,
           "undo": 2, "image": 2, "unimage": 1, "shut": 2, "hold": 2, "look": 8, "history": 2, "reopen": 1}
FREEING = {"write": 60, "small": 8, "zero": 12, "flush": 3, "bookmark": 1, "restore": 3, "destroy": 1, "undo": 1,
           "image": 1, "unimage": 4, "shut": 2, "hold": 1, "look": 1, "free": 14, "reopen": 1}    # from the oldest end
WRONG_CLOCK = {**WEIGHTS, "clock": 8, "history": 12}    # simulated: it is set, both ways, and slewed


@dataclass(frozen=True)
class Size:
    """How large things are: chosen so that rolls, seals, merges and records of many frames happen all the time."""

    volume: int
    tuning: Tuning
    most: int           # bytes of the longest write, in max_request_bytes: without threads one call may roll once
    before: bool = False    # of before-images, with a disk in place


KIB = 1024


def tuning(slot: int, segment: int, slots: int = 3, records: int = 300, files: int = 2,
           threads: bool = False) -> Tuning:
    return Tuning(slot_bytes=slot, n_slots=slots, segment_bytes=segment, max_records=records, merge_fanin=2,
                  max_open_files=files,
                  threads=threads, commit_interval_ms=1 if threads else 0, pending_bytes=256 * KIB, pending_changes=64)


SIZES = (Size(192 * KIB, tuning(80 * KIB, 640 * KIB), 1),
         Size(96 * KIB, tuning(80 * KIB, 640 * KIB, slots=2, records=120), 1),
         Size(320 * KIB, tuning(128 * KIB, 1024 * KIB, slots=4), 1),
         Size(640 * KIB, tuning(256 * KIB, 2048 * KIB, records=200), 2))


@dataclass
class Node:
    """The volume, or an image: what is open of it, and its model."""

    path: str
    model: Model
    seq: int = 0                                    # of the parent, for an image
    start: int = 0                                  # the oldest moment that can be opened
    asked: int = 0                                  # ... or this one, where it moved when the power went
    volume: Any = None
    images: dict[str, Node] = field(default_factory=dict)
    held: list[tuple[Any, int]] = field(default_factory=list)   # time images, their seqs
    ts: dict[int, int] = field(default_factory=dict)
    shown: dict[int, tuple[int, int, bool]] = field(default_factory=dict)   # by the clock: from, to; times follow it

    def bookmarks(self) -> dict[str, tuple[int, int]]:
        """name -> (seq it names, seq of its record)."""
        found: dict[str, tuple[int, int]] = {}
        for seq, row in self.model.notes:
            if row.kind == BOOKMARK:
                found[row.note[0]] = row.note[1], seq
            elif row.kind == UNBOOKMARK:
                found.pop(row.note, None)
        return {name: b for name, b in found.items() if self.openable(b[0])}

    def restores(self) -> list[tuple[int, int, int, int, bool, int | None, bool]]:
        """(seq, target, offset, length, destructive, undo_of, undoable), as Volume.restores() has them."""
        rows = [(seq, row) for seq, row in self.model.notes if row.kind == RESTORE]
        undone = {row.note[2] for _, row in rows}
        return [(seq, row.note[0], row.offset, row.length, row.note[1], row.note[2],
                 not row.note[1] and not row.note[2] and seq not in undone and self.openable(seq - 1)
                 and self.openable(seq))
                for seq, row in rows if seq > self.start]

    def gaps(self) -> list[tuple[int, int]]:
        return [(row.note[0], seq) for seq, row in self.model.notes
                if row.kind == RESTORE and row.note[1] and seq > self.start]

    def openable(self, seq: int) -> bool:
        return seq >= self.start and not any(lo < seq < hi for lo, hi in self.gaps())

    def family(self) -> list[Node]:
        return [self, *(n for image in self.images.values() for n in image.family())]


class World:
    """`os`: where it runs; `sim` is the same where it is simulated. Everything is drawn from `seed` and the
    operations."""

    def __init__(self, seed: int, os: Os, path: str, size: Size, catalog: Callable[..., Any] | None = None):
        self.os, self.path, self.size = os, path, size
        self.sim = os if isinstance(os, SimOs) else None
        self.catalog = catalog or on(os)
        self.random = random.Random(seed)
        self.root: Node | None = None
        self.pending: tuple[Node, str, Node | None] | None = None   # an image that may or may not be there
        self.base: tuple[bytes, bytes] | None = None
        self.done = dict.fromkeys(WEIGHTS, 0)

    # --- life ---------------------------------------------------------------------------------------------------------

    def create(self, with_base: bool = False) -> None:
        disk = f"{self.path}.img" if self.size.before else ""
        if disk:
            self.make_disk(disk, with_base)
        creation.create(self.path, self.size.volume, self.size.tuning, os=self.os, catalog=self.catalog, disk=disk)
        self.root = Node(self.path, self.empty())
        self.open()
        if with_base and not disk:
            self.import_base()

    def make_disk(self, path: str, with_base: bool) -> None:
        """The disk to be protected, durable before it is: holes, or noise with holes."""
        # or half made, when the power went
        if not self.os.exists(path) or self.root is None and not self.os.exists(self.path):
            if self.os.exists(path):
                self.os.unlink(path)
            pieces, content = self.noise() if with_base else ([], bytearray(self.size.volume))
            with self.os.open(path, write=True, create=True) as file:
                file.truncate(self.size.volume)
                for at, n in pieces:
                    file.pwrite(bytes(content[at:at + n]), at)
                file.datasync()
            self.os.sync_dir(path.rsplit("/", 1)[0] or "/")
        with self.os.open(path) as file:
            self.base = file.pread(self.size.volume, 0), b"b" * (self.size.volume // SECTOR)

    def empty(self) -> Model:
        return Model(self.size.volume, 1, self.base if self.size.before else None)

    def noise(self) -> tuple[list[tuple[int, int]], bytearray]:
        content = bytearray(self.size.volume)
        pieces = []
        for at in range(0, self.size.volume, 16 * KIB):
            if self.random.random() < 0.5:
                n = min(self.random.choice((4096, 5 * SECTOR, 16 * KIB)), self.size.volume - at)
                content[at:at + n] = self.random.randbytes(n)
                pieces.append((at, n))
        return pieces, content

    def import_base(self) -> None:
        """The base becomes noise with holes."""
        assert self.root
        pieces, content = self.noise()

        def read(offset: int, view: memoryview) -> None:
            view[:] = content[offset:offset + len(view)]

        self.base = bytes(content), b"b" * (self.size.volume // SECTOR)
        self.root.volume.import_base(read, pieces)
        self.root.model = Model(self.size.volume, self.root.model.max_request, self.base)

    def open(self) -> None:
        assert self.root
        self.root.volume = Volume(self.path, _tuning=self.size.tuning, _os=self.os if self.sim else None,
                                  _catalog=self.catalog)
        self.root.model.max_request = self.root.volume._core.max_request_bytes
        self.root.model.flushed = len(self.root.model.rows)
        self.root.model.zero_step = self.root.model.max_request if self.size.before else 0
        self.catch_up(self.root)        # what closing wrote back

    def catch_up(self, node: Node) -> None:
        """Records that a before-image volume makes by itself, while a restore is written back, change nothing that is
        to be seen."""
        if self.size.before and node is self.root and node.volume is not None:
            while self.size.tuning.threads and self.writes_back(node):     # its records come when they like
                time.sleep(0.002)
            rows = node.model.rows
            news = node.volume.records(since=len(rows)).tolist() if node.volume._core.position()[0] > len(rows) else []
            for r in news:
                assert r[2] in (WRITEBACK, RESTORED, FLUSH), f"record nobody asked for: {r}"
                node.model.add(r[2], r[4], r[5])

    def writes_back(self, node: Node) -> bool:
        with node.volume._lock:         # it is done before its last record is there
            return bool(node.volume._store.unwritten())

    def open_node(self, node: Node) -> Any:
        if node.volume is None:
            assert self.root
            parent = next(n for n in self.root.family() if node in n.images.values())
            node.volume = self.open_node(parent).open_image(node.path.rsplit("/", 1)[1])
            node.model.flushed = len(node.model.rows)
            node.model.max_request = node.volume._core.max_request_bytes
        return node.volume

    def close_node(self, node: Node) -> None:
        for image in node.images.values():
            self.close_node(image)
        for image, _ in node.held:
            image.close()
        node.held.clear()
        if node.volume is not None:
            volume, node.volume = node.volume, None
            volume.close()
            node.model.durable = len(node.model.rows)
            # else a call failed while it closed
            if self.size.before and node is self.root and not volume._store.unwritten():
                self.compare_disk()

    def compare_disk(self) -> None:
        """A clean close leaves a raw disk with the current content, for anybody to read."""
        assert self.root
        with self.os.open(f"{self.path}.img") as file:
            assert file.size() == self.size.volume
            assert file.pread(self.size.volume, 0) == bytes(self.root.model.now), (
                "the disk is not what the volume showed"
            )

    def close(self) -> None:
        if self.root:
            self.close_node(self.root)

    def forget(self) -> None:
        """The machine is gone: nothing is closed, nothing may leak."""
        for node in self.root.family() if self.root else []:
            node.volume = None
            node.held.clear()
        gc.collect()

    # --- power --------------------------------------------------------------------------------------------------------

    def crash(self, mode: str) -> None:
        """The power goes and comes back. Objects that nobody closed give everything back all the same."""
        assert self.sim
        if self.sim.powered:
            self.sim.cut_at(0)
        self.forget()
        assert (self.sim.open_handles, self.sim.open_maps, self.sim.misuse) == (0, 0, 0)
        self.sim.power_on(mode)

    def open_all(self) -> None:
        """Open the volume and all images that are there, in whatever state the machine left them."""
        self.open()
        assert self.root
        if self.base and self.root.volume.geometry().base == "file" and not self.root.model.rows:
            # the import was complete
            self.root.model = Model(self.size.volume, self.root.model.max_request, self.base)
        self.open_images(self.root)

    def open_images(self, node: Node) -> None:
        there = {info.name for info in node.volume.images()}
        if self.pending and self.pending[0] is node:
            name, image = self.pending[1:]
            node.images.pop(name, None)
            if name in there:
                node.images[name] = image
        assert there == set(node.images), f"{node.path}: images {sorted(there)}, acknowledged {sorted(node.images)}"
        for image in node.images.values():
            self.open_node(image)
            self.open_images(image)

    def recovered(self, rnd: random.Random) -> int:
        """After open_all(): everything is a prefix that has what was durable. Returns how many records were lost."""
        lost = 0
        assert self.root
        for node in self.root.family():
            self.catch_up(node)
            seq = node.volume._core.position()[0]
            rows, durable = len(node.model.rows), node.model.durable
            self.find_start(node)
            assert durable <= seq <= rows, f"{node.path}: #{seq} is there, of #{rows}, durable #{durable}"
            lost += rows - seq
            node.model.cut(seq)
            node.ts = {s: ts for s, ts in node.ts.items() if s <= seq}
            node.shown = {s: shown for s, shown in node.shown.items() if s <= seq}
            assert all(image.seq <= seq for image in node.images.values())
        self.pending = None
        for node in self.root.family():
            self.compare(node, rnd)
            self.compare_lists(node)
            self.learn(node)
            self.compare_time(node, rnd)
        return lost

    def find_start(self, node: Node) -> None:
        """After something went wrong while the oldest history was given up: it was, or it was not."""
        start = node.volume.window().oldest.seq
        assert node.start <= start <= max(node.start, node.asked), f"starts at #{start}, not at #{node.start}"
        node.start = node.asked = start

    # --- operations ---------------------------------------------------------------------------------------------------

    def program(self, n: int, weights: dict[str, int] = WEIGHTS) -> list[Op]:
        names = self.random.choices(list(weights), list(weights.values()), k=n)
        return [(name, self.random.getrandbits(48)) for name in names]

    def run(self, op: Op) -> None:
        rnd = random.Random(op[1])
        assert self.root
        node = self.root if rnd.random() < 0.7 else rnd.choice(self.root.family())
        self.pending = None
        durable = node.model.durable
        from_ns, rows = self.os.now_ns(), {id(n): len(n.model.rows) for n in self.root.family()}
        follows = {id(n): self.follows(n) for n in self.root.family()}
        try:
            getattr(self, f"op_{op[0]}")(node, rnd)
        except BaseException:
            node.model.durable = durable        # nothing was acknowledged
            raise
        self.catch_up(self.root)
        self.done[op[0]] = self.done.get(op[0], 0) + 1
        to_ns = self.os.now_ns()
        for n in self.root.family() if self.sim and op[0] != "clock" else []:
            for seq in range(rows.get(id(n), 0) + 1, len(n.model.rows) + 1):
                n.shown[seq] = from_ns, to_ns, follows.get(id(n), False)

    def follows(self, node: Node) -> bool:
        return node.volume is not None and node.volume.geometry().format >= 3

    def range(self, rnd: random.Random, most: int) -> tuple[int, int]:
        size = self.size.volume
        offset = rnd.choice((rnd.randrange(size), rnd.randrange(size // SECTOR) * SECTOR,
                             rnd.randrange(size // 4096) * 4096, size - rnd.randrange(1, 2048), 0))
        most = min(most, size - offset)
        n = rnd.choice((rnd.randint(1, most), min(most, rnd.choice((1, 511, 512, 513, 4096, 8192, 12288, 20 * KIB))),
                        most))
        return offset, n

    def op_write(self, node: Node, rnd: random.Random) -> None:
        volume = self.open_node(node)
        offset, n = self.range(rnd, self.most(node))
        data, fua = rnd.randbytes(n), rnd.random() < 0.1
        node.model.write(offset, data, fua)
        volume.pwrite(data, offset, fua)

    def most(self, node: Node) -> int:
        return self.size.most * node.model.max_request - (SECTOR if self.size.most == 1 else 0)

    def op_clock(self, node: Node, rnd: random.Random) -> None:
        """The clock is set: by mistake, or to put it right; or it is slewed. As a rule the volume's threads see that
        before the next record comes."""
        assert self.sim
        change_ns = clock_model.change(rnd) if rnd.random() < 0.8 else 0
        self.sim.set_clock(max(1, self.sim.now_ns() + change_ns), rnd.choice((1, 900, 1000, 1000, 1100, 50_000)))
        if rnd.random() < 0.7:
            node.volume = self.open_node(node)
            node.volume._store.clock.look()

    def op_small(self, node: Node, rnd: random.Random) -> None:
        volume = self.open_node(node)
        offset = rnd.randrange(self.size.volume)
        data = rnd.randbytes(min(rnd.randint(1, 3000), self.size.volume - offset))
        node.model.write(offset, data)
        volume.pwrite(data, offset)

    def op_zero(self, node: Node, rnd: random.Random) -> None:
        volume = self.open_node(node)
        offset, n = self.range(rnd, self.most(node) if node.model.zero_step else self.size.volume)
        hole, fua = rnd.random() < 0.6, rnd.random() < 0.1
        node.model.zero(offset, n, hole, fua)
        (volume.trim if hole else volume.zero)(n, offset, fua)

    def op_flush(self, node: Node, rnd: random.Random) -> None:
        volume = self.open_node(node)
        node.model.flush()
        volume.flush()

    def op_bookmark(self, node: Node, rnd: random.Random) -> None:
        volume, name = self.open_node(node), f"b{rnd.randrange(12)}"
        taken = node.bookmarks()
        seq = len(node.model.rows) if rnd.random() < 0.5 else self.some_seq(node, rnd)
        if name in taken:
            refused(InvalidRequest, lambda: volume.bookmark(name, at=seq))
            return
        node.model.add(BOOKMARK, note=(name, seq))
        node.model.flush()
        volume.bookmark(name, at=seq)

    def op_unbookmark(self, node: Node, rnd: random.Random) -> None:
        volume = self.open_node(node)
        names = sorted(node.bookmarks())
        if not names:
            refused(NotFound, lambda: volume.delete_bookmark("b1"))
            return
        name = rnd.choice(names)
        node.model.add(UNBOOKMARK, note=name)
        node.model.flush()
        volume.delete_bookmark(name)

    def op_restore(self, node: Node, rnd: random.Random) -> None:
        self.restore(node, rnd, False)

    def op_destroy(self, node: Node, rnd: random.Random) -> None:
        self.restore(node, rnd, True)

    def restore(self, node: Node, rnd: random.Random, destructive: bool) -> None:
        volume = self.open_node(node)
        offset, n = 0, self.size.volume
        if rnd.random() < 0.5:
            unit = rnd.choice((SECTOR, 16 * KIB, 16 * KIB, 16 * KIB))
            a, b = sorted((rnd.randrange(n // unit + 1), rnd.randrange(n // unit + 1)))
            offset, n = a * unit, (b - a) * unit
        if n == 0:
            refused(InvalidRequest, lambda: volume.restore(0, offset=offset, length=0))
            return
        target = self.some_seq(node, rnd)
        if self.still_writing_back(node, destructive):
            refused(Busy, lambda: volume.restore(target, offset=offset, length=n, destructive=destructive))
            return
        if destructive:
            # or all of the history would soon be gone
            target = max(target, len(node.model.rows) - rnd.randrange(60))
            target = target if node.openable(target) else len(node.model.rows)
            for image, seq in node.held:
                if seq > target and rnd.random() < 0.5:
                    image.close()
            node.held = [h for h in node.held if not h[0].closed]
            needed = [i.seq for i in node.images.values()] + [b[0] for b in node.bookmarks().values()]
            if self.size.before and node is self.root and any(
                    r.seq <= target < r.done_seq for r in volume._store.lineage_records()):
                refused(RefusedPoint, lambda: volume.restore(target, offset=offset, length=n, destructive=True))
                return
            if any(seq > target for seq in needed):
                refused(RefusedPoint, lambda: volume.restore(target, offset=offset, length=n, destructive=True))
                return
            if any(seq > target for _, seq in node.held):
                refused(Busy, lambda: volume.restore(target, offset=offset, length=n, destructive=True))
                return
            self.learn(node, max(node.ts, default=0))
        node.model.restore(target, offset, n, (target, destructive, None))
        node.model.flush()
        volume.restore(target, offset=offset, length=n, destructive=destructive)

    def still_writing_back(self, node: Node, destructive: bool) -> bool:
        """Before-images: a destructive restore goes alone."""
        store = node.volume._store
        return bool(store.unwritten()) and (destructive or store.restores[-1].destructive)

    def op_undo(self, node: Node, rnd: random.Random) -> None:
        volume = self.open_node(node)
        last = next((r for r in reversed(node.restores()) if r[6]), None)
        if last is None:
            refused(RefusedPoint, volume.undo)
            return
        if self.still_writing_back(node, False):
            refused(Busy, volume.undo)
            return
        node.model.restore(last[0] - 1, last[2], last[3], (last[0] - 1, False, last[0]))
        node.model.flush()
        volume.undo()

    def op_image(self, node: Node, rnd: random.Random) -> None:
        volume, name = self.open_node(node), f"i{rnd.randrange(3)}"
        seq = self.some_seq(node, rnd)
        if name in node.images:
            refused(InvalidRequest, lambda: volume.create_image(name, at=seq))
            return
        if node.path.count("/images/") >= 2:
            return
        image = Node(f"{node.path}/images/{name}",
                     Model(self.size.volume, node.model.max_request, self.base_of(node, seq)), seq)
        self.pending = node, name, image
        node.model.flush()
        volume.create_image(name, at=seq)
        node.images[name] = image
        self.pending = None

    def base_of(self, node: Node, seq: int) -> tuple[bytes, bytes]:
        content, letters = node.model.at(seq)
        return content, b"b" * len(letters) if self.size.before and node is self.root else letters

    def op_unimage(self, node: Node, rnd: random.Random) -> None:
        if not node.images:
            refused(NotFound, lambda: self.open_node(node).delete_image("i0"))
            return
        name = rnd.choice(sorted(node.images))
        image = node.images[name]
        volume = self.open_node(node)
        if image.volume is not None:
            refused(Busy, lambda: volume.delete_image(name))
            return
        if image.images:
            refused(RefusedPoint, lambda: volume.delete_image(name))
            return
        self.pending = node, name, node.images.pop(name)
        volume.delete_image(name)
        self.pending = None

    def op_shut(self, node: Node, rnd: random.Random) -> None:
        """Close an image and what is open below it."""
        if node is self.root or node.volume is None:
            return
        self.close_node(node)

    def op_hold(self, node: Node, rnd: random.Random) -> None:
        """Keep a time image open while the volume goes on."""
        volume = self.open_node(node)
        seq = self.some_seq(node, rnd)
        if len(node.held) >= 3:
            self.same(node.held[0][0], node, node.held[0][1])
            node.held.pop(0)[0].close()
        node.held.append((volume.at(seq), seq))

    def op_free(self, node: Node, rnd: random.Random) -> None:
        """Give up the oldest history, as much as may be, or let go on what was given up."""
        if node is not self.root:
            refused(InvalidRequest, lambda: self.open_node(node).free_before(1))
            return
        volume = self.open_node(node)
        if rnd.random() < 0.5:
            self.learn(node)        # what is gone cannot be learned
            newest = len(node.model.rows)
            seq, undo = rnd.choice((newest, newest, rnd.randint(0, newest))), rnd.random() < 0.5
            node.asked = seq
            ends = [row.last_seq for row in volume._store.timeline.rows()[:-1]]
            freed = volume.free_before(seq, undo=undo)
            may = [end for end in ends if end <= seq and self.may_start(node, end, undo)]
            assert freed.start.seq == max([node.start, *may]), f"#{freed.start.seq} of {ends}: {freed.holds}"
            node.start = node.asked = freed.start.seq
        for _ in range(rnd.choice((0, 1, 3))):
            volume._retention.step()
        self.compare(node, rnd)

    def finish_freeing(self) -> None:
        """Everything that was given up is freed: the files are those that the catalog names, and what is not sealed."""
        assert self.root
        volume = self.open_node(self.root)
        for _ in range(1000):
            if volume._retention.step() is None:
                break
        store, rows = volume._store, volume._store.timeline.rows()
        assert volume.freeing() is None and (not rows or rows[0].last_seq > self.root.start)
        sealed = {f"{row.number:010d}.log" for row in store.catalog.rows(Segment)}
        there = set(store.os.list_dir(store.files.log))
        assert there >= sealed and not [name for name in there if name < min(sealed, default="")]
        runs = {f"{run.id:010d}.run" for run in store.maintainer.runs}
        assert set(store.os.list_dir(store.files.runs)) == runs

    def every_moment(self) -> None:
        node = self.root
        assert node
        for seq in range(node.start, len(node.model.rows) + 1):
            if node.openable(seq):
                with self.open_node(node).at(seq) as image:
                    self.same(image, node, seq)

    def may_start(self, node: Node, start: int, undo: bool) -> bool:
        """Whether everything that must stay at and after that moment can be made of what comes after it."""
        volume = node.volume
        done = {r.seq: r.done_seq or len(node.model.rows) + 1 for r in volume._store.lineage_records()}
        waiting = {r.seq for r in volume._store.restores if r.destructive and not r.reclaimed}
        last = next((r for r in reversed(node.restores()) if r[6]), None)
        return (all(seq >= start for _, seq in node.held) and all(i.seq >= start for i in node.images.values())
                and not any(target < start and (start < done.get(seq, seq) or seq in waiting)
                            for seq, target, *_ in node.restores())
                and not (undo and last is not None and last[0] - 1 < start))

    def op_look(self, node: Node, rnd: random.Random) -> None:
        self.compare(node, rnd)
        assert {b.name: (b.at.seq, b.made.seq) for b in node.volume.bookmarks()} == node.bookmarks()

    def op_history(self, node: Node, rnd: random.Random) -> None:
        self.learn(node, rnd.choice((0, max(node.ts, default=0), max(node.ts, default=0))))
        self.compare_lists(node)
        for _ in range(3):
            self.compare_time(node, rnd)

    def op_reopen(self, node: Node, rnd: random.Random) -> None:
        self.close()
        if self.sim:
            gc.collect()
            assert self.sim.open_handles == 0 and self.sim.open_maps == 0
        self.open()

    # --- comparing ----------------------------------------------------------------------------------------------------

    def some_seq(self, node: Node, rnd: random.Random) -> int:
        """A seq that can be opened."""
        newest = len(node.model.rows)
        seq = rnd.choice((rnd.randint(node.start, newest), max(node.start, newest - rnd.randrange(40))))
        return seq if node.openable(seq) else newest

    def same(self, what: Any, node: Node, seq: int) -> None:
        """`what`, a volume or time image, has the model's content and extents at seq."""
        # what is zero, and what a hole, only the disk's file system knows
        content, letters = self.base_of(node, seq)
        if self.root and self.root.start:   # what was folded is data or holes
            letters = b"b" * len(letters)
        got = what.pread(self.size.volume, 0)
        if got != content:
            at = next(i for i in range(len(content)) if got[i] != content[i])
            wrong = [i for i in range(len(letters))
                     if got[i * SECTOR:(i + 1) * SECTOR] != content[i * SECTOR:(i + 1) * SECTOR]]
            raise AssertionError(
                f"{what!r} at #{seq}: byte {at} differs; wrong sectors {wrong[:8]}..{wrong[-1]} ({len(wrong)})"
            )
        found = bytearray()
        for extent in what.extents():
            assert extent.offset == len(found) * SECTOR and extent.length % SECTOR == 0 and extent.length > 0
            found += LETTER[extent.kind] * (extent.length // SECTOR)
        assert len(found) == len(letters)
        for i, (mine, model) in enumerate(zip(found, letters, strict=True)):
            if model == ord("b"):
                assert mine == ord("d") or not any(content[i * SECTOR : (i + 1) * SECTOR]), (
                    f"sector {i}: data called a hole"
                )
            else:
                assert mine == model, f"{what!r} at #{seq}: sector {i} is {chr(mine)}, should be {chr(model)}"

    def compare(self, node: Node, rnd: random.Random) -> None:
        volume = self.open_node(node)
        self.same(volume, node, len(node.model.rows))
        seq = self.some_seq(node, rnd)
        with volume.at(rnd.choice((seq, f"#{seq}"))) as image:
            assert image.moment.seq == seq
            self.same(image, node, seq)
        for image, held in node.held:
            self.same(image, node, held)
        offset, n = self.range(rnd, self.size.volume)
        assert volume.pread(n, offset) == bytes(node.model.now[offset:offset + n])
        found = node.bookmarks()
        if found:
            name = rnd.choice(sorted(found))
            with volume.at(rnd.choice((name, "@" + name))) as image:
                self.same(image, node, found[name][0])
        gaps = node.gaps()
        if gaps:
            lo, hi = rnd.choice(gaps)
            if hi - lo > 1:
                refused(RefusedPoint, lambda: volume.at(rnd.randrange(lo + 1, hi)))
        refused(RefusedPoint, lambda: volume.at(len(node.model.rows) + 1))
        if node.start:
            refused(RefusedPoint, lambda: volume.at(rnd.randrange(node.start)))

    def learn(self, node: Node, after: int = 0) -> None:
        """records() is the model's history. Its times are what the clock showed, and do not change."""
        volume = self.open_node(node)
        after = after if node.openable(after) and after in node.ts else node.start
        got, rows, last = volume.records(since=after), node.model.rows, (after, node.ts.get(after, volume.created_ns))
        there = set(map(int, got["seq"]))
        missing = [seq for seq in range(after + 1, len(rows) + 1) if seq not in there]
        assert all(not node.openable(seq) for seq in missing), f"records {missing[:5]} are not in the history"
        for r in got.tolist():
            seq, ts, kind, flags, offset, length = r
            row = rows[seq - 1]
            assert seq > last[0]
            if seq == last[0] + 1:
                self.check_time(node, seq, ts, last[1])
            assert (kind, bool(flags & 2)) == (row.kind, row.fua), f"record #{seq}: {r}, should be {row}"
            if kind not in (FLUSH, BOOKMARK, UNBOOKMARK, RESTORED):
                assert (offset, length) == (row.offset, row.length), f"record #{seq}: {r}, should be {row}"
            assert node.ts.setdefault(seq, ts) == ts, f"record #{seq} changed its time"
            last = seq, ts
        assert volume._core.position() == (len(rows), node.ts[len(rows)] if rows else volume.created_ns)
        times = self.times(node)
        want = [(seq, times[seq - 1], times[seq]) for seq in clock_model.steps(times) if seq > node.start]
        assert [(s.seq, s.before_ns, s.after_ns) for s in volume.window().clock_steps] == want
        assert not want or self.follows(node), "times go back in a volume whose format says that they do not"

    def check_time(self, node: Node, seq: int, ts: int, before: int) -> None:
        what = f"record #{seq} at {ts} after {before}"
        if seq not in node.shown:       # an operation that failed
            return
        from_ns, to_ns, follows = node.shown[seq]
        if not from_ns <= ts <= to_ns:
            assert ts == before + 1 and before >= from_ns, f"{what}, the clock showed {from_ns} to {to_ns}"
            assert not follows or before < to_ns + CLOCK_STEP_NS, f"{what}: did not follow the clock to {to_ns}"

    def times(self, node: Node) -> list[int]:
        return [node.volume.created_ns, *(node.ts[s] for s in range(1, len(node.model.rows) + 1))]

    def compare_lists(self, node: Node) -> None:
        volume = self.open_node(node)
        assert {b.name: (b.at.seq, b.made.seq) for b in volume.bookmarks()} == node.bookmarks()
        assert [(r.seq, r.target.seq, r.offset, r.length, r.destructive, r.undo_of, r.undoable)
                for r in volume.restores()] \
            == node.restores()
        assert {i.name: i.at.seq for i in volume.images()} == {name: n.seq for name, n in node.images.items()}
        window = volume.window()
        assert (window.oldest.seq, window.newest.seq) == (node.start, len(node.model.rows))

    def compare_time(self, node: Node, rnd: random.Random) -> None:
        """The last record at or before a time; refused where that is not known any more."""
        volume = self.open_node(node)
        times = self.times(node)
        seq = rnd.randrange(max(0, node.start - 5), len(times))
        top = times[seq + 1] if seq + 1 < len(times) else times[seq]
        ts = rnd.choice((times[seq], rnd.randint(times[seq], max(times[seq], top - 1))))
        point = Point(f"time {ts}", "time", ts_ns=ts)
        start = node.start
        meant = clock_model.meant(times[start:], [(lo - start, hi - start) for lo, hi in node.gaps()], ts,
                                  self.os.now_ns())
        if meant is None:
            refused(RefusedPoint, lambda: volume.resolve(point))
            return
        if len(meant[0]) > 1:
            refused(InvalidRequest, lambda: volume.resolve(point))
            return
        seq, others = start + meant[0][0], {start + other for other in meant[1]}
        found = volume.resolve(point)
        assert (found.seq, found.ts_ns) == (seq, times[seq]), f"{ts} is #{found.seq}, should be #{seq}"
        flush = [s for s in range(1, seq + 1) if node.model.rows[s - 1].kind == FLUSH or node.model.rows[s - 1].fua]
        explained = volume.explain(point)
        assert explained.resolved == found
        assert sorted(m.seq for m in explained.other_readings) == sorted(others - {seq})
        expected = flush[-1] if flush and node.openable(flush[-1]) else None
        got = explained.last_flush.seq if explained.last_flush else None
        assert got == expected or not node.openable(seq - 1) or expected == node.start, (
            f"last flush at or before #{seq} is #{expected}, told #{got}"
        )


def refused(kind: type[CdpError], call: Callable[[], Any]) -> None:
    try:
        call()
    except kind as e:
        assert str(e)
        return
    raise AssertionError(f"not refused as {kind.__name__}")


def shrink(program: Sequence[Op], fails: Callable[[list[Op]], bool], tries: int = 400) -> list[Op]:
    """The smallest sub-list found that still fails: chunks are left out, smaller and smaller ones (ddmin)."""
    now, chunk = list(program), max(1, len(program) // 2)
    while tries > 0:
        at, smaller = 0, False
        while at < len(now) and tries > 0:
            trial = now[:at] + now[at + chunk:]
            tries -= 1
            if trial and fails(trial):
                now, smaller = trial, True
            else:
                at += chunk
        if chunk == 1 and not smaller:
            break
        chunk = max(1, chunk // 2)
    return now
