"""Volume.free_before() on the real machine: what holds history, what it says, who reads and writes meanwhile, kill -9,
and what check and rebuild make of a history that starts later."""
from __future__ import annotations

import itertools
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.seeds import Seeds

from cdp.check import check, rebuild
from cdp.moments.points import Point
from cdp.store import creation
from cdp.store.tuning import Tuning
from cdp.volume.volume import Volume
from cdpcore.base.errors import Corruption, InvalidRequest, RefusedPoint

pytestmark = pytest.mark.plain
KIB, MIB = 1024, 1 << 20
BLOCK, BLOCKS = 4 * KIB, 512
SMALL = Tuning(slot_bytes=80 * KIB, n_slots=8, segment_bytes=MIB, max_records=300, merge_fanin=2, max_open_files=4,
               commit_interval_ms=50)
KINDS = ["after", "before"]
GOLDEN = Path(__file__).parent.parent / "golden/v5"


@contextmanager
def a_volume(folder: Path, kind: str, tuning: Tuning = SMALL) -> Iterator[Volume]:
    path, disk = folder / "v", folder / "disk.img"
    if not path.exists():
        if kind == "before":
            with disk.open("xb") as file:
                file.truncate(BLOCK * BLOCKS)
            creation.create(str(path), 0, tuning, disk=str(disk))
        else:
            creation.create(str(path), BLOCK * BLOCKS, tuning)
    with Volume(path, _tuning=tuning) as volume:
        yield volume


def block(n: int) -> bytes:
    return n.to_bytes(8, "little") * (BLOCK // 8)


class Written:
    """One write a record, all of them known."""

    def __init__(self, volume: Volume, seed: int = 0):
        self.volume, self.random = volume, random.Random(seed)
        self.now: list[int] = [0] * BLOCKS
        self.at: dict[int, list[int]] = {0: list(self.now)}

    def write(self, n: int, keep: int = 50) -> None:
        for _ in range(n):
            at, seq = self.random.randrange(BLOCKS), self.volume._core.position()[0] + 1
            if self.random.random() < 0.1:
                self.volume.trim(BLOCK, at * BLOCK)
                self.now[at] = 0
            else:
                self.volume.pwrite(block(seq), at * BLOCK)
                self.now[at] = seq
            if seq % keep == 0:
                self.at[seq] = list(self.now)

    def check(self, what: Any, blocks: list[int]) -> None:
        got = what.pread(BLOCK * BLOCKS, 0)
        wrong = [i for i, n in enumerate(blocks) if got[i * BLOCK:(i + 1) * BLOCK] != block(n)]
        assert not wrong, f"{what!r}: {len(wrong)} blocks: {wrong[:5]}"

    def check_all(self) -> None:
        self.check(self.volume, self.now)
        oldest = self.volume.window().oldest.seq
        for seq, blocks in self.at.items():
            if seq >= oldest:
                with self.volume.at(seq) as image:
                    self.check(image, blocks)
            else:
                with pytest.raises(RefusedPoint, match="before the oldest moment"):
                    self.volume.at(seq)


def at_time(ts_ns: int) -> Point:
    return Point(f"time {ts_ns}", "time", ts_ns=ts_ns)


def freed(volume: Volume, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while volume.freeing() is not None or volume._retention._files_left:
        assert time.monotonic() < until, volume.freeing()
        time.sleep(0.01)


def last_end(volume: Volume, seq: int) -> int:
    """Where the history begins that is kept for `seq`: the last end of a segment at or before it. How many records a
    segment has, 300 at most, is a matter of the frames that they came in, so of the machine's load."""
    ends = [row.last_seq for row in volume._store.timeline.rows()[:-1]]
    return max([volume.window().oldest.seq, *(end for end in ends if end <= seq)])


def files(volume: Volume) -> set[str]:
    return {path.name for path in (Path(volume.path) / "log").iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_afterwards(tmp_path: Path, kind: str) -> None:
    with a_volume(tmp_path, kind) as volume:
        written = Written(volume)
        written.write(1500)
        volume.bookmark("early", at=10)
        volume.bookmark("late")
        before = files(volume)
        would = volume.free_before(900, dry_run=True)
        assert volume.window().oldest.seq == 0 and files(volume) == before
        done = volume.free_before(900)
        assert (done, 600 <= done.start.seq <= 900, done.holds) == (would, True, [])
        assert volume.window().oldest == done.start
        freed(volume)
        written.check_all()
        gone = before - files(volume)
        assert gone == {name for name in before if name < min(files(volume))} and done.freed_bytes > 0
        assert [b.name for b in volume.bookmarks()] == ["late"]
        assert volume.records()["seq"][0] == done.start.seq + 1
        with pytest.raises(RefusedPoint, match=f"nearest valid: #{done.start.seq} "):
            volume.resolve(f"#{done.start.seq - 1}")
        with pytest.raises(RefusedPoint):
            volume.records(since="#0")
        with pytest.raises(RefusedPoint):
            volume.resolve(at_time(volume.created_ns))
        assert volume.resolve(at_time(done.start.ts_ns + 1)) == done.start == volume.explain(done.start.seq).resolved
        assert volume.geometry().format == 5
        again = volume.free_before(900)
        assert again.start == done.start and not again.freed_bytes
    with a_volume(tmp_path, kind) as volume:
        written.volume = volume
        assert volume.window().oldest == done.start
        written.write(300)
        written.check_all()
    assert check.check(tmp_path / "v").problems == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_holds_history(tmp_path: Path, kind: str) -> None:
    """Each hold is named, and keeps its moment as long as it is there."""
    with a_volume(tmp_path, kind) as volume:
        written = Written(volume)
        written.write(1500)
        now, newest = list(written.now), volume.window().newest.seq

        def start(**how: Any) -> tuple[int, str]:
            done = volume.free_before(newest, dry_run=True, **how)
            return done.start.seq, "; ".join(hold.what for hold in done.holds)

        free = start()
        assert free[0] > 1000 and not free[1]
        with volume.at(700) as image:
            seq, why = start()
            assert seq == last_end(volume, 700) and why == "a time image of #700 is open"
            volume.free_before(newest)
            freed(volume)
            written.check(image, written.at[700])
        volume.create_image("trial", at=800)
        seq, why = start()
        assert seq == last_end(volume, 800) and why == "image 'trial' shows #800"
        volume.free_before(newest)
        freed(volume)
        with volume.open_image("trial") as trial:
            written.check(trial, written.at[800])
            with pytest.raises(InvalidRequest, match="writable image"):
                trial.free_before(0)
        volume.delete_image("trial")
        restore = volume.restore(1000)
        while volume.writeback is not None and volume._store.unwritten():
            time.sleep(0.01)
        newest = volume.window().newest.seq
        seq, why = start()
        assert seq == last_end(volume, 1000) and f"restore #{restore.seq} shows #1000" in why, (seq, why)
        written.now = list(written.at[1000])
        written.at = {s: b for s, b in written.at.items() if s < restore.seq}
        written.write(800)
        newest = volume.window().newest.seq
        seq, why = start()
        assert f"undo of restore #{restore.seq} would show #{restore.seq - 1}" in why
        assert seq < restore.seq < start(undo=False)[0]
        undone = volume.undo()
        while volume.writeback is not None and volume._store.unwritten():
            time.sleep(0.01)
        written.now = now
        written.check(volume, now)
        written.write(800)
        newest = volume.window().newest.seq
        assert start()[0] > undone.seq
        volume.free_before(newest)
        freed(volume)
        written.check_all()
        assert volume.restores() == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_promised_is_not_freed_by_hand(tmp_path: Path, kind: str) -> None:
    """A bookmark that is a pin, and the policy's floor; a bookmark that is only a name holds nothing."""
    with a_volume(tmp_path, kind) as volume:
        written = Written(volume)
        written.write(1200)
        newest = volume.window().newest.seq
        volume.bookmark("name", at=300)
        volume.bookmark("pinned", at=500, keep_ns=3600 * 10**9)
        done = volume.free_before(newest)
        assert done.start.seq == last_end(volume, 500) < volume.window().newest.seq
        assert [(h.seq, h.what) for h in done.holds] == [
            (500, "bookmark 'pinned' is a pin: it was made with --for")]
        volume.delete_bookmark("pinned")
        oldest = volume.window().oldest.seq
        volume.set_policy("keep = ['all for 48h']\nfloor = '24h'\n")
        done = volume.free_before(newest)
        assert done.start.seq == oldest and [h.what for h in done.holds] == ["the policy's floor is 1d"]
        volume.set_policy(None)
        assert volume.free_before(newest).start.seq > oldest


@pytest.mark.parametrize("kind", KINDS)
def test_rebuilt(tmp_path: Path, kind: str) -> None:
    """The start outlives the catalog; also where segments before it are still there, in any number."""
    with a_volume(tmp_path, kind) as volume:
        written = Written(volume)
        written.write(1500)
        volume.flush()
        shutil.copytree(Path(volume.path) / "log", tmp_path / "log")
        done = volume.free_before(1000)
        freed(volume)
        volume.bookmark("late")
    path = tmp_path / "v"
    there = {p.name for p in (path / "log").iterdir()}
    gone = sorted(p.name for p in (tmp_path / "log").iterdir() if p.name < min(there))
    assert len(gone) >= 3
    for left in ([], gone[-1:], gone):      # as deleting them leaves it: the newest ones are left
        for name in left:
            shutil.copy(tmp_path / "log" / name, path / "log" / name)
        shutil.rmtree(path / "catalog.lmdb")
        assert rebuild.rebuild(path).problems == []
        with a_volume(tmp_path, kind) as volume:
            written.volume = volume
            assert volume.window().oldest == done.start and volume.bookmarks()[0].name == "late"
            written.check_all()
            freed(volume)
            written.check_all()
            assert min(files(volume)) == min(there)
        assert check.check(path).problems == []
    first = path / "log" / min(there)
    first.rename(tmp_path / "first")
    with pytest.raises(Corruption, match="are missing"):
        rebuild.rebuild(path)


@pytest.mark.parametrize("kind", KINDS)
def test_readers_and_writers_meanwhile(tmp_path: Path, kind: str) -> None:
    """Histories of a block are ascending numbers: no read may see an older one than an earlier read, or one that was
    never written; a time image stays what it is, while the history before it goes again and again."""
    with a_volume(tmp_path, kind) as volume:
        for at in range(BLOCKS):
            volume.pwrite(block(1), at * BLOCK)
        stop, wrong = threading.Event(), list[object]()
        number = [1]

        def watched(body: Any) -> Any:
            def run() -> None:
                try:
                    while not stop.is_set():
                        body()
                except BaseException as e:      # noqa: BLE001  (shown by the test)
                    wrong.append(repr(e))
            return run

        def write() -> None:
            number[0] += 1
            for at in random.sample(range(BLOCKS // 2), 64):
                volume.pwrite(block(number[0]), at * BLOCK)

        seen = [0] * BLOCKS

        def read() -> None:
            top = number[0] + 1
            got = volume.pread(BLOCK * BLOCKS, 0)
            for at in range(BLOCKS):
                data = got[at * BLOCK:(at + 1) * BLOCK]
                n = int.from_bytes(data[:8], "little")
                assert data == block(n) and seen[at] <= n <= max(top, number[0]) and n, (at, seen[at], n, top)
                seen[at] = n

        def look() -> None:
            with volume.at("now") as image:
                first = image.pread(BLOCK * BLOCKS, 0)
                kinds = list(image.extents())
                time.sleep(0.05)
                assert image.pread(BLOCK * BLOCKS, 0) == first and kinds[0].kind == "data"

        threads = [threading.Thread(target=watched(body)) for body in (write, read, look)]
        for thread in threads:
            thread.start()
        moved, until = 0, time.monotonic() + 2
        while time.monotonic() < until and not wrong:
            start = volume.window().oldest.seq
            moved += volume.free_before(volume.window().newest.seq).start.seq > start
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong, wrong[:3]
        volume.free_before(volume.window().newest.seq)
        freed(volume)
        assert moved >= 3
        assert len(files(volume)) < 8       # one that is sealed, two that are not, and what was sealed since
    assert check.check(tmp_path / "v").problems == []


CHILD = r"""
import random, sys, time
from cdp.store.tuning import Tuning
from cdp.volume.volume import Volume
rng = random.Random(int(sys.argv[2]))
volume = Volume(sys.argv[1], _tuning=eval(sys.argv[3]))
print("open", flush=True)
while True:
    for _ in range(rng.randrange(50, 400)):
        volume.pwrite(bytes([rng.randrange(256)]) * 4096, rng.randrange(512) * 4096)
    volume.flush()
    seq = volume.free_before(max(0, volume.window().newest.seq - rng.randrange(600))).start.seq
    print("start", seq, flush=True)
    time.sleep(rng.uniform(0, 0.01))
"""


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_the_middle(tmp_path: Path, seeds: Seeds, kind: str) -> None:
    """Opening after kill -9, the moments from the start on are what they were before the next fold, and after it."""
    for seed in seeds(1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        rng = random.Random(seed)
        with a_volume(folder, kind):
            pass
        starts = 0
        for turn in range(seeds.pick(3, 12)):
            child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder / "v"), str(turn),
                                      repr(SMALL)], stdout=subprocess.PIPE, text=True)
            assert child.stdout and child.stdout.readline() == "open\n"
            until = time.monotonic() + rng.uniform(0.2, 1)
            while time.monotonic() < until:
                start = int(child.stdout.readline().split()[1])
            child.send_signal(signal.SIGKILL)
            child.stdout.read()
            child.wait()
            with a_volume(folder, kind) as volume:
                window = volume.window()
                assert window.oldest.seq >= start
                starts += window.oldest.seq > 0
                seqs = sorted(rng.sample(range(window.oldest.seq, window.newest.seq + 1), 12))
                shown = {}
                for seq in (window.oldest.seq, *seqs):
                    with volume.at(seq) as image:
                        shown[seq] = image.pread(BLOCK * BLOCKS, 0)
                replayed(volume, shown)
                freed(volume)
                for seq, content in shown.items():
                    with volume.at(seq) as image:
                        assert image.pread(BLOCK * BLOCKS, 0) == content, seq
            assert check.check(folder / "v").problems == []
        assert starts


def replayed(volume: Volume, shown: dict[int, bytes]) -> None:
    """Each moment is the one before it with the blocks changed that records in between are about."""
    seqs = sorted(shown)
    for older, newer in itertools.pairwise(seqs):
        rows = volume.records(since=older, until=newer)
        changed = {int(r["offset"]) // BLOCK for r in rows if r["kind"] == 1}
        for at in range(BLOCKS):
            same = shown[older][at * BLOCK:(at + 1) * BLOCK] == shown[newer][at * BLOCK:(at + 1) * BLOCK]
            assert same or at in changed, (older, newer, at)


def test_golden_file(tmp_path: Path) -> None:
    """A volume of format 5: nine records, of which the first three are folded into base.img."""
    path = tmp_path / "golden"
    shutil.copytree(GOLDEN, path)
    (path / "images").mkdir()
    (path / "lock").touch()
    assert rebuild.rebuild(path).ok
    expected = {3: {1: 1, 2: 2}, 4: {1: 3, 2: 2}, 5: {1: 3, 2: 2, 3: 4}, 7: {1: 3, 2: 5, 3: 4}, 9: {1: 6, 2: 5, 3: 4}}
    with Volume(path, _tuning=SMALL) as volume:
        assert (volume.window().oldest.seq, volume.window().newest.seq, volume.geometry().format) == (3, 9, 5)
        for seq, blocks in expected.items():
            whole = b"".join(f"block {at}, record {blocks[at]}".encode().ljust(BLOCK, b"\0") if at in blocks else
                             bytes(BLOCK) for at in range(16))
            assert volume.at(f"#{seq}").pread(len(whole), 0) == whole, f"#{seq}"
        with pytest.raises(RefusedPoint, match="before the oldest moment"):
            volume.at("#2")
    assert check.check(path).ok
