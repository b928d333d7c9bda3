"""The driver that issues to an NBD server: up to `depth` requests in flight, simple replies.

Invariants
 1. Requests that touch the same bytes, one of them changing them, are never in flight together, and a flush waits until
    all changes before it are answered: so the result is that of the trace's order, as on a local disk.
 2. Both directions move in one poll loop, so a server that waits for its replies to be taken cannot block us, or we it.
 3. A reply is matched by its slot, range-checked; anything that is not a reply to a request in flight ends the
    connection.
Threading: one thread at a time.
"""
from cpython.pycapsule cimport PyCapsule_New, PyCapsule_SetContext, PyCapsule_GetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, ECONNRESET, EINTR, EIO, EPROTO, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset
from cdpcore.base.clock cimport cdp_monotonic_ns
from cdpcore.base.status cimport CDP_INVALID, CDP_NOSPACE, CDP_OK, CDP_UNAVAILABLE, cdp_fail
from cdpcore.nbd.nbd_sock cimport MSG_DONTWAIT, MSG_NOSIGNAL, POLLOUT, c_recv, c_send, nbd_poll
from cdpcore.nbd.nbd_wire cimport (CDP_NBD_ENOSPC, CDP_NBD_EXPORT_FLUSH, CDP_NBD_EXPORT_FUA, CDP_NBD_EXPORT_TRIM,
                                   CDP_NBD_EXPORT_WRITE_ZEROES, CDP_NBD_FLAG_FUA, CDP_NBD_FLAG_NO_HOLE, CDP_NBD_FLUSH,
                                   CDP_NBD_READ, CDP_NBD_REQUEST_BYTES, CDP_NBD_SIMPLE_BYTES, CDP_NBD_TRIM,
                                   CDP_NBD_WRITE, CDP_NBD_WRITE_ZEROES, cdp_nbd_get_simple, cdp_nbd_put_request,
                                   cdp_nbd_request)
from cdpcore.trace.replay_content cimport cdp_replay_fill
from cdpcore.trace.trace_rec cimport (CDP_TRACE_FLUSH, CDP_TRACE_FUA, CDP_TRACE_PREFLUSH, CDP_TRACE_READ,
                                      CDP_TRACE_TRIM, CDP_TRACE_WRITE, CDP_TRACE_ZERO)

from cdpcore.base.errors import InvalidRequest

cdef enum:
    GATHER_BYTES = 64 << 10         # requests are sent when so much has gathered, or when there is nothing else to do
    RANGE_BYTES = 1 << 30           # of one trim or zero on the wire
    ANSWER_SECONDS = 60


cdef class NbdDriver(Driver):
    """Issues to the server at the other end of a connected socket whose handshake is done.

    Args:
        sock: a socket.socket in transmission phase, without structured replies. Kept, not closed.
        size_bytes, export_flags: what the server announced.
        depth: requests in flight, 1 to 256.
        key, max_bytes, pattern, acks: as of Driver.
    """

    def __cinit__(self, sock, *, uint64_t key, uint64_t max_bytes, uint64_t size_bytes, uint16_t export_flags,
                  uint32_t depth, bint pattern=True, acks=None):
        if not 1 <= depth <= MAX_DEPTH:
            raise InvalidRequest(f"{depth} requests in flight", f"1 to {MAX_DEPTH}")
        self.sock = sock
        self.fd = sock.fileno()
        self.size_bytes = size_bytes
        self.export_flags = export_flags
        self.depth = depth
        self.tx_bytes = 2 * max_bytes + 2 * GATHER_BYTES
        self.tx = <uint8_t *>malloc(self.tx_bytes)
        if self.tx == NULL:
            raise MemoryError
        self.rx_slot = -1
        memset(self.slots, 0, sizeof(self.slots))
        memset(&self.facade, 0, sizeof(self.facade))
        self.facade.ctx = <void *>self
        self.facade.size_bytes = size_bytes
        self.facade.read_only = 1
        self.facade.pread = facade_pread

    def __dealloc__(self):
        free(self.tx)

    def target(self):
        """PyCapsule "cdpcore.target" for reading only (its pread): what the server holds now. Between runs."""
        capsule = PyCapsule_New(&self.facade, b"cdpcore.target", release_facade)
        Py_INCREF(self)
        PyCapsule_SetContext(capsule, <void *>self)
        return capsule

    cdef int begin(self, uint32_t kind, uint32_t command, uint32_t flags, uint64_t offset, uint64_t length,
                   const uint8_t *data, uint64_t change, uint8_t *into) noexcept nogil:
        """One request on the wire: waits for a slot and for room. data NULL with CDP_NBD_WRITE: the pattern."""
        cdef uint64_t need = CDP_NBD_REQUEST_BYTES + (length if command == CDP_NBD_WRITE else 0)
        cdef cdp_nbd_request r
        cdef uint32_t i = 0
        cdef uint8_t *p
        cdef int rc
        while self.n_used == self.depth or self.tx_bytes - self.tx_tail < need:
            if self.tx_head and self.tx_bytes - self.tx_tail < need:
                memmove(self.tx, self.tx + self.tx_head, self.tx_tail - self.tx_head)
                self.tx_tail -= self.tx_head
                self.tx_head = 0
                continue
            rc = self.pump(0)
            if rc != CDP_OK:
                return rc
        while self.slots[i].used:
            i += 1
        p = self.tx + self.tx_tail
        r.flags = <uint16_t>flags
        r.type = <uint16_t>command
        r.cookie = i
        r.offset = offset
        r.length = <uint32_t>length
        cdp_nbd_put_request(p, &r)
        if command == CDP_NBD_WRITE:
            if data != NULL:
                memcpy(p + CDP_NBD_REQUEST_BYTES, data, length)
            elif kind == CDP_TRACE_ZERO:
                memset(p + CDP_NBD_REQUEST_BYTES, 0, length)
            else:
                cdp_replay_fill(p + CDP_NBD_REQUEST_BYTES, offset, length, self.key, self.numbered)
        self.tx_tail += need
        self.slots[i].used = 1
        self.slots[i].kind = kind
        self.slots[i].offset = offset
        self.slots[i].length = length
        self.slots[i].change = change
        self.slots[i].into = into
        self.slots[i].began_ns = cdp_monotonic_ns()
        self.n_used += 1
        if self.tx_tail - self.tx_head >= GATHER_BYTES:
            return self.send_some()
        return CDP_OK

    cdef int pump(self, uint64_t until_ns) noexcept nogil:
        """Move what moves; wait for it until `until_ns` (0: until something does, or the server is silent for too
        long)."""
        cdef uint64_t now = cdp_monotonic_ns()
        cdef int wait_ms = ANSWER_SECONDS * 1000, found, rc
        if until_ns:
            wait_ms = <int>((until_ns - now) // 1000000) if until_ns > now else 0
        found = nbd_poll(self.fd, self.tx_tail > self.tx_head, wait_ms)
        if found < 0 and errno != EINTR:
            return cdp_fail(&self.failure, CDP_UNAVAILABLE, errno, 0, b"waiting for the server")
        if found == 0 and not until_ns:
            return cdp_fail(&self.failure, CDP_UNAVAILABLE, EIO, 0, b"the server does not answer")
        if found <= 0:
            return CDP_OK
        if found & POLLOUT:
            rc = self.send_some()
            if rc != CDP_OK:
                return rc
        if found & ~POLLOUT:
            return self.receive_some()
        return CDP_OK

    cdef int send_some(self) noexcept nogil:
        cdef ssize_t n
        while self.tx_head < self.tx_tail:
            n = c_send(self.fd, self.tx + self.tx_head, self.tx_tail - self.tx_head, MSG_DONTWAIT | MSG_NOSIGNAL)
            if n < 0:
                if errno == EAGAIN or errno == EINTR:
                    return CDP_OK
                return cdp_fail(&self.failure, CDP_UNAVAILABLE, errno, 0, b"sending to the server")
            self.tx_head += n
        self.tx_head = self.tx_tail = 0
        return CDP_OK

    cdef int receive_some(self) noexcept nogil:
        cdef uint8_t *into
        cdef uint64_t want, cookie
        cdef uint32_t error
        cdef in_flight *s
        cdef ssize_t n
        cdef int rc
        while True:
            if self.rx_slot < 0:
                into = self.rx
                want = CDP_NBD_SIMPLE_BYTES
            else:
                s = &self.slots[self.rx_slot]
                into = s.into if s.into != NULL else self.buffer
                want = s.length
            if self.rx_have < want:
                n = c_recv(self.fd, into + self.rx_have, want - self.rx_have, MSG_DONTWAIT)
                if n < 0:
                    if errno == EAGAIN or errno == EINTR:
                        return CDP_OK
                    return cdp_fail(&self.failure, CDP_UNAVAILABLE, errno, 0, b"receiving from the server")
                if n == 0:
                    return cdp_fail(&self.failure, CDP_UNAVAILABLE, ECONNRESET, 0, b"the server closed the connection")
                self.rx_have += n
                if self.rx_have < want:
                    continue
            self.rx_have = 0
            if self.rx_slot >= 0:
                self.rx_slot = -1
            else:
                if cdp_nbd_get_simple(self.rx, &error, &cookie) or cookie >= MAX_DEPTH or not self.slots[cookie].used:
                    return cdp_fail(&self.failure, CDP_UNAVAILABLE, EPROTO, 0, b"the server sent what is no reply")
                s = &self.slots[cookie]
                if error:
                    return cdp_fail(&self.failure, CDP_NOSPACE if error == CDP_NBD_ENOSPC else CDP_UNAVAILABLE,
                                    <int>error, s.offset, b"the server refused a request")
                if s.kind == CDP_TRACE_READ and s.length:
                    self.rx_slot = <int>cookie
                    continue
            rc = self.completed(s)
            if rc != CDP_OK or self.n_used == 0:
                return rc

    cdef int completed(self, in_flight *s) noexcept nogil:
        cdef int rc = CDP_OK
        s.used = 0
        self.n_used -= 1
        if s.into != NULL:
            return CDP_OK
        self.count(s.kind, s.length, cdp_monotonic_ns() - s.began_ns)
        if s.kind == CDP_TRACE_READ and self.check_reads:
            rc = self.check_sectors(self.buffer, s.offset, s.length)
        elif s.kind == CDP_TRACE_FLUSH:
            self.durable = s.change
            self.acknowledge()
        elif s.change:
            self.changes += 1
            self.acknowledge()
        return rc

    cdef bint overlaps(self, uint64_t offset, uint64_t length, bint changes) noexcept nogil:
        cdef uint32_t i
        cdef in_flight *s
        for i in range(self.depth):
            s = &self.slots[i]
            if s.used and s.offset < offset + length and offset < s.offset + s.length and \
                    (changes or s.kind != CDP_TRACE_READ):
                return True
        return False

    cdef int drain(self) noexcept nogil:
        cdef int rc = self.failure.code
        while self.n_used and rc == CDP_OK:
            rc = self.pump(0)
        return rc

    cdef int take_answers(self, uint64_t until_ns) noexcept nogil:
        cdef int rc = CDP_OK
        while rc == CDP_OK:
            rc = self.send_some()
            if rc == CDP_OK:
                rc = self.pump(until_ns)
            if cdp_monotonic_ns() + 1000000 >= until_ns:
                break
        if rc == CDP_OK and self.n_used == 0:
            return Driver.take_answers(self, until_ns)
        return rc

    cdef int flush(self) noexcept nogil:
        cdef int rc = self.drain()
        if rc != CDP_OK:
            return rc
        if not self.export_flags & CDP_NBD_EXPORT_FLUSH:
            self.left_out += 1
            return CDP_OK
        return self.begin(CDP_TRACE_FLUSH, CDP_NBD_FLUSH, 0, 0, 0, NULL, self.changes, NULL)

    cdef int ranged(self, const cdp_trace_rec *r, uint32_t command, uint32_t flags) noexcept nogil:
        """A trim or zero, in pieces that the wire can say; it is acknowledged with the last."""
        cdef uint64_t done = 0, step
        cdef uint64_t most = self.max_bytes if command == CDP_NBD_WRITE else RANGE_BYTES
        cdef int rc = CDP_OK
        while done < r.length_bytes and rc == CDP_OK:
            step = min(r.length_bytes - done, most)
            rc = self.begin(r.kind, command, flags, r.offset_bytes + done, step, NULL,
                            self.numbered if done + step == r.length_bytes else 0, NULL)
            done += step
        return rc

    cdef int issue(self, const cdp_trace_rec *r, const uint8_t *data, uint64_t data_bytes) noexcept nogil:
        cdef uint32_t flags = 0
        cdef int rc = CDP_OK
        cdef bint after = False
        if r.flags & CDP_TRACE_PREFLUSH and r.kind != CDP_TRACE_FLUSH:
            rc = self.flush()
            if rc == CDP_OK:
                rc = self.drain()
        if rc != CDP_OK:
            return rc
        if r.kind == CDP_TRACE_FLUSH:
            return self.flush()
        if r.length_bytes == 0:
            self.count(r.kind, 0, 0)
            return CDP_OK
        while rc == CDP_OK and self.n_used and self.overlaps(r.offset_bytes, r.length_bytes, r.kind != CDP_TRACE_READ):
            rc = self.pump(0)
        if rc != CDP_OK:
            return rc
        if r.kind == CDP_TRACE_READ:
            return self.begin(r.kind, CDP_NBD_READ, 0, r.offset_bytes, r.length_bytes, NULL, 0, NULL)
        self.numbered += 1
        if r.flags & CDP_TRACE_FUA:
            flags = CDP_NBD_FLAG_FUA if self.export_flags & CDP_NBD_EXPORT_FUA else 0
            after = flags == 0
        if r.kind == CDP_TRACE_WRITE:
            rc = self.begin(r.kind, CDP_NBD_WRITE, flags, r.offset_bytes, r.length_bytes,
                            NULL if self.pattern else data + r.payload, self.numbered, NULL)
        elif r.kind == CDP_TRACE_TRIM and not self.export_flags & CDP_NBD_EXPORT_TRIM:
            self.left_out += 1
        elif r.kind == CDP_TRACE_TRIM:
            rc = self.ranged(r, CDP_NBD_TRIM, flags)
        elif self.export_flags & CDP_NBD_EXPORT_WRITE_ZEROES:
            rc = self.ranged(r, CDP_NBD_WRITE_ZEROES, flags | CDP_NBD_FLAG_NO_HOLE)
        else:
            rc = self.ranged(r, CDP_NBD_WRITE, flags)
        if rc == CDP_OK and after:
            rc = self.flush()
        return rc

    cdef int read_now(self, uint8_t *buf, uint64_t offset, uint64_t length, cdp_status *st) noexcept nogil:
        cdef uint64_t done = 0, step
        cdef int rc = CDP_OK
        if offset > self.size_bytes or length > self.size_bytes - offset:
            return cdp_fail(st, CDP_INVALID, 0, offset, b"a read past the end of the disk")
        while done < length and rc == CDP_OK:
            step = min(length - done, self.max_bytes)
            rc = self.begin(CDP_TRACE_READ, CDP_NBD_READ, 0, offset + done, step, NULL, 0, buf + done)
            done += step
        if rc == CDP_OK:
            rc = self.drain()
        if rc != CDP_OK:
            st[0] = self.failure
        return rc


cdef int facade_pread(void *ctx, void *buf, uint64_t offset, uint64_t length, cdp_status *st) noexcept nogil:
    return (<NbdDriver>ctx).read_now(<uint8_t *>buf, offset, length, st)


cdef void release_facade(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))
