"""What `cdp bisect --postgres` runs: PostgreSQL on its data in a folder, and one query.

It is the server in its single-user mode: it recovers as after a crash, listens nowhere, archives nothing, and needs no
password. Of the settings in the data only what the data itself needs counts, not its postgresql.conf, which may start
other programs. Exit status: 0 where the first value is true, 1 where it is not or the server fails, 125 where there is
no server of that version.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cdp.cli.output import say

GOOD, BAD, CANNOT_TELL = 0, 1, 125
VALUE = re.compile(r'^\s*1: .*? = "(.*)"\s+\(typeid = ', re.MULTILINE)


def main(argv: list[str]) -> int:
    mounted, inside, query = argv
    root = os.path.realpath(mounted)
    data = os.path.realpath(os.path.join(root, inside.lstrip("/")))
    try:
        # A link to another file system would lead to the live one's data, which recovery would write to.
        for path in (data, os.path.join(data, "pg_wal"), *map(str, Path(data).glob("pg_tblspc/*"))):
            if os.path.commonpath((root, os.path.realpath(path))) != root:
                say(f"{path} is on another file system than the data of PostgreSQL")
                return CANNOT_TELL
        version = (Path(data) / "PG_VERSION").read_text().strip()
    except OSError as error:
        say(f"{inside}: no data of PostgreSQL: {error}")
        return BAD
    postgres = server(version)
    if postgres is None:
        say(f"PostgreSQL {version} is not installed")
        return CANNOT_TELL
    owner = os.stat(data)
    with tempfile.TemporaryDirectory(prefix="cdp-postgres-") as folder:
        config = Path(folder) / "postgresql.conf"
        config.write_text("shared_memory_type = mmap\ndynamic_shared_memory_type = mmap\nshared_buffers = 16MB\n")
        os.chmod(folder, 0o755)
        (Path(data) / "postmaster.pid").unlink(missing_ok=True)     # of the server that wrote the disk
        root_user = os.geteuid() == 0
        done = subprocess.run([postgres, "--single", "-j", "-D", data, "-c", f"config_file={config}", "postgres"],
                              input=f"{query}\n;\n\n", capture_output=True, check=False, text=True, errors="replace",
                              cwd="/", user=owner.st_uid if root_user else None,
                              group=owner.st_gid if root_user else None, extra_groups=[] if root_user else None)
    found = VALUE.search(done.stdout)
    if found is None or done.returncode:
        say(" ".join((done.stderr.strip().splitlines() or ["no row"])[-1:]))
        return BAD
    return GOOD if found[1].lower() in ("t", "true") else BAD


def server(version: str) -> str | None:
    """The program of a version, where distributions put it or on the path."""
    bins = os.pathsep.join((f"/usr/lib/postgresql/{version}/bin", f"/usr/pgsql-{version}/bin",
                            os.environ.get("PATH", os.defpath)))
    for folder in bins.split(os.pathsep):
        program = shutil.which("postgres", path=folder)
        if program:
            said = subprocess.run([program, "--version"], capture_output=True, check=False, text=True).stdout
            if re.search(rf"\) {re.escape(version)}\b", said):
                return program
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
