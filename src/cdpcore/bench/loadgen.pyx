"""Load on a target from several threads, with no Python between the requests: what benchmarks drive the engine with,
and the ceiling that a trace replay can be compared with.

Invariants
 1. A rate never counts a failed request: the first failure of any worker ends all of them, and run() raises it.
 2. A worker's requests follow from its seed alone; those of random load are aligned to their length.
 3. Memory: one buffer of length_bytes and four histograms a worker, whatever the length of the run.
Threading: run() may be called from any thread, also several times at once; its workers end before it returns, also when
it is interrupted.
"""
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from cdpcore.base.errors cimport check
from cdpcore.base.latency cimport CDP_LATENCY_BUCKETS, cdp_latency_bucket, cdp_latency_upper
from cdpcore.base.status cimport CDP_OK, cdp_status
from cdpcore.base.target cimport CDP_FUA, CDP_TARGET_CAPSULE, cdp_target
from cdpcore.system.os_table cimport cdp_os_posix

import threading
from typing import TypedDict

from cdpcore.base.errors import InvalidRequest

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>

    static inline uint64_t load_now_ns(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    static inline int load_flag(const int *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void load_raise(int *p) { __atomic_store_n(p, 1, __ATOMIC_RELAXED); }

    /* splitmix64: one addition and three multiplications; good enough to spread offsets. */
    static inline uint64_t load_random(uint64_t *state)
    {
        uint64_t z = *state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    /* 0 <= result < n */
    static inline uint64_t load_below(uint64_t *state, uint64_t n)
    {
        return (uint64_t)(((unsigned __int128)load_random(state) * n) >> 64);
    }
    """
    uint64_t load_now_ns() noexcept nogil
    int load_flag(const int *) noexcept nogil
    void load_raise(int *) noexcept nogil
    uint64_t load_random(uint64_t *) noexcept nogil
    uint64_t load_below(uint64_t *, uint64_t) noexcept nogil

cdef enum:
    READ = 0
    WRITE = 1
    FLUSH = 2
    KINDS = 3

KIND_NAMES = ("read", "write", "flush")
MAX_THREADS = 64
MAX_LENGTH_BYTES = 32 << 20
MAX_REQUESTS = 1 << 40

Load = TypedDict("Load", {"requests": int, "reads": int, "writes": int, "flushes": int, "bytes": int, "elapsed_ns": int,
                          "p50_ns": int, "p99_ns": int, "p999_ns": int, "max_ns": int,
                          "histograms": dict[str, list[tuple[int, int]]]})


cdef class _Stop:
    """Raised to end all workers."""

    cdef int raised


cdef class _Worker:
    # Constant after construction.
    cdef object capsule
    cdef const cdp_target *target
    cdef _Stop stop
    cdef uint8_t *buffer            # length_bytes, aligned for direct I/O
    cdef uint64_t length_bytes, begin_bytes, slots, requests, for_ns, flush_every
    cdef uint32_t read_percent, flags
    cdef bint sequential
    # The worker's thread only, until it has ended.
    cdef uint64_t state, reads, writes, flushes, started_ns, ended_ns, longest_ns
    cdef uint64_t latency[CDP_LATENCY_BUCKETS]          # of requests, a flush within the write before it ...
    cdef uint64_t by_kind[KINDS][CDP_LATENCY_BUCKETS]   # ... and by itself
    cdef cdp_status st
    cdef int rc

    def __cinit__(self, capsule, _Stop stop, uint64_t seed, uint64_t length_bytes, uint64_t begin_bytes, uint64_t slots,
                  uint64_t requests, uint64_t for_ns, uint32_t read_percent, bint sequential, uint64_t flush_every,
                  bint fua):
        self.capsule = capsule
        self.target = <const cdp_target *>PyCapsule_GetPointer(capsule, CDP_TARGET_CAPSULE)
        self.stop = stop
        self.state = seed
        self.length_bytes = length_bytes
        self.begin_bytes = begin_bytes
        self.slots = slots
        self.requests = requests
        self.for_ns = for_ns
        self.read_percent = read_percent
        self.sequential = sequential
        self.flush_every = flush_every
        self.flags = CDP_FUA if fua else 0
        memset(self.latency, 0, sizeof(self.latency))
        memset(self.by_kind, 0, sizeof(self.by_kind))
        self.buffer = <uint8_t *>cdp_os_posix().pages(cdp_os_posix().ctx, length_bytes)
        if self.buffer == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.buffer != NULL:
            cdp_os_posix().free_pages(cdp_os_posix().ctx, self.buffer, self.length_bytes)

    def run(self, barrier):
        try:
            barrier.wait()
        except threading.BrokenBarrierError:
            return
        with nogil:
            self.loop()

    cdef void loop(self) noexcept nogil:
        cdef const cdp_target *t = self.target
        cdef uint64_t i, off, now, then, word, answered
        cdef uint32_t kind
        cdef uint64_t left = self.requests
        for i in range(self.length_bytes // 8):     # incompressible, so that no layer below can be clever
            word = load_random(&self.state)
            memcpy(self.buffer + 8 * i, &word, 8)
        now = self.started_ns = load_now_ns()
        i = 0
        while left and now - self.started_ns < self.for_ns and not load_flag(&self.stop.raised):
            off = i % self.slots if self.sequential else load_below(&self.state, self.slots)
            off = self.begin_bytes + self.length_bytes * off
            i += 1
            if self.read_percent and load_below(&self.state, 100) < self.read_percent:
                self.rc = t.pread(t.ctx, self.buffer, off, self.length_bytes, &self.st)
                self.reads += 1
                kind = READ
                answered = 0
            else:
                memcpy(self.buffer, &i, min(<uint64_t>8, self.length_bytes))     # no two writes alike
                self.rc = t.pwrite(t.ctx, self.buffer, off, self.length_bytes, self.flags, &self.st)
                self.writes += 1
                kind = WRITE
                answered = 0
                if self.flush_every and self.writes % self.flush_every == 0 and self.rc == CDP_OK:
                    answered = load_now_ns()
                    self.rc = t.flush(t.ctx, &self.st)
                    self.flushes += 1
            if self.rc != CDP_OK:
                load_raise(&self.stop.raised)
                break
            then = load_now_ns()
            self.latency[cdp_latency_bucket(then - now)] += 1
            if answered:
                self.by_kind[FLUSH][cdp_latency_bucket(then - answered)] += 1
            self.by_kind[kind][cdp_latency_bucket((answered if answered else then) - now)] += 1
            self.longest_ns = max(self.longest_ns, then - now)
            now = then
            left -= 1
        self.ended_ns = now


def run(capsule, *, length_bytes: int, threads: int = 1, read_percent: int = 0, sequential: bool = False,
        requests: int | None = None, seconds: float | None = None, span_bytes: int | None = None, flush_every: int = 0,
        fua: bool = False, seed: int = 1) -> dict:
    """Drive a target with back-to-back requests, one at a time a thread.

    capsule         PyCapsule "cdpcore.target" (base/target.h); kept alive
    length_bytes    of every request, 1 to 32 MiB
    threads         1 to 64
    read_percent    0: writes only, 100: reads only
    sequential      each thread goes through its own share of the span, again and again; False: all over the span
    requests        how many, over all threads (1 to 2^40); and/or
    seconds         for how long; one of the two must be given
    span_bytes      the target's first so many bytes are used; None: all
    flush_every     a thread flushes after so many of its writes, within the last one's latency; 0: never
    fua             writes are durable when they return
    seed            the same seed gives the same requests

    Returns a Load, a dict: counts over all threads, from the first thread's start to the last one's end; latencies of
    single requests, 3 % too high at most. histograms: of reads, writes and flushes, each kind by itself, (upper end in
    ns, count) of the buckets that are not empty.
    Raises InvalidRequest for bad arguments, and whatever the target's first failed request was.
    """
    if not PyCapsule_IsValid(capsule, CDP_TARGET_CAPSULE):
        raise InvalidRequest("the capsule is not a target", f"give a PyCapsule named {CDP_TARGET_CAPSULE.decode()}")
    if requests is None and seconds is None:
        raise InvalidRequest("a load without an end", "give requests or seconds")
    _in_range("threads", threads, 1, MAX_THREADS)
    _in_range("length_bytes", length_bytes, 1, MAX_LENGTH_BYTES)
    _in_range("read_percent", read_percent, 0, 100)
    _in_range("flush_every", flush_every, 0, MAX_REQUESTS)
    _in_range("seed", seed, 0, (1 << 64) - 1)
    if requests is not None:
        _in_range("requests", requests, threads, MAX_REQUESTS)
    if seconds is not None and not 0 < seconds <= 86_400:
        raise InvalidRequest(f"a load of {seconds} seconds", "give more than 0 and at most 86400")
    cdef const cdp_target *t = <const cdp_target *>PyCapsule_GetPointer(capsule, CDP_TARGET_CAPSULE)
    if span_bytes is None:
        span_bytes = t.size_bytes
    _in_range("span_bytes", span_bytes, length_bytes, t.size_bytes)
    if t.read_only and read_percent < 100:
        raise InvalidRequest("writes to a read-only target", "use read_percent=100")
    slots = span_bytes // length_bytes
    if sequential and slots < threads:
        raise InvalidRequest(f"{threads} threads share {slots} requests' room", "use fewer threads or a longer span")
    stop = _Stop()
    share = slots // threads if sequential else slots
    workers = []
    for i in range(threads):
        count = (1 << 62) if requests is None else requests // threads + (i < requests % threads)
        workers.append(_Worker(capsule, stop, (seed * 0x9E3779B97F4A7C15 + i) % (1 << 64), length_bytes,
                               i * share * length_bytes if sequential else 0, share, count,
                               (1 << 62) if seconds is None else int(seconds * 1e9), read_percent, sequential,
                               flush_every, fua))
    _drive(workers, stop)
    return _result(workers, length_bytes)


def _drive(workers, _Stop stop):
    barrier = threading.Barrier(len(workers))
    started = []
    try:
        for worker in workers:
            thread = threading.Thread(target=worker.run, args=(barrier,), name="cdp-load", daemon=True)
            thread.start()
            started.append(thread)
        for thread in started:
            thread.join()
    finally:    # nothing to do unless interrupted, or out of threads
        load_raise(&stop.raised)
        if any(thread.is_alive() for thread in started):
            barrier.abort()
        for thread in started:
            thread.join()


def _result(workers, length_bytes):
    cdef _Worker w
    cdef uint64_t latency[CDP_LATENCY_BUCKETS]
    cdef uint64_t by_kind[KINDS][CDP_LATENCY_BUCKETS]
    cdef uint64_t began = (<uint64_t>1 << 63), ended = 0, reads = 0, writes = 0, flushes = 0, longest = 0
    cdef uint32_t i, k
    memset(latency, 0, sizeof(latency))
    memset(by_kind, 0, sizeof(by_kind))
    for w in workers:
        check(w.rc, &w.st, "load")
        began = min(began, w.started_ns)
        ended = max(ended, w.ended_ns)
        longest = max(longest, w.longest_ns)
        reads += w.reads
        writes += w.writes
        flushes += w.flushes
        for i in range(CDP_LATENCY_BUCKETS):
            latency[i] += w.latency[i]
            for k in range(KINDS):
                by_kind[k][i] += w.by_kind[k][i]
    counts = [latency[i] for i in range(CDP_LATENCY_BUCKETS)]
    histograms = {name: [(cdp_latency_upper(i), by_kind[k][i]) for i in range(CDP_LATENCY_BUCKETS) if by_kind[k][i]]
                  for k, name in enumerate(KIND_NAMES)}
    return {"requests": reads + writes, "reads": reads, "writes": writes, "flushes": flushes,
            "bytes": (reads + writes) * length_bytes, "elapsed_ns": ended - began,
            "p50_ns": _percentile(counts, 0.5, longest), "p99_ns": _percentile(counts, 0.99, longest),
            "p999_ns": _percentile(counts, 0.999, longest), "max_ns": longest,
            "histograms": histograms}


def _percentile(counts, part, longest):
    wanted = part * sum(counts)
    seen = 0
    for i, count in enumerate(counts):
        seen += count
        if count and seen >= wanted:
            return min(cdp_latency_upper(i), longest)
    return 0


def _in_range(name, value, low, high):
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(f"{name} {value!r}", f"give a whole number from {low} to {high}")
