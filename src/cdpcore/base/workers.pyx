"""The process's threads for calls that wait for a device (base/worker_threads.h)."""

WORKERS_MAX = CDP_WORKERS_MAX


cdef void work(cdp_job *job) noexcept nogil:
    cdp_work(job)


def counters() -> dict:
    """threads: how many there are, at most WORKERS_MAX; busy: how many of them carry out a call; jobs: how many calls
    wait for one. Any thread."""
    cdef unsigned threads, busy, jobs
    cdp_work_counters(&threads, &busy, &jobs)
    return {"threads": threads, "busy": busy, "jobs": jobs}
