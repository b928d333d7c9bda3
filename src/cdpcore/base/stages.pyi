from typing import Any

REQUEST_NAMES: tuple[str, ...]
STAGE_NAMES: tuple[str, ...]
SOURCE_NAMES: tuple[str, ...]
SAMPLE: int

class Stages:
    def describe(self, buckets: bool = False) -> dict[str, Any]: ...
