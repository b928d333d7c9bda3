"""Tables of one's own: which column holds what is said by --columns; the separator is found."""

from __future__ import annotations

import bz2
import json
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.seeds import examples

from cdp.cli import cli
from cdp.trace import Kind, open_trace
from cdp.trace.columns import parse_columns
from cdp.trace.model import END_BYTES, RECORD
from cdpcore.base.errors import InvalidRequest
from cdpcore.trace import parse as traceparse

OWN = "t_us;kind;sector;sectors\n10;w;2048;8\n35;r;4096;16\n90;d;2048;8\n"
OWN_COLUMNS = "time=1:us,op=2,offset=3:sectors,size=4:sectors"
OWN_RECORDS = [(10_000, Kind.WRITE, 1 << 20, 4096), (35_000, Kind.READ, 2 << 20, 8192),
               (90_000, Kind.TRIM, 1 << 20, 4096)]


def read(path: Path, text: str | bytes, columns: str, **options: object) -> list[tuple[int, Kind, int, int]]:
    """(ns, kind, offset, length) of every record."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with open_trace(path, columns=columns, **options) as trace:  # type: ignore[arg-type]
        return [(int(r["ts_ns"]), Kind(r["kind"]), int(r["offset_bytes"]), int(r["length_bytes"]))
                for records in trace for r in records]


@pytest.mark.parametrize("separator", [";", ",", "\t", "|", " ", "   ", " , ", " \t"])
@pytest.mark.parametrize("heading", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_separator(separator: str, heading: bool, end: str, tmp_path: Path) -> None:
    text = (OWN if heading else OWN.split("\n", 1)[1]).replace(";", separator).replace("\n", end)
    assert read(tmp_path / "t", text, OWN_COLUMNS) == OWN_RECORDS
    assert read(tmp_path / "t", text.rstrip(end), OWN_COLUMNS) == OWN_RECORDS


def test_quoted_fields_hold_separators(tmp_path: Path) -> None:
    text = '"time, s","what","where"," how much ","disk"\n1.5,"Write","4096",512,"a, b"\n2,"READ",0,512,""\n'
    columns = "time=1,op=2,offset=3,size=4"
    assert read(tmp_path / "t", text, columns) == [(1_500_000_000, Kind.WRITE, 4096, 512),
                                                   (2_000_000_000, Kind.READ, 0, 512)]
    with open_trace(tmp_path / "t", columns=f"{columns},device=5", skip_bad=True) as trace:
        assert sum(map(len, trace)) == 1 and trace.devices == ["a, b"] and trace.tally.bad == 1
        assert "t:3:" in trace.tally.first_bad and "device: a name" in trace.tally.first_bad


@pytest.mark.parametrize(("unit", "number", "ns"), [
    ("", "1.000000001", 1_000_000_001), (":s", "2", 2_000_000_000), (":ms", "0.5", 500_000), (":us", "7", 7_000),
    (":ns", "18446744073709551615", (1 << 64) - 1), (":us:utc", "1000001", 1_000_001_000),
    (":filetime", "116444736000000001", 100),
])
def test_units_of_time(unit: str, number: str, ns: int, tmp_path: Path) -> None:
    assert read(tmp_path / "t", f"{number},0,512\n", f"time=1{unit},offset=2,size=3") == [(ns, Kind.WRITE, 0, 512)]
    with open_trace(tmp_path / "t", columns=f"time=1{unit},offset=2,size=3") as trace:
        assert trace.clock == ("utc" if unit in (":us:utc", ":filetime") else "relative")


def test_units_of_places(tmp_path: Path) -> None:
    for unit, size in (("", 1), ("bytes", 1), ("sectors", 512), ("kib", 1024), ("MiB", 1 << 20), ("4096", 4096)):
        columns = f"offset=1{unit and ':' + unit},size=2:kib"
        assert read(tmp_path / "t", "3,8\n", columns) == [(0, Kind.WRITE, 3 * size, 8192)]
    with open_trace(tmp_path / "t", columns="offset=1,size=2") as trace:
        assert trace.clock == "none"
    largest = (END_BYTES - 512) // 512
    assert read(tmp_path / "t", f"{largest},1\n", "offset=1:sectors,size=2:sectors")[0][2] == END_BYTES - 512
    for text in (f"{largest + 1},1\n", f"{largest},2\n", f"{1 << 63},1\n"):
        with pytest.raises(InvalidRequest, match=r"t:1:\d+: columns: expected .* 2\^63 bytes"):
            read(tmp_path / "t", text, "offset=1:sectors,size=2:sectors")


def test_words_of_operations(tmp_path: Path) -> None:
    """Those that are usual, in any case, and others that the user names; no other is guessed."""
    text = "".join(f"{word} 4096 512\n" for word in ("R", "Write", "TRIM", "discard", "z", "fsync", "other"))
    assert [r[1] for r in read(tmp_path / "t", text, "op=1,offset=2,size=3")] == [
        Kind.READ, Kind.WRITE, Kind.TRIM, Kind.TRIM, Kind.ZERO, Kind.FLUSH, Kind.OTHER]
    assert [r[1:] for r in read(tmp_path / "t", "0 8 1\n1 8 1\nnop - -\n", "op=1:0=read:1=write:NOP=flush,"
                                "offset=2,size=3")] == [(Kind.READ, 8, 1), (Kind.WRITE, 8, 1), (Kind.FLUSH, 0, 0)]
    with pytest.raises(InvalidRequest, match=r"t:2:1: columns: expected op: a word .*op=N:WORD=write.*found '2'"):
        read(tmp_path / "t", "0 8 1\n2 8 1\n", "op=1:0=read:1=write,offset=2,size=3")
    assert read(tmp_path / "t", "8 1\n", "offset=1,size=2", assume=Kind.READ)[0][1] == Kind.READ


@pytest.mark.parametrize(("line", "expected"), [
    ("10;w;2048", "t:2:10: columns: expected as many columns as --columns names"),
    ("-1;w;2048;8", "t:2:1: columns: expected time: a number"),
    ("x;w;2048;8", "t:2:1: columns: expected time: a number"),
    ("10;w;-2048;8", "t:2:6: columns: expected offset: a whole number, not negative, found '-2048'"),
    ("10;w;2048;8.5", "t:2:11: columns: expected size: a whole number"),
    ("10;w;;8", "t:2:6: columns: expected offset"),
])
def test_malformed_line_is_named(line: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(tmp_path / "t", f"1;w;0;8\n{line}\n", OWN_COLUMNS)
    assert expected in str(caught.value)
    assert len(read(tmp_path / "t", f"1;w;0;8\n{line}\n2;w;0;8\n", OWN_COLUMNS, skip_bad=True)) == 2


@pytest.mark.parametrize(("columns", "why"), [
    ("time=1", "no offset and no size"), ("offset=1", "no size"), ("offset=1,size=1", "one column for two things"),
    ("offset=1,offset=2,size=3", "offset is given twice"), ("offset=0,size=1", "column 0: 1 to 256"),
    ("offset=257,size=1", "column 257"), ("offset=1:miles,size=2", "unit of offset: bytes, sectors"),
    ("offset=1,size=2,time=3:h", "unit of time: s, ms, us, ns"), ("offset=1,size=2,op=3:0", "'0': WORD=KIND"),
    ("offset=1,size=2,op=3:0=erase", "KIND of read, write"), ("offset=1,size=2,device=3:x", "device has no unit"),
    ("offset=1,size=2,where=3", "'where=3' is not time, op"), ("", "'' is not time"),
    ("offset=1:99999999999,size=2", "unit of offset"),
])
def test_wrong_descriptions(columns: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_columns(columns)
    assert why in str(caught.value) and "such as time=2:us" in str(caught.value)


def test_description_and_format_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="a format and columns at once"):
        read(tmp_path / "t", OWN, OWN_COLUMNS, format="msr")


def test_numbers_of_a_description_are_checked() -> None:
    parser = traceparse.TextParser(parse_columns(OWN_COLUMNS).format.text, traceparse.DeviceTable())
    with pytest.raises(ValueError, match="set_columns"):
        parser.run(b"1;w;0;8\n", True, np.zeros(1, RECORD).view(np.uint8))
    good = {"time": 1, "op": 2, "device": 0, "offset": 3, "size": 4, "time_scale": 3, "time_base_ns": 0,
            "offset_unit_bytes": 512, "size_unit_bytes": 512, "kind": 1, "words": [(b"w", 1)]}
    for wrong in ({"offset": 0}, {"size": 257}, {"time_scale": 10}, {"offset_unit_bytes": 0}, {"kind": 6},
                  {"size_unit_bytes": 1 << 40}, {"words": [(b"w" * 33, 1)]}, {"words": [(b"w", 1)] * 65}):
        with pytest.raises(ValueError):
            parser.set_columns(**(good | wrong))
    parser.set_columns(**good)
    assert parser.run(b"1;w;0;8\n", True, np.zeros(1, RECORD).view(np.uint8))[2] == 1


def test_compressed_and_in_archives(tmp_path: Path) -> None:
    for pack in (lzma.compress, bz2.compress):
        assert read(tmp_path / "t", pack(OWN.encode()), OWN_COLUMNS) == OWN_RECORDS
    (tmp_path / "own.csv.xz").write_bytes(lzma.compress(OWN.encode()))
    (tmp_path / "README").write_text("what is in here\n")
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for name in ("own.csv.xz", "README"):
            tar.add(tmp_path / name, name)
    with open_trace(tmp_path / "all.tar", columns=OWN_COLUMNS) as trace:
        assert sum(map(len, trace)) == 3
        assert trace.left_out == [f"{tmp_path}/all.tar/README: no line with such columns"]


def test_commands(tmp_path: Path) -> None:
    """As a user types it: info, convert and replay with its verification later on."""
    (path := tmp_path / "t.csv").write_text(OWN)
    volume = tmp_path / "v"

    def run(*args: object) -> str:
        result = CliRunner().invoke(cli, list(map(str, args)), prog_name="cdp")
        assert result.exit_code == 0, result.output
        return result.stdout

    info = json.loads(run("trace", "info", path, "--columns", OWN_COLUMNS, "--json"))
    assert info["format"] == "columns" and info["records"] == 3 and info["span_ns"] == 80_000
    assert info["comments"] == 1 and info["counts"]["trim"] == 1
    run("trace", "convert", path, tmp_path / "t.iolog", "--columns", OWN_COLUMNS)
    converted = (tmp_path / "t.iolog").read_text()
    assert "10 t.csv write 1048576 4096" in converted or " write 1048576 4096" in converted
    run("replay", path, "--columns", OWN_COLUMNS, "--volume", volume, "--create", "--verify")
    assert "every moment is right" in run("replay", "--verify-only", "--volume", volume)
    refused = CliRunner().invoke(cli, ["trace", "info", str(path)], prog_name="cdp")
    assert refused.exit_code == 2 and "--columns" in refused.output


TABS = [
    ("msr", ("Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime\n"
             "128166372010000000,srv,0,Write,1048576,4096,520\n128166372010100000,srv,0,Read,2097152,8192,310\n")),
    ("systor", "Timestamp,Response,IOType,LUN,Offset,Size\n1.5,,W,0,4096,512\n1.6,0.1,R,0,4096,512\n"),
    ("systor", "1.5,,W,0,4096,512\n1.6,,,0,4096,512\n"),
    ("alibaba", "419,W,8192,4096,1577808144360767\n7,R,8192,4096,1577808144360768\n"),
    ("tencent", "1538323200,12910952,128,0,1063\n1538323201,6338688,8,1,1627\n"),
    ("cloudphysics", "version,time,op,size,lbn\n1,1,2a,4096,8\n1,2,28,512,16\n"),
    ("spc", "0,20941264,8192,W,0.551706\n1,20939840,8192,r,0.554041\n"),
    ("cdp", "utc_ns,device,kind,flags,offset_bytes,length_bytes\n5,a b,write,F,0,512\n6,a b,read,-,512,512\n"),
]


@pytest.mark.parametrize("engine", ["auto", "native"])
@pytest.mark.parametrize(("name", "text"), TABS)
def test_tabs_in_place_of_commas(name: str, text: str, engine: str, tmp_path: Path) -> None:
    def all_of(content: str) -> tuple[object, ...]:
        (tmp_path / "t").write_text(content)
        with open_trace(tmp_path / "t", engine=engine) as trace:  # type: ignore[arg-type]
            records = np.concatenate(list(trace))
            return trace.format, trace.clock, trace.devices, records.tobytes(), trace.tally.comments

    assert all_of(text)[0] == name
    assert all_of(text.replace(",", "\t")) == all_of(text)
    assert all_of(text.replace(",", "\t").replace("\n", "\r\n")) == all_of(text)


@pytest.mark.soak
@pytest.mark.sanitize
def test_any_bytes_with_any_columns() -> None:
    spec = st.permutations(range(1, 8)).flatmap(lambda at: st.sampled_from([
        f"offset={at[0]}:sectors,size={at[1]}", f"time={at[2]}:us,op={at[3]},offset={at[0]},size={at[1]}:kib",
        f"time={at[2]}:filetime,device={at[4]},offset={at[0]},size={at[1]}"]))
    line = st.lists(st.sampled_from(["0", "7", "4096", "w", "R", '"a;b"', '"', "", "-", "1.5", "99999999999999999999"]),
                    max_size=8)
    text = st.tuples(st.lists(line, max_size=6), st.sampled_from(list(",;\t| "))).map(
        lambda drawn: "\n".join(drawn[1].join(fields) for fields in drawn[0]).encode())

    @examples(300)
    @given(st.one_of(text, st.binary(max_size=300)), spec, st.integers(1, 40))
    def check(data: bytes, columns: str, piece: int) -> None:
        def run(size: int) -> tuple[bytes, int]:
            devices = traceparse.DeviceTable()
            parser = parse_columns(columns).parser(devices, skip_bad=True, kind=Kind.WRITE)
            out, rest, made, at = np.zeros(data.count(b"\n") + 2, RECORD), b"", 0, 0
            while True:
                rest += data[at : at + size]
                at += size
                step, used, more = parser.run(rest, at >= len(data), out.view(np.uint8), made)
                rest, made = rest[used:], made + more
                assert step == traceparse.MORE
                if at >= len(data):
                    break
            got = out[:made]
            assert not rest and (got["offset_bytes"] + got["length_bytes"] <= END_BYTES).all()
            assert (got["device"] < max(1, len(devices))).all()
            return got.tobytes(), parser.bad_lines

        assert run(piece) == run(max(1, len(data)))

    check()
