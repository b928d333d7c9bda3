"""Traces inside .tar and .zip: their members are read as files are, and what is no trace is named."""
from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cdp.trace import open_trace, samples
from cdp.trace.info import collect
from cdpcore.base.errors import InvalidRequest, NotFound

MONDAY, TUESDAY = (samples.encode("msr", samples.random_requests("msr", 300, seed)) for seed in (1, 2))
LOG = samples.write_log([(0, 8, 0, b"x" * 4096), (8, 8, 0, b"y" * 4096)])
MEMBERS = {"d/mon.csv.bz2": bz2.compress(MONDAY), "d/README": b"What these are.", "d/tue.csv": TUESDAY, "d/none": b""}


def tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("d")
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


PACK = {"t.tar": tar, "t.tar.gz": lambda m: gzip.compress(tar(m)), "t.tar.xz": lambda m: lzma.compress(tar(m)),
        "t.tar.bz2": lambda m: bz2.compress(tar(m)), "t.zip": zipped}


@pytest.mark.parametrize("name", PACK)
def test_members_are_the_files_of_one_trace(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(PACK[name](MEMBERS))
    for day, data in (("mon", MONDAY), ("tue", TUESDAY)):
        (tmp_path / day).write_bytes(data)
    with open_trace([tmp_path / "mon", tmp_path / "tue"]) as trace:
        wanted, devices = np.concatenate(list(trace)), trace.devices
    for _ in range(2), :
        with open_trace(path) as trace:
            assert np.array_equal(np.concatenate(list(trace)), wanted) and trace.devices == devices
            assert trace.format == "msr" and trace.stored_bytes == trace.done_bytes()
            assert trace.left_out == [f"{path}/d/README: text of no known trace format (begins with 'What these are.')",
                                      f"{path}/d/none: empty"]
            assert collect(trace).files == [f"{path}/d/mon.csv.bz2", f"{path}/d/tue.csv"]


@pytest.mark.parametrize("name", PACK)
def test_one_member_by_its_path(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(PACK[name](MEMBERS))
    with open_trace(path / "d" / "tue.csv") as trace:
        assert sum(map(len, trace)) == 300 and not trace.left_out
    for missing in ("d/wed.csv", "d", "tue.csv"):
        with pytest.raises(NotFound, match="no such file"):
            open_trace(path / missing)


def test_a_format_that_is_asked_for_leaves_the_rest_alone(tmp_path: Path) -> None:
    """README is no malformed trace because --format says what the traces are."""
    path = tmp_path / "t.tar"
    path.write_bytes(tar(MEMBERS))
    with open_trace(path, "msr") as trace:
        assert sum(map(len, trace)) == 600 and len(trace.left_out) == 2
    with pytest.raises(InvalidRequest, match="no trace among the 4 files of the archive"):
        open_trace(path, "spc")


@pytest.mark.parametrize("name", PACK)
def test_data_of_a_write_log_in_an_archive(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(PACK[name]({"log": LOG}))
    with open_trace(path) as trace:
        assert [trace.payload(r) for batch in trace for r in batch] == [b"x" * 4096, b"y" * 4096]


@pytest.mark.parametrize("name", PACK)
def test_cut_or_damaged(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    whole = PACK[name]({"a": MONDAY, "b": TUESDAY})
    path.write_bytes(whole[: len(whole) * 2 // 3 if name != "t.tar" else len(MONDAY)])
    with pytest.raises(InvalidRequest, match="cut or damaged"), open_trace(path) as trace:
        list(trace)


def test_a_damaged_or_encrypted_member_of_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "t.zip"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", MONDAY)
    whole = bytearray(out.getvalue())
    at = whole.index(MONDAY[:20])
    whole[at + 17] ^= 1  # still a digit
    path.write_bytes(whole)
    damaged = "t.zip/a: archived data is cut or damaged.*CRC"
    with pytest.raises(InvalidRequest, match=damaged), open_trace(path) as trace:
        list(trace)
    central = whole.index(b"PK\x01\x02")
    whole[6] |= 1
    whole[central + 8] |= 1
    path.write_bytes(whole)
    with pytest.raises(InvalidRequest, match="t.zip/a: .*encrypted"):
        open_trace(path)


def test_no_archive_through_a_pipe(tmp_path: Path) -> None:
    script = "from cdp.trace import open_trace; open_trace('-')"
    done = subprocess.run([sys.executable, "-c", script], input=tar(MEMBERS), capture_output=True, check=False)
    assert b"an archive from a pipe" in done.stderr
