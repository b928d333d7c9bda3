"""The build for plain POSIX (`make plain`) has no Linux-only call in it: the C leaves here, and the extensions where
this is that build."""
from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cdpcore
from cdpcore.nbd.connection import RELEASES_PAGES

pytestmark = pytest.mark.plain

CORE = Path(__file__).parent.parent.parent / "src/cdpcore"
LINUX_ONLY = re.compile(
    r"\b(fallocate(?:64)?|memfd_create|eventfd|io_uring\w*|epoll_\w+|getrandom|renameat2|copy_file_range|"
    r"sync_file_range|pidfd_\w+|splice|signalfd|timerfd_\w+|syscall)\b"
)
needs_tools = pytest.mark.skipif(not (shutil.which("cc") and shutil.which("nm")), reason="cc or nm is missing")


def calls(*files: Path, dynamic: bool = False) -> set[str]:
    out = subprocess.run(["nm", "-u", *(["-D"] if dynamic else []), *map(str, files)], capture_output=True, text=True,
                         check=True).stdout
    return {line.split()[-1].partition("@")[0] for line in out.splitlines() if " U " in f" {line} "}


def compiled(folder: Path, *flags: str) -> set[str]:
    def one(source: Path) -> Path:
        made = folder / f"{source.stem}.o"
        subprocess.run(["cc", "-std=c11", "-O0", "-D_GNU_SOURCE", f"-I{CORE}", *flags, "-c", str(source), "-o",
                        str(made)], check=True,
                       capture_output=True)
        return made

    with ThreadPoolExecutor(2) as pool:
        return calls(*pool.map(one, sorted(CORE.rglob("*.c"))))


@needs_tools
@pytest.mark.lint
def test_the_plain_build_makes_no_linux_only_call(tmp_path: Path):
    plain = compiled(tmp_path, "-DCDP_PLAIN_POSIX=1")
    assert "pwrite" in plain or "pwrite64" in plain
    assert not {name for name in plain if LINUX_ONLY.fullmatch(name)}
    assert {name for name in compiled(tmp_path)
            if LINUX_ONLY.fullmatch(name)}, "the usual build has some, or this test sees nothing"


@needs_tools
@pytest.mark.skipif(RELEASES_PAGES, reason="not the plain build")
def test_the_plain_extensions_make_no_linux_only_call():
    extensions = sorted(Path(cdpcore.__file__).parent.rglob("*.so"))
    assert extensions
    assert not {name for name in calls(*extensions, dynamic=True) if LINUX_ONLY.fullmatch(name)}
