from typing import TypedDict

KIND_NAMES: tuple[str, ...]
MAX_THREADS: int
MAX_LENGTH_BYTES: int
MAX_REQUESTS: int

class Load(TypedDict):
    requests: int
    reads: int
    writes: int
    flushes: int
    bytes: int
    elapsed_ns: int
    p50_ns: int
    p99_ns: int
    p999_ns: int
    max_ns: int
    histograms: dict[str, list[tuple[int, int]]]

def run(
    capsule: object,
    *,
    length_bytes: int,
    threads: int = 1,
    read_percent: int = 0,
    sequential: bool = False,
    requests: int | None = None,
    seconds: float | None = None,
    span_bytes: int | None = None,
    flush_every: int = 0,
    fua: bool = False,
    seed: int = 1,
) -> Load: ...
