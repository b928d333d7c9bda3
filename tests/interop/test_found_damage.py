"""A file goes wrong silently while an application works on the disk: "cdp versions" shows a write that the file system
does not know, "cdp bisect --file" finds the record, "cdp cat" has the file of before. Then files are encrypted one by
one, by a program on the mounted disk: the timeline marks it, "cdp diff --files" lists what was touched and nothing
else, and a restore brings all of it back.

As a program, as root, with so many files, in an empty FOLDER:

    PYTHONPATH=src:tests python tests/interop/test_found_damage.py 2000 FOLDER
"""
import hashlib
import http.client
import json
import os
import random
import shutil
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.interop import World, world
from support.mounted import make, need_a_kernel

import cdp
from cdp.cli.mounting import mounted
from cdp.nbd.client import Client

__all__ = ["world"]
pytestmark = [pytest.mark.interop, pytest.mark.once, pytest.mark.long]
MIB = 1 << 20
LEDGER = "srv/ledger"
FILE_BYTES = 100_000
WAIT_S = 120


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Application:
    """Appends to a log of its own, and syncs it, some fifty times a second."""

    def __init__(self, folder):
        self.path, self.ending = Path(folder) / "log", threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self):
        with self.path.open("ab", buffering=0) as file:
            while not self.ending.wait(0.02):
                file.write(b"%020d\n" % time.time_ns() * 20)
                os.fsync(file.fileno())

    @contextmanager
    def at_work(self):
        self.thread.start()
        try:
            yield
        finally:
            self.ending.set()
            self.thread.join()


class Story:
    def __init__(self, world, files):
        self.world, self.names = world, [f"docs/d{n % 8}/f{n}" for n in range(files)]
        self.rnd, self.began_s = random.Random(1), time.monotonic()

    def say(self, text):
        now_s = time.monotonic()
        print(f"{now_s - self.began_s:8.1f} s  {text}", flush=True)
        self.began_s = now_s

    def newest(self):
        return self.world.json("window", "web")["newest"]["seq"]

    def lines(self, *args):
        return [json.loads(line) for line in self.world.cdp(*args, "--json", status=None).splitlines()]

    def prepare(self):
        world = self.world
        tree = world.path / "tree"
        for n, name in enumerate(self.names):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((b"%06d of the books of the year\n" % n * 4000)[:FILE_BYTES])
        (tree / "srv").mkdir()
        (tree / LEDGER).write_bytes(b"".join(b"%08d,%08d\n" % (n, n * 7919 % 10**8) for n in range(20_000)))
        (tree / "log").touch()
        self.ledger = (tree / LEDGER).read_bytes()
        self.docs = {name: sha256((tree / name).read_bytes()) for name in self.names}
        size = (64 + 2 * len(self.names) * FILE_BYTES // MIB) * MIB
        disk = make(world.path / "disk", size, "-t", "ext4", "-b", "4096", "-d", str(tree))
        with cdp.create(world.path / "web", size=size) as volume, disk.open("rb") as file:
            for at in range(0, size, MIB):
                if any(data := file.read(MIB)):
                    volume.pwrite(data, at)
            volume.flush()
            volume.bookmark("good")
            with volume.at("now") as image, image.files() as files:
                self.piece = files.pieces(LEDGER)[0]
        shutil.rmtree(tree)
        disk.unlink()
        world.serve("web", "--timeline", "127.0.0.1:0", "--alert-suspicious-bytes", "1MiB")
        self.page = urlsplit(world.printed[-1])

    def ask_page(self, path):
        asked = http.client.HTTPConnection(self.page.hostname, self.page.port, timeout=60)
        try:
            asked.request("GET", f"/api/volumes/{path}", headers={
                "Authorization": f"Bearer {self.page.fragment.removeprefix('token=')}"})
            return json.loads(asked.getresponse().read())
        finally:
            asked.close()

    def silent(self, folder):
        """A stray write into the ledger's data, past the file system."""
        world, at = self.world, self.piece.disk + 4096
        time.sleep(2)
        with Client(world.uri("web")) as client:
            client.pwrite(b"\0" * 512, at)
            client.flush()
        time.sleep(2)
        (folder / "srv/other").write_bytes(b"the file system goes on")
        self.say(f"{self.newest():,} records; at some moment 512 bytes of {LEDGER} became zeros")
        versions = [row for row in self.lines("versions", "web", LEDGER, "--since", "good") if row["file"]]
        assert len(versions) == 1 and versions[0]["data_changes"] == 1, versions
        self.say(f"cdp versions: one version of {LEDGER}, and 1 write to its data that the file system does not know")
        found = json.loads(world.cdp("bisect", "web", "good", "now", "--file", f"/{LEDGER}", "--sha256",
                                     sha256(self.ledger), "--json"))
        wrote = self.lines("history", "web", f"{at}:512")
        assert found["bad"]["seq"] == wrote[-1]["seq"] == versions[0]["data_last"], (found["bad"], wrote, versions)
        self.say(f"cdp bisect --file: record #{found['bad']['seq']}, {len(found['probes'])} probes")
        text = world.cdp("cat", f"web@{found['bookmarks'][0]}", f"/{LEDGER}").encode()
        assert text == self.ledger
        (folder / LEDGER).write_bytes(text)
        self.say("cdp cat: the ledger of the moment before; it is put back")

    def encrypt(self, folder, victims):
        for name in victims:
            with (folder / name).open("r+b") as file:
                size = len(file.read())
                file.seek(0)
                file.write(self.rnd.randbytes(size))
            (folder / name).rename(folder / f"{name}.locked")
        (folder / "docs/README.txt").write_bytes(b"pay")

    def ransomware(self, folder):
        world = self.world
        time.sleep(11)      # a look at what is honest
        os.sync()           # or what the story wrote before reaches the disk after it
        world.cdp("bookmark", "web", "evening")
        victims = self.names[:len(self.names) * 3 // 4]
        self.encrypt(folder, victims)
        os.sync()
        world.cdp("bookmark", "web", "morning")
        self.say(f"{len(victims)} of {len(self.names)} files were encrypted; {self.newest():,} records by now")
        until_s = time.monotonic() + WAIT_S
        while not (marks := [one for one in self.ask_page("web")["alerts"] if one["kind"] == "suspicious"]):
            assert time.monotonic() < until_s
            time.sleep(0.5)
        bars = self.ask_page("web/activity")["overwritten_bytes"]
        self.say(f"the timeline marks it: {marks[0]['what']}")
        assert sum(bars) > len(victims) * FILE_BYTES * 0.9
        rows = [row for row in self.lines("diff", "web@evening", "web@morning", "--files") if row["path"] != "log"]
        touched = {(row["change"], row["path"]) for row in rows}
        assert touched == {("added", "docs/README.txt"), *(("removed", name) for name in victims),
                           *(("added", f"{name}.locked") for name in victims)}
        self.say(f"cdp diff --files lists what it touched, {len(rows)} changes, and nothing else")

    def run(self):
        world = self.world
        self.prepare()
        self.say(f"a disk with {len(self.names)} files, served")
        with ExitStack() as stack:
            folder = Path(stack.enter_context(mounted(world.uri("web"))))
            stack.enter_context(Application(folder).at_work())
            self.say("mounted; an application writes")
            self.silent(folder)
            self.ransomware(folder)
        world.cdp("restore", "web@evening")
        with mounted(world.uri("web")) as folder:
            there = {name: sha256((Path(folder) / name).read_bytes()) for name in self.names}
            assert there == self.docs and (Path(folder) / LEDGER).read_bytes() == self.ledger
            assert not list(Path(folder).rglob("*.locked"))
        self.say("cdp restore: all files are as they were in the evening")
        world.stop()


def test_found_and_brought_back(world):
    need_a_kernel("nbdfuse", "mke2fs")
    Story(world, 60).run()


if __name__ == "__main__":
    made = World(sys.argv[2])
    try:
        Story(made, int(sys.argv[1])).run()
    finally:
        made.close()
