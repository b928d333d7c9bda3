"""A server's life under load: killed and started again, told to stop with clients connected; and every command the same
with a server and without one."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest
from click.testing import CliRunner
from support.interop import MIB, cdp_argv, environ, need, run, world

import cdp
from cdp.cli import cli
from cdp.nbd.client import Client, unix_address
from cdpcore.base.errors import CdpError

pytestmark = pytest.mark.interop

__all__ = ["world"]

SIZE_MIB = 64
BLOCK_BYTES = 4096
WRITE = 1  # a record's kind


def load(world, *options):
    """fio, writing into the upper half of the volume until the server goes."""
    argv = ["fio", "--name=load", "--ioengine=nbd", f"--uri={world.uri('web')}", "--rw=randwrite", "--bsrange=4k-64k",
            f"--offset={SIZE_MIB // 2}M", f"--size={SIZE_MIB // 2}M", "--iodepth=16", "--fsync=50", "--time_based",
            "--runtime=60", "--numjobs=2", *options]
    return subprocess.Popen(argv, cwd=world.path, env=environ(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True)


def end_load(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)


class Writer(threading.Thread):
    """Writes numbered blocks into the lower half, one at a time, until the server goes; knows what was flushed."""

    def __init__(self, world, seed):
        super().__init__()
        self._random = random.Random(seed)
        self._client = Client(unix_address(world.socket, "web"))
        self.written = []
        self.flushed = 0
        self.asked = 0  # writes that were sent, acknowledged or not

    def run(self):
        try:
            while True:
                offset = self._random.randrange(SIZE_MIB // 2 * MIB // BLOCK_BYTES) * BLOCK_BYTES
                data = self._random.randbytes(16) * (BLOCK_BYTES // 16)
                self.written.append((offset, data))
                self._client.pwrite(data, offset)
                self.asked = len(self.written)
                if self._random.random() < 0.05:
                    self._client.flush()
                    self.flushed = self.asked
        except CdpError:
            self._client.close()


@pytest.mark.soak
def test_killed_under_load(world, seeds):
    """After each SIGKILL: a quick start, every flushed write there, and the lower half exactly a prefix of what was
    written to it (looked up in the history, so also the history is right)."""
    need("fio")
    world.cdp("create", "web", "--size", f"{SIZE_MIB}M")
    half = bytearray(SIZE_MIB // 2 * MIB)
    seq = 0
    kept_total = fio_total = 0
    for seed in seeds(3):
        world.serve("web")
        writer = Writer(world, seed)
        fio = load(world)
        try:
            writer.start()
            time.sleep(0.5 + random.Random(seed).random())
            world.kill()
            writer.join(60)
        finally:
            end_load(fio)
        with cdp.open(world.path / "web") as volume:
            records = volume.records(since=seq)
            mine = [(one["offset"], one["length"]) for one in records
                    if one["kind"] == WRITE and one["offset"] < len(half)]
            assert writer.flushed <= len(mine) <= len(writer.written)
            assert mine == [(offset, len(data)) for offset, data in writer.written[:len(mine)]]
            for offset, data in writer.written[:len(mine)]:
                half[offset : offset + len(data)] = data
            assert volume.pread(len(half), 0) == half
            seq = volume.window().newest.seq
        kept_total += len(mine)
        fio_total += sum(records["kind"] == WRITE) - len(mine)
    assert kept_total > seeds.done and fio_total > seeds.done, "there was load"
    assert world.json("check", "web")["ok"]


def test_fio_verifies_what_it_flushed_before_a_kill(world):
    need("fio")
    world.cdp("create", "web", "--size", f"{SIZE_MIB}M")
    world.serve("web")
    job = ["fio", "--name=kept", "--ioengine=nbd", f"--uri={world.uri('web')}", "--rw=randwrite", "--bs=4k",
           "--size=24M", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--randseed=7"]
    run(*job, "--do_verify=0", "--end_fsync=1", cwd=world.path)
    fio = load(world)
    try:
        time.sleep(1)
        world.kill()
    finally:
        end_load(fio)
    world.serve("web")
    run(*job, "--verify_only=1", cwd=world.path)
    world.stop()
    assert world.json("check", "web")["ok"]


def test_told_to_stop_with_clients_connected(world):
    """SIGTERM: status 0, clients end at once, and everything that was acknowledged is there, flushed or not."""
    need("fio")
    world.cdp("create", "web", "--size", f"{SIZE_MIB}M")
    world.serve("web")
    idle = Client(unix_address(world.socket, "web"))
    writer = Writer(world, 1)
    fio = load(world)
    try:
        writer.start()
        time.sleep(1)
        world.stop()
        writer.join(60)
        assert fio.wait(60) != 0
    finally:
        end_load(fio)
    idle.close()
    assert not world.socket.exists(), "the socket goes with the server"
    mine = [one for one in world.json("records", "web", "--limit", "0")
            if one["kind"] == "write" and one["offset"] < SIZE_MIB // 2 * MIB]
    assert writer.asked <= len(mine) <= len(writer.written)
    assert world.json("info", "web")["served"] is None


def test_two_servers_and_a_stale_socket(world):
    need("nbdinfo")
    world.cdp("create", "web", "--size", "1M")
    world.serve("web")
    error = run(*cdp_argv("serve", "web", "--unix", world.sockets / "other"), cwd=world.path, status=7).stderr
    assert "is served already, by process" in error and error.count("\n") == 1, error
    run("nbdinfo", world.uri("web"))
    world.kill()
    assert world.socket.exists()
    world.serve("web")  # over the socket that the killed one left
    run("nbdinfo", world.uri("web"))
    world.stop()


# The same with a server and without


def told(value, path=""):
    """A result without what differs between two equal volumes: when and where something was done, how long it took, who
    serves it, what that server has raised, and what others do to the device."""
    if isinstance(value, dict):
        return {name: told(one, name) for name, one in value.items()
                if name not in ("served", "stats", "metrics", "uuid", "space", "alert_counts", "last_bytes", "took_s")}
    if isinstance(value, list):
        return [told(one) for one in value]
    if path in ("ts_ns", "created_ns", "asked_ts_ns", "last_ended_ns") and value is not None:
        return "ns"
    if isinstance(value, str):
        value = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "TIME", value)
        return re.sub(r"\S*/(local|server)/", "DIR/", value)
    return value


SCRIPT = [
    ("info", "web"), ("window", "web"), ("explain", "web@now"), ("explain", "web@#3"), ("bookmarks", "web"),
    ("bookmark", "web", "start", "--at", "#2"), ("bookmark", "web@#4", "four"), ("bookmarks", "web"),
    ("bookmark", "web", "four", "--delete"), ("explain", "web@start"), ("records", "web"),
    ("records", "web", "--since", "#2", "--until", "#5"), ("image", "create", "web@start", "fork"),
    ("image", "create", "web/fork", "again"), ("image", "list", "web"), ("image", "list", "web/fork"),
    ("info", "web/fork"),
    ("image", "delete", "web/fork", "again", "--dry-run"), ("image", "delete", "web/fork", "again"),
    ("restore", "web@start", "--dry-run"), ("restore", "web@start"), ("undo", "web", "--dry-run"), ("undo", "web"),
    ("restore", "web@#3", "--range", "0:4K"), ("restores", "web"), ("export", "web@start", "out.img"),
    ("import", "out.img", "web"),
    ("image", "delete", "web", "fork"), ("bookmark", "web", "start", "--delete"),
    ("restore", "web@#5", "--destructive", "--dry-run"), ("restore", "web@#5", "--destructive"), ("window", "web"),
    ("restores", "web"), ("check", "web"), ("info", "web"), ("config", "show"),
]
REFUSED = [
    (3, "info", "nosuch"), (2, "info", "web@now"), (4, "explain", "web@#999"), (4, "explain", "web@2001-01-01"),
    (3, "explain", "web@nosuch"), (2, "explain", "web@1 o'clock"), (2, "bookmark", "web", "bad/name"),
    (3, "bookmark", "web", "no", "--delete"), (3, "image", "delete", "web", "none"), (4, "undo", "web"),
    (2, "restore", "web"), (2, "restore", "web@#1", "--range", "1:1"),
    (4, "restore", "web@-9d"), (2, "image", "create", "web@#1", "-x"), (2, "export", "web", "web"),
]


def test_every_command_the_same_with_a_server_and_without(world, monkeypatch):
    """One volume, copied; the same commands on the copy that a server holds and on the one that nobody does. The server
    is a process of its own, the commands are not: a hundred of them would take 16 s."""
    (world.path / "local").mkdir()
    world.cdp("create", "local/web", "--size", "8M")
    with cdp.open(world.path / "local" / "web") as volume:
        for n in range(6):
            volume.pwrite(bytes([n + 1]) * 8192, n * 4096)
            volume.flush()
    shutil.copytree(world.path / "local", world.path / "server")
    world.serve("server/web")

    def one(folder, args, status):
        monkeypatch.chdir(world.path / folder)
        done = CliRunner().invoke(cli, [*args, "--json"], prog_name="cdp")
        assert done.exit_code == status, (folder, args, done.exit_code, done.stderr)
        notes = re.sub(r"\S*/(local|server)/", "DIR/", done.stderr)
        return done.stdout, re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", notes)

    def both(args, status=0):
        return [one(folder, args, status) for folder in ("local", "server")]

    for args in SCRIPT:
        (local, local_notes), (served, served_notes) = both(args)
        if args[0] == "records":
            local, served = ([json.loads(line) for line in text.splitlines()] for text in (local, served))
        else:
            local, served = json.loads(local), json.loads(served)
        if args[0] == "check":  # how much there is to check differs; what is found does not
            assert local["ok"] and served["ok"] and local["problems"] == served["problems"] == []
            continue
        assert told(local) == told(served), args
        assert local_notes == served_notes, args
    for status, *args in REFUSED:
        local, served = both(args, status)
        assert local == served and local[0] == "" and local[1].startswith("cdp: error: "), (args, local, served)
    world.stop()


@pytest.mark.parametrize("signals", [1, 2])
def test_interrupted_server(world, signals):
    """Ctrl-C once: an orderly end; twice: at once, which loses nothing that was flushed."""
    world.cdp("create", "web", "--size", "1M")
    world.serve("web")
    with Client(unix_address(world.socket, "web")) as client:
        client.pwrite(b"x" * 4096, 0)
        client.flush()
        for _ in range(signals):
            world.server.send_signal(signal.SIGINT)
        status = world.server.wait(60)
    assert status in ((0,) if signals == 1 else (0, 130)), world.log.read_text()
    world.server.stdout.close()
    world.server = None
    writes = [one for one in world.json("records", "web") if one["kind"] == "write"]
    assert len(writes) == 1
