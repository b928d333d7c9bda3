"""What cdp trace info tells, against models in plain Python; conversion; the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.seeds import examples

from cdp.cli import cli
from cdp.cli.trace import trace
from cdp.text.timestamps import utc
from cdp.trace import RECORD, Flag, Kind, open_trace, samples
from cdp.trace.convert import convert
from cdp.trace.footprint import IntervalUnion
from cdp.trace.histogram import BINS, Timeline
from cdp.trace.info import Collector, collect
from cdp.trace.info import _bucket as bucket
from cdp.trace.samples import Request
from cdpcore.base.errors import InvalidRequest

SETTINGS = examples(80)
INTERVALS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 120), st.integers(0, 30)), min_size=1, max_size=60)


def main(args):
    """Exit status of `cdp trace ARGS`."""
    return cli.main(["trace", *args], standalone_mode=False) or 0


def arrays(intervals: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    device, start, length = (np.array(column) for column in zip(*intervals, strict=True))
    return device.astype(np.uint32), start.astype(np.uint64), (start + length).astype(np.uint64)


@pytest.mark.soak
@SETTINGS
@given(st.lists(INTERVALS, min_size=1, max_size=4))
def test_footprint_equals_a_set_of_bytes(batches: list[list[tuple[int, int, int]]]) -> None:
    union = IntervalUnion(max_intervals=1 << 20)
    touched: set[tuple[int, int]] = set()
    for batch in batches:
        union.add(*arrays(batch))
        touched |= {(d, byte) for d, start, length in batch for byte in range(start, start + length)}
    assert union.one_in == 1
    assert [int(n) for n in union.bytes_by_device(4)] == [sum(d == i for d, _ in touched) for i in range(4)]


def test_footprint_of_devices_that_do_not_fit_on_one_line() -> None:
    end = np.uint64(1 << 63)
    union = IntervalUnion()
    device = np.arange(5, dtype=np.uint32)
    union.add(device, np.full(5, end - np.uint64(10)), np.full(5, end))
    union.add(device, np.zeros(5, np.uint64), np.full(5, 3, np.uint64))
    union.add(device, np.full(5, end - np.uint64(5)), np.full(5, end))
    assert [int(n) for n in union.bytes_by_device(6)] == [13] * 5 + [0]


def test_footprint_is_bounded_and_then_an_estimate() -> None:
    """Scattered, clustered at a power of two, and huge intervals: the bound holds, the estimate is near."""
    rng = np.random.default_rng(2)
    scattered = np.unique(rng.integers(0, 1 << 24, 60_000)).astype(np.uint64) * np.uint64(4096)
    clustered = np.arange(60_000, dtype=np.uint64) * np.uint64(128 << 20)  # the start of every block group
    for starts, length in ((scattered, 512), (clustered, 4096)):
        union = IntervalUnion(max_intervals=5000)
        for at in range(0, len(starts), 1000):
            part = starts[at : at + 1000]
            union.add(np.zeros(len(part), np.uint32), part, part + np.uint64(length))
            assert len(union) <= 5000
        assert union.one_in > 1
        estimate, truth = int(union.bytes_by_device(1)[0]), len(starts) * length
        assert abs(estimate / truth - 1) < 0.1, (estimate, truth)
    union = IntervalUnion(max_intervals=64)
    union.add(np.zeros(1000, np.uint32), scattered[:1000], scattered[:1000] + np.uint64(512))
    union.add(np.zeros(1, np.uint32), np.zeros(1, np.uint64), np.full(1, 1 << 62, np.uint64))
    union.add(np.ones(1, np.uint32), np.zeros(1, np.uint64), np.full(1, 1 << 63, np.uint64))
    assert [round(int(n) / (1 << 62), 6) for n in union.bytes_by_device(2)] == [1.0, 2.0]


@pytest.mark.parametrize(
    "length, expected",
    [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 2),
        (512, 9),
        (513, 10),
        (4096, 12),
        (2**53 - 1, 53),
        (2**53, 53),
        (2**53 + 1, 54),
        (2**62, 62),
        (2**62 + 1, 63),
        (2**63 - 1, 63),
        (2**63, 63),
    ],
)
def test_size_buckets_are_exact(length: int, expected: int) -> None:
    assert bucket(np.array([length], np.uint64))[0] == expected


@pytest.mark.soak
@SETTINGS
@given(st.lists(st.tuples(st.integers(0, 1 << 62), st.integers(0, 1 << 40)), min_size=1, max_size=50))
def test_timeline_keeps_every_byte(points: list[tuple[int, int]]) -> None:
    timeline = Timeline()
    for at, amount in points:
        timeline.add("x", np.array([at], np.uint64), np.array([amount], np.uint64))
    assert int(timeline.series("x").sum()) == sum(amount for _, amount in points)
    assert timeline.used() <= BINS
    assert (max(at for at, _ in points) - points[0][0]) < timeline.width * BINS


def requests() -> list[Request]:
    return [
        Request(1_000_000_000, "a", Kind.WRITE, 0, 8192),
        Request(2_000_000_000, "a", Kind.WRITE, 4096, 8192, Flag.FUA),
        Request(1_500_000_000, "b", Kind.READ, 1 << 40, 512),
        Request(3_000_000_000, "a", Kind.FLUSH, 0, 0),
        Request(3_000_000_001, "b", Kind.TRIM, 0, 1 << 20),
        Request(3_000_000_002, "b", Kind.ZERO, 512, 512),
        Request(3_000_000_003, "b", Kind.OTHER, 0, 0),
        Request(4_000_000_000, "a", Kind.WRITE, 0, 0, Flag.PREFLUSH),
    ]


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.csv"
    path.write_bytes(samples.encode("cdp", requests()))
    return path


def test_info_by_hand(sample: Path) -> None:
    with open_trace(sample, batch_records=3) as trace:
        info = collect(trace)
    assert info.records == 8 and info.span_ns == 3_000_000_000 and info.out_of_order == 1
    assert info.counts == {"read": 1, "write": 3, "trim": 1, "zero": 1, "flush": 1, "other": 1}
    assert info.bytes["write"] == 16384 and info.flags["fua"] == 1 and info.flags["preflush"] == 1
    assert info.written_footprint_bytes == 12288 + 512
    assert info.footprint_bytes == 12288 + (1 << 20) + 512
    assert info.overwritten_bytes == 4096
    assert info.overwritten_share == 4096 / (16384 + 512)
    assert [(b.to_bytes, b.reads, b.writes) for b in info.sizes] == [(1, 0, 1), (512, 1, 1), (8192, 0, 2)]
    a, b = info.devices
    assert (a.name, a.records, a.writes, a.size_bytes, a.first_ns, a.last_ns) == ("a", 4, 3, 12288, 10**9, 4 * 10**9)
    assert (b.name, b.records, b.reads, b.writes, b.size_bytes) == ("b", 4, 1, 1, (1 << 40) + 512)
    assert info.start_utc is None and info.footprint_exact
    json.dumps(info.to_json())


@pytest.mark.soak
@SETTINGS
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 9),
)
def test_overwritten_share_equals_a_block_model(writes: list[tuple[int, int, bool]], batch: int) -> None:
    seen: set[int] = set()
    total = over = 0
    records = np.zeros(len(writes), RECORD)
    for record, (start, length, write) in zip(records, writes, strict=True):
        record["offset_bytes"], record["length_bytes"], record["kind"] = (
            start,
            length,
            Kind.WRITE if write else Kind.READ,
        )
        if write:
            for byte in range(start, start + length):
                total += 1
                over += byte in seen
                seen.add(byte)
    collector = Collector()
    for at in range(0, len(records), batch):
        collector.add(records[at : at + batch])
    with open_trace(__file__, "fio") as nothing:
        info = collector.result(nothing)
    assert info.overwritten_bytes == over
    assert info.bytes["write"] == total and info.written_footprint_bytes == len(seen)


def test_utc_is_exact() -> None:
    assert utc(1_455_591_000_123_456_789) == "2016-02-16T02:50:00.123456789Z"


@pytest.mark.parametrize("name", list(samples.GRAINS))
def test_csv_keeps_everything(name: str, tmp_path: Path) -> None:
    """Any format -> CSV -> the same records."""
    source, out = tmp_path / "source", tmp_path / "out.csv"
    source.write_bytes(samples.encode(name, samples.random_requests(name, 500)))
    with open_trace(source, batch_records=77) as trace:
        before = np.concatenate(list(trace))
        done = convert(trace, str(out))
        names, clock = trace.devices, trace.clock
    assert done.records == 500
    with open_trace(out) as trace:
        after = np.concatenate(list(trace))
        assert trace.format == "cdp" and trace.clock == clock
        assert trace.devices == [n.replace(",", "_") for n in names]
    for field in ("ts_ns", "kind", "flags", "offset_bytes", "length_bytes", "device"):
        assert np.array_equal(before[field], after[field]), field


def test_iolog_of_everything(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.iolog"
    with open_trace(sample) as trace:
        done = convert(trace, str(out))
    assert (done.records, done.left_out, done.zeroes_as_writes, done.held_back, done.flags_dropped) == (6, 2, 1, 1, 1)
    assert out.read_text().splitlines() == [
        "fio version 3 iolog",
        "0 a add",
        "0 a open",
        "0 b add",
        "0 b open",
        "0 a write 0 8192",
        "1000000 a write 4096 8192",
        f"1000000 b read {1 << 40} 512",
        "2000000 a sync 0 0",
        f"2000000 b trim 0 {1 << 20}",
        "2000000 b write 512 512",
        "3000000 a close",
        "3000000 b close",
    ]
    with open_trace(out) as trace:
        assert trace.format == "fio" and sum(map(len, trace)) == 6


def test_conversion_leaves_nothing_behind(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out.csv"
    source.write_bytes(samples.encode("msr", samples.random_requests("msr", 100)) + b"broken\n")
    out.write_text("precious")
    with open_trace(source) as trace:
        with pytest.raises(InvalidRequest, match="exists"):
            convert(trace, str(out))
        with pytest.raises(InvalidRequest, match="source:101:1: msr"):
            convert(trace, str(out), force=True)
    assert out.read_text() == "precious" and sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "source"]
    with open_trace(source, skip_bad=True) as trace:
        done = convert(trace, str(out), force=True)
    assert done.bad == 1 and "source:101:1: msr" in done.first_bad and len(out.read_text().splitlines()) == 101


def test_commands(sample: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "p.png"
    assert main(["info", str(sample), "--json", "--plot", str(picture)]) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out)["records"] == 8 and printed.err == ""
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["info", str(sample)]) == 0
    assert "24.2% of the written bytes (4.00 KiB)" in capfd.readouterr().out
    assert main(["info", str(sample), "--limit", "1", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["records"] == 1
    assert main(["convert", str(sample), "-", "--to", "csv", "--json"]) == 0
    printed = capfd.readouterr()
    assert printed.out.encode() == sample.read_bytes() and json.loads(printed.err)["records"] == 8
    assert main(["formats", "--json"]) == 0
    assert {f["name"] for f in json.loads(capfd.readouterr().out)} == set(samples.GRAINS) | {"dm-log-writes"}
    assert main(["formats"]) == 0
    assert main(["info", str(tmp_path / "none")]) == 3
    assert capfd.readouterr().err.endswith("none: no such file; check the path\n")
    (tmp_path / "bad").write_bytes(b"1,2\n")
    assert main(["info", str(tmp_path / "bad")]) == 2
    assert main(["info", "--plot", str(tmp_path / "p.nope"), str(sample)]) == 2
    assert "name it .png" in capfd.readouterr().err
    assert main(["info"]) == 2 and main(["convert", str(sample), str(tmp_path / "no" / "x.csv")]) == 8


def test_help_says_examples_and_exit_status(capfd: pytest.CaptureFixture[str]) -> None:
    for name in (None, *trace.commands):
        assert main([*([name] if name else []), "--help"]) == 0
        text = capfd.readouterr().out
        assert "Examples:" in text and "Exit status:" in text
