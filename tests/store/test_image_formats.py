"""Images that are not raw are known by their first and last bytes, as QEMU's own tools write them."""
import bz2
import gzip
import lzma
import random
import shutil
import subprocess

import pytest
from support.interop import need

from cdp.store.image_formats import CONTAINERS, identify, look


def format_of(path):
    data = path.read_bytes()
    found = look(lambda length, offset: data[offset:offset + length], len(data))
    return found.name if found else None


@pytest.mark.parametrize("name", ["qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx", "parallels"])
def test_what_qemu_makes(tmp_path, name):
    need("qemu-img")
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", name, path, "16M"], check=True)
    assert format_of(path) == name and name in CONTAINERS


@pytest.mark.parametrize(("name", "options"), [
    ("vpc", "subformat=fixed"), ("vmdk", "subformat=monolithicFlat"), ("vmdk", "subformat=streamOptimized"),
    ("qcow2", "compat=0.10")])
def test_their_other_kinds(tmp_path, name, options):
    need("qemu-img")
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", name, "-o", options, path, "16M"], check=True)
    assert format_of(path) == name


def test_luks_is_known_and_is_a_disk(tmp_path):
    need("qemu-img")
    path = tmp_path / "disk"
    for _ in range(20):     # it measures the processor, and gives up on a busy one
        done = subprocess.run(["qemu-img", "create", "-q", "--object", "secret,id=s,data=x", "-f", "luks",
                               "-o", "key-secret=s,iter-time=100", path, "1M"], check=False, capture_output=True,
                               text=True)
        if "accurate CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    assert format_of(path) == "luks"
    assert not look(lambda n, at: path.read_bytes()[at:at + n], path.stat().st_size).container


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("xz", lzma.compress), ("bzip2", bz2.compress)])
def test_compressed_files(tmp_path, name, pack):
    path = tmp_path / "disk"
    path.write_bytes(pack(b"content" * 1000))
    assert format_of(path) == name


def test_zstd_files(tmp_path):
    if not shutil.which("zstd"):
        pytest.skip("needs zstd")
    (tmp_path / "raw").write_bytes(b"content" * 1000)
    subprocess.run(["zstd", "-q", tmp_path / "raw", "-o", tmp_path / "disk"], check=True)
    assert format_of(tmp_path / "disk") == "zstd"


@pytest.mark.parametrize("make", [["mkfs.ext4", "-q"], ["mkfs.xfs", "-q"], ["mkfs.vfat"], ["mkswap", "-q"]],
                         ids=lambda m: m[0])
def test_a_file_system_is_raw(tmp_path, make):
    if not shutil.which(make[0]):
        pytest.skip(f"needs {make[0]}")
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run([*make, path], check=True, capture_output=True)
    assert format_of(path) is None


def test_other_content_is_raw():
    rng = random.Random(1)
    assert identify(b"", b"") is None and identify(bytes(4096), bytes(512)) is None
    for _ in range(1000):
        assert identify(rng.randbytes(4096), rng.randbytes(512)) is None
    boot = bytearray(b"BZh" + bytes(509))
    boot[510:512] = b"\x55\xaa"
    assert identify(bytes(boot), bytes(512)) is None
