"""A disk image that is not raw is not taken for raw: what a user types, with images of qemu-img."""
import shutil
import subprocess

import pytest
from support.interop import cdp_argv, cdp_done, environ, need, run, world  # noqa: F401

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
    done = cdp_done(*args, cwd=where, status=2)
    assert done.stderr.count("\n") == 1 and said in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize(("name", "title"), [("qcow2", "a qcow2 image"), ("vmdk", "a VMDK image")])
def test_a_container_is_refused_with_the_command_to_run(images, name, title):
    for args in (("import", f"d.{name}", "web"), ("create", "web", "--mode", "before", "--base", f"d.{name}")):
        text = refused(images, *args, said=f"d.{name} is {title}, not a raw disk")
        assert "--format raw" in text and f"qemu-img convert -f {name} -O raw " in text
        assert not (images / "web").exists()
    cdp_done("create", "old", "--size", "32M", cwd=images)
    refused(images, "import", f"d.{name}", "old", said=title)


def test_format_raw_means_it(images):
    before = (images / "d.qcow2").read_bytes()
    cdp_done("import", "d.qcow2", "copy", "--format", "raw", cwd=images)
    cdp_done("create", "web", "--mode", "before", "--base", "d.qcow2", "--format", "raw", cwd=images)
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
    cdp_done("adopt", "web", "--format", "raw", cwd=images)
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


@pytest.fixture(params=["local", "served"])
def volume_world(request, world, images):  # noqa: F811
    """A world with the images; .serve_it("web") serves there, or does nothing."""
    assert world.path == images
    world.serve_it = world.serve if request.param == "served" else lambda _name: None
    return world


@pytest.mark.parametrize(("name", "said"), [("qcow2", "qcow2"), ("qcow2", "auto"), ("vmdk", "vmdk")])
def test_import_converts(images, name, said):
    need("qemu-nbd")
    cdp_done("import", f"d.{name}", "web", "--format", said, cwd=images)
    with cdp.open(images / "web") as volume:
        assert volume.size_bytes == 16 * MIB and volume.pread(16 * MIB, 0) == content()
    assert (images / "web/base.img").stat().st_blocks * 512 < 3 * MIB      # sparse
    cdp_done("create", "old", "--size", "32M", cwd=images)
    with cdp.open(images / "old") as volume:
        volume.pwrite(b"\1" * 20 * MIB, 0)
    cdp_done("import", f"d.{name}", "old", "--format", said, cwd=images)
    with cdp.open(images / "old") as volume:
        assert volume.pread(20 * MIB, 0) == content() + b"\1" * 4 * MIB


def test_an_import_of_another_format_is_refused(images):
    (images / "plain").write_bytes(b"x" * MIB)
    refused(images, "import", "d.vmdk", "web", "--format", "qcow2",
            said="d.vmdk is a VMDK image, not a qcow2 image; say --format vmdk")
    refused(images, "import", "plain", "web", "--format", "qcow2", said="plain: qemu-nbd does not serve it: ")
    cdp_done("import", "plain", "plain-volume", "--format", "auto", cwd=images)


def test_without_the_tools_the_command_is_named(images, monkeypatch):
    tools = images / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    done = cdp_done("import", "d.qcow2", "web", "--format", "qcow2", cwd=images, status=8)
    assert "qemu-nbd is not installed" in done.stderr
    assert "qemu-img convert -f qcow2 -O raw d.qcow2 d.qcow2.raw" in done.stderr
    cdp_done("create", "web", "--size", "1M", cwd=images)
    cdp_done("export", "web", "out.qcow2", cwd=images, status=8)       # no raw disk under that name
    assert not (images / "out.qcow2").exists()
    done = cdp_done("export", "web", "out.qcow2", "--format", "qcow2", cwd=images, status=8)
    assert "qemu-img is not installed" in done.stderr and "qemu-img convert -f raw -O qcow2" in done.stderr
    assert not (images / "out.qcow2").exists()


@pytest.mark.parametrize("name", ["qcow2", "vmdk", "vhdx"])
def test_export_writes_other_formats(volume_world, name):
    need("qemu-img")
    where = volume_world.path
    with cdp.create(where / "web", size=64 * MIB) as volume:
        volume.pwrite(content(), 0)
        volume.bookmark("a")
        volume.pwrite(b"\3" * MIB, 40 * MIB)
        volume.pwrite(b"\4" * MIB, 0)
    volume_world.serve_it("web")
    out = f"out.{name}"
    volume_world.cdp("export", "web@a", out, "--format", name)
    subprocess.run(["qemu-img", "convert", "-f", name, "-O", "raw", where / out, where / "back"], check=True)
    assert (where / "back").read_bytes()[:64 * MIB] == content() + bytes(48 * MIB)
    assert (where / out).stat().st_size < 32 * MIB     # what is a hole is not written
    refused(where, "export", "web", out, "--format", name, said="exists")
    assert sorted(p.name for p in where.iterdir() if "part" in p.name) == []


def test_an_export_is_what_its_name_says(images):
    need("qemu-img")
    plain = b"\1\1\1\1"
    with cdp.create(images / "web", size=MIB) as volume:
        volume.pwrite(b"\1" * MIB, 0)
    for name, head in (("out.qcow2", b"QFI\xfb"), ("OUT.VMDK", b"KDMV"), ("out.qcow2.img", plain), ("out", plain)):
        done = cdp_done("export", "web", name, cwd=images)
        assert (images / name).read_bytes()[:4] == head, name
        assert ("as its name says; --format raw writes a raw disk" in done.stderr) == (head != plain), name
    cdp_done("export", "web", "raw.qcow2", "--format", "raw", cwd=images)
    assert (images / "raw.qcow2").read_bytes() == b"\1" * MIB
    cdp_done("export", "web", "delta.qcow2", "--delta", cwd=images)
    assert (images / "delta.qcow2").read_bytes()[:4] not in (b"QFI\xfb", plain)


def test_an_export_reads_no_holes(tmp_path):
    """A tebibyte of them would take half an hour."""
    need("qemu-img")
    with cdp.create(tmp_path / "web", size=1 << 40) as volume:
        volume.pwrite(b"\1" * MIB, 1 << 39)
    run(*cdp_argv("export", "web", "out.qcow2", "--format", "qcow2"), cwd=tmp_path, timeout_s=60)
    run("qemu-io", "-r", "-f", "qcow2", "-c", f"read -P 1 {1 << 39} 1M", "out.qcow2", cwd=tmp_path)
    run(*cdp_argv("import", "out.qcow2", "back", "--format", "qcow2"), cwd=tmp_path, timeout_s=60)
    with cdp.open(tmp_path / "back") as volume:
        assert volume.size_bytes == 1 << 40 and volume.pread(MIB, 1 << 39) == b"\1" * MIB


def test_an_export_that_fails_leaves_what_was_there(images):
    cdp.create(images / "web", size=MIB).close()
    (images / "out").write_bytes(b"old")
    refused(images, "export", "web", "-", "--format", "qcow2", said="- takes a raw disk only")
    refused(images, "export", "web", "/dev/null", "--force", "--format", "qcow2", said="takes a raw disk only")
    (images / "bin").mkdir()
    tool = images / "bin/qemu-img"
    tool.write_text("#!/bin/sh\necho 'No space left on device' >&2\nexit 1\n")
    tool.chmod(0o755)
    env = {**environ(), "PATH": f"{images / 'bin'}:{environ()['PATH']}"}
    done = subprocess.run(cdp_argv("export", "web", "out", "--force", "--format", "qcow2"), cwd=images, env=env,
                          check=False, capture_output=True, text=True)
    assert done.returncode == 6 and "No space left on device" in done.stderr
    assert (images / "out").read_bytes() == b"old" and not list(images.glob("out.part*"))
