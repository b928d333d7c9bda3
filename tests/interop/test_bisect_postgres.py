"""cdp bisect --postgres: a real server's data on a volume, rows deleted at some moment, and the last good one found."""
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.interop import MIB, cdp_here, environ
from support.mounted import make, mounted, need_a_kernel, ram

import cdp

__all__ = ["ram"]
pytestmark = [pytest.mark.interop, pytest.mark.once, pytest.mark.long]
SIZE = 128 * MIB


def bin_folder():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    program = found[-1] if found else shutil.which("initdb")
    if not program:
        pytest.skip("needs initdb of PostgreSQL")
    return Path(program).parent


def test_rows_deleted(ram):
    need_a_kernel("nbdfuse", "mke2fs", "nbdcopy")
    programs = bin_folder()
    image = make(ram / "disk", SIZE, "-t", "ext4")
    volume_path, states = ram / "web", []

    def single(data, sql):
        done = subprocess.run([programs / "postgres", "--single", "-j", "-D", data, "postgres"], input=f"{sql};\n\n",
                              text=True, capture_output=True, check=False, user="nobody", group="nogroup",
                              extra_groups=[], cwd="/", env=environ())
        assert "ERROR" not in done.stderr and done.returncode == 0, done.stderr

    with mounted(image, ram / "mnt") as folder:
        (folder / "pg").mkdir()
        shutil.chown(folder / "pg", "nobody", "nogroup")
        subprocess.run([programs / "initdb", "-A", "trust", "-U", "root", "-D", folder / "pg" / "data"], check=True,
                       capture_output=True, user="nobody", group="nogroup", extra_groups=[], cwd="/", env=environ())
        for sql in ("create table orders as select generate_series(1, 1000) as n", "insert into orders values (1001)",
                    "delete from orders", "insert into orders values (1)"):
            single(folder / "pg" / "data", sql)
            subprocess.run(["sync", "-f", folder], check=True)
            states.append(ram / f"state-{len(states)}")
            shutil.copyfile(image, states[-1])
    with cdp.create(volume_path, size=SIZE) as volume:
        last = bytes(SIZE)
        moments = []
        for state in states:
            data = state.read_bytes()
            for at in range(0, SIZE, MIB):
                if data[at:at + MIB] != last[at:at + MIB]:
                    volume.pwrite(data[at:at + MIB], at)
            volume.flush()
            last = data
            moments.append(volume.window().newest.seq)
    found = json.loads(cdp_here("bisect", volume_path, f"#{moments[0]}", "now", "--flushes", "--postgres", "pg/data",
                                "--query", "select count(*) > 500 from orders", "--json"))
    assert (found["good"]["seq"], found["bad"]["seq"]) == (moments[1], moments[2])
