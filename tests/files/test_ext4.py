"""The reader of ext2, ext3 and ext4 against the kernel: every file, its metadata and content, on file systems of many
kinds; and with the journal of a file system that was not unmounted."""
import os
import random
import shutil

import pytest
from support.mounted import by_kernel, by_reader, files_of_image, make, mounted, need_a_kernel, ram

__all__ = ["ram"]

pytestmark = [pytest.mark.interop, pytest.mark.once]

MIB = 1 << 20
KINDS = {
    "ext2": ("ext2", 24 * MIB, ("-t", "ext2", "-b", "1024")),
    "ext3": ("ext3", 64 * MIB, ("-t", "ext3", "-b", "4096")),
    "ext3-1k": ("ext3", 48 * MIB, ("-t", "ext3", "-b", "1024")),
    "ext4": ("ext4", 64 * MIB, ("-t", "ext4")),
    "ext4-1k": ("ext4", 48 * MIB, ("-t", "ext4", "-b", "1024")),
    "inline": ("ext4", 64 * MIB, ("-t", "ext4", "-O", "inline_data", "-I", "512")),
    "old-inodes": ("ext4", 64 * MIB, ("-t", "ext4", "-I", "128", "-O", "^metadata_csum,^64bit")),
    "meta_bg": ("ext4", 300 * MIB, ("-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode,^flex_bg")),
    "bigalloc": ("ext4", 64 * MIB, ("-t", "ext4", "-O", "bigalloc", "-C", "16384")),
    "no-filetype": ("ext4", 64 * MIB, ("-t", "ext4", "-O", "^filetype")),
}


def fill(folder, seed, small):
    """Files of all kinds: holes, many extents, long directories, links, names that are no text."""
    rnd = random.Random(seed)
    for n, size in enumerate((0, 1, 59, 60, 61, 100, 150, 300, 1023, 4096, 12_289, 300_000, 5_000_000)):
        (folder / f"size-{n}").write_bytes(rnd.randbytes(size))
    with open(folder / "sparse", "wb") as file:
        # Behind what twelve pointers reach, and one block of them, and, with blocks of 1 KiB, a tree of two levels.
        for at in (0, 100_000, 4 * MIB, *([70 * MIB] if small else [])):
            file.seek(at)
            file.write(rnd.randbytes(5000))
        file.truncate((72 if small else 9) * MIB)
    # A file in many pieces: two grow by turns.
    with open(folder / "a", "wb", 0) as a, open(folder / "b", "wb", 0) as b:
        for n in range(12 if small else 100):
            for file in (a, b):
                if not small:
                    os.posix_fallocate(file.fileno(), n * 4096, 4096)
                file.write(rnd.randbytes(4096))
                if small:
                    os.fdatasync(file.fileno())
    many = folder / "many"
    many.mkdir()
    for n in range(600):
        (many / f"{n}-{'x' * rnd.randrange(60)}").touch()
    for n in range(0, 600, 3):
        next(many.glob(f"{n}-*")).unlink()
    few = folder / "few"
    few.mkdir()
    for n in range(9):
        (few / f"name-{n}").write_text("s" * n)
    deep = folder
    for n in range(30):
        deep = deep / f"d{n}"
        deep.mkdir()
    (deep / "end").write_text("here")
    os.link(deep / "end", folder / "hard")
    os.symlink("few/name-3", folder / "link")
    os.symlink("y" * 59, folder / "link-59")
    os.symlink("y" * 60, folder / "link-60")
    os.symlink("/few/" + "./" * 200 + "name-5", folder / "long-link")
    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "null", 0o20666, os.makedev(1, 3))
    (folder / "bad-\udcff\x1b[31m\n").write_text("bad")
    os.chown(folder / "hard", 70_000, 80_000)
    os.utime(folder / "size-1", ns=(1, -5_000_000_001))
    if not small:
        os.utime(folder / "size-2", ns=(1, 5_000_000_000_123_456_789))
    (folder / "size-3").chmod(0o6755)


@pytest.mark.parametrize("name", [name if name in ("ext3-1k", "ext4") else pytest.param(
    name, marks=pytest.mark.long) for name in KINDS])
def test_as_the_kernel_shows_it(name, ram):
    need_a_kernel("mke2fs")
    kind, size, options = KINDS[name]
    image = make(ram / "disk", size, *options)
    with mounted(image, ram / "mnt", kind=kind) as folder:
        fill(folder, name, kind != "ext4" or "128" in options)
        if kind == "ext4":
            with open(folder / "size-9", "r+b") as file:     # blocks that are allocated and not written
                os.posix_fallocate(file.fileno(), 0, 3 * MIB)
    with mounted(image, ram / "mnt", "ro", kind=kind) as folder, files_of_image(image) as files:
        expected = by_kernel(folder)
        assert by_reader(files) == expected and len(expected) > 400
        assert files.about()["kind"] == "ext4"
        assert files.read("/link") == b"sss" and files.read("long-link") == b"sssss"
        assert files.stat("link").kind == "symlink" and files.stat("link", follow=True).size_bytes == 3
        assert [e.name for e in files.entries("few/../few")] == [f"name-{n}" for n in range(9)]
        with files.open("/sparse") as file:
            rnd = random.Random(1)
            held = expected["sparse"][-1]
            for _ in range(30):
                at = rnd.choice((rnd.randrange(len(held)), 100_000 + rnd.randrange(6000) - 500))
                file.seek(at)
                assert file.read(7000) == held[at:at + 7000]


def test_a_long_extent(ram):
    """The longest there is, 32768 blocks: one more bit, and it would be one that is not written."""
    need_a_kernel("mke2fs")
    image = make(ram / "disk", 1024 * MIB, "-t", "ext4", "-G", "64")
    with mounted(image, ram / "mnt") as folder, open(folder / "big", "wb") as file:
        file.writelines(bytes([n + 1]) * MIB for n in range(200))
    with files_of_image(image) as files:
        assert max(piece.length for piece in files.pieces("big")) >= 32768 * 4096
        for n, part in enumerate(files.content("big")):
            assert set(part[:MIB]) == {4 * n + 1}


@pytest.mark.parametrize("options, seed", [("", 0), ("data=journal", 0), *(
    pytest.param(options, seed, marks=pytest.mark.long) for seed in (1, 2, 3, 4)
    for options in ("", "data=journal", "data=writeback,journal_async_commit"))])
def test_a_journal_that_was_not_replayed(options, seed, ram):
    """The disk of a mounted file system, copied while it is idle: the reader against the kernel, which replays it."""
    need_a_kernel("mke2fs")
    rnd = random.Random(f"{options} {seed}")
    features = rnd.choice(("^metadata_csum", "metadata_csum", "^64bit,^metadata_csum", "inline_data"))
    image = make(ram / "disk", 40 * MIB, "-t", "ext4", "-O", features, "-b", rnd.choice(("1024", "4096")),
                 "-J", f"size={rnd.choice((4, 8))}")
    pulled = []
    with mounted(image, ram / "mnt", *filter(None, (options,))) as folder:
        for step in range(4):
            change(folder, rnd)
            sync(folder)
            pulled.append(ram / f"pulled-{step}")
            shutil.copyfile(image, pulled[-1])
    dirty = 0
    for copy in pulled:
        with files_of_image(copy) as files:
            found = by_reader(files)
        replay = ram / "replay"
        shutil.copyfile(copy, replay)
        with mounted(replay, ram / "mnt") as folder:
            assert found == by_kernel(folder)
        with mounted(copy, ram / "mnt", "ro", "noload") as folder:
            try:
                dirty += found != by_kernel(folder)
            except OSError:     # without its journal the file system is damaged
                dirty += 1
    assert dirty


def change(folder, rnd):
    """A few changes: also blocks that are freed and used again as data, and content that looks like the journal's."""
    for _ in range(rnd.randrange(1, 30)):
        path = folder / f"d{rnd.randrange(4)}"
        match rnd.randrange(7):
            case 0:
                shutil.rmtree(path, ignore_errors=True)
            case 1:
                path.mkdir(exist_ok=True)
                for n in range(rnd.randrange(60)):
                    (path / f"name-{n}-{'x' * rnd.randrange(40)}").write_bytes(rnd.randbytes(rnd.randrange(200)))
            case 2:
                (folder / f"f{rnd.randrange(5)}").write_bytes(rnd.randbytes(rnd.randrange(100_000)))
            case 3:
                (folder / f"f{rnd.randrange(5)}").write_bytes(b"\xc0\x3b\x39\x98" * rnd.randrange(3000))
            case 4:
                (folder / f"f{rnd.randrange(5)}").unlink(missing_ok=True)
            case 5:
                with open(folder / f"f{rnd.randrange(5)}", "a+b") as file:
                    file.truncate(rnd.randrange(50_000))
            case 6:
                os.symlink("x" * rnd.randrange(1, 200), folder / f"l{rnd.getrandbits(64)}")


def sync(folder):
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
