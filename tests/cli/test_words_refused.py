"""What cannot be meant is refused in one line that says what, and what to do next, by the library and by the command
line alike."""
import os

import pytest

import cdp
from cdp.check import check, rebuild
from cdp.cli import cli
from cdp.ha.daemon import Daemon
from cdp.moments import points
from cdp.text import sizes as units
from cdpcore.base.errors import InvalidRequest, Unavailable

LONG = "n" * 300


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "said"), [("w\0", "zero byte"), (LONG, "name of 300 bytes"),
                                            ("bad\udcff", "not text in UTF-8"), ("a/" * 2000, "path of")])
@pytest.mark.parametrize("call", [cdp.open, lambda n: cdp.create(n, size=512), lambda n: cdp.create("x", disk=n),
                                  cdp.adopt, cdp.detach,
                                  check.check, rebuild.rebuild],
                         ids=["open", "create", "disk", "adopt", "detach", "check", "rebuild"])
def test_a_path_that_cannot_be_one(here, call, name, said):
    with pytest.raises(InvalidRequest, match=said) as caught:
        call(name)
    assert caught.value.hint and "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert os.listdir(here) == []


def test_a_name_has_room_for_what_is_added_while_it_is_made(here):
    cdp.create("n" * 246, size=512).close()
    with pytest.raises(InvalidRequest, match="247 bytes; use at most 246"):
        cdp.create("n" * 247, size=512)


def test_settings_are_settings(here):
    for call in (lambda: cdp.create("w", size=512, settings={}), lambda: cdp.open("w", settings={"pool_bytes": 1})):
        with pytest.raises(InvalidRequest, match=r"dict is not cdp\.Settings"):
            call()


@pytest.mark.parametrize(("size_bytes", "said"),
                         [(0, "is empty"), (1000, "no multiple of 512; enlarge it to 1024 bytes: truncate -s 1024 /")])
def test_a_disk_of_no_size_to_protect_is_named(here, size_bytes, said):
    (here / "disk.img").write_bytes(bytes(size_bytes))
    with pytest.raises(InvalidRequest, match=said) as caught:
        cdp.create("w", disk="disk.img")
    assert str(here / "disk.img") in str(caught.value) and not (here / "w").exists()


def told(capfd, *argv):
    status = cli.main(list(argv), standalone_mode=False)
    return status, capfd.readouterr().err


@pytest.mark.parametrize(("argv", "status", "said"), [
    (["create", LONG, "--size", "1G"], 2, "use at most 246"),
    (["info", LONG], 2, "use at most 255"),
    (["create", "/proc/x", "--size", "1G"], 8, "nothing can be made in that folder"),
    (["create", "w", "--size", "0"], 2, "a sector or more"),
    (["create", "w", "--size", "-1"], 2, "'-1' is not a size"),
    (["create", "w", "--size", "1e3"], 2, "'1e3' is not a size"),
    (["create", "w", "--size", "\uff11G"], 2, "is not a size"),
    (["create", "w", "--size", "9999P"], 2, "64 PiB"),
])
def test_the_command_line_says_so(here, capfd, argv, status, said):
    if argv[1].startswith("/proc") and not os.path.isdir("/proc/self"):
        pytest.skip("there is no /proc")
    got, err = told(capfd, *argv)
    assert got == status and said in err and err.startswith("cdp: error: ") and err.count("\n") == 1 and ";" in err


def test_a_size_may_have_a_blank():
    assert units.parse_size("10 GB") == 10**10


@pytest.mark.parametrize("point", ["@", "#", "#-1", "", " ", "2026-02-30T00:00:00", "25:00", "#\uff11", "-\uff11s",
                                   "a\0b", "bad\udcff"])
def test_a_point_that_cannot_be_one(point):
    with pytest.raises(InvalidRequest, match="not a (point|time)") as caught:
        points.parse(point, 10**18)
    assert caught.value.hint and "\n" not in str(caught.value)


def test_an_age_of_nothing_is_now():
    assert points.parse("-0s", 10**18).ts_ns == 10**18


def test_a_daemon_says_what_it_waits_for(here, caplog, monkeypatch):
    daemon = Daemon(str(here / "none.sock"), cdp.Settings())
    waits = iter([False] * 50)
    monkeypatch.setattr(daemon._stopping, "wait", lambda _s: next(waits, True) and daemon._stopping.set())
    daemon.serve()
    assert [r.message for r in caplog.records].count(
        f"waiting for a gateway at {here}/none.sock: none listens there; without limit, until SIGTERM, SIGINT or SIGHUP"
    ) == 1


def test_a_folder_that_takes_nothing(here):
    if not os.path.isdir("/proc/self"):
        pytest.skip("there is no /proc")
    with pytest.raises(Unavailable, match="nothing can be made"):
        cdp.create("/proc/x", size=512)
