"""fio's nbd engine against a real server: random writes of mixed sizes that verify themselves, with trims and syncs."""
import json

import pytest
from support.interop import MIB, both, need, run

pytestmark = pytest.mark.interop

__all__ = ["both"]

SIZE_MIB = 256
MIXED = ["bssplit=512/10:4k/40:5k/10:64k/20:256k/20", "blockalign=512"]


def fio(world, uri, sections, *options, status=0):
    """Run a job file; the jobs' results."""
    need("fio")
    if "nbd" not in run("fio", "--enghelp").stdout:
        pytest.skip("this fio was built without its nbd engine")
    lines = ["[global]", "ioengine=nbd", f"uri={uri}", "verify=crc32c", "verify_fatal=1", "randseed=20261123", *options]
    for name, section in sections.items():
        lines += [f"[{name}]", *section]
    job = world.path / "job.fio"
    job.write_text("\n".join(lines) + "\n")
    done = run("fio", "--output-format=json", job, cwd=world.path, status=status)
    jobs = json.loads(done.stdout[done.stdout.index("{"):])["jobs"]
    assert all(job["error"] == 0 for job in jobs), done.stdout[:3000]
    assert "verify" not in done.stderr, done.stderr
    return {job["jobname"]: job for job in jobs}


@pytest.fixture(params=[1, pytest.param(4, marks=pytest.mark.long)], ids=["quarter", "whole"])
def scale(request):
    """How much is written: a quarter of it in `make test`, all in `make soak`."""
    return request.param


def regions(*extra, count=4, size_mib=24):
    """Jobs with regions of their own."""
    return {f"region{n}": [f"offset={n * size_mib}M", f"size={size_mib}M", *extra] for n in range(count)}


@pytest.fixture
def world(both):
    return both


@pytest.fixture
def uri(world):
    world.create("web", SIZE_MIB)
    world.serve("web")
    yield world.uri("web")
    world.stop()
    assert world.json("check", "web")["ok"]


def test_four_jobs_of_mixed_sizes(world, uri, scale):
    jobs = fio(world, uri, regions("rw=randwrite", size_mib=12 * scale), *MIXED, "iodepth=16", "fsync=64")
    assert all(job["write"]["io_bytes"] == job["read"]["io_bytes"] == 12 * scale * MIB for job in jobs.values())


def test_written_again_and_again(world, uri, scale):
    """Every block is written four times over, and verified each time, so most of the history is of lost versions."""
    jobs = fio(world, uri, regions("rw=randwrite", "loops=4", size_mib=4 * scale), "bs=4k", "iodepth=32",
               "fsync=128")
    assert all(job["write"]["io_bytes"] == 16 * scale * MIB for job in jobs.values())


def test_trimmed_and_written(world, scale):
    """Each block is trimmed, then written: four jobs, on a volume each (fio 3.33 forgets the writes of such a job where
    it has an offset)."""
    names, size_mib = [f"web{n}" for n in range(4)], 12 * scale
    for name in names:
        world.create(name, size_mib)
    world.serve(*names)
    jobs = fio(world, world.uri("web0"), {name: [f"uri={world.uri(name)}", "rw=randtrimwrite"] for name in names},
               "bs=16k", "iodepth=16", "fsync=32", f"size={size_mib}M")
    for name, job in jobs.items():
        assert job["trim"]["io_bytes"] == job["write"]["io_bytes"] == job["read"]["io_bytes"] == size_mib * MIB, name
    world.stop()
    for name in names:
        kinds = [one["kind"] for one in world.json("records", name, "--limit", "0")]
        assert kinds.count("trim") == kinds.count("write") == size_mib * MIB // 16384
        assert world.json("check", name)["ok"]


def test_writers_and_trimmers_side_by_side(world, uri, scale):
    """Two jobs write and verify; two more trim regions of their own meanwhile, through other connections."""
    size_mib = 12 * scale
    sections = regions("rw=randwrite", count=2, size_mib=size_mib) | {
        f"trim{n}": [f"offset={(n + 2) * size_mib}M", f"size={size_mib}M", "rw=randtrim", "bs=64k", "verify=0"]
        for n in range(2)}
    jobs = fio(world, uri, sections, *MIXED, "iodepth=16", "fsync=64")
    assert jobs["trim0"]["trim"]["io_bytes"] == jobs["trim1"]["trim"]["io_bytes"] == size_mib * MIB
    # What one connection trimmed, another one reads as zeros.
    run("qemu-io", "-r", "-f", "raw", "-c", f"read -P 0 {2 * size_mib}M {2 * size_mib}M", uri)


def test_many_connections(world, uri, scale):
    section = ["numjobs=12", f"offset_increment={4 * scale}M", f"size={4 * scale}M", "rw=randwrite", "group_reporting"]
    jobs = fio(world, uri, {"many": section}, *MIXED, "iodepth=4", "fsync=32")
    assert jobs["many"]["write"]["io_bytes"] == 12 * 4 * scale * MIB


def test_written_by_one_connection_verified_by_another(world, uri, scale):
    """The second fio, and so another connection, reads what the first one wrote; then again at the moment it ended."""
    section = {"all": ["rw=randwrite", f"size={16 * scale}M", "bs=4k", "iodepth=32", "end_fsync=1"]}
    fio(world, uri, section, "do_verify=0")
    seq = world.json("window", "web")["newest"]["seq"]
    fio(world, uri, section, "verify_only=1")
    run("qemu-io", "-f", "raw", "-c", f"write -P 9 0 {16 * scale}M", uri)
    fio(world, world.uri(f"web@#{seq}"), {"all": ["rw=randread", *section["all"][1:4]]})


def test_writable_image(world, uri, scale):
    world.cdp("image", "create", "web", "fork")
    fio(world, world.uri("web/fork"), regions("rw=randwrite", count=2, size_mib=12 * scale), *MIXED, "iodepth=16",
        "fsync=64")
    assert world.json("window", "web")["newest"]["seq"] == 0


@pytest.mark.parametrize("both", ["before"], indirect=True)
def test_while_a_restore_is_written_back(world):
    """Jobs write and verify on a volume that shows a restore which is on its way to the disk; then the disk is what the
    volume shows."""
    world.create("web", SIZE_MIB // 2)
    world.serve("web", "--set", "restore_rate_bytes=16M")
    run("qemu-io", "-f", "raw", "-c", "write -P 1 0 96M", "-c", "flush", world.uri("web"))
    seq = world.json("window", "web")["newest"]["seq"]
    run("qemu-io", "-f", "raw", "-c", "write -P 2 0 96M", "-c", "flush", world.uri("web"))
    world.json("restore", f"web@#{seq}")
    assert world.json("info", "web")["writeback"]["bytes_left"] > 50 * MIB
    fio(world, world.uri("web"), regions("rw=randwrite", size_mib=12), *MIXED, "iodepth=16", "fsync=64")
    assert world.json("info", "web")["writeback"]["bytes_left"] > 0
    run("qemu-io", "-r", "-f", "raw", "-c", "read -P 1 48M 48M", world.uri("web"))
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", world.uri("web"), world.path / "shown.img")
    world.stop()        # finishes it, whatever the rate
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", world.path / "shown.img", world.path / "web.img")
    assert world.json("check", "web")["ok"]
