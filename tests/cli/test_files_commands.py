"""files and cat on a volume that is served and on one that is not, at moments of its history."""
import hashlib
import os
import struct

import pytest
from support.cli_world import SIZE, world
from support.interop import need
from support.mounted import make

from cdp.cli import exits

__all__ = ["world"]
pytestmark = pytest.mark.once
HOSTS = b"127.0.0.1 localhost\n"


@pytest.fixture
def filled(world, tmp_path):
    need("mke2fs")
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hosts").write_bytes(HOSTS)
    (tree / "etc/big").write_bytes(bytes(range(256)) * 400)
    os.symlink("hosts", tree / "etc/link")
    (tree / "bad\x1b[31m").touch()
    disk = make(tmp_path / "disk", SIZE, "-t", "ext4", "-O", "^metadata_csum", "-d", str(tree)).read_bytes()
    with world.volume() as volume:
        volume.pwrite(disk, 0)
        volume.pwrite(HOSTS.upper(), disk.index(HOSTS))
        volume.pwrite(bytes(1024), 1024)
        volume.flush()
    return world


def test_files(filled):
    text = filled.ok("files", "web@#1", "/etc")
    assert [line.split()[-1] for line in text.splitlines()] == ["big", "hosts", "hosts"]
    assert text.splitlines()[2].startswith("lrwxrwxrwx") and "link -> hosts" in text
    assert "bad\\x1b[31m" in filled.ok("files", "web@#1")
    found = filled.json("files", "web@#2", "--recursive")
    assert found["at"]["seq"] == 2 and found["file_system"] == "ext4" and found["partition"] is None
    by_name = {one["name"]: one for one in found["entries"]}
    assert set(by_name) == {"bad\x1b[31m", "etc", "etc/hosts", "etc/big", "etc/link", "lost+found"}
    assert by_name["etc/big"]["size_bytes"] == 102_400 and by_name["etc"]["kind"] == "directory"
    assert by_name["etc/link"]["target"] == "hosts" and by_name["lost+found"]["mode"] == "0700"
    assert [one["name"] for one in filled.json("files", "web@#1", "etc/hosts")["entries"]] == ["hosts"]


def test_cat(filled):
    assert filled.run("cat", "web@#1", "etc/hosts").stdout_bytes == HOSTS
    assert filled.run("cat", "web@#2", "/etc/link").stdout_bytes == HOSTS.upper()
    content = filled.run("cat", "web@#1", "/etc/big").stdout_bytes
    assert content == bytes(range(256)) * 400
    said = filled.json("cat", "web@#1", "/etc/big")
    assert said["sha256"] == hashlib.sha256(content).hexdigest() and said["size_bytes"] == len(content)


def test_what_cannot_be_read(filled):
    filled.refused(exits.NOT_FOUND, "cat", "web@#1", "etc/none", hint="cdp files")
    filled.refused(exits.NOT_FOUND, "files", "web@#1", "etc/hosts/below")
    filled.refused(exits.USAGE, "cat", "web@#1", "etc", hint="the path of a file")
    filled.refused(exits.USAGE, "files", "web@#1", "etc/hosts", "--recursive", hint="path of a directory")
    filled.refused(exits.USAGE, "files", "web@#1", "--partition", "3", hint="leave off --partition")
    filled.refused(exits.UNAVAILABLE, "files", "web", hint="cdp shell")
    filled.refused(exits.NOT_FOUND, "files", "web@nobody")
    with filled.volume() as volume, volume.at("#1") as image, image.files() as files:
        assert files.read("etc/hosts") == HOSTS and files.open("etc/big").read(3) == b"\0\1\2"
        superblock = bytearray(image.pread(1024, 1024))
    struct.pack_into("<I", superblock, 0x18, 99)
    with filled.volume() as volume:
        volume.pwrite(superblock, 1024)
    filled.refused(exits.CORRUPT, "cat", "web", "etc/hosts", hint="2**109 bytes; read another moment")
