"""The process's threads for calls that wait for a device (base/worker_threads.h)."""

WORKERS_MAX: int

def counters() -> dict[str, int]: ...
