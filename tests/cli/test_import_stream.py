"""import - and export -: a disk through a pipe, its size known when it has ended."""
import os
import subprocess
import threading

import pytest
from support.interop import cdp_argv, environ, run, world  # noqa: F401

import cdp
from cdp.cli.stream import Stream
from cdp.cli.transfer import PIECE_BYTES

MIB = 1 << 20


def disk(size):
    """Content with holes, and an end that is no block."""
    data = bytearray(size)
    data[0:4096] = b"begin" * 819 + b"!"
    if size > 20 * MIB:
        data[9 * MIB + 512:9 * MIB + 70000] = b"x" * (70000 - 512)
    data[-1:] = b"e"
    return bytes(data)


def piped(world, data, *args, status=0):  # noqa: F811
    """`cdp import - ARGS` with data that comes in small writes."""
    process = subprocess.Popen(cdp_argv("import", "-", *args), cwd=world.path, env=environ(), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def feed():
        try:
            for at in range(0, len(data), 100_000):
                process.stdin.write(data[at:at + 100_000])
        except BrokenPipeError:
            pass
        finally:
            try:
                process.stdin.close()
            except BrokenPipeError:
                pass

    feeder = threading.Thread(target=feed)
    feeder.start()
    out, err = process.stdout.read().decode(), process.stderr.read().decode()
    feeder.join()
    assert process.wait(60) == status, (out, err)
    return out + err


def content(world, volume):  # noqa: F811
    return subprocess.run(cdp_argv("export", volume, "-"), cwd=world.path, env=environ(), check=True,
                          capture_output=True).stdout


@pytest.mark.parametrize("size", [512, 4096, 24 * MIB + 1024, PIECE_BYTES, 2 * PIECE_BYTES])
def test_a_new_volume_of_the_size_of_the_stream(world, size):  # noqa: F811
    data = disk(size)
    said = piped(world, data, "web")
    assert "a new volume of" in said and "standard input" in said and "zeros" not in said
    assert content(world, "web") == data
    assert world.json("window", "web")["newest"]["seq"] == 0
    if size > 20 * MIB:
        assert os.stat(world.path / "web/base.img").st_blocks * 512 < MIB


def test_a_new_volume_with_a_size(world):  # noqa: F811
    data = disk(3 * MIB)
    said = piped(world, data, "web", "--size", "5M")
    assert "ended after 3145728 bytes: the last 2097152 bytes of web read as zeros" in said
    assert content(world, "web") == data + bytes(2 * MIB)
    said = piped(world, data, "less", "--size", "1M", status=2)
    assert "more" in said and "--size" in said and not (world.path / "less").exists()
    (world.path / "disk.img").write_bytes(data)
    world.cdp("import", "disk.img", "file", "--size", "4M")
    assert content(world, "file") == data + bytes(MIB)


def test_an_end_within_a_sector(world):  # noqa: F811
    data = disk(MIB + 100)
    assert "ends within a sector: 412 zero bytes are added" in piped(world, data, "web")
    assert content(world, "web") == data + bytes(412)


def test_nothing_comes(world):  # noqa: F811
    assert "standard input is empty" in piped(world, b"", "web", "--size", "1M", status=2)
    assert not (world.path / "web").exists()


def test_into_a_volume(world):  # noqa: F811
    """An untouched one gets a base, all or nothing; another one writes, which can be taken back."""
    data, old = disk(24 * MIB), disk(2 * MIB)
    world.cdp("create", "web", "--size", "32M")
    assert "standard input has" in piped(world, disk(40 * MIB), "web", status=2)
    assert world.json("window", "web")["newest"]["seq"] == 0 and content(world, "web") == bytes(32 * MIB)
    piped(world, old, "web")
    assert content(world, "web") == old + bytes(30 * MIB)
    said = piped(world, data, "web")
    assert "its last 8388608 bytes stay as they were" in said and "to take this back: cdp restore 'web@#0'" in said
    assert content(world, "web") == data + bytes(8 * MIB)
    said = piped(world, disk(40 * MIB), "web", status=2)
    assert "what came first is in web; to take this back: cdp restore 'web@#" in said
    world.cdp("restore", "web@#0")
    assert content(world, "web") == old + bytes(30 * MIB)
    assert "leave it out: web exists" in piped(world, old, "web", "--size", "1G", status=2)


def test_into_a_served_volume(world):  # noqa: F811
    world.cdp("create", "web", "--size", "32M")
    world.serve("web")
    data = disk(24 * MIB)
    piped(world, data, "web")
    assert content(world, "web") == data + bytes(8 * MIB)
    world.stop()


def test_containers(world):  # noqa: F811
    """Known by their beginning or, of a fixed VHD, by their end."""
    qcow2 = b"QFI\xfb\0\0\0\3" + bytes(4 * MIB - 8)
    assert "standard input is a qcow2 image, not a raw disk" in piped(world, qcow2, "web", status=2)
    vhd = bytes(MIB) + b"conectix\0\0\0\2\0\1\0\0" + b"\xff" * 8 + bytes(480)
    said = piped(world, vhd, "web", status=2)
    assert "VHD" in said and not (world.path / "web").exists()
    piped(world, qcow2, "raw", "--format", "raw")
    assert content(world, "raw") == qcow2
    assert "of standard input" in piped(world, qcow2, "web", "--format", "qcow2", status=2)


def test_a_pipe_that_does_not_block():
    """ssh sets its standard input so for all who share it; pieces come whole all the same."""
    r, w = os.pipe()
    os.set_blocking(r, False)
    data = disk(PIECE_BYTES + 4096)

    def feed():
        with os.fdopen(w, "wb") as file:
            file.write(data)

    feeder = threading.Thread(target=feed)
    feeder.start()
    stream = Stream(r, "a pipe")
    found = bytearray(len(data))
    for offset, length in stream.nonzero(lambda done: None):
        stream.read_into(offset, memoryview(found)[offset:offset + length])
    feeder.join()
    os.close(r)
    assert bytes(found) == data and stream.size_bytes == len(data)


def test_python_asks_for_the_size_last(tmp_path):
    from cdp.store.base_image import Base

    asked = []

    def read(offset, view):
        view[:] = b"x" * len(view)
        asked.append(offset)

    base = Base(read, iter([(0, 4096), (8192, 512)]), size_bytes=lambda: 8704 if len(asked) == 2 else 0)
    with cdp.create(tmp_path / "v", base=base) as volume:
        assert volume.size_bytes == 8704 and volume.pread(512, 8192) == b"x" * 512
    with pytest.raises(cdp.InvalidRequest):
        cdp.create(tmp_path / "w", base=Base(read, iter([]), size_bytes=lambda: 100))
    assert not (tmp_path / "w").exists()


def test_progress_without_a_total(world):  # noqa: F811
    """On a terminal: how much, how fast, and no bar."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(cdp_argv("import", "-", "web"), cwd=world.path, env=environ(), stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    process.stdin.write(os.urandom(20 * MIB))
    process.stdin.close()
    said = b""
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:
        pass
    os.close(ours)
    assert process.wait(60) == 0
    assert b"importing standard input  8 MiB  " in said and b"/s" in said and b"%" not in said, said
    assert "web" in run(*cdp_argv("info", "web"), cwd=world.path).stdout
