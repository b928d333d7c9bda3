"""cdp archive: to a URL, continuously and once, and back; check and export of a URL; what is refused."""
from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from support.cli_world import SIZE, World, run, world, write  # noqa: F401

import cdp
from cdp.archive.commits import Fenced
from cdp.archive.follow import Follower
from cdp.archive.places import is_url, store_at
from cdp.archive.reader import Archive
from cdp.archive.writer import Writer, Written
from cdp.cli import exits
from cdp.service.locate import locate
from cdpcore.base.errors import CdpError, InvalidRequest, Unavailable


def test_there_and_back(world: World):  # noqa: F811
    url = f"file://{world.path}/archive"
    write(world, (0, b"a" * 4096))
    world.ok("bookmark", "web", "one")
    first = world.json("archive", "web", url, "--once")
    assert first["first"] and first["url"] == url and first["epoch"] == 1 and first["objects"] > 1
    (seq,) = write(world, (4096, b"b" * 8192))
    again = world.json("archive", "web", url, "--once")
    assert not again["first"] and again["upto"]["seq"] >= seq and again["epoch"] == 2
    idle = world.json("archive", "web", url, "--once")
    assert idle["objects"] == 0 and idle["upto"] == again["upto"] and idle["epoch"] == 2
    checked = world.json("check", url)
    assert checked["ok"] and checked["complete"] and checked["records"] >= seq and not checked["problems"]
    world.ok("export", f"{url}@one", "one.img")
    world.ok("export", url, "now.img")
    assert (world.path / "one.img").read_bytes() == b"a" * 4096 + bytes(SIZE - 4096)
    assert (world.path / "now.img").read_bytes() == b"a" * 4096 + b"b" * 8192 + bytes(SIZE - 12288)
    assert world.json("archive", url, "back")["upto"] == again["upto"]
    with cdp.open("back") as back:
        assert back.pread(SIZE, 0) == (world.path / "now.img").read_bytes()
    assert world.json("archive", "back", url, "--once")["epoch"] in (2, 3)      # that opening wrote nothing, or did
    world.refused(exits.USAGE, "archive", url, "back", hint="another name")
    next(iter((world.path / "archive" / "seg").iterdir())).write_bytes(b"?")
    assert world.run("check", url).exit_code == exits.CORRUPT


def test_an_archive_is_read_where_it_lies(world: World):  # noqa: F811
    url = f"file://{world.path}/archive/web"
    (world.path / "archive").mkdir()
    write(world, (0, b"a" * 4096), (8192, b"b" * 4096))
    world.ok("bookmark", "web", "one")
    write(world, (0, b"c" * 4096))
    upto = world.json("archive", "web", url, "--once")["upto"]
    here, there = world.json("window", "web"), world.json("window", url)
    assert there["newest"]["seq"] == upto["seq"] and there["oldest"] == here["oldest"]
    assert world.json("explain", f"{url}@one")["resolved"] == world.json("explain", "web@one")["resolved"]
    assert world.json("bookmarks", url) == world.json("bookmarks", "web")
    info = world.json("info", url)
    assert info["uuid"] == world.json("info", "web")["uuid"] and info["path"] == url
    assert world.ok("diff", f"{url}@one", url, "--json") == world.ok("diff", "web@one", "web", "--json") != ""
    for verb in ("bookmark", "delete", "undo", "backup"):
        world.refused(exits.USAGE, verb, url, *(["x"] if verb in ("bookmark", "backup") else []), hint="bring it back")
    for name in (world.path / "archive" / "web" / "seg").iterdir():
        name.write_bytes(name.read_bytes().replace(b"b" * 4096, b"x" + b"b" * 4095))
    done = world.run("export", url, "now.img")
    assert done.exit_code == exits.CORRUPT and "/seg/" in done.stderr and "does not match" in done.stderr
    assert not (world.path / "now.img").exists()


def test_an_archive_with_a_policy_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    url = f"file://{tmp_path}/archive"
    cdp.create("web", size=SIZE).close()
    for n in range(4):
        with cdp.open("web") as volume:     # which makes a segment of its own
            volume.pwrite(bytes([n + 1]) * SIZE, 0)
    first = json.loads(run("archive", "web", url, "--once", "--keep", "all for 1000y", "--json").stdout)
    assert first["given_up_bytes"] == 0
    with cdp.open("web") as volume:
        volume.free_before(volume.window().newest.seq, undo=False)
        oldest = volume.window().oldest.seq
    assert oldest > 0
    time.sleep(1.1)         # a rule has whole seconds, and so old has the history to be
    again = run("archive", "web", url, "--once", "--keep", "all for 1s")
    assert again.exit_code == exits.OK and "gave up" in again.stdout, again.output
    assert json.loads(run("window", url, "--json").stdout)["oldest"]["seq"] == oldest
    assert json.loads(run("check", url, "--json").stdout)["ok"]
    run("export", url, "now.img")
    assert Path("now.img").read_bytes() == b"\4" * SIZE
    for rules, hint in ((["1h for 9d"], "first"), (["all for 1d", "1h for 9d"], "rules for bookmarks")):
        done = run("archive", "web", url, "--once", *(word for rule in rules for word in ("--keep", rule)))
        assert done.exit_code == exits.USAGE, done.output
        assert hint in done.stderr


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    cdp.create("web", size=SIZE).close()
    for args, status, hint in (
            ("archive web other", exits.USAGE, "s3://BUCKET/FOLDER"),
            ("archive file:///a s3://b/c", exits.USAGE, "s3://BUCKET/FOLDER"),
            ("archive web s3://bucket", exits.USAGE, "s3://bucket/NAME"),
            ("archive web file://here", exits.USAGE, "file:///here"),
            ("archive web file:///nowhere/at/all --once", exits.NOT_FOUND, "create it"),
            ("archive web file:///tmp/x --once --every 5s", exits.USAGE, "one of them"),
            ("archive web file:///tmp/x --every 1ms", exits.USAGE, "200ms"),
            ("archive web@now file:///tmp/x --once", exits.USAGE, "leave off @now"),
            ("archive file:///nowhere/at/all back", exits.NOT_FOUND, "makes one"),
            ("archive file:///nowhere/at/all back --once", exits.USAGE, "leave them off"),
            ("archive file:///nowhere/at/all back --keep all", exits.USAGE, "leave them off"),
            ("check file:///nowhere --rebuild", exits.USAGE, "leave off"),
            ("check file:///nowhere", exits.NOT_FOUND, "makes one"),
            ("export file:///nowhere@now out.img", exits.NOT_FOUND, "makes one")):
        done = run(*args.split())
        assert (done.exit_code, done.stdout) == (status, ""), (args, done.output)
        assert hint in done.stderr and done.stderr.count("\n") == 1, (args, done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["web"]


def test_a_word_is_a_url_or_a_path():
    assert is_url("s3://a/b") and is_url("file:///a") and is_url("gs://a/b")
    assert not is_url("web") and not is_url("/a/b") and not is_url("http://a/b") and not is_url("s3:a")
    with pytest.raises(InvalidRequest):
        store_at("http://a/b")


def test_it_follows_until_it_is_stopped(world: World):  # noqa: F811
    store = store_at(f"file://{world.path}/archive")
    follower = Follower(locate("web"), cdp.Settings(), Writer(store), tail=True)
    rnd, content, seen, rounds = random.Random(1), bytearray(SIZE), list[Written](), 0

    def wait(_seconds: float) -> bool:
        nonlocal rounds
        rounds += 1
        if rounds % 3 == 0:         # nothing new
            return rounds > 12
        at, data = rnd.randrange(SIZE // 4096) * 4096, rnd.randbytes(4096)
        content[at:at + 4096] = data
        write(world, (at, data))
        return False

    follower.run(5.0, wait, seen.append, lambda error: pytest.fail(str(error)))
    assert seen[0].first and 1 + rounds * 2 // 3 - 2 <= len(seen) <= rounds
    Archive(store).fetch(str(world.path / "back"), cdp.Settings())
    with cdp.open("back") as back:
        assert back.pread(SIZE, 0) == content


def test_what_fails_is_repeated_later_and_a_writer_that_lost_stops(world: World):  # noqa: F811
    store = store_at(f"file://{world.path}/archive")
    first = Follower(locate("web"), cdp.Settings(), Writer(store), tail=True)
    write(world, (0, b"1" * 4096))
    waits, failures = list[float](), list[CdpError]()
    create = store.create

    def fails(name: str, data: bytes) -> None:
        raise Unavailable("no route")

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 4:
            store.create = create
        elif len(waits) == 5:       # another one takes over
            Follower(locate("web"), cdp.Settings(), Writer(store), tail=True).up_to_date()
            write(world, (0, b"2" * 4096))
            Follower(locate("web"), cdp.Settings(), Writer(store), tail=True).up_to_date()
            write(world, (0, b"3" * 4096))
        return len(waits) > 8

    store.create = fails        # type: ignore[method-assign]
    with pytest.raises(Fenced, match="taken this archive over"):
        first.run(0.5, wait, lambda written: None, failures.append)
    assert waits == [1.0, 2.0, 4.0, 8.0, 0.5] and len(failures) == 4


def test_a_protected_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk.img").write_bytes(b"d" * SIZE)
    assert run("create", "db", "--mode", "before", "--base", "disk.img").exit_code == 0
    done = run("archive", "db", f"file://{tmp_path}/archive", "--once")
    assert done.exit_code == exits.USAGE and "cdp backup" in done.stderr and not (tmp_path / "archive").exists()
