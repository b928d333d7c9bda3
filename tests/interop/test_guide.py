"""docs/guide.md and docs/recipes.md, run from top to bottom by one shell each, as a new user would: PostgreSQL on ext4
on a volume; a machine of QEMU on one. What they print is what the pages show.

Needs root, /dev/fuse, loop devices and PostgreSQL. To write the pages anew: PYTHONPATH=tests python
tests/interop/test_guide.py
"""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support.interop import PATH, need
from support.mounted import need_a_kernel
from support.transcripts import BLOCK, settled

import cdp

ROOT = Path(__file__).parents[2]
PACKAGES = Path(cdp.__file__).parents[1]     # a checkout's src has no engine unless it was built there
PAGES = {"guide.md": ("nbdfuse", "losetup", "mkfs.ext4", "mount", "umount", "runuser", "curl", "psql"),
         "recipes.md": ("qemu-system-x86_64", "qemu-storage-daemon", "cmp")}       # what they need
MOVED = ("/var/lib/cdp", "/run/cdp", "/backup", "/srv")     # below a directory of the test's own
PORT = "9464"


class Session:
    """One bash, with its variables and background jobs, and everything of the page below a directory of its own."""

    def __init__(self) -> None:
        self.home = tempfile.mkdtemp(prefix="cdpg-", dir="/tmp")        # short: sockets lie below it
        Path(self.home).chmod(0o755)                                    # PostgreSQL's user must get through
        bin_ = Path(self.home, "bin")
        bin_.mkdir()
        (bin_ / "cdp").write_text(f'#!/bin/sh\nexec {sys.executable} -m cdp "$@"\n')
        (bin_ / "cdp").chmod(0o755)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        env = {**os.environ, "PATH": f"{bin_}:{PATH}", "TZ": "UTC", "CDP_LOG_LEVEL": "warning", "LC_ALL": "C.UTF-8",
               "PYTHONPATH": f"{PACKAGES}:{os.environ.get('PYTHONPATH', '')}",
               "XDG_RUNTIME_DIR": f"{self.home}/xdg", "PGCTLTIMEOUT": "250"}
        env.pop("CDP_CONFIG", None)
        Path(self.home, "xdg").mkdir()
        self.shell = subprocess.Popen(["bash", "--noprofile", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True)

    def run(self, line: str) -> str:
        """What a line prints. The server's start is waited for."""
        for place in MOVED:
            line = re.sub(rf"(?<![\w/]){place}(?=[/@ ;&'\"]|$)", f"{self.home}{place}", line)
        line = line.replace(PORT, self.port)
        assert self.shell.stdin is not None and self.shell.stdout is not None
        serves = line.startswith("cdp serve")
        self.shell.stdin.write(f"{line}\n" + ("" if serves else "echo; echo END\n"))
        self.shell.stdin.flush()
        out = []
        for printed in self.shell.stdout:
            if printed == "END\n":
                break
            out.append(printed)
            if serves and printed == "cdp: ready\n":
                break
        text = "".join(out).removesuffix("\n" if not serves else "")
        return text.replace(self.home, "").replace(self.port, PORT)

    def close(self) -> None:
        """What is mounted or attached goes away whatever happened."""
        for _ in range(3):
            mounts = [row.split()[1] for row in Path("/proc/mounts").read_text().splitlines() if self.home in row]
            for pid in Path(self.home).glob("srv/*/data/postmaster.pid"):
                subprocess.run(["runuser", "-u", "postgres", "--", "kill", "-QUIT", pid.read_text().split()[0]],
                               check=False)
                time.sleep(1)
            for mount in reversed(mounts):
                subprocess.run(["umount", "--lazy", mount], check=False, env={**os.environ, "PATH": PATH})
        listed = subprocess.run(["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"], check=False,
                                capture_output=True, text=True, env={**os.environ, "PATH": PATH}).stdout
        for row in listed.splitlines():
            if self.home in row:
                subprocess.run(["losetup", "--detach", row.split()[0]], check=False, env={**os.environ, "PATH": PATH})
        os.killpg(self.shell.pid, signal.SIGTERM)
        try:
            self.shell.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.shell.pid, signal.SIGKILL)
            self.shell.wait()
        for pipe in (self.shell.stdin, self.shell.stdout):
            pipe.close()
        shutil.rmtree(self.home, ignore_errors=True)


def replayed(page: str, session: Session) -> str:
    def block(found: re.Match) -> str:
        lines = [line.removeprefix("$ ") for line in found[2].splitlines() if line.startswith("$ ")]
        return found[1] + "".join(f"$ {line}\n{session.run(line)}" for line in lines) + found[3]

    return BLOCK.sub(block, page)


@pytest.mark.long
@pytest.mark.interop
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page: str):
    need_a_kernel("bash", *PAGES[page])
    if page == "guide.md" and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        need("initdb")
    session, text = Session(), (ROOT / "docs" / page).read_text()
    try:
        now = replayed(text, session)
    finally:
        session.close()
    assert settled(now) == settled(text)


if __name__ == "__main__":
    for name in sys.argv[1:] or PAGES:
        one, path = Session(), ROOT / "docs" / name
        try:
            path.write_text(replayed(path.read_text(), one))
        finally:
            one.close()
