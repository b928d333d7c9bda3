# cython: autotestdict=False
"""An NBD connection to a disk in this process: requests are carried out on the spot, in the connection's thread, by
calls of a cdp_target (base/target.h). No GIL, no hand-off. The loop is cdpcore.nbd.loop's.

Invariants, beside the loop's
 1. A reply that promises durability (FLUSH, FUA) is sent only after a flush of the target that began when the request
    had been carried out. Those gathered in one batch share one flush; when it fails, all of them report it.
 2. Bounds: both buffers are RANGE_BYTES of address space; what they touch past KEEP_BYTES goes back to the system in
    the next round that needs less, or after IDLE_MS. The largest reply takes less than RANGE_BYTES less what may have
    gathered before it. PENDING_MAX replies wait for a flush.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from cdpcore.base.status cimport CDP_OK, cdp_status
from cdpcore.base.target cimport CDP_EXTENT_DATA, CDP_FUA, CDP_HOLE, CDP_TARGET_CAPSULE, cdp_extent, cdp_target
from cdpcore.nbd.loop cimport STATUS_MAX
from cdpcore.nbd.nbd_sock cimport NBD_RELEASES_PAGES, nbd_add, nbd_release, nbd_wait
from cdpcore.nbd.nbd_wire cimport (CDP_NBD_BLOCK_STATUS, CDP_NBD_CACHE, CDP_NBD_CHUNK_DONE, CDP_NBD_DATA_BYTES,
                                   CDP_NBD_FLAG_DF, CDP_NBD_FLAG_FUA, CDP_NBD_FLAG_NO_HOLE, CDP_NBD_FLAG_REQ_ONE,
                                   CDP_NBD_FLUSH, CDP_NBD_MAX_DRAIN, CDP_NBD_MAX_PAYLOAD, CDP_NBD_MIN_BLOCK,
                                   CDP_NBD_PREFERRED_BLOCK, CDP_NBD_READ, CDP_NBD_REQUEST_BYTES, CDP_NBD_STATUS_BYTES,
                                   CDP_NBD_TRIM, CDP_NBD_WRITE, CDP_NBD_WRITE_ZEROES, cdp_nbd_errno, cdp_nbd_parse,
                                   cdp_nbd_patch_error, cdp_nbd_payload_bytes, cdp_nbd_put_data, cdp_nbd_put_extents,
                                   cdp_nbd_put_hole, cdp_nbd_request, cdp_nbd_rules)

from cdpcore.base.errors import InvalidRequest as _InvalidRequest
from cdpcore.nbd.loop import End  # noqa: F401

cdef enum:
    RANGE_BYTES = (33 << 20)        # a request of the maximum payload and what came with it
    KEEP_BYTES = (1 << 20)          # of each range stays resident
    GATHER_NS = 200000              # a reply waits no longer for others
    SPARSE_MIN_BYTES = 65536        # reads from here on ask map() for holes before reading
    SPARSE_GRAIN_BYTES = 4096       # a hole must be this long to be sent as one
    STATUS_CALLS = 64               # map() calls a BLOCK_STATUS request
    CACHE_BYTES = (256 << 10)       # CACHE reads so much at a time
    IDLE_MS = 100


MIN_BLOCK_BYTES = CDP_NBD_MIN_BLOCK
PREFERRED_BLOCK_BYTES = CDP_NBD_PREFERRED_BLOCK
MAX_PAYLOAD_BYTES = CDP_NBD_MAX_PAYLOAD
MAX_DRAIN_BYTES = CDP_NBD_MAX_DRAIN
RELEASES_PAGES = bool(NBD_RELEASES_PAGES)  # False where the build or the platform has no way to


cdef const cdp_target *target_of(object capsule) except NULL:
    """The target in a capsule, which keeps it alive. Raises InvalidRequest."""
    if not PyCapsule_IsValid(capsule, CDP_TARGET_CAPSULE):
        raise _InvalidRequest("an export's capsule is not a target",
                              f"give a PyCapsule named {CDP_TARGET_CAPSULE.decode()}")
    return <const cdp_target *>PyCapsule_GetPointer(capsule, CDP_TARGET_CAPSULE)


def inspect(capsule: object) -> tuple[int, bool]:
    """(size in bytes, read-only) of the target in a capsule. Raises InvalidRequest where it is not one."""
    cdef const cdp_target *t = target_of(capsule)
    return t.size_bytes, bool(t.read_only)


@cython.final
cdef class Connection(RequestLoop):
    """Connection(sock, capsule, *, read_only, structured, context_id, fast_zero, own_fua)

    capsule     the target; kept alive
    read_only   refuse writes, whatever the target would do
    own_fua     never let a flush stand for FUA: the target gets a flush only where the client sent one
    others      as RequestLoop's

    Raises InvalidRequest for a capsule that is no target, MemoryError for lack of address space.
    """

    def __cinit__(self, sock: object, capsule: object, *, bint read_only, bint structured,
                  context_id: int | None = None, bint fast_zero=True, bint own_fua=False):
        self.target = target_of(capsule)
        self.capsule = capsule
        self.own_fua = own_fua
        self.rules.size_bytes = self.target.size_bytes
        self.rules.read_only = read_only or self.target.read_only
        self.gather_ns = GATHER_NS
        self.rx = <uint8_t *>_range()
        self.out = <uint8_t *>_range()
        self.rx_bytes = self.out_bytes = RANGE_BYTES
        self.rx_soft = KEEP_BYTES

    def __dealloc__(self):
        if self.rx != NULL:
            munmap(self.rx, RANGE_BYTES)
        if self.out != NULL:
            munmap(self.out, RANGE_BYTES)

    # --- the loop's seam ----------------------------------------------------------------------------------------------

    cdef void start(self, const cdp_nbd_request *r, const uint8_t *payload) noexcept nogil:
        cdef cdp_status st
        cdef int rc = CDP_OK
        cdef bint flush_due = r.flags & CDP_NBD_FLAG_FUA
        cdef uint32_t flags = 0
        if r.type == CDP_NBD_READ:
            self.read(r)
            return
        if r.type == CDP_NBD_BLOCK_STATUS:
            self.block_status(r)
            return
        if r.type == CDP_NBD_CACHE:
            self.cache(r)
            return
        st.code = st.sys_errno = 0
        st.where = NULL
        if r.type == CDP_NBD_FLUSH:
            self.reply(r, CDP_OK, &st, True)
            return
        if flush_due and (self.own_fua or not self.pending and self.rx_end - self.rx_begin < CDP_NBD_REQUEST_BYTES):
            flags = CDP_FUA  # alone: the target makes it durable on its own way; in company one flush serves all
            flush_due = False
        if r.type == CDP_NBD_WRITE:
            rc = self.target.pwrite(self.target.ctx, payload, r.offset, r.length, flags, &st)
        else:  # WRITE_ZEROES, TRIM
            if not r.flags & CDP_NBD_FLAG_NO_HOLE:
                flags |= CDP_HOLE
            rc = self.target.zero(self.target.ctx, r.offset, r.length, flags, &st)
        self.reply(r, rc, &st, flush_due)

    cdef void send(self) noexcept nogil:
        """All replies, after what they wait for."""
        self.settle()
        self.round_bytes = max(self.round_bytes, self.out_end)
        self.transmit()

    cdef void wait(self, bint moved) noexcept nogil:
        """Nothing is ever under way here, so this blocks in recv."""
        if self.gathered:
            self.send()
        if self.ending:
            return
        if self.rx_begin == self.rx_end:
            self.give_back()
        if self.fill(True):
            self.round_bytes = max(self.round_bytes, self.rx_end)
            if self.target.tells_seq and self.target.expect != NULL:
                self.foresee()

    # --- what belongs to a round --------------------------------------------------------------------------------------

    cdef void foresee(self) noexcept nogil:
        """Announce to the target the ranges that the requests in rx change, the last one perhaps without its payload
        yet: before the first of them is carried out, so that what must be read for them is read for all at once."""
        cdef cdp_nbd_request r
        cdef uint64_t at = self.rx_begin + self.drain_bytes
        while at < self.rx_end and cdp_nbd_parse(self.rx + at, self.rx_end - at, &r) > 0:
            if r.type == CDP_NBD_WRITE or r.type == CDP_NBD_WRITE_ZEROES or r.type == CDP_NBD_TRIM:
                self.target.expect(self.target.ctx, r.offset, r.length)
            at += CDP_NBD_REQUEST_BYTES + cdp_nbd_payload_bytes(&r)

    cdef void give_back(self) noexcept nogil:
        """Between requests: pages that only a large request needed return to the system."""
        if self.round_bytes > KEEP_BYTES:
            self.high_bytes = self.round_bytes
            self.round_bytes = 0
            if nbd_wait(self.fd, IDLE_MS):
                return  # more comes: let a stream of large requests keep its pages
        self.round_bytes = 0
        if self.high_bytes > KEEP_BYTES:
            nbd_release(self.rx + KEEP_BYTES, RANGE_BYTES - KEEP_BYTES)
            nbd_release(self.out + KEEP_BYTES, RANGE_BYTES - KEEP_BYTES)
            self.high_bytes = 0

    cdef void settle(self) noexcept nogil:
        """One flush for all gathered replies that promise durability (invariant 1)."""
        cdef cdp_status st
        cdef uint32_t i, error
        cdef int rc
        if not self.pending:
            return
        st.code = st.sys_errno = 0
        rc = self.target.flush(self.target.ctx, &st)
        if rc != CDP_OK:
            error = cdp_nbd_errno(rc, st.sys_errno)
            for i in range(self.pending):
                cdp_nbd_patch_error(self.out + self.pending_at[i], error)
            nbd_add(&self.counts.errors, self.pending)
        self.pending = 0

    # --- requests -----------------------------------------------------------------------------------------------------

    cdef void reply(self, const cdp_nbd_request *r, int rc, const cdp_status *st, bint flush_due) noexcept nogil:
        """The reply to a request without data."""
        if rc != CDP_OK:
            self.refuse(r, cdp_nbd_errno(rc, st.sys_errno), st.where)
            return
        if flush_due:
            if self.pending == PENDING_MAX:
                self.settle()
            self.pending_at[self.pending] = <uint32_t>self.out_end
            self.pending += 1
        self.reply_done(r)

    cdef void read(self, const cdp_nbd_request *r) noexcept nogil:
        cdef cdp_status st
        cdef uint8_t *p = self.out + self.out_end
        cdef int rc
        st.code = st.sys_errno = 0
        st.where = NULL
        if r.length >= SPARSE_MIN_BYTES and self.rules.structured and not r.flags & CDP_NBD_FLAG_DF and \
                self.read_sparse(r):
            return
        rc = self.target.pread(self.target.ctx, p + self.header_bytes(), r.offset, r.length, &st)
        if rc != CDP_OK:
            self.refuse(r, cdp_nbd_errno(rc, st.sys_errno), st.where)
        else:
            self.out_end += self.reply_data(r, p)

    cdef int read_sparse(self, const cdp_nbd_request *r) noexcept nogil:
        """Reply to a read with its holes left out. 0: there are none worth it, and nothing was gathered."""
        cdef cdp_status st
        cdef uint64_t start = self.out_end, end = r.offset + r.length, pos = r.offset, sent = r.offset, zero_from, stop
        cdef uint32_t i = 0, n = 0
        cdef bint done = False
        cdef int rc
        cdef cdp_extent *e = self.extents
        st.code = st.sys_errno = 0
        st.where = NULL
        if self.target.map(self.target.ctx, r.offset, r.length, e, MAP_BATCH, &n, &st) != CDP_OK:
            return 0  # then pread says what is wrong
        while not done:
            # The next run of zeros [zero_from, pos); past the known extents all counts as data.
            while i < n and e[i].offset == pos and e[i].kind == CDP_EXTENT_DATA and e[i].length <= end - pos:
                pos += e[i].length
                i += 1
            zero_from = pos
            while i < n and e[i].offset == pos and e[i].kind != CDP_EXTENT_DATA and e[i].length <= end - pos:
                pos += e[i].length
                i += 1
            if pos - zero_from < SPARSE_GRAIN_BYTES and pos != zero_from:
                continue
            done = pos == zero_from
            stop = end if done else zero_from
            if done and sent == r.offset:
                return 0
            if sent < stop:
                rc = self.target.pread(self.target.ctx, self.out + self.out_end + CDP_NBD_DATA_BYTES, sent, stop - sent,
                                       &st)
                if rc != CDP_OK:
                    self.out_end = start
                    self.refuse(r, cdp_nbd_errno(rc, st.sys_errno), st.where)
                    return 1
                nbd_add(&self.counts.read_bytes, stop - sent)
                self.out_end += cdp_nbd_put_data(self.out + self.out_end, CDP_NBD_CHUNK_DONE if stop == end else 0,
                                                r.cookie, sent, <uint32_t>(stop - sent)) + (stop - sent)
            if not done:
                nbd_add(&self.counts.read_bytes, pos - zero_from)
                self.out_end += cdp_nbd_put_hole(self.out + self.out_end, CDP_NBD_CHUNK_DONE if pos == end else 0,
                                                r.cookie, zero_from, <uint32_t>(pos - zero_from))
            sent = pos if not done else end
        self.gather(self.out + start, self.out_end - start)
        return 1

    cdef void cache(self, const cdp_nbd_request *r) noexcept nogil:
        """Read and throw away: what the target keeps beneath it is warm then."""
        cdef cdp_status st
        cdef uint64_t pos = r.offset, end = r.offset + r.length, n
        cdef int rc = CDP_OK
        st.code = st.sys_errno = 0
        st.where = NULL
        while pos < end and rc == CDP_OK:
            n = min(end - pos, <uint64_t>CACHE_BYTES)
            rc = self.target.pread(self.target.ctx, self.out + self.out_end, pos, n, &st)
            pos += n
        self.reply(r, rc, &st, False)

    cdef void block_status(self, const cdp_nbd_request *r) noexcept nogil:
        cdef cdp_status st
        cdef uint8_t *p = self.out + self.out_end
        cdef uint64_t pos = r.offset, end = r.offset + r.length
        cdef uint32_t count = 0, calls = 0, n, most, cap = 1 if r.flags & CDP_NBD_FLAG_REQ_ONE else STATUS_MAX
        cdef int rc = 0
        st.code = st.sys_errno = 0
        st.where = NULL
        while pos < end and calls < STATUS_CALLS and rc == 0:
            calls += 1
            n = 0
            most = min(cap - count + 1, <uint32_t>MAP_BATCH)     # one more shows whether the last goes on
            rc = self.target.map(self.target.ctx, pos, end - pos, self.extents, most, &n, &st)
            if rc != CDP_OK:
                self.refuse(r, cdp_nbd_errno(rc, st.sys_errno), st.where)
                return
            rc = -1
            if 0 < n <= most:
                rc = cdp_nbd_put_extents(p + CDP_NBD_STATUS_BYTES, cap, &count, &pos, end, self.extents, n)
            if rc < 0:
                count = 0
        self.out_end += self.reply_status(r, p, count)


cdef void *_range() except NULL:
    cdef void *p = mmap(NULL, RANGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p == MAP_FAILED:
        raise MemoryError(f"{RANGE_BYTES} bytes of address space for a connection")
    return p
