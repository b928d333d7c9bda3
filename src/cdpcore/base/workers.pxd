"""Threads for calls that wait for a device (base/worker_threads.h): the process's one pool."""


cdef extern from "base/worker_threads.h" nogil:
    enum:
        CDP_WORKERS_MAX

    ctypedef struct cdp_job:
        cdp_job *next
        void (*run)(cdp_job *job) noexcept nogil

    void cdp_work(cdp_job *job)
    void cdp_job_push(cdp_job **stack, cdp_job *job)
    int cdp_job_any(cdp_job **stack)
    cdp_job *cdp_job_take_all(cdp_job **stack)
    void cdp_work_counters(unsigned *threads, unsigned *busy, unsigned *jobs)


# cdp_work(), of the process's pool. Any thread, no GIL.
cdef void work(cdp_job *job) noexcept nogil
