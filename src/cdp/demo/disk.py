"""The demo's disk: real files of this machine in a real file system.

Ext4Disk makes and edits an ext4 file system with e2fsprogs, without root and without mounting; where those tools are
missing, TarDisk is a disk that holds a tar archive, as a tape would. Both say by themselves whether a disk is whole.
"""
from __future__ import annotations

import hashlib
import os
import re
import shutil
import sysconfig
import tarfile
from pathlib import Path
from typing import Protocol

from cdp.demo.narrator import Failed, Teller

_PLAIN_NAME = re.compile(r"[\w./+-]+", re.ASCII)

Sums = dict[str, str]  # path within the disk to SHA-256


def sum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def real_files(limit_bytes: int) -> list[tuple[str, Path]]:
    """(path within the disk, path here) of the source files of Python's own library, up to so many bytes of them."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[str, Path]] = []
    total_bytes = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - {"__pycache__", "site-packages", "dist-packages"})
        for name in sorted(names):
            path = Path(folder, name)
            inside = path.relative_to(root).as_posix()
            if not name.endswith(".py") or not _PLAIN_NAME.fullmatch(inside):
                continue
            if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                continue
            total_bytes += path.stat().st_size
            if total_bytes > limit_bytes:
                return found
            found.append((inside, path))
    return found


class Disk(Protocol):
    """A kind of disk. Paths are of raw image files here; the methods raise Failed where a tool does."""

    what: str
    whole: str  # how it is said that nothing is wrong

    def make(self, image: Path, files: list[tuple[str, Path]]) -> None: ...
    def add(self, image: Path, inside: str, source: Path) -> None: ...
    def delete(self, image: Path, insides: list[str]) -> None: ...
    def fault(self, image: Path) -> str:
        """What is wrong with the file system, "" if nothing is."""

    def sums(self, image: Path) -> Sums:
        """The checksum of every file in it."""


class Ext4Disk:
    """An ext4 file system, by mke2fs, debugfs and e2fsck."""

    what = "ext4 file system"
    whole = "fsck finds no fault"
    tools = ("mke2fs", "debugfs", "e2fsck")

    def __init__(self, teller: Teller, scratch: Path, size_bytes: int):
        self._teller, self._scratch, self._size_bytes = teller, scratch, size_bytes

    def make(self, image: Path, files: list[tuple[str, Path]]) -> None:
        tree = self._scratch / "tree"
        for inside, path in files:
            target = tree / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        # 4 KiB blocks and a journal, as mkfs.ext4 makes them on a disk of usual size.
        self._teller.quiet("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-J", "size=4", "-d", str(tree),
                           str(image), f"{self._size_bytes >> 10}k")
        shutil.rmtree(tree)

    def add(self, image: Path, inside: str, source: Path) -> None:
        self._edit(image, [f"write {source} {inside}"])

    def delete(self, image: Path, insides: list[str]) -> None:
        self._edit(image, [f"rm {inside}" for inside in insides])

    def _edit(self, image: Path, commands: list[str]) -> None:
        script = self._scratch / "debugfs.txt"
        script.write_text("".join(f"{line}\n" for line in commands))
        done = self._teller.quiet("debugfs", "-w", "-f", str(script), str(image))
        # debugfs ends with 0 whatever happens; it echoes the commands on one stream and complains on the other.
        said = [line for line in done.stderr.splitlines() if line and not line.startswith("debugfs ")]
        if said:
            raise Failed(f"debugfs: {said[0]}")

    def fault(self, image: Path) -> str:
        done = self._teller.attempt("e2fsck", "-f", "-n", str(image))
        if done.returncode == 0:
            return ""
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line and not line.startswith("e2fsck ")]
        line = next((line for line in lines if "magic" in line), lines[0] if lines else "damaged")
        return line.partition(" while ")[0]

    def sums(self, image: Path) -> Sums:
        out = self._scratch / "rdump"
        out.mkdir()
        self._teller.quiet("debugfs", "-R", f"rdump / {out}", str(image))
        found = {path.relative_to(out).as_posix(): sum_of(path) for path in out.rglob("*") if path.is_file()}
        shutil.rmtree(out)
        return found


class TarDisk:
    """A tar archive from the first byte of the disk on, by Python."""

    what = "tar archive"
    whole = "the archive is whole"

    def __init__(self, teller: Teller, scratch: Path, size_bytes: int):
        self._teller, self._scratch, self._size_bytes = teller, scratch, size_bytes

    def make(self, image: Path, files: list[tuple[str, Path]]) -> None:
        with tarfile.open(image, "w", format=tarfile.PAX_FORMAT) as tar:
            for inside, path in files:
                tar.add(path, inside, recursive=False)
        os.truncate(image, self._size_bytes)

    def add(self, image: Path, inside: str, source: Path) -> None:
        with tarfile.open(image, "a") as tar:
            tar.add(source, inside)
        os.truncate(image, self._size_bytes)

    def delete(self, image: Path, insides: list[str]) -> None:
        kept = self._scratch / "kept.tar"
        gone = set(insides)
        with tarfile.open(image) as old, tarfile.open(kept, "w", format=tarfile.PAX_FORMAT) as new:
            for member in old:
                if member.name not in gone:
                    new.addfile(member, old.extractfile(member))
        os.truncate(kept, self._size_bytes)
        os.replace(kept, image)

    def fault(self, image: Path) -> str:
        try:
            self.sums(image)
        except tarfile.TarError as error:
            return f"tar: {error}"
        return ""

    def sums(self, image: Path) -> Sums:
        found: Sums = {}
        with tarfile.open(image) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    found[member.name] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return found


def choose(teller: Teller, scratch: Path, size_bytes: int) -> Disk:
    """ext4 where its tools are, else tar."""
    kind = Ext4Disk if all(teller.has(name) for name in Ext4Disk.tools) else TarDisk
    return kind(teller, scratch, size_bytes)
