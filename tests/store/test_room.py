"""Too little space for a log segment is said before a write is refused."""
from pathlib import Path

from cdp.store.free_space import shortage

MIB = 1 << 20


def test_said_where_there_is_too_little(tmp_path: Path) -> None:
    said = shortage(tmp_path, 1 << 60)
    assert said and str(tmp_path) in said and "free, less than" in said
    assert "--set segment_bytes=" in said or said.endswith("free space")
    assert shortage(tmp_path, 1 * MIB) is None
