"""PostgreSQL with its data on one volume and its log on another, under load: a moment of the group recovers, with all
that was committed before it; the same load's moments of each volume by itself are counted.

A moment of the group is right where the server, started on an image of each volume, recovers; amcheck finds nothing;
the sums of pgbench agree; and what a client was told is committed is there.

As a program, as root, of as many moments as one likes, in an empty FOLDER that every user may enter:

    PYTHONPATH=src:tests python tests/interop/test_group_postgres.py 200 FOLDER
"""
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.interop import World, environ, world
from support.mounted import make, need_a_kernel
from test_bisect_postgres import bin_folder

import cdp
from cdp.cli.mounting import CannotMount, mounted

__all__ = ["world"]
pytestmark = [pytest.mark.interop, pytest.mark.once, pytest.mark.long]
MIB = 1 << 20
SIZES = {"db": 256 * MIB, "wal": 128 * MIB}
AS_NOBODY = {"user": "nobody", "group": "nogroup", "extra_groups": [], "cwd": "/"}
# The log is used again soon, so that a moment of it that does not fit the data is seen.
OPTIONS = ["-c", "listen_addresses=", "-c", "shared_buffers=32MB", "-c", "max_wal_size=8MB", "-c", "min_wal_size=2MB",
           "-c", "dynamic_shared_memory_type=mmap", "-c", "shared_memory_type=mmap", "-c", "autovacuum_naptime=1s",
           "-c", "checkpoint_completion_target=0"]
CHECK = """select concat_ws(' ', (select max(n) from acks), (select count(*) from acks),
 (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
  and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
  and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history),
 (select count(bt_index_check(i.indexrelid, true)) from pg_index i join pg_class c on c.oid = i.indexrelid
  join pg_am a on a.oid = c.relam where a.amname = 'btree' and i.indisvalid and c.relpersistence = 'p') > 100,
 (select count(*) from pg_class c, lateral verify_heapam(c.oid) v
  where c.relkind in ('r', 'm', 't') and c.relpersistence = 'p')) as found"""
FOUND = re.compile(r'1: found = "(\d+) (\d+) t t 0"')


class Shop:
    """The two volumes, served, with file systems on them and a server that is under load."""

    def __init__(self, world, programs):
        self.world, self.programs, self.acked, self.ending = world, programs, 0, threading.Event()
        for name, size in SIZES.items():
            disk = make(world.path / f"{name}.img", size, "-t", "ext4", "-E", "lazy_itable_init=0").read_bytes()
            with cdp.create(world.path / name, size=size) as volume:
                for at in range(0, size, MIB):
                    if any(disk[at:at + MIB]):
                        volume.pwrite(disk[at:at + MIB], at)
                volume.flush()
            (world.path / f"{name}.img").unlink()
        world.cdp("group", "create", "shop", *SIZES)
        world.serve(*SIZES)
        self.commands = tempfile.mkdtemp(prefix="cdp-pg")
        Path(self.commands).chmod(0o777)

    def program(self, name, *args, **options):
        return subprocess.run([self.programs / name, *args], check=True, capture_output=True, text=True, env=environ(),
                              **{**AS_NOBODY, **options})

    @contextmanager
    def mounts(self, db, log):
        with mounted(self.world.uri(db)) as data, mounted(self.world.uri(log)) as wal:
            yield Path(data), Path(wal)

    @contextmanager
    def under_load(self):
        with ExitStack() as stack:
            data, wal = stack.enter_context(self.mounts("db", "wal"))
            for folder in (data, wal):
                (folder / "pg").mkdir()
                shutil.chown(folder / "pg", "nobody", "nogroup")
            self.program("initdb", "-A", "trust", "-U", "nobody", "--wal-segsize=1", "-X", wal / "pg" / "wal",
                         "-D", data / "pg" / "data")
            said = (self.world.path / "postgres.log").open("w")
            stack.enter_context(said)
            server = subprocess.Popen([self.programs / "postgres", "-D", data / "pg" / "data", "-k", self.commands,
                                       *OPTIONS], stdout=said, stderr=said, env=environ(), **AS_NOBODY)
            stack.callback(self._end, server)
            there = ["-h", self.commands, "-U", "nobody"]
            until_s = time.monotonic() + 60
            while subprocess.run([self.programs / "pg_isready", *there], check=False, capture_output=True).returncode:
                assert server.poll() is None and time.monotonic() < until_s
                time.sleep(0.1)
            self.program("psql", *there, "postgres", "-c", "create extension amcheck; create table acks (n int "
                         "primary key, t text default repeat('x', 200))")
            self.program("pgbench", *there, "-i", "-q", "-s", "2", "postgres")
            bench = subprocess.Popen([self.programs / "pgbench", *there, "-c", "4", "-T", "100000", "postgres"],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ(), **AS_NOBODY)
            stack.callback(bench.wait)
            stack.callback(bench.kill)
            psql = subprocess.Popen([self.programs / "psql", *there, "-Atq", "postgres"], stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, text=True, env=environ(), **AS_NOBODY)
            writer = threading.Thread(target=self._write, args=(psql,))
            writer.start()
            stack.callback(psql.communicate)
            stack.callback(writer.join)
            stack.callback(self.ending.set)
            while self.acked < 20:
                assert writer.is_alive()
                time.sleep(0.01)
            yield

    def _write(self, psql):
        """Rows one after the other, each committed before it counts; and checkpoints."""
        for n in range(1, 1 << 30):
            if self.ending.is_set():
                return
            psql.stdin.write(f"insert into acks values ({n}) returning n;\n" + ("checkpoint;\n" if n % 50 == 0 else ""))
            psql.stdin.flush()
            assert psql.stdout.readline() == f"{n}\n"
            self.acked = n

    @staticmethod
    def _end(server):
        server.send_signal(2)
        server.wait(60)

    def look(self, db, log):
        """What a server that is started on two exports finds: (last row, rows), or why it does not."""
        try:
            with self.mounts(db, log) as (data, wal):
                link = data / "pg" / "data" / "pg_wal"
                link.unlink()
                link.symlink_to(wal / "pg" / "wal")
                (data / "pg" / "data" / "postmaster.pid").unlink(missing_ok=True)
                done = subprocess.run([self.programs / "postgres", "--single", "-j", "-D", data / "pg" / "data",
                                       "-c", "shared_memory_type=mmap", "-c", "dynamic_shared_memory_type=mmap",
                                       "postgres"], input=f"{CHECK}\n;\n\n", text=True, capture_output=True,
                                      check=False, env=environ(), errors="replace", timeout=300, **AS_NOBODY)
        except CannotMount as error:
            return error.message
        if (found := FOUND.search(done.stdout)) and not done.returncode:
            return int(found[1]), int(found[2])
        wrong = [line for line in done.stderr.splitlines() if re.search("PANIC|FATAL|ERROR", line)]
        return (wrong or re.findall('found = ".*"', done.stdout) or [f"exit status {done.returncode}"])[0]


def run_with(world, moments, apart):
    """(of moments of the group: why they failed; of moments of two volumes apart: how many failed)."""
    shop = Shop(world, bin_folder())
    acked, pauses = [], []
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, shop.commands)
        with shop.under_load(), cdp.Group(world.path / "shop") as group:
            for n in range(max(moments, apart)):
                if n < moments:
                    acked.append(shop.acked)
                    pauses.append(group.bookmark(f"m{n}").pause_ns / 1e3)
                if n < apart:
                    order = ("db", "wal") if n % 2 else ("wal", "db")
                    for name in order:
                        world.cdp("bookmark", name, f"{name}-{n}")
                time.sleep(0.1)
            rows = shop.acked
        print(f"{moments} moments while {rows} rows were committed; writers were held up for "
              f"{statistics.median(pauses):.1f} us (median), {max(pauses):.1f} us (longest)", flush=True)
        for n in range(apart):
            for name in SIZES:
                world.cdp("image", "create", f"{name}@{name}-{n}", f"apart{n}")
        with cdp.Group(world.path / "shop") as group:
            for n in range(moments):
                group.create_image(f"group{n}", f"m{n}")
        failed = {}
        for n in range(moments):
            got = shop.look(f"db/group{n}", f"wal/group{n}")
            if isinstance(got, str) or got[0] != got[1] or got[0] < acked[n]:
                failed[n] = f"{got}; {acked[n]} rows were committed"
                print(f"moment {n}: {failed[n]}", flush=True)
        wrong = {"wal, then db": [], "db, then wal": []}
        for n in range(apart):
            got = shop.look(f"db/apart{n}", f"wal/apart{n}")
            if isinstance(got, str) or got[0] != got[1]:
                wrong["db, then wal" if n % 2 else "wal, then db"].append(got)
        for order, what in wrong.items():
            print(f"each volume by itself, {order}: {len(what)} of {(apart + (order[0] == 'w')) // 2} failed",
                  *sorted({str(one) for one in what})[:5], sep="\n    ", flush=True)
    return failed, sum(map(len, wrong.values()))


def test_moments_of_data_and_log(world):
    need_a_kernel("nbdfuse", "mke2fs")
    bin_folder()
    failed, _ = run_with(world, 5, 0)
    assert not failed


if __name__ == "__main__":
    made = World(sys.argv[2])
    try:
        sys.exit(bool(run_with(made, int(sys.argv[1]), int(sys.argv[1]) // 5)[0]))
    finally:
        made.close()
