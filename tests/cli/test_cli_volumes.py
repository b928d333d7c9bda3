"""Every command on real volumes, twice: opened by the command itself, and held by a server's administration socket.

What must hold both ways is written once; `way` is the parameter. Wrong uses give one line with a next step, the right
exit status, and leave the volume as it was.
"""
# ruff: noqa: F401, F811  (fixtures)
import json
import os
import shutil

import pytest
from support.cli_world import MIB, SIZE, here, run, world, write

import cdp
from cdp.cli import cli, exits, explain
from cdp.service.connect import connect
from cdp.service.local import VolumeService
from cdp.service.serving_file import remove_serving
from cdpcore.base import errors as kinds


def test_create(here):
    result = run("create", "web", "--size", "10M")
    assert result.exit_code == 0 and "10 MiB" in result.stdout and "cdp serve web" in result.stdout
    info = json.loads(run("create", "db", "--size", "4096", "--json").stdout)
    assert info["size_bytes"] == 4096 and info["name"] == "db" and info["window"]["newest"]["seq"] == 0
    with cdp.open("db") as volume:
        assert volume.size_bytes == 4096 and str(volume.uuid) == info["uuid"]


@pytest.mark.parametrize("args, status, hint", [
    (["web", "--size", "1M"], exits.USAGE, "'cdp info web' shows it"),
    (["file", "--size", "1M"], exits.USAGE, "does not exist yet"),
    (["folder", "--size", "1M"], exits.USAGE, "does not exist yet"),
    (["none/new", "--size", "1M"], exits.NOT_FOUND, "mkdir -p none"),
    (["file/new", "--size", "1M"], exits.NOT_FOUND, ""),
    (["new", "--size", "1000"], exits.USAGE, "take 1024"),
    (["new", "--size", "0"], exits.USAGE, "take 512"),
    (["new", "--size", "big"], exits.USAGE, "such as 64MiB or 10G"),
    (["new", "--size", "-5"], exits.USAGE, ""),
    (["new", "--size", "65P"], exits.USAGE, ""),
    (["new@now", "--size", "1M"], exits.USAGE, "take another name"),
    (["", "--size", "1M"], exits.USAGE, ""),
    (["new", "--size", "1M", "--segment-bytes", "1M"], exits.USAGE, "16MiB .. 4GiB"),
])
def test_create_refuses(here, args, status, hint):
    cdp.create("web", size=MIB).close()
    (here / "file").write_text("x")
    (here / "folder").mkdir()
    before = sorted(os.listdir(here))
    result = run("create", *args)
    assert result.exit_code == status, result.output
    assert result.stderr.startswith("cdp: error: ") and result.stderr.count("\n") == 1 and "; " in result.stderr
    assert hint in result.stderr, result.stderr
    assert sorted(os.listdir(here)) == before


# what there is


def test_info(world):
    write(world, (0, b"x" * 4096))
    text = world.ok("info", "web")
    assert "2 MiB" in text and ("by process" in text) == world.served and ("nbd://test/web" in text) == world.served
    info = world.json("info", "web")
    assert info["size_bytes"] == SIZE and info["window"]["newest"]["seq"] == 2 and info["stats"]["records"] == 2
    assert (info["served"] is not None) == world.served and info["parent"] is None


def test_window_and_explain(world):
    first, second = write(world, (0, b"a" * 512), (512, b"b" * 512))
    window = world.json("window", "web")
    assert window["oldest"]["seq"] == 0 and window["newest"]["seq"] == second + 1 and window["gaps"] == []
    assert "oldest  #0" in world.ok("window", "web") and window["newest"]["time"] in world.ok("window", "web")

    by_seq = world.json("explain", f"web@#{first}")
    assert by_seq["kind"] == "seq" and by_seq["resolved"]["seq"] == first and by_seq["next"]["seq"] == second
    assert by_seq["flush_durable"] is False
    assert f"it means     #{first}" in world.ok("explain", f"web@#{first}")
    # A printed time, pasted back, means the same record.
    by_time = world.json("explain", f"web@{by_seq['resolved']['time']}")
    assert by_time["kind"] == "time" and by_time["resolved"] == by_seq["resolved"]
    now = world.json("explain", "web@now")
    assert now["resolved"]["seq"] == second + 1 and now["next"] is None and now["flush_durable"] is True
    text = world.ok("explain", f"web@#{second}")
    assert "durable      yes: on disk, though the client had not flushed by then" in text and "next record" in text
    assert by_seq["durability"] == "stored" and now["durability"] == "flushed"


@pytest.mark.parametrize(("ns", "shown"), [
    (0, "0 ns"), (999, "999 ns"), (1_000, "1 us"), (99_949, "99.9 us"), (99_999, "100 us"), (999_499, "999 us"),
    (999_999, "999 us"), (999_999_999, "999 ms"), (1_234_000_000, "1.23 s"), (999_900_000_000, "999 s"),
    (86_400_000_000_000, "86400 s")])
def test_how_much_later_is_written_without_an_exponent(ns, shown):
    assert explain._span(ns) == shown


def test_points_as_people_write_them(world):
    write(world, (0, b"a" * 512))
    now = world.json("window", "web")["newest"]
    with_offset, spelled = now["time"].replace("Z", "+00"), now["time"].replace("T", " ").replace("Z", " UTC")
    for point in ("0 seconds ago", "-0h0m", spelled, with_offset):
        assert world.json("explain", f"web@{point}")["resolved"] == now, point
    world.refused(exits.USAGE, "bookmark", "web", "20261128T100000Z", hint="nor what reads like a time")
    old = world.json("window", "web")["oldest"]["time"]
    world.refused(exits.USAGE, "records", "web", "--since", now["time"], "--until", old, hint=f"write --since {old}")
    world.refused(exits.USAGE, "records", "web", "--since", "-0s", "--until", now["time"],
                  hint="the first is the later one")
    assert world.ok("records", "web", "--since", "#1", "--until", "#1")


def test_points_that_are_refused(world):
    write(world, (0, b"a" * 512))
    world.refused(exits.REFUSED, "explain", "web@#99")
    world.refused(exits.REFUSED, "explain", "web@2001-01-01T00:00:00Z")
    world.refused(exits.REFUSED, "explain", "web@2101-01-01T00:00:00Z")
    world.refused(exits.REFUSED, "explain", "web@-10d")
    world.refused(exits.REFUSED, "restore", "web@#99")
    world.refused(exits.REFUSED, "image", "create", "web@#99", "x")
    world.refused(exits.REFUSED, "bookmark", "web", "x", "--at", "-10d")
    world.refused(exits.REFUSED, "export", "web@#99", "out.img")
    world.refused(exits.NOT_FOUND, "explain", "web@nosuchmark")
    for nonsense in ("#x", "-10", "-10y", "2026-13-01T00:00:00Z", "#-1", "12:99"):
        assert world.run("explain", f"web@{nonsense}").exit_code in (exits.USAGE, exits.NOT_FOUND), nonsense
        world.refused(world.run("explain", f"web@{nonsense}").exit_code, "explain", f"web@{nonsense}")
    world.refused(exits.USAGE, "explain", "web", hint="write web@POINT")
    world.refused(exits.USAGE, "info", "web@now", hint="leave off @now")
    world.refused(exits.USAGE, "explain", "web@")


@pytest.mark.parametrize("args", [
    ["info", "{}"], ["window", "{}"], ["explain", "{}@now"], ["bookmark", "{}", "x"], ["bookmarks", "{}"],
    ["records", "{}"],
    ["image", "create", "{}@now", "x"], ["image", "list", "{}"], ["image", "delete", "{}", "x"],
    ["export", "{}", "out.img"],
    ["restore", "{}@now"], ["undo", "{}"], ["restores", "{}"], ["check", "{}"], ["serve", "{}"],
], ids=lambda args: " ".join(args))
def test_what_is_no_volume(world, args):
    (world.path / "folder").mkdir()
    (world.path / "file").write_text("x")
    for name in ("nowhere", "folder", "file", "web/noimage", "folder/none"):
        world.refused(exits.NOT_FOUND, *[arg.format(name) for arg in args])


# bookmarks


def test_bookmarks(world):
    first, _ = write(world, (0, b"a" * 512), (0, b"b" * 512))
    assert world.ok("bookmarks", "web").startswith("web: no bookmarks")
    made = world.json("bookmark", "web", "early", "--at", f"#{first}")
    assert made["name"] == "early" and made["at"]["seq"] == first
    world.ok("bookmark", f"web@#{first}", "also-early")
    world.ok("bookmark", "web", "late")
    listed = world.json("bookmarks", "web")
    assert [mark["name"] for mark in listed][-1] == "late" and len(listed) == 3
    assert "early" in world.ok("bookmarks", "web")
    assert world.json("explain", "web@early")["resolved"]["seq"] == first
    assert world.json("explain", "web@@early")["resolved"]["seq"] == first
    result = world.run("bookmark", "web", "early", "--delete")
    assert result.exit_code == 0 and f"cdp bookmark web early --at '#{first}'" in result.stderr
    assert [mark["name"] for mark in world.json("bookmarks", "web")] == ["also-early", "late"]


def test_bookmarks_that_are_refused(world):
    world.ok("bookmark", "web", "mark")
    world.refused(exits.USAGE, "bookmark", "web", "mark")
    world.refused(exits.NOT_FOUND, "bookmark", "web", "other", "--delete")
    world.refused(exits.USAGE, "bookmark", "web@now", "x", "--at", "now", hint="given twice")
    world.refused(exits.USAGE, "bookmark", "web", "mark", "--delete", "--at", "now")
    for name in ("", "a b", "a@b", "-10m", "#5", "now", "x" * 2000, "a/b", "2026-11-23"):
        world.refused(exits.USAGE, "bookmark", "web", "--", name)


# images


def test_images(world):
    first, _ = write(world, (0, b"a" * 512), (0, b"b" * 512))
    assert "no images" in world.ok("image", "list", "web")
    made = world.json("image", "create", f"web@#{first}", "test")
    assert made["name"] == "test" and made["at"]["seq"] == first and os.path.isdir(made["path"])
    world.ok("image", "create", "web/test", "inner")
    assert [image["name"] for image in world.json("image", "list", "web")] == ["test"]
    assert [image["name"] for image in world.json("image", "list", "web/test")] == ["inner"]
    assert world.json("image", "list", "web")[0]["children"] == 1
    info = world.json("info", "web/test")
    assert info["parent"] is not None
    assert (info["served"] or {"uris": []})["uris"] == ["nbd://test/web/test"] * world.served
    with connect("web/test/inner") as service:
        assert service.read(0, 512) == b"a" * 512
        service.write(0, b"c" * 512)
        service.flush()
    world.ok("export", "web/test/inner", "inner.img")
    assert (world.path / "inner.img").read_bytes()[:512] == b"c" * 512
    with connect("web") as service:
        assert service.read(0, 512) == b"b" * 512
    # The history of an image is its own.
    assert world.json("window", "web/test/inner")["newest"]["seq"] >= 1
    dry = world.json("image", "delete", "web/test", "inner", "--dry-run")
    assert dry["dry_run"] and dry["deleted"]["name"] == "inner"
    assert len(world.json("image", "list", "web/test")) == 1
    world.ok("image", "delete", "web/test", "inner")
    world.ok("image", "delete", "web", "test")
    assert world.json("image", "list", "web") == []
    assert not os.path.exists(made["path"])


def test_images_that_are_refused(world):
    world.ok("image", "create", "web@now", "test")
    world.ok("image", "create", "web/test", "inner")
    world.refused(exits.USAGE, "image", "create", "web@now", "test")
    world.refused(exits.NOT_FOUND, "image", "delete", "web", "none", hint="cdp image list web")
    assert world.run("image", "delete", "web", "test").exit_code in (exits.BUSY, exits.REFUSED)  # an image begins in it
    for name in ("", "a/b", "..", ".", "a@b", "x" * 300, "a\nb"):
        world.refused(exits.USAGE, "image", "create", "web@now", "--", name)


# restore


def test_restore_and_undo(world):
    first, _ = write(world, (0, b"a" * 4096), (0, b"b" * 4096))
    dry = world.json("restore", f"web@#{first}", "--dry-run")
    assert dry["dry_run"] and dry["target"]["seq"] == first and dry["explanation"]["resolved"]["seq"] == first
    with connect("web") as service:
        assert service.read(0, 4096) == b"b" * 4096
    result = world.run("restore", f"web@#{first}")
    assert result.exit_code == 0 and "put back" in result.stdout and "cdp undo web" in result.stderr
    with connect("web") as service:
        assert service.read(0, 4096) == b"a" * 4096
    assert "would be taken back" in world.ok("undo", "web", "--dry-run")
    undone = world.json("undo", "web")
    assert undone["undo_of"] is not None
    with connect("web") as service:
        assert service.read(0, 4096) == b"b" * 4096
    listed = world.json("restores", "web")
    assert len(listed) == 2 and listed[0]["target"]["seq"] == first and listed[1]["undo_of"] == listed[0]["seq"]
    assert "undo of" in world.ok("restores", "web")


def test_restore_of_a_range(world):
    first, _ = write(world, (0, b"a" * 8192), (0, b"b" * 8192))
    done = world.json("restore", f"web@#{first}", "--range", "4K:4096")
    assert (done["offset"], done["length"]) == (4096, 4096)
    with connect("web") as service:
        assert service.read(0, 8192) == b"b" * 4096 + b"a" * 4096


def test_destructive_restore(world):
    first, _ = write(world, (0, b"a" * 8192), (0, b"b" * 8192))
    dry = world.json("restore", f"web@#{first}", "--destructive", "--dry-run")
    assert dry["destructive"] and not dry["undoable"]
    result = world.run("restore", f"web@#{first}", "--destructive")
    assert result.exit_code == 0 and "cannot be undone" in result.stderr
    with connect("web") as service:
        assert service.read(0, 8192) == b"a" * 8192
        assert service.window()["gaps"]
    assert "freed by a destructive restore" in world.ok("window", "web")
    world.refused(exits.REFUSED, "explain", f"web@#{first + 1}")


def test_restores_that_are_refused(world):
    world.refused(exits.REFUSED, "undo", "web", hint="cdp restores")
    assert "no restores" in world.ok("restores", "web")
    write(world, (0, b"a" * 512))
    world.refused(exits.USAGE, "restore", "web", hint="write web@POINT")
    world.refused(exits.USAGE, "restore", "web@now", "--range", "1M", hint="--range 1M:64K")
    world.refused(exits.USAGE, "restore", "web@now", "--range", "x:y")
    world.refused(exits.USAGE, "restore", "web@now", "--range", "0:0", hint="length above 0")
    world.refused(exits.USAGE, "restore", "web@#0", "--range", f"{SIZE}:512")
    world.refused(exits.USAGE, "restore", "web@#0", "--range", f"{SIZE - 512}:1024")
    world.refused(exits.USAGE, "restore", "web@#0", "--range", "16P:16P")


# records


def test_records(world):
    write(world, *((i * 4096, bytes([i + 1]) * 4096) for i in range(5)))
    with world.volume() as volume:
        volume.trim(8192, 0)
        volume.zero(4096, 8192, fua=True)
    text = world.ok("records", "web")
    assert [line.split()[2] for line in text.splitlines()[1:]] == ["write"] * 5 + ["flush", "trim", "zero"]
    lines = [json.loads(line) for line in world.ok("records", "web", "--json").splitlines()]
    assert [record["seq"] for record in lines] == list(range(1, 9))
    assert lines[0]["kind"] == "write" and (lines[0]["offset"], lines[0]["length"]) == (0, 4096)
    assert lines[6]["kind"] == "trim" and lines[6]["length"] == 8192
    assert lines[7]["fua"] is True and lines[0]["fua"] is False
    part = world.run("records", "web", "--since", "#2", "--until", "#5", "--limit", "2", "--json")
    assert [json.loads(line)["seq"] for line in part.stdout.splitlines()] == [3, 4]
    assert "--since '#4'" in part.stderr
    rest = world.run("records", "web", "--since", "#4", "--until", "#5", "--json")
    assert [json.loads(line)["seq"] for line in rest.stdout.splitlines()] == [5] and rest.stderr == ""
    assert len(world.ok("records", "web", "--limit", "0", "--json").splitlines()) == 8
    world.refused(exits.REFUSED, "records", "web", "--since", "#99")
    world.refused(exits.USAGE, "records", "web", "--since", "#x")


def test_records_in_many_pages(world, monkeypatch):
    from cdp.cli import records

    monkeypatch.setattr(records, "RECORDS_PAGE", 7)
    write(world, *((i * 512, b"x" * 512) for i in range(30)))
    for limit, count in (("0", 31), ("20", 20), ("7", 7), ("31", 31), ("100", 31)):
        seqs = [json.loads(line)["seq"] for line in world.ok("records", "web", "--limit", limit, "--json").splitlines()]
        assert seqs == list(range(1, count + 1))


# export and import


def test_check(world):
    write(world, (0, b"a" * 4096))
    got = world.json("check", "web")
    assert got["ok"] and got["problems"] == []
    assert "no problems" in world.ok("check", "web")
    if world.served:
        world.refused(exits.BUSY, "check", "web", "--rebuild", hint="stop its server")
    else:
        before = world.state()
        assert got["records"] == 2 and got["bytes_read"] >= 4096
        world.ok("check", "web", "--rebuild")
        assert world.state() == before


def test_check_of_a_damaged_volume(here):
    cdp.create("web", size=MIB).close()
    with cdp.open("web") as volume:
        volume.pwrite(b"d" * 65536, 0)
    log = next((here / "web" / "log").iterdir())
    with open(log, "r+b") as file:
        at = file.read().index(b"d" * 512) + 1000
        file.seek(at)
        file.write(b"x")
    result = run("check", "web")
    assert result.exit_code == exits.CORRUPT and "1 problem" in result.stdout and log.name in result.stdout
    shown = run("check", "web", "--json")
    assert shown.exit_code == exits.CORRUPT
    got = json.loads(shown.stdout)
    assert got["ok"] is False and got["problems"][0]["what"] and got["problems"][0]["hint"]


def test_a_lost_catalog_is_rebuilt(here):
    cdp.create("web", size=MIB).close()
    with cdp.open("web") as volume:
        volume.pwrite(b"d" * 4096, 0)
        volume.bookmark("mark")
    shutil.rmtree("web/catalog.lmdb")
    result = run("info", "web")
    assert result.exit_code == exits.CORRUPT and result.stderr.count("\n") == 1
    assert "cdp check --rebuild" in result.stderr
    assert run("check", "web").exit_code == exits.CORRUPT
    assert run("check", "web", "--rebuild").exit_code == 0
    assert [mark["name"] for mark in json.loads(run("bookmarks", "web", "--json").stdout)] == ["mark"]


# who holds it


def test_a_volume_that_another_holds_without_serving(world):
    if world.served:
        remove_serving("web")  # the holder cannot be found
        for args in (["info", "web"], ["check", "web"], ["restore", "web@now"], ["serve", "web"]):
            result = run(*args)
            assert result.exit_code == exits.BUSY and result.stderr.count("\n") == 1 and "; " in result.stderr
    else:
        with cdp.open("web"):
            result = run("info", "web")
        assert result.exit_code == exits.BUSY and result.stderr.count("\n") == 1 and "; " in result.stderr


def test_a_volume_that_the_user_may_not_enter(here):
    cdp.create("web", size=MIB).close()
    (here / "disk.img").write_bytes(b"x" * 512)
    is_root = os.geteuid() == 0
    here.chmod(0o555)
    for path in (here / "web", here / "disk.img"):
        path.chmod(0o000)
    try:
        if is_root:
            os.seteuid(65534)
        for args in (["info", "web"], ["export", "web@now", "out.img"], ["check", "web"], ["serve", "web"],
                     ["import", "disk.img", "new"], ["create", "new", "--size", "1M"]):
            result = run(*args)
            assert result.exit_code == exits.UNAVAILABLE, (args, result.output)
            assert result.stderr.count("\n") == 1 and "Permission denied; run as a user who may" in result.stderr
    finally:
        if is_root:
            os.seteuid(0)
        here.chmod(0o755)
        (here / "web").chmod(0o755)
    assert sorted(os.listdir(here)) == ["disk.img", "web"]


def test_serving_what_is_served(world):
    if world.served:
        world.refused(exits.BUSY, "serve", "web", "--unix", "x.sock", hint="is served already")


def test_a_server_that_goes_away_is_told(world):
    if not world.served:
        pytest.skip("needs a server")
    with connect("web") as service:
        service.window()
        world.close()
        with pytest.raises(kinds.Unavailable, match="does not answer"):
            service.window()
    with connect("web") as service:  # now the volume itself
        assert isinstance(service, VolumeService)


@pytest.mark.parametrize(("free_mib", "advice"), [(1, "; free space\n"), (10, None)])
def test_too_little_space_for_a_write_is_said_at_once(tmp_path, monkeypatch, capfd, free_mib, advice):
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(1 << 40, 0, free_mib * MIB))
    assert cli.main(["create", str(tmp_path / "w"), "--size", "1G"], standalone_mode=False) in (0, None)
    told = capfd.readouterr().err
    if advice is None:
        assert told == ""
    else:
        assert told.startswith("cdp: warning: ") and told.count("\n") == 1 and advice in told
