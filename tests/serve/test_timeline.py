"""The page of the history: who may ask for what, what is answered, and the page in a browser, by keyboard."""
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from support.interop import cdp_argv, environ, need, world  # noqa: F401
from support.mounted import make

import cdp
from cdp.check import rebuild
from cdp.serve.timeline.guard import MAX_BODY_BYTES, POLICY, refusal
from cdp.serve.timeline.server import page_files

RULES = ["all for 1s", "1s for 1000y", "bookmarks '*' forever"]
GOLDEN = Path(__file__).parent.parent / "golden/v7"
MIB = 1 << 20
NAME = "<b>bold"        # of a file: it must be shown, and be no element


class Page:
    """A served volume with an ext4 file system, two bookmarks and a restore; and requests to its page."""

    def __init__(self, world):  # noqa: F811
        self.world = world
        tree = world.path / "tree"
        (tree / "etc").mkdir(parents=True)
        (tree / "etc/hosts").write_bytes(b"127.0.0.1 localhost\n")
        (tree / NAME).touch()
        disk = make(world.path / "disk", 16 * MIB, "-t", "ext4", "-O", "^metadata_csum", "-d", str(tree)).read_bytes()
        with cdp.create(world.path / "web", size=16 * MIB) as volume:
            volume.pwrite(disk, 0)
            volume.flush()
            volume.bookmark("made")
            volume.pwrite(b"127.0.0.9 localhost\n", disk.index(b"127.0.0.1 localhost\n"))
            volume.flush()
            volume.bookmark("changed")
        self.serve("web")

    def serve(self, name):
        self.world.serve(name, "--timeline", "127.0.0.1:0")
        self.url = self.world.printed[-1]
        parts = urlsplit(self.url)
        self.address, self.host = (parts.hostname, parts.port), parts.netloc
        self.token = parts.fragment.removeprefix("token=")

    def ask(self, method, path, body=None, **headers):
        """(status, headers, content); a header None: without it."""
        send = {"Host": self.host, "Authorization": f"Bearer {self.token}", "Content-Type": "application/json",
                **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        connection.putrequest(method, path, skip_host=True)
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if data:
            connection.putheader("Content-Length", str(len(data)))
        for name, value in send.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(data)
        with connection.getresponse() as answer:
            found = answer.status, answer.headers, answer.read()
        connection.close()
        return found

    def api(self, method, path, body=None, status=200):
        got, _, content = self.ask(method, f"/api/volumes{path}", body)
        assert got == status, content
        return json.loads(content) if content else None


@pytest.fixture
def page(world):  # noqa: F811
    need("mke2fs")
    return Page(world)


def test_nobody_is_answered_without_the_token_or_from_elsewhere(page):
    for path in ("/api/volumes", "/api/volumes/web", "/api/none"):
        for given in (None, "", f"Bearer {page.token[:-1]}", f"Bearer {page.token}x", f"Basic {page.token}"):
            status, _, content = page.ask("GET", path, Authorization=given)
            assert status == 401 and b"token" in content and b"web" not in content
    assert page.ask("GET", f"/api/volumes?token={page.token}", Authorization=None)[0] == 401
    for host in ("evil.example", f"evil.example:{page.address[1]}", "127.0.0.1.evil.example", "10.0.0.1", "", None):
        assert page.ask("GET", "/api/volumes", Host=host)[0] in (400, 421), host
        assert page.ask("GET", "/", Host=host)[0] in (400, 421), host
    for origin in ("http://evil.example", "null", f"https://{page.host}", "http://127.0.0.1:1"):
        assert page.ask("GET", "/api/volumes", Origin=origin)[0] == 403, origin
    assert page.ask("GET", "/api/volumes", Origin=f"http://{page.host}")[0] == 200
    assert page.ask("GET", "/api/volumes", Host=f"localhost:{page.address[1]}")[0] == 200


def test_methods_bodies_and_headers(page):
    for method in ("OPTIONS", "PUT", "PATCH", "TRACE"):
        status, headers, _ = page.ask(method, "/api/volumes")
        assert status == 405 and "GET" in headers["allow"] and headers["content-security-policy"] == POLICY
    assert page.ask("POST", "/api/volumes/web")[0] == 405
    assert page.ask("POST", "/api/volumes/web/bookmarks", b"x" * (MAX_BODY_BYTES + 1))[0] == 413
    assert page.ask("POST", "/api/volumes/web/bookmarks", None, Transfer_Encoding="chunked")[0] == 411
    assert page.ask("POST", "/api/volumes/web/bookmarks", {"name": "x", "other": 1})[0] == 400
    for path in ("/", *(f"/{name}" for name in page_files())):
        status, headers, content = page.ask("GET", path, Authorization=None)
        assert status == 200 and headers["content-security-policy"] == POLICY and content, path
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert page.token.encode() not in content
    for path in ("/none.js", "/../server.py", "/%2e%2e/server.py", "/web/main.js", "/docs", "/openapi.json"):
        assert page.ask("GET", path, Authorization=None)[0] == 404, path


def test_a_header_twice_is_refused():
    good = {"host": ["localhost:1"], "authorization": ["Bearer t"]}
    assert refusal("GET", "/api/volumes", good, "t") is None
    for name, status in (("host", 421), ("authorization", 401)):
        assert refusal("GET", "/api/volumes", {**good, name: good[name] * 2}, "t")[0] == status
    assert refusal("POST", "/api/x", {**good, "content-length": ["1", "1"]}, "t")[0] == 413


def test_what_it_is_asked_for(page):
    assert page.api("GET", "") == ["web"]
    found = page.api("GET", "/web")
    assert [one["name"] for one in found["bookmarks"]] == ["changed", "made"] and found["left_off"]["bookmarks"] == 0
    newest = found["window"]["newest"]["seq"]
    activity = page.api("GET", "/web/activity")
    assert sum(activity["written_bytes"]) == sum(map(sum, activity["places"])) >= 16 * MIB
    assert page.api("GET", "/web/explain?point=made")["resolved"] == found["bookmarks"][1]["at"]
    files = page.api("GET", "/web/files?at=made")
    assert {one["name"] for one in files["entries"]} == {NAME, "etc", "lost+found"}
    got = page.api("GET", "/web/changes?a=made&b=changed")
    assert [(one["path"], one["what"]) for one in got["changes"]] == [("etc/hosts", ["data"])] and not got["more"]
    assert len(page.api("GET", "/web/diff?a=made&b=changed")["ranges"]) == 1
    made = page.api("POST", "/web/images", {"name": "look", "at": "made"}, 201)
    assert made["uris"][0].startswith("nbd+unix:///web/look?")
    page.api("DELETE", "/web/images?name=look", status=204)
    page.api("POST", "/web/bookmarks", {"name": "mine", "at": "#1"}, 201)
    page.api("DELETE", "/web/bookmarks?name=mine", status=204)
    page.api("POST", "/web/restores", {"point": "made", "dry_run": True})
    assert page.api("GET", "/web")["restores"] == []
    page.api("POST", "/web/restores", {"point": "made"})
    assert page.api("GET", "/web/changes?a=made&b=now")["changes"] == []
    page.api("POST", "/web/undo", {})
    assert page.api("GET", f"/web/diff?a=%23{newest}&b=now")["ranges"] == []
    assert "destructive" in page.api("POST", "/web/restores", {"point": "made", "destructive": True}, 400)["hint"]
    page.api("GET", "/none", status=404)
    page.api("GET", f"/web/explain?point={quote('1999-01-01T00:00:00Z')}", status=422)


@pytest.fixture
def thinned(page):
    """The page, of a volume whose middle moments are gone and that has a policy: the golden one."""
    page.world.stop()
    path = page.world.path / "old"
    shutil.copytree(GOLDEN, path)
    (path / "images").mkdir()
    (path / "lock").touch()
    assert rebuild.rebuild(path).ok
    with cdp.open(path) as volume:
        for seq in (3, 8):      # or the policy would go on where the thinning that was done ends
            volume.bookmark(f"at-{seq}", f"#{seq}")
        volume.set_policy(f"keep = {json.dumps(RULES)}\nfloor = '1s'")
    page.serve("old")
    return page


def test_what_is_kept_and_what_is_not(thinned):
    window = thinned.api("GET", "/old")["window"]
    assert window["thinned"]["points"] == 4 and window["thinned"]["last"]["seq"] == 15
    got = thinned.api("GET", "/old/kept")
    assert got["keep"] == RULES and [one["rule"] for one in got["kept"]] == RULES[:2]
    assert got["kept"][1]["oldest"]["seq"] < got["kept"][0]["oldest"]["seq"] and got["needed"]["seq"] == 0
    got = thinned.api("GET", "/old/explain?point=%235")
    assert (got["not_kept"]["seq"], got["resolved"]["seq"]) == (5, 3)


def test_a_volume_without_a_policy(page):
    assert page.api("GET", "/web/kept") == {"keep": [], "kept": [], "needed": None}


def test_only_loopback(world):  # noqa: F811
    world.cdp("create", "web", "--size", "1M")
    for address in ("0.0.0.0:0", "192.0.2.1:80", "example.org:80"):
        world.cdp("serve", "web", "--timeline", address, status=2)


def test_the_page_of_the_server_that_takes_over(page):
    """At the same address; the token of the one before is no good there."""
    world, old = page.world, page.token  # noqa: F811
    before, world.server = world.server, None
    world.serve("web", "--replace", "--timeline", f"127.0.0.1:{page.address[1]}", "--unix", world.socket)
    assert before.wait(60) == 0
    before.stdout.close()
    assert page.ask("GET", "/api/volumes")[0] == 401
    page.token = urlsplit(world.printed[-1]).fragment.removeprefix("token=")
    assert page.token != old and page.api("GET", "") == ["web"]


def test_a_hand_over_that_fails_leaves_the_page(page):
    """The new process cannot listen where it is to: the old one goes on, with the page where it was."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = page.world.cdp("serve", "web", "--replace", "--timeline", f"127.0.0.1:{port}", status=None)
    assert "ready" not in done
    until_s = time.monotonic() + 60
    while "not handed over" not in page.world.log.read_text():
        assert time.monotonic() < until_s
        time.sleep(0.05)
    assert page.api("GET", "") == ["web"]
    page.world.stop()


def test_the_token_does_not_go_to_the_journal(world):  # noqa: F811
    """JOURNAL_STREAM says that standard output is the journal: the address without the token, and a file with all."""
    world.cdp("create", "web", "--size", "1M")
    admin = world.sockets / "admin.sock"
    argv = cdp_argv("serve", "web", "--unix", world.socket, "--admin-socket", admin, "--timeline", "127.0.0.1:0")
    script = 'import os, sys; s = os.fstat(1); os.environ["JOURNAL_STREAM"] = f"{s.st_dev}:{s.st_ino}"; ' \
             "os.execv(sys.argv[1], sys.argv[1:])"
    for more in ([], ["--json"]):
        server = subprocess.Popen([sys.executable, "-c", script, *map(str, argv), *more], cwd=world.path,
                                  env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            while "cdp: ready" not in (line := server.stderr.readline()):
                assert line
            kept = admin.with_name("admin.sock.timeline")
            url = kept.read_text().strip()
            assert "#token=" in url and kept.stat().st_mode & 0o777 == 0o600
            parts = urlsplit(url)
            asked = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
            asked.request("GET", "/api/volumes", headers={
                "Authorization": f"Bearer {parts.fragment.removeprefix('token=')}"})
            assert json.loads(asked.getresponse().read()) == ["web"]
            asked.close()
        finally:
            server.terminate()
            out, err = server.communicate(timeout=60)
        assert "token=" not in out + err and f"http://{parts.netloc}/" in out and not kept.exists()
        assert more or str(kept) in out


@pytest.fixture
def browser():
    need("chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, the Python package")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_by_keyboard(page, browser, scheme):
    tab = browser.new_context(color_scheme=scheme, reduced_motion="reduce",
                              viewport={"width": 1200, "height": 800}).new_page()
    wrong = list[str]()
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)

    def do(name):
        tab.get_by_role("button", name=name, exact=True).focus()
        tab.keyboard.press("Enter")

    def said(text):
        tab.locator("#live", has_text=text).wait_for()

    tab.goto(page.url)
    tab.wait_for_selector("body[data-ready=true]")
    print("first paint:", tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"), "ms")
    assert "token" not in tab.url
    bar = tab.get_by_role("slider", name="Moment")
    bar.focus()
    low, high = (float(bar.get_attribute(f"aria-value{end}")) for end in ("min", "max"))
    tab.keyboard.press("Home")
    assert abs(float(bar.get_attribute("aria-valuenow")) - low) <= 1
    tab.keyboard.press("Enter")
    said("Moment: #0")
    tab.keyboard.press("PageDown")
    said("bookmark made")
    tab.keyboard.press("End")
    assert abs(float(bar.get_attribute("aria-valuenow")) - high) <= 1
    before = float(bar.get_attribute("aria-valuenow"))
    tab.keyboard.press("Shift+ArrowLeft")
    assert float(bar.get_attribute("aria-valuenow")) < before or high - low < 20
    tab.keyboard.press("+")
    said("The bar shows")
    tab.keyboard.press("Home")
    tab.keyboard.press("PageDown")
    said("bookmark made")
    do("Browse files")
    said("3 files in /")
    assert tab.get_by_role("cell", name=NAME, exact=True).count() == 1 and tab.locator("td b").count() == 0
    do("Keep to compare")
    bar.focus()
    tab.keyboard.press("End")
    do("Compare with the kept one")
    tab.get_by_role("cell", name="etc/hosts").wait_for()
    do("Bookmark here")
    tab.keyboard.type("mine")
    tab.keyboard.press("Enter")
    said("Bookmark mine")
    bar.focus()
    tab.keyboard.press("Home")
    tab.keyboard.press("PageDown")
    do("Restore to here")
    said("Preview: 1 ranges")
    assert page.api("GET", "/web")["restores"] == []
    do("Restore")
    said("Restored to")
    assert page.api("GET", "/web/changes?a=made&b=now")["changes"] == []
    do("Undo the last restore")
    said("would be taken back")
    do("Undo")
    said("Undone")
    do("Open as an image")
    tab.keyboard.type("look")
    tab.keyboard.press("Enter")
    said("Image look is open")
    do("Close and delete the image look")
    said("look is deleted")
    assert page.api("GET", "/web")["images"] == []
    tab.screenshot(path=page.world.path / "page.png", full_page=True)
    unnamed = tab.evaluate("""[...document.querySelectorAll('button, select, input, [role=slider], section')].filter(
        (one) => !one.hidden && !one.textContent.trim() && !one.ariaLabel && !one.labels?.length
                 && !one.getAttribute('aria-labelledby')).map((one) => one.outerHTML)""")
    assert unnamed == [] and wrong == []
    assert tab.locator("[role=status]").count() == tab.locator("[role=alert]").count() == 1
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0]
    assert (int(dark) < 128) == (scheme == "dark")
    if folder := os.environ.get("CDP_SCREENSHOTS"):
        shutil.copy(page.world.path / "page.png", f"{folder}/timeline-{scheme}.png")


def test_what_is_kept_in_a_browser(thinned, browser):
    """By keyboard, in words for who listens, and beside the pointer."""
    tab = browser.new_context(reduced_motion="reduce", viewport={"width": 1200, "height": 800}).new_page()
    wrong = list[str]()
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.goto(thinned.url)
    tab.wait_for_selector("body[data-ready=true]")
    kept = tab.get_by_role("list", name="What is kept").inner_text().splitlines()
    assert [line[:line.index(": ")] for line in kept[:2]] == [f"Kept by \u201c{rule}\u201d" for rule in RULES[:2]]
    assert kept[2].startswith("Thinned from #0, ") and kept[2].endswith(": 4 of these moments are left.")
    bar = tab.get_by_role("slider", name="Moment")
    bar.focus()
    tab.keyboard.press("Home")
    tab.keyboard.press("PageDown")
    live = tab.locator("#live")
    assert live.inner_text() == "bookmark at-3"
    while not (shown := re.fullmatch(r"The bar shows ([\d.]+) ms", live.inner_text())) or float(shown[1]) > 60:
        tab.keyboard.press("+")     # the thinned part is 90 ms, and its bookmarks are of today
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    tab.locator("#live", has_text="Not kept: 6 moments between these two").wait_for()
    assert "Moment: #8, " in live.inner_text()
    assert " was thinned; this is the kept moment before it" in live.inner_text()
    assert "6 moments between these two" in tab.locator("#explain").inner_text()
    box, cursor = bar.bounding_box(), tab.locator("#cursor").bounding_box()
    tab.mouse.move(cursor["x"] + 2, box["y"] + box["height"] / 2)
    tab.locator("#peek", has_text="Moment: #8").wait_for()
    assert "Thinned: only some moments of it are left" in tab.locator("#peek").inner_text()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] + 200)
    tab.locator("#peek").wait_for(state="hidden")
    assert wrong == []
