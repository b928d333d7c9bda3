"""The daemon's end of a channel: MDPackets out of shared memory, through a target, answers back; no GIL, nothing
copied.

What has to wait for a device (a read that is not in memory, a flush) is parked and handed to a worker, as by
cdpcore.nbd.connection, so that a device that answers slowly has many requests at a time. On the spot waits only what
comes alone. The answers go back in the packets' order all the same, since `done` is one number.

Invariants
 1. Packets are begun in their order, and answered in it; changes end in it, too. A FLUSH covers everything before it on
    its channel. At most PARKED are begun and not answered.
 2. What promises durability (FLUSH, FUA) is answered after a flush of the target that began when the packet had been
    carried out; those of a batch share one, and when it fails all of them report it.
 3. A change that was sent before (REPLAY) and has a seq is in the log already (lost() and redo() came first): it is
    answered and not carried out again.
 4. No packet is begun after the channel's epoch has become another one, and none answered. run() returns when no worker
    touches the channel any more.
Threading: run() is one thread's for the executor's life; lost() and redo() come before it, in the owner's thread;
stop() from any. A worker touches the data of the packet that it was given, and its task.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EINTR, EINVAL, errno
from libc.stdint cimport int64_t, uint16_t

from cdpcore.base.errors cimport check
from cdpcore.base.status cimport CDP_INVALID, CDP_OK, CDP_WOULD_WAIT, cdp_fail
from cdpcore.base.target cimport CDP_AGAIN, CDP_FUA, CDP_HOLE, cdp_extent, cdp_map
from cdpcore.base.workers cimport cdp_job, cdp_job_any, cdp_job_push, cdp_job_take_all, work
from cdpcore.channel.channel cimport (CDP_CHANNEL_EXTENTS, CDP_CHANNEL_LOST, CDP_CHANNEL_MAP, CDP_CHANNEL_RECEIVE,
                                      CDP_CHANNEL_REPLY, cdp_channel_daemon_sleeps, cdp_channel_daemon_wakes,
                                      cdp_channel_data, cdp_channel_drain, cdp_channel_get, cdp_channel_get32,
                                      cdp_channel_packet, cdp_channel_ring_gateway, cdp_channel_set,
                                      cdp_channel_set32)
from cdpcore.channel.mdpacket cimport (CDP_MD_FLUSH, CDP_MD_FUA, CDP_MD_READ, CDP_MD_REPLAY, CDP_MD_TRIM, CDP_MD_WRITE,
                                       CDP_MD_ZERO, cdp_mdpacket_offset)
from cdpcore.nbd.connection cimport MAX_CONTEXTS, nbd_map_function, target_of
from cdpcore.nbd.nbd_sock cimport (SHUT_RDWR, nbd_awake, nbd_doze, nbd_enter, nbd_flag, nbd_leave, nbd_now_ns,
                                   nbd_pause, nbd_raise_flag, nbd_rouse, nbd_sleep, sched_yield, shutdown)

import os as _os
from enum import IntEnum as _IntEnum

from cdpcore.base.errors import InvalidRequest as _InvalidRequest


cdef extern from "<unistd.h>":
    int close(int) nogil

cdef enum:
    BATCH_NS = 200000        # an answer that waits for a flush of its batch waits no longer before it begins
    RING_EVERY = 16          # answers, so that the gateway begins to send while we go on
    SPIN_NS = 10000          # longer, and on two processors we take the time that the gateway needs
    MAP_CALLS = 64
    CROWDED = 1024           # after packets came while one waited on the spot: so many that wait are handed over

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
        self.door = self.bell_r = self.bell_w = -1
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
        self.done = self.next = self.told = cdp_channel_get(&self.c.done)
        try:
            self.bell_r, self.bell_w = _os.pipe()
            _os.set_blocking(self.bell_w, False)
            self.can_park = self.counts and self.target.pread_now != NULL
        except OSError:
            pass    # no more files may be open: then everything waits on the spot

    def __dealloc__(self):
        for fd in (self.door, self.bell_r, self.bell_w):
            if fd >= 0:
                close(fd)

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
            while nbd_flag(&self.inside):
                nbd_pause()
            if end == END_STOPPED and self.mine():
                self.reap()     # what was begun is answered
                self.publish()
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
            if self.reap():
                self.publish()
            head = cdp_channel_get(&self.c.head)
            if head != self.next and self.n_parked < PARKED:
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
                if nbd_flag(&self.stopping):
                    return END_STOPPED
                return END_GONE if self.mine() else END_DISOWNED

    cdef int sleep(self) noexcept nogil:
        """Until the gateway rings, or a worker. 0: the gateway is gone."""
        cdp_channel_daemon_sleeps(self.c, self.epoch)
        nbd_doze(&self.dozing)
        if not cdp_job_any(&self.finished) and not cdp_channel_get32(&self.c.want_written) and (
                cdp_channel_get(&self.c.head) == self.next or self.n_parked == PARKED):
            nbd_sleep(self.door, self.bell_r)
        nbd_awake(&self.dozing)
        cdp_channel_daemon_wakes(self.c, self.epoch)
        return cdp_channel_drain(self.door)

    cdef void publish(self) noexcept nogil:
        if self.counts:
            cdp_channel_set(&self.c.written_seq, self.target.written_seq(self.target.ctx))
        cdp_channel_set(&self.c.done, self.done)
        self.told = self.done
        cdp_channel_ring_gateway(self.c, self.door, self.epoch)

    cdef void tell(self) noexcept nogil:
        """The gateway need not wait for what was answered since it was told last."""
        if self.told != self.done:
            self.told = self.done
            cdp_channel_ring_gateway(self.c, self.door, self.epoch)

    cdef void batch(self, uint64_t end) noexcept nogil:
        """Begin packets [next, end), or as many as fit in a batch."""
        cdef cdp_mdpacket *p
        cdef int64_t began = nbd_now_ns()
        cdef uint32_t flags
        cdef bint durable
        end = min(end, self.next + BATCH)
        while self.next < end and self.n_parked < PARKED:
            p = cdp_channel_packet(self.c, self.next)
            flags = 0
            durable = p.op == CDP_MD_FLUSH or p.flags & CDP_MD_FUA
            if p.flags & CDP_MD_FUA and self.next + 1 == end and not self.n_parked and not p.flags & CDP_MD_REPLAY:
                flags = CDP_FUA     # alone: durable on its own way; in company one flush serves all
                durable = False
            if self.execute(p, flags, self.next + 1 == end) == CDP_WOULD_WAIT:
                self.run_task(self.park(p))
            elif durable and p.status == CDP_OK:
                self.flush_due(p)
            self.next += 1
            if not self.n_parked:
                self.done = self.next
                cdp_channel_set(&self.c.done, self.done)
                if self.done - self.told >= RING_EVERY:
                    self.tell()
            elif self.due != NULL and nbd_now_ns() - began > BATCH_NS:
                break
        if self.due != NULL:
            self.begin_flush()

    # --- parked packets -----------------------------------------------------------------------------------------------

    cdef executor_task *park(self, cdp_mdpacket *p) noexcept nogil:
        """Packet `next`, as the last of those that wait."""
        cdef executor_task *t = &self.parked[(self.first_parked + self.n_parked) % PARKED]
        self.n_parked += 1
        t.executor = <void *>self
        t.packet = p
        t.number = self.next
        t.group = NULL
        t.finished = False
        return t

    cdef void flush_due(self, cdp_mdpacket *p) noexcept nogil:
        """The packet waits for the next flush."""
        cdef executor_task *t = self.park(p)
        if self.due == NULL:
            self.due = t
        else:
            self.due_last.group = t
        self.due_last = t
        self.n_due += 1

    cdef void begin_flush(self) noexcept nogil:
        """One flush for everything of the batch that promises durability."""
        cdef executor_task *t = self.due
        cdef bint alone = self.n_parked == self.n_due
        self.due = NULL
        self.n_due = 0
        if self.may_wait(alone, self.next):
            self.tell()
            self.work(t)
            self.look_for_others(self.next)
            self.finish(t)
        else:
            self.run_task(t)

    cdef bint may_wait(self, bint alone, uint64_t end) noexcept nogil:
        """Whether what was begun last, before packet `end`, may wait for the device on the spot: nothing else is under
        way, nothing came after it, and nothing came while others before it waited here."""
        if not self.can_park:
            return True
        if not alone or cdp_channel_get(&self.c.head) != end:
            return False
        if not self.crowded:
            return True
        self.crowded -= 1
        return False

    cdef void look_for_others(self, uint64_t end) noexcept nogil:
        """Something has waited on the spot."""
        if cdp_channel_get(&self.c.head) != end:
            self.crowded = CROWDED

    cdef void run_task(self, executor_task *t) noexcept nogil:
        t.job.run = carry_out
        nbd_enter(&self.inside)
        work(&t.job)

    cdef void work(self, executor_task *t) noexcept nogil:
        """Any thread: what the task is for."""
        cdef cdp_mdpacket *p = t.packet
        cdef cdp_status st
        st.sys_errno = 0
        if p.op == CDP_MD_READ:
            t.rc = self.target.pread(self.target.ctx, cdp_channel_data(self.c, p, CDP_CHANNEL_REPLY),
                                     cdp_mdpacket_offset(p), p.length_bytes, &st)
        else:
            t.rc = self.target.flush(self.target.ctx, &st)
        t.sys_errno = st.sys_errno

    cdef void finish(self, executor_task *t) noexcept nogil:
        """What a task came to, into the packets that it was for; and as many answers as are complete."""
        cdef executor_task *first = t
        cdef int rc = t.rc, sys_errno = t.sys_errno
        while t != NULL:
            t.packet.status = <uint8_t>rc
            t.packet.sys_errno = <uint16_t>sys_errno if rc != CDP_OK else 0
            t.finished = True
            t = t.group
        while self.n_parked and self.parked[self.first_parked].finished:
            self.first_parked = (self.first_parked + 1) % PARKED
            self.n_parked -= 1
        self.done = self.parked[self.first_parked].number if self.n_parked else self.next

    cdef bint reap(self) noexcept nogil:
        """What workers have finished. True: there was something."""
        cdef cdp_job *job = cdp_job_take_all(&self.finished)
        cdef cdp_job *after
        cdef bint some = job != NULL
        while job != NULL:
            after = job.next
            self.finish(<executor_task *>job)
            job = after
        return some

    # --- one packet ---------------------------------------------------------------------------------------------------

    cdef int execute(self, cdp_mdpacket *p, uint32_t flags, bint last) noexcept nogil:
        """Carry out a packet, `last` of those that came; CDP_WOULD_WAIT: a worker is to read it. What a flush is for is
        the caller's."""
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
                rc = self.read(data, off, n, last, &st)
                if rc == CDP_WOULD_WAIT:
                    return rc
        elif is_change(p):
            if not p.flags & CDP_MD_REPLAY or p.seq == 0:
                rc = self.change(p, flags, &st)
        elif p.op == CDP_CHANNEL_MAP:
            rc = self.map(p, &st)
        elif p.op != CDP_MD_FLUSH:
            rc = cdp_fail(&st, CDP_INVALID, EINVAL, off, b"packet with an unknown operation")
        p.status = <uint8_t>rc
        p.sys_errno = <uint16_t>st.sys_errno if rc != CDP_OK else 0
        return CDP_OK

    cdef int read(self, uint8_t *data, uint64_t off, uint64_t n, bint last, cdp_status *st) noexcept nogil:
        cdef int rc
        if not self.can_park:
            return self.target.pread(self.target.ctx, data, off, n, st)
        rc = self.target.pread_now(self.target.ctx, data, off, n, st)
        if rc == CDP_WOULD_WAIT and last and self.may_wait(not self.n_parked, self.next + 1):
            self.tell()
            rc = self.target.pread(self.target.ctx, data, off, n, st)
            self.look_for_others(self.next + 1)
        return rc

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


cdef void carry_out(cdp_job *job) noexcept nogil:
    cdef executor_task *t = <executor_task *>job
    (<Executor>t.executor).work(t)
    cdp_job_push(&(<Executor>t.executor).finished, job)
    nbd_rouse(&(<Executor>t.executor).dozing, (<Executor>t.executor).bell_w)
    nbd_leave(&(<Executor>t.executor).inside)


cdef inline bint is_change(const cdp_mdpacket *p) noexcept nogil:
    return p.op == CDP_MD_WRITE or p.op == CDP_MD_ZERO or p.op == CDP_MD_TRIM
