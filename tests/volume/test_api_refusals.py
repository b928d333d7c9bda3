"""What the library refuses, it refuses as a CdpError that says what is wrong and what to do: no address of memory
becomes content, no other exception gets out, and no message leaves out the file."""
from __future__ import annotations

import array
import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from support import interop

import cdp
from cdp.check import check
from cdp.cli import exits
from cdp.nbd import TlsMode, TlsSettings
from cdp.nbd.client import connect, parse
from cdp.nbd.tls import client_context
from cdp.store.catalog import LmdbCatalog
from cdpcore.base.errors import Busy, CdpError, Corruption, InvalidRequest, OutOfSpace, Unavailable

SIZE = 65536


@pytest.fixture
def volume(tmp_path: Path) -> Any:
    with cdp.create(tmp_path / "v", size=SIZE) as made:
        made.pwrite(b"content" * 100, 0)
        yield made


class WithPointer(ctypes.Structure):
    _fields_ = (("number", ctypes.c_int), ("object", ctypes.py_object))


def released() -> memoryview:
    view = memoryview(bytearray(8))
    view.release()
    return view


def closed() -> mmap.mmap:
    memory = mmap.mmap(-1, 4096)
    memory.close()
    return memory


ADDRESSES: dict[str, Callable[[], Any]] = {
    "objects": lambda: np.array(["a", None, 3], dtype=object),
    "a field of objects": lambda: np.zeros(2, dtype=[("number", "i8"), ("object", "O")]),
    "nested": lambda: np.zeros(2, dtype=[("a", [("b", "O", (2,))])]),
    "ctypes objects": lambda: (ctypes.py_object * 2)(),
    "a ctypes structure": WithPointer,
    "pointers": lambda: (ctypes.c_void_p * 2)(),
    "typed pointers": lambda: (ctypes.POINTER(ctypes.c_int) * 2)(),
}
NO_BUFFERS: dict[str, Callable[[], Any]] = {
    "text": lambda: "text", "a list": lambda: [1], "None": lambda: None, "a number": lambda: 5,
    "strided": lambda: np.zeros(100)[::2], "in columns": lambda: np.zeros((4, 4), order="F"),
    "times": lambda: np.zeros(4, dtype="M8[ns]"), "released": released, "a closed map": closed,
}
GOOD: dict[str, Callable[[], Any]] = {
    "bytes": lambda: bytearray(b"12345678"), "numbers": lambda: np.arange(4),
    "an array": lambda: array.array("d", [1, 2]),
    "a struct whose field is called O": lambda: np.ones(2, dtype=[("O", "i4"), ("P&", "f8")]),
    "other byte order": lambda: np.arange(3, dtype=">i4"), "two dimensions": lambda: np.ones((3, 5), dtype="u2"),
    "nothing": lambda: np.zeros((0, 3)), "a ctypes array": lambda: (ctypes.c_uint16 * 3)(1, 2, 3),
}


@pytest.mark.parametrize("what", [*ADDRESSES, *NO_BUFFERS])
def test_a_buffer_that_holds_no_content(volume: cdp.Volume, what: str) -> None:
    make = (ADDRESSES | NO_BUFFERS)[what]
    seq = volume.window().newest.seq
    said = "addresses in memory" if what in ADDRESSES else "not a contiguous buffer"
    with volume.at("now") as image:
        for call in (volume.pwrite, volume.pread_into, image.pread_into):
            buffer = make()
            with pytest.raises(InvalidRequest, match=said) as caught:
                call(buffer, 0)
            assert caught.value.hint
            if what == "objects":
                assert buffer.tolist() == ["a", None, 3]
    assert volume.window().newest.seq == seq and volume.pread(700, 0) == b"content" * 100


@pytest.mark.parametrize("what", GOOD)
def test_a_buffer_of_content(volume: cdp.Volume, what: str) -> None:
    wanted = memoryview(GOOD[what]()).tobytes()
    volume.pwrite(GOOD[what](), 512)
    assert volume.pread(len(wanted), 512) == wanted
    volume.pread_into(into := GOOD[what](), 512)
    assert memoryview(into).tobytes() == wanted


def test_a_buffer_that_cannot_be_filled(volume: cdp.Volume) -> None:
    fixed = np.zeros(8, dtype="u1")
    fixed.setflags(write=False)
    with volume.at("now") as image:
        for buffer in (b"12345678", fixed, memoryview(b"12345678")):
            for call in (volume.pread_into, image.pread_into):
                with pytest.raises(InvalidRequest, match="read-only cannot be filled"):
                    call(buffer, 0)
            volume.pwrite(buffer, 0)


@pytest.mark.parametrize("limit", [-1, "a", 1.5, True])
def test_a_number_of_records_that_is_none(volume: cdp.Volume, limit: Any) -> None:
    with pytest.raises(InvalidRequest, match="not a number of records"):
        volume.records(limit=limit)
    assert len(volume.records(limit=0)) == 0 and len(volume.records(limit=np.int64(1))) == 1


# --- who has it open --------------------------------------------------------------------------------------------------

def test_it_is_this_process_that_has_it_open(volume: cdp.Volume) -> None:
    link = Path(volume.path).parent / "link"
    link.symlink_to(volume.path)
    for call in (lambda: cdp.open(volume.path), lambda: cdp.open(link), lambda: cdp.open(volume.path, read_only=True),
                 lambda: check.check(str(volume.path))):
        with pytest.raises(Busy, match="open in this process already"):
            call()
    done = subprocess.run([sys.executable, "-c", f"import cdp; cdp.open({str(volume.path)!r})"], env=interop.environ(),
                          capture_output=True, text=True, check=False)
    assert "Busy" in done.stderr and "another process has the volume open" in done.stderr


# --- files that TLS is made of ----------------------------------------------------------------------------------------

def test_a_file_for_tls_that_is_not_usable_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("this is no certificate")
    (tmp_path / "ca-cert.pem").write_text("nor is this")
    for cert, key, ca, said in ((tmp_path / "nosuch.pem", None, None, "nosuch.pem: no such file"),
                                (tmp_path / "no.pem", tmp_path / "nosuch.key", None, "nosuch.key: no such file"),
                                (tmp_path / "no.pem", None, None, r"TLS files for NBD: .*no\.pem: ")):
        with pytest.raises(InvalidRequest, match=said):
            TlsSettings(TlsMode.ON, str(cert), key and str(key), ca).context()
    with pytest.raises(InvalidRequest, match=r"TLS files for NBD: .*ca-cert\.pem: "):
        client_context(str(tmp_path))
    cdp.create(tmp_path / "v", size=SIZE).close()
    for cert in ("nosuch.pem", "no.pem"):
        done = interop.run(*interop.cdp_argv("serve", "v", "--tls", "on", "--tls-cert", cert, "--tls-key", "no.pem"),
                           cwd=tmp_path, status=None)
        assert done.returncode == exits.USAGE and cert in done.stderr and done.stderr.count("\n") == 1, done.stderr


# --- sockets whose path is too long -----------------------------------------------------------------------------------

LONG = "n" * 120


@pytest.mark.parametrize(("argv", "option"), [
    (["serve", "web", "--unix", f"{LONG}.sock"], "--unix SOCK"),
    (["serve", "web", "--admin-socket", f"{LONG}.sock"], "--admin-socket SOCK"),
    (["serve", LONG], "--unix SOCK and --admin-socket SOCK"),
    (["serve", LONG, "--unix", "s"], "--admin-socket SOCK"),
    (["ha", "serve", "web", "--control", f"{LONG}.sock"], "--control SOCK"),
    (["ha", "serve", "web", "--admin-socket", f"{LONG}.sock"], "--admin-socket SOCK"),
    (["ha", "status", "--control", f"{LONG}.sock"], "--control SOCK"),
    (["tsd", "web", "--gateway", f"{LONG}.sock"], "--gateway SOCK"),
    (["gateway", "--daemons", f"{LONG}.sock", "--unix", "s"], "--daemons SOCK"),
], ids=lambda value: " ".join(value).replace(LONG, "LONG") if isinstance(value, list) else "")
def test_a_socket_path_that_is_too_long_names_the_option(tmp_path: Path, argv: list[str], option: str) -> None:
    for name in ("web", LONG):
        cdp.create(tmp_path / name, size=SIZE).close()
    done = interop.run(*interop.cdp_argv(*argv), cwd=tmp_path, status=None)
    assert done.returncode == exits.USAGE, done.stderr
    error = next(line for line in done.stderr.splitlines() if line.startswith("cdp: error: "))
    assert "a unix socket's path of " in error and f"; give {option}" in error and "of at most 107 bytes" in error


def test_a_server_whose_socket_cannot_be() -> None:
    with pytest.raises(InvalidRequest, match=r"path of \d+ bytes.*give \?socket=PATH of at most 107 bytes"):
        connect(parse(f"nbd+unix:///x?socket=/tmp/{LONG}.sock"))


# --- what LMDB says ---------------------------------------------------------------------------------------------------

def test_only_a_catalog_that_cannot_be_read_is_to_be_rebuilt(volume: cdp.Volume,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses is not damage, and a rebuild would not help. (Its errors reach LMDB's caller as text.)"""
    path = Path(volume.path) / "catalog.lmdb"
    volume.close()

    def refuse(number: int) -> None:
        def fail(*_args: object, **_options: object) -> None:
            raise lmdb.Error(f"{path}: {os.strerror(number)}")
        monkeypatch.setattr(lmdb, "open", fail)

    for number, kind, hint in ((28, OutOfSpace, "free space"), (122, OutOfSpace, "free space"),
                               (24, Unavailable, "ulimit -n"), (12, Unavailable, "free memory"),
                               (13, Unavailable, "it can be written"),
                               (30, Unavailable, "it can be written"), (5, Corruption, "check --rebuild")):
        refuse(number)
        with pytest.raises(CdpError) as caught:
            LmdbCatalog(path)
        assert type(caught.value) is kind and hint in caught.value.hint, os.strerror(number)
        assert str(caught.value).count(str(path)) == 1
