"""A gateway's NBD connection, to a disk that another process keeps: requests are handed on as MDPackets in shared
memory (channel/channel.h), many at once, and the daemon's answers are sent from where the daemon put them. The loop is
cdpcore.nbd.loop's; every request is parked.

Invariants, beside the loop's
 1. The client's stream is received straight into the RECEIVE group, headers and all, and a write's packet refers to its
    payload there: no copy.
 2. What is kept (channel/channel.h) is bounded by the slots and by RECEIVE: when either is full, the daemon is asked to
    write, and nothing is received meanwhile. Below rx_soft and tx_soft memory is used again before new is touched.
 3. While there is no daemon, requests are received and kept as far as there is room; their replies wait. Nothing fails.
 4. serve() returns when everything that was handed on is answered and written, so a client that goes loses nothing.
Threading: as the loop's; attach() is for any thread.
"""
cimport cython
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from cdpcore.base.status cimport CDP_OK
from cdpcore.base.target cimport cdp_extent
from cdpcore.channel.channel cimport (CDP_CHANNEL_EXTENTS, CDP_CHANNEL_MAP, CDP_CHANNEL_RECEIVE,
                                      CDP_CHANNEL_RECEIVE_BYTES, CDP_CHANNEL_REPLY, CDP_CHANNEL_REPLY_BYTES,
                                      CDP_CHANNEL_SLOTS, cdp_channel_drain, cdp_channel_get, cdp_channel_get32,
                                      cdp_channel_packet, cdp_channel_receive, cdp_channel_reply, cdp_channel_ring,
                                      cdp_channel_ring_daemon,
                                      cdp_channel_set, cdp_channel_set32)
from cdpcore.channel.gate_sock cimport GATE_DOOR, GATE_WAKE, gate_poll, gate_release, gate_swap
from cdpcore.channel.mdpacket cimport (CDP_MD_FLUSH, CDP_MD_FUA, CDP_MD_READ, CDP_MD_SECTOR, CDP_MD_TRIM,
                                       CDP_MD_VERSION, CDP_MD_WRITE, CDP_MD_ZERO, cdp_mdpacket)
from cdpcore.nbd.connection cimport MAX_CONTEXTS
from cdpcore.nbd.loop cimport BLOCKED_KEPT, BLOCKED_MEMORY, nbd_parked
from cdpcore.nbd.memory cimport nbd_claim_on_client
from cdpcore.nbd.nbd_sock cimport nbd_flag, nbd_now_ns, nbd_raise, sched_yield
from cdpcore.nbd.nbd_wire cimport (CDP_NBD_BLOCK_STATUS, CDP_NBD_CACHE, CDP_NBD_CHUNK_DONE, CDP_NBD_EINVAL,
                                   CDP_NBD_FLAG_FUA, CDP_NBD_FLAG_NO_HOLE, CDP_NBD_FLAG_REQ_ONE, CDP_NBD_FLUSH,
                                   CDP_NBD_READ, CDP_NBD_STATUS_BYTES, CDP_NBD_TRIM, CDP_NBD_WRITE,
                                   CDP_NBD_WRITE_ZEROES, cdp_nbd_errno, cdp_nbd_put_extents, cdp_nbd_request,
                                   cdp_nbd_rules)

import os as _os

from cdpcore.base.errors import InvalidRequest as _InvalidRequest


cdef extern from "<unistd.h>":
    int close(int) nogil
    ssize_t c_read "read"(int, void *, size_t) nogil
    ssize_t c_write "write"(int, const void *, size_t) nogil

cdef enum:
    SOFT_RX_BYTES = (16 << 20)      # memory used again from here on where it can be
    SOFT_TX_BYTES = (2 << 20)
    FREE_BYTES = (1 << 20) + 4096   # of each group, that a connection need not claim
    STEP_BYTES = (1 << 20)          # memory is claimed in such steps
    WANTED_MS = 100                 # idle for so long it gives back what others wait for ...
    IDLE_MS = 1000                  # ... and what nobody does
    OUT_BYTES = 65536               # replies without data, of one send
    GATHER_NS = 50000               # a reply waits no longer for others, unless nothing else is under way
    STATUS_DESCRIPTORS = 2048       # of a BLOCK_STATUS reply, in all ...
    STATUS_ROOM = (24 * (MAX_CONTEXTS + 1) + 8 * STATUS_DESCRIPTORS)    # ... with the chunks' heads; then the extents
    SPIN_NS = 10000                 # longer, and on two processors this takes the time that the daemon needs
    RING_EVERY = 8                  # requests handed on before the daemon is woken


@cython.final
cdef class GateConnection(RequestLoop):
    """GateConnection(sock, channel, door, *, size_bytes, read_only, structured, context_id, fast_zero, contexts)

    channel     the Channel to the daemon
    door        the gateway's end of its doorbell, a file descriptor that becomes this object's; -1: no daemon yet
    size_bytes, read_only  of the disk
    contexts    the ids of metadata contexts besides base:allocation, in the order in which the daemon has them
    others      as RequestLoop's
    """

    def __cinit__(self, sock: object, Channel channel not None, int door, *, uint64_t size_bytes, bint read_only,
                  bint structured, context_id: int | None = None, bint fast_zero=True, contexts=(), memory=None):
        self.door = door
        self.next_door = self.wake_r = self.wake_w = -1
        self.channel = channel
        self.c = channel.c
        self.rules.size_bytes = size_bytes
        self.rules.read_only = read_only
        ids = ([] if context_id is None else [context_id]) + list(contexts)
        if len(contexts) > MAX_CONTEXTS:
            raise _InvalidRequest(f"{len(contexts)} metadata contexts", f"at most {MAX_CONTEXTS}")
        for number in ids:
            self.ids[self.n_ids] = number
            self.n_ids += 1
        self.rules.block_status = structured and self.n_ids > 0
        self.gather_ns = GATHER_NS
        self.rx = cdp_channel_receive(self.c)
        self.rx_bytes = CDP_CHANNEL_RECEIVE_BYTES
        self.rx_soft = SOFT_RX_BYTES
        self.tx = cdp_channel_reply(self.c)
        self.tx_bytes = CDP_CHANNEL_REPLY_BYTES
        self.tx_soft = SOFT_TX_BYTES
        self.rx_granted = self.tx_granted = self.free_bytes = FREE_BYTES
        self.step_bytes = STEP_BYTES
        self.out = <uint8_t *>malloc(OUT_BYTES)
        self.out_bytes = self.out_granted = OUT_BYTES
        self.parked = <nbd_parked *>calloc(CDP_CHANNEL_SLOTS, sizeof(nbd_parked))
        self.parked_max = CDP_CHANNEL_SLOTS
        if self.parked == NULL or self.out == NULL:
            raise MemoryError()
        self.wake_r, self.wake_w = _os.pipe()
        _os.set_blocking(self.wake_w, False)
        self.claim.bell = self.wake_w

    def __dealloc__(self):
        free(self.parked)
        free(self.out)
        for fd in (self.door, self.next_door, self.wake_r, self.wake_w):
            if fd >= 0:
                close(fd)

    def attach(self, int door):
        """Another daemon: its doorbell, which becomes this object's. Any thread."""
        cdef int old = gate_swap(&self.next_door, door)
        if old >= 0:
            close(old)
        if nbd_flag(&self.stopping) == 2:       # too late, or just in time for finish() to take it: one of us closes it
            old = gate_swap(&self.next_door, -1)
            if old >= 0:
                close(old)
        self.wake()

    # --- the loop's seam ----------------------------------------------------------------------------------------------

    cdef bint start(self, const cdp_nbd_request *r, const uint8_t *payload) noexcept nogil:
        """Hand a request on as packet `head`."""
        cdef cdp_mdpacket *p
        cdef nbd_parked *m
        cdef uint8_t op = operation(r)
        cdef uint64_t skip
        if not op:
            self.refuse(r, CDP_NBD_EINVAL, b"command that this server does not carry out")
            return True
        if not self.has_room(r):
            return False
        p = cdp_channel_packet(self.c, self.head)
        m = self.park(r, payload)
        memset(p, 0, sizeof(cdp_mdpacket))
        p.version = CDP_MD_VERSION
        p.op = op
        p.lba = r.offset // CDP_MD_SECTOR
        p.skew_bytes = r.offset % CDP_MD_SECTOR
        p.length_bytes = r.length
        p.cookie = r.cookie
        if op == CDP_MD_WRITE:
            p.bg[0].slot = CDP_CHANNEL_RECEIVE
            p.bg[0].offset_bytes = <uint32_t>(payload - self.rx)
            p.bg[0].length_bytes = r.length
        elif op == CDP_MD_READ or op == CDP_CHANNEL_MAP:
            skip = STATUS_ROOM if op == CDP_CHANNEL_MAP else self.header_bytes()
            p.bg[0].slot = CDP_CHANNEL_REPLY
            p.bg[0].offset_bytes = <uint32_t>(m.tx_at + skip)
            p.bg[0].length_bytes = <uint32_t>(m.tx_bytes - skip)
            if op == CDP_CHANNEL_MAP and r.flags & CDP_NBD_FLAG_REQ_ONE:
                # How many there are, the extent, and one that shows that it goes no further.
                p.bg[0].length_bytes = 3 * self.n_ids * sizeof(cdp_extent)
        if r.flags & CDP_NBD_FLAG_FUA and (op == CDP_MD_WRITE or op == CDP_MD_ZERO or op == CDP_MD_TRIM):
            p.flags = CDP_MD_FUA
        if p.bg[0].length_bytes:
            p.n_bgs = 1
            p.bg[0].generation = 1
        cdp_channel_set(&self.c.head, self.head)
        if self.head % RING_EVERY == 0:
            self.ring()
        return True

    cdef uint64_t reply_bytes(self, const cdp_nbd_request *r) noexcept nogil:
        if r.type == CDP_NBD_BLOCK_STATUS:
            return STATUS_ROOM + CDP_CHANNEL_EXTENTS * sizeof(cdp_extent)
        return self.header_bytes() + r.length if r.type == CDP_NBD_READ or r.type == CDP_NBD_CACHE else 0

    cdef bint reap(self) noexcept nogil:
        """Gather the replies to what the daemon has carried out."""
        cdef uint64_t done = min(cdp_channel_get(&self.c.done), self.head)
        cdef bint some = self.reaped < done
        self.release_written()
        while self.reaped < done:
            if self.is_full():
                self.send()
            self.answer(&self.parked[self.reaped % CDP_CHANNEL_SLOTS], cdp_channel_packet(self.c, self.reaped))
            self.replied(&self.parked[self.reaped % CDP_CHANNEL_SLOTS])
            self.reaped += 1
        return some

    cdef void send(self) noexcept nogil:
        self.transmit()
        cdp_channel_set(&self.c.answered, self.answered)
        self.release_written()

    cdef void wait(self, bint moved) noexcept nogil:
        cdef int64_t now
        if self.head != self.rung:
            self.ring()
            self.idle_ns = 0
            return
        if self.ending:
            if self.answered == self.head:
                self.blocked = BLOCKED_KEPT     # only what is not written yet is waited for
        elif not self.blocked:
            if self.fill(False) or self.ending:
                moved = True
        if moved:
            self.idle_ns = 0
            return
        now = nbd_now_ns()
        if not self.idle_ns:
            self.idle_ns = now
        if now - self.idle_ns < SPIN_NS:
            sched_yield()
            return
        self.idle_ns = 0
        if self.gathered:
            self.send()
        elif self.blocked == BLOCKED_MEMORY and self.tail == self.head and not self.ending:
            self.await_memory()
            self.take_door()    # the bell may have rung for that
        else:
            self.sleep()

    cdef int bell(self) noexcept nogil:
        return self.wake_r

    cdef void release_pages(self, void *p, uint64_t n) noexcept nogil:
        gate_release(p, n)

    cdef void wake(self) noexcept nogil:
        c_write(self.wake_w, "x", 1)    # a full pipe wakes all the same

    cdef void finish(self) noexcept nogil:
        nbd_raise(&self.stopping, 2)
        self.take_door()
        if self.door >= 0:
            close(self.door)    # the daemon learns it at once
            self.door = -1

    # --- the daemon ---------------------------------------------------------------------------------------------------

    cdef void ring(self) noexcept nogil:
        self.rung = self.head
        cdp_channel_ring_daemon(self.c, self.door)

    cdef void take_door(self) noexcept nogil:
        cdef int door = gate_swap(&self.next_door, -1)
        if door >= 0:
            if self.door >= 0:
                close(self.door)
            self.door = door
            cdp_channel_ring(door)

    cdef void sleep(self) noexcept nogil:
        """Until the client sends, the daemon answers or has written, another daemon comes, or stop()."""
        cdef uint32_t what
        cdef uint8_t some[64]
        cdef int sock = -1 if self.ending or self.blocked else self.fd
        cdef bint wanted = self.is_wanted()
        cdef int ms = -1
        if self.rx_granted > FREE_BYTES or self.tx_granted > FREE_BYTES:
            ms = WANTED_MS if wanted else IDLE_MS
        cdp_channel_set32(&self.c.gateway_sleeps, cdp_channel_get32(&self.c.epoch))
        if (wanted or self.blocked == BLOCKED_KEPT or self.blocked == BLOCKED_MEMORY) and self.answered > self.tail:
            cdp_channel_set32(&self.c.want_written, 1)
        self.ring()
        if cdp_channel_get(&self.c.done) == self.reaped:
            nbd_claim_on_client(&self.claim, sock >= 0 and not self.under_way)
            what = gate_poll(sock, self.door, self.wake_r, ms)
            nbd_claim_on_client(&self.claim, 0)
            if not what and ms >= 0 and not self.under_way and self.rx_begin == self.rx_end:
                self.shed(self.tail != self.head, False)
            if what & GATE_DOOR and not cdp_channel_drain(self.door):
                close(self.door)
                self.door = -1
            if what & GATE_WAKE:
                c_read(self.wake_r, some, sizeof(some))
                self.take_door()
        cdp_channel_set32(&self.c.gateway_sleeps, 0)

    cdef void release_written(self) noexcept nogil:
        """Let go of what is answered and written."""
        cdef cdp_mdpacket *p
        cdef uint64_t written, tail = self.tail
        if tail == self.answered or cdp_channel_get32(&self.c.replaying):
            return
        written = cdp_channel_get(&self.c.written_seq)
        while tail < self.answered:
            p = cdp_channel_packet(self.c, tail)
            if p.status == CDP_OK and cdp_channel_get(&p.seq) > written:
                break
            tail += 1
        if tail != self.tail:
            self.release(tail)
            cdp_channel_set(&self.c.tail, tail)

    cdef void answer(self, nbd_parked *m, const cdp_mdpacket *p) noexcept nogil:
        """The reply to what the daemon has carried out; data lies in REPLY with room for its header before it."""
        if p.status != CDP_OK:
            self.refuse(&m.r, cdp_nbd_errno(p.status, p.sys_errno),
                        b"the store could not carry it out; its log says why")
        elif m.r.type == CDP_NBD_READ:
            self.reply_data(&m.r, self.tx + m.tx_at)
        elif m.r.type == CDP_NBD_BLOCK_STATUS:
            self.answer_status(m, p)
        else:
            self.reply_done(&m.r)

    cdef void answer_status(self, nbd_parked *m, const cdp_mdpacket *p) noexcept nogil:
        """A chunk for each context, one behind the other."""
        cdef uint8_t *at = self.tx + m.tx_at
        cdef cdp_extent *part = <cdp_extent *>(at + STATUS_ROOM)
        cdef uint32_t count, i, cap = 1 if m.r.flags & CDP_NBD_FLAG_REQ_ONE else STATUS_DESCRIPTORS // self.n_ids
        cdef uint64_t room = min(<uint64_t>p.bg[0].length_bytes, m.tx_bytes - STATUS_ROOM) // sizeof(cdp_extent)
        cdef uint64_t pos, n
        room //= self.n_ids
        for i in range(self.n_ids):
            pos, count = m.r.offset, 0
            n = part.length if room else 0
            if n < room and cdp_nbd_put_extents(at + CDP_NBD_STATUS_BYTES, cap, &count, &pos,
                                                m.r.offset + m.r.length, part + 1, <uint32_t>n) < 0:
                count = 0
            n = self.reply_status(&m.r, at, self.ids[i], count, CDP_NBD_CHUNK_DONE if i + 1 == self.n_ids else 0)
            if not n:
                return      # refused
            at += n
            part += room


cdef inline uint8_t operation(const cdp_nbd_request *r) noexcept nogil:
    """The packet's operation that carries out this command; 0: there is none."""
    if r.type == CDP_NBD_READ or r.type == CDP_NBD_CACHE:
        return CDP_MD_READ
    if r.type == CDP_NBD_WRITE:
        return CDP_MD_WRITE
    if r.type == CDP_NBD_WRITE_ZEROES or r.type == CDP_NBD_TRIM:
        return CDP_MD_ZERO if r.flags & CDP_NBD_FLAG_NO_HOLE else CDP_MD_TRIM
    if r.type == CDP_NBD_FLUSH:
        return CDP_MD_FLUSH
    if r.type == CDP_NBD_BLOCK_STATUS:
        return CDP_CHANNEL_MAP
    return 0
