"""A trace's requests, issued from an array of records with no Python between them: the driver of `cdp replay`.

Driver has what every way of issuing shares (pace, counters, content); TargetDriver issues to a cdp_target in this
process, one request after the other, in the order of the records. cdpcore.trace.nbd_driver has the one for NBD servers.

Invariants
 1. Change k (the k-th write, zero or trim of at least one byte, from 1) has content that follows from (key, k, place)
    alone (trace/replay_content.h), or is the trace's own data.
 2. A record is checked against the disk's size, the buffer and the data before anything of it is issued.
 3. run() returns within its budget and one request, so that Python can show progress and be interrupted.
 4. The shared acknowledgements never run ahead of the disk: they are stored after the call that they are about
    returned.
Threading: one thread at a time; different drivers are independent.
"""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EINVAL, ENOMEM
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from cdpcore.base.clock cimport cdp_monotonic_ns
from cdpcore.base.errors cimport check
from cdpcore.base.latency cimport CDP_LATENCY_BUCKETS, cdp_latency_bucket, cdp_latency_upper
from cdpcore.base.status cimport CDP_INVALID, CDP_OK, cdp_fail
from cdpcore.base.target cimport CDP_FUA, CDP_HOLE, CDP_META
from cdpcore.trace.replay_content cimport cdp_replay_claim, cdp_replay_fill, cdp_replay_zeros
from cdpcore.trace.trace_rec cimport (CDP_TRACE_FLUSH, CDP_TRACE_FUA, CDP_TRACE_META, CDP_TRACE_PREFLUSH,
                                      CDP_TRACE_READ, CDP_TRACE_TRIM, CDP_TRACE_WRITE)

from cdpcore.base.errors import InvalidRequest

cdef extern from *:
    """
    #include <time.h>
    #include <stdint.h>
    static inline void replay_sleep(uint64_t ns)
    {
        struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
        nanosleep(&t, 0);
    }
    static inline void replay_store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    """
    void replay_sleep(uint64_t ns) noexcept nogil
    void replay_store(uint64_t *p, uint64_t v) noexcept nogil

KIND_NAMES = ("read", "write", "trim", "zero", "flush")
RECORD_BYTES = sizeof(cdp_trace_rec)
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


cdef class Driver:
    """What all drivers share. Not to be made itself.

    Args:
        size_bytes: of the disk; no request reaches past it.
        key: of the content.
        max_bytes: longest read or write that records may have.
        pattern: writes carry the pattern; False: the data given to run().
        acks: writable shared memory of at least 16 bytes that is kept up to date with (changes, durable), or None.
    """

    def __cinit__(self, *args, uint64_t key, uint64_t max_bytes, bint pattern=True, acks=None, **kwargs):
        if not 0 < max_bytes <= 1 << 30:
            raise InvalidRequest(f"requests of {max_bytes} bytes", "1 to 2^30")
        self.key = key
        self.max_bytes = max_bytes
        self.pattern = pattern
        self.buffer = <uint8_t *>malloc(max_bytes)
        if self.buffer == NULL:
            raise MemoryError
        memset(self.stats, 0, sizeof(self.stats))
        memset(&self.failure, 0, sizeof(self.failure))
        if acks is not None:
            self.acks_view = acks
            if self.acks_view.shape[0] < 16 or <uint64_t>&self.acks_view[0] % 8:
                raise InvalidRequest("acknowledgements need 16 aligned bytes")
            self.acks = <uint64_t *>&self.acks_view[0]

    def __dealloc__(self):
        free(self.buffer)

    cdef void acknowledge(self) noexcept nogil:
        if self.acks != NULL:
            replay_store(&self.acks[0], self.changes)
            replay_store(&self.acks[1], self.durable)

    cdef void count(self, uint32_t kind, uint64_t length, uint64_t ns) noexcept nogil:
        cdef kind_stats *s = &self.stats[kind]
        s.count += 1
        s.length_bytes += length
        s.total_ns += ns
        if ns > s.max_ns:
            s.max_ns = ns
        s.histogram[cdp_latency_bucket(ns)] += 1

    cdef int check_sectors(self, const uint8_t *buf, uint64_t offset, uint64_t length) noexcept nogil:
        """Whole sectors of a read: each is zeros, something from before the replay, or exactly what one change up to
        now put there. Counts the second kind; refuses a sector that has this replay's key and is not right."""
        cdef uint64_t at = (512 - offset % 512) % 512, claim
        while at + 512 <= length:
            if cdp_replay_zeros(buf + at, 512) < 512:
                claim = cdp_replay_claim(buf + at, (offset + at) // 512, self.key)
                if claim == 0 and (<const uint64_t *>(buf + at))[2] == self.key or claim > self.numbered:
                    return cdp_fail(&self.failure, CDP_INVALID, 0, offset + at,
                                    b"a read gave what no write of this replay put there")
                self.sectors_foreign += claim == 0
            self.sectors_checked += 1
            at += 512
        return CDP_OK

    cdef int check_shape(self, const cdp_trace_rec *r, uint64_t data_bytes) noexcept nogil:
        if r.kind > CDP_TRACE_FLUSH:
            return cdp_fail(&self.failure, CDP_INVALID, EINVAL, r.offset_bytes,
                            b"a record of a kind that cannot be issued")
        if r.kind != CDP_TRACE_FLUSH and \
                (r.offset_bytes > self.size_bytes or r.length_bytes > self.size_bytes - r.offset_bytes):
            cdp_fail(&self.failure, CDP_INVALID, 0, r.offset_bytes, b"a request reaches past the end of the disk")
            self.failure.expected = self.size_bytes
            self.failure.actual = r.offset_bytes + r.length_bytes
            return CDP_INVALID
        if r.kind <= CDP_TRACE_WRITE and r.length_bytes > self.max_bytes:
            return cdp_fail(&self.failure, CDP_INVALID, EINVAL, r.offset_bytes, b"a request longer than the buffer")
        if r.kind == CDP_TRACE_WRITE and not self.pattern and \
                (r.payload > data_bytes or r.length_bytes > data_bytes - r.payload):
            return cdp_fail(&self.failure, CDP_INVALID, EINVAL, r.offset_bytes, b"a write without its data")
        if (r.offset_bytes | r.length_bytes) % 512 and r.kind != CDP_TRACE_READ:
            self.check_reads = False
        return CDP_OK

    cdef int issue(self, const cdp_trace_rec *r, const uint8_t *data, uint64_t data_bytes) noexcept nogil:
        return cdp_fail(&self.failure, CDP_INVALID, EINVAL, 0, b"a driver without a way to issue")

    cdef int drain(self) noexcept nogil:
        """Until nothing is in flight."""
        return CDP_OK

    cdef int take_answers(self, uint64_t until_ns) noexcept nogil:
        """Wait, and take answers meanwhile."""
        cdef uint64_t now = cdp_monotonic_ns()
        if until_ns > now:
            replay_sleep(until_ns - now)
        return CDP_OK

    def run(self, const uint8_t[::1] records not None, uint64_t start=0, data=None, *, double speed=0,
            uint64_t origin_ts_ns=0, uint64_t origin_ns=0, uint64_t budget_ns=1 << 62):
        """Issue records from number `start` on. Returns the number of the first that was not issued.

        Args:
            records: bytes of an array of cdp.trace.model.RECORD; `payload` counts from the beginning of `data`.
            data: what writes carry, where the driver was made with pattern=False.
            speed: 0: as fast as it goes; else trace nanoseconds in a nanosecond, so that a record of ts_ns is issued
                (ts_ns - origin_ts_ns) / speed after origin_ns of the monotonic clock.
            budget_ns: return after that time, and at most one request later.
        Raises what the disk answered, and again at every further call; `issued` then has the number of the record.
        """
        cdef uint64_t n = records.shape[0] // sizeof(cdp_trace_rec), i = start, now, due, deadline
        cdef const cdp_trace_rec *r = <const cdp_trace_rec *>&records[0] if n else NULL
        cdef const uint8_t[::1] view = data
        cdef const uint8_t *bytes_ = NULL
        cdef uint64_t data_bytes = 0
        cdef int rc = CDP_OK
        if records.shape[0] % sizeof(cdp_trace_rec):
            raise InvalidRequest("not an array of records")
        if data is not None and view.shape[0]:
            bytes_ = &view[0]
            data_bytes = view.shape[0]
        self.issued = start
        if self.failure.code != CDP_OK:
            check(self.failure.code, &self.failure, "")
        with nogil:
            now = cdp_monotonic_ns()
            deadline = now + budget_ns
            while i < n and rc == CDP_OK:
                if speed > 0 and r[i].ts_ns > origin_ts_ns:
                    due = origin_ns + <uint64_t>(<double>(r[i].ts_ns - origin_ts_ns) / speed)
                    while now < due and now < deadline and rc == CDP_OK:
                        rc = self.take_answers(due if due < deadline else deadline)
                        now = cdp_monotonic_ns()
                    if rc != CDP_OK or now < due:
                        break
                    if now - due > self.late_ns:
                        self.late_ns = now - due
                elif now >= deadline:
                    break
                rc = self.check_shape(&r[i], data_bytes)
                if rc == CDP_OK:
                    rc = self.issue(&r[i], bytes_, data_bytes)
                if rc == CDP_OK:
                    i += 1
                now = cdp_monotonic_ns()
        self.issued = i
        if rc != CDP_OK:
            check(rc, &self.failure, "")
        return i

    def finish(self):
        """Wait until everything issued is answered. Raises what the disk answered."""
        cdef int rc
        with nogil:
            rc = self.drain()
        if rc != CDP_OK:
            check(rc, &self.failure, "")

    def counters(self):
        """By kind: count, bytes, and latency in ns (mean, max, and QUANTILES as the upper end of a 3 % bucket)."""
        return {name: self.of_kind(i) for i, name in enumerate(KIND_NAMES)}

    def written_bytes(self):
        """(bytes written, bytes read, requests) so far: cheap, for progress."""
        cdef uint64_t total = 0
        for i in range(KINDS):
            total += self.stats[i].count
        return self.stats[CDP_TRACE_WRITE].length_bytes, self.stats[CDP_TRACE_READ].length_bytes, total

    cdef dict of_kind(self, int kind):
        cdef kind_stats *s = &self.stats[kind]
        cdef uint64_t seen = 0, wanted
        cdef uint32_t bucket = 0
        found = {"count": s.count, "bytes": s.length_bytes, "mean_ns": s.total_ns // s.count if s.count else 0,
                 "max_ns": s.max_ns}
        for q in QUANTILES:
            wanted = <uint64_t>(s.count * q) + 1 if s.count else 0
            wanted = min(wanted, s.count)
            while seen < wanted:
                seen += s.histogram[bucket]
                bucket += 1
            found[f"p{q * 100:g}_ns"] = min(cdp_latency_upper(bucket - 1), s.max_ns) if bucket else 0
        return found

    def histogram(self, kind: str):
        """(upper end in ns, count) of the buckets of a kind that are not empty."""
        cdef kind_stats *s = &self.stats[KIND_NAMES.index(kind)]
        return [(cdp_latency_upper(b), s.histogram[b]) for b in range(CDP_LATENCY_BUCKETS) if s.histogram[b]]


cdef class TargetDriver(Driver):
    """Issues to a disk in this process: `target` is a PyCapsule "cdpcore.target" (Volume.target()), kept until this
    object goes."""

    def __cinit__(self, target, *, uint64_t key, uint64_t max_bytes, bint pattern=True, acks=None):
        self.capsule = target
        self.t = <cdp_target *>PyCapsule_GetPointer(target, b"cdpcore.target")
        self.size_bytes = self.t.size_bytes

    cdef int issue(self, const cdp_trace_rec *r, const uint8_t *data, uint64_t data_bytes) noexcept nogil:
        cdef cdp_target *t = self.t
        cdef const uint8_t *from_ = self.buffer
        cdef uint64_t began
        cdef uint32_t fua = CDP_FUA if r.flags & CDP_TRACE_FUA else 0
        cdef int rc = CDP_OK
        if r.flags & CDP_TRACE_PREFLUSH and r.kind != CDP_TRACE_FLUSH:
            rc = self.flush()
        if rc != CDP_OK:
            return rc
        if r.kind == CDP_TRACE_FLUSH:
            return self.flush()
        if r.kind == CDP_TRACE_WRITE:
            if self.pattern:
                cdp_replay_fill(self.buffer, r.offset_bytes, r.length_bytes, self.key, self.changes + 1)
            else:
                from_ = data + r.payload
        if r.kind != CDP_TRACE_READ and r.length_bytes:
            self.numbered += 1
        began = cdp_monotonic_ns()
        if r.length_bytes == 0:
            pass
        elif r.kind == CDP_TRACE_READ:
            rc = t.pread(t.ctx, self.buffer, r.offset_bytes, r.length_bytes, &self.failure)
        elif r.kind == CDP_TRACE_WRITE:
            rc = t.pwrite(t.ctx, from_, r.offset_bytes, r.length_bytes,
                          fua | (CDP_META if r.flags & CDP_TRACE_META else 0), &self.failure)
        else:
            rc = t.zero(t.ctx, r.offset_bytes, r.length_bytes, fua | (CDP_HOLE if r.kind == CDP_TRACE_TRIM else 0),
                        &self.failure)
        if rc != CDP_OK:
            return rc
        self.count(r.kind, r.length_bytes, cdp_monotonic_ns() - began)
        if r.kind == CDP_TRACE_READ:
            return self.check_sectors(self.buffer, r.offset_bytes, r.length_bytes) if self.check_reads else CDP_OK
        if r.length_bytes:
            self.changes += 1
            if fua:
                self.durable = self.changes     # the log is one sequence: what is before is durable too
            self.acknowledge()
        return CDP_OK

    cdef int flush(self) noexcept nogil:
        cdef uint64_t began = cdp_monotonic_ns()
        cdef int rc = self.t.flush(self.t.ctx, &self.failure)
        if rc == CDP_OK:
            self.count(CDP_TRACE_FLUSH, 0, cdp_monotonic_ns() - began)
            self.durable = self.changes
            self.acknowledge()
        return rc
