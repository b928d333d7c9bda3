"""A world's volume and images against their models: content, extents, records, times, lists, files."""
from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from support import clock_model
from support.model import BOOKMARK, FLUSH, RESTORED, SECTOR, UNBOOKMARK
from support.node import Node, refused

from cdp.moments.points import Point
from cdp.store.catalog import Segment
from cdpcore.base.errors import InvalidRequest, RefusedPoint
from cdpcore.log.clock_steps import CLOCK_STEP_NS

if TYPE_CHECKING:
    from support.world import World

LETTER = {"data": b"d", "zero": b"z", "hole": b"h"}


def same(world: World, what: Any, node: Node, seq: int) -> None:
    """`what`, a volume or time image, has the model's content and extents at seq."""
    # what is zero, and what a hole, only the disk's file system knows
    content, letters = world.base_of(node, seq)
    if world.root and world.root.start:   # what was folded is data or holes
        letters = b"b" * len(letters)
    got = what.pread(world.size.volume, 0)
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


def compare(world: World, node: Node, rnd: random.Random) -> None:
    volume = world.open_node(node)
    same(world, volume, node, len(node.model.rows))
    seq = world.some_seq(node, rnd)
    with volume.at(rnd.choice((seq, f"#{seq}"))) as image:
        assert image.moment.seq == seq
        same(world, image, node, seq)
    for image, held in node.held:
        same(world, image, node, held)
    offset, n = world.extent(rnd, world.size.volume)
    assert volume.pread(n, offset) == bytes(node.model.now[offset:offset + n])
    thinned = [seq for seq in range(node.start, len(node.model.rows)) if node.is_there(seq) and not node.openable(seq)]
    if thinned:
        seq = rnd.choice(thinned)
        with volume.at(seq) as image:
            assert image.moment.seq == node.thinned.at(seq) and node.openable(image.moment.seq)
            same(world, image, node, image.moment.seq)
        refused(RefusedPoint, lambda: volume.at(f"#{seq}!"))
    found = node.bookmarks()
    if found:
        name = rnd.choice(sorted(found))
        with volume.at(rnd.choice((name, "@" + name))) as image:
            same(world, image, node, found[name][0])
    gaps = node.gaps()
    if gaps:
        lo, hi = rnd.choice(gaps)
        if hi - lo > 1:
            refused(RefusedPoint, lambda: volume.at(rnd.randrange(lo + 1, hi)))
    refused(RefusedPoint, lambda: volume.at(len(node.model.rows) + 1))
    if node.start:
        refused(RefusedPoint, lambda: volume.at(rnd.randrange(node.start)))


def learn(world: World, node: Node, after: int = 0) -> None:
    """records() is the model's history. Its times are what the clock showed, and do not change."""
    volume = world.open_node(node)
    after = after if node.is_there(after) and after in node.ts else node.start
    got, rows, last = volume.records(since=after), node.model.rows, (after, node.ts.get(after, volume.created_ns))
    there = set(map(int, got["seq"]))
    missing = [seq for seq in range(after + 1, len(rows) + 1) if seq not in there]
    assert all(not node.is_there(seq) for seq in missing), f"records {missing[:5]} are not in the history"
    for r in got.tolist():
        seq, ts, kind, flags, offset, length = r
        row = rows[seq - 1]
        assert seq > last[0]
        if seq == last[0] + 1:
            check_time(world, node, seq, ts, last[1])
        assert (kind, bool(flags & 2)) == (row.kind, row.fua), f"record #{seq}: {r}, should be {row}"
        if kind not in (FLUSH, BOOKMARK, UNBOOKMARK, RESTORED):
            assert (offset, length) == (row.offset, row.length), f"record #{seq}: {r}, should be {row}"
        assert node.ts.setdefault(seq, ts) == ts, f"record #{seq} changed its time"
        last = seq, ts
    assert volume._core.position() == (len(rows), node.ts[len(rows)] if rows else volume.created_ns)
    times = world.times(node)
    want = [(seq, times[seq - 1], times[seq]) for seq in clock_model.steps(times) if seq > node.start]
    assert [(s.seq, s.before_ns, s.after_ns) for s in volume.window().clock_steps] == want
    assert not want or world.follows(node), "times go back in a volume whose format says that they do not"


def check_time(world: World, node: Node, seq: int, ts: int, before: int) -> None:
    what = f"record #{seq} at {ts} after {before}"
    if seq not in node.shown:       # an operation that failed
        return
    from_ns, to_ns, follows = node.shown[seq]
    if not from_ns <= ts <= to_ns:
        assert ts == before + 1 and before >= from_ns, f"{what}, the clock showed {from_ns} to {to_ns}"
        assert not follows or before < to_ns + CLOCK_STEP_NS, f"{what}: did not follow the clock to {to_ns}"


def compare_sums(world: World) -> None:
    """What the table of a disk's checksums knows is what the disk holds, whatever went on when the power went."""
    assert world.root
    if world.size.before:
        content = world.root.volume._store.kind.opened_content
        content.settler.settle_disk()
        wrong = [found for page in range(content.sums.stats()["n_pages"])
                 for found in content.sums.differences(page) if found[2]]
        assert not wrong, f"the table of checksums says otherwise of {wrong[:4]}"


def compare_lists(world: World, node: Node) -> None:
    volume = world.open_node(node)
    assert {b.name: (b.at.seq, b.made.seq) for b in volume.bookmarks()} == node.bookmarks()
    assert [(r.seq, r.target.seq, r.offset, r.length, r.destructive, r.undo_of, r.undoable)
            for r in volume.restores()] \
        == node.restores()
    assert {i.name: i.at.seq for i in volume.images()} == {name: n.seq for name, n in node.images.items()}
    window = volume.window()
    assert (window.oldest.seq, window.newest.seq) == (node.start, len(node.model.rows))


def compare_time(world: World, node: Node, rnd: random.Random) -> None:
    """The last record at or before a time; refused where that is not known any more."""
    volume = world.open_node(node)
    times = world.times(node)
    seq = rnd.randrange(max(0, node.start - 5), len(times))
    top = times[seq + 1] if seq + 1 < len(times) else times[seq]
    ts = rnd.choice((times[seq], rnd.randint(times[seq], max(times[seq], top - 1))))
    point = Point(f"time {ts}", "time", ts_ns=ts)
    start = node.start
    meant = clock_model.meant(times[start:], [(lo - start, hi - start) for lo, hi in node.gaps()], ts,
                              world.os.now_ns())
    if meant is None:
        refused(RefusedPoint, lambda: volume.resolve(point))
        return
    if len(meant[0]) > 1:
        refused(InvalidRequest, lambda: volume.resolve(point))
        return
    asked, others = start + meant[0][0], {start + other for other in meant[1]}
    seq, others = node.thinned.at(asked), {node.thinned.at(other) for other in others}
    found = volume.resolve(point)
    assert (found.seq, found.ts_ns) == (seq, times[seq]), f"{ts} is #{found.seq}, should be #{seq}"
    flush = [s for s in range(1, seq + 1) if node.model.rows[s - 1].kind == FLUSH or node.model.rows[s - 1].fua]
    explained = volume.explain(point)
    assert explained.resolved == found
    assert sorted(m.seq for m in explained.other_readings) == sorted(others - {seq})
    expected = flush[-1] if flush and node.is_there(flush[-1]) else None
    got = explained.last_flush.seq if explained.last_flush else None
    assert got == expected or not node.is_there(seq - 1) or expected == node.start, (
        f"last flush at or before #{seq} is #{expected}, told #{got}"
    )


def finish_freeing(world: World) -> None:
    """Everything that was given up is freed: the files are those that the catalog names, and what is not sealed."""
    assert world.root
    volume = world.open_node(world.root)
    for _ in range(1000):
        if volume._retention.step() is None and volume._thinner.step() is None:
            break
    store, rows = volume._store, volume._store.timeline.rows()
    assert volume.freeing() is None and (not rows or rows[0].last_seq > world.root.start)
    sealed = {f"{row.number:010d}.log" for row in store.catalog.rows(Segment)}
    there = set(store.os.list_dir(store.files.log))
    assert there >= sealed and not [name for name in there if name < min(sealed, default="")]
    runs = {f"{run.id:010d}.run" for run in store.maintainer.runs}
    assert set(store.os.list_dir(store.files.runs)) == runs


def every_moment(world: World) -> None:
    node = world.root
    assert node
    for seq in range(node.start, len(node.model.rows) + 1):
        if node.openable(seq):
            with world.open_node(node).at(seq) as image:
                same(world, image, node, seq)
