"""Every real trace of the optional trace folder, replayed into volumes and verified: of a long one the first 1,500
records, and in `make soak` 12,000."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from cdp.cli import cli

TRACES = Path(os.environ.get("CDP_TRACES", Path(__file__).parent.parent.parent.parent / "shared" / "traces"))
RECORDS, LONG_RECORDS = 600, 12_000
# Trims of 2 GiB each: a moment that is compared is 2 GiB. A volume of before-images reads what each trim frees: 3 s.
LONG_TRIMS = "fio_iolog/t0038.v3.iolog"
FILES = sorted(p.relative_to(TRACES).as_posix() for p in TRACES.glob("*/*") if p.is_file()) if TRACES.is_dir() else []


CASES = [pytest.param(records, name, mode, marks=[pytest.mark.long] if records == LONG_RECORDS else [])
         for records in (RECORDS, LONG_RECORDS) for name in FILES or ["none"] for mode in ("after", "before")
         if (records, name, mode) != (RECORDS, LONG_TRIMS, "before")]


@pytest.mark.skipif(not FILES, reason=f"no trace folder at {TRACES}")
@pytest.mark.parametrize(("records", "name", "mode"), CASES)
def test_replayed_and_verified(tmp_path, records, name, mode):
    moments = 2 if (records, name) == (RECORDS, LONG_TRIMS) else 8
    args = [
        "replay",
        str(TRACES / name),
        "--volume",
        str(tmp_path / "{disk}"),
        "--create",
        "--mode",
        mode,
        "--verify",
        "--moments",
        str(moments),
        "--json",
    ]
    result = CliRunner().invoke(cli, [*args, "--limit", str(records)], prog_name="cdp")
    assert result.exit_code == 0, result.output
    got = json.loads(result.stdout)
    assert got["records"] == min(records, got["records_in_trace"]) and got["not_issued"] == 0
    issued = sum(got["requests"][kind]["count"] for kind in ("read", "write", "trim", "zero"))
    flushes = got["requests"]["flush"]["count"]
    assert got["records"] - flushes <= issued and all(v["ok"] for v in got["verify"])
    # there long trims are taken apart, as long writes are anywhere
    assert issued <= got["records"] or mode == "before"
