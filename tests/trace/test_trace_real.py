"""Real trace files, where the folder with them is at hand: counts equal to the table that came with them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cdp.trace import Kind, open_trace
from cdp.trace.info import TraceInfo, collect

FOLDER = Path(os.environ.get("CDP_TRACES") or Path(__file__).resolve().parents[3] / "shared" / "traces")

# file -> (format, records, events in the file, writes or None)
TABLE = {
    "blkreplay/linux-mysql.load.gz": ("blkreplay", 80_794, 80_794, 73_607),
    "blkreplay/windows-mssql.load.gz": ("blkreplay", 42_976, 42_976, 40_448),
    "blkreplay/windows-shared-server.load.gz": ("blkreplay", 1_371, 1_371, 1_371),
    "vscsi/cloudPhysicsIO.vscsi.gz": ("vscsi-v1", 113_872, 113_872, 66_898),
    "cloudphysics_csv/cloudPhysicsIO.csv.gz": ("cloudphysics", 113_872, 113_872, 66_898),
    "oracle_general/cloudPhysicsIO.oracleGeneral.bin.gz": ("oracle-general", 113_872, 113_872, None),
    "spc/Financial_mini.spc": ("spc", 949, 949, None),
    "disksim/wsrch-small.trace": ("disksim-ns", 24_783, 24_783, None),
    "disksim/tpcc-small.trace": ("disksim-ns", 6_999, 6_999, None),
    "blktrace/sample.blktrace.0": ("blktrace", 963, 6_743, 0),
    "blkparse/nvme0n1.blktrace.txt": ("blkparse", 142, 1_364, 119),
    "fio_iolog/t0038.v3.iolog": ("fio", 20, 23, 10),
    "msr/mds_0.excerpt19.csv": ("msr", 19, 19, 19),
    "msr/prxy_0.excerpt5.csv": ("msr", 5, 5, 5),
}


def real(name: str) -> str:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no {name} (set CDP_TRACES to the folder of real traces)")
    return str(path)


def read(name: str, **options: object) -> TraceInfo:
    with open_trace(real(name), **options) as trace:  # type: ignore[arg-type]
        return collect(trace)


@pytest.mark.parametrize("engine", ["auto", "native"])
@pytest.mark.parametrize("name", list(TABLE))
def test_counts_equal_the_table(name: str, engine: str) -> None:
    format, records, events, writes = TABLE[name]
    info = read(name, engine=engine)
    assert (info.format, info.records, info.events, info.bad) == (format, records, events, 0)
    if writes is not None:
        assert info.counts["write"] == writes


def test_linux_mysql_bytes() -> None:
    info = read("blkreplay/linux-mysql.load.gz")
    assert info.bytes["write"] >> 20 == 1050
    assert info.flags["ahead"] == 1


def test_three_forms_of_one_trace_agree() -> None:
    """vscsi, its CSV twin (times in whole seconds) and oracleGeneral (no operations) are the same requests."""
    names = [n for n in TABLE if "cloudPhysicsIO" in n]
    vscsi, csv, oracle = (np.concatenate(list(open_trace(real(n)))) for n in names)
    for field in ("offset_bytes", "length_bytes", "kind"):
        assert np.array_equal(vscsi[field], csv[field]), field
    assert np.array_equal(oracle["offset_bytes"], csv["offset_bytes"])
    assert np.array_equal(vscsi["ts_ns"] // 10**9, csv["ts_ns"] // 10**9)
    assert int(csv["ts_ns"][-1] - csv["ts_ns"][0]) == 7200 * 10**9


def test_blkparse_flags_and_flushes() -> None:
    """The journal's commits: flushes are requests of their own at stage D, FUA is a flag of the write."""
    info = read("blkparse/nvme0n1.blktrace.txt")
    assert info.counts["flush"] == 23
    assert info.flags["fua"] == 21 and info.flags["preflush"] == 0
    queued = read("blkparse/nvme0n1.blktrace.txt", stage="Q")
    assert queued.counts["flush"] == 20 + 1 + 2  # FWFS, FWFSM and FWS, all without data
    assert queued.flags["fua"] == 21 and queued.flags["preflush"] == 0


def test_fio_iolog_keeps_trims() -> None:
    info = read("fio_iolog/t0038.v3.iolog")
    assert info.counts["trim"] == 10 and info.bytes["trim"] == 10 * 2147483648


def test_msr_times_are_utc_and_sizes_unaligned() -> None:
    info = read("msr/mds_0.excerpt19.csv")
    assert info.start_utc == "2007-02-22T17:00:01.081058100Z"
    with open_trace(real("msr/mds_0.excerpt19.csv")) as trace:
        records = np.concatenate(list(trace))
    assert (records["length_bytes"] % 4096 != 0).any() and (records["length_bytes"] % 512 == 0).all()


def test_two_disks_of_one_format_are_one_trace_by_time() -> None:
    files = [real("msr/prxy_0.excerpt5.csv"), real("msr/mds_0.excerpt19.csv")]
    with open_trace(files) as trace:
        records = np.concatenate(list(trace))
        assert len(records) == 24 and (np.diff(records["ts_ns"].astype(np.int64)) >= 0).all()
        assert set(trace.devices) == {"prxy.0", "mds.0"}
        assert all(trace.place(r).startswith(files[r["source"]] + ":") for r in records)
        assert set(records["kind"]) == {Kind.WRITE}
