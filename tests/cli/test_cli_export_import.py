"""export and import, with and without a server: sparse files, formats of names, what is refused, what a failure
leaves."""
# ruff: noqa: F401, F811  (fixtures)
import json
import os
import random

from click.testing import CliRunner
from support.cli_world import KIB, MIB, SIZE, here, run, world, write

import cdp
from cdp.cli import cli, exits


def content(seed):
    """A disk with data, zeros and holes."""
    rng = random.Random(seed)
    data = bytearray(SIZE)
    for offset, length in ((0, 5000), (256 * KIB, 512 * KIB), (MIB + 512, 1024), (SIZE - 512, 512)):
        data[offset : offset + length] = rng.randbytes(length)
    return bytes(data)


def test_export_and_import(world):
    old, new = content(1), content(2)
    (world.path / "old.img").write_bytes(old)
    (world.path / "new.img").write_bytes(new)
    world.ok("import", "old.img", "web")
    before = world.json("window", "web")["newest"]["seq"]
    result = world.run("import", "new.img", "web")
    assert result.exit_code == 0 and f"cdp restore 'web@#{before}'" in result.stderr
    world.ok("export", "web", "out.img")
    assert (world.path / "out.img").read_bytes() == new
    assert (world.path / "out.img").stat().st_blocks * 512 < MIB  # sparse
    world.ok("export", f"web@#{before}", "out.img", "--force")
    assert (world.path / "out.img").read_bytes() == old
    assert not list(world.path.glob("out.img.part*"))
    piped = CliRunner().invoke(cli, ["export", "web", "-"], prog_name="cdp")
    assert piped.exit_code == 0 and piped.stdout_bytes == new and piped.stderr == ""
    shown = world.json("export", "web", "again.img")
    assert shown["out"] == "again.img" and shown["size_bytes"] == SIZE


def test_import_makes_a_volume(here):
    data = content(3) + b"tail"
    (here / "disk.img").write_bytes(data)
    result = run("import", "disk.img", "new")
    assert result.exit_code == 0 and "508 zero bytes are added" in result.stderr
    with cdp.open("new") as volume:
        assert volume.size_bytes == SIZE + 512
        assert volume.pread(volume.size_bytes, 0) == data + bytes(508)
        assert volume.window().newest.seq == 0  # the base, not history
    result = run("import", "disk.img", "more", "--json")
    assert json.loads(result.stdout)["new"] is True


def test_import_into_a_volume_that_nobody_wrote_to_becomes_its_base(here):
    (here / "disk.img").write_bytes(content(4))
    cdp.create("web", size=SIZE + MIB).close()
    assert run("import", "disk.img", "web").exit_code == 0
    with cdp.open("web") as volume:
        assert volume.pread(SIZE, 0) == content(4) and volume.window().newest.seq == 0


def test_exports_and_imports_that_are_refused(world, monkeypatch):
    (world.path / "small.img").write_bytes(b"x" * 4096)
    (world.path / "empty.img").write_bytes(b"")
    (world.path / "large.img").write_bytes(bytes(SIZE + 512))
    (world.path / "folder").mkdir()
    world.ok("bookmark", "web", "mark")
    world.refused(exits.USAGE, "export", "web", "small.img", hint="--force")
    world.refused(exits.USAGE, "export", "web", "folder")
    world.refused(exits.NOT_FOUND, "export", "web", "none/out.img", hint="mkdir -p none")
    world.refused(exits.USAGE, "export", "web", "-", "--json")
    world.refused(exits.NOT_FOUND, "import", "none.img", "web")
    world.refused(exits.NOT_FOUND, "import", "none.img", "newvolume")
    world.refused(exits.USAGE, "import", "empty.img", "newvolume", hint="empty")
    world.refused(exits.USAGE, "import", "folder", "newvolume")
    world.refused(exits.USAGE, "import", "-", "newvolume")
    world.refused(exits.USAGE, "import", "large.img", "web", hint="import into a new volume")
    world.refused(exits.USAGE, "import", "small.img", "web@mark", hint="cdp image create")
    world.refused(exits.NOT_FOUND, "import", "small.img", "none/new")
    world.refused(exits.NOT_FOUND, "import", "small.img", "folder")


def test_what_lies_beside_an_export_stays(world):
    (world.path / "out.img.part").write_text("precious")
    world.ok("export", "web", "out.img")
    assert (world.path / "out.img.part").read_text() == "precious"


def test_a_pipe_is_no_image_and_is_not_waited_for(world):
    os.mkfifo(world.path / "pipe")
    result = world.run("import", "pipe", "new")
    assert result.exit_code == exits.USAGE and "neither a file nor a block device" in result.stderr


def test_a_failed_export_leaves_what_was_there(world, monkeypatch):
    write(world, (0, b"a" * 4096))
    (world.path / "out.img").write_text("precious")
    from cdp.cli import transfer

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer.os, "pwrite", full)
    result = world.run("export", "web", "out.img", "--force")
    monkeypatch.undo()
    assert result.exit_code == exits.NO_SPACE and "No space left" in result.stderr
    assert (world.path / "out.img").read_text() == "precious" and not list(world.path.glob("out.img.part*"))


def test_a_failed_import_leaves_no_volume(here, monkeypatch):
    (here / "disk.img").write_bytes(content(5))
    from cdp.cli.transfer import Source

    def broken(self, offset, buffer):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Source, "read_into", broken)
    result = run("import", "disk.img", "new")
    assert result.exit_code == exits.UNAVAILABLE and result.stderr.count("\n") == 1
    assert not (here / "new").exists()


# check
