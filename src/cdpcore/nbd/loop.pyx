# cython: autotestdict=False
"""The transmission phase of one NBD connection: requests in, replies out, without the GIL. Carrying a request out is
the subclass's part, and the only part that differs between a server and a gateway.

A round: gather the replies to what others have carried out meanwhile (reap); start every complete request that was
received, in order (process); send what was gathered, and wait for more bytes or answers (wait). So at queue depth 1 a
request costs one recv and one send, and at depth 32 both are shared by the requests that came together.

start() has two outcomes. Answered: the reply was built on the spot, in `out`. Parked: the request got a number by
park(), its bytes stay in rx until release(), and its reply has room in tx; reap() gathers the reply when it is done,
in any order. cdpcore.nbd.connection parks what has to wait for a device, cdpcore.channel.gateway parks everything.

Invariants
 1. A request is started only when all of it has been received: a stalled or killed client holds nothing, and a write
    happens whole or not at all.
 2. Requests of a connection are started in the order in which they came, so a FLUSH covers all that was answered
    before it came.
 3. Bounds: a reply is begun only when less than GATHER_BYTES are gathered. What is parked is bounded by parked_max, rx
    and tx; where one of them is full, nothing more is started or received before some are answered or released.
 4. tail <= head and answered <= head. Parked requests from head on are free; from `answered` on the first is not SENT
    and keeps the room for its reply, and all room taken after it; from `tail` on they keep their bytes in rx.
 5. A reply is not held back for longer than gather_ns and the request that is being started.
 6. run() returns when nothing is parked, or at once after stop(now=True).
 7. What a request needs beyond free_bytes of a range is claimed from the memory that all connections share
    (cdpcore.nbd.memory) before it is received or begun. A connection that waits for it has nothing under way.
 8. After pause() nothing more is received: every request of which all bytes were received is answered, and what is left
    (rest()) is less than one request. What the client sent meanwhile is in the socket. So another loop, in this process
    or in another one, can go on with the socket and the rest: resume().
Threading: serve() runs in one thread for the connection's life. stop(), pause() and counters() are for any thread.
"""
cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.string cimport memcpy

from cdpcore.base.stages cimport (CDP_REQUEST_KINDS, CDP_STAGE_FLUSH, CDP_STAGE_PARKED, CDP_STAGE_READ,
                                  CDP_STAGE_RECEIVE, CDP_STAGE_REPLY, CDP_STAGE_WRITE, cdp_count, cdp_histogram_add,
                                  cdp_stage_add, cdp_uncount)
from cdpcore.base.zeros cimport cdp_is_zero
from cdpcore.nbd.memory cimport (ConnectionMemory, nbd_claim_flag, nbd_claim_on_client, nbd_memory_doze,
                                 nbd_memory_give, nbd_memory_hush, nbd_memory_leave, nbd_memory_queue)
from cdpcore.nbd.nbd_sock cimport (MSG_DONTWAIT, c_recv, nbd_add, nbd_flag, nbd_get, nbd_now_ns, nbd_raise,
                                   nbd_raise_flag, nbd_recv, nbd_send)
from cdpcore.nbd.nbd_wire cimport (CDP_NBD_CHUNK_DONE, CDP_NBD_CHUNK_NONE, CDP_NBD_DATA_BYTES, CDP_NBD_DISC,
                                   CDP_NBD_EIO, CDP_NBD_ERROR_MAX_BYTES, CDP_NBD_FLAG_DF, CDP_NBD_FLUSH,
                                   CDP_NBD_HOLE_BYTES, CDP_NBD_MAX_DRAIN, CDP_NBD_READ, CDP_NBD_REQUEST_BYTES,
                                   CDP_NBD_REQUEST_MAGIC, CDP_NBD_SIMPLE_BYTES, CDP_NBD_TRIM, CDP_NBD_WRITE,
                                   CDP_NBD_WRITE_ZEROES,
                                   cdp_nbd_parse, cdp_nbd_payload_bytes, cdp_nbd_put_chunk, cdp_nbd_put_data,
                                   cdp_nbd_put_error, cdp_nbd_put_hole, cdp_nbd_put_simple, cdp_nbd_put_status,
                                   cdp_nbd_validate)

import socket as _socket
from enum import IntEnum as _IntEnum
from struct import Struct as _Struct

from cdpcore.base.errors import InvalidRequest as _InvalidRequest


cdef enum:
    WINDOW_BYTES = (256 << 10)      # asked of recv: stays in the L2 cache
    GATHER_BYTES = (256 << 10)      # replies are sent when this much has gathered, whatever else is to come
    MOVE_BYTES = 8192               # a rest this short is moved to the front of rx
    FRONT_BYTES = (8 << 20)         # so much must be free at the front before rx is used from there again
    SPIN_NS = 20000                 # what sleeping and being woken costs; an idle connection spins once, then sleeps
    STOP_NOW = 2


_REQUEST = _Struct(">IHHQQI")
_REQUEST_MAGIC = CDP_NBD_REQUEST_MAGIC


class End(_IntEnum):
    """Why a connection's transmission phase ended."""

    DISCONNECTED = END_DISC      # NBD_CMD_DISC
    HUNG_UP = END_EOF            # the client closed the socket or died
    STOPPED = END_STOPPED        # stop() here
    GARBAGE = END_GARBAGE        # bytes that are not a request: the stream cannot be trusted further
    OVERSIZE = END_OVERSIZE      # a payload longer than MAX_DRAIN_BYTES
    RECV_FAILED = END_RECV
    SEND_FAILED = END_SEND
    PAUSED = END_PAUSED          # pause() here: the connection goes on, with another object
    SLOW = END_SLOW              # others waited for the memory that it had, and its client did not go on


cdef inline uint32_t kind_of(uint32_t type) noexcept nogil:
    """Of a request; CDP_REQUEST_KINDS: none that is counted."""
    if type == CDP_NBD_READ:
        return CDP_STAGE_READ
    if type == CDP_NBD_WRITE or type == CDP_NBD_WRITE_ZEROES or type == CDP_NBD_TRIM:
        return CDP_STAGE_WRITE
    return CDP_STAGE_FLUSH if type == CDP_NBD_FLUSH else CDP_REQUEST_KINDS


cdef class RequestLoop(Ranges):
    """What every connection has. Not to be made itself: a subclass sets the memory and the rules for its disk.

    sock        a connected stream socket whose handshake is done; this object keeps it open, the caller closes it
                after serve() has returned
    structured  structured replies were negotiated
    context_id  the id given to base:allocation, or None where it was not selected
    fast_zero   answer FAST_ZERO requests (False: ENOTSUP)
    memory      what it shares with other connections; None: it shares with none
    """

    def __cinit__(self, sock: object, *args, bint structured, context_id: int | None = None, bint fast_zero=True,
                  ConnectionMemory memory=None, **kwargs):
        if type(self) is RequestLoop:
            raise TypeError("a request loop without what carries requests out")
        self.sock = sock
        sock.settimeout(None)
        self.fd = self.claim.fd = sock.fileno()
        self.claim.bell = -1
        self.claim.received_bytes, self.claim.sent_bytes = &self.counts.received_bytes, &self.counts.sent_bytes
        if memory is not None:
            self.shared, self.memory = memory, &memory.m
        self.context_id = 0 if context_id is None else context_id
        self.rules = cdp_nbd_rules(size_bytes=0, read_only=1, structured=structured,
                                   block_status=structured and context_id is not None, fast_zero=fast_zero)

    def __reduce__(self):
        raise TypeError("a connection cannot be pickled")

    def serve(self):
        """Serve requests until the client goes or stop() is called; returns why (End). Once only, without the GIL."""
        if nbd_raise_flag(&self.started):
            raise _InvalidRequest("this connection is being served or was")
        cdef int end
        with nogil:
            self.adopt()
            end = self.run()
            self.finish()
            if self.memory != NULL:
                nbd_memory_give(self.memory, &self.claim, 0)
                end = END_SLOW if nbd_claim_flag(&self.claim.cut) else end
            if self.stages != NULL:
                cdp_uncount(&self.stages.parked, self.under_way)
        return End(end)

    def stop(self, *, bint now=False):
        """End serve() when the requests already received have been answered, or `now`: mid-reply. Any thread;
        idempotent."""
        nbd_raise(&self.stopping, STOP_NOW if now else 1)
        try:
            self.sock.shutdown(_socket.SHUT_RDWR if now else _socket.SHUT_RD)
        except OSError:
            pass  # closed, or the client went first
        self.wake()

    def pause(self):
        """End serve() when the requests already received have been answered, and leave the connection as it is. Any
        thread; idempotent."""
        nbd_raise_flag(&self.pausing)
        self.wake()

    def rest(self):
        """After serve() gave PAUSED, once: (bytes, int): what was received and not begun, less than one request; and
        how many bytes of the payload of a refused request that it begins with were received and thrown away."""
        cdef uint64_t n = self.rx_end - self.rx_begin
        received = <bytes>(<char *>self.rx)[self.rx_begin:self.rx_end] if n else b""
        if not self.drain_bytes:
            return received, 0
        if self.drain_bytes == cdp_nbd_payload_bytes(&self.drained):
            self.counts.requests -= 1   # it is begun anew
        return (_REQUEST.pack(_REQUEST_MAGIC, self.drained.flags, self.drained.type, self.drained.cookie,
                              self.drained.offset, self.drained.length) + received,
                cdp_nbd_payload_bytes(&self.drained) - self.drain_bytes)

    def resume(self, const uint8_t[::1] received not None, uint64_t skipped=0, counters=None):
        """Before serve(): go on where rest() says that another object stopped. counters: what it had counted. Raises
        InvalidRequest for a rest that is none."""
        cdef uint64_t n = received.shape[0]
        cdef cdp_nbd_request r
        cdef const char *why = b"the server was replaced in the middle of this request"
        if n > self.rx_bytes or skipped and n < CDP_NBD_REQUEST_BYTES:
            raise _InvalidRequest(f"{n} bytes are not the rest of a connection")
        if n:
            memcpy(self.rx, &received[0], n)
        self.rx_end = n
        if skipped:
            if cdp_nbd_parse(self.rx, n, &r) <= 0 or skipped >= cdp_nbd_payload_bytes(&r):
                raise _InvalidRequest("the rest of a connection does not begin with a refused request")
            self.drain_error = cdp_nbd_validate(&r, &self.rules, &why) or CDP_NBD_EIO
            self.drain_why = why
            self.drained = r
            self.drain_bytes = cdp_nbd_payload_bytes(&r) - skipped
            self.rx_begin = CDP_NBD_REQUEST_BYTES
        cdef nbd_counters *c = &self.counts
        if counters:
            c.requests, c.errors, c.reads, c.writes = [counters[k] for k in ("requests", "errors", "reads", "writes")]
            c.zeroes, c.flushes, c.batches = [counters[k] for k in ("zeroes", "flushes", "batches")]
            c.read_bytes, c.written_bytes = [counters[k] for k in ("read_bytes", "written_bytes")]
            c.zeroed_bytes, c.received_bytes = [counters[k] for k in ("zeroed_bytes", "received_bytes")]
            c.sent_bytes = counters["sent_bytes"]

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

    # --- the seam -----------------------------------------------------------------------------------------------------

    cdef bint start(self, const cdp_nbd_request *r, const uint8_t *payload) noexcept nogil:
        """Carry out a valid request of at least one byte, or a flush: reply to it, or park() it. `payload`: a
        write's. False: nothing was done, for has_room() said no."""
        return True

    cdef uint64_t reply_bytes(self, const cdp_nbd_request *r) noexcept nogil:
        """The most room in tx that this request takes when it is parked; 0: none."""
        return 0

    cdef bint reap(self) noexcept nogil:
        """Gather replies to parked requests, and release what may be. True where there was something to do."""
        return False

    cdef void send(self) noexcept nogil:
        """transmit(), and what must come before or after it."""
        self.transmit()

    cdef void wait(self, bint moved) noexcept nogil:
        """fill(), unless `blocked` or `ending`; and unless this round `moved` something, sleep until something can be
        done. Where nothing is under way, what is gathered must have been sent before this sleeps."""

    cdef void wake(self) noexcept nogil:
        """stop() or pause() was called: end wait(), where shutting the socket down does not. Any thread."""

    cdef int bell(self) noexcept nogil:
        """What becomes readable by wake(), for a fill() that blocks; -1: nothing."""
        return -1

    cdef void finish(self) noexcept nogil:
        """run() has returned."""

    # --- the loop -----------------------------------------------------------------------------------------------------

    @cython.final
    cdef int run(self) noexcept nogil:
        """Until there is nothing more to do; why (END_)."""
        cdef bint moved
        while True:
            if nbd_flag(&self.stopping) == STOP_NOW:
                return self.ending if self.ending else END_STOPPED
            moved = self.reap()
            if self.gathered and (not self.under_way or self.is_overdue()):
                self.send()
            if not self.ending and self.process():
                moved = True
            if self.ending and self.tail == self.head == self.answered and not self.gathered:
                return self.ending
            self.wait(moved)

    @cython.final
    cdef bint process(self) noexcept nogil:
        """Start every complete request in rx, until more bytes are needed, or `blocked`, or `ending`. True: some."""
        cdef cdp_nbd_request r
        cdef const char *why = NULL
        cdef uint64_t have, payload, n
        cdef uint32_t error
        cdef bint moved = False
        cdef int rc
        self.blocked = 0
        while True:
            if self.claim.held_bytes and not self.turn and self.is_wanted():
                self.shed(self.tail != self.head, self.gathered > 0)
            # Every reply passes here before the next, so `out` always has room for the largest one (invariant 3).
            if self.gathered and (self.is_full() or self.is_overdue()):
                self.send()
                if self.ending:
                    return moved
            have = self.rx_end - self.rx_begin
            if self.drain_bytes:
                n = min(have, self.drain_bytes)
                self.rx_begin += n
                self.drain_bytes -= n
                if self.drain_bytes:
                    self.need_bytes = 1
                    return moved
                self.refuse(&self.drained, self.drain_error, self.drain_why)
                continue
            rc = cdp_nbd_parse(self.rx + self.rx_begin, have, &r)
            if rc <= 0:
                self.need_bytes = CDP_NBD_REQUEST_BYTES
                if rc < 0:
                    self.ending = END_GARBAGE
                return moved
            payload = cdp_nbd_payload_bytes(&r)
            error = cdp_nbd_validate(&r, &self.rules, &why)
            if error and payload:
                if payload > CDP_NBD_MAX_DRAIN:
                    self.ending = END_OVERSIZE
                    return moved
                nbd_add(&self.counts.requests, 1)
                self.drained = r
                self.drain_error = error
                self.drain_why = why
                self.drain_bytes = payload
                self.rx_begin += CDP_NBD_REQUEST_BYTES
                continue
            if have - CDP_NBD_REQUEST_BYTES < payload:
                self.need_bytes = CDP_NBD_REQUEST_BYTES + payload
                return moved
            if r.type == CDP_NBD_DISC:
                self.ending = END_DISC
                return moved
            self.rx_begin += CDP_NBD_REQUEST_BYTES + payload
            if error or not r.length and r.type != CDP_NBD_FLUSH:
                nbd_add(&self.counts.requests, 1)
                if error:
                    self.refuse(&r, error, why)
                else:
                    self.reply_done(&r)
            else:
                if not self.counted:
                    self.count(&r)
                n = self.head
                self.counted = not self.start(&r, self.rx + self.rx_begin - payload)
                if self.counted:
                    self.rx_begin -= CDP_NBD_REQUEST_BYTES + payload
                    return moved
                if self.head == n and kind_of(r.type) < CDP_REQUEST_KINDS:
                    self.on_spot[kind_of(r.type)] += 1
            self.turn = False
            moved = True

    @cython.final
    cdef void count(self, const cdp_nbd_request *r) noexcept nogil:
        nbd_add(&self.counts.requests, 1)
        if r.type == CDP_NBD_READ:
            nbd_add(&self.counts.reads, 1)
        elif r.type == CDP_NBD_WRITE:
            nbd_add(&self.counts.writes, 1)
            nbd_add(&self.counts.written_bytes, r.length)
        elif r.type == CDP_NBD_FLUSH:
            nbd_add(&self.counts.flushes, 1)
        elif r.type == CDP_NBD_WRITE_ZEROES or r.type == CDP_NBD_TRIM:
            nbd_add(&self.counts.zeroes, 1)
            nbd_add(&self.counts.zeroed_bytes, r.length)

    # --- receiving ----------------------------------------------------------------------------------------------------

    @cython.final
    cdef bint fill(self, bint blocking) noexcept nogil:
        """Receive what there is, or `blocking` at least one byte. False: nothing; `blocked` or `ending` may say why."""
        cdef uint64_t want
        cdef int64_t began = 0
        cdef ssize_t n
        if nbd_flag(&self.pausing):     # process() has begun all that is complete
            self.ending = END_PAUSED
            return False
        want = self.make_room()
        if not want:
            return False
        while True:
            if blocking and nbd_flag(&self.pausing):
                self.ending = END_PAUSED
                return False
            if blocking and nbd_flag(&self.stopping):   # a TCP socket that was shut down may still receive
                self.ending = END_STOPPED
                return False
            if blocking:
                nbd_claim_on_client(&self.claim, 1)
                n = nbd_recv(self.fd, self.bell(), self.rx + self.rx_end, want, SPIN_NS, &began)
                nbd_claim_on_client(&self.claim, 0)
            else:
                n = c_recv(self.fd, self.rx + self.rx_end, want, MSG_DONTWAIT)
            if n > 0:
                nbd_add(&self.counts.received_bytes, n)
                self.rx_end += n
                if self.stages != NULL:
                    self.received_ns = nbd_now_ns()
                    if began:
                        cdp_stage_add(self.stages, CDP_STAGE_RECEIVE, self.received_ns - began)
                return True
            if n == 0:
                self.ending = END_STOPPED if nbd_flag(&self.stopping) else END_EOF
                return False
            if not blocking and (errno == EAGAIN or errno == EINTR):
                return False
            if errno != EINTR:
                self.ending = END_RECV
                return False

    @cython.final
    cdef uint64_t make_room(self) noexcept nogil:
        """Move what was received where the request at rx_begin fits in one piece; how much to ask for. 0: `blocked`
        says what for."""
        cdef uint64_t have = self.rx_end - self.rx_begin, limit = self.rx_bytes
        cdef uint64_t need = max(self.need_bytes, <uint64_t>CDP_NBD_REQUEST_BYTES)
        cdef uint64_t want = max(<uint64_t>WINDOW_BYTES, need - have)
        cdef uint64_t low
        cdef bint to_front
        if self.tail != self.head and self.claim.held_bytes and need <= self.free_bytes and not self.turn and \
                self.is_wanted():
            self.blocked = BLOCKED_KEPT     # then all of it is given back
            return 0
        if self.tail == self.head:      # nothing is kept
            to_front = self.rx_begin and (have <= MOVE_BYTES or self.rx_end + want > self.rx_soft)
        elif self.rx_low > self.rx_begin:
            to_front = False
            limit = self.rx_low - 1
        else:
            # Not into the little that was released first: beyond the end of the front there is nothing to go on to.
            to_front = (self.rx_begin >= self.rx_soft or self.rx_begin + need > limit) and \
                max(need, <uint64_t>FRONT_BYTES) < self.rx_low
            if to_front:
                limit = self.rx_low - 1
        if to_front:
            low = self.rx_low
            self.to_front()
            self.rx_low = low
        if self.tail == self.head:
            self.rx_low = self.rx_begin
        if self.rx_begin + need > limit:
            self.blocked = BLOCKED_KEPT
            return 0
        if self.rx_begin + need > self.rx_granted and \
                not self.grow(&self.rx_granted, self.rx_begin + need, self.rx_bytes):
            if self.tail != self.head:
                self.blocked = BLOCKED_KEPT
                return 0
            self.to_front()
            if need > self.rx_granted and not self.grow(&self.rx_granted, need, self.rx_bytes):
                self.blocked = BLOCKED_MEMORY
                return 0
        return min(min(limit, self.rx_granted) - self.rx_end, want)

    @cython.final
    cdef void await_memory(self) noexcept nogil:
        """`blocked` is BLOCKED_MEMORY, and nothing is under way, kept or gathered: give everything back, and wait for a
        turn; or `ending`."""
        cdef bint partial = self.wanted == &self.rx_granted     # the request is not complete
        self.shed(False, False)
        nbd_memory_queue(self.memory, &self.claim, self.wanted_bytes - self.wanted[0])
        while not nbd_claim_flag(&self.claim.granted):
            if nbd_flag(&self.stopping) and (partial or nbd_flag(&self.stopping) == STOP_NOW):
                self.ending = END_STOPPED
            elif partial and nbd_flag(&self.pausing):
                self.ending = END_PAUSED
            elif nbd_memory_doze(self.memory, &self.claim, self.bell()):
                self.ending = END_STOPPED if nbd_flag(&self.stopping) else END_EOF
            if self.ending and nbd_memory_leave(self.memory, &self.claim):
                return
        nbd_memory_hush(self.memory, self.bell())
        self.wanted[0] = self.wanted_bytes
        self.turn = True

    # --- parked requests ----------------------------------------------------------------------------------------------

    @cython.final
    cdef bint has_room(self, const cdp_nbd_request *r) noexcept nogil:
        """Take room for a request that is to be parked now, and for its reply. False: `blocked` says for what."""
        cdef nbd_parked *m = &self.parked[self.head % self.parked_max]
        cdef int64_t at
        if self.head - min(self.tail, self.answered) >= self.parked_max:
            self.blocked = BLOCKED_KEPT
            return False
        m.tx_bytes = self.reply_bytes(r)
        if m.tx_bytes:
            at = self.place(m.tx_bytes)
            if at < 0:
                self.blocked = BLOCKED_REPLY if self.tx_live else BLOCKED_MEMORY
                return False
            m.tx_at = at
        return True

    @cython.final
    cdef nbd_parked *park(self, const cdp_nbd_request *r, const uint8_t *payload) noexcept nogil:
        """Give the request that is being started, and for which has_room() took room, the number `head`."""
        cdef nbd_parked *m = &self.parked[self.head % self.parked_max]
        m.r = r[0]
        m.rx_at = <uint64_t>(payload - self.rx) - CDP_NBD_REQUEST_BYTES
        m.state = UNDER_WAY
        if self.stages != NULL:
            m.received_ns = self.received_ns
            m.parked_ns = nbd_now_ns()
            cdp_count(&self.stages.parked, 1)
        self.head += 1
        self.under_way += 1
        return m

    @cython.final
    cdef void replied(self, nbd_parked *m) noexcept nogil:
        """The reply to this parked request was gathered."""
        m.state = GATHERED
        m.next = self.to_send
        self.to_send = m
        self.under_way -= 1
        if self.stages != NULL:
            cdp_stage_add(self.stages, CDP_STAGE_PARKED, nbd_now_ns() - m.parked_ns)
            cdp_uncount(&self.stages.parked, 1)

    @cython.final
    cdef void release(self, uint64_t tail) noexcept nogil:
        """Parked requests before `tail` need their bytes in rx no more."""
        self.tail = tail
        self.rx_low = self.parked[tail % self.parked_max].rx_at if tail < self.head else self.rx_begin

    # --- replies ------------------------------------------------------------------------------------------------------

    @cython.final
    cdef bint is_full(self) noexcept nogil:
        """What was gathered must be sent before another reply is built."""
        return self.gathered >= GATHER_BYTES or self.n_iov >= IOVS - 2 or \
            self.out_end + CDP_NBD_ERROR_MAX_BYTES > self.out_bytes

    @cython.final
    cdef bint is_overdue(self) noexcept nogil:
        """What was gathered has waited for more long enough."""
        return self.gathered >= GATHER_BYTES or nbd_now_ns() - self.gathered_ns > self.gather_ns

    @cython.final
    cdef void gather(self, void *p, uint64_t n) noexcept nogil:
        """These bytes are to be sent next. They stay as they are until then."""
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

    @cython.final
    cdef void transmit(self) noexcept nogil:
        """Send what was gathered, blocking. The memory that it lay in is free then."""
        cdef nbd_parked *m
        cdef int64_t began = nbd_now_ns() if self.stages != NULL else 0
        if not self.deaf:
            nbd_claim_on_client(&self.claim, 1)
            self.deaf = nbd_send(self.fd, self.iov, self.n_iov, &self.counts.sent_bytes) < 0
            nbd_claim_on_client(&self.claim, 0)
            if not self.deaf:
                nbd_add(&self.counts.batches, 1)
                if self.stages != NULL:
                    self.note_sent(began)
            elif not self.ending:
                self.ending = END_SEND
        self.n_iov = 0
        self.gathered = self.out_end = 0
        while self.to_send != NULL:
            self.to_send.state = SENT
            self.to_send = self.to_send.next
        while self.answered < self.head:
            m = &self.parked[self.answered % self.parked_max]
            if m.state != SENT:
                break
            if m.tx_bytes:
                self.tx_low = m.tx_at + m.tx_bytes
                self.tx_live -= 1
            self.answered += 1

    @cython.final
    cdef void note_sent(self, int64_t began) noexcept nogil:
        """What was gathered is sent. All requests that were answered on the spot were complete with what was received
        last: nothing is received while replies to such requests wait."""
        cdef int64_t now = nbd_now_ns()
        cdef nbd_parked *m = self.to_send
        cdef uint32_t kind
        cdp_stage_add(self.stages, CDP_STAGE_REPLY, now - began)
        for kind in range(CDP_REQUEST_KINDS):
            if self.on_spot[kind]:
                cdp_histogram_add(&self.stages.stage[kind], now - self.received_ns, self.on_spot[kind])
                self.on_spot[kind] = 0
        while m != NULL:
            kind = kind_of(m.r.type)
            if kind < CDP_REQUEST_KINDS:
                cdp_stage_add(self.stages, kind, now - m.received_ns)
            m = m.next
        cdp_count(&self.stages.read_bytes, nbd_get(&self.counts.read_bytes) - self.noted_read)
        cdp_count(&self.stages.written_bytes, nbd_get(&self.counts.written_bytes) - self.noted_written)
        self.noted_read = nbd_get(&self.counts.read_bytes)
        self.noted_written = nbd_get(&self.counts.written_bytes)

    @cython.final
    cdef uint32_t header_bytes(self) noexcept nogil:
        """Before the data of a reply to READ."""
        return CDP_NBD_DATA_BYTES if self.rules.structured else CDP_NBD_SIMPLE_BYTES

    @cython.final
    cdef void refuse(self, const cdp_nbd_request *r, uint32_t error, const char *why) noexcept nogil:
        """Gather an error reply; structured ones carry the reason as text, which may be NULL."""
        cdef uint8_t *p = self.out + self.out_end
        cdef uint32_t n
        nbd_add(&self.counts.errors, 1)
        if self.rules.structured:
            n = cdp_nbd_put_error(p, r.cookie, error, why)
        else:
            n = cdp_nbd_put_simple(p, r.cookie, error)
        self.gather(p, n)
        self.out_end += n

    @cython.final
    cdef void reply_done(self, const cdp_nbd_request *r) noexcept nogil:
        """Gather a reply without data."""
        cdef uint8_t *p = self.out + self.out_end
        cdef uint32_t n
        if r.type == CDP_NBD_READ and self.rules.structured:
            n = cdp_nbd_put_chunk(p, CDP_NBD_CHUNK_DONE, CDP_NBD_CHUNK_NONE, r.cookie, 0)
        else:
            n = cdp_nbd_put_simple(p, r.cookie, 0)
        self.gather(p, n)
        self.out_end += n

    @cython.final
    cdef uint64_t reply_data(self, const cdp_nbd_request *r, uint8_t *at) noexcept nogil:
        """Gather the reply to a READ whose data lies at `at` + header_bytes(); how long it is."""
        cdef uint64_t n = self.put_data(r, at)
        nbd_add(&self.counts.read_bytes, r.length)
        self.gather(at, n)
        return n

    @cython.final
    cdef uint64_t put_data(self, const cdp_nbd_request *r, uint8_t *at) noexcept nogil:
        """Complete the reply to a READ whose data lies at `at` + header_bytes(); how long it is. Any thread."""
        if not self.rules.structured:
            return cdp_nbd_put_simple(at, r.cookie, 0) + r.length
        if not r.flags & CDP_NBD_FLAG_DF and r.length >= CDP_NBD_HOLE_BYTES and \
                cdp_is_zero(at + CDP_NBD_DATA_BYTES, r.length):
            return cdp_nbd_put_hole(at, CDP_NBD_CHUNK_DONE, r.cookie, r.offset, r.length)
        return cdp_nbd_put_data(at, CDP_NBD_CHUNK_DONE, r.cookie, r.offset, r.length) + r.length

    @cython.final
    cdef uint64_t reply_status(self, const cdp_nbd_request *r, uint8_t *at, uint32_t context_id, uint32_t count,
                               uint32_t flags) noexcept nogil:
        """Gather the reply to a BLOCK_STATUS, of one context, whose descriptors lie at `at` + CDP_NBD_STATUS_BYTES; how
        long it is. Not in the last one: CDP_NBD_CHUNK_DONE is not in `flags`."""
        cdef uint64_t n
        if not count:
            self.refuse(r, CDP_NBD_EIO, "the target reported extents that do not fit together")
            return 0
        n = cdp_nbd_put_status(at, flags, r.cookie, context_id, count) + 8 * <uint64_t>count
        self.gather(at, n)
        return n
