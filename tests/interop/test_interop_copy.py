"""nbdinfo, nbdcopy, qemu-img and qemu-io against volumes, past moments and writable images of a real server."""
import json
import os
import random

import pytest
from support.interop import MIB, need, run, sha256, world

pytestmark = pytest.mark.interop

SIZE_MIB = 32

__all__ = ["world"]


def served(world, *args, size_mib=SIZE_MIB):
    world.cdp("create", "web", "--size", f"{size_mib}M")
    world.serve("web", *args)
    return world.uri("web")


def qemu_io(uri, *commands, options=()):
    """qemu-io must do all of them; it ends with 0 also where a pattern was not found."""
    done = run("qemu-io", *options, "-f", "raw", *(part for line in commands for part in ("-c", line)), uri)
    assert "Pattern verification failed" not in done.stdout and "error" not in done.stdout.lower(), (uri, done.stdout)


def past_and_present(world):
    """A served volume with an ext4 image at #POINT, garbage over its head now, and the image web/fork of the point.

    Returns the file with the ext4 image, the one with the present content, and the point.
    """
    need("mke2fs", "nbdcopy", "qemu-io")
    image = world.ext4("disk.img", SIZE_MIB, files_bytes=8 * MIB)
    uri = served(world)
    run("nbdcopy", "--flush", image, uri)
    point = f"#{world.json('window', 'web')['newest']['seq']}"
    now = world.path / "now.img"
    now.write_bytes(random.Random(7).randbytes(4 * MIB) + image.read_bytes()[4 * MIB:])
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", now, uri)
    world.cdp("image", "create", f"web@{point}", "fork")
    return image, now, point


def test_nbdinfo_of_a_volume(world):
    need("nbdinfo")
    uri = served(world)
    got = json.loads(run("nbdinfo", "--json", uri).stdout)
    export = got["exports"][0]
    assert got["protocol"] == "newstyle-fixed" and got["structured"] is True and got["TLS"] is False
    assert export["export-size"] == SIZE_MIB * MIB and export["contexts"] == ["base:allocation"]
    for able in ("cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"):
        assert export[f"can_{able}"] is True, able
    assert export["is_read_only"] is False and export["block_size_maximum"] == 32 * MIB
    for question, status in (("--can write", 0), ("--can multi-conn", 0), ("--is read-only", 2),
                             ("--is rotational", 2)):
        run("nbdinfo", *question.split(), uri, status=status)
    assert run("nbdinfo", "--size", uri).stdout.strip() == str(SIZE_MIB * MIB)


def test_nbdinfo_lists_volumes_and_images(world):
    need("nbdinfo")
    world.cdp("create", "db", "--size", "1M")
    world.cdp("create", "web", "--size", "2M")
    world.cdp("image", "create", "web", "fork")
    world.cdp("image", "create", "web/fork", "again")
    world.serve("web", "db")
    got = json.loads(run("nbdinfo", "--json", "--list", world.uri("")).stdout)
    assert {one["export-name"]: one["export-size"] for one in got["exports"]} == {
        "web": 2 * MIB, "web/fork": 2 * MIB, "web/fork/again": 2 * MIB, "db": MIB}
    assert sorted(world.printed) == sorted(world.uri(name) for name in ("web", "web/fork", "web/fork/again", "db"))


def test_nbdinfo_of_a_name_that_is_none(world):
    need("nbdinfo")
    served(world)
    for name in ("nosuch", "web/nosuch", "web@#1", "web@nosuch", "web@2001-01-01T00:00:00Z"):
        done = run("nbdinfo", world.uri(name), status=None)
        assert done.returncode != 0, name
    run("nbdinfo", world.uri("web"))


def test_map_shows_holes_after_trim(world):
    need("nbdinfo", "qemu-io")
    uri = served(world)
    qemu_io(uri, "write -P 7 1M 8M", "discard 2M 1M", "write -z 5M 1M", "flush")
    # offset, length, type: 0 data, 2 zeros (allocated), 3 hole
    expected = [[0, MIB, 3], [MIB, MIB, 0], [2 * MIB, MIB, 3], [3 * MIB, 2 * MIB, 0], [5 * MIB, MIB, 2],
                [6 * MIB, 3 * MIB, 0], [9 * MIB, (SIZE_MIB - 9) * MIB, 3]]
    got = json.loads(run("nbdinfo", "--json", "--map", uri).stdout)
    assert [[one["offset"], one["length"], one["type"]] for one in got] == expected
    # The same of the moment before the trim, which has neither hole nor zeros in it.
    write = next(one["seq"] for one in world.json("records", "web") if one["kind"] == "write")
    got = json.loads(run("nbdinfo", "--json", "--map", world.uri(f"web@#{write}")).stdout)
    assert [[one["offset"], one["length"], one["type"]] for one in got] == [
        [0, MIB, 3], [MIB, 8 * MIB, 0], [9 * MIB, (SIZE_MIB - 9) * MIB, 3]]
    totals = json.loads(run("nbdinfo", "--json", "--map", "--totals", uri).stdout)
    assert {one["description"]: one["size"] for one in totals} == {
        "data": 6 * MIB, "zero": MIB, "hole,zero": (SIZE_MIB - 7) * MIB}


@pytest.mark.parametrize("options", [
    [], ["--connections=4"], ["--connections=4", "--requests=32", "--request-size=1048576"], ["--synchronous"],
    ["--destination-is-zero"], ["--allocated", "--threads=2"],
], ids=" ".join)
def test_nbdcopy_in_and_out(world, options):
    need("nbdcopy", "mke2fs", "e2fsck")
    image = world.ext4("disk.img", SIZE_MIB, files_bytes=8 * MIB)
    uri = served(world)
    run("nbdcopy", "--flush", *options, image, uri)
    out = world.path / "out.img"
    run("nbdcopy", *(option for option in options if "is-zero" not in option), uri, out)
    assert sha256(out) == sha256(image)
    run("e2fsck", "-fn", out)


def test_nbdcopy_of_moments_and_images(world):
    image, now, point = past_and_present(world)
    out = world.path / "out.img"
    for export, expected in (("web", now), (f"web@{point}", image), ("web/fork", image)):
        for options in ([], ["--connections=4"]):
            run("nbdcopy", *options, world.uri(export), out)
            assert sha256(out) == sha256(expected), (export, options)
            os.unlink(out)
    # Into the image: the volume and its past stay.
    run("nbdcopy", "--flush", now, world.uri("web/fork"))
    for export, expected in (("web/fork", now), (f"web@{point}", image), ("web", now), ("web/fork@#0", image)):
        run("nbdcopy", world.uri(export), out)
        assert sha256(out) == sha256(expected), export
    # Into a moment: refused, and nothing changes.
    assert run("nbdcopy", now, world.uri(f"web@{point}"), status=None).returncode != 0
    run("nbdcopy", world.uri(f"web@{point}"), out)
    assert sha256(out) == sha256(image)


def test_nbdcopy_from_volume_to_volume(world):
    need("nbdcopy", "mke2fs")
    image = world.ext4("disk.img", SIZE_MIB, files_bytes=8 * MIB)
    world.cdp("import", "disk.img", "web")
    world.cdp("create", "copy", "--size", f"{SIZE_MIB}M")
    world.serve("web", "copy")
    run("nbdcopy", "--flush", world.uri("web@#0"), world.uri("copy"))
    world.cdp("export", "copy", "out.img")
    assert sha256(world.path / "out.img") == sha256(image)


def test_qemu_img(world):
    need("qemu-img")
    image, now, point = past_and_present(world)
    for export in ("web", f"web@{point}", "web/fork"):
        got = json.loads(run("qemu-img", "info", "--output=json", "-f", "raw", world.uri(export)).stdout)
        assert got["virtual-size"] == SIZE_MIB * MIB, export
    for export, expected in (("web", now), (f"web@{point}", image), ("web/fork", image)):
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", expected, world.uri(export))
        out = world.path / "out.qcow2"
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", world.uri(export), out)
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", out, expected)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, world.uri("web"), status=1)
    run("qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", now, world.uri("web/fork"))
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", now, world.uri("web/fork"))
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, world.uri(f"web@{point}"))
    done = run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", now, world.uri(f"web@{point}"), status=None)
    assert done.returncode != 0


def test_qemu_img_map(world):
    need("qemu-img", "qemu-io")
    uri = served(world)
    qemu_io(uri, "write -P 7 0 8M", "discard 2M 1M")
    got = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", uri).stdout)
    assert [(one["start"], one["length"], one["data"]) for one in got] == [
        (0, 2 * MIB, True), (2 * MIB, MIB, False), (3 * MIB, 5 * MIB, True), (8 * MIB, (SIZE_MIB - 8) * MIB, False)]


def test_qemu_io(world):
    need("qemu-io")
    uri = served(world, size_mib=64)
    world.cdp("image", "create", "web", "fork")
    for export in (uri, world.uri("web/fork")):
        qemu_io(export, "write -P 1 0 1M", "write -f -P 2 64k 4k", "read -P 2 64k 4k", "read -P 1 0 64k",
                "read -P 1 68k 956k",
                "write -P 3 1000 777", "read -P 3 1000 777", "read -P 1 0 1000", "read -P 1 1777 1000",
                "discard 128k 64k", "read -P 0 128k 64k", "write -z 256k 64k", "read -P 0 256k 64k",
                "write -z -u 384k 64k", "read -P 0 384k 64k", "write -z -f 512k 4k", "read -P 0 512k 4k",
                "aio_write -P 4 2M 32M", "aio_flush", "flush", "read -P 4 2M 32M", "write -P 5 63M 1M",
                "read -P 5 63M 1M", options=("-t", "writeback"))
    kinds = {one["kind"]: one for one in world.json("records", "web", "--limit", "0")}
    assert {"write", "zero", "trim", "flush"} <= set(kinds)
    assert any(one["fua"] for one in world.json("records", "web", "--limit", "0"))


def test_qemu_io_on_a_moment(world):
    need("qemu-io")
    uri = served(world)
    qemu_io(uri, "write -P 1 0 1M", "flush")
    seq = world.json("window", "web")["newest"]["seq"]
    qemu_io(uri, "write -P 2 0 1M", "flush")
    qemu_io(world.uri(f"web@#{seq}"), "read -P 1 0 1M", options=("-r",))
    done = run("qemu-io", "-f", "raw", "-c", "write -P 3 0 1M", world.uri(f"web@#{seq}"), status=None)
    assert done.returncode != 0 or "read-only" in done.stdout + done.stderr.lower()
    qemu_io(uri, "read -P 2 0 1M", options=("-r",))


def test_points_as_users_write_them(world):
    """Ages, times, bookmarks and seqs in an export's name, through a client that quotes nothing itself."""
    need("nbdinfo", "qemu-io")
    uri = served(world)
    qemu_io(uri, "write -P 1 0 1M", "flush")
    made = world.json("bookmark", "web", "before-upgrade")
    time = made["at"]["time"]
    qemu_io(uri, "write -P 2 0 1M", "flush")
    for point in ("before-upgrade", "@before-upgrade", time, f"#{made['at']['seq']}"):
        qemu_io(world.uri(f"web@{point}"), "read -P 1 0 1M", options=("-r",))
    for point in ("now", "-0s"):
        qemu_io(world.uri(f"web@{point}"), "read -P 2 0 1M", options=("-r",))
    assert run("nbdinfo", "--size", world.uri("web@-1d"), status=None).returncode != 0, "before the volume was made"


def test_read_only_server(world):
    need("nbdinfo", "qemu-io", "nbdcopy")
    world.cdp("create", "web", "--size", "1M")
    world.serve("web", "--read-only")
    run("nbdinfo", "--is", "read-only", world.uri("web"))
    assert run("qemu-io", "-f", "raw", "-c", "write 0 4k", world.uri("web"), status=None).returncode != 0
    run("nbdcopy", world.uri("web"), "null:")
    assert world.json("window", "web")["newest"]["seq"] == 0
