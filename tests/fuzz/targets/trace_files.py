"""Files of block traces, from the detection of their format on: they are read, or refused in one line."""
from __future__ import annotations

import tempfile
from pathlib import Path

from cdp.trace import FORMATS, open_trace
from cdp.trace.model import END_BYTES
from cdpcore.base.errors import CdpError

PATH = Path(tempfile.mkdtemp(prefix="cdp-fuzz-")) / "trace"
NAMES = [None, *FORMATS]
MOST_BATCHES = 50


def one(data: bytes) -> None:
    if len(data) < 2:
        return
    PATH.write_bytes(data[2:])
    try:
        with open_trace(str(PATH), NAMES[data[0] % len(NAMES)], skip_bad=bool(data[1] & 1)) as trace:
            for _, records in zip(range(MOST_BATCHES), trace, strict=False):
                end = records["offset_bytes"] + records["length_bytes"]
                assert (end <= END_BYTES).all() and (records["kind"] <= 5).all()
    except CdpError as error:
        assert "\n" not in str(error) and error.exit_code in (2, 3), error
