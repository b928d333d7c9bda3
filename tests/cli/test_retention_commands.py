"""policy, prune, pins, space and bookmark --for: the same on a volume that is served and on one that is not."""
import json
import os
import subprocess
import time

import pytest
from support.interop import cdp_argv
from support.interop import cdp_done as run

import cdp
from cdp.cli import exits

MIB = 1 << 20


def said(*args):
    return json.loads(run(*args, "--json").stdout)


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """A volume of eight segments."""
    folder = tmp_path_factory.mktemp("retention")
    with cdp.create(folder / "web", size=8 * MIB, settings=cdp.Settings(segment_bytes=16 * MIB)) as volume:
        for n in range(8):
            volume.pwrite(os.urandom(8 * MIB), 0)
            volume.bookmark(f"b{n}")
    time.sleep(1.1)     # all of it is older than a second
    return folder / "web"


def test_the_same_with_a_server_and_without(web, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(web.parent))
    asked = ("policy", str(web), "--keep", "all for 1s", "--simulate")
    alone = said(*asked)
    assert alone["freed_bytes"] * 2 > alone["history_bytes"] and "b0" in alone["bookmarks_lost"]
    small = run("policy", str(web), "--keep", "all for 1s", status=exits.REFUSED)
    assert "--yes sets it" in small.stderr and "bookmarks b0" in small.stderr
    server = subprocess.Popen(cdp_argv("serve", web), stderr=subprocess.PIPE, text=True)
    try:
        while server.stderr.readline() != "cdp: ready\n":
            assert server.poll() is None
        served = said(*asked)
        for field in ("kept", "start", "needed", "freed_bytes", "bookmarks_lost", "records_lost"):
            assert served[field] == alone[field], field
        assert "b0" in run("policy", str(web), "--keep", "all for 1s", status=exits.REFUSED).stderr
        assert said("policy", str(web), "--keep", "all for 2d")["keep"] == ["all for 48h"]
        run("bookmark", f"{web}@b3", "kept", "--for", "30d")
        pins = said("pins", str(web))
        assert [(pin["kind"], pin["owner"]) for pin in pins] == [("bookmark", "kept")]
        assert "it was made with --for" in run("pins", str(web)).stdout
        assert said("prune", str(web), "--dry-run")["freed_bytes"] == 0
        space = said("space", str(web))
        assert space["history_bytes"] > 60 * MIB and space["levels_off_bytes"] is None or space["bytes_a_day"]
        run("policy", str(web), "--keep", "all for 1s", "--yes")
        done = said("prune", str(web))
        info, explained = said("info", str(web)), said("explain", f"{web}@kept")
        assert info["window"]["oldest"]["seq"] == done["start"]["seq"] <= pins[0]["at"]["seq"]
        assert info["retention"]["keep"] == ["all for 1s"] and info["retention"]["freed_bytes"] > 0
        assert any("bookmark kept, which holds" in what for what in explained["kept_by"])
        assert {mark["name"] for mark in said("bookmarks", str(web))} == {"b3", "b4", "b5", "b6", "b7", "kept"} | {
            mark["name"] for mark in said("bookmarks", str(web)) if mark["at"]["seq"] >= done["start"]["seq"]}
        gone = run("explain", f"{web}@#1", status=exits.REFUSED)
        assert "before the oldest moment" in gone.stderr
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert said("policy", str(web))["keep"] == ["all for 1s"]
    assert "everything is kept" in run("policy", str(web), "clear").stdout


@pytest.mark.parametrize(("args", "says"), [
    (("set",), "set takes a file"), (("set", "none.toml"), "no such policy file"),
    (("show", "x"), "goes without more"), (("--floor", "1d"), "add, for instance, --keep 'all for 48h'"),
    (("--keep", "all for 1"), "--keep: 'all for 1'"), (("--keep", "all for 1h", "--floor", "2h"), "--floor = '2h'"),
    (("--keep", "all for 1h", "--when-full", "thin"), "--when-full: there is no limit")])
def test_what_makes_no_sense_is_refused_and_says_what_would(web, args, says):
    result = run("policy", str(web), *args, status=exits.NOT_FOUND if "no such" in says else exits.USAGE)
    assert says in result.stderr and result.stdout == ""


def test_a_policy_from_a_file(web, tmp_path):
    file = tmp_path / "web.toml"
    file.write_text('keep = ["all for 7d", "1h for 90d"]\n')
    simulated = run("policy", str(web), "set", str(file), "--simulate").stdout
    assert "1h for 90d" in simulated and "thinned" in simulated and "not yet" not in simulated
    assert "1h for 90d" in run("policy", str(web), "set", str(file)).stdout
    run("policy", str(web), "clear")
    file.write_text('keep = ["all for 7d"]\nfloor = "8d"\n')
    assert f"{file}:2: floor = '8d' is longer" in run("policy", str(web), "set", str(file), status=exits.USAGE).stderr
    assert "has no retention policy" in run("prune", str(web), status=exits.USAGE).stderr
