"""A gateway's NBD connection: the client's stream received into shared memory, its requests handed on as MDPackets, many under
way at once, and the daemon's answers sent from where the daemon put them.

The sibling of nbd.pyx for a disk that another process keeps (channel/channel.h); it shares the wire code, and keeps that loop's order:
requests are carried out in the order in which they came, FLUSH covers all before it, replies are gathered.

Invariants
 1. A request is handed on only when all of it has been received.
 2. The stream is received straight into the RECEIVE group, headers and all, and a write's packet refers to its payload there: no
    copy. A request lies there in one piece; what does not fit before the group's end is moved to its front.
 3. What is kept (channel/channel.h) is bounded by the slots and by RECEIVE: when either is full, the daemon is asked to write, and
    nothing is received meanwhile. Below SOFT_BYTES memory is used again before new is touched.
 4. While there is no daemon, requests are received and kept as far as there is room; their replies wait. Nothing fails.
 5. run() returns when everything that was handed on is answered and written, so a client that goes loses nothing either.
Threading: serve() runs in one thread for the connection's life; attach(), stop() and counters() are for any thread.
"""
cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memmove, memset

from cdpcore.base.status cimport CDP_OK
from cdpcore.base.target cimport cdp_extent
from cdpcore.base.zeros cimport cdp_is_zero
from cdpcore.channel.channel cimport (CDP_CHANNEL_EXTENTS, CDP_CHANNEL_MAP, CDP_CHANNEL_RECEIVE,
                                      CDP_CHANNEL_RECEIVE_BYTES, CDP_CHANNEL_REPLY, CDP_CHANNEL_REPLY_BYTES,
                                      CDP_CHANNEL_SLOTS, cdp_channel_drain, cdp_channel_get, cdp_channel_get32,
                                      cdp_channel_packet, cdp_channel_receive, cdp_channel_reply, cdp_channel_ring,
                                      cdp_channel_set, cdp_channel_set32)
from cdpcore.channel.gate_sock cimport GATE_DOOR, GATE_WAKE, gate_poll, gate_raise, gate_send, gate_swap
from cdpcore.channel.mdpacket cimport (CDP_MD_FLUSH, CDP_MD_FUA, CDP_MD_READ, CDP_MD_SECTOR, CDP_MD_TRIM,
                                       CDP_MD_VERSION, CDP_MD_WRITE, CDP_MD_ZERO)
from cdpcore.nbd.nbd_sock cimport (MSG_DONTWAIT, c_recv, nbd_add, nbd_flag, nbd_get, nbd_now_ns, nbd_raise_flag,
                                   sched_yield)
from cdpcore.nbd.nbd_wire cimport (CDP_NBD_BLOCK_STATUS, CDP_NBD_CACHE, CDP_NBD_CHUNK_DONE, CDP_NBD_CHUNK_NONE,
                                   CDP_NBD_DATA_BYTES, CDP_NBD_DISC, CDP_NBD_EIO, CDP_NBD_ERROR_MAX_BYTES,
                                   CDP_NBD_FLAG_DF, CDP_NBD_FLAG_FUA, CDP_NBD_FLAG_NO_HOLE, CDP_NBD_FLAG_REQ_ONE,
                                   CDP_NBD_FLUSH, CDP_NBD_HOLE_BYTES, CDP_NBD_MAX_DRAIN, CDP_NBD_READ,
                                   CDP_NBD_REQUEST_BYTES, CDP_NBD_SIMPLE_BYTES, CDP_NBD_STATUS_BYTES, CDP_NBD_TRIM,
                                   CDP_NBD_WRITE, CDP_NBD_WRITE_ZEROES, cdp_nbd_errno, cdp_nbd_parse,
                                   cdp_nbd_payload_bytes, cdp_nbd_put_chunk, cdp_nbd_put_data, cdp_nbd_put_error,
                                   cdp_nbd_put_extents, cdp_nbd_put_hole, cdp_nbd_put_simple, cdp_nbd_put_status,
                                   cdp_nbd_validate)

import os as _os
import socket as _socket

from cdpcore.base.errors import InvalidRequest as _InvalidRequest
from cdpcore.nbd.connection import End as _End


cdef extern from "<unistd.h>":
    int close(int) nogil
    ssize_t c_read "read"(int, void *, size_t) nogil

cdef enum:
    WINDOW_BYTES = (256 << 10)      # asked of recv
    SOFT_RX_BYTES = (16 << 20)      # memory used again from here on where it can be
    FRONT_BYTES = (8 << 20)
    SOFT_TX_BYTES = (2 << 20)
    GATHER_BYTES = (256 << 10)      # replies are sent when this much has gathered
    GATHER_NS = 50000               # ... or when the first has waited so long, or nothing else is under way
    STATUS_MAX = 2048               # descriptors a BLOCK_STATUS reply
    STATUS_ROOM = (24 + 8 * STATUS_MAX)     # CDP_NBD_STATUS_BYTES; then the extents
    SPIN_NS = 10000                 # longer, and on two processors we take the time that the daemon needs
    BLOCKED_REPLY = 1               # a request waits until replies have been sent
    BLOCKED_KEPT = 2                # ... or until what is kept has been written
    SUBMIT_RING = 8                 # requests handed on before the daemon is woken

cdef enum:
    RUNNING = 0
    END_DISC = 1
    END_EOF = 2
    END_STOPPED = 3
    END_GARBAGE = 4
    END_OVERSIZE = 5
    END_RECV = 6
    END_SEND = 7


@cython.final
cdef class GateConnection:
    """GateConnection(sock, channel, door, *, size_bytes, read_only, structured, context_id, fast_zero)

    As cdpcore.nbd.connection.Connection, with a Channel and the gateway's end of its doorbell (a file descriptor that
    becomes this object's;
    -1: no daemon yet) in place of a target.
    """

    def __cinit__(self, sock: object, Channel channel not None, int door, *, uint64_t size_bytes, bint read_only,
                  bint structured, context_id: int | None = None, bint fast_zero=True):
        self.door = door
        self.next_door = self.wake_r = self.wake_w = -1
        self.channel = channel
        self.c = channel.c
        self.sock = sock
        sock.settimeout(None)
        self.fd = sock.fileno()
        self.context_id = 0 if context_id is None else context_id
        self.rules = cdp_nbd_rules(size_bytes=size_bytes, read_only=read_only, structured=structured,
                                   block_status=structured and context_id is not None, fast_zero=fast_zero)
        self.rx = cdp_channel_receive(self.c)
        self.tx = cdp_channel_reply(self.c)
        self.notes = <note *>calloc(CDP_CHANNEL_SLOTS, sizeof(note))
        self.small = <uint8_t *>malloc(SMALL_BYTES)
        if self.notes == NULL or self.small == NULL:
            raise MemoryError()
        self.wake_r, self.wake_w = _os.pipe()
        _os.set_blocking(self.wake_w, False)

    def __dealloc__(self):
        free(self.notes)
        free(self.small)
        for fd in (self.door, self.next_door, self.wake_r, self.wake_w):
            if fd >= 0:
                close(fd)

    def __reduce__(self):
        raise TypeError("a connection cannot be pickled")

    def serve(self):
        """Serve requests until the client goes or stop() is called; returns why (End). Once only, without the GIL."""
        if nbd_raise_flag(&self.started):
            raise _InvalidRequest("this connection is being served or was")
        cdef int end
        with nogil:
            end = self.run()
            gate_raise(&self.stopping, 2)
            self.take_door()
            if self.door >= 0:
                close(self.door)    # the daemon learns it at once
                self.door = -1
        return _End(end)

    def attach(self, int door):
        """Another daemon: its doorbell, which becomes this object's. Any thread."""
        cdef int old = gate_swap(&self.next_door, door)
        if old >= 0:
            close(old)
        if nbd_flag(&self.stopping) == 2:       # too late, or just in time for serve() to take it: one of us closes it
            old = gate_swap(&self.next_door, -1)
            if old >= 0:
                close(old)
        self._wake()

    def stop(self, *, bint now=False):
        """End serve() after the requests already received have been answered and written, or `now`. Any thread; idempotent."""
        gate_raise(&self.stopping, 2 if now else 1)
        try:
            self.sock.shutdown(_socket.SHUT_RDWR if now else _socket.SHUT_RD)
        except OSError:
            pass  # closed, or the client went first
        self._wake()

    def _wake(self):
        try:
            _os.write(self.wake_w, b"x")
        except BlockingIOError:
            pass  # it has not been awake since the last ones

    def counters(self):
        """A copy of the counters: dict of name to int, as cdpcore.nbd.connection.Connection's. Any thread."""
        cdef nbd_counters *c = &self.counts
        return {
            "requests": nbd_get(&c.requests), "errors": nbd_get(&c.errors), "reads": nbd_get(&c.reads),
            "writes": nbd_get(&c.writes), "zeroes": nbd_get(&c.zeroes), "flushes": nbd_get(&c.flushes),
            "read_bytes": nbd_get(&c.read_bytes), "written_bytes": nbd_get(&c.written_bytes),
            "zeroed_bytes": nbd_get(&c.zeroed_bytes), "received_bytes": nbd_get(&c.received_bytes),
            "sent_bytes": nbd_get(&c.sent_bytes), "batches": nbd_get(&c.batches),
        }

    # --- the loop ------------------------------------------------------------------------------------------------------

    cdef int run(self) noexcept nogil:
        cdef int64_t idle_ns = 0, now
        cdef bint moved
        cdef int end
        while True:
            if nbd_flag(&self.stopping) == 2:
                return self.ending if self.ending else END_STOPPED
            moved = self.reap()
            if self.gathered:
                now = nbd_now_ns()
                if self.reaped == self.head or self.gathered >= GATHER_BYTES or now - self.gathered_ns > GATHER_NS:
                    self.send()
            self.release()
            if not self.ending:
                end = self.receive()
                if end > 0:
                    self.ending = end
                    moved = True
                elif end < 0:
                    moved = True
            elif self.tail == self.head and not self.gathered:
                return self.ending
            elif self.answered == self.head:
                self.blocked = BLOCKED_KEPT     # only what is not written yet keeps us
            if moved:
                idle_ns = 0
                continue
            now = nbd_now_ns()
            if not idle_ns:
                idle_ns = now
            if now - idle_ns < SPIN_NS:
                sched_yield()
                continue
            idle_ns = 0
            if self.gathered:
                self.send()
            else:
                self.sleep()

    cdef void ring(self) noexcept nogil:
        cdp_channel_ring(self.door, &self.c.daemon_sleeps)

    cdef void take_door(self) noexcept nogil:
        cdef int door = gate_swap(&self.next_door, -1)
        if door >= 0:
            if self.door >= 0:
                close(self.door)
            self.door = door

    cdef void sleep(self) noexcept nogil:
        """Until the client sends, the daemon answers or has written, another daemon comes, or stop()."""
        cdef uint32_t what
        cdef uint8_t some[64]
        cdef int sock = -1 if self.ending or self.blocked else self.fd
        cdp_channel_set32(&self.c.gateway_sleeps, 1)
        if self.blocked == BLOCKED_KEPT and self.answered > self.tail:
            cdp_channel_set32(&self.c.want_written, 1)
        self.ring()
        if cdp_channel_get(&self.c.done) == self.reaped:
            what = gate_poll(sock, self.door, self.wake_r)
            if what & GATE_DOOR and not cdp_channel_drain(self.door):
                close(self.door)
                self.door = -1
            if what & GATE_WAKE:
                c_read(self.wake_r, some, sizeof(some))
                self.take_door()
        cdp_channel_set32(&self.c.gateway_sleeps, 0)

    # --- answers -------------------------------------------------------------------------------------------------------

    cdef bint reap(self) noexcept nogil:
        """Gather the replies to what has been carried out."""
        cdef uint64_t done = min(cdp_channel_get(&self.c.done), self.head)
        cdef uint64_t slot
        cdef bint some = False
        while self.reaped < done:
            slot = self.reaped % CDP_CHANNEL_SLOTS
            self.reply(&self.notes[slot], cdp_channel_packet(self.c, self.reaped))
            self.reaped += 1
            some = True
        return some

    cdef void release(self) noexcept nogil:
        """Let go of what is answered and written."""
        cdef cdp_mdpacket *p
        cdef uint64_t written, before = self.tail
        if self.tail == self.answered or cdp_channel_get32(&self.c.replaying):
            return
        written = cdp_channel_get(&self.c.written_seq)
        while self.tail < self.answered:
            p = cdp_channel_packet(self.c, self.tail)
            if p.status == CDP_OK and cdp_channel_get(&p.seq) > written:
                break
            self.tail += 1
        if self.tail != before:
            cdp_channel_set(&self.c.tail, self.tail)
            self.rx_low = self.notes[self.tail % CDP_CHANNEL_SLOTS].rx_at if self.tail < self.head else self.rx_begin

    cdef void gather(self, void *p, uint64_t n) noexcept nogil:
        cdef iovec *last
        if not self.gathered:
            self.gathered_ns = nbd_now_ns()
        self.gathered += n
        if self.n_iov:
            last = &self.iov[self.n_iov - 1]
            if <uint8_t *>last.iov_base + last.iov_len == <uint8_t *>p:
                last.iov_len += n
                return
        self.iov[self.n_iov].iov_base = p
        self.iov[self.n_iov].iov_len = n
        self.n_iov += 1

    cdef void send(self) noexcept nogil:
        """Send all gathered replies. What they were made of is free then."""
        cdef uint64_t n
        cdef note *m
        cdef ssize_t sent
        if not self.deaf:
            sent = gate_send(self.fd, self.iov, self.n_iov)
            self.deaf = sent < 0
            if not self.deaf:
                nbd_add(&self.counts.sent_bytes, <uint64_t>sent)
                nbd_add(&self.counts.batches, 1)
            elif not self.ending:
                self.ending = END_SEND
        self.n_iov = self.small_end = 0
        self.gathered = 0
        for n in range(self.answered, self.reaped):
            m = &self.notes[n % CDP_CHANNEL_SLOTS]
            if m.tx_bytes:
                self.tx_low = m.tx_at + m.tx_bytes
                self.tx_live -= 1
        self.answered = self.reaped
        cdp_channel_set(&self.c.answered, self.answered)

    cdef void refuse(self, const cdp_nbd_request *r, uint32_t error, const char *why) noexcept nogil:
        cdef uint8_t *p = self.small + self.small_end
        cdef uint32_t n
        nbd_add(&self.counts.errors, 1)
        n = cdp_nbd_put_error(p, r.cookie, error, why) if self.rules.structured else cdp_nbd_put_simple(p, r.cookie, error)
        self.small_end += n
        self.gather(p, n)

    cdef void reply(self, note *m, cdp_mdpacket *p) noexcept nogil:
        cdef uint8_t *at
        if self.n_iov >= IOVS - 2 or self.small_end + CDP_NBD_ERROR_MAX_BYTES > SMALL_BYTES or self.gathered >= GATHER_BYTES:
            self.send()
        if p.status != CDP_OK:
            self.refuse(&m.r, cdp_nbd_errno(p.status, p.sys_errno), b"the store could not carry it out; its log says why")
        elif m.r.type == CDP_NBD_READ:
            self.reply_read(m)
        elif m.r.type == CDP_NBD_BLOCK_STATUS:
            self.reply_status(m, p)
        else:
            at = self.small + self.small_end
            self.small_end += cdp_nbd_put_simple(at, m.r.cookie, 0)
            self.gather(at, CDP_NBD_SIMPLE_BYTES)

    cdef void reply_read(self, note *m) noexcept nogil:
        """The data lies in REPLY with room for its header before it."""
        cdef uint8_t *at = self.tx + m.tx_at
        cdef uint8_t *small
        nbd_add(&self.counts.read_bytes, m.r.length)
        if not self.rules.structured:
            cdp_nbd_put_simple(at, m.r.cookie, 0)
        elif not m.r.flags & CDP_NBD_FLAG_DF and m.r.length >= CDP_NBD_HOLE_BYTES and \
                cdp_is_zero(at + CDP_NBD_DATA_BYTES, m.r.length):
            small = self.small + self.small_end
            self.small_end += cdp_nbd_put_hole(small, CDP_NBD_CHUNK_DONE, m.r.cookie, m.r.offset, m.r.length)
            self.gather(small, CDP_NBD_HOLE_BYTES)
            return
        else:
            cdp_nbd_put_data(at, CDP_NBD_CHUNK_DONE, m.r.cookie, m.r.offset, m.r.length)
        self.gather(at, m.tx_bytes)

    cdef void reply_status(self, note *m, cdp_mdpacket *p) noexcept nogil:
        cdef uint8_t *at = self.tx + m.tx_at
        cdef uint32_t count = 0, cap = 1 if m.r.flags & CDP_NBD_FLAG_REQ_ONE else STATUS_MAX
        cdef uint64_t pos = m.r.offset, n = min(p.bg[0].length_bytes, m.tx_bytes - STATUS_ROOM) // sizeof(cdp_extent)
        if not n or cdp_nbd_put_extents(at + CDP_NBD_STATUS_BYTES, cap, &count, &pos, m.r.offset + m.r.length,
                                        <cdp_extent *>(at + STATUS_ROOM), <uint32_t>n) < 0:
            self.refuse(&m.r, CDP_NBD_EIO, "the target reported extents that do not fit together")
            return
        self.gather(at, cdp_nbd_put_status(at, m.r.cookie, self.context_id, count) + 8 * <uint64_t>count)

    # --- requests ------------------------------------------------------------------------------------------------------

    cdef int receive(self) noexcept nogil:
        """Hand on what is complete, and take what has come. RUNNING: nothing had; -1: something had; else an END_."""
        cdef uint64_t before = self.head
        cdef int want, end
        cdef ssize_t n
        self.blocked = 0
        end = self.parse()
        if end == RUNNING and not self.blocked:
            want = self.make_room()
            if want == 0:
                self.blocked = BLOCKED_KEPT
            else:
                n = c_recv(self.fd, self.rx + self.rx_end, want, MSG_DONTWAIT)
                if n > 0:
                    nbd_add(&self.counts.received_bytes, n)
                    self.rx_end += <uint32_t>n
                    end = self.parse()
                    if end == RUNNING:
                        end = -1
                elif n == 0:
                    end = END_STOPPED if nbd_flag(&self.stopping) else END_EOF
                elif errno != EAGAIN and errno != EINTR:
                    end = END_RECV
        if self.head != before:
            self.ring()
            if end == RUNNING:
                end = -1
        return end

    cdef int make_room(self) noexcept nogil:
        """Where the request at rx_begin can be received in one piece; how much to ask for. 0: when more has been written."""
        cdef uint32_t have = self.rx_end - self.rx_begin, limit = CDP_CHANNEL_RECEIVE_BYTES
        cdef uint64_t need = max(self.need_bytes, <uint64_t>CDP_NBD_REQUEST_BYTES)
        cdef bint turn
        if self.tail == self.head:
            if not have or self.rx_begin >= SOFT_RX_BYTES or self.rx_begin + need > limit:
                memmove(self.rx, self.rx + self.rx_begin, have)
                self.rx_begin = 0
                self.rx_end = have
            self.rx_low = self.rx_begin
        if self.rx_low > self.rx_begin:
            limit = self.rx_low - 1
        else:
            turn = self.rx_begin >= SOFT_RX_BYTES or self.rx_begin + need > limit
            # Not into the little that was freed first: beyond the front's end there is nothing to go on to.
            if turn and max(need, <uint64_t>FRONT_BYTES) < self.rx_low:
                memmove(self.rx, self.rx + self.rx_begin, have)
                self.rx_begin = 0
                self.rx_end = have
                limit = self.rx_low - 1
        if self.rx_begin + need > limit:
            return 0
        return <int>min(<uint64_t>(limit - self.rx_end), max(<uint64_t>WINDOW_BYTES, need - have))

    cdef int parse(self) noexcept nogil:
        """Hand on every complete request. RUNNING when more bytes are needed or `blocked`, else an END_."""
        cdef cdp_nbd_request r
        cdef const char *why = NULL
        cdef uint64_t have, payload, n
        cdef uint32_t error
        cdef uint8_t *at
        cdef int rc
        while True:
            if self.small_end + CDP_NBD_ERROR_MAX_BYTES > SMALL_BYTES or self.n_iov >= IOVS - 2:
                self.send()
            have = self.rx_end - self.rx_begin
            if self.drain_bytes:
                n = min(have, self.drain_bytes)
                self.rx_begin += <uint32_t>n
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
            if error:
                self.refuse(&r, error, why)
            elif not r.length and r.type != CDP_NBD_FLUSH:
                at = self.small + self.small_end
                n = cdp_nbd_put_chunk(at, CDP_NBD_CHUNK_DONE, CDP_NBD_CHUNK_NONE, r.cookie, 0) \
                    if r.type == CDP_NBD_READ and self.rules.structured else cdp_nbd_put_simple(at, r.cookie, 0)
                self.small_end += <uint32_t>n
                self.gather(at, n)
            elif not self.submit(&r, <uint32_t>payload):
                return RUNNING
            self.rx_begin += CDP_NBD_REQUEST_BYTES + <uint32_t>payload
            nbd_add(&self.counts.requests, 1)

    cdef int64_t place_reply(self, uint32_t n) noexcept nogil:
        """Room for a reply of n bytes in REPLY, in one piece; -1: when some more have been sent."""
        cdef int64_t at = self.tx_next
        if not self.tx_live:
            at = self.tx_low = 0
        elif self.tx_next >= self.tx_low:
            if n < self.tx_low and (self.tx_next + n > SOFT_TX_BYTES):
                at = 0
            elif self.tx_next + n > CDP_CHANNEL_REPLY_BYTES:
                return -1
        elif self.tx_next + n >= self.tx_low:
            return -1
        self.tx_next = <uint32_t>at + n
        self.tx_live += 1
        return at

    cdef bint submit(self, const cdp_nbd_request *r, uint32_t payload) noexcept nogil:
        """Hand a request on. False: no room for it yet."""
        cdef cdp_mdpacket *p = cdp_channel_packet(self.c, self.head)
        cdef note *m = &self.notes[self.head % CDP_CHANNEL_SLOTS]
        cdef int64_t at
        cdef uint32_t skip = 0
        if self.head - self.tail >= CDP_CHANNEL_SLOTS:
            self.blocked = BLOCKED_KEPT
            return False
        m.tx_bytes = 0
        if r.type == CDP_NBD_READ or r.type == CDP_NBD_CACHE:
            skip = CDP_NBD_DATA_BYTES if self.rules.structured else CDP_NBD_SIMPLE_BYTES
            m.tx_bytes = skip + r.length
        elif r.type == CDP_NBD_BLOCK_STATUS:
            self.tx_next = (self.tx_next + 7) & ~7u      # extents are aligned
            skip = STATUS_ROOM
            m.tx_bytes = STATUS_ROOM + CDP_CHANNEL_EXTENTS * sizeof(cdp_extent)
        if m.tx_bytes:
            at = self.place_reply(m.tx_bytes)
            if at < 0:
                self.blocked = BLOCKED_REPLY
                m.tx_bytes = 0
                return False
            m.tx_at = <uint32_t>at
        m.r = r[0]
        m.rx_at = self.rx_begin
        memset(p, 0, sizeof(cdp_mdpacket))
        p.version = CDP_MD_VERSION
        p.lba = r.offset // CDP_MD_SECTOR
        p.skew_bytes = r.offset % CDP_MD_SECTOR
        p.length_bytes = r.length
        p.cookie = r.cookie
        if r.type == CDP_NBD_WRITE:
            p.op = CDP_MD_WRITE
            p.bg[0].slot = CDP_CHANNEL_RECEIVE
            p.bg[0].offset_bytes = self.rx_begin + CDP_NBD_REQUEST_BYTES
            p.bg[0].length_bytes = payload
            nbd_add(&self.counts.writes, 1)
            nbd_add(&self.counts.written_bytes, r.length)
        elif r.type == CDP_NBD_FLUSH:
            p.op = CDP_MD_FLUSH
            p.lba = p.skew_bytes = p.length_bytes = 0
            nbd_add(&self.counts.flushes, 1)
        elif r.type == CDP_NBD_TRIM or r.type == CDP_NBD_WRITE_ZEROES:
            p.op = CDP_MD_ZERO if r.flags & CDP_NBD_FLAG_NO_HOLE else CDP_MD_TRIM
            nbd_add(&self.counts.zeroes, 1)
            nbd_add(&self.counts.zeroed_bytes, r.length)
        else:
            p.op = CDP_CHANNEL_MAP if r.type == CDP_NBD_BLOCK_STATUS else CDP_MD_READ
            p.bg[0].slot = CDP_CHANNEL_REPLY
            p.bg[0].offset_bytes = m.tx_at + skip
            p.bg[0].length_bytes = m.tx_bytes - skip
            if r.type == CDP_NBD_READ:
                nbd_add(&self.counts.reads, 1)
        if r.flags & CDP_NBD_FLAG_FUA and (p.op == CDP_MD_WRITE or p.op == CDP_MD_ZERO or p.op == CDP_MD_TRIM):
            p.flags = CDP_MD_FUA
        if p.op != CDP_MD_FLUSH and p.bg[0].length_bytes:
            p.n_bgs = 1
            p.bg[0].generation = 1
        self.head += 1
        cdp_channel_set(&self.c.head, self.head)
        if self.head % SUBMIT_RING == 0:
            self.ring()
        return True
