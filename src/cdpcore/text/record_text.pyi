from collections.abc import Mapping
from typing import Any

def ndjson(rows: Any, kind_names: Mapping[int, str]) -> bytes: ...
