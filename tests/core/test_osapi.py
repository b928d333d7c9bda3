"""The OS table keeps one contract on the real machine and on the simulated one: the same suite runs on both."""
import mmap
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdpcore.base.errors import Busy, CdpError, Closed, InvalidRequest, NotFound, OutOfSpace, Unavailable
from cdpcore.system import os as osapi

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

KIB = 1024
MIB = 1024 * KIB


@dataclass
class Place:
    """An operating system and an empty directory on it."""

    os: osapi.Os
    root: str

    def __truediv__(self, name: str) -> str:
        return f"{self.root}/{name}"


@pytest.fixture(params=["posix", "sim"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "posix":
        yield Place(osapi.posix(), str(tmp_path))
        return
    sim = osapi.SimOs(1)
    sim.mkdir("/d")
    yield Place(sim, "/d")
    assert sim.misuse == 0
    assert sim.open_handles == 0


def aligned(data: bytes) -> mmap.mmap:
    buffer = mmap.mmap(-1, len(data))
    buffer[:] = data
    return buffer


def test_where_an_open_file_is(place: Place) -> None:
    with place.os.open(place / "f", write=True, create=True) as f:
        assert f.is_at(place / "f")
        assert not f.is_at(place / "g") and not f.is_at(place / "f/g")
        place.os.rename(place / "f", place / "g")
        assert f.is_at(place / "g") and not f.is_at(place / "f")
        place.os.open(place / "f", write=True, create=True).close()
        assert not f.is_at(place / "f")
        place.os.rename(place / "f", place / "g")
        assert not f.is_at(place / "g")


def test_write_read_and_size(place: Place) -> None:
    with place.os.open(place / "f", write=True, create=True) as f:
        assert f.size() == 0
        assert f.pwrite(b"abc", 5) == 3
        assert f.size() == 8
        assert f.pread(100, 0) == b"\0\0\0\0\0abc"
        assert f.pread(2, 5) == b"ab"
        assert f.pread(10, 8) == b""
        assert f.pread(10, 1 << 40) == b""
        assert f.pread(0, 0) == b""
        assert f.pwrite(b"", 100) == 0
        assert f.size() == 8
        buffer = bytearray(b"........")
        assert f.pread_into(buffer, 6) == 2
        assert buffer == b"bc......"
        f.datasync()
    assert place.os.size(place / "f") == 8


@pytest.mark.parametrize("offset", [0, 1, 511, 512, 4095, 4096, 4097, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32,
                                    2**32 + 1, 2**40 + 513])
@pytest.mark.parametrize("length", [1, 511, 512, 4096, 12289])
def test_offsets_and_lengths(place: Place, offset: int, length: int) -> None:
    data = bytes(i * 7 % 251 for i in range(length))
    with place.os.open(place / "f", write=True, create=True) as f:
        f.pwrite(b"\xff" * (length + 2), max(offset - 1, 0))
        f.pwrite(data, offset)
        assert f.pread(length, offset) == data
        assert f.pread(1, offset + length) == b"\xff"
        if offset:
            assert f.pread(1, offset - 1) == b"\xff"


def test_large_write(place: Place) -> None:
    data = bytes(range(256)) * (4 * MIB // 256) + b"tail"
    with place.os.open(place / "f", write=True, create=True) as f:
        f.pwrite(data, 3)
        assert f.pread(len(data) + 99, 3) == data


def test_offsets_out_of_range(place: Place) -> None:
    with place.os.open(place / "f", write=True, create=True) as f:
        for call in (lambda: f.pwrite(b"xy", 2**63 - 1), lambda: f.truncate(2**63),
                     lambda: f.allocate(2**63 - 1, 2)):
            with pytest.raises(OutOfSpace):
                call()
        with pytest.raises(InvalidRequest):
            f.pread(2, 2**63 - 1)
        with pytest.raises(InvalidRequest):
            f.pread((1 << 30) + 1, 0)
        with pytest.raises(CdpError):
            f.punch(2**63 - 1, 2)
        with pytest.raises(OverflowError):
            f.pread(1, -1)
        assert f.size() == 0


def test_truncate(place: Place) -> None:
    with place.os.open(place / "f", write=True, create=True) as f:
        f.pwrite(b"x" * 10000, 0)
        f.truncate(5000)
        assert f.size() == 5000
        f.truncate(9000)
        assert f.pread(9000, 0) == b"x" * 5000 + b"\0" * 4000
        f.truncate(0)
        f.truncate(64 << 40 if isinstance(place.os, osapi.SimOs) else 64 << 30)
        assert f.pread(3, 60 << 30) == b"\0\0\0"
        f.pwrite(b"end", 60 << 30)
        assert f.pread(5, (60 << 30) - 1) == b"\0end\0"


def test_allocate_keeps_data_and_grows(place: Place) -> None:
    with place.os.open(place / "f", write=True, create=True) as f:
        f.pwrite(b"data", 4094)
        f.allocate(0, 3 * MIB)
        assert f.size() == 3 * MIB
        assert f.pread(6, 4093) == b"\0data\0"
        f.allocate(100, 200)
        assert f.size() == 3 * MIB
        f.allocate(MIB, 0)
        f.allocate(3 * MIB + 5, 10)
        assert f.size() == 3 * MIB + 15
        assert f.pread(15, 3 * MIB) == b"\0" * 15


def test_punch(place: Place) -> None:
    with place.os.open(place / "f", write=True, create=True) as f:
        f.pwrite(b"x" * 40000, 0)
        try:
            f.punch(100, 30000)
        except Unavailable as error:
            assert "not supported" in str(error)
            pytest.skip("no holes on this file system or in this build")
        assert f.pread(40000, 0) == b"x" * 100 + b"\0" * 30000 + b"x" * 9900
        f.punch(0, 0)
        f.punch(39000, MIB)
        assert f.size() == 40000
        assert f.pread(1001, 38999) == b"x" + b"\0" * 1000
        f.punch(5 * MIB, MIB)
        assert f.size() == 40000


def test_next_data_covers_all_data(place: Place) -> None:
    written = [(8 * MIB, b"a" * 5000), (8 * MIB + 4096, b"b" * 10), (20 * MIB + 1, b"c")]
    with place.os.open(place / "f", write=True, create=True) as f:
        assert f.next_data(0) is None
        f.truncate(32 * MIB)
        for offset, data in written:
            f.pwrite(data, offset)
        covered = []
        at = 0
        while (found := f.next_data(at)) is not None:
            start, end = found
            assert at <= start < end <= 32 * MIB
            covered.append(found)
            at = end
        for offset, data in written:
            assert any(start <= offset and offset + len(data) <= end for start, end in covered)
        found = f.next_data(8 * MIB + 100)
        assert found is not None and found[0] == 8 * MIB + 100
        assert f.next_data(32 * MIB) is None
        assert f.next_data(1 << 50) is None


def test_a_sparse_file_has_holes(place: Place) -> None:
    with place.os.open(place / "f", write=True, create=True) as f:
        f.truncate(64 * MIB)
        f.pwrite(b"x" * 4096, 32 * MIB)
        first = f.next_data(0)
    if first == (0, 64 * MIB):
        pytest.skip("no holes on this file system or in this build")
    assert first is not None and first[0] > 16 * MIB and first[1] < 48 * MIB


def test_open_errors(place: Place) -> None:
    with pytest.raises(NotFound, match="nothing"):
        place.os.open(place / "nothing")
    place.os.open(place / "f", create=True).close()
    with pytest.raises(Unavailable, match="File exists"):
        place.os.open(place / "f", create=True)
    with pytest.raises(Unavailable, match="Is a directory"):
        place.os.open(place.root)
    with pytest.raises(Unavailable, match="Not a directory"):
        place.os.open(place / "f/g")
    with pytest.raises(NotFound):
        place.os.open(place / "no/g", create=True)
    with pytest.raises(InvalidRequest):
        place.os.open("a\0b")
    with pytest.raises(InvalidRequest):
        place.os.open("")
    with pytest.raises(Unavailable, match="name too long"):
        place.os.open(place / ("n" * 256))
    with pytest.raises(TypeError):
        place.os.open(5)  # type: ignore[arg-type]


def test_a_read_only_handle_refuses_changes(place: Place) -> None:
    place.os.write_file(place / "f", b"content")
    with place.os.open(place / "f") as f:
        for call in (lambda: f.pwrite(b"x", 0), lambda: f.truncate(0), lambda: f.allocate(0, 1 << 20)):
            with pytest.raises((Unavailable, InvalidRequest)):
                call()
        assert f.pread(10, 0) == b"content"


def test_closed_use_raises(place: Place) -> None:
    f = place.os.open(place / "f", write=True, create=True)
    assert not f.closed
    f.close()
    f.close()
    assert f.closed
    for call in (f.size, f.datasync, f.lock, f.__enter__, lambda: f.pread(1, 0), lambda: f.pwrite(b"x", 0),
                 lambda: f.pread_into(bytearray(1), 0), lambda: f.truncate(1), lambda: f.allocate(0, 1),
                 lambda: f.punch(0, 1), lambda: f.next_data(0)):
        with pytest.raises(Closed):
            call()
    with pytest.raises(Closed):
        osapi.File().size()


def test_close_while_others_read(place: Place) -> None:
    with place.os.open(place / "f", write=True, create=True) as f:
        f.pwrite(b"x" * MIB, 0)
    f = place.os.open(place / "f")
    wrong: list[object] = []

    def read() -> None:
        try:
            while True:
                if f.pread(MIB, 0) != b"x" * MIB:
                    wrong.append("content")
        except Closed:
            pass
        except Exception as error:  # noqa: BLE001 - reported below
            wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    f.pread(1, 0)
    f.close()
    for thread in threads:
        thread.join()
    assert not wrong


def test_dropping_a_file_closes_it(place: Place) -> None:
    f = place.os.open(place / "f", write=True, create=True)
    f.lock()
    del f
    with place.os.open(place / "f") as g:
        g.lock()


def test_lock(place: Place) -> None:
    with place.os.open(place / "f", write=True, create=True) as f, place.os.open(place / "f") as g:
        f.lock()
        f.lock()
        with pytest.raises(Busy):
            g.lock()
        place.os.open(place / "f").close()
        with pytest.raises(Busy):
            g.lock()
        f.close()
        g.lock()


def test_directories(place: Place) -> None:
    o = place.os
    o.mkdir(place / "sub")
    with pytest.raises(Unavailable, match="File exists"):
        o.mkdir(place / "sub")
    with pytest.raises(NotFound):
        o.mkdir(place / "no/sub")
    assert o.list_dir(place / "sub") == []
    names = ["b", "a", "é", "Z", "a.tmp", "10", "9"]
    for name in names:
        o.write_file(place / f"sub/{name}", name.encode())
    assert o.list_dir(place / "sub") == sorted(names, key=str.encode)
    with pytest.raises(Unavailable, match="not empty"):
        o.rmdir(place / "sub")
    with pytest.raises(Unavailable, match="Is a directory"):
        o.unlink(place / "sub")
    with pytest.raises(Unavailable, match="Not a directory"):
        o.rmdir(place / "sub/a")
    for name in names:
        o.unlink(place / f"sub/{name}")
    with pytest.raises(NotFound):
        o.unlink(place / "sub/a")
    o.rmdir(place / "sub")
    with pytest.raises(NotFound):
        o.rmdir(place / "sub")
    with pytest.raises(NotFound):
        o.list_dir(place / "sub")
    with pytest.raises(NotFound):
        o.sync_dir(place / "sub")
    o.write_file(place / "f", b"")
    with pytest.raises(Unavailable, match="Not a directory"):
        o.list_dir(place / "f")
    with pytest.raises(Unavailable, match="Not a directory"):
        o.sync_dir(place / "f")
    o.sync_dir(place.root)


def test_a_long_listing(place: Place) -> None:
    names = [f"{i:04}-{'n' * 100}" for i in range(300)]
    for name in reversed(names):
        place.os.open(place / name, create=True).close()
    assert place.os.list_dir(place.root) == names


def test_a_name_that_is_not_utf8(place: Place) -> None:
    raw = os.fsencode(place.root) + b"/\xff\xfe"
    place.os.write_file(raw, b"x")
    [name] = place.os.list_dir(place.root)
    assert os.fsencode(name) == b"\xff\xfe"
    assert place.os.read_file(place / name) == b"x"


def test_rename(place: Place) -> None:
    o = place.os
    o.write_file(place / "a", b"A")
    o.write_file(place / "b", b"B")
    with o.open(place / "b") as old:
        o.rename(place / "a", place / "b")
        assert old.pread(9, 0) == b"B"
    assert o.list_dir(place.root) == ["b"]
    assert o.read_file(place / "b") == b"A"
    o.rename(place / "b", place / "b")
    assert o.read_file(place / "b") == b"A"
    with pytest.raises(NotFound):
        o.rename(place / "nothing", place / "b")
    o.mkdir(place / "d1")
    o.mkdir(place / "d2")
    o.rename(place / "b", place / "d1/c")
    with pytest.raises(Unavailable, match="not empty"):
        o.rename(place / "d2", place / "d1")
    with pytest.raises(Unavailable, match="Is a directory"):
        o.rename(place / "d1/c", place / "d2")
    with pytest.raises(Unavailable, match="Not a directory"):
        o.rename(place / "d2", place / "d1/c")
    with pytest.raises(InvalidRequest):
        o.rename(place / "d1", place / "d1/e")
    o.rename(place / "d1", place / "d2")
    assert o.list_dir(place.root) == ["d2"]
    assert o.read_file(place / "d2/c") == b"A"


def test_an_unlinked_file_lives_while_open(place: Place) -> None:
    with place.os.open(place / "f", write=True, create=True) as f:
        f.pwrite(b"still", 0)
        place.os.unlink(place / "f")
        assert not place.os.exists(place / "f")
        assert f.pread(9, 0) == b"still"
        f.pwrite(b" here", 5)
        f.datasync()
        assert f.pread(99, 0) == b"still here"


def test_exists(place: Place) -> None:
    assert place.os.exists(place.root)
    assert not place.os.exists(place / "f")
    assert not place.os.exists(place / "no/f")
    place.os.write_file(place / "f", b"")
    assert place.os.exists(place / "f")
    assert not place.os.exists(place / "f/g")


def test_write_file_and_read_file(place: Place) -> None:
    o = place.os
    o.write_file(place / "f", b"one")
    o.write_file(place / "f", bytearray(b"second"))
    assert o.read_file(place / "f") == b"second"
    assert o.list_dir(place.root) == ["f"]
    assert o.read_file(place / "f", limit_bytes=6) == b"second"
    with pytest.raises(InvalidRequest, match="6 bytes"):
        o.read_file(place / "f", limit_bytes=5)
    o.write_file(place / "f", b"")
    assert o.read_file(place / "f") == b""
    with pytest.raises(NotFound):
        o.write_file(place / "no/f", b"x")
    with pytest.raises(TypeError):
        o.write_file(place / "f", "text")  # type: ignore[arg-type]
    o.write_file(place / "g.tmp", b"left by a crash")
    o.write_file(Path(place / "g"), b"new")
    assert o.list_dir(place.root) == ["f", "g"]
    o.mkdir(place / "h")
    with pytest.raises(Unavailable):
        o.write_file(place / "h", b"x")
    assert o.list_dir(place.root) == ["f", "g", "h"]


def test_direct_transfers(place: Place) -> None:
    data = bytes(range(256)) * 64
    with place.os.open(place / "f", write=True, create=True, direct=True, random=True) as f:
        assert f.direct
        buffer = aligned(data)
        f.pwrite(buffer, 8192)
        f.datasync()
        assert f.pread(32768, 0) == b"\0" * 8192 + data
        into = mmap.mmap(-1, 8192)
        assert f.pread_into(into, 4096) == 8192
        assert into[:] == b"\0" * 4096 + data[:4096]


def test_direct_reads_end_at_an_odd_size(place: Place) -> None:
    place.os.write_file(place / "f", b"z" * 10001)
    with place.os.open(place / "f", direct=True) as f:
        assert f.pread(4096, 4096) == b"z" * 4096
        assert f.pread(65536, 0) == b"z" * 10001
        assert f.pread(65536, 8192) == b"z" * 1809
        assert f.pread(4096, 12288) == b""


def test_clock(place: Place) -> None:
    first, second = place.os.now_ns(), place.os.now_ns()
    assert second >= first > 1_600_000_000_000_000_000


def test_nothing_here_is_pickled(place: Place) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(place.os)
    with place.os.open(place / "f", create=True) as f, pytest.raises(TypeError):
        pickle.dumps(f)


# --- the real machine only --------------------------------------------------------------------------------------------


def test_posix_is_one_object() -> None:
    assert osapi.posix() is osapi.posix()


def test_only_files_and_block_devices_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidRequest):
        osapi.posix().open(tmp_path / "fifo")
    with pytest.raises(InvalidRequest):
        osapi.posix().open(os.devnull, write=True)


def test_a_file_system_without_direct_io_falls_back() -> None:
    if not os.path.exists("/proc/version"):
        pytest.skip("no file system known to refuse direct I/O")
    with osapi.posix().open("/proc/version", direct=True) as f:
        assert f.pread(65536, 0) == Path("/proc/version").read_bytes()


def test_a_lock_holds_against_another_process(tmp_path: Path) -> None:
    code = """import sys
from cdpcore.base import errors
from cdpcore.system import os as osapi
try:
    osapi.posix().open(sys.argv[1]).lock()
except errors.Busy:
    print("Busy")
"""
    path = str(tmp_path / "f")
    with osapi.posix().open(path, write=True, create=True) as f:
        f.lock()
        out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "Busy"


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/types.h>
static unsigned long calls;
#define SHIM(name, pointer, real)                                                        \
    ssize_t name(int fd, pointer buf, size_t n, off_t off)                               \
    {                                                                                    \
        ssize_t (*next)(int, pointer, size_t, off_t) = dlsym(RTLD_NEXT, real);           \
        if (calls++ % 3 == 0) { errno = EINTR; return -1; }                              \
        if (n > 4096) n = calls % 2 ? 4096 : 1000;                                       \
        return next(fd, buf, n, off);                                                    \
    }
SHIM(pread, void *, "pread")
SHIM(pread64, void *, "pread64")
SHIM(pwrite, const void *, "pwrite")
SHIM(pwrite64, const void *, "pwrite64")
int fallocate(int fd, int mode, off_t off, off_t n) { errno = EOPNOTSUPP; return -1; }
int fallocate64(int fd, int mode, off_t off, off_t n) { errno = EOPNOTSUPP; return -1; }
int posix_fallocate(int fd, off_t off, off_t n) { return EINVAL; }
int posix_fallocate64(int fd, off_t off, off_t n) { return EINVAL; }
unsigned long shim_calls(void) { return calls; }
"""

SHIMMED = r"""
import ctypes, mmap, sys
from cdpcore.system import os as osapi
data = bytes(range(256)) * 400
for direct in (False, True):
    buffer = mmap.mmap(-1, 102400)
    buffer[:] = data
    with osapi.posix().open(f"{sys.argv[1]}/{direct}", write=True, create=True, direct=direct) as f:
        f.pwrite(buffer, 4096)
        assert f.pread(1 << 20, 4096) == data
        f.truncate(4096 + 50001)
        assert f.pread(1 << 20, 4096) == data[:50001]
        f.allocate(0, 4096)
        assert f.size() == 4096 + 50001
        f.allocate(4096, 60000)
        assert f.pread(1 << 20, 4096) == data[:50001] + bytes(9999)
assert ctypes.CDLL(sys.argv[2]).shim_calls() > 300
print("whole")
"""


def find_compiler() -> str | None:
    return shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) or shutil.which("cc")


def test_short_transfers_signals_and_a_file_system_that_cannot_reserve(tmp_path: Path) -> None:
    compiler = find_compiler()
    if not compiler or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and LD_PRELOAD")
    if os.environ.get("LD_PRELOAD"):
        pytest.skip("something else is preloaded")
    (tmp_path / "shim.c").write_text(SHIM)
    library = str(tmp_path / "shim.so")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(tmp_path / "shim.c"), "-ldl"], check=True)
    out = subprocess.run([sys.executable, "-c", SHIMMED, str(tmp_path), library], check=False, capture_output=True,
                         text=True, env={**os.environ, "LD_PRELOAD": library})
    assert out.stdout.strip() == "whole", out.stderr


@pytest.mark.once
@pytest.mark.parametrize("flags", [[], ["-DCDP_PLAIN_POSIX=1"],
                                   ["-fsanitize=address,undefined", "-fno-sanitize-recover"],
                                   pytest.param(["-fsanitize=thread"], marks=pytest.mark.long)],
                         ids=["linux", "plain", "asan", "tsan"])
@pytest.mark.parametrize("rounds", [60, pytest.param(400, marks=pytest.mark.long)])
def test_what_python_does_not_reach(tmp_path: Path, flags: list[str], rounds: int) -> None:
    compiler = find_compiler()
    if not compiler or os.environ.get("LD_PRELOAD"):
        pytest.skip("needs a C compiler, and nothing preloaded")
    here = Path(__file__).parent.parent
    core = here.parent / "src" / "cdpcore"
    program = str(tmp_path / "check")
    build = [compiler, "-std=c11", "-D_GNU_SOURCE=1", "-g", "-O1", *flags, f"-I{core}", "-o", program,
             str(here / "c" / "os_table_check.c"), *map(str, core.glob("system/*.c")), "-lpthread"]
    built = subprocess.run(build, check=False, capture_output=True, text=True)
    if built.returncode and "sanitize" in " ".join(flags) and "cannot find" in built.stderr:
        pytest.skip("this compiler has no sanitizer runtime")
    assert built.returncode == 0, built.stderr
    (tmp_path / "root").mkdir()
    out = subprocess.run([program, str(tmp_path / "root"), str(rounds)], check=False, capture_output=True, text=True)
    assert (out.returncode, out.stdout) == (0, "all kept\n"), out.stderr     # a sanitizer speaks by the status too
