"""File systems by the kernel: what is in a folder, whoever mounted it, and images that are mounted for a test."""
import os
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.interop import need, run

from cdp.files.session import Files


@pytest.fixture
def ram():
    """A folder in memory, where it may be: file systems are synced by the hundred here."""
    inside = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=inside, prefix="cdp-test-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def need_a_kernel(*tools):
    """That mounts, for root; with nbdfuse among the tools also by FUSE."""
    need("losetup", "mount", "umount", *tools)
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    for device in ("/dev/loop-control", *(["/dev/fuse"] if "nbdfuse" in tools else [])):
        try:
            os.close(os.open(device, os.O_RDWR))
        except OSError as error:
            pytest.skip(f"this machine has no usable {device}: {error.strerror}")


@contextmanager
def mounted(image, folder, *options, kind="ext4"):
    """An image, or a device, by the kernel."""
    folder.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", image).stdout.strip()
    try:
        run("mount", "-t", kind, *(("-o", ",".join(options)) if options else ()), device, folder)
        try:
            yield folder
        finally:
            if run("umount", folder, status=None).returncode:
                run("umount", "--lazy", folder, status=None)
    finally:
        run("losetup", "--detach", device, status=None)


def by_kernel(folder, content=True):
    """{path: what it is}, as lstat says, and the content of files."""
    found = {}
    for base, folders, names in os.walk(os.fsencode(folder)):
        for name in folders + names:
            path = os.path.join(base, name)
            st = os.lstat(path)
            held = None
            if stat.S_ISREG(st.st_mode) and content:
                with open(path, "rb") as file:
                    held = file.read()
            elif stat.S_ISLNK(st.st_mode):
                held = os.readlink(path)
            found[os.fsdecode(os.path.relpath(path, os.fsencode(folder)))] = (
                stat.S_IFMT(st.st_mode), st.st_mode & 0o7777, st.st_ino, st.st_nlink, st.st_uid, st.st_gid,
                0 if stat.S_ISDIR(st.st_mode) else st.st_size, st.st_mtime_ns, st.st_ctime_ns, held)
    return found


FORMATS = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "directory": stat.S_IFDIR, "block": stat.S_IFBLK,
           "file": stat.S_IFREG, "symlink": stat.S_IFLNK, "socket": stat.S_IFSOCK}


def by_reader(files, content=True, most_bytes=1 << 30):
    """The same, by the reader; content: only of files that are no larger."""
    found = {}
    for one in files.entries("/", recursive=True):
        held = files.read(one.name) if one.kind == "file" and content and one.size_bytes <= most_bytes else (
            os.fsencode(one.target) if one.kind == "symlink" else None)
        found[one.name] = (FORMATS[one.kind], one.mode, one.inode, one.links, one.uid, one.gid,
                           0 if one.kind == "directory" else one.size_bytes, one.mtime_ns, one.ctime_ns, held)
    return found


@contextmanager
def files_of_image(path, **limits):
    fd = os.open(path, os.O_RDONLY)
    try:
        with Files(lambda length, offset: os.pread(fd, length, offset), os.fstat(fd).st_size, **limits) as files:
            yield files
    finally:
        os.close(fd)


def make(path, size, *options):
    with open(path, "wb") as file:
        file.truncate(size)
    subprocess.run(["mke2fs", "-q", "-F", *options, str(path)], check=True, stdin=subprocess.DEVNULL)
    return path
