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
from typing import Any

from support import comparing, operations
from support.garbage import set_apart
from support.model import FLUSH, RESTORED, SECTOR, WRITEBACK, Model
from support.node import Node
from support.simcatalog import on
from support.sizes import KIB, WEIGHTS, Size

from cdp.store import creation
from cdp.volume.volume import Volume
from cdpcore.system.os import Os, SimOs

Op = tuple[str, int]


class World:
    """`os`: where it runs; `sim` is the same where it is simulated. Everything is drawn from `seed` and the
    operations."""

    def __init__(self, seed: int, os: Os, path: str, size: Size, catalog: Callable[..., Any] | None = None):
        set_apart()     # each crash() collects
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
        comparing.compare_sums(self)
        for node in self.root.family():
            comparing.compare(self, node, rnd)
            comparing.compare_lists(self, node)
            comparing.learn(self, node)
            comparing.compare_time(self, node, rnd)
        return lost

    def find_start(self, node: Node) -> None:
        """After something went wrong while the oldest history was given up: it was, or it was not."""
        start = node.volume.window().oldest.seq
        assert node.start <= start <= max(node.start, node.asked), f"starts at #{start}, not at #{node.start}"
        node.start = node.asked = start
        thinned = node.volume._store.thinned
        assert thinned.kept in [one.kept for one in (node.thinned, node.thinned_to) if one is not None]
        node.thinned, node.thinned_to = thinned, None

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
            getattr(operations, op[0])(self, node, rnd)
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

    def extent(self, rnd: random.Random, most: int) -> tuple[int, int]:
        size = self.size.volume
        offset = rnd.choice((rnd.randrange(size), rnd.randrange(size // SECTOR) * SECTOR,
                             rnd.randrange(size // 4096) * 4096, size - rnd.randrange(1, 2048), 0))
        most = min(most, size - offset)
        n = rnd.choice((rnd.randint(1, most), min(most, rnd.choice((1, 511, 512, 513, 4096, 8192, 12288, 20 * KIB))),
                        most))
        return offset, n

    def some_seq(self, node: Node, rnd: random.Random) -> int:
        """A seq that can be opened."""
        newest = len(node.model.rows)
        seq = rnd.choice((rnd.randint(node.start, newest), max(node.start, newest - rnd.randrange(40))))
        return seq if node.openable(seq) else newest

    def times(self, node: Node) -> list[int]:
        return [node.volume.created_ns, *(node.ts[s] for s in range(1, len(node.model.rows) + 1))]

    def base_of(self, node: Node, seq: int) -> tuple[bytes, bytes]:
        content, letters = node.model.at(seq)
        return content, b"b" * len(letters) if self.size.before and node is self.root else letters


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
