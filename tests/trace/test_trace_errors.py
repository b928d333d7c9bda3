"""Malformed traces: one line that names file, line, column and what was expected; skip_bad counts and goes on."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import zstandard

from cdp.trace import FORMATS, open_trace, samples
from cdp.trace.samples import GRAINS
from cdpcore.base.errors import CdpError, InvalidRequest, NotFound, Unavailable

GOOD_MSR = b"128166372010810581,mds,0,Write,2654453760,4096,54086\n"


def failure(path: Path | str, format: str | None = None, **options: object) -> tuple[CdpError, int]:
    """The error of reading a trace, and how many records came before it."""
    before = 0
    with pytest.raises(CdpError) as caught, open_trace(str(path), format, **options) as trace:  # type: ignore[arg-type]
        for records in trace:
            before += len(records)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return caught.value, before


@pytest.mark.parametrize(
    "line, column, expected",
    [
        (b"128166372010810581,mds,0,Write,2654453760,-4096,54086", 43, "Size: a whole number of bytes, not negative"),
        (b"128166372010810581,mds,0,Write,-1,4096,54086", 32, "Offset: a whole number of bytes, not negative"),
        (b"128166372010810581,mds,0,Write,9223372036854775808,4096,1", 32, "an offset below 2^63 bytes"),
        (b"128166372010810581,mds,0,Write,9223372036854775807,2,1", 52, "offset + size of at most 2^63 bytes"),
        (b"128166372010810581,mds,0,Write,18446744073709551616,2,1", 32, "Offset: a whole number of bytes"),
        (b"128166372010810581,mds,0,Write,2654453760", 42, "a comma: 7 fields"),
        (b"128166372010810581,mds,0,Write,2654453760,4096,54086,9", 53, "the end of the line after 7 fields"),
        (b"128166372010810581,mds,0,Trim,2654453760,4096,54086", 26, "Type: Read or Write"),
        (b"1281663720.5,mds,0,Write,2654453760,4096,54086", 11, "a comma: 7 fields"),
        (b"1,mds,0,Write,2654453760,4096,54086", 1, "Timestamp: a Windows FILETIME between 1970 and 2554"),
        (b"128166372010810581,,0,Write,2654453760,4096,54086", 20, "Hostname"),
        (b"1281663720108", 14, "a comma: 7 fields"),
    ],
)
def test_malformed_line_is_named(line: bytes, column: int, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "disk.csv"
    path.write_bytes(GOOD_MSR * 2 + line + b"\n" + GOOD_MSR)
    for engine in ("auto", "native"):
        error, before = failure(path, engine=engine)
        assert isinstance(error, InvalidRequest) and error.exit_code == 2
        assert error.message.startswith(f"{path}:3:{column}: msr: expected {expected}"), error
        assert before == 2  # what came before the bad line was given
        with open_trace(path, skip_bad=True, engine=engine) as trace:  # type: ignore[arg-type]
            records = np.concatenate(list(trace))
        assert [int(n) for n in records["number"]] == [1, 2, 4]
        assert trace.tally.bad == 1 and trace.tally.first_bad == error.message


@pytest.mark.parametrize("name", [n for n in GRAINS if FORMATS[n].shape == "text"])
def test_cut_line_in_every_text_format(name: str, tmp_path: Path) -> None:
    data = samples.encode(name, samples.random_requests(name, 40))
    lines = data.splitlines(keepends=True)
    lines = [x for x in lines if not x.startswith((b"CPU", b" Reads")) and not x.endswith(b"close\n")]
    cut = next(i for i in range(len(lines) - 6, 0, -1) if name != "blkparse" or b" D " in lines[i])
    separator = max((b",", b";", b" "), key=lines[cut].strip().count)
    keep = 7 if name == "blkparse" else 3
    piece = (
        separator.join(lines[cut].split(separator)[:keep])
        if name != "blkparse"
        else b" ".join(lines[cut].split()[:keep])
    )
    lines[cut] = piece.rstrip() + b"\n"
    path = tmp_path / "t"
    path.write_bytes(b"".join(lines))
    error, _ = failure(path)
    assert error.message.startswith(f"{path}:{cut + 1}:{len(lines[cut].rstrip()) + 1}: {name}: expected"), error
    assert "end of the line" in str(error)
    with open_trace(path, skip_bad=True) as trace:
        after = sum(map(len, trace))
    assert trace.tally.bad == 1 and after == 39


@pytest.mark.parametrize("name", [n for n in GRAINS if FORMATS[n].shape != "text"])
def test_cut_binary_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(samples.encode(name, samples.random_requests(name, 50))[:-5])
    error, before = failure(path)
    assert f"{name}: record " in str(error) and "whole" in str(error) and before >= 49
    with open_trace(path, skip_bad=True) as trace:
        assert sum(map(len, trace)) == before
    assert trace.tally.bad == 1


def test_mixed_formats_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    other = samples.encode("alibaba", samples.random_requests("alibaba", 3))
    path.write_bytes(GOOD_MSR * 5 + other)
    error, before = failure(path)
    assert error.message.startswith(f"{path}:6:") and before == 5
    with open_trace(path, skip_bad=True) as trace:
        assert sum(map(len, trace)) == 5
    assert trace.tally.bad == 3


def test_disksim_units_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"1000 0 8 8 1\n" * 300 + b"2.5 0 8 8 1\n")
    error, before = failure(path)
    assert (
        error.message.startswith(f"{path}:301:2: disksim-ns: expected a whole number of nanoseconds") and before == 300
    )


def test_not_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"")
    assert "empty file" in str(failure(path)[0])
    assert "empty file" in str(failure(path, "msr")[0])
    path.write_bytes(b"\xef\xbb\xbf")
    assert "empty file" in str(failure(path, "msr")[0])
    path.write_bytes(os.urandom(1 << 16))
    assert "binary data of no known trace format" in str(failure(path)[0])
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(1000))
    assert "binary data of no known trace format (begins with 7f 45 4c 46" in str(failure(path)[0])
    path.write_bytes(b"name,age\njoe,5\n")
    assert "text of no known trace format (begins with 'name,age')" in str(failure(path)[0])
    path.write_bytes(b"\n\n")
    assert "text of no known" in str(failure(path)[0])
    path.write_bytes(b"\x00\x01" * 50)
    error, _ = failure(path, "msr")  # told to be MSR: then line and column
    assert error.message.startswith(f"{path}:1:1: msr: expected Timestamp") and "\\x00" in error.message
    assert isinstance(failure(tmp_path / "none")[0], NotFound)
    assert "is a folder" in str(failure(tmp_path)[0])
    assert "no trace format 'nope'" in str(pytest.raises(InvalidRequest, open_trace, path, "nope").value)


def test_first_line_wrong_still_says_where(tmp_path: Path) -> None:
    """No line of the file can be read: the format that gets farthest explains."""
    path = tmp_path / "t.csv"
    path.write_bytes(b"128166372010810581,mds,0,Write,2654453760,-4096,54086\n")
    error, _ = failure(path)
    assert error.message.startswith(f"{path}:1:43: msr: expected Size")


def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(GOOD_MSR)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("runs as a user who may read everything")
    assert isinstance(failure(path)[0], Unavailable)


def test_special_files_are_named(tmp_path: Path) -> None:
    """Opening or reading some kinds of files fails in the kernel's own ways: the path is always said."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        assert isinstance(failure(tmp_path / "sock")[0], InvalidRequest)
    assert isinstance(failure(tmp_path / "sock" / "x")[0], NotFound)
    assert "a trace is a file" in str(failure("/proc/self/mem")[0])  # opens, and cannot be read
    assert "empty file" in str(failure("/dev/null")[0])


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress, lzma.compress, bz2.compress],
                         ids=["gzip", "zstd", "xz", "bzip2"])
def test_cut_or_damaged_compression_is_no_end(pack: object, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    lines = b"".join(
        b"%d,mds,0,Write,%d,4096,5\n" % (128166372010810581 + i, x)
        for i, x in enumerate(rng.integers(0, 1 << 40, 60_000))
    )
    packed = pack(lines)  # type: ignore[operator]
    path = tmp_path / "t.csv.gz"
    path.write_bytes(packed[: len(packed) * 2 // 3])
    error, _ = failure(path)
    assert "is cut or damaged after" in str(error)
    broken = bytearray(packed)
    broken[len(broken) // 2 : len(broken) // 2 + 64] = bytes(64)
    path.write_bytes(broken)
    assert failure(path)[0].exit_code == 2


def test_zstd_window_is_bounded(tmp_path: Path) -> None:
    """A frame that asks for more memory than a reader may take is refused."""
    parameters = zstandard.ZstdCompressionParameters(window_log=29, enable_ldm=True)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / "t.zst"
    path.write_bytes(writer.compress(GOOD_MSR * 10) + writer.flush())
    assert "zstd data is cut or damaged after 0 bytes" in str(failure(path)[0])


def test_xz_dictionary_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "t.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
    path.write_bytes(lzma.compress(GOOD_MSR * 10, filters=filters))
    assert "xz data is cut or damaged after 0 bytes" in str(failure(path)[0])


def test_endless_line_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(GOOD_MSR + b"1" * (5 << 20) + b"\n" + GOOD_MSR)
    error, before = failure(path)
    assert f"{path}:2:1048577: msr: expected a line of at most 1 MiB" in str(error) and before == 1
    with open_trace(path, skip_bad=True) as trace:
        records = np.concatenate(list(trace))
    assert [int(n) for n in records["number"]] == [1, 3] and trace.tally.bad == 1


def test_blktrace_finds_its_way_after_damage(tmp_path: Path) -> None:
    data = bytearray(samples.encode("blktrace", samples.random_requests("blktrace", 60)))
    whole = tmp_path / "whole"
    whole.write_bytes(data)
    with open_trace(whole) as trace:
        complete = np.concatenate(list(trace))
    at = data.index(b"\x07tae", len(data) // 2)
    data[at : at + 200] = b"\xaa" * 200  # an event of every stage
    path = tmp_path / "t"
    path.write_bytes(data)
    error, _ = failure(path)
    assert f"at byte {at}: expected an event" in str(error)
    with open_trace(path, skip_bad=True) as trace:
        records = np.concatenate(list(trace))
    assert trace.tally.bad == 1
    assert len(records) == 59 == len(complete) - 1
    assert set(map(int, records["ts_ns"])) <= set(map(int, complete["ts_ns"]))


def test_vscsi_rules(tmp_path: Path) -> None:
    data = bytearray(samples.encode("vscsi-v2", samples.random_requests("vscsi-v2", 30)))
    data[40 * 9 + 2 : 40 * 9 + 4] = b"\x00\x07"
    path = tmp_path / "t"
    path.write_bytes(data)
    error, before = failure(path, "vscsi-v2")
    assert error.message == f"{path}: vscsi-v2: record 10 at byte 360: expected version 2 in the high byte of 'ver'"
    assert before == 9
    data = bytearray(samples.encode("vscsi-v2", samples.random_requests("vscsi-v2", 30)))
    data[40 * 29 + 16 : 40 * 29 + 24] = b"\xff" * 8  # lbn
    path.write_bytes(data)
    error, before = failure(path)
    assert "record 30 at byte 1160: expected offset + size of at most 2^63 bytes" in str(error) and before == 29
    with open_trace(path, "vscsi-v2", skip_bad=True) as trace:
        assert sum(map(len, trace)) == 29 and trace.tally.bad == 1


def test_headers_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"just a note\n" * 5)
    assert "no line 'start ; ...' in 5 lines" in str(failure(path, "blkreplay")[0])
    path.write_bytes(b"/dev/sda read 0 512\n")
    assert ":1:1: fio: expected the first line 'fio version 2 iolog'" in str(failure(path, "fio")[0])
    path.write_bytes(b"fio version 9 iolog\n")
    assert ":1:13: fio: expected version 2 or 3, found '9'" in str(failure(path)[0])
    path.write_bytes(b"fio version 3 iolog\n5 /dev/sda wait 100 0\n")
    assert ":2:12: fio: expected an action" in str(failure(path)[0])


def test_wrong_questions(tmp_path: Path) -> None:
    path, binary = tmp_path / "t", tmp_path / "b"
    path.write_bytes(GOOD_MSR)
    binary.write_bytes(samples.encode("vscsi-v1", samples.random_requests("vscsi-v1", 5)))
    for arguments, words in (
        (([],), "no trace file"),
        (([str(path)] * 1001,), "at most 1000"),
        (([str(path), str(binary)],), "different clocks"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            open_trace(*arguments)
    with pytest.raises(InvalidRequest, match="no stage 'Z'"):
        open_trace(path, stage="Z")
    with pytest.raises(InvalidRequest, match="at least 1"):
        open_trace(path, batch_records=0)
    with open_trace([path, binary], align="start") as trace:
        assert sum(map(len, trace)) == 6 and trace.clock == "relative"
