"""What `cdp bisect --fsck` and `--file` run: an ext4 file system on an NBD export, as after a crash and a mount.

A file is read by our own reader (cdp.files), which reads little of the disk. For e2fsck, the export is copied to a
sparse file with nbdcopy: no rights are needed for that; journals are replayed on the copy. Exit status: 0 good, 1 bad,
125 cannot tell (no tools).
"""
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

from cdp.cli.output import say
from cdp.files.session import Files
from cdp.nbd.client import Client
from cdpcore.base.errors import Corruption, InvalidRequest, NotFound, Unavailable

GOOD, BAD, CANNOT_TELL = 0, 1, 125
FAILED = 4      # of e2fsck: from here on, errors are left


def main(argv: list[str]) -> int:
    uri, what, *more = argv
    if what == "file":
        return _file(uri, *more)
    if lacks := [tool for tool in ("nbdcopy", "e2fsck") if not shutil.which(tool)]:
        say(f"{', '.join(lacks)} not found: libnbd and e2fsprogs are needed")
        return CANNOT_TELL
    with tempfile.TemporaryDirectory(prefix="cdp-bisect-") as folder:
        disk = os.path.join(folder, "disk")
        subprocess.run(["nbdcopy", "--", uri, disk], check=True)
        replayed = _quiet("e2fsck", "-E", "journal_only", "-f", "-y", disk)
        return GOOD if replayed < FAILED and _quiet("e2fsck", "-f", "-n", disk) == 0 else BAD


def _file(uri: str, path: str, sha256: str) -> int:
    digest = hashlib.sha256()
    with Client(uri) as disk, Files(disk.pread, disk.size_bytes) as files:
        try:
            for part in files.content(path):
                digest.update(part)
        except (NotFound, InvalidRequest, Corruption, Unavailable) as error:
            say(error.message)
            return BAD
    return GOOD if digest.hexdigest() == sha256 else BAD


def _quiet(*argv: str) -> int:
    return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (subprocess.CalledProcessError, OSError) as error:
        say(str(error))
        sys.exit(CANNOT_TELL)
