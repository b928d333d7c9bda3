"""A disk image that is not raw is not taken for raw: what a user types, with images of qemu-img."""
import shutil
import subprocess

import pytest
from support.interop import cdp_argv, need, run

import cdp
from cdp.store.base_image import Base
from cdpcore.base.errors import InvalidRequest

MIB = 1 << 20


@pytest.fixture
def images(tmp_path):
    """d.qcow2 and d.vmdk of 16 MiB, with bytes of 7 in the first one; d.gz."""
    need("qemu-img", "qemu-io")
    for name in ("qcow2", "vmdk"):
        subprocess.run(["qemu-img", "create", "-q", "-f", name, tmp_path / f"d.{name}", "16M"], check=True)
        subprocess.run(["qemu-io", "-f", name, "-c", "write -P 7 1M 2M", "-c", "write -P 8 15M 64k",
                        tmp_path / f"d.{name}"],
                       check=True, capture_output=True)
    return tmp_path


def content():
    data = bytearray(16 * MIB)
    data[MIB:3 * MIB] = b"\7" * (2 * MIB)
    data[15 * MIB:15 * MIB + 65536] = b"\x08" * 65536
    return bytes(data)


def refused(where, *args, said):
    done = run(*cdp_argv(*args), cwd=where, status=2)
    assert done.stderr.count("\n") == 1 and said in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize(("name", "title"), [("qcow2", "a qcow2 image"), ("vmdk", "a VMDK image")])
def test_a_container_is_refused_with_the_command_to_run(images, name, title):
    for args in (("import", f"d.{name}", "web"), ("create", "web", "--mode", "before", "--base", f"d.{name}")):
        text = refused(images, *args, said=f"d.{name} is {title}, not a raw disk")
        assert "--format raw" in text and f"qemu-img convert -f {name} -O raw " in text
        assert not (images / "web").exists()
    run(*cdp_argv("create", "old", "--size", "32M"), cwd=images)
    refused(images, "import", f"d.{name}", "old", said=title)


def test_format_raw_means_it(images):
    before = (images / "d.qcow2").read_bytes()
    run(*cdp_argv("import", "d.qcow2", "copy", "--format", "raw"), cwd=images)
    run(*cdp_argv("create", "web", "--mode", "before", "--base", "d.qcow2", "--format", "raw"), cwd=images)
    for name in ("copy", "web"):
        with cdp.open(images / name) as volume:
            assert volume.pread(len(before), 0) == before
    refused(images, "create", "other", "--size", "1M", "--format", "raw", said="--format says what --base DISK is")


def test_the_library_refuses_it_too(images):
    data = (images / "d.qcow2").read_bytes()

    def base(image_format=None):
        return Base(lambda at, view: view.__setitem__(slice(None), data[at:at + len(view)]), [(0, len(data))],
                    image_format=image_format)

    with pytest.raises(InvalidRequest, match="is a qcow2 image"):
        cdp.create(images / "a", disk=images / "d.qcow2")
    with pytest.raises(InvalidRequest, match="is a qcow2 image"):
        cdp.create(images / "a", size=len(data), base=base())
    assert not (images / "a").exists()
    with cdp.create(images / "a", size=len(data)) as volume:
        filler = base()
        with pytest.raises(InvalidRequest, match="is a qcow2 image"):
            volume.import_base(filler.read, filler.extents)
        assert volume.pread(4, 0) == bytes(4)
        volume.import_base(filler.read, filler.extents, image_format="raw")
        assert volume.pread(4, 0) == b"QFI\xfb"
    with pytest.raises(InvalidRequest, match="image format"):
        cdp.create(images / "b", disk=images / "d.qcow2", image_format="qcow2")


def test_adopt_looks_at_the_disk_again(images):
    (images / "disk").write_bytes(bytes(MIB))       # nothing was written: there is no history to ask about
    cdp.create(images / "web", disk=images / "disk").close()
    shutil.copyfile(images / "d.qcow2", images / "disk")
    refused(images, "adopt", "web", said="is a qcow2 image")
    run(*cdp_argv("adopt", "web", "--format", "raw"), cwd=images)
    with cdp.open(images / "web") as volume:
        assert volume.pread(4, 0) == b"QFI\xfb"


def test_a_compressed_image_is_refused(tmp_path):
    (tmp_path / "disk").write_bytes(b"x" * MIB)
    subprocess.run(["gzip", "disk"], cwd=tmp_path, check=True)
    refused(tmp_path, "import", "disk.gz", "web", said="disk.gz is a gzip file, not a raw disk; make a raw disk of it: "
                                                      "gzip -dc disk.gz > disk.gz.raw")


def test_a_luks_device_is_a_disk(tmp_path):
    (tmp_path / "disk").write_bytes(b"LUKS\xba\xbe\0\2" + bytes(MIB - 8))
    done = run(*cdp_argv("import", "disk", "web"), cwd=tmp_path)
    assert "disk is a LUKS device: what the volume holds is encrypted" in done.stderr
    done = run(*cdp_argv("import", "disk", "other", "--format", "raw"), cwd=tmp_path)
    assert "LUKS" not in done.stderr
