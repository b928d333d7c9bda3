# cython: autotestdict=False
"""The transmission phase of one NBD connection: requests in, target calls, replies out; no GIL, no hand-off.

How it goes round: receive what there is; carry out every complete request in the buffer, in order, appending replies
to the reply buffer; send them all at once; block for more. So at queue depth 1 a request costs one recv and one send,
and at depth 32 both are shared by the requests that came together.

Invariants
 1. A request is carried out only when all of it has been received: a stalled or killed client holds nothing of the
    target, and a write happens whole or not at all.
 2. Requests of a connection are carried out in the order in which they came, so a FLUSH covers all before it.
 3. A reply that promises durability (FLUSH, FUA) is sent only after a flush of the target that began when the request
    had been carried out. Those gathered in one batch share one flush; when it fails, all of them report it.
 4. Bounds: both buffers are RANGE_BYTES of address space; what they touch past KEEP_BYTES goes back to the system in
    the next round that needs less, or after IDLE_MS. A reply is begun only below GATHER_BYTES of gathered ones, and the
    largest takes less than RANGE_BYTES - GATHER_BYTES. PENDING_MAX replies wait for a flush. A reply is not held back
    for longer than GATHER_NS plus the request under way.
Threading: serve() runs in one thread for the connection's life. stop() and counters() are for any thread.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memmove

from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from cdpcore.base.status cimport CDP_OK
from cdpcore.base.target cimport CDP_EXTENT_DATA, CDP_FUA, CDP_HOLE, CDP_TARGET_CAPSULE
from cdpcore.base.zeros cimport cdp_is_zero
from cdpcore.nbd.nbd_sock cimport (MSG_NOSIGNAL, NBD_RELEASES_PAGES, c_send, nbd_add, nbd_flag, nbd_get, nbd_now_ns,
                                   nbd_raise_flag, nbd_recv, nbd_release, nbd_wait)
from cdpcore.nbd.nbd_wire cimport (CDP_NBD_BLOCK_STATUS, CDP_NBD_CACHE, CDP_NBD_CHUNK_DONE, CDP_NBD_CHUNK_NONE,
                                   CDP_NBD_DATA_BYTES, CDP_NBD_DISC, CDP_NBD_EIO, CDP_NBD_FLAG_DF, CDP_NBD_FLAG_FUA,
                                   CDP_NBD_FLAG_NO_HOLE, CDP_NBD_FLAG_REQ_ONE, CDP_NBD_FLUSH, CDP_NBD_HOLE_BYTES,
                                   CDP_NBD_MAX_DRAIN, CDP_NBD_MAX_PAYLOAD, CDP_NBD_MIN_BLOCK, CDP_NBD_PREFERRED_BLOCK,
                                   CDP_NBD_READ, CDP_NBD_REQUEST_BYTES, CDP_NBD_SIMPLE_BYTES, CDP_NBD_STATUS_BYTES,
                                   CDP_NBD_TRIM, CDP_NBD_WRITE, CDP_NBD_WRITE_ZEROES, cdp_nbd_errno, cdp_nbd_parse,
                                   cdp_nbd_patch_error, cdp_nbd_payload_bytes, cdp_nbd_put_chunk, cdp_nbd_put_data,
                                   cdp_nbd_put_error, cdp_nbd_put_extents, cdp_nbd_put_hole, cdp_nbd_put_simple,
                                   cdp_nbd_put_status, cdp_nbd_validate)

import socket as _socket
from enum import IntEnum as _IntEnum

from cdpcore.base.errors import InvalidRequest as _InvalidRequest


cdef enum:
    RANGE_BYTES = (33 << 20)        # a request of the maximum payload and what came with it
    KEEP_BYTES = (1 << 20)          # of each range stays resident
    WINDOW_BYTES = (256 << 10)      # asked of recv: stays in the L2 cache
    GATHER_BYTES = (256 << 10)      # replies are sent when this much has gathered, batch done or not
    GATHER_NS = 200000              # ... or when the first has waited this long
    MOVE_BYTES = 8192               # a rest this short is moved to the buffer's front
    SPARSE_MIN_BYTES = 65536        # reads from here on ask map() for holes before reading
    SPARSE_GRAIN_BYTES = 4096       # a hole must be this long to be sent as one
    STATUS_MAX = 8192               # descriptors a BLOCK_STATUS reply
    STATUS_CALLS = 64               # map() calls a BLOCK_STATUS request
    IDLE_MS = 100
    SPIN_NS = 20000                 # what sleeping and being woken costs; an idle connection spins once, then sleeps

# How a connection ended.
cdef enum:
    RUNNING = 0
    END_DISC = 1
    END_EOF = 2
    END_STOPPED = 3
    END_GARBAGE = 4
    END_OVERSIZE = 5
    END_RECV = 6
    END_SEND = 7


class End(_IntEnum):
    """Why a connection's transmission phase ended."""

    DISCONNECTED = END_DISC      # NBD_CMD_DISC
    HUNG_UP = END_EOF            # the client closed the socket or died
    STOPPED = END_STOPPED        # stop() here
    GARBAGE = END_GARBAGE        # bytes that are not a request: the stream cannot be trusted further
    OVERSIZE = END_OVERSIZE      # a payload longer than MAX_DRAIN_BYTES
    RECV_FAILED = END_RECV
    SEND_FAILED = END_SEND


MIN_BLOCK_BYTES = CDP_NBD_MIN_BLOCK
PREFERRED_BLOCK_BYTES = CDP_NBD_PREFERRED_BLOCK
MAX_PAYLOAD_BYTES = CDP_NBD_MAX_PAYLOAD
MAX_DRAIN_BYTES = CDP_NBD_MAX_DRAIN
RELEASES_PAGES = bool(NBD_RELEASES_PAGES)  # False where the build or the platform has no way to


cdef const cdp_target *_target(object capsule) except NULL:
    if not PyCapsule_IsValid(capsule, CDP_TARGET_CAPSULE):
        raise _InvalidRequest("an export's capsule is not a target",
                              f"give a PyCapsule named {CDP_TARGET_CAPSULE.decode()}")
    return <const cdp_target *>PyCapsule_GetPointer(capsule, CDP_TARGET_CAPSULE)


def inspect(capsule: object) -> tuple[int, bool]:
    """(size in bytes, read-only) of the target in a capsule. Raises InvalidRequest where it is not one."""
    cdef const cdp_target *t = _target(capsule)
    return t.size_bytes, bool(t.read_only)


@cython.final
cdef class Connection:
    """Connection(sock, capsule, *, read_only, structured, context_id, fast_zero, own_fua)

    sock        a connected stream socket whose handshake is done; this object keeps it open, the caller closes it
                after serve() has returned
    capsule     the target; kept alive
    read_only   refuse writes, whatever the target would do
    structured  structured replies were negotiated
    context_id  the id given to base:allocation, or None where it was not selected
    fast_zero   answer FAST_ZERO requests (False: ENOTSUP)
    own_fua     never let a flush stand for FUA: the target gets a flush only where the client sent one

    Raises InvalidRequest for a capsule that is no target, MemoryError for lack of address space.
    """

    def __cinit__(self, sock: object, capsule: object, *, bint read_only, bint structured,
                  context_id: int | None = None, bint fast_zero=True, bint own_fua=False):
        self.target = _target(capsule)
        self.capsule = capsule
        self.sock = sock
        sock.settimeout(None)
        self.fd = sock.fileno()
        self.context_id = 0 if context_id is None else context_id
        self.own_fua = own_fua
        self.rules = cdp_nbd_rules(size_bytes=self.target.size_bytes,
                                   read_only=1 if read_only or self.target.read_only else 0, structured=structured,
                                   block_status=structured and context_id is not None, fast_zero=fast_zero)
        self.rx = <uint8_t *>_range()
        self.tx = <uint8_t *>_range()

    def __dealloc__(self):
        if self.rx != NULL:
            munmap(self.rx, RANGE_BYTES)
        if self.tx != NULL:
            munmap(self.tx, RANGE_BYTES)

    def __reduce__(self):
        raise TypeError("a connection cannot be pickled")

    def serve(self):
        """Serve requests until the client goes or stop() is called; returns why (End). Once only, without the GIL."""
        if nbd_raise_flag(&self.started):
            raise _InvalidRequest("this connection is being served or was")
        cdef int end
        with nogil:
            end = self.run()
        return End(end)

    def stop(self, *, bint now=False):
        """End serve() after the requests already received, or `now`: mid-reply. Any thread; idempotent."""
        nbd_raise_flag(&self.stopping)
        try:
            self.sock.shutdown(_socket.SHUT_RDWR if now else _socket.SHUT_RD)
        except OSError:
            pass  # closed, or the client went first

    def counters(self):
        """A copy of the counters: dict of name to int. Any thread, while running too; not all of one moment."""
        cdef nbd_counters *c = &self.counts
        return {
            "requests": nbd_get(&c.requests), "errors": nbd_get(&c.errors), "reads": nbd_get(&c.reads),
            "writes": nbd_get(&c.writes), "zeroes": nbd_get(&c.zeroes), "flushes": nbd_get(&c.flushes),
            "read_bytes": nbd_get(&c.read_bytes), "written_bytes": nbd_get(&c.written_bytes),
            "zeroed_bytes": nbd_get(&c.zeroed_bytes), "received_bytes": nbd_get(&c.received_bytes),
            "sent_bytes": nbd_get(&c.sent_bytes), "batches": nbd_get(&c.batches),
        }

    cdef int run(self) noexcept nogil:
        cdef int end
        while True:
            end = self.process()
            if end != END_SEND and self.send() and end == RUNNING:
                end = END_SEND
            if end == RUNNING:
                end = self.fill()
            if end != RUNNING:
                return end
            if self.target.tells_seq and self.target.expect != NULL:
                self.foresee()

    cdef void foresee(self) noexcept nogil:
        """Tell the target which ranges the requests in rx are about, the last one perhaps without its payload yet: before the
        first of them is carried out, so that what must be read for them is read for all at once."""
        cdef cdp_nbd_request r
        cdef uint64_t at = self.rx_begin + self.drain_bytes
        while at < self.rx_end and cdp_nbd_parse(self.rx + at, self.rx_end - at, &r) > 0:
            if r.type == CDP_NBD_WRITE or r.type == CDP_NBD_WRITE_ZEROES or r.type == CDP_NBD_TRIM:
                self.target.expect(self.target.ctx, r.offset, r.length)
            at += CDP_NBD_REQUEST_BYTES + cdp_nbd_payload_bytes(&r)

    cdef int process(self) noexcept nogil:
        """Carry out every complete request in rx. RUNNING when more bytes are needed, else an END_ code."""
        cdef cdp_nbd_request r
        cdef const char *why = NULL
        cdef uint64_t have, payload, n
        cdef uint32_t error
        cdef int rc
        cdef int64_t began = nbd_now_ns(), now
        while True:
            # Every reply passes here before the next, so tx always has room for the largest one (invariant 4).
            if self.tx_end:
                now = nbd_now_ns()
                if self.tx_end >= GATHER_BYTES or now - began > GATHER_NS:
                    if self.send():
                        return END_SEND
                    began = now
            have = self.rx_end - self.rx_begin
            if self.drain_bytes:
                n = min(have, self.drain_bytes)
                self.rx_begin += n
                self.drain_bytes -= n
                if self.drain_bytes:
                    self.need_bytes = 1
                    return RUNNING
                self.refuse(&self.drained, self.drain_error, self.drain_why)
                continue
            rc = cdp_nbd_parse(self.rx + self.rx_begin, have, &r)
            if rc <= 0:
                self.need_bytes = CDP_NBD_REQUEST_BYTES
                return RUNNING if rc == 0 else END_GARBAGE
            payload = cdp_nbd_payload_bytes(&r)
            error = cdp_nbd_validate(&r, &self.rules, &why)
            if error and payload:
                if payload > CDP_NBD_MAX_DRAIN:
                    return END_OVERSIZE
                nbd_add(&self.counts.requests, 1)
                self.drained = r
                self.drain_error = error
                self.drain_why = why
                self.drain_bytes = payload
                self.rx_begin += CDP_NBD_REQUEST_BYTES
                continue
            if have - CDP_NBD_REQUEST_BYTES < payload:
                self.need_bytes = CDP_NBD_REQUEST_BYTES + payload
                return RUNNING
            if r.type == CDP_NBD_DISC:
                return END_DISC
            self.rx_begin += CDP_NBD_REQUEST_BYTES + payload
            nbd_add(&self.counts.requests, 1)
            if error:
                self.refuse(&r, error, why)
            else:
                self.execute(&r, self.rx + self.rx_begin - payload,
                             self.rx_end - self.rx_begin < CDP_NBD_REQUEST_BYTES)

    cdef int fill(self) noexcept nogil:
        """Receive at least one byte more, blocking. RUNNING or an END_ code."""
        cdef uint64_t have = self.rx_end - self.rx_begin, want
        cdef ssize_t n
        if not have:
            self.rx_begin = self.rx_end = 0
            self.give_back()
        want = max(<uint64_t>WINDOW_BYTES, self.need_bytes - have)
        if self.rx_begin and (have <= MOVE_BYTES or self.rx_end + want > KEEP_BYTES):
            memmove(self.rx, self.rx + self.rx_begin, have)
            self.rx_begin = 0
            self.rx_end = have
        want = min(want, RANGE_BYTES - self.rx_end)
        while True:
            if nbd_flag(&self.stopping):
                return END_STOPPED
            n = nbd_recv(self.fd, self.rx + self.rx_end, want, SPIN_NS)
            if n > 0:
                break
            if n == 0:
                return END_STOPPED if nbd_flag(&self.stopping) else END_EOF
            if errno != EINTR:
                return END_RECV
        nbd_add(&self.counts.received_bytes, n)
        self.rx_end += n
        self.round_bytes = max(self.round_bytes, self.rx_end)
        return RUNNING

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
            nbd_release(self.tx + KEEP_BYTES, RANGE_BYTES - KEEP_BYTES)
            self.high_bytes = 0

    cdef int send(self) noexcept nogil:
        """Settle what waits for a flush and send all replies. RUNNING or END_SEND."""
        cdef uint64_t done = 0
        cdef ssize_t n
        if not self.tx_end:
            return RUNNING
        self.settle()
        while done < self.tx_end:
            n = c_send(self.fd, self.tx + done, self.tx_end - done, MSG_NOSIGNAL)
            if n > 0:
                done += n
            elif errno != EINTR:
                return END_SEND
        nbd_add(&self.counts.sent_bytes, done)
        nbd_add(&self.counts.batches, 1)
        self.round_bytes = max(self.round_bytes, self.tx_end)
        self.tx_end = 0
        return RUNNING

    cdef void settle(self) noexcept nogil:
        """One flush for all gathered replies that promise durability (invariant 3)."""
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
                cdp_nbd_patch_error(self.tx + self.pending_at[i], error)
            nbd_add(&self.counts.errors, self.pending)
        self.pending = 0

    cdef void refuse(self, const cdp_nbd_request *r, uint32_t error, const char *why) noexcept nogil:
        """Append an error reply; structured ones carry the reason as text."""
        nbd_add(&self.counts.errors, 1)
        if self.rules.structured:
            self.tx_end += cdp_nbd_put_error(self.tx + self.tx_end, r.cookie, error, why)
        else:
            self.tx_end += cdp_nbd_put_simple(self.tx + self.tx_end, r.cookie, error)

    cdef void finish(self, const cdp_nbd_request *r, int rc, const cdp_status *st, bint flush_due) noexcept nogil:
        """Append the reply to a request without data."""
        if rc != CDP_OK:
            self.refuse(r, cdp_nbd_errno(rc, st.sys_errno), st.where)
            return
        if flush_due:
            if self.pending == PENDING_MAX:
                self.settle()
            self.pending_at[self.pending] = <uint32_t>self.tx_end
            self.pending += 1
        self.tx_end += cdp_nbd_put_simple(self.tx + self.tx_end, r.cookie, 0)

    cdef void execute(self, const cdp_nbd_request *r, const uint8_t *payload, bint last) noexcept nogil:
        """Carry out a request that validate() accepted. `last`: no other complete request follows in rx."""
        cdef cdp_status st
        cdef int rc = CDP_OK
        cdef bint flush_due = r.flags & CDP_NBD_FLAG_FUA
        cdef uint32_t flags = 0
        st.code = st.sys_errno = 0
        st.where = NULL
        if r.type == CDP_NBD_READ:
            nbd_add(&self.counts.reads, 1)
            self.read(r)
            return
        if r.type == CDP_NBD_BLOCK_STATUS:
            self.block_status(r)
            return
        if r.type == CDP_NBD_CACHE:
            self.cache(r)
            return
        if r.type == CDP_NBD_FLUSH:
            nbd_add(&self.counts.flushes, 1)
            self.finish(r, CDP_OK, &st, True)
            return
        if not r.length:
            self.finish(r, CDP_OK, &st, False)
            return
        if flush_due and (self.own_fua or last and not self.pending):
            flags = CDP_FUA  # alone: the target makes it durable on its own way; in company one flush serves all
            flush_due = False
        if r.type == CDP_NBD_WRITE:
            nbd_add(&self.counts.writes, 1)
            nbd_add(&self.counts.written_bytes, r.length)
            rc = self.target.pwrite(self.target.ctx, payload, r.offset, r.length, flags, &st)
        else:  # WRITE_ZEROES, TRIM
            nbd_add(&self.counts.zeroes, 1)
            nbd_add(&self.counts.zeroed_bytes, r.length)
            if not r.flags & CDP_NBD_FLAG_NO_HOLE:
                flags |= CDP_HOLE
            rc = self.target.zero(self.target.ctx, r.offset, r.length, flags, &st)
        self.finish(r, rc, &st, flush_due)

    cdef void read(self, const cdp_nbd_request *r) noexcept nogil:
        cdef cdp_status st
        cdef uint8_t *p = self.tx + self.tx_end
        cdef uint32_t head = CDP_NBD_DATA_BYTES if self.rules.structured else CDP_NBD_SIMPLE_BYTES
        cdef bint fragment = self.rules.structured and not r.flags & CDP_NBD_FLAG_DF
        cdef int rc
        st.code = st.sys_errno = 0
        st.where = NULL
        if not r.length:
            if self.rules.structured:
                self.tx_end += cdp_nbd_put_chunk(p, CDP_NBD_CHUNK_DONE, CDP_NBD_CHUNK_NONE, r.cookie, 0)
            else:
                self.tx_end += cdp_nbd_put_simple(p, r.cookie, 0)
            return
        if fragment and r.length >= SPARSE_MIN_BYTES and self.read_sparse(r):
            return
        rc = self.target.pread(self.target.ctx, p + head, r.offset, r.length, &st)
        if rc != CDP_OK:
            self.refuse(r, cdp_nbd_errno(rc, st.sys_errno), st.where)
            return
        nbd_add(&self.counts.read_bytes, r.length)
        if not self.rules.structured:
            self.tx_end += cdp_nbd_put_simple(p, r.cookie, 0) + r.length
        elif fragment and r.length >= CDP_NBD_HOLE_BYTES and cdp_is_zero(p + head, r.length):
            self.tx_end += cdp_nbd_put_hole(p, CDP_NBD_CHUNK_DONE, r.cookie, r.offset, r.length)
        else:
            self.tx_end += cdp_nbd_put_data(p, CDP_NBD_CHUNK_DONE, r.cookie, r.offset, r.length) + r.length

    cdef int read_sparse(self, const cdp_nbd_request *r) noexcept nogil:
        """Answer a read with its holes left out. 0: there are none worth it, and nothing was appended."""
        cdef cdp_status st
        cdef uint64_t start = self.tx_end, end = r.offset + r.length, pos = r.offset, sent = r.offset, zero_from, stop
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
                rc = self.target.pread(self.target.ctx, self.tx + self.tx_end + CDP_NBD_DATA_BYTES, sent, stop - sent,
                                       &st)
                if rc != CDP_OK:
                    self.tx_end = start
                    self.refuse(r, cdp_nbd_errno(rc, st.sys_errno), st.where)
                    return 1
                nbd_add(&self.counts.read_bytes, stop - sent)
                self.tx_end += cdp_nbd_put_data(self.tx + self.tx_end, CDP_NBD_CHUNK_DONE if stop == end else 0,
                                                r.cookie, sent, <uint32_t>(stop - sent)) + (stop - sent)
            if not done:
                nbd_add(&self.counts.read_bytes, pos - zero_from)
                self.tx_end += cdp_nbd_put_hole(self.tx + self.tx_end, CDP_NBD_CHUNK_DONE if pos == end else 0,
                                                r.cookie, zero_from, <uint32_t>(pos - zero_from))
            sent = pos if not done else end
        return 1

    cdef void cache(self, const cdp_nbd_request *r) noexcept nogil:
        """Read and throw away: what the target keeps beneath it is warm then."""
        cdef cdp_status st
        cdef uint64_t pos = r.offset, end = r.offset + r.length, n
        cdef int rc = CDP_OK
        st.code = st.sys_errno = 0
        st.where = NULL
        while pos < end and rc == CDP_OK:
            n = min(end - pos, <uint64_t>WINDOW_BYTES)
            rc = self.target.pread(self.target.ctx, self.tx + self.tx_end, pos, n, &st)
            pos += n
        self.finish(r, rc, &st, False)

    cdef void block_status(self, const cdp_nbd_request *r) noexcept nogil:
        cdef cdp_status st
        cdef uint8_t *out = self.tx + self.tx_end + CDP_NBD_STATUS_BYTES
        cdef uint64_t pos = r.offset, end = r.offset + r.length
        cdef uint32_t count = 0, calls = 0, n, cap = 1 if r.flags & CDP_NBD_FLAG_REQ_ONE else STATUS_MAX
        cdef int rc
        st.code = st.sys_errno = 0
        st.where = NULL
        while pos < end and calls < STATUS_CALLS:
            calls += 1
            n = 0
            rc = self.target.map(self.target.ctx, pos, end - pos, self.extents, MAP_BATCH, &n, &st)
            if rc != CDP_OK:
                self.refuse(r, cdp_nbd_errno(rc, st.sys_errno), st.where)
                return
            rc = cdp_nbd_put_extents(out, cap, &count, &pos, end, self.extents, n) if 0 < n <= MAP_BATCH else -1
            if rc < 0:
                self.refuse(r, CDP_NBD_EIO, "the target reported extents that do not fit together")
                return
            if rc > 0:
                break
        self.tx_end += cdp_nbd_put_status(self.tx + self.tx_end, r.cookie, self.context_id, count) + 8 * <uint64_t>count


cdef void *_range() except NULL:
    cdef void *p = mmap(NULL, RANGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p == MAP_FAILED:
        raise MemoryError(f"{RANGE_BYTES} bytes of address space for a connection")
    return p
