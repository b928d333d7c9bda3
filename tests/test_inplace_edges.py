"""Edges of disks protected in place: what only goes wrong at one moment, or at one size."""
import random
from pathlib import Path

import cdp

MIB = 1 << 20


def make_disk(path: Path, size: int, seed: int = 1) -> bytes:
    content = random.Random(seed).randbytes(size)
    path.write_bytes(content)
    return content


def test_a_write_of_what_the_disk_still_holds_counts_while_a_restore_is_written_back(tmp_path: Path):
    """The disk has the content from before the restore, and the host writes just that: it is a change of what the volume shows."""
    disk = tmp_path / "disk.img"
    old = make_disk(disk, 4 * MIB)
    with cdp.create(tmp_path / "v", disk=disk, settings=cdp.Settings(skip_unchanged_writes=True, restore_rate_bytes=64 << 10)) as volume:
        volume.pwrite(b"n" * (2 * MIB), 2 * MIB)
        volume.flush()
        volume.restore(0)
        assert volume.pread(4096, 3 * MIB) == old[3 * MIB:3 * MIB + 4096]
        volume.pwrite(b"n" * 4096, 3 * MIB)
        assert volume.pread(4096, 3 * MIB) == b"n" * 4096
    assert disk.read_bytes() == old[:3 * MIB] + b"n" * 4096 + old[3 * MIB + 4096:]


def test_the_largest_write_that_begins_inside_a_block(tmp_path: Path):
    """32 MiB of old content in 33 pieces of a MiB, one more than a record has room for."""
    disk = tmp_path / "disk.img"
    old = make_disk(disk, 34 * MIB)
    new = random.Random(2).randbytes(32 * MIB)
    with cdp.create(tmp_path / "v", disk=disk) as volume:
        for at in (512, 4096, 1536):
            volume.pwrite(new, at)
            assert volume.pread(32 * MIB, at) == new
        volume.flush()
        with volume.at(0) as image:
            assert image.pread(34 * MIB, 0) == old
    with cdp.open(tmp_path / "v") as volume, volume.at(0) as image:
        assert image.pread(34 * MIB, 0) == old
