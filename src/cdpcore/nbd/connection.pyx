# cython: autotestdict=False
"""An NBD connection to a disk in this process, by calls of a cdp_target (base/target.h). No GIL. The loop is
cdpcore.nbd.loop's.

What memory can answer, and what only has to be put into memory, is carried out on the spot, in the connection's thread.
What has to wait for a device (a read that is not in memory, a flush) is parked and handed to a worker
(base/worker_threads.h), so that what comes after it is not held up, and a device that answers slowly has many requests
at a time. Being handed over costs some 10 us, which a client that sends one request at a time would pay for nothing: as
long as nothing came while a request waited on the spot, the next ones wait there too.

Invariants, beside the loop's
 1. A reply that promises durability (FLUSH, FUA) is gathered only after a flush of the target that began when the
    request had been carried out, or, of a write that is alone, after the target has done it with CDP_FUA. Those that
    came together share one flush; when it fails, all of them report it.
 2. Bounds: rx and `out` are RANGE_BYTES of address space, tx is TX_BYTES; what they touch past KEEP_BYTES is claimed,
    and goes back to the system in the next round that needs less, after IDLE_MS, or when others wait for it. The
    largest reply takes less than RANGE_BYTES less what may have gathered before it. PARKED_MAX requests wait, with
    TX_BYTES of replies.
 3. A worker touches of this object what is constant, the task, the room of its reply, and `done`, `dozing`, `inside`;
    `inside` last. finish() waits for that.
 4. Nothing that is parked keeps bytes of rx.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

from cdpcore.base.status cimport CDP_OK, CDP_WOULD_WAIT, cdp_status
from cdpcore.base.target cimport CDP_FUA, CDP_HOLE, CDP_TARGET_CAPSULE, cdp_extent, cdp_map, cdp_target
from cdpcore.base.workers cimport cdp_job, cdp_job_any, cdp_job_push, cdp_job_take_all, work
from cdpcore.nbd.loop cimport BLOCKED_MEMORY, STATUS_MAX, nbd_parked
from cdpcore.nbd.nbd_sock cimport (NBD_RELEASES_PAGES, nbd_add, nbd_awake, nbd_doze, nbd_enter, nbd_flag, nbd_get,
                                   nbd_leave, nbd_more, nbd_pause, nbd_ring, nbd_rouse, nbd_sleep,
                                   nbd_wait)
from cdpcore.nbd.nbd_wire cimport (CDP_NBD_BLOCK_STATUS, CDP_NBD_CACHE, CDP_NBD_CHUNK_DONE, CDP_NBD_EINVAL,
                                   CDP_NBD_FLAG_DF, CDP_NBD_FLAG_FUA, CDP_NBD_FLAG_NO_HOLE, CDP_NBD_FLAG_REQ_ONE,
                                   CDP_NBD_FLUSH, CDP_NBD_HOLE_BYTES, CDP_NBD_MAX_DRAIN, CDP_NBD_MAX_PAYLOAD,
                                   CDP_NBD_MIN_BLOCK, CDP_NBD_PREFERRED_BLOCK, CDP_NBD_READ, CDP_NBD_REQUEST_BYTES,
                                   CDP_NBD_STATUS_BYTES, CDP_NBD_TRIM, CDP_NBD_WRITE, CDP_NBD_WRITE_ZEROES,
                                   cdp_nbd_errno, cdp_nbd_parse, cdp_nbd_payload_bytes, cdp_nbd_put_extents,
                                   cdp_nbd_request, cdp_nbd_rules)
from cdpcore.nbd.sparse cimport MAP_BATCH, WAITS, pread, put_sparse

import os as _os

from cdpcore.base.errors import InvalidRequest as _InvalidRequest
from cdpcore.nbd.loop import End  # noqa: F401

cdef enum:
    RANGE_BYTES = (33 << 20)        # a request of the maximum payload and what came with it
    TX_BYTES = (64 << 20)           # of replies to requests that wait
    KEEP_BYTES = (1 << 20) + 4096   # of each range stays resident: a MiB and what comes with it
    STEP_BYTES = 65536              # memory is claimed in such steps
    GATHER_NS = 200000              # a reply waits no longer for others
    SPARSE_MIN_BYTES = 65536        # reads from here on ask map() for holes before reading
    STATUS_CALLS = 64               # map() calls a BLOCK_STATUS request
    CACHE_BYTES = (256 << 10)       # CACHE reads so much at a time
    IDLE_MS = 100
    CROWDED = 1024                  # after a request came while another waited: so many that wait are handed over

cdef const char *UNKNOWN = b"command that this server does not carry out"

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
    """Connection(sock, capsule, *, read_only, structured, context_id, fast_zero, own_fua, contexts)

    capsule     the target; kept alive
    read_only   refuse writes, whatever the target would do
    contexts    (id, PyCapsule "cdpcore.map") of each metadata context that was selected, besides base:allocation; at
                most MAX_CONTEXTS
    own_fua     never let a flush stand for FUA: the target gets a flush only where the client sent one
    others      as RequestLoop's

    Raises InvalidRequest for a capsule that is no target, MemoryError for lack of address space.
    """

    def __cinit__(self, sock: object, capsule: object, *, bint read_only, bint structured,
                  context_id: int | None = None, bint fast_zero=True, bint own_fua=False, contexts=(), memory=None):
        self.bell_r = self.bell_w = -1
        self.target = target_of(capsule)
        self.capsule = capsule
        if self.target.tells_seq:
            self.stages = self.target.stages
        self.own_fua = own_fua
        self.select(contexts, structured, context_id is not None)
        self.rules.size_bytes = self.target.size_bytes
        self.rules.read_only = read_only or self.target.read_only
        self.gather_ns = GATHER_NS
        self.rx = <uint8_t *>_range(RANGE_BYTES)
        self.out = <uint8_t *>_range(RANGE_BYTES)
        self.tx = <uint8_t *>_range(TX_BYTES)
        self.rx_bytes = self.out_bytes = RANGE_BYTES
        self.tx_bytes = TX_BYTES
        self.rx_soft = self.tx_soft = self.free_bytes = KEEP_BYTES
        self.rx_granted = self.out_granted = self.tx_granted = KEEP_BYTES
        self.step_bytes = STEP_BYTES
        self.parked = <nbd_parked *>calloc(PARKED_MAX, sizeof(nbd_parked))
        self.tasks = <nbd_task *>calloc(PARKED_MAX, sizeof(nbd_task))
        if self.parked == NULL or self.tasks == NULL:
            raise MemoryError()
        self.parked_max = PARKED_MAX
        try:
            self.bell_r, self.bell_w = _os.pipe()
            _os.set_blocking(self.bell_w, False)
            self.claim.bell = self.bell_w
            self.can_park = self.target.tells_seq and self.target.pread_now != NULL
        except OSError:
            pass    # no more files may be open: then everything waits on the spot, and pause() for the client

    cdef int select(self, object contexts, bint structured, bint base) except -1:
        """Metadata contexts; once."""
        if len(contexts) > MAX_CONTEXTS:
            raise _InvalidRequest(f"{len(contexts)} metadata contexts", f"at most {MAX_CONTEXTS}")
        self.base_selected = base
        self.context_capsules = tuple(capsule for _, capsule in contexts)
        for number, capsule in contexts:
            self.contexts[self.n_contexts].id = number
            self.contexts[self.n_contexts].map = <const cdp_map *>PyCapsule_GetPointer(capsule, b"cdpcore.map")
            self.n_contexts += 1
        self.rules.block_status = structured and (base or self.n_contexts > 0)
        return 0

    def __dealloc__(self):
        if self.rx != NULL:
            munmap(self.rx, RANGE_BYTES)
        if self.out != NULL:
            munmap(self.out, RANGE_BYTES)
        if self.tx != NULL:
            munmap(self.tx, TX_BYTES)
        free(self.parked)
        free(self.tasks)
        for fd in (self.bell_r, self.bell_w):
            if fd >= 0:
                close(fd)

    def counters(self):
        """As RequestLoop's, and handed_over: how many reads and flushes workers carried out."""
        return {**RequestLoop.counters(self), "handed_over": nbd_get(&self.handed_over)}

    # --- the loop's seam ----------------------------------------------------------------------------------------------

    cdef bint start(self, const cdp_nbd_request *r, const uint8_t *payload) noexcept nogil:
        if r.type == CDP_NBD_READ:
            return self.read(r)
        if r.type == CDP_NBD_WRITE or r.type == CDP_NBD_WRITE_ZEROES or r.type == CDP_NBD_TRIM:
            return self.change(r, payload)
        if r.type == CDP_NBD_FLUSH:
            return self.flush_due(r)
        if r.type == CDP_NBD_CACHE:
            return self.cache(r)
        if r.type == CDP_NBD_BLOCK_STATUS:
            self.block_status(r)
        else:
            self.refuse(r, CDP_NBD_EINVAL, UNKNOWN)
        return True

    cdef uint64_t reply_bytes(self, const cdp_nbd_request *r) noexcept nogil:
        if r.type == CDP_NBD_CACHE:
            return min(<uint64_t>r.length, <uint64_t>CACHE_BYTES)
        if r.type != CDP_NBD_READ:
            return 0
        if r.length < SPARSE_MIN_BYTES:
            return self.header_bytes() + r.length
        return r.length + (MAP_BATCH + 2) * <uint64_t>CDP_NBD_HOLE_BYTES    # with a header before each piece

    cdef bint reap(self) noexcept nogil:
        cdef cdp_job *job = cdp_job_take_all(&self.done)
        cdef cdp_job *next
        cdef bint some = job != NULL
        while job != NULL:
            next = job.next
            self.answer(<nbd_task *>job)
            job = next
        return some

    cdef void send(self) noexcept nogil:
        self.round_bytes = max(self.round_bytes, self.out_end)
        self.transmit()

    cdef void wait(self, bint moved) noexcept nogil:
        if self.due != NULL:
            self.begin_flush()
        if self.gathered:
            self.send()
        if not self.under_way:
            if self.blocked == BLOCKED_MEMORY and not self.ending:
                self.await_memory()
                return
            if self.ending or self.blocked:     # what blocked it was answered just now
                return
            if self.rx_begin == self.rx_end:
                self.give_back()
            if self.fill(True):
                self.foresee()
            elif self.blocked == BLOCKED_MEMORY:
                self.await_memory()
            return
        if not self.ending and not self.blocked and self.fill(False):
            self.foresee()
            return
        if moved:
            return
        nbd_doze(&self.dozing)
        if not cdp_job_any(&self.done):
            nbd_sleep(-1 if self.ending or self.blocked else self.fd, self.bell_r)
        nbd_awake(&self.dozing)

    cdef void wake(self) noexcept nogil:
        if self.bell_w >= 0:
            nbd_ring(self.bell_w)

    cdef int bell(self) noexcept nogil:
        return self.bell_r

    cdef void finish(self) noexcept nogil:
        """Workers write into this object's memory: what they were given must end first."""
        while nbd_flag(&self.inside):
            nbd_pause()

    # --- what belongs to a round --------------------------------------------------------------------------------------

    cdef void foresee(self) noexcept nogil:
        """More was received: announce to the target the ranges that the requests in rx change, the last one perhaps
        without its payload yet, before the first of them is carried out. What must be read for them is then read for
        all at once."""
        cdef cdp_nbd_request r
        cdef uint64_t at = self.rx_begin + self.drain_bytes
        self.round_bytes = max(self.round_bytes, self.rx_end)
        if not self.target.tells_seq or self.target.expect == NULL:
            return
        while at < self.rx_end and cdp_nbd_parse(self.rx + at, self.rx_end - at, &r) > 0:
            if r.type == CDP_NBD_WRITE or r.type == CDP_NBD_WRITE_ZEROES or r.type == CDP_NBD_TRIM:
                self.target.expect(self.target.ctx, r.offset, r.length)
            at += CDP_NBD_REQUEST_BYTES + cdp_nbd_payload_bytes(&r)

    cdef void give_back(self) noexcept nogil:
        """Between requests: pages that only a large request needed return to the system."""
        if self.round_bytes > KEEP_BYTES and not self.is_wanted():
            self.round_bytes = 0
            if nbd_wait(self.fd, self.bell_r, IDLE_MS):
                return  # more comes: let a stream of large requests keep its pages
        self.round_bytes = 0
        self.shed(False, False)

    # --- requests -----------------------------------------------------------------------------------------------------

    cdef bint change(self, const cdp_nbd_request *r, const uint8_t *payload) noexcept nogil:
        """WRITE, WRITE_ZEROES, TRIM."""
        cdef cdp_status st
        cdef uint32_t flags = 0
        cdef bint promised = r.flags & CDP_NBD_FLAG_FUA, alone = False
        cdef int rc
        st.sys_errno = 0
        st.where = NULL
        if promised and (self.own_fua or self.due == NULL and self.is_alone()):
            flags = CDP_FUA     # the target makes it durable in its own way; in company one flush serves all
            alone = not self.own_fua
            promised = False
        elif promised and not self.has_room(r):
            return False
        if r.type == CDP_NBD_WRITE:
            rc = self.target.pwrite(self.target.ctx, payload, r.offset, r.length, flags, &st)
        else:
            if not r.flags & CDP_NBD_FLAG_NO_HOLE:
                flags |= CDP_HOLE
            rc = self.target.zero(self.target.ctx, r.offset, r.length, flags, &st)
        if alone:
            self.look_for_others()
        if rc != CDP_OK:
            self.refuse(r, cdp_nbd_errno(rc, st.sys_errno), st.where)
        elif promised:
            return self.flush_due(r)
        else:
            self.reply_done(r)
        return True

    cdef bint flush_due(self, const cdp_nbd_request *r) noexcept nogil:
        """The reply to this request is for the next flush to give."""
        cdef nbd_task *t
        if not self.has_room(r):
            return False
        t = self.task(r)
        if self.due == NULL:
            self.due = t
        else:
            self.due_last.group = t
        self.due_last = t
        return True

    cdef bint read(self, const cdp_nbd_request *r) noexcept nogil:
        cdef const char *why = NULL
        cdef uint8_t *p = self.out + self.out_end
        cdef uint64_t n = self.reply_bytes(r)
        cdef uint32_t error
        if self.out_end + n > self.out_granted and not self.grow(&self.out_granted, self.out_end + n, self.out_bytes):
            self.blocked = BLOCKED_MEMORY
            return False
        n = 0
        error = self.put_read(r, p, not self.can_park, &n, &why)
        if error == WAITS:
            if not self.is_alone():
                if self.hand_over(r):
                    return True
                if self.blocked != BLOCKED_MEMORY:
                    return False
                self.blocked = 0    # it has what it takes to wait on the spot
            error = self.put_read(r, p, True, &n, &why)
            self.look_for_others()
        if error:
            self.refuse(r, error, why)
            return True
        nbd_add(&self.counts.read_bytes, r.length)
        self.gather(p, n)
        self.out_end += n
        return True

    cdef bint cache(self, const cdp_nbd_request *r) noexcept nogil:
        """Read and throw away: what the target keeps beneath it is warm then."""
        cdef const char *why = NULL
        cdef uint8_t *p = self.out + self.out_end
        cdef uint32_t error = self.warm(r, p, not self.can_park, &why)
        if error == WAITS:
            if not self.is_alone():
                return self.hand_over(r)
            error = self.warm(r, p, True, &why)
            self.look_for_others()
        if error:
            self.refuse(r, error, why)
        else:
            self.reply_done(r)
        return True

    cdef void block_status(self, const cdp_nbd_request *r) noexcept nogil:
        """A chunk for each context that was selected, base:allocation first."""
        cdef uint32_t i
        cdef uint32_t n = self.n_contexts + self.base_selected
        cdef uint32_t cap = 1 if r.flags & CDP_NBD_FLAG_REQ_ONE else STATUS_MAX // n
        if self.base_selected and not self.status_of(r, self.target.ctx, self.target.map, self.context_id, cap, n == 1):
            return
        for i in range(self.n_contexts):
            if not self.status_of(r, self.contexts[i].map.ctx, self.contexts[i].map.map, self.contexts[i].id, cap,
                                  i + 1 == self.n_contexts):
                return

    cdef bint status_of(self, const cdp_nbd_request *r, void *ctx, nbd_map_function map, uint32_t context_id,
                        uint32_t cap, bint last) noexcept nogil:
        """False: refused."""
        cdef cdp_status st
        cdef cdp_extent e[MAP_BATCH]
        cdef uint8_t *p = self.out + self.out_end
        cdef uint64_t pos = r.offset, end = r.offset + r.length
        cdef uint32_t count = 0, calls = 0, n, most
        cdef int rc = 0
        st.code = st.sys_errno = 0
        st.where = NULL
        while pos < end and calls < STATUS_CALLS and rc == 0:
            calls += 1
            n = 0
            most = min(cap - count + 1, <uint32_t>MAP_BATCH)     # one more shows whether the last goes on
            rc = map(ctx, pos, end - pos, e, most, &n, &st)
            if rc != CDP_OK:
                self.refuse(r, cdp_nbd_errno(rc, st.sys_errno), st.where)
                return False
            rc = -1
            if 0 < n <= most:
                rc = cdp_nbd_put_extents(p + CDP_NBD_STATUS_BYTES, cap, &count, &pos, end, e, n)
            if rc < 0:
                count = 0
        self.out_end += self.reply_status(r, p, context_id, count, CDP_NBD_CHUNK_DONE if last else 0)
        return count > 0

    # --- what takes long ----------------------------------------------------------------------------------------------

    cdef uint32_t put_read(self, const cdp_nbd_request *r, uint8_t *p, bint wait, uint64_t *n,
                           const char **why) noexcept nogil:
        """Build the reply at `p`."""
        cdef cdp_status st
        cdef uint32_t error
        cdef int rc
        if r.length >= SPARSE_MIN_BYTES and self.rules.structured and not r.flags & CDP_NBD_FLAG_DF:
            error = put_sparse(self.target, r, p, wait, n, why)
            if error or n[0]:
                return error
        rc = pread(self.target, p + self.header_bytes(), r.offset, r.length, wait, &st)
        if rc == CDP_OK:
            n[0] = self.put_data(r, p)
            return 0
        if rc == CDP_WOULD_WAIT:
            return WAITS
        why[0] = st.where
        return cdp_nbd_errno(rc, st.sys_errno)

    cdef uint32_t warm(self, const cdp_nbd_request *r, uint8_t *p, bint wait, const char **why) noexcept nogil:
        """`p`: CACHE_BYTES, or what the request is long."""
        cdef cdp_status st
        cdef uint64_t pos = r.offset, end = r.offset + r.length, n
        cdef int rc
        while pos < end:
            n = min(end - pos, <uint64_t>CACHE_BYTES)
            rc = pread(self.target, p, pos, n, wait, &st)
            if rc == CDP_WOULD_WAIT:
                return WAITS
            if rc != CDP_OK:
                why[0] = st.where
                return cdp_nbd_errno(rc, st.sys_errno)
            pos += n
        return 0

    cdef uint32_t flush(self, const char **why) noexcept nogil:
        cdef cdp_status st
        cdef int rc
        st.sys_errno = 0
        st.where = NULL
        rc = self.target.flush(self.target.ctx, &st)
        why[0] = st.where
        return 0 if rc == CDP_OK else cdp_nbd_errno(rc, st.sys_errno)

    cdef void work(self, nbd_task *t) noexcept nogil:
        """Any thread: carry out what the task is for."""
        cdef const cdp_nbd_request *r = &t.parked.r
        cdef uint8_t *p = self.tx + t.parked.tx_at
        t.why = NULL
        if r.type == CDP_NBD_READ:
            t.error = self.put_read(r, p, True, &t.n, &t.why)
        elif r.type == CDP_NBD_CACHE:
            t.error = self.warm(r, p, True, &t.why)
        elif r.type == CDP_NBD_FLUSH or r.flags & CDP_NBD_FLAG_FUA:
            t.error = self.flush(&t.why)
        else:
            t.error = CDP_NBD_EINVAL
            t.why = UNKNOWN

    # --- parked requests ----------------------------------------------------------------------------------------------

    cdef bint is_alone(self) noexcept nogil:
        """Whether the request that is being started, and has to wait, may do that on the spot: the client waits for
        nothing else, and did not send anything while requests before it waited."""
        if not self.can_park:
            return self.rx_end - self.rx_begin < CDP_NBD_REQUEST_BYTES
        if self.under_way or self.rx_begin != self.rx_end:
            return False
        if not self.crowded:
            return True
        self.crowded -= 1
        return False

    cdef void look_for_others(self) noexcept nogil:
        """A request has waited on the spot."""
        if self.can_park and nbd_more(self.fd):
            self.crowded = CROWDED

    cdef nbd_task *task(self, const cdp_nbd_request *r) noexcept nogil:
        """Park the request, for which has_room() took room."""
        cdef nbd_task *t = &self.tasks[self.head % PARKED_MAX]
        t.parked = self.park(r, self.rx + self.rx_begin)
        t.group = NULL
        self.release(self.head)
        if t.parked.tx_bytes:
            self.round_bytes = max(self.round_bytes, t.parked.tx_at + t.parked.tx_bytes)
        return t

    cdef bint hand_over(self, const cdp_nbd_request *r) noexcept nogil:
        if not self.has_room(r):
            return False
        self.run_task(self.task(r))
        return True

    cdef void run_task(self, nbd_task *t) noexcept nogil:
        t.job.run = carry_out
        t.connection = <void *>self
        nbd_add(&self.handed_over, 1)
        nbd_enter(&self.inside)
        work(&t.job)

    cdef void begin_flush(self) noexcept nogil:
        """One flush for all requests that are due."""
        cdef nbd_task *t = self.due, *g = self.due
        cdef uint64_t waiting = 0
        self.due = NULL
        while g != NULL:
            waiting += 1
            g = g.group
        if self.can_park and (self.under_way > waiting or self.rx_begin != self.rx_end or self.crowded):
            self.crowded -= self.crowded > 0
            self.run_task(t)
            return
        if self.gathered:
            self.send()     # they do not wait for it
        self.work(t)
        self.look_for_others()
        self.answer(t)

    cdef void answer(self, nbd_task *t) noexcept nogil:
        """Gather the replies to all that the task was for."""
        cdef uint8_t *p
        cdef uint32_t error = t.error
        cdef const char *why = t.why
        while t != NULL:
            if self.is_full():
                self.send()
            p = self.tx + t.parked.tx_at
            if error:
                self.refuse(&t.parked.r, error, why)
            elif t.parked.r.type == CDP_NBD_READ:
                nbd_add(&self.counts.read_bytes, t.parked.r.length)
                self.gather(p, t.n)
            else:
                self.reply_done(&t.parked.r)
            self.replied(t.parked)
            t = t.group


cdef void carry_out(cdp_job *job) noexcept nogil:
    cdef nbd_task *t = <nbd_task *>job
    (<Connection>t.connection).work(t)
    cdp_job_push(&(<Connection>t.connection).done, job)
    nbd_rouse(&(<Connection>t.connection).dozing, (<Connection>t.connection).bell_w)
    nbd_leave(&(<Connection>t.connection).inside)


cdef void *_range(uint64_t n) except NULL:
    cdef void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p == MAP_FAILED:
        raise MemoryError(f"{n} bytes of address space for a connection")
    return p
