"""Too little space for the log is said before a write is refused."""
import shutil
from pathlib import Path

import pytest

from cdp.store.free_space import shortage

MIB = 1 << 20


def test_said_where_there_is_too_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shortage(tmp_path) is None
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(1 << 40, 0, MIB))
    said = shortage(tmp_path)
    assert said and str(tmp_path) in said and "1 MiB free" in said
