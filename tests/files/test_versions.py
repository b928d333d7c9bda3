"""The versions of a file against brute force: the file at every moment of a history that the kernel's ext4 wrote."""
import json
import os
import random
from pathlib import Path

import pytest
from support.interop import MIB, cdp_here, need
from support.mounted import make, mounted, need_a_kernel

import cdp
from cdp.cli import exits
from cdp.files.detect import opened
from cdp.files.model import Source
from cdpcore.base.errors import CdpError

pytestmark = [pytest.mark.interop, pytest.mark.once]
SIZE = 16 * MIB
NO_JOURNAL = "^has_journal"     # changes of inodes and directories go where they belong at once


class Image(Source):
    """A time image, read in this process."""

    def __init__(self, image):
        self._image, self.size_bytes = image, image.size_bytes

    def pread(self, length, offset):
        self.check(length, offset)
        return self._image.pread(length, offset)


def by_brute_force(volume, path, partition=None, moments=None):
    """[(first, last, what it is)], from every moment, or from these."""
    found = []
    window = volume.window()
    for seq in moments or range(window.oldest.seq, window.newest.seq + 1):
        with volume.at(f"#{seq}") as image:
            try:
                entry = opened(Image(image), partition)[0].stat(path)
            except CdpError:
                entry = None
        if found and found[-1][2] == entry:
            found[-1][1] = seq
        else:
            found.append([seq, seq, entry])
    return [tuple(one) for one in found]


def by_versions(path, name):
    rows = [json.loads(line) for line in cdp_here("versions", path, name, "--json").splitlines()]
    return [(row["first"]["seq"], row["last"]["seq"], row["file"]) for row in rows]


def same(found, expected):
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    for (_, _, file), (_, _, entry) in zip(found, expected, strict=True):
        assert (file is None) == (entry is None)
        if file is not None:
            assert (file["size_bytes"], file["mtime_ns"], file["inode"], file["links"]) == (
                entry.size_bytes, entry.mtime_ns, entry.inode, entry.links)


def record_changes(volume, old, new, rnd):
    """The blocks that differ, as records: what the journal has first, as the kernel would."""
    blocks = [at for at in range(0, len(new), 4096) if old[at:at + 4096] != new[at:at + 4096]]
    rnd.shuffle(blocks)
    for at in blocks:
        volume.pwrite(new[at:at + 4096], at)
        if rnd.random() < 0.2:
            volume.flush()


@pytest.mark.parametrize("options", ["", "data=journal", NO_JOURNAL])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 4))])
def test_as_by_brute_force(tmp_path, seed, options):
    """The states of a mounted file system, block by block in any order: the reader must hold its own at each of them,
    also where they are no moment that a crash could have left."""
    need_a_kernel("mke2fs")
    rnd = random.Random(seed)
    journal = ("-O", options) if options == NO_JOURNAL else ("-J", "size=4")
    image = make(tmp_path / "disk", SIZE, "-t", "ext4", "-b", "4096", *journal)
    with cdp.create(tmp_path / "web", size=SIZE) as volume:
        old = bytes(SIZE)
        with mounted(image, tmp_path / "mnt", *([options] if options not in ("", NO_JOURNAL) else [])) as folder:
            (folder / "a").mkdir()
            for step in range(8):
                match rnd.randrange(5):
                    case 0:
                        (folder / "a" / "f").unlink(missing_ok=True)
                    case 1 | 2:
                        (folder / "a" / "f").write_bytes(rnd.randbytes(rnd.randrange(20_000)))
                    case 3:
                        for n in range(rnd.randrange(20)):
                            (folder / "a" / f"other-{step}-{n}").write_bytes(b"x" * 5000)
                    case 4:
                        os.rename(folder / "a", folder / "b")
                        (folder / "a").mkdir()
                        (folder / "a" / "f").write_text(f"{step}")
                        os.rename(folder / "b", folder / f"old-{step}")
                for path in (folder / "a", *(folder / "a").glob("f")):
                    fd = os.open(path, os.O_RDONLY)
                    os.fsync(fd)
                    os.close(fd)
                new = image.read_bytes()
                record_changes(volume, old, new, rnd)
                old = new
            middle = volume.window().newest.seq // 2
            volume.restore(f"#{middle}")
            volume.undo()
            volume.restore(f"#{middle}", offset=0, length=SIZE // 2)
        expected = by_brute_force(volume, "a/f")
    found = by_versions(tmp_path / "web", "/a/f")
    same(found, expected)
    assert len(found) >= 3      # the kernel says when it writes an inode
    with cdp.open(tmp_path / "web") as volume:
        newest = volume.window().newest.seq
        kept = sorted({0, middle, *rnd.sample(range(1, newest * 3 // 4), newest // 8)})
        volume._store.thin(volume._store.thinned.thinned_to(kept))
        thinned = by_brute_force(volume, "a/f", moments=[*kept, *range(kept[-1] + 1, newest + 1)])
    same(by_versions(tmp_path / "web", "/a/f"), thinned)


def test_nothing_there(tmp_path):
    with cdp.create(tmp_path / "web", size=SIZE) as volume:
        volume.pwrite(b"x" * 4096, 0)
        volume.pwrite(b"x" * 4096, 8192)
    assert by_versions(tmp_path / "web", "x") == [(0, 2, None)]
    said = cdp_here("versions", tmp_path / "web", "x", status=exits.OK)
    assert said == ""


def test_a_silent_change_is_counted(tmp_path):
    need("mke2fs")
    (tmp_path / "tree").mkdir()
    Path(tmp_path / "tree/text").write_bytes(b"right\n" * 2000)
    disk = make(tmp_path / "disk", SIZE, "-t", "ext4", "-d", str(tmp_path / "tree")).read_bytes()
    with cdp.create(tmp_path / "web", size=SIZE) as volume:
        volume.pwrite(disk, 0)
        for at in range(10):
            volume.pwrite(b"free", SIZE - 4096 * (at + 1))
        volume.pwrite(b"wrong", disk.index(b"right\n" * 500))
    rows = [json.loads(line) for line in cdp_here("versions", tmp_path / "web", "text", "--json").splitlines()]
    assert [(row["first"]["seq"], row["last"]["seq"]) for row in rows] == [(0, 0), (1, 12)]
    assert (rows[1]["data_changes"], rows[1]["data_first"], rows[1]["file"]["size_bytes"]) == (1, 12, 12_000)
    assert "1, #12 to #12" in cdp_here("versions", tmp_path / "web", "/text")
