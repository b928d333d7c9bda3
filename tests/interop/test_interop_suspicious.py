"""Files on a mounted ext4 are encrypted in place: the server raises the alert within a minute, and the moment that it
bookmarked by itself restores every file.

Needs root, /dev/fuse and loop devices.
"""
import subprocess
import time

import pytest
from support.interop import environ, run, world
from support.mounted import need_a_kernel
from test_interop_filesystem import TOOLS, block_device, checksums, fill, mounted

pytestmark = [pytest.mark.interop, pytest.mark.long]

__all__ = ["world"]

LOOKS = 7       # of a server, 10 s apart: a minute


def encrypt(path):
    """As openssl does it, written over the file: same blocks, same length but for the last."""
    plain = path.read_bytes()
    cipher = subprocess.run(["openssl", "enc", "-aes-256-ctr", "-pass", "pass:x", "-nosalt", "-pbkdf2", "-iter", "1"],
                            input=plain, stdout=subprocess.PIPE, env=environ(), check=True).stdout
    with path.open("r+b") as file:
        file.write(cipher)


def test_files_encrypted_in_place(world):
    need_a_kernel(*TOOLS, "openssl")
    world.create("web", 96)
    world.serve("web", "--alert-suspicious-bytes", "1MiB")
    with block_device(world, "web") as device:
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        with mounted(world, device) as folder:
            fill(folder)
            run("sync")
            good = checksums(folder)
    with block_device(world, "web") as device, mounted(world, device) as folder:
        time.sleep(11)      # a look at what is honest
        assert world.json("info", "web")["alerts"] == []
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                encrypt(path)
        run("sync")
        for _ in range(LOOKS * 10):
            alerts = world.json("info", "web")["alerts"]
            if alerts:
                break
            time.sleep(1)
        assert [alert["kind"] for alert in alerts] == ["suspicious"]
        [mark] = world.json("bookmarks", "web")
        assert f"@{mark['name']}" in alerts[0]["what"]
        assert mark["name"] in [pin["owner"] for pin in world.json("pins", "web")]
    world.cdp("restore", f"web@{mark['name']}")
    with block_device(world, "web") as device, mounted(world, device) as folder:
        assert checksums(folder) == good
