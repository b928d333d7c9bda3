"""kill -9 in the middle of writes, many times over on one volume: everything acknowledged as flushed is there, what is
found is a prefix in seq order, and the past stays what it was. How long opening took is printed, not asserted."""
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.seeds import Seeds

import cdp
from cdp.check import check

pytestmark = pytest.mark.plain

BLOCK, BLOCKS = 4096, 2048
KILLS = 6, 20
CHILD = r"""
import os, random, struct, sys, time, cdp
path, seed, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
began = time.monotonic()
volume = cdp.open(path)
print("open", time.monotonic() - began, flush=True)
n = first
while True:
    for _ in range(rng.randrange(1, 200)):
        n += 1
        block = rng.randrange(2048)
        volume.pwrite(struct.pack("<QQ", n, block) * 256, block * 4096)
    volume.flush()
    print("flushed", n, flush=True)
"""


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["after", "before"])
def test_killed_in_the_middle_of_writes(tmp_path: Path, seeds: Seeds, kind: str):
    for seed in seeds(1):
        (tmp_path / str(seed)).mkdir()
        killed(tmp_path / str(seed), seed, kind, seeds.pick(*KILLS))


def killed(folder: Path, seed: int, kind: str, kills: int) -> None:
    path, disk = folder / "v", folder / "disk.img"
    if kind == "before":
        with disk.open("xb") as file:
            file.truncate(BLOCK * BLOCKS)
        cdp.create(path, disk=disk).close()
    else:
        cdp.create(path, size=BLOCK * BLOCKS).close()
    rng = random.Random(seed)
    content = [0] * BLOCKS      # which write each block holds
    seqs: list[int] = []        # seq of write n + 1
    opening, moments = [], []
    for turn in range(seed, seed + kills):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(turn), str(len(seqs))],
                                 stdout=subprocess.PIPE, text=True)
        assert child.stdout
        opening.append(float(child.stdout.readline().split()[1]))
        flushed = len(seqs)
        until = time.monotonic() + rng.uniform(0.02, 0.4)
        while time.monotonic() < until:
            flushed = int(child.stdout.readline().split()[1])
        child.send_signal(signal.SIGKILL)
        for line in child.stdout.read().splitlines():
            if line.startswith("flushed ") and line.endswith(line.split()[1]):
                flushed = int(line.split()[1])
        child.wait()
        with cdp.open(path) as volume:
            writes = [r for r in volume.records(since=seqs[-1] if seqs else "#0") if r["kind"] == 1]
            raw = volume.pread(BLOCK * BLOCKS, 0)
            order = random.Random(turn)
            n = len(seqs)
            expected = iter(())
            for r in writes:        # the child's writes, in its order: a prefix
                try:
                    block = next(expected)
                except StopIteration:
                    expected = iter([order.randrange(2048) for _ in range(order.randrange(1, 200))])
                    block = next(expected)
                n += 1
                assert int(r["offset"]) == block * BLOCK
                content[block] = n
                seqs.append(int(r["seq"]))
            assert n >= flushed, "a flushed write is missing"
            for block, who in enumerate(content):
                want = struct.pack("<QQ", who, block) * 256 if who else bytes(BLOCK)
                assert raw[block * BLOCK:(block + 1) * BLOCK] == want, (turn, block)
            moments.append((volume.resolve("now").seq, raw))
    with cdp.open(path) as volume:
        for seq, raw in moments:
            with volume.at(seq) as image:
                assert image.pread(BLOCK * BLOCKS, 0) == raw
    assert check.check(path).ok
    assert kind == "after" or disk.read_bytes() == moments[-1][1]
    print(f"{kind}-images: killed {kills} times, {len(seqs)} writes; opening took {sorted(opening)[kills // 2]:.3f} s "
          f"(median), {max(opening):.3f} s (most)")
