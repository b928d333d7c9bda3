"""Somebody deletes the rows of a table, at a time that nobody knows, while pgbench runs: "cdp bisect --postgres" finds
the last moment that has them, they are taken from an image of it, and the server goes on all the while.

As a program, as root, with pgbench for as many seconds as one likes, at its full speed or with as many transactions a
second as the last argument says, in an empty FOLDER that every user may enter:

    PYTHONPATH=src:tests python tests/interop/test_deleted_rows.py 3600 FOLDER 50
"""
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.interop import World, environ, world
from support.mounted import make, need_a_kernel
from test_bisect_postgres import bin_folder

import cdp
from cdp.cli.mounting import mounted

__all__ = ["world"]
pytestmark = [pytest.mark.interop, pytest.mark.once, pytest.mark.long]
MIB = 1 << 20
SIZE = 512 * MIB
ROWS = 1000
AS_NOBODY = {"user": "nobody", "group": "nogroup", "extra_groups": [], "cwd": "/"}
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
MEMORY = ["-c", "shared_memory_type=mmap", "-c", "dynamic_shared_memory_type=mmap"]


class Story:
    def __init__(self, world, seconds, rate=None):
        self.world, self.seconds, self.programs = world, seconds, bin_folder()
        self.rate = [f"--rate={rate}"] if rate else []
        self.began_s = time.monotonic()

    def say(self, text):
        now_s = time.monotonic()
        print(f"{now_s - self.began_s:8.1f} s  {text}", flush=True)
        self.began_s = now_s

    def program(self, name, *args, **options):
        done = subprocess.run([self.programs / name, *args], check=False, capture_output=True, text=True, env=environ(),
                              **AS_NOBODY, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sql(self, text):
        return self.program("psql", "-h", self.sockets, "-U", "nobody", "-Atq", "postgres", "-c", text).strip()

    def run(self):
        world = self.world
        disk = make(world.path / "disk", SIZE, "-t", "ext4", "-E", "lazy_itable_init=0").read_bytes()
        with cdp.create(world.path / "pg", size=SIZE) as volume:
            for at in range(0, SIZE, MIB):
                if any(disk[at:at + MIB]):
                    volume.pwrite(disk[at:at + MIB], at)
            volume.flush()
        world.serve("pg")
        with ExitStack() as stack:
            self.sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="cdp-pg"))
            Path(self.sockets).chmod(0o777)
            folder = Path(stack.enter_context(mounted(world.uri("pg"))))
            (folder / "lib").mkdir()
            shutil.chown(folder / "lib", "nobody", "nogroup")
            self.program("initdb", "-A", "trust", "-U", "nobody", "-D", folder / "lib" / "pg")
            server = subprocess.Popen([self.programs / "postgres", "-D", folder / "lib" / "pg", "-k", self.sockets,
                                       "-c", "listen_addresses=", *MEMORY], env=environ(), **QUIET, **AS_NOBODY)
            stack.callback(server.wait)
            stack.callback(server.send_signal, 2)
            until_s = time.monotonic() + 60
            while subprocess.run([self.programs / "pg_isready", "-h", self.sockets], check=False, **QUIET).returncode:
                assert server.poll() is None and time.monotonic() < until_s
                time.sleep(0.1)
            there = ["-h", self.sockets, "-U", "nobody"]
            self.program("pgbench", *there, "-i", "-q", "-s", "2", "postgres")
            self.sql(f"create table orders as select n, md5(n::text) as what from generate_series(1, {ROWS}) as n")
            before = self.sql("select md5(string_agg(n || what, ',' order by n)) from orders")
            world.cdp("bookmark", "pg", "loaded")
            bench = subprocess.Popen([self.programs / "pgbench", *there, "-c", "4", "-T", "1000000", *self.rate,
                                      "postgres"], env=environ(), **QUIET, **AS_NOBODY)
            stack.callback(bench.wait)
            stack.callback(bench.kill)
            self.say("PostgreSQL is on the volume, pgbench runs")
            share = random.uniform(0.2, 0.8)
            time.sleep(self.seconds * share)
            self.sql("delete from orders")
            deleted_ns = time.time_ns()
            time.sleep(self.seconds * (1 - share))
            newest = world.json("window", "pg")["newest"]["seq"]
            used = sum(path.stat().st_blocks * 512 for path in (world.path / "pg").rglob("*") if path.is_file())
            done = self.sql("select count(*) from pgbench_history")
            self.say(f"somebody deleted all orders {self.seconds * share:.0f} s after that; now {done} transactions, "
                     f"{newest:,} records, {used >> 20} MiB for the volume")
            found = json.loads(world.cdp("bisect", "pg", "loaded", "now", "--postgres", "lib/pg", "--query",
                                         f"select count(*) = {ROWS} from orders", "--json"))
            assert abs(found["bad"]["ts_ns"] - deleted_ns) < 30 * 10**9
            self.say(f"cdp bisect: good up to #{found['good']['seq']}, bad from #{found['bad']['seq']} on, "
                     f"{len(found['probes'])} probes")
            history = int(self.sql("select count(*) from pgbench_history"))
            world.cdp("image", "create", f"pg@{found['bookmarks'][0]}", "right")
            rows = Path(self.sockets) / "rows"
            with mounted(world.uri("pg/right")) as image:
                data = Path(image) / "lib" / "pg"
                (data / "postmaster.pid").unlink()
                self.program("postgres", "--single", "-j", "-D", data, *MEMORY, "postgres",
                             input=f"copy orders to '{rows}'\n;\n\n")
            self.sql(f"copy orders from '{rows}'")
            assert self.sql("select md5(string_agg(n || what, ',' order by n)) from orders") == before
            self.say(f"the {ROWS} rows are back, from an image of that moment")
            assert bench.poll() is None and server.poll() is None
            assert int(self.sql("select count(*) from pgbench_history")) > history
        world.stop()
        return found


def test_found_and_brought_back(world):
    need_a_kernel("nbdfuse", "mke2fs")
    Story(world, 5).run()


if __name__ == "__main__":
    made = World(sys.argv[2])
    try:
        Story(made, float(sys.argv[1]), *sys.argv[3:]).run()
    finally:
        made.close()
