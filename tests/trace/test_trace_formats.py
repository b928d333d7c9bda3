"""Every format: requests written by the format's definition (cdp.trace.samples) are read back as they were."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from support.interop import Started
from support.seeds import examples

from cdp.trace import FORMATS, Flag, Kind, open_trace, samples
from cdp.trace.model import RECORD, Records
from cdp.trace.samples import GRAINS, Grain, Request
from cdpcore.trace import parse as traceparse

SETTINGS = examples(25)
U32, U64 = (1 << 32) - 1, (1 << 64) - 1
TEXT = [name for name, f in FORMATS.items() if f.shape == "text"]
COLUMNAR = [name for name, f in FORMATS.items() if f.columnar]


def devices(grain: Grain, name: str) -> st.SearchStrategy[str]:
    if grain.devices == "number":
        return st.integers(0, U64).map(str)
    if grain.devices == "pair":
        major, minor = (4095, (1 << 20) - 1) if name == "blktrace" else (U32, U32)
        return st.builds("{},{}".format, st.integers(0, major), st.integers(0, minor))
    word = st.text(
        st.characters(
            codec="utf-8",
            min_codepoint=33,
            exclude_characters=", \t\x7f\x85\xa0\u2028\u2029",
            exclude_categories=("Cs", "Zs", "Cc"),
        ),
        min_size=1,
        max_size=20,
    )
    if grain.devices == "host":
        return st.builds("{}.{}".format, word, st.integers(0, U64))
    return word if grain.devices == "name" else st.just("sample")


@st.composite
def requests(draw: st.DrawFn, name: str, *, ordered: bool = False) -> list[Request]:
    grain = GRAINS[name]
    pool = draw(st.lists(devices(grain, name), min_size=1, max_size=4, unique=True))
    most_time = min(grain.max_time_ns, (U64 // 100) * 100 if name == "msr" else U64) // grain.time_ns
    if name == "blkparse":
        most_time -= 2 * 10**9  # its parser keeps a second of room
    out = []
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(sorted(grain.kinds)))
        flags = draw(st.integers(0, int(grain.flags))) & int(grain.flags)
        offset = length = 0
        if kind == Kind.FLUSH:
            flags &= Flag.SYNC | Flag.META | Flag.AHEAD if name != "cdp" else 31
        else:
            least = grain.min_length_bytes // grain.length_bytes
            length = (
                draw(st.integers(least, min(grain.max_length_bytes, 1 << 40) // grain.length_bytes))
                * grain.length_bytes
            )
            offset = draw(st.integers(0, ((1 << 63) - length) // grain.offset_bytes)) * grain.offset_bytes
            offset -= grain.offset_bytes if offset == 1 << 63 else 0
        out.append(
            Request(
                draw(st.integers(0, most_time)) * grain.time_ns,
                draw(st.sampled_from(pool)),
                Kind(kind),
                offset,
                length,
                Flag(flags),
            )
        )
    return sorted(out, key=lambda r: r.ts_ns) if ordered else out


def read_all(path: Path | str, format: str | None = None, **options: object) -> tuple[Records, list[str]]:
    with open_trace(str(path), format, **options) as trace:  # type: ignore[arg-type]
        batches = list(trace)
        assert sum(map(len, batches)) == trace.tally.records
        return (np.concatenate(batches) if batches else np.empty(0, RECORD)), trace.devices


def as_requests(records: Records, names: list[str]) -> list[Request]:
    return [
        Request(
            int(r["ts_ns"]),
            names[r["device"]],
            Kind(r["kind"]),
            int(r["offset_bytes"]),
            int(r["length_bytes"]),
            Flag(int(r["flags"])),
        )
        for r in records
    ]


@pytest.mark.soak
@pytest.mark.parametrize("name", list(GRAINS))
def test_round_trip(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sample.x"

    @SETTINGS
    @given(requests(name))
    def check(wanted: list[Request]) -> None:
        path.write_bytes(samples.encode(name, wanted))
        for engine in ("auto", "native"):
            records, names = read_all(path, name, engine=engine)
            assert as_requests(records, names) == wanted
            assert names == list(dict.fromkeys(r.device for r in wanted))  # numbered as they appear

    check()


@pytest.mark.soak
def test_round_trip_fio_version_2(tmp_path: Path) -> None:
    path = tmp_path / "v2"

    @SETTINGS
    @given(requests("fio", ordered=True))
    def check(wanted: list[Request]) -> None:
        path.write_bytes(samples.fio_version_2(wanted))
        assert as_requests(*read_all(path)) == wanted

    check()


@pytest.mark.parametrize("order", ["<", ">"])
def test_blktrace_byte_orders_and_clock(order: str, tmp_path: Path) -> None:
    wanted = samples.random_requests("blktrace", 50)
    base = wanted[0].ts_ns - 1000
    wanted = [
        Request(r.ts_ns - base, *[getattr(r, f) for f in ("device", "kind", "offset_bytes", "length_bytes")])
        for r in wanted
    ]
    (tmp_path / "t").write_bytes(samples.blktrace(wanted, order, clock=(1_700_000_000, 250_000_000)))
    with open_trace(tmp_path / "t") as trace:
        records = np.concatenate(list(trace))
        assert as_requests(records, trace.devices) == wanted
        assert trace.epoch_ns == 1_700_000_000_250_000_000
        assert trace.tally.events == 2 + 4 * 50


@pytest.mark.parametrize("name", list(GRAINS))
def test_detected_from_content_not_from_the_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(samples.encode(name, samples.random_requests(name, 500)))
    with open_trace(path) as trace:
        assert trace.format == name
        assert sum(map(len, trace)) == 500


@pytest.mark.parametrize("name", list(GRAINS))
def test_compressed_and_piped_read_the_same(name: str, tmp_path: Path) -> None:
    data = samples.encode(name, samples.random_requests(name, 300))
    plain, packed, zst = tmp_path / "sample.txt", tmp_path / "sample.gz", tmp_path / "sample.zst"
    xz, bz = tmp_path / "sample.xz", tmp_path / "sample.bz2"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]))  # two members
    pack = zstandard.ZstdCompressor().compress
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0note"
    zst.write_bytes(
        pack(data[: len(data) // 3]) + skippable + pack(data[len(data) // 3 :])
    )  # frames, as pzstd has them
    first, second = data[: len(data) // 4], data[len(data) // 4 :]
    xz.write_bytes(lzma.compress(first) + bytes(8) + lzma.compress(second) + bytes(4))  # streams and their padding
    bz.write_bytes(bz2.compress(first) + bz2.compress(b"") + bz2.compress(second))  # as pbzip2 has them
    wanted, names = read_all(plain)
    for other in (packed, zst, xz, bz):
        records, found = read_all(other)
        assert np.array_equal(records, wanted) and found == names
    script = "import sys; from cdp.trace import open_trace; t = open_trace('-'); print(t.format, sum(map(len, t)))"
    piped = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert piped.stdout.decode().split() == [name, "300"]


@pytest.mark.parametrize("name", TEXT)
def test_line_numbers_and_line_ends(name: str, tmp_path: Path) -> None:
    """Windows line ends, a byte order mark, blank lines and no newline at the end change nothing but the numbers."""
    wanted = samples.random_requests(name, 20)
    data = samples.encode(name, wanted)
    path = tmp_path / "sample"
    path.write_bytes(b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    records, names = read_all(path)
    assert as_requests(records, names) == [
        Request(r.ts_ns, r.device or "sample", r.kind, r.offset_bytes, r.length_bytes) for r in wanted
    ]
    for record in records:
        line = data.split(b"\n")[int(record["number"]) - 1]
        assert str(int(record["length_bytes"]) // GRAINS[name].length_bytes).encode() in line
    at = data.rindex(b"\n", 0, -1) + 1
    path.write_bytes(data[:at] + b"\n  \n" + data[at:])
    blank, _ = read_all(path)
    assert [int(n) for n in blank["number"][:-1]] == [int(n) for n in records["number"][:-1]]
    last = 0 if name in ("blkparse", "fio") else 2  # these end with a summary, or by closing the files
    assert int(blank["number"][-1]) == int(records["number"][-1]) + last


@pytest.mark.parametrize("name", list(GRAINS))
def test_pieces_and_batches_of_any_size_read_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sample"
    path.write_bytes(samples.encode(name, samples.random_requests(name, 400)))
    wanted, names = read_all(path)
    for batch, piece in ((1, 1 << 18), (7, 5000), (400, 1 << 14), (1000, 3 << 12)):
        with open_trace(path, batch_records=batch) as trace:
            trace.sources[0].reader._piece_bytes = piece  # type: ignore[attr-defined]
            batches = list(trace)
        assert max(map(len, batches)) <= batch
        assert np.array_equal(np.concatenate(batches), wanted)
        assert trace.devices == names


@pytest.mark.parametrize("name", COLUMNAR)
def test_columnar_reader_is_used(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sample"
    path.write_bytes(samples.encode(name, samples.random_requests(name, 5000)))
    with open_trace(path) as trace:
        assert sum(map(len, trace)) == 5000
        reader = trace.sources[0].reader
        assert reader.columnar_pieces and not reader.native_pieces  # type: ignore[attr-defined]


@pytest.mark.soak
@pytest.mark.parametrize("name", COLUMNAR)
def test_columnar_reader_accepts_nothing_that_the_native_one_reads_otherwise(name: str, tmp_path: Path) -> None:
    """Damaged lines: whatever the columnar reader does not decline is what the native parser reads."""
    from cdp.trace import columnar

    data = samples.encode(name, samples.random_requests(name, 6, seed=3))
    body = data.split(b"\n", 1)[1] if data.startswith(FORMATS[name].signatures or b"\0") else data
    alphabet = b'0123456789.,-+ eE\tRWx\r\x00"#\xff'
    accepted = 0

    @examples(150)
    @given(st.lists(st.tuples(st.integers(0, len(body) - 2), st.sampled_from(alphabet), st.integers(0, 2)), max_size=3))
    def check(damage: list[tuple[int, int, int]]) -> None:
        nonlocal accepted
        text = bytearray(body)
        for at, byte, how in damage:
            at = min(at, len(text) - 2)
            text[at : at + (how != 1)] = b"" if how == 2 else bytes([byte])
        piece = bytes(text)
        table, strict = traceparse.DeviceTable(), traceparse.DeviceTable()
        lines = piece.count(b"\n") + (not piece.endswith(b"\n"))
        fast = columnar.parse(name, piece, lines, 1, table)
        if fast is None:
            return
        accepted += 1
        parser = traceparse.TextParser(FORMATS[name].text, strict)
        out = np.zeros(lines + 2, RECORD)
        used = 0
        if FORMATS[name].needs_header or name == "cdp":
            used = 1
            parser.run(b"ts_ns,device,kind\n", True, out.view(np.uint8))
        step, _, made = parser.run(piece, True, out.view(np.uint8))
        assert step != traceparse.BAD, parser.bad()
        out["number"] -= used
        assert np.array_equal(out[:made], fast)
        assert [table.key(i) for i in range(len(table))] == [strict.key(i) for i in range(len(strict))]

    check()
    assert accepted > 10


@pytest.mark.parametrize(
    "text, ns",
    [
        ("1455591000.123456789", 1_455_591_000_123_456_789),  # float64 would give ...716 or so
        ("1455591000.1", 1_455_591_000_100_000_000),
        ("1455591000", 1_455_591_000_000_000_000),
        ("1455591000.9999999999", 1_455_591_000_999_999_999),  # finer than a ns: dropped, never rounded up
        ("18446744073.709551615", U64),
        ("0.000000001", 1),
    ],
)
def test_decimal_times_are_exact(text: str, ns: int, tmp_path: Path) -> None:
    path = tmp_path / "sample"
    path.write_text(f"Timestamp,Response,IOType,LUN,Offset,Size\n{text},0.1,W,3,512,1024\n")
    for engine in ("auto", "native"):
        records, _ = read_all(path, engine=engine)
        assert [int(t) for t in records["ts_ns"]] == [ns]


def test_every_format_has_an_example_or_a_real_log() -> None:
    assert set(FORMATS) - set(GRAINS) == {"dm-log-writes"}  # made by qemu-nbd in test_trace_dmlog


def test_slow_pipe_gives_one_byte_first(tmp_path: Path) -> None:
    """The magic of a compressed stream is waited for."""
    data = gzip.compress(samples.encode("spc", samples.random_requests("spc", 100)))
    script = "from cdp.trace import open_trace; t = open_trace('-'); print(t.format, sum(map(len, t)))"
    with Started([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin and child.stdout
        for piece in (data[:1], data[1:3], data[3:]):
            child.stdin.write(piece)
            child.stdin.flush()
            subprocess.run(["sleep", "0.3"], check=True)
        child.stdin.close()
        assert child.stdout.read().split() == [b"spc", b"100"]
