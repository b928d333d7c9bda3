"""Archives in object stores that are not ours: moto and radosgw, under load, with the machine lost; and s3rver, which
ignores conditions, is refused.

moto comes with the extra `test`. The others are skipped where they are not installed, also under CI, since they are
large. radosgw: apt install radosgw ceph-mon ceph-osd. s3rver: npm install s3rver, its path in $S3RVER.
"""
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from importlib.util import find_spec

import pytest
from support import interop
from support.interop import MIB, world  # noqa: F401

import cdp
from cdp.archive import deletion
from cdp.archive.commits import Fenced, new_nonce
from cdp.archive.commits import newest as newest_manifest
from cdp.archive.conditional import read_boundary
from cdp.archive.objects import Conflict
from cdp.archive.places import store_at
from cdp.archive.reader import Archive
from cdp.archive.source import VolumeSource
from cdp.archive.writer import Writer
from cdp.cli import exits
from cdp.nbd.client import Client
from cdp.service.local import VolumeService

pytestmark = [pytest.mark.interop, pytest.mark.once]
KEY, SECRET = "cdpkey", "cdpsecret"
UP_SECONDS = 90.0
SIZE = 8 * MIB


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Processes:
    """What a store consists of; ended in the reverse order."""

    def __init__(self, folder):
        self.folder = folder
        self.running = []

    def start(self, name, *argv):
        with (self.folder / f"{name}.out").open("wb") as out:
            self.running.append(subprocess.Popen([str(arg) for arg in argv], cwd=self.folder, env=interop.environ(),
                                                 stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT))

    def until_answered(self, url):
        deadline = time.monotonic() + UP_SECONDS
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                assert time.monotonic() < deadline and self.running[-1].poll() is None, url
                time.sleep(0.1)

    def end(self):
        for process in reversed(self.running):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


def moto(processes):
    if find_spec("moto") is None:
        pytest.skip("moto is not installed")
    port = free_port()
    processes.start("moto", sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", port)
    return f"http://127.0.0.1:{port}"


CEPH = """[global]
fsid = {fsid}
mon host = 127.0.0.1:{mon}
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd objectstore = memstore
memstore device bytes = 1073741824
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}/run
admin socket = {folder}/run/$name.$pid.asok
log file = {folder}/$name.log
mon allow pool size one = true
public addr = 127.0.0.1
cluster addr = 127.0.0.1
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{rgw}
rgw data = {folder}/run
"""


def radosgw(processes):
    """One monitor, one OSD in memory. (In its default mode the gateway cannot speak to a monitor without keys.)"""
    for tool in ("radosgw", "ceph-mon", "ceph-osd", "monmaptool"):
        if shutil.which(tool, path=interop.PATH) is None:
            pytest.skip(f"{tool} is not installed")
    folder, fsid, osd = processes.folder, uuid.uuid4(), uuid.uuid4()
    mon, rgw = free_port(), free_port()
    conf = folder / "ceph.conf"
    conf.write_text(CEPH.format(fsid=fsid, mon=mon, rgw=rgw, folder=folder))
    for name in ("mon", "osd", "run"):
        (folder / name).mkdir()
    interop.run("monmaptool", "--create", "--add", "a", f"127.0.0.1:{mon}", "--fsid", fsid, folder / "monmap")
    interop.run("ceph-mon", "-c", conf, "--mkfs", "-i", "a", "--monmap", folder / "monmap")
    processes.start("mon", "ceph-mon", "-c", conf, "-i", "a", "-f")
    interop.run("ceph", "-c", conf, "osd", "new", osd)
    interop.run("ceph", "-c", conf, "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost")
    interop.run("ceph-osd", "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
    processes.start("osd", "ceph-osd", "-c", conf, "-i", "0", "-f")
    processes.start("rgw", "radosgw", "-c", conf, "-n", "client.rgw", "-f")
    interop.run("radosgw-admin", "-c", conf, "-n", "client.rgw", "user", "create", "--uid=cdp", "--display-name=cdp",
                f"--access-key={KEY}", f"--secret={SECRET}")
    return f"http://127.0.0.1:{rgw}"


@pytest.fixture(params=[moto, radosgw], ids=["moto", "radosgw"], scope="module")
def endpoint(request, tmp_path_factory):
    if find_spec("obstore") is None:
        pytest.skip("obstore is not installed")
    processes = Processes(tmp_path_factory.mktemp("store"))
    try:
        url = request.param(processes)
        processes.until_answered(url)
        yield url
    finally:
        processes.end()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    """The URL of a new bucket."""
    boto3 = pytest.importorskip("boto3")
    environment(monkeypatch, endpoint)
    name = f"cdp-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"


def environment(monkeypatch, endpoint, key=KEY, secret=SECRET):
    """What every tool of S3 reads."""
    for name, value in (("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret), ("AWS_REGION", "us-east-1"),
                        ("AWS_ENDPOINT_URL", endpoint)):
        monkeypatch.setenv(name, value)


def load(uri, stop, seed):
    """Random writes, each tenth flushed, some hundred a second, until `stop(how many)`."""
    rnd = random.Random(seed)
    with Client(uri) as disk:
        n = 0
        while not stop(n):
            length = rnd.choice((4096, 4096, 16384, 131072))
            disk.pwrite(rnd.randbytes(length), rnd.randrange((SIZE - length) // 4096) * 4096)
            n += 1
            if n % 10 == 0:
                disk.flush()
                time.sleep(0.05)
        disk.flush()


def digests(path, seqs):
    found = {}
    with cdp.open(path) as volume:
        for seq in seqs:
            with volume.at(seq) as image:
                found[seq] = hashlib.sha256(image.pread(SIZE, 0)).hexdigest()
    return found


def test_a_machine_is_lost_and_comes_back(world, bucket):  # noqa: F811
    url = f"{bucket}/web"
    world.create("web", SIZE // MIB)
    world.serve("web")
    with (world.path / "archive.log").open("wb") as log:
        follows = subprocess.Popen(interop.cdp_argv("archive", "web", url, "--every", "300ms"), cwd=world.path,
                                   env=interop.environ(), stdout=log, stderr=log)
    load(world.uri("web"), lambda n: n > 400, 1)
    world.json("bookmark", "web", "last")
    newest = world.json("window", "web")["newest"]["seq"]
    archive = store_at(url)
    interop.wait(lambda: (found := newest_manifest(archive)) is not None and found.complete and found.seq >= newest,
                 follows)
    follows.send_signal(signal.SIGTERM)
    assert follows.wait(interop.STOP_SECONDS) == 0, (world.path / "archive.log").read_text()
    world.stop()
    rnd = random.Random(2)
    known = digests(world.path / "web", sorted(rnd.sample(range(newest + 1), 20)))
    shutil.rmtree(world.path / "web")

    world.serve(url)        # where it lies, before it is brought back
    for seq, digest in known.items():
        with Client(world.uri(f"web@#{seq}")) as disk:
            assert hashlib.sha256(disk.pread(SIZE, 0)).hexdigest() == digest
    world.stop()
    assert world.json("check", url)["ok"]
    assert world.json("archive", url, "web")["upto"]["seq"] >= newest
    assert digests(world.path / "web", known) == known
    epoch = newest_manifest(archive).epoch
    world.serve("web")
    load(world.uri("web"), lambda n: n > 50, 3)
    again = world.json("archive", "web", url, "--once")
    assert again["epoch"] > epoch and again["upto"]["seq"] > newest
    world.stop()
    world.cdp("export", f"{url}@last", "last.img")
    assert interop.sha256(world.path / "last.img") == digests(world.path / "web", [newest])[newest]


def test_of_many_writers_one_wins_and_old_manifests_go(world, bucket):  # noqa: F811
    store = store_at(f"{bucket}/web")
    with cdp.create(world.path / "web", size=MIB) as volume:
        source = VolumeSource(VolumeService(volume), volume.path)
        first, second = Writer(store), Writer(store)
        for n in range(4):
            for writer in (first, second) if n == 0 else (second,):
                volume.pwrite(bytes([n + 1]) * 4096, 0)
                writer.up_to_date(source)
        volume.pwrite(b"x" * 4096, 0)
        with pytest.raises(Fenced):
            first.up_to_date(source)
        assert deletion.delete_old(store, second._commits, keep=1) >= 3
        volume.pwrite(b"y" * 4096, 0)
        second.up_to_date(source)
        assert deletion.delete_old(store, second._commits, keep=1) == 1
    bound = read_boundary(store)
    assert bound.manifest == newest_manifest(store).number - 1
    with pytest.raises(Conflict):
        store.replace("boundary", b"mine", "0123456789abcdef")
    name, won = f"probe/{new_nonce()}", list[int]()

    def create(number):
        with suppress(Conflict):
            store.create(name, b"%d" % number)
            won.append(number)
    threads = [threading.Thread(target=create, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and store.get(name) == b"%d" % won[0]
    assert not Archive(store).verify().problems


def test_a_bucket_that_is_missing_is_named(world, bucket):  # noqa: F811
    world.create("web", 1)
    done = interop.cdp_done("archive", "web", f"{bucket}-not/web", "--once", cwd=world.path, status=exits.NOT_FOUND)
    assert "no such bucket" in done.stderr


def test_a_store_that_ignores_conditions_is_refused(world, tmp_path, monkeypatch):  # noqa: F811
    if find_spec("obstore") is None or "S3RVER" not in os.environ:
        pytest.skip("s3rver is not installed, or $S3RVER does not say where")
    processes, port = Processes(tmp_path), free_port()
    processes.start("s3rver", "node", os.environ["S3RVER"], "-d", tmp_path / "objects", "-a", "127.0.0.1", "-p", port,
                    "--configure-bucket", "backups")
    try:
        processes.until_answered(f"http://127.0.0.1:{port}")
        environment(monkeypatch, f"http://127.0.0.1:{port}", "S3RVER", "S3RVER")
        world.create("web", 1)
        done = interop.cdp_done("archive", "web", "s3://backups/web", "--once", cwd=world.path, status=exits.USAGE)
        assert "two writers would overwrite each other" in done.stderr
        assert newest_manifest(store_at("s3://backups/web")) is None
    finally:
        processes.end()
