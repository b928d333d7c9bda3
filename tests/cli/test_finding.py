"""history and diff: the same on a volume that is served and on one that is not, and what they refuse."""
import json
import subprocess

import pytest
from support.interop import cdp_argv
from support.interop import cdp_done as run

import cdp
from cdp.cli import exits

MIB = 1 << 20


def rows(*args):
    return [json.loads(line) for line in run(*args, "--json").stdout.splitlines()]


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    path = tmp_path_factory.mktemp("finding") / "web"
    with cdp.create(path, size=4 * MIB) as volume:
        volume.pwrite(b"a" * 8192, 0)
        volume.bookmark("before")
        volume.pwrite(b"b" * 4096, 4096, fua=True)      # 4
        volume.trim(4096, 0)                            # 5
        volume.pwrite(b"x" * MIB, MIB)                  # 6
        volume.trim(MIB, MIB)                           # 7: as it was
        volume.restore("before", offset=0, length=4096)
    return path


def asked(web):
    volume = str(web)
    return [rows("history", volume, "0:8K"), rows("history", volume, "0:8K", "--since", "#1", "--limit", "1"),
            rows("diff", f"{volume}@before"), rows("diff", f"{volume}@before", volume, "--written"),
            rows("diff", f"{volume}@#0", f"{volume}@before", "--range", "512:1K"),
            json.loads(run("diff", f"{volume}@before", f"{volume}@#5", "--count", "--json").stdout),
            json.loads(run("activity", volume, "--since", "#0", "--until", "#8", "--by", "1s", "--json").stdout)]


def test_the_same_with_a_server_and_without(web, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(web.parent))
    alone = asked(web)
    server = subprocess.Popen(cdp_argv("serve", web), stderr=subprocess.PIPE, text=True)
    try:
        while server.stderr.readline() != "cdp: ready\n":
            assert server.poll() is None
        assert asked(web) == alone
    finally:
        server.terminate()
        server.communicate(timeout=60)
    history, few, differs, written, part, count, activity = alone
    assert [(v["kind"], v["offset"], v["length"], v["present"], v["target"]) for v in history] == [
        ("write", 0, 8192, True, None), ("write", 4096, 4096, True, None), ("trim", 0, 4096, False, None),
        ("restore", 0, 4096, True, 1)]
    assert few == [history[1]] and history[1]["fua"]
    assert differs == [{"offset": 4096, "length": 4096, "kind": "data"}]
    assert written == [*differs, {"offset": MIB, "length": MIB, "kind": "hole"}]
    assert part == [{"offset": 512, "length": 1024, "kind": "data"}]
    assert sum(activity["written_bytes"]) == 8192 + 4096 + MIB and sum(activity["overwritten_bytes"]) == 4096
    assert sum(activity["trims"]) == 2 and activity["by_ns"] == 10**9 and activity["missing"] == 0
    assert sum(map(sum, activity["places"])) == sum(activity["written_bytes"])
    assert count["ranges"] == 2 and count["bytes"] == 8192 and count["by_kind"]["hole"]["bytes"] == 4096


def test_as_text(web):
    listed = run("history", str(web), "0").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["SEQ", "#1", "#5", "#8"]
    assert listed[2].endswith("taken back") and listed[3].endswith("present, to #1")
    more = run("history", str(web), "0:8K", "--limit", "2")
    assert "--since '#4' goes on" in more.stderr and len(more.stdout.splitlines()) == 3
    assert "nothing changed this range" in run("history", str(web), "3M").stderr
    differs = run("diff", f"{web}@before", str(web))
    assert differs.stdout.splitlines()[1].split() == ["4096", "4", "KiB", "data"] and "1 ranges" in differs.stderr
    assert "differ between #1 and #5" in run("diff", f"{web}@before", f"{web}@#5", "--count").stdout


def test_pages(web):
    """A diff of more ranges than a page has."""
    from cdp.service.files_at import ranges
    from cdp.service.local import VolumeService

    with cdp.open(web) as volume:
        found = VolumeService(volume)
        whole = list(ranges(found, 0, 6))
        pages, at = [], 0
        while at is not None:
            page = found.diff("#0", "#6", at, limit=1)
            pages += page["ranges"]
            at = page["next_offset"]
        assert pages == whole and len(whole) > 1
        versions, since = [], None
        while True:
            page = found.versions(0, 4 * MIB, since, limit=1)
            versions += page["versions"]
            if (since := page["next"]) is None:
                break
        assert [v["seq"] for v in versions] == [1, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(("args", "says"), [
    (("history", "{web}", "8M:4K"), "bytes"), (("history", "{web}", "0:0"), "is empty"),
    (("history", "{web}@before", "0"), "takes a volume, not a point"), (("diff", "{web}"), "needs a point"),
    (("diff", "{web}@before", "other"), "two moments of one volume"), (("history", "{web}", "x"), "offset"),
    (("history", "{web}", "0", "--since", "now", "--until", "#1"), "the first is the later one"),
    (("diff", "{web}@before", "{web}", "--range", "3M:2M"), "bytes")])
def test_refused(web, args, says):
    result = run(*(arg.format(web=web) for arg in args), status=exits.USAGE)
    assert says in result.stderr and result.stdout == ""


def test_in_python(tmp_path):
    with cdp.create(tmp_path / "v", size=MIB) as volume:
        volume.pwrite(b"1" * 1000, 100)
        with volume.at("now") as image:
            assert volume.history(100, 10).tolist()[0][4:7] == (100, 10, 10)    # clipped to what was asked
            assert image.moment.seq == 1 and len(volume.history(0)) == 1 and len(volume.history(MIB - 512)) == 0
        with pytest.raises(cdp.InvalidRequest):
            volume.history(MIB + 1)
        with pytest.raises(cdp.InvalidRequest):
            volume.history(0, MIB + 1)
        with pytest.raises(cdp.RefusedPoint):
            volume.diff(0, 99)
        waiting = volume.iter_diff(0)
    with pytest.raises(cdp.Closed):
        next(waiting)


def test_activity_is_shown(web, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown = run("activity", web, "--plot", tmp_path / "a.svg").stdout
    assert "1.0 MiB in 3 writes, 0% of it over data" in shown and "trimmed   1.0 MiB in 2 trims" in shown
    rows = [line for line in shown.splitlines() if line.startswith(("0", "1 MiB", "2 MiB"))]
    assert "\u2588" in rows[1] and "\u2588" not in rows[2] and max(map(len, shown.splitlines()[1:])) <= 100
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    monkeypatch.setattr("cdp.service.finding.MAX_PLACED_INTERVALS", 3)     # the history may be short
    assert "at most 3:" in run("activity", web, "--since", "#0", "--by", "1ms", status=exits.USAGE).stderr
