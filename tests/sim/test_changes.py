"""History and diff against brute force: what the model's bytes and records say of two moments and of a range, for
volumes of both kinds, their images, and histories that lost their oldest end; restores of every sort in between."""
from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from support.model import RESTORE, SECTOR, WRITEBACK, Model
from support.node import Node
from support.seeds import Seeds
from support.sizes import FREEING, SIZES, WEIGHTS
from support.world import World

from cdp.moments.records import EXTENT_KINDS
from cdpcore.system.os import SimOs

pytestmark = [pytest.mark.plain, pytest.mark.soak]
OPERATIONS, LOOK_EVERY = 120, 30

LETTERS = {"d": "data", "z": "zero", "h": "hole"}
LINE = {**WEIGHTS, "restore": 12, "undo": 6}
Link = Any      # (seq, Link of the version before) or None


class Lines:
    """Of each sector at each moment, the records that its content came through: brute force for lineage."""

    def __init__(self, model: Model):
        now: list[Link] = [None] * (model.size // SECTOR)
        self.at: list[list[Link]] = [now]
        self.touched: list[list[int]] = [[]]    # sectors of each record
        for seq, row in enumerate(model.rows, 1):
            now = list(now)
            sectors = [s for offset, content, _ in row.patches
                       for s in range(offset // SECTOR, (offset + len(content)) // SECTOR)]
            for s in sectors:
                before = self.at[row.note[0]][s] if row.kind == RESTORE else now[s]
                now[s] = (seq, before)
            self.at.append(now)
            self.touched.append(sectors)

    def version(self, seq: int, sector: int, restores: set[int]) -> int:
        """The record whose data is shown."""
        link = self.at[seq][sector]
        while link is not None and link[0] in restores:
            link = link[1]
        return link[0] if link else 0

    def has(self, seq: int, sector: int, record: int) -> bool:
        link = self.at[seq][sector]
        while link is not None and link[0] > record:
            link = link[1]
        return link is not None and link[0] == record


def sectors_of(rows: Any) -> dict[int, str]:
    found: dict[int, str] = {}
    for offset, length, kind in rows.tolist():
        assert offset % SECTOR == length % SECTOR == 0 and length > 0
        for sector in range(offset // SECTOR, (offset + length) // SECTOR):
            assert sector not in found and sector > max(found, default=-1)
            found[sector] = EXTENT_KINDS[kind]
    return found


def check_diff(world: World, node: Node, lines: Lines, rnd: random.Random) -> None:
    volume, model = world.open_node(node), node.model
    before = world.size.before and node is world.root
    a, b = world.some_seq(node, rnd), world.some_seq(node, rnd)
    old, (new, letters) = model.at(a)[0], model.at(b)
    differs = {s for s in range(len(letters)) if old[s * SECTOR:][:SECTOR] != new[s * SECTOR:][:SECTOR]}
    found = sectors_of(volume.diff(a, b))
    assert set(found) == differs, f"#{a}..#{b}: {sorted(set(found) ^ differs)[:20]}"
    if not before and not world.root.start:
        for s in found:
            assert chr(letters[s]) == "b" or LETTERS[chr(letters[s])] == found[s]
    written = set(sectors_of(volume.diff(a, b, compared=False)))
    assert written >= differs
    if not before:
        restores = {seq for seq, row in enumerate(model.rows, 1) if row.kind == RESTORE}
        assert written == {s for s in range(len(letters))
                           if lines.version(a, s, restores) != lines.version(b, s, restores)}
    offset, n = world.extent(rnd, world.size.volume)
    offset, n = offset // SECTOR * SECTOR, -(-n // SECTOR) * SECTOR
    n = min(n, world.size.volume - offset)
    part = set(sectors_of(volume.diff(a, f"#{b}", offset, n)))
    assert part == {s for s in differs if offset <= s * SECTOR < offset + n}


def expected(node: Node, lines: Lines, offset: int, n: int, after: int, upto: int) -> list[tuple[Any, ...]]:
    """(seq, kind, offset, length, bytes, present, target) of each record that changed the range."""
    low, high = offset // SECTOR, -(-(offset + n) // SECTOR)
    now, rows = len(node.model.rows), []
    for seq in range(after + 1, upto + 1):
        row, mine = node.model.rows[seq - 1], [s for s in lines.touched[seq] if low <= s < high]
        if not mine:
            continue
        present = any(lines.has(now, s, seq) for s in mine)
        if not node.openable(seq) and not present:
            continue
        first, end = max(mine[0] * SECTOR, offset), min((mine[-1] + 1) * SECTOR, offset + n)
        rows.append((seq, row.kind, first, end - first, end - first, int(present),
                     row.note[0] if row.kind == RESTORE else 0))
    return rows


def check_history(world: World, node: Node, lines: Lines, rnd: random.Random) -> None:
    volume = world.open_node(node)
    offset, n = world.extent(rnd, world.size.volume)
    ends = sorted((world.some_seq(node, rnd), world.some_seq(node, rnd)))
    after, upto = rnd.choice((ends, [node.start, len(node.model.rows)]))
    rows = volume.history(offset, n, after, upto)
    assert list(rows["ts_ns"]) == [volume._store.timeline.moment(int(seq)).ts_ns for seq in rows["seq"]]
    rows = rows[rows["kind"] != WRITEBACK]      # the volume's own: the model has them as rows that change nothing
    got = [(int(r["seq"]), int(r["kind"]), int(r["offset"]), int(r["length"]), int(r["bytes"]), int(r["present"]),
            int(r["target"])) for r in rows]
    want = expected(node, lines, offset, n, after, upto)
    assert got == want, f"#{after}..#{upto} {offset}:{n}: {[r for r in got if r not in want][:5]} " \
                        f"{[r for r in want if r not in got][:5]}"
    if len(got) > 1 and not (world.size.before and node is world.root):
        limit = rnd.randint(1, len(got))
        few = volume.history(offset, n, after, upto, limit)
        assert [int(seq) for seq in few["seq"]] == [r[0] for r in got[:limit]]


@pytest.mark.parametrize(("kind", "weights"), [("after", LINE), ("before", LINE), ("after", FREEING)],
                         ids=["after", "before", "freeing"])
def test_against_brute_force(seeds: Seeds, kind: str, weights: dict[str, int]):
    checked = differences = 0
    for seed in seeds(1):
        done = run(seed, kind, weights)
        checked, differences = checked + done[0], differences + done[1]
    assert checked >= 12 * seeds.done and differences > seeds.done


def test_a_record_whose_parts_are_in_two_frames():
    """A trim whose edge is in the next frame was shown as that edge: a write of 512 bytes."""
    assert run(1928237211, "after", FREEING)[0]


def run(seed: int, kind: str, weights: dict[str, int]) -> tuple[int, int]:
    """How often they were compared, and how much differed."""
    checked = differences = 0
    rnd = random.Random(seed)
    sim = SimOs(seed)
    world = World(seed, sim, "/v", replace(rnd.choice(SIZES), before=kind == "before"))
    world.create(with_base=rnd.random() < 0.3)
    for i, op in enumerate(world.program(OPERATIONS, weights)):
        world.run(op)
        if i % LOOK_EVERY != LOOK_EVERY - 1:
            continue
        for node in world.root.family()[:3]:
            world.open_node(node)
            lines = Lines(node.model)
            for _ in range(3):
                check_diff(world, node, lines, rnd)
                check_history(world, node, lines, rnd)
                checked += 1
            differences += len(node.volume.diff(world.some_seq(node, rnd)))
    world.close()
    world.forget()
    assert (sim.open_handles, sim.open_maps, sim.misuse) == (0, 0, 0)
    return checked, differences
