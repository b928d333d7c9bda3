"""What `cdp bisect --fsck` and `--file` run: an ext4 file system on an NBD export, looked at with e2fsprogs.

The export is copied to a sparse file first, with nbdcopy: no rights are needed for that. Journals are replayed on the
copy, so a moment of a running file system is seen as after a crash and a mount. Exit status: 0 good, 1 bad, 125 cannot
tell (no tools).
"""
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

from cdp.cli.output import say

GOOD, BAD, CANNOT_TELL = 0, 1, 125
FAILED = 4      # of e2fsck: from here on, errors are left


def main(argv: list[str]) -> int:
    uri, what, *more = argv
    if lacks := [tool for tool in ("nbdcopy", "e2fsck", "debugfs") if not shutil.which(tool)]:
        say(f"{', '.join(lacks)} not found: libnbd and e2fsprogs are needed")
        return CANNOT_TELL
    with tempfile.TemporaryDirectory(prefix="cdp-bisect-") as folder:
        disk = os.path.join(folder, "disk")
        subprocess.run(["nbdcopy", "--", uri, disk], check=True)
        replayed = _quiet("e2fsck", "-E", "journal_only", "-f", "-y", disk)
        if what == "fsck":
            return GOOD if replayed < FAILED and _quiet("e2fsck", "-f", "-n", disk) == 0 else BAD
        path, sha256 = more
        out = os.path.join(folder, "file")
        _quiet("debugfs", "-R", f'dump "{path}" "{out}"', disk)
        if not os.path.exists(out):
            return BAD
        with open(out, "rb") as file:
            return GOOD if hashlib.file_digest(file, "sha256").hexdigest() == sha256 else BAD


def _quiet(*argv: str) -> int:
    return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (subprocess.CalledProcessError, OSError) as error:
        say(str(error))
        sys.exit(CANNOT_TELL)
