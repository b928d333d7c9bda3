"""Damaged and hostile file systems: the reader ends in bounded time with an answer or a clear error, and its process
has no rights."""
import json
import os
import random
import struct
import subprocess
import sys

import pytest
from support.interop import need
from support.mounted import by_reader, make

import cdp
from cdp.files.session import Files
from cdpcore.base.errors import CdpError, Closed, Corruption, InvalidRequest, NotFound, Unavailable

pytestmark = pytest.mark.once
MIB = 1 << 20


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """(its bytes, what is in it): blocks of 1 KiB, so that there are trees; a third of the images have checksums."""
    need("mke2fs")
    folder = tmp_path_factory.mktemp("hostile")
    tree = folder / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    for n in range(60):
        (tree / "a" / f"name-{n}").write_bytes(bytes([n]) * n * 37)
    (tree / "big").write_bytes(random.Random(1).randbytes(300_000))
    os.symlink("a/name-3", tree / "link")
    return make(folder / "disk", 4 * MIB, "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^resize_inode", "-N", "128",
                "-d", str(tree)).read_bytes()


def of(data, **limits):
    return Files(lambda length, offset: bytes(data[offset:offset + length]), len(data), **limits)


def look(data):
    """Everything that can be read; an error is one of ours, and says something."""
    with of(data, cpu_seconds=10) as files:
        try:
            return by_reader(files, most_bytes=4 * MIB)     # what is there has a tenth of that
        except CdpError as error:
            assert isinstance(error, (Corruption, Unavailable, NotFound, InvalidRequest)) and error.message
            return error


def damaged(data, rnd):
    """Bytes of what describes the file system changed, or blocks of it exchanged."""
    data = bytearray(data)
    used = [at for at in range(1024, len(data), 1024) if any(data[at:at + 1024])]
    meta = [at for at in used if at < 100 * 1024]
    for _ in range(rnd.choice((1, 3, 20))):
        at = rnd.choice(meta if rnd.random() < 0.8 else used)
        match rnd.randrange(4):
            case 0:
                data[at + rnd.randrange(1024)] = rnd.randrange(256)
            case 1:
                struct.pack_into("<I", data, at + 4 * rnd.randrange(256), rnd.choice((0, 1, 2, 0xFFFFFFFF, 1 << 31,
                                                                                    rnd.getrandbits(12))))
            case 2:
                data[at:at + 1024] = rnd.randbytes(1024)
            case 3:
                other = rnd.choice(used)
                data[at:at + 1024] = data[other:other + 1024]
    return data


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(5, 400))])
def test_damaged(image, seed):
    look(damaged(image, random.Random(seed)))


def test_undamaged(image):
    found = look(image)
    assert found["a/name-7"][-1] == b"\7" * 259 and len(found["big"][-1]) == 300_000 and len(found) > 64


@pytest.mark.long
@pytest.mark.parametrize("seed", range(200))
def test_damaged_journal(image, seed, tmp_path):
    """A journal of noise, of the kind that a journal has, and the flag that it is to be replayed."""
    rnd = random.Random(seed)
    data = bytearray(make(tmp_path / "disk", 8 * MIB, "-t", "ext4", "-b", "1024", "-J", "size=1", "-O",
                          rnd.choice(("^metadata_csum", "metadata_csum,^64bit"))).read_bytes())
    at = data.index(struct.pack(">II", 0xC03B3998, 4))
    struct.pack_into("<I", data, 1024 + 0x60, struct.unpack_from("<I", data, 1024 + 0x60)[0] | 4)
    struct.pack_into(">II", data, at + 0x18, 1, 1)
    struct.pack_into(">I", data, at + 0x28, rnd.choice((0, 1, 2, 3, 0x12)))
    for block in range(1, 200):
        begin = at + block * 1024
        data[begin:begin + 1024] = rnd.choice((bytes(1024), rnd.randbytes(1024)))
        struct.pack_into(">III", data, begin, 0xC03B3998, rnd.choice((1, 1, 2, 2, 5)), 1 + block // 5)
    look(data)


def inode_at(data, number):
    """Of the first group."""
    table = struct.unpack_from("<I", data, 2048 + 8)[0]
    return table * 1024 + (number - 1) * struct.unpack_from("<H", data, 1024 + 0x58)[0]


def test_extents_in_a_circle(image):
    data = bytearray(image)
    with of(data) as files:
        at = inode_at(data, files.stat("big").inode)
        block = files.pieces("big")[0].disk // 1024
    node = struct.pack("<HHHHI", 0xF30A, 4, 4, 5, 0) + struct.pack("<IIHH", 0, block, 0, 0) * 4
    data[at + 0x28:at + 0x28 + 60] = node
    data[block * 1024:block * 1024 + 1024] = (struct.pack("<HHHHI", 0xF30A, 80, 84, 4, 0)
                                             + struct.pack("<IIHH", 0, block, 0, 0) * 84 + bytes(4))
    with of(data) as files, pytest.raises(Corruption, match="extents of inode"):
        files.read("big")


def test_a_directory_below_itself(image):
    data = bytearray(image)
    at = data.index(struct.pack("<HBB", 1000, 1, 2) + b"c")     # the entry of a/b/c leads to a
    with of(image) as files:
        struct.pack_into("<I", data, at - 4, files.stat("a").inode)
    found = look(data)
    assert "a/b/c" in found and "a/b/c/b" not in found


def test_a_very_large_directory_and_file(image):
    data = bytearray(image)
    with of(data) as files:
        at, big = inode_at(data, files.stat("a").inode), inode_at(data, files.stat("big").inode)
    struct.pack_into("<I", data, at + 4, 0xFFFFFC00)
    struct.pack_into("<II", data, big + 4, 0, struct.unpack_from("<I", data, big + 8)[0])
    struct.pack_into("<I", data, big + 0x6C, 1 << 20)
    with of(data) as files:
        with pytest.raises(Corruption, match="a directory of"):
            files.entries("a")
        assert files.stat("big").size_bytes == 1 << 52
        assert sum(piece.length for piece in files.pieces("big")) == 1 << 52
        with pytest.raises(InvalidRequest, match="too many to read at once"):
            files.read("big")
        with files.open("big") as file:
            file.seek((1 << 52) - 10)
            assert file.read() == bytes(10)


def test_limits(image):
    """Of memory, and of processor time: a reader that goes on for ever is ended by the system."""
    data = bytearray(image)
    with of(data) as files:
        at = inode_at(data, files.stat("a").inode)
    struct.pack_into("<I", data, at + 4, 200 << 20)     # a directory that is one hole
    struct.pack_into("<I", data, at + 0x20, 0)
    data[at + 0x28:at + 0x28 + 60] = bytes(60)
    with of(data, memory_bytes=128 << 20) as files:
        with pytest.raises(Unavailable, match="more memory"):
            files.entries("a")
        assert files.stat("big").size_bytes == 300_000
    # Pointers that all lead to themselves: as many blocks as a file may have.
    data = bytearray(image)
    with of(data) as files:
        at = inode_at(data, files.stat("big").inode)
        own = files.pieces("big")[0].disk // 1024
    struct.pack_into("<I", data, at + 0x20, 0)      # no extents
    struct.pack_into("<15I", data, at + 0x28, *[own] * 15)
    data[own * 1024:own * 1024 + 1024] = struct.pack("<256I", *[own] * 256)
    struct.pack_into("<I", data, at + 4, 0xFFFFFFFF)
    with of(data, cpu_seconds=1) as files:
        with pytest.raises((Unavailable, Corruption)):
            files.pieces("big")
        assert files.stat("a").kind == "directory"      # another process takes its place


RIGHTS = """
import json, os, resource, socket, sys
from cdp.files.sandbox import lock_down
held = os.open("/", os.O_RDONLY)
filtered = lock_down(256 << 20, 5)
def attempt(what):
    try:
        what()
        return "done"
    except (OSError, MemoryError) as error:
        return type(error).__name__
found = {"open": lambda: os.open("/etc/passwd", os.O_RDONLY), "openat": lambda: os.open("etc", 0, dir_fd=held),
         "write": lambda: os.open("/tmp/x", os.O_CREAT | os.O_WRONLY), "socket": lambda: socket.socket(),
         "fork": os.fork, "exec": lambda: os.execv("/bin/true", ["true"]), "kill": lambda: os.kill(os.getppid(), 0),
         "memory": lambda: bytearray(1 << 30), "setuid": lambda: os.setuid(0), "chdir": lambda: os.chdir("/")}
found = {name: attempt(what) for name, what in found.items()}
print(json.dumps([filtered, found]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux filters system calls")
@pytest.mark.cold
def test_the_process_has_no_rights():
    environ = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(cdp.__file__))}
    done = subprocess.run([sys.executable, "-c", RIGHTS], env=environ, capture_output=True, text=True, check=True)
    filtered, found = json.loads(done.stdout)
    if not filtered:
        pytest.skip("this kernel, or machine, filters no system calls")
    assert found == {**dict.fromkeys(found, "PermissionError"), "memory": "MemoryError"}


def test_no_process_stays(image):
    files = of(image)
    files.entries()
    process = files._process
    files.close()
    assert process.poll() is not None
    with pytest.raises(Closed):
        files.entries()


def test_what_the_disk_raises_is_raised(image):
    def broken(length, offset):
        raise Corruption("a block of the log is damaged")

    with Files(broken, len(image)) as files:
        for _ in range(2):
            with pytest.raises(Corruption, match="a block of the log"):
                files.entries()
