"""The commands of groups, on volumes that nobody serves; the commands of volumes that take GROUP@POINT; the command
before and the command after."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.interop import Started, cdp_done, cdp_here, environ

import cdp
from cdp.cli import exits
from cdp.cli.quiesce import quiesced
from cdp.service.groups import Group
from cdp.store import group_file as file


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A group of db and wal, with 1 in both at its bookmark `one`, and 2 now."""
    monkeypatch.chdir(tmp_path)
    for name in ("db", "wal"):
        cdp.create(name, size=1 << 20).close()
    write(1)
    cdp_here("group", "create", "shop", "db", "wal")
    cdp_here("group", "bookmark", "shop", "one")
    write(2)
    return tmp_path


def write(number):
    for name in ("db", "wal"):
        with cdp.open(name) as volume:
            volume.pwrite(bytes([number]) * 512, 0)


def shown():
    found = []
    for name in ("db", "wal"):
        with cdp.open(name) as volume:
            found.append(volume.pread(1, 0)[0])
    return found


def refused(*args, status=exits.USAGE):
    return cdp_done(*args, status=status).stderr


def test_a_round(shop):
    got = json.loads(cdp_here("group", "show", "shop", "--json"))
    assert [os.path.basename(path) for path in got["volumes"]] == ["db", "wal"] and got["interrupted"] is None
    assert [one["at"]["seq"] for one in got["bookmarks"][0]["volumes"]] == [1, 1]
    assert "put back to one" in cdp_here("restore", "shop@one", "--dry-run").replace("would be ", "")
    assert shown() == [2, 2]
    assert "cdp group undo shop" in cdp_done("restore", "shop@one").stderr and shown() == [1, 1]
    cdp_here("group", "undo", "shop")
    assert shown() == [2, 2]
    cdp_here("image", "create", "shop@one", "trial")
    with cdp.open("wal/images/trial") as image:
        assert image.pread(1, 0) == b"\1"
    os.mkdir("disks")
    cdp_here("export", "shop@one", "disks")
    assert sorted(os.listdir("disks")) == ["db.img", "wal.img"]
    assert all(Path(f"disks/{name}.img").read_bytes()[:1] == b"\1" for name in ("db", "wal"))
    cdp_here("group", "image", "shop", "trial", "--delete")
    cdp_here("group", "bookmark", "shop", "one", "--delete")
    with cdp.open("db") as volume:
        assert volume.images() == [] and volume.bookmarks() == []
    assert "shop" in cdp_here("group", "list")
    cdp_here("group", "remove", "shop")
    assert not os.path.exists("shop") and "no groups" in cdp_here("group", "list")


def test_a_time_of_all_volumes(shop):
    with cdp.open("wal") as volume:
        between = volume.resolve("one").ts_ns + 1
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(between // 10**9)) + f".{between % 10**9:09d}Z"
    cdp_here("group", "restore", f"shop@{text}")
    assert shown() == [1, 1]


def test_what_is_refused(shop):
    assert "group of volumes" in refused("info", "shop")
    assert "needs a point" in refused("restore", "shop") and "needs a point" in refused("group", "restore", "shop")
    assert "as a whole" in refused("restore", "shop@one", "--range", "0:512")
    assert "record of one volume" in refused("group", "restore", "shop@#1")
    assert "exists" in refused("group", "bookmark", "shop", "one")
    assert "exists" in refused("group", "create", "shop", "db")
    assert "twice" in refused("group", "create", "twice", "db", "./db")
    assert "no bookmark" in refused("group", "restore", "shop@none", status=exits.NOT_FOUND)
    assert "no such group" in refused("group", "show", "db", status=exits.NOT_FOUND)
    assert "raw disks" in refused("export", "shop@one", ".", "--delta")
    assert "goes alone" in refused("group", "bookmark", "shop", "one", "--delete", "--before", "true")
    os.rename("wal", "old")
    cdp.create("wal", size=1 << 20).close()
    assert "not the volume" in refused("group", "bookmark", "shop", "two")
    os.mkdir("moved")
    for name in ("db", "shop"):
        os.rename(name, f"moved/{name}")
    os.rename("old", "moved/wal")
    cdp_here("group", "bookmark", "moved/shop", "two")


def test_damage_is_said(shop):
    text = Path("shop/group.json").read_text()
    Path("shop/group.json").write_text(text.replace('"one"', '"two"'))
    assert "damaged" in refused("group", "show", "shop", status=exits.CORRUPT)


def test_what_was_interrupted_is_named_and_completed(shop):
    """As a process leaves it that was killed between the two volumes."""
    with Group("shop") as group:
        found = group.bookmarks()[0]
        definition = file.load(group._os, group.path)
        group._begin(definition, file.Pending(file.RESTORE, "one", group._newest(), found.at))
        group.services()[0].restore(f"#{found.at[0].seq}")
    assert shown() == [1, 2]
    assert "incomplete: restore one was interrupted" in cdp_here("group", "show", "shop")
    cdp_here("group", "bookmark", "shop", "next")
    assert shown() == [1, 1] and "incomplete" not in cdp_here("group", "show", "shop")
    cdp_here("group", "undo", "shop")
    assert shown() == [2, 2]


# the command before and the command after


def test_before_and_after(shop):
    cdp_here("group", "bookmark", "shop", "quiet", "--before", "echo frozen $CDP_BOOKMARK >> log",
             "--after", "echo thawed >> log")
    assert Path("log").read_text() == "frozen quiet\nthawed\n"
    for before, status in (("exit 3", "failed with status 3"), ("sleep 30", "took longer than 0.3 s")):
        os.unlink("log")
        assert status in refused("group", "bookmark", "shop", "no", "--before", before, "--after", "echo thawed >> log",
                                 "--time-limit", "300ms", status=exits.UNAVAILABLE)
        assert Path("log").read_text() == "thawed\n"
    assert "failed with status 4" in refused("group", "bookmark", "shop", "kept", "--after", "exit 4",
                                             status=exits.UNAVAILABLE)
    names = [one["name"] for one in json.loads(cdp_here("group", "show", "shop", "--json"))["bookmarks"]]
    assert names == ["one", "quiet", "kept"]


def test_the_time_limit_thaws_while_the_moment_is_waited_for(tmp_path):
    log = tmp_path / "log"
    with quiesced(None, f"echo thawed >> {log}", 0.2, {}) as valid:
        assert valid()
        for _ in range(500):
            if log.exists():
                break
            time.sleep(0.01)
        assert log.read_text() == "thawed\n" and not valid()


def test_a_moment_that_came_too_late_is_taken_back(shop):
    with Group("shop") as group, pytest.raises(cdp.Busy, match="too late"):
        group.bookmark("late", valid=lambda: False)
    assert "late" not in cdp_here("group", "show", "shop")
    with cdp.open("db") as volume:
        assert [mark.name for mark in volume.bookmarks()] == ["one"]


def test_after_runs_where_the_command_is_killed(tmp_path):
    log = tmp_path / "log"
    code = ("import sys, time\nfrom cdp.cli.quiesce import quiesced\n"
            "with quiesced(None, sys.argv[1], 60, {}):\n    print('in', flush=True)\n    time.sleep(60)")
    with Started([sys.executable, "-c", code, f"echo thawed >> {log}"], env=environ(), text=True,
                 stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "in\n"
        process.send_signal(signal.SIGKILL)
    for _ in range(500):
        if log.exists() and log.read_text() == "thawed\n":
            return
        time.sleep(0.01)
    pytest.fail("it was not run")
