"""Small volumes of every kind that change in every way, and what they show: for tests of copies and archives."""
from __future__ import annotations

import hashlib
import random
from contextlib import suppress
from pathlib import Path

from cdp.store import creation
from cdp.store.base_image import Base
from cdp.store.tuning import Tuning
from cdp.volume.volume import Volume
from cdpcore.base.errors import CdpError, InvalidRequest

KIB = 1024
SIZE = 512 * KIB
SMALL = Tuning(slot_bytes=80 * KIB, n_slots=8, segment_bytes=640 * KIB, max_records=60, merge_fanin=3, max_open_files=4,
               commit_interval_ms=50)
KINDS = ["after", "base", "before"]
SOURCE = "v"


def made(folder: Path, kind: str) -> str:
    """A new volume; its path."""
    path = str(folder / SOURCE)
    if kind == "before":
        (folder / "disk.img").write_bytes(random.Random(1).randbytes(SIZE))
        creation.create(path, 0, SMALL, disk=str(folder / "disk.img"))
    elif kind == "base":
        content = random.Random(2).randbytes(SIZE // 2)

        def read(at: int, view: memoryview) -> None:
            view[:] = content[at:at + len(view)]
        creation.create(path, SIZE, SMALL, base=Base(read, [(0, SIZE // 2)]))
    else:
        creation.create(path, SIZE, SMALL)
    return path


def change(volume: Volume, rnd: random.Random, n: int, destroy: bool = True) -> None:
    """Writes, and everything else that changes what a copy must have."""
    for _ in range(n):
        what, at = rnd.random(), rnd.randrange(SIZE // 4096) * 4096
        if what < 0.86:
            volume.pwrite(rnd.randbytes(min(rnd.choice((512, 4096, 30_000)), SIZE - at)), at)
        elif what < 0.90:
            (volume.trim if rnd.random() < 0.5 else volume.zero)(min(20_000, SIZE - at), at)
        elif what < 0.94:
            volume.flush()
        elif what < 0.97:
            with suppress(InvalidRequest):
                volume.bookmark(f"b{rnd.randrange(30)}")
        elif volume.writeback is None or volume.writeback.progress() is None:
            window = volume.window()
            target = rnd.randint(max(window.oldest.seq, window.newest.seq - 40), window.newest.seq)
            with suppress(CdpError):
                volume.restore(target, destructive=destroy and rnd.random() < 0.3)
    if rnd.random() < 0.4:
        volume.free_before(max(0, volume.window().newest.seq - rnd.randrange(200)), undo=False)


def content(volume: Volume, seq: int) -> str:
    with volume.at(seq) as image:
        return hashlib.sha256(image.pread(SIZE, 0)).hexdigest()


def openable(volume: Volume, rnd: random.Random, upto: int) -> list[int]:
    """Some moments that can be opened, up to that one."""
    window = volume.window()
    seqs = {window.oldest.seq, upto, *(rnd.randint(window.oldest.seq, upto) for _ in range(12))}
    return sorted(s for s in seqs if not any(a.seq < s <= b.seq or a.seq <= s < b.seq for a, b in window.gaps)
                  and window.oldest.seq <= s <= upto)
