"""Several files as one trace: order by time, devices, blktrace's file per CPU, alignment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.seeds import examples

from cdp.trace import RECORD, Kind, Records, merge, open_trace, samples
from cdp.trace.samples import Request
from cdpcore.base.errors import InvalidRequest

STREAMS = st.lists(st.lists(st.integers(0, 30), max_size=25), min_size=1, max_size=5)


def cut(times: list[int], source: int, sizes: list[int]) -> Iterator[Records]:
    """One stream as batches of the given sizes over and over, empty ones too."""
    at = turn = 0
    while at < len(times):
        size = sizes[turn % len(sizes)]
        turn += 1
        part = np.zeros(len(times[at : at + size]), RECORD)
        part["ts_ns"] = times[at : at + size]
        part["source"] = source
        part["number"] = np.arange(at, at + len(part))
        at += size
        yield part


def order(streams: list[list[int]]) -> list[tuple[int, int]]:
    """By (latest time so far, stream, place): the definition, all in memory."""
    keyed = []
    for source, times in enumerate(streams):
        latest = 0
        for number, time in enumerate(times):
            latest = max(latest, time)
            keyed.append((latest, source, number))
    return [(source, number) for _, source, number in sorted(keyed)]


@pytest.mark.soak
@examples(300)
@given(STREAMS, st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(any))
def test_merge_equals_a_sort_however_it_is_cut(streams: list[list[int]], sizes: list[int]) -> None:
    batches = list(merge([cut(times, i, sizes) for i, times in enumerate(streams)]))
    got = [(int(r["source"]), int(r["number"])) for batch in batches for r in batch]
    assert got == order(streams)
    assert all(len(batch) for batch in batches)


def test_blktrace_file_per_cpu(tmp_path: Path) -> None:
    requests = samples.random_requests("blktrace", 400)
    files = []
    for cpu in range(4):
        files.append(tmp_path / f"sda.blktrace.{cpu}")
        files[-1].write_bytes(samples.blktrace(requests[cpu::4], clock=(1_700_000_000, 0) if cpu == 0 else None))
    with open_trace(files) as trace:
        records = np.concatenate(list(trace))
        assert trace.format == "blktrace" and sorted(trace.devices) == ["259,3", "8,0"]
        assert sorted(int(t) for t in records["ts_ns"]) == [r.ts_ns for r in requests]
        assert (np.diff(records["ts_ns"].astype(np.int64)) >= 0).all()
        assert trace.tally.events == 4 + 1 + 4 * 400
        assert np.array_equal(np.bincount(records["source"]), [100] * 4)


def test_stage_is_chosen_over_all_files(tmp_path: Path) -> None:
    """One CPU saw only queueing: as another one saw dispatches, D is the stage, and nothing is counted twice."""

    def only(data: bytes, keep: set[int]) -> bytes:
        events, at = [], 0
        while at < len(data):
            size = 48 + int.from_bytes(data[at + 46 : at + 48], "little")
            if data[at + 28] in keep:
                events.append(data[at : at + size])
            at += size
        return b"".join(events)

    data = samples.encode("blktrace", samples.random_requests("blktrace", 30))
    q, d = tmp_path / "x.blktrace.0", tmp_path / "x.blktrace.1"
    q.write_bytes(only(data, {1}))
    d.write_bytes(only(data, {7}))
    with open_trace([q, d]) as trace:
        assert sum(map(len, trace)) == 30
    with open_trace(q) as trace:
        assert sum(map(len, trace)) == 30
    with open_trace([q, d], stage="C") as trace:
        assert sum(map(len, trace)) == 0


@pytest.mark.parametrize("stage", ["D", "C", "Q"])
def test_blkparse_stages_agree(stage: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(samples.encode("blkparse", samples.random_requests("blkparse", 50)))
    with open_trace(path, stage=stage) as trace:
        records = np.concatenate(list(trace))
    with open_trace(path) as trace:
        wanted = np.concatenate(list(trace))
    for field in ("ts_ns", "offset_bytes", "length_bytes", "kind", "flags", "device"):
        assert np.array_equal(records[field], wanted[field])


def test_same_device_in_files_of_one_format(tmp_path: Path) -> None:
    one, two = tmp_path / "monday.csv", tmp_path / "tuesday.csv"
    one.write_bytes(samples.encode("alibaba", [Request(1000 * i, "7", Kind.WRITE, 0, 512) for i in (1, 3)]))
    two.write_bytes(samples.encode("alibaba", [Request(1000 * i, "7", Kind.READ, 0, 512) for i in (2, 4)]))
    with open_trace([one, two]) as trace:
        records = np.concatenate(list(trace))
        assert trace.devices == ["7"] and records["source"].tolist() == [0, 1, 0, 1]
        assert [trace.place(r) for r in records[:2]] == [f"{one}:1", f"{two}:1"]
    with open_trace([one, two], separate=True) as trace:
        records = np.concatenate(list(trace))
        assert trace.devices == ["monday:7", "tuesday:7"] and records["device"].tolist() == [0, 1, 0, 1]


def test_names_of_devices_are_unique(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    data = samples.encode("vscsi-v1", samples.random_requests("vscsi-v1", 5))
    files = [tmp_path / "a" / "vm.bin", tmp_path / "b" / "vm.bin"]
    for file in files:
        file.write_bytes(data)
    with open_trace(files) as trace:
        list(trace)
        assert trace.devices == ["vm", str(files[1])]


def test_alignment_counts_each_trace_from_its_first_record(tmp_path: Path) -> None:
    """A trace of several files keeps their distance; traces of different formats start together."""
    spc, day1, day2 = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    second = 10**9
    spc.write_bytes(samples.encode("spc", [Request(i * second, "0", Kind.WRITE, 0, 512) for i in (100, 105)]))
    day1.write_bytes(samples.encode("tencent", [Request(i * second, "9", Kind.WRITE, 0, 512) for i in (5000, 5001)]))
    day2.write_bytes(samples.encode("tencent", [Request(i * second, "9", Kind.WRITE, 0, 512) for i in (5002, 5009)]))
    with open_trace([spc, day2, day1], align="start") as trace:
        records = np.concatenate(list(trace))
        assert [(int(r["ts_ns"]) // second, int(r["source"])) for r in records] == [
            (0, 0),
            (0, 2),
            (1, 2),
            (2, 1),
            (5, 0),
            (9, 1),
        ]
        assert trace.clock == "relative" and trace.epoch_ns is None and trace.devices == ["spc:0", "tencent:9"]


def test_trace_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(samples.encode("spc", samples.random_requests("spc", 100)))
    with open_trace(path) as trace:
        first = np.concatenate(list(trace))
        assert np.array_equal(first, np.concatenate(list(trace)))
        assert trace.tally.records == 100 and trace.done_bytes() == trace.stored_bytes


def test_clock_of_our_own_csv_is_known_at_once(tmp_path: Path) -> None:
    utc, relative, msr = tmp_path / "u", tmp_path / "r", tmp_path / "m"
    row = b",device,kind,flags,offset_bytes,length_bytes\n1172163600000000000,mds.0,write,-,0,512\n"
    utc.write_bytes(b"utc_ns" + row)
    relative.write_bytes(b"ts_ns" + row)
    msr.write_bytes(samples.encode("msr", samples.random_requests("msr", 5)))
    with open_trace([utc, msr]) as trace:
        assert trace.clock == "utc" and trace.epoch_ns == 0 and sum(map(len, trace)) == 6
    with pytest.raises(InvalidRequest, match="different clocks"):
        open_trace([relative, msr])
    with pytest.raises(InvalidRequest, match="different clocks"):
        open_trace([relative, utc])


TWO_DEVICES = """\
  8,16   3        1     0.000000000   594  Q FWFSM 4096 + 16 [(null)]
  8,16   3        4     0.000031145   195  D  FN [kworker/3:1H]
  8,16   2        8     0.001671798   323  D WSM 4096 + 16 [kworker/2:1H]
  8,16   2        9     0.001843458     0  C WSM 4096 + 16 [0]
253,0    2       10     0.002000000   323  Q  WS 800 + 8 [dd]
253,0    2       11     0.002100000   323  C  WS 800 + 8 [0]
253,0    2       12     0.003000000   323  Q  WS 900 + 8 [dd]
253,0    2       13     0.003100000   323  C  WS 900 + 8 [0]
"""


def test_stage_is_chosen_for_each_device(tmp_path: Path) -> None:
    """dm, md, bcache and pmem have no dispatches: they must not vanish beside a disk that has."""
    path = tmp_path / "t"
    path.write_text(TWO_DEVICES)
    with open_trace(path) as trace:
        records = np.concatenate(list(trace))
        assert [trace.devices[r["device"]] for r in records] == ["8,16", "8,16", "253,0", "253,0"]
        assert [(s.device, s.stage, s.events["Q"]) for s in trace.stages] == [("253,0", "C", 2), ("8,16", "D", 1)]
        assert trace.left_out == []
    with open_trace(path, stage="D") as trace:
        assert sum(map(len, trace)) == 2
        assert trace.left_out == ["device 253,0: 0 requests of stage D are read, stage C has 2 (--stage C reads them)"]


def test_stage_is_chosen_for_each_device_of_binary_events(tmp_path: Path) -> None:
    dm = samples.blktrace([Request(5, "253,0", Kind.WRITE, 0, 512)])
    cut = dm.index(b"\x07tae", dm.index(b"\x07tae", 64 + 64) + 48)  # name, remap, Q; then D
    disk = samples.blktrace([Request(9, "8,0", Kind.WRITE, 512, 512)])
    path = tmp_path / "t.blktrace.0"
    path.write_bytes(dm[:cut] + disk)
    with open_trace(path) as trace:
        records = np.concatenate(list(trace))
        assert {trace.devices[r["device"]] for r in records} == {"253,0", "8,0"}
        assert {s.device: s.stage for s in trace.stages} == {"253,0": "Q", "8,0": "D"}


def test_a_stage_with_few_of_the_requests_is_said(tmp_path: Path) -> None:
    line = "  8,0    0  {n:7d} {n:5d}.000000000  77  {action}  W {at} + 8 [x]\n"
    path = tmp_path / "t"
    queued = "".join(line.format(n=n, action="Q", at=8 * n) for n in range(100))
    path.write_text(queued + line.format(n=100, action="D", at=0))
    with open_trace(path) as trace:
        assert sum(map(len, trace)) == 1
        assert trace.left_out == ["device 8,0: 1 requests of stage D are read, stage Q has 100 (--stage Q reads them)"]
