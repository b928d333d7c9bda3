"""What fio itself writes with --write_iolog is read, and what cdp trace convert writes, fio plays back."""
import json

import pytest
from support.interop import cdp_argv, need, run

pytestmark = pytest.mark.interop

JOB = ["--size=256k", "--io_size=128k", "--bs=4k", "--randseed=20261129", "--ioengine=psync", "--output-format=json"]


def fio(folder, *options):
    """One job, in JSON."""
    need("fio")
    out = run("fio", "--name=job", *options, *JOB, cwd=folder).stdout
    job = json.loads(out[out.index("{"):])["jobs"][0]
    assert job["error"] == 0
    return job


def info(folder, name):
    return json.loads(run(*cdp_argv("trace", "info", name, "--json"), cwd=folder).stdout)


def test_iologs_of_fio_are_read(tmp_path):
    """Blanks in names, range syncs, syncs and data syncs, in the version that this fio writes."""
    (tmp_path / "a dir").mkdir()
    job = fio(tmp_path, "--directory=a dir", "--filename=a file:b file", "--rw=randrw", "--fsync=5", "--fdatasync=7",
              "--sync_file_range=write:3", "--write_iolog=t.iolog")
    lines = (tmp_path / "t.iolog").read_text().splitlines()
    found = info(tmp_path, "t.iolog")
    assert found["counts"]["read"] == job["read"]["total_ios"] and found["counts"]["write"] == job["write"]["total_ios"]
    assert found["counts"]["flush"] == sum(line.split()[-3] in ("sync", "datasync") for line in lines[1:]) > 0
    ranged = sum(line.split()[-3] == "sync_file_range" for line in lines[1:])
    assert ranged and found["left_out"] == [f"{ranged:,} sync_file_range requests: they make nothing durable"]
    assert {device["name"] for device in found["devices"]} == {"a dir/a file", "a dir/b file"}


def test_fio_plays_back_what_was_converted(tmp_path):
    job = fio(tmp_path, "--filename=disk", "--rw=randrw", "--fsync=5", "--write_iolog=t.iolog")
    run(*cdp_argv("trace", "convert", "t.iolog", "t.csv"), cwd=tmp_path)
    run(*cdp_argv("trace", "convert", "t.csv", "again.iolog"), cwd=tmp_path)
    assert info(tmp_path, "again.iolog")["counts"] == info(tmp_path, "t.iolog")["counts"]
    again = fio(tmp_path, "--read_iolog=again.iolog", "--replay_no_stall=1")
    for kind in ("read", "write"):
        assert again[kind]["total_ios"] == job[kind]["total_ios"] > 0
