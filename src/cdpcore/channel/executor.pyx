"""The daemon's end of a channel: MDPackets out of shared memory, through a target, answers back; no GIL, nothing
copied.

Invariants
 1. Packets are carried out in their order, and answered in it. A FLUSH covers everything before it on its channel.
 2. What promises durability (FLUSH, FUA) is answered after a flush of the target that began when the packet had been
    carried out; those of a batch share one, and when it fails all of them report it.
 3. A change that was sent before (REPLAY) and has a seq is in the log already (lost() and redo() came first): it is
    answered and not carried out again.
 4. Nothing is touched after the channel's epoch has become another one.
Threading: run() is one thread's for the executor's life; lost() and redo() come before it, in the owner's thread;
stop() from any.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EINTR, EINVAL, errno
from libc.stdint cimport int64_t, uint16_t

from cdpcore.base.errors cimport check
from cdpcore.base.status cimport CDP_INVALID, CDP_OK, cdp_fail
from cdpcore.base.target cimport CDP_AGAIN, CDP_FUA, CDP_HOLE, cdp_extent, cdp_map
from cdpcore.channel.channel cimport (CDP_CHANNEL_EXTENTS, CDP_CHANNEL_LOST, CDP_CHANNEL_MAP, CDP_CHANNEL_RECEIVE,
                                      CDP_CHANNEL_REPLY, cdp_channel_daemon_sleeps, cdp_channel_daemon_wakes,
                                      cdp_channel_data, cdp_channel_drain, cdp_channel_get, cdp_channel_get32,
                                      cdp_channel_packet, cdp_channel_ring_gateway, cdp_channel_set,
                                      cdp_channel_set32)
from cdpcore.channel.mdpacket cimport (CDP_MD_FLUSH, CDP_MD_FUA, CDP_MD_READ, CDP_MD_REPLAY, CDP_MD_TRIM, CDP_MD_WRITE,
                                       CDP_MD_ZERO, cdp_mdpacket_offset)
from cdpcore.nbd.connection cimport MAX_CONTEXTS, nbd_map_function, target_of
from cdpcore.nbd.nbd_sock cimport SHUT_RDWR, nbd_flag, nbd_now_ns, nbd_raise_flag, nbd_wait, sched_yield, shutdown

from enum import IntEnum as _IntEnum

from cdpcore.base.errors import InvalidRequest as _InvalidRequest


cdef extern from "<unistd.h>":
    int close(int) nogil

cdef enum:
    BATCH_NS = 200000        # an answer that waits for a flush of its batch waits no longer before it begins
    RING_EVERY = 16          # answers, so that the gateway begins to send while we go on
    SPIN_NS = 10000          # longer, and on two processors we take the time that the gateway needs
    MAP_CALLS = 64

cdef enum:
    RUNNING = 0
    END_GONE = 1
    END_STOPPED = 2
    END_DISOWNED = 3


class Left(_IntEnum):
    """Why an executor ended."""

    GONE = END_GONE              # the gateway closed the channel, or died
    STOPPED = END_STOPPED        # stop() here
    DISOWNED = END_DISOWNED      # the channel belongs to another owner


@cython.final
cdef class Executor:
    """Executor(channel, door, capsule, epoch)

    channel  the Channel, owned by `epoch`
    door     file descriptor of the doorbell; becomes this object's
    capsule  a "cdpcore.target" that is read-only or returns seqs; kept alive
    """

    def __cinit__(self, Channel channel not None, int door, object capsule, uint32_t epoch):
        self.door = -1
        self.target = target_of(capsule)
        self.capsule = capsule
        self.counts = self.target.tells_seq
        if not self.counts and not self.target.read_only:
            raise _InvalidRequest("a target that does not return the seqs of its writes",
                                  "what it acknowledged could not survive its process: serve it with 'cdp serve'")
        self.channel = channel
        self.c = channel.c
        self.epoch = epoch
        self.door = door
        self.maps_base = True
        self.done = cdp_channel_get(&self.c.done)

    def __dealloc__(self):
        if self.door >= 0:
            close(self.door)

    def __reduce__(self):
        raise TypeError("an executor cannot be pickled")

    # --- a failover ---------------------------------------------------------------------------------------------------

    def lost(self, uint64_t last_seq) -> list[tuple[int, int]]:
        """(seq, packet number) of every change that an owner before had begun and the log, which ends at `last_seq`,
        has not. To be given to redo() in the order of seq, over all channels of the volume."""
        cdef uint64_t n = cdp_channel_get(&self.c.tail), end = cdp_channel_get(&self.c.head)
        cdef cdp_mdpacket *p
        found = []
        while n < end:
            p = cdp_channel_packet(self.c, n)
            if is_change(p) and p.seq > last_seq and (n >= self.done or p.status == CDP_OK):
                p.seq |= CDP_CHANNEL_LOST
                found.append((p.seq, n))
            n += 1
        return found

    def redo(self, uint64_t number):
        """Carry out packet `number`, which lost() gave, again. Not durable before the next flush. Raises what the
        target reports; the packet is then still a lost one."""
        cdef cdp_mdpacket *p = cdp_channel_packet(self.c, number)
        cdef uint64_t seq = p.seq
        cdef cdp_status st
        cdef int rc
        with nogil:
            rc = self.change(p, CDP_AGAIN, &st)
        if rc != CDP_OK:
            p.seq = seq
        check(rc, &st, None)

    # --- serving ------------------------------------------------------------------------------------------------------

    def select(self, bint base, capsules):
        """Before run(): the metadata contexts of the connection: whether base:allocation is one, and a PyCapsule
        "cdpcore.map" of each other. Without this: base:allocation alone."""
        found = tuple(capsules)
        cdef uint32_t i
        if len(found) > MAX_CONTEXTS:
            raise _InvalidRequest(f"{len(found)} metadata contexts", f"at most {MAX_CONTEXTS}")
        for i in range(len(found)):
            self.maps[i] = <const cdp_map *>PyCapsule_GetPointer(found[i], b"cdpcore.map")
        self.context_capsules, self.n_maps, self.maps_base = found, len(found), base

    def run(self):
        """Carry out what comes until the gateway goes, stop() is called or the channel has another owner; returns which
        (Left)."""
        if nbd_raise_flag(&self.started):
            raise _InvalidRequest("this executor is running or was")
        cdef int end
        with nogil:
            end = self.loop()
            shutdown(self.door, SHUT_RDWR)  # the gateway learns it at once
        return Left(end)

    def stop(self):
        """End run() after the batch under way. Any thread; idempotent."""
        nbd_raise_flag(&self.stopping)
        shutdown(self.door, SHUT_RDWR)

    cdef bint mine(self) noexcept nogil:
        return cdp_channel_get32(&self.c.epoch) == self.epoch

    cdef int loop(self) noexcept nogil:
        cdef uint64_t head
        cdef int64_t idle_ns = 0, now
        cdef cdp_status st
        while True:
            if nbd_flag(&self.stopping):
                return END_STOPPED
            if not self.mine():
                return END_DISOWNED
            if cdp_channel_get32(&self.c.want_written):
                cdp_channel_set32(&self.c.want_written, 0)
                if self.counts:     # the next change reports a device that fails
                    self.target.write_out(self.target.ctx, cdp_channel_get(&self.c.written_seq), &st)
                    self.publish()
            head = cdp_channel_get(&self.c.head)
            if head != self.done:
                idle_ns = 0
                self.batch(head)
                self.publish()
                continue
            now = nbd_now_ns()
            if not idle_ns:
                idle_ns = now
            if now - idle_ns < SPIN_NS:
                sched_yield()
                continue
            idle_ns = 0
            if not self.sleep():
                return END_STOPPED if nbd_flag(&self.stopping) else END_GONE

    cdef int sleep(self) noexcept nogil:
        """Until the gateway rings. 0: it is gone."""
        cdp_channel_daemon_sleeps(self.c, self.epoch)
        if cdp_channel_get(&self.c.head) == self.done and not cdp_channel_get32(&self.c.want_written):
            nbd_wait(self.door, -1, -1)
        cdp_channel_daemon_wakes(self.c, self.epoch)
        return cdp_channel_drain(self.door)

    cdef void publish(self) noexcept nogil:
        if self.counts:
            cdp_channel_set(&self.c.written_seq, self.target.written_seq(self.target.ctx))
        cdp_channel_set(&self.c.done, self.done)
        cdp_channel_ring_gateway(self.c, self.door, self.epoch)

    cdef void batch(self, uint64_t end) noexcept nogil:
        """Carry out packets [done, end), or as many as fit in a batch."""
        cdef cdp_mdpacket *p
        cdef uint64_t first = self.done
        cdef int64_t began = nbd_now_ns()
        cdef uint32_t flags
        cdef bint durable
        end = min(end, first + BATCH)
        while self.done < end:
            p = cdp_channel_packet(self.c, self.done)
            flags = 0
            durable = p.op == CDP_MD_FLUSH or p.flags & CDP_MD_FUA
            if p.flags & CDP_MD_FUA and self.done + 1 == end and not self.n_waiting and not p.flags & CDP_MD_REPLAY:
                flags = CDP_FUA     # alone: durable on its own way; in company one flush serves all
                durable = False
            self.execute(p, flags)
            if durable and p.status == CDP_OK:
                self.waiting[self.n_waiting] = self.done
                self.n_waiting += 1
            self.done += 1
            if not self.n_waiting:
                cdp_channel_set(&self.c.done, self.done)
                if (self.done - first) % RING_EVERY == 0:
                    cdp_channel_ring_gateway(self.c, self.door, self.epoch)
            elif nbd_now_ns() - began > BATCH_NS:
                break
        self.flush_waiting()

    cdef void flush_waiting(self) noexcept nogil:
        """One flush for everything of the batch that promises durability."""
        cdef cdp_status st
        cdef cdp_mdpacket *p
        cdef uint32_t i
        cdef int rc
        if not self.n_waiting:
            return
        rc = self.target.flush(self.target.ctx, &st)
        for i in range(self.n_waiting if rc != CDP_OK else 0):
            p = cdp_channel_packet(self.c, self.waiting[i])
            p.status = <uint8_t>rc
            p.sys_errno = <uint16_t>st.sys_errno
        self.n_waiting = 0

    cdef void execute(self, cdp_mdpacket *p, uint32_t flags) noexcept nogil:
        cdef cdp_status st
        cdef uint64_t off = cdp_mdpacket_offset(p), n = p.length_bytes, size = self.target.size_bytes
        cdef uint8_t *data
        cdef int rc = CDP_OK
        st.code = st.sys_errno = 0
        if off > size or n > size - off:
            rc = cdp_fail(&st, CDP_INVALID, EINVAL, off, b"packet reaches past the end of the LUN")
        elif p.op == CDP_MD_READ:
            data = cdp_channel_data(self.c, p, CDP_CHANNEL_REPLY)
            if data == NULL or p.bg[0].length_bytes < n:
                rc = cdp_fail(&st, CDP_INVALID, EINVAL, off, b"packet without room for its data")
            else:
                rc = self.target.pread(self.target.ctx, data, off, n, &st)
        elif is_change(p):
            if not p.flags & CDP_MD_REPLAY or p.seq == 0:
                rc = self.change(p, flags, &st)
        elif p.op == CDP_CHANNEL_MAP:
            rc = self.map(p, &st)
        elif p.op != CDP_MD_FLUSH:
            rc = cdp_fail(&st, CDP_INVALID, EINVAL, off, b"packet with an unknown operation")
        p.status = <uint8_t>rc
        p.sys_errno = <uint16_t>st.sys_errno if rc != CDP_OK else 0

    cdef int change(self, cdp_mdpacket *p, uint32_t flags, cdp_status *st) noexcept nogil:
        """Into the target, its seq into the packet before the record can reach a file."""
        cdef uint64_t off = cdp_mdpacket_offset(p)
        cdef const uint8_t *data
        if not self.counts:
            return self.target.zero(self.target.ctx, off, p.length_bytes, flags, st)    # read-only: it says so itself
        if p.op != CDP_MD_WRITE:
            return self.target.zero_seq(self.target.ctx, off, p.length_bytes,
                                        flags | (CDP_HOLE if p.op == CDP_MD_TRIM else 0), &p.seq, st)
        data = cdp_channel_data(self.c, p, CDP_CHANNEL_RECEIVE)
        if data == NULL or p.bg[0].length_bytes < p.length_bytes:
            return cdp_fail(st, CDP_INVALID, EINVAL, off, b"packet without its data")
        return self.target.pwrite_seq(self.target.ctx, data, off, p.length_bytes, flags, &p.seq, st)

    cdef int map(self, cdp_mdpacket *p, cdp_status *st) noexcept nogil:
        """A part for each context, with the extents of the range, as many as there is room for."""
        cdef cdp_extent *out = <cdp_extent *>cdp_channel_data(self.c, p, CDP_CHANNEL_REPLY)
        cdef uint32_t parts = self.n_maps + self.maps_base, room = 0, i
        cdef int rc = CDP_OK
        if out != NULL and parts:
            room = min(<uint32_t>(p.bg[0].length_bytes // sizeof(cdp_extent)), <uint32_t>CDP_CHANNEL_EXTENTS) // parts
        if room < 2:
            return cdp_fail(st, CDP_INVALID, EINVAL, cdp_mdpacket_offset(p), b"packet without room for its extents")
        if self.maps_base:
            rc = self.map_part(self.target.ctx, self.target.map, out, room, p, st)
            out += room
        for i in range(self.n_maps):
            if rc == CDP_OK:
                rc = self.map_part(self.maps[i].ctx, self.maps[i].map, out, room, p, st)
                out += room
        return rc

    cdef int map_part(self, void *ctx, nbd_map_function map, cdp_extent *out, uint32_t room, const cdp_mdpacket *p,
                      cdp_status *st) noexcept nogil:
        cdef uint64_t pos = cdp_mdpacket_offset(p), end = pos + p.length_bytes
        cdef cdp_extent *e = out + 1
        cdef uint32_t have = 0, n, calls = 0
        cdef int rc
        while pos < end and have < room - 1 and calls < MAP_CALLS:
            n = 0
            rc = map(ctx, pos, end - pos, e + have, room - 1 - have, &n, st)
            if rc != CDP_OK:
                return rc
            if n == 0:
                break
            have += n
            pos = e[have - 1].offset + e[have - 1].length
            calls += 1
        out[0].length = have
        return CDP_OK


cdef inline bint is_change(const cdp_mdpacket *p) noexcept nogil:
    return p.op == CDP_MD_WRITE or p.op == CDP_MD_ZERO or p.op == CDP_MD_TRIM
