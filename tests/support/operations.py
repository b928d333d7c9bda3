"""What a world does to its volume and images: an operation a function, by its name in support.sizes.WEIGHTS.

Each draws its parameters from `rnd`, and takes them modulo what there is. It tells the model first, so that a call that
fails half way is one that may have happened.
"""
from __future__ import annotations

import gc
import random
from typing import TYPE_CHECKING

from support import clock_model, comparing
from support.model import BOOKMARK, SECTOR, UNBOOKMARK, Model
from support.node import Node, refused
from support.sizes import KIB

from cdp.moments.retention import Kept, Plan
from cdpcore.base.errors import Busy, InvalidRequest, NotFound, RefusedPoint

if TYPE_CHECKING:
    from support.world import World


def write(world: World, node: Node, rnd: random.Random) -> None:
    volume = world.open_node(node)
    ranges = [world.extent(rnd, most(world, node))]
    if world.size.before and node is world.root and rnd.random() < 0.3:
        ranges = announced(world, node, rnd, *ranges[0])
    for offset, n in ranges:
        data, fua = rnd.randbytes(n), rnd.random() < 0.1
        node.model.write(offset, data, fua)
        volume.pwrite(data, offset, fua)
        world.catch_up(node)


def announced(world: World, node: Node, rnd: random.Random, offset: int, n: int) -> list[tuple[int, int]]:
    """Before-images: changes that came together are announced, and their old content is read when the first of them
    is carried out. Some follow each other on the disk, some are of one place."""
    size = world.size.volume
    ranges = [(offset // SECTOR * SECTOR, max(min(n, 16 * KIB) // SECTOR * SECTOR, SECTOR))]
    for _ in range(rnd.randrange(1, 6)):
        at, long = rnd.choice((rnd.choice(ranges), (sum(ranges[-1]) % size, rnd.choice((SECTOR, 4096))),
                               (rnd.randrange(size // SECTOR) * SECTOR, 4096)))
        ranges.append((at, min(long, size - at)))
    node.volume._store.kind.opened_content.expect_changes(ranges)
    return ranges


def most(world: World, node: Node) -> int:
    return world.size.most * node.model.max_request - (SECTOR if world.size.most == 1 else 0)


def clock(world: World, node: Node, rnd: random.Random) -> None:
    """The clock is set: by mistake, or to put it right; or it is slewed. As a rule the volume's threads see that
    before the next record comes."""
    assert world.sim
    change_ns = clock_model.change(rnd) if rnd.random() < 0.8 else 0
    world.sim.set_clock(max(1, world.sim.now_ns() + change_ns), rnd.choice((1, 900, 1000, 1000, 1100, 50_000)))
    if rnd.random() < 0.7:
        node.volume = world.open_node(node)
        node.volume._store.clock.look()


def small(world: World, node: Node, rnd: random.Random) -> None:
    volume = world.open_node(node)
    offset = rnd.randrange(world.size.volume)
    data = rnd.randbytes(min(rnd.randint(1, 3000), world.size.volume - offset))
    node.model.write(offset, data)
    volume.pwrite(data, offset)


def zero(world: World, node: Node, rnd: random.Random) -> None:
    volume = world.open_node(node)
    offset, n = world.extent(rnd, most(world, node) if node.model.zero_step else world.size.volume)
    hole, fua = rnd.random() < 0.6, rnd.random() < 0.1
    node.model.zero(offset, n, hole, fua)
    (volume.trim if hole else volume.zero)(n, offset, fua)


def flush(world: World, node: Node, rnd: random.Random) -> None:
    volume = world.open_node(node)
    node.model.flush()
    volume.flush()


def bookmark(world: World, node: Node, rnd: random.Random) -> None:
    volume, name = world.open_node(node), f"b{rnd.randrange(12)}"
    taken = node.bookmarks()
    seq = len(node.model.rows) if rnd.random() < 0.5 else world.some_seq(node, rnd)
    if name in taken:
        refused(InvalidRequest, lambda: volume.bookmark(name, at=seq))
        return
    node.model.add(BOOKMARK, note=(name, seq))
    node.model.flush()
    volume.bookmark(name, at=seq)


def unbookmark(world: World, node: Node, rnd: random.Random) -> None:
    volume = world.open_node(node)
    names = sorted(node.bookmarks())
    if not names:
        refused(NotFound, lambda: volume.delete_bookmark("b1"))
        return
    name = rnd.choice(names)
    node.model.add(UNBOOKMARK, note=name)
    node.model.flush()
    volume.delete_bookmark(name)


def restore(world: World, node: Node, rnd: random.Random) -> None:
    put_back(world, node, rnd, False)


def destroy(world: World, node: Node, rnd: random.Random) -> None:
    put_back(world, node, rnd, True)


def put_back(world: World, node: Node, rnd: random.Random, destructive: bool) -> None:
    volume = world.open_node(node)
    offset, n = 0, world.size.volume
    if rnd.random() < 0.5:
        unit = rnd.choice((SECTOR, 16 * KIB, 16 * KIB, 16 * KIB))
        a, b = sorted((rnd.randrange(n // unit + 1), rnd.randrange(n // unit + 1)))
        offset, n = a * unit, (b - a) * unit
    if n == 0:
        refused(InvalidRequest, lambda: volume.restore(0, offset=offset, length=0))
        return
    target = world.some_seq(node, rnd)
    if still_writing_back(world, node, destructive):
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
        if world.size.before and node is world.root and any(
                r.seq <= target < r.done_seq for r in volume._store.lineage_records()):
            refused(RefusedPoint, lambda: volume.restore(target, offset=offset, length=n, destructive=True))
            return
        if any(seq > target for seq in needed):
            refused(RefusedPoint, lambda: volume.restore(target, offset=offset, length=n, destructive=True))
            return
        if any(seq > target for _, seq in node.held):
            refused(Busy, lambda: volume.restore(target, offset=offset, length=n, destructive=True))
            return
        comparing.learn(world, node, max(node.ts, default=0))
    node.model.restore(target, offset, n, (target, destructive, None))
    node.model.flush()
    volume.restore(target, offset=offset, length=n, destructive=destructive)


def still_writing_back(world: World, node: Node, destructive: bool) -> bool:
    """Before-images: a destructive restore goes alone."""
    store = node.volume._store
    return bool(store.unwritten()) and (destructive or store.restores[-1].destructive)


def undo(world: World, node: Node, rnd: random.Random) -> None:
    volume = world.open_node(node)
    last = next((r for r in reversed(node.restores()) if r[6]), None)
    if last is None:
        refused(RefusedPoint, volume.undo)
        return
    if still_writing_back(world, node, False):
        refused(Busy, volume.undo)
        return
    node.model.restore(last[0] - 1, last[2], last[3], (last[0] - 1, False, last[0]))
    node.model.flush()
    volume.undo()


def image(world: World, node: Node, rnd: random.Random) -> None:
    volume, name = world.open_node(node), f"i{rnd.randrange(3)}"
    seq = world.some_seq(node, rnd)
    if name in node.images:
        refused(InvalidRequest, lambda: volume.create_image(name, at=seq))
        return
    if node.path.count("/images/") >= 2:
        return
    image = Node(f"{node.path}/images/{name}",
                 Model(world.size.volume, node.model.max_request, world.base_of(node, seq)), seq)
    world.pending = node, name, image
    node.model.flush()
    volume.create_image(name, at=seq)
    node.images[name] = image
    world.pending = None


def unimage(world: World, node: Node, rnd: random.Random) -> None:
    if not node.images:
        refused(NotFound, lambda: world.open_node(node).delete_image("i0"))
        return
    name = rnd.choice(sorted(node.images))
    image = node.images[name]
    volume = world.open_node(node)
    if image.volume is not None:
        refused(Busy, lambda: volume.delete_image(name))
        return
    if image.images:
        refused(RefusedPoint, lambda: volume.delete_image(name))
        return
    world.pending = node, name, node.images.pop(name)
    volume.delete_image(name)
    world.pending = None


def shut(world: World, node: Node, rnd: random.Random) -> None:
    """Close an image and what is open below it."""
    if node is world.root or node.volume is None:
        return
    world.close_node(node)


def hold(world: World, node: Node, rnd: random.Random) -> None:
    """Keep a time image open while the volume goes on."""
    volume = world.open_node(node)
    seq = world.some_seq(node, rnd)
    if len(node.held) >= 3:
        comparing.same(world, node.held[0][0], node, node.held[0][1])
        node.held.pop(0)[0].close()
    node.held.append((volume.at(seq), seq))


def free(world: World, node: Node, rnd: random.Random) -> None:
    """Give up the oldest history, as much as may be, or let go on what was given up."""
    if node is not world.root:
        refused(InvalidRequest, lambda: world.open_node(node).free_before(1))
        return
    volume = world.open_node(node)
    if rnd.random() < 0.5:
        comparing.learn(world, node)        # what is gone cannot be learned
        newest = len(node.model.rows)
        seq, undo = rnd.choice((newest, newest, rnd.randint(0, newest))), rnd.random() < 0.5
        node.asked = seq
        ends = [row.last_seq for row in volume._store.timeline.rows()[:-1]]
        freed = volume.free_before(seq, undo=undo)
        last = volume._store.timeline.rows()[-1].last_seq if ends else 0
        starts = [at for at in map(node.thinned.following, ends) if at < last]
        may = [at for at in starts if at <= seq and may_start(world, node, at, undo)]
        assert freed.start.seq == max([node.start, *may]), f"#{freed.start.seq} of {ends}: {freed.holds}"
        node.start = node.asked = freed.start.seq
    for _ in range(rnd.choice((0, 1, 3))):
        volume._retention.step()
    comparing.compare(world, node, rnd)


def thin(world: World, node: Node, rnd: random.Random) -> None:
    """Give up moments of the middle, as a policy with tiers does, or let go on what was given up."""
    if node is not world.root:
        return
    volume = world.open_node(node)
    keeper, rows = volume.policy_keeper, volume._store.timeline.rows()
    if rows and rnd.random() < 0.6:
        comparing.learn(world, node)
        some = [seq for seq in range(node.start, len(node.model.rows) + 1) if node.openable(seq)]
        chosen = rnd.sample(some, min(len(some), rnd.choice((0, 1, 3, len(some) // 4))))
        newest, first = volume.window().newest, volume.window().oldest
        plan = Plan(node.start, node.start, rnd.choice((newest.seq, rnd.choice(some))), node.start,
                    [Kept("some", len(chosen), first, newest, tuple(sorted(chosen)))], keeper.pins())
        with volume._lock:
            moments = keeper._moments(plan, node.start)
            planned = volume._thinner.plan(moments)
            if planned is not None:
                node.thinned_to = planned[0]
                if volume._thinner.begin(planned[0]):
                    check_kept(node, chosen)
                    node.thinned = planned[0]
                node.thinned_to = None
    for _ in range(rnd.choice((0, 1, 3))):
        volume._thinner.step()
    comparing.compare(world, node, rnd)


def check_kept(node: Node, chosen: list[int]) -> None:
    """The list has what must stay."""
    thinned = node.thinned_to
    assert thinned is not None
    needed = {*chosen, node.start, *(seq for _, seq in node.held), *(i.seq for i in node.images.values()),
              *(at for at, _ in node.bookmarks().values())}
    for seq, target, *_ in node.restores():
        needed |= {target, seq - 1, seq}
    lost = [seq for seq in sorted(needed) if node.openable(seq) and thinned.at(seq) != seq]
    assert not lost, f"{lost[:4]} are needed, and {thinned} lacks them"


def may_start(world: World, node: Node, start: int, undo: bool) -> bool:
    """Whether everything that must stay at and after that moment can be made of what comes after it."""
    volume = node.volume
    done = {r.seq: r.done_seq or len(node.model.rows) + 1 for r in volume._store.lineage_records()}
    waiting = {r.seq for r in volume._store.restores if r.destructive and not r.reclaimed}
    last = next((r for r in reversed(node.restores()) if r[6]), None)
    return (all(seq >= start for _, seq in node.held) and all(i.seq >= start for i in node.images.values())
            and not any(target < start and (start < done.get(seq, seq) or seq in waiting)
                        for seq, target, *_ in node.restores())
            and not (undo and last is not None and last[0] - 1 < start))


def look(world: World, node: Node, rnd: random.Random) -> None:
    comparing.compare(world, node, rnd)
    assert {b.name: (b.at.seq, b.made.seq) for b in node.volume.bookmarks()} == node.bookmarks()


def history(world: World, node: Node, rnd: random.Random) -> None:
    comparing.learn(world, node, rnd.choice((0, max(node.ts, default=0), max(node.ts, default=0))))
    comparing.compare_lists(world, node)
    for _ in range(3):
        comparing.compare_time(world, node, rnd)


def reopen(world: World, node: Node, rnd: random.Random) -> None:
    world.close()
    if world.sim:
        gc.collect()
        assert world.sim.open_handles == 0 and world.sim.open_maps == 0
    world.open()
