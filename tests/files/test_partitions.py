"""Partition tables, as sfdisk writes them; and what is said of a disk that cannot be read."""
import json
import random
import struct
import subprocess

import pytest
from support.interop import need
from support.mounted import files_of_image, make

from cdp.files.model import Source
from cdp.files.partitions import partitions
from cdpcore.base.errors import Corruption, InvalidRequest, Unavailable

pytestmark = pytest.mark.once
MIB = 1 << 20
TABLES = {
    "gpt": "label: gpt\nsize=4MiB, name=\"first\"\nsize=8MiB\nsize=1MiB, name=last\n",
    "dos": "label: dos\n1 : size=2MiB, type=83\n2 : size=9MiB, type=82, bootable\n4 : size=1MiB\n",
    "logical": "label: dos\n1 : size=5MiB, type=83\n2 : size=20MiB, type=f\n5 : size=1MiB\n6 : size=4MiB\n"
               "7 : size=3MiB\n",
}


class Bytes(Source):
    def __init__(self, data):
        self.data, self.size_bytes = data, len(data)

    def pread(self, length, offset):
        self.check(length, offset)
        return bytes(self.data[offset:offset + length])


def table(path, text, size=32 * MIB):
    need("sfdisk")
    with open(path, "wb") as file:
        file.truncate(size)
    subprocess.run(["sfdisk", "-q", str(path)], input=text, text=True, check=True, capture_output=True)
    said = json.loads(subprocess.run(["sfdisk", "--json", str(path)], check=True, capture_output=True).stdout)
    return {int(one["node"].removeprefix(str(path))): (one["start"] * 512, one["size"] * 512)
            for one in said["partitiontable"]["partitions"] if one["type"] not in ("5", "f")}


@pytest.mark.parametrize("name", TABLES)
def test_as_sfdisk_says(name, tmp_path):
    expected = table(tmp_path / "disk", TABLES[name])
    data = bytearray((tmp_path / "disk").read_bytes())
    assert {p.number: (p.offset, p.size_bytes) for p in partitions(Bytes(data))} == expected and len(expected) >= 3
    if name == "gpt":
        assert [p.name for p in partitions(Bytes(data))] == ["first", "", "last"]
        data[512:1024] = bytes(512)     # then the copy at the end
        assert len(partitions(Bytes(data))) == 3
        data[-512:] = bytes(512)
        with pytest.raises(Corruption):
            partitions(Bytes(data))


def test_damaged(tmp_path):
    for name, text in TABLES.items():
        table(tmp_path / "disk", text)
        data = bytearray((tmp_path / "disk").read_bytes())
        rnd = random.Random(name)
        for _ in range(200):
            for _ in range(rnd.randrange(1, 30)):
                data[rnd.choice((446, 512, 1024, rnd.randrange(0, len(data), 512))) + rnd.randrange(64)] = rnd.choice(
                    (0, 5, 0xEE, 0xFF, rnd.randrange(256)))
            try:
                found = partitions(Bytes(data))
            except Corruption:
                continue
            assert len(found) < 1100 and all(0 <= p.offset <= len(data) - p.size_bytes for p in found)


def test_a_file_system_in_a_partition(tmp_path):
    need("mke2fs")
    places = table(tmp_path / "disk", TABLES["logical"])
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "here").write_text("here")
    part = make(tmp_path / "part", places[6][1], "-t", "ext4", "-d", str(tree)).read_bytes()
    with open(tmp_path / "disk", "r+b") as disk:
        disk.seek(places[6][0])
        disk.write(part)
    with files_of_image(tmp_path / "disk") as files:        # the only one that can be read
        assert files.read("here") == b"here" and files.about()["partition"] == 6
    with open(tmp_path / "disk", "r+b") as disk:
        disk.seek(places[1][0])
        disk.write(part)
        disk.seek(places[7][0])
        disk.write(b"XFSB")
    with files_of_image(tmp_path / "disk") as files, pytest.raises(InvalidRequest) as error:
        files.read("here")
    assert "4 partitions" in error.value.message and "1 (ext4)" in error.value.hint and "7 (XFS)" in error.value.hint
    with files_of_image(tmp_path / "disk", partition=6) as files:
        assert files.read("here") == b"here"
    for number, says in ((7, "XFS, which is not read here in partition 7"), (5, "no file system")):
        with files_of_image(tmp_path / "disk", partition=number) as files, pytest.raises(Unavailable, match=says):
            files.entries()
    with files_of_image(tmp_path / "disk", partition=9) as files, pytest.raises(InvalidRequest, match="no partition 9"):
        files.entries()


def test_a_file_system_in_a_gpt_partition(tmp_path):
    """Names in a GPT are UTF-16, whose codec Python loads late: the reader cannot load anything any more."""
    need("mke2fs")
    places = table(tmp_path / "disk", TABLES["gpt"])
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "here").write_text("here")
    with open(tmp_path / "disk", "r+b") as disk:
        disk.seek(places[2][0])
        disk.write(make(tmp_path / "part", places[2][1], "-t", "ext4", "-d", str(tree)).read_bytes())
    with files_of_image(tmp_path / "disk") as files:
        assert files.read("here") == b"here" and files.about()["partition"] == 2


@pytest.mark.parametrize("magic, at, says", [
    (b"_BHRfS_M", 0x10040, "btrfs"), (b"NTFS    ", 3, "NTFS"), (b"LUKS\xba\xbe", 0, "LUKS"), (b"LABELONE", 512, "LVM"),
    (b"", 0, "no file system that is known")])
def test_what_is_not_read_is_named(magic, at, says, tmp_path):
    data = bytearray(MIB)
    data[at:at + len(magic)] = magic
    (tmp_path / "disk").write_bytes(data)
    with files_of_image(tmp_path / "disk") as files, pytest.raises(Unavailable, match=says) as error:
        files.entries()
    assert "cdp shell" in error.value.hint


def test_features_that_are_not_known(tmp_path):
    need("mke2fs")
    data = bytearray(make(tmp_path / "disk", 4 * MIB, "-t", "ext4", "-O", "^metadata_csum").read_bytes())
    struct.pack_into("<I", data, 1024 + 0x60, struct.unpack_from("<I", data, 1024 + 0x60)[0] | 1)
    (tmp_path / "disk").write_bytes(data)
    with files_of_image(tmp_path / "disk") as files, pytest.raises(Unavailable, match="does not know: 0x1"):
        files.entries()
