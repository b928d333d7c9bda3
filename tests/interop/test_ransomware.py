"""Files of a served ext4 are encrypted, over NBD: the alert comes, the page marks it on the bar and says so by keys,
"diff --files" lists what was touched and nothing else, and the restore of the page brings all of it back."""
import json
import random
import shutil
import time

import pytest
from support.interop import need, world
from support.mounted import make

import cdp
from cdp.nbd.client import Client

__all__ = ["world"]
pytestmark = [pytest.mark.interop, pytest.mark.once, pytest.mark.long]
MIB = 1 << 20
WAIT_S = 120


def touched(volume_path, a, b, world):
    rows = [json.loads(line) for line in world.cdp("diff", f"{volume_path}@{a}", f"{volume_path}@{b}", "--files",
                                                   "--json", status=None).splitlines()]
    return {row["path"] for row in rows}


def test_seen_and_undone(world):
    need("mke2fs", "chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, the Python package")
    tree, rnd = world.path / "tree", random.Random(1)
    for n in range(40):
        (tree / f"d{n % 4}").mkdir(parents=True, exist_ok=True)
        (tree / f"d{n % 4}" / f"f{n}").write_bytes(b"%06d of the books of the year\n" % n * 4000)
    disk = make(world.path / "disk", 32 * MIB, "-t", "ext4", "-b", "4096", "-d", str(tree)).read_bytes()
    with cdp.create(world.path / "web", size=32 * MIB) as volume:
        volume.pwrite(disk, 0)
        volume.flush()
        volume.bookmark("good")
        with volume.at("now") as image, image.files() as files:
            pieces = {f"d{n % 4}/f{n}": files.pieces(f"d{n % 4}/f{n}") for n in range(40)}
    world.serve("web", "--timeline", "127.0.0.1:0", "--alert-suspicious-bytes", "1MiB")
    url = world.printed[-1]
    time.sleep(11)      # a look at what is honest
    victims = sorted(pieces)[:30]
    with Client(world.uri("web")) as client:
        for name in victims:
            for piece in pieces[name]:
                if piece.disk is not None:
                    client.pread(piece.length, piece.disk)
                    client.pwrite(rnd.randbytes(piece.length), piece.disk)
        client.flush()
    until_s = time.monotonic() + WAIT_S
    while not (alerts := world.json("info", "web")["alerts"]):
        assert time.monotonic() < until_s
        time.sleep(1)
    assert [alert["kind"] for alert in alerts] == ["suspicious"]
    assert touched("web", "good", "now", world) == set(victims)
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = opened.new_page()
        tab.goto(url)
        tab.wait_for_selector("body[data-ready=true]")
        assert tab.locator("#legend", has_text="suspicious changes").count() == 1
        assert tab.locator("#marks td", has_text="suspicious").count() >= 1
        bar = tab.get_by_role("slider", name="Moment")
        bar.focus()
        tab.keyboard.press("Home")
        said = []
        for _ in range(6):
            tab.keyboard.press("PageDown")
            said.append(tab.locator("#live").inner_text())
        assert any(one.startswith("suspicious ") for one in said)
        tab.keyboard.press("Home")
        tab.keyboard.press("PageDown")
        tab.locator("#live", has_text="bookmark good").wait_for()
        for name, told in ("Restore to here", "Preview:"), ("Restore", "Restored to"):
            tab.get_by_role("button", name=name, exact=True).focus()
            tab.keyboard.press("Enter")
            tab.locator("#live", has_text=told).wait_for()
        opened.close()
    assert touched("web", "good", "now", world) == set()
