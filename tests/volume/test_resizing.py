"""A volume of another size: what it holds, every moment of it, its images and its checks stay right."""
import random

import pytest
from support.interop import cdp_argv, run, world  # noqa: F401

import cdp
from cdp.check import check, rebuild
from cdp.nbd.client import Client
from cdp.store.base_image import Base
from cdp.volume.resizing import resize
from cdpcore.base.errors import InvalidRequest, NotFound, RefusedPoint

MIB = 1 << 20
SETTINGS = cdp.Settings(segment_bytes=16 * MIB, pool_bytes=16 * MIB)


def with_base(path, size):
    data = random.Random(1).randbytes(size // 2)
    base = Base(lambda at, view: view.__setitem__(slice(None), data[at:at + len(view)]), [(0, len(data))])
    cdp.create(path, size=size, base=base, settings=SETTINGS).close()
    return bytearray(data + bytes(size - len(data)))


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 6))])
def test_every_moment_after_growing_again_and_again(tmp_path, seed):
    """Against a model: writes, trims, restores of ranges and of all of it, destructive ones, and undo."""
    rnd, size = random.Random(seed), 2 * MIB
    path = tmp_path / "v"
    now = with_base(path, size) if seed % 2 else bytearray(size)
    if not seed % 2:
        cdp.create(path, size=size, settings=SETTINGS).close()
    moments = {0: bytes(now)}
    for _ in range(5):
        with cdp.open(path, settings=SETTINGS) as volume:
            assert volume.size_bytes == size and volume.pread(size, 0) == now
            for _ in range(40):
                at = rnd.randrange(size // 512) * 512
                n = min(rnd.choice([512, 4096, 200_000]) // 512 * 512, size - at)
                if rnd.random() < 0.2:
                    volume.trim(n, at)
                    now[at:at + n] = bytes(n)
                else:
                    data = rnd.randbytes(n)
                    volume.pwrite(data, at)
                    now[at:at + n] = data
                moments[volume.window().newest.seq] = bytes(now)
            target = rnd.choice(sorted(moments))
            destructive = rnd.random() < 0.4
            done = volume.restore(target, destructive=destructive)
            if destructive:
                moments = {seq: data for seq, data in moments.items() if seq <= target}
            now = bytearray(moments[target].ljust(size, b"\0"))
            moments[done.seq] = bytes(now)
            if not destructive and rnd.random() < 0.5:
                before = moments[max(seq for seq in moments if seq < done.seq)]
                now = bytearray(before.ljust(size, b"\0"))
                moments[volume.undo().seq] = bytes(now)
        bigger = size + rnd.choice([512, 4096, MIB // 4, MIB + 512])
        assert resize(path, bigger, settings=SETTINGS) == size
        now += bytes(bigger - size)
        size = bigger
        assert check.check(path).ok
    with cdp.open(path, settings=SETTINGS) as volume:
        for seq, data in moments.items():
            with volume.at(seq) as image:
                assert image.pread(size, 0) == data.ljust(size, b"\0"), seq
    assert rebuild.rebuild(path).ok
    with cdp.open(path, settings=SETTINGS) as volume:
        assert volume.size_bytes == size and volume.pread(size, 0) == now


def test_images_keep_their_size(tmp_path):
    with cdp.create(tmp_path / "v", size=MIB, settings=SETTINGS) as volume:
        volume.pwrite(b"1" * 4096, 0)
        volume.create_image("old")
    resize(tmp_path / "v", 3 * MIB)
    with cdp.open(tmp_path / "v", settings=SETTINGS) as volume:
        volume.pwrite(b"2" * 4096, 2 * MIB)
        volume.create_image("new")
        with volume.open_image("old") as image:
            assert image.size_bytes == MIB and image.pread(4096, 0) == b"1" * 4096
            image.pwrite(b"3" * 512, MIB - 512)
        with volume.open_image("new") as image:
            assert image.size_bytes == 3 * MIB and image.pread(4096, 2 * MIB) == b"2" * 4096
    with pytest.raises(InvalidRequest, match="is a writable image"):
        resize(tmp_path / "v/images/old", 2 * MIB)
    with pytest.raises(RefusedPoint):
        resize(tmp_path / "v", 2 * MIB, shrink=True)


def test_smaller(tmp_path):
    """Only where nothing is lost."""
    path = tmp_path / "v"
    now = with_base(path, 4 * MIB)      # its data end at 2 MiB
    with cdp.open(path, settings=SETTINGS) as volume:
        volume.pwrite(b"1" * 4096, 3 * MIB - 4096)
    with pytest.raises(InvalidRequest, match="--shrink"):
        resize(path, 3 * MIB)
    with pytest.raises(RefusedPoint, match="record #1 is about bytes beyond"):
        resize(path, 2 * MIB, shrink=True)
    assert resize(path, 3 * MIB, shrink=True) == 4 * MIB
    now[3 * MIB - 4096:] = b"1" * 4096
    with cdp.open(path, settings=SETTINGS) as volume:
        assert volume.size_bytes == 3 * MIB and volume.pread(3 * MIB, 0) == now
    assert check.check(path).ok and (path / "base.img").stat().st_size == 3 * MIB
    (tmp_path / "other").mkdir()
    other = with_base(tmp_path / "other/v", 4 * MIB)
    with pytest.raises(RefusedPoint, match="data at byte 1048576 at its oldest moment"):
        resize(tmp_path / "other/v", MIB, shrink=True)
    with cdp.open(tmp_path / "other/v", settings=SETTINGS) as volume:
        assert volume.pread(4 * MIB, 0) == other


def test_a_crash_between_the_two_steps(tmp_path):
    """The base is longer by then, and the volume as it was; the next try goes through."""
    now = with_base(tmp_path / "v", MIB)
    with open(tmp_path / "v/base.img", "r+b") as file:
        file.truncate(2 * MIB)
    assert check.check(tmp_path / "v").ok
    with cdp.open(tmp_path / "v", settings=SETTINGS) as volume:
        assert volume.size_bytes == MIB and volume.pread(MIB, 0) == now
    resize(tmp_path / "v", 2 * MIB)
    with cdp.open(tmp_path / "v", settings=SETTINGS) as volume:
        assert volume.pread(2 * MIB, 0) == now + bytes(MIB)


def test_refused(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(MIB))
    with cdp.create(tmp_path / "v", disk=tmp_path / "disk", settings=SETTINGS):
        pass
    with pytest.raises(InvalidRequest, match=r"its size is that of the disk .*disk"):
        resize(tmp_path / "v", 2 * MIB)
    with pytest.raises(NotFound):
        resize(tmp_path / "w", 2 * MIB)
    with cdp.create(tmp_path / "w", size=MIB, settings=SETTINGS), pytest.raises(cdp.Busy):
        resize(tmp_path / "w", 2 * MIB)
    with pytest.raises(InvalidRequest):
        resize(tmp_path / "w", 1000)


def test_a_disk_that_grew(world):  # noqa: F811
    """With its old history it does not fit; adopt takes it as it is."""
    (world.path / "disk").write_bytes(b"1" * MIB)
    world.cdp("create", "web", "--mode", "before", "--base", "disk")
    with (world.path / "disk").open("ab") as file:
        file.truncate(2 * MIB)
    run(*cdp_argv("info", "web"), cwd=world.path, status=5)
    world.cdp("adopt", "web", "--discard-history")
    assert world.json("info", "web")["size_bytes"] == 2 * MIB


def test_the_command(world):  # noqa: F811
    world.create("web", 1)
    world.serve("web")
    done = run(*cdp_argv("resize", "web", "2M"), cwd=world.path, status=7)
    assert f"web is served, by process {world.server.pid}" in done.stderr
    world.stop()
    assert world.cdp("resize", "web", "2M") == "web: 2 MiB (2097152 bytes), was 1 MiB\n"
    world.serve("web")
    with Client(world.uri("web")) as client:
        assert client.size_bytes == 2 * MIB
        client.pwrite(b"x" * 512, 2 * MIB - 512)
    world.stop()
    run(*cdp_argv("resize", "web", "1M", "--shrink"), cwd=world.path, status=4)
    assert world.json("check", "web")["ok"]
