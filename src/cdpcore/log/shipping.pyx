"""The log as it is sent to a standby: which bytes of its files are durable, and frames from the slots that have them.

What is sent ends with a frame in which a record ends, and is durable here first: recovery never cuts that, so a standby
has a prefix of what this log will always have.

Threading: any thread. wait_durable() sleeps without a lock; the others hold the io lock for a look, and copy frames
that are pinned, without it.
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from cdpcore.base.clock cimport cdp_monotonic_ms
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_BLOCK, cdp_loc, cdp_record_desc, cdp_segment_header
from cdpcore.base.status cimport cdp_fail_os, cdp_status
from cdpcore.base.thread cimport cdp_cond_wait_ms, pthread_mutex_lock, pthread_mutex_unlock
from cdpcore.log.frame cimport (cdp_frame_reader, cdp_frame_reader_desc, cdp_frame_reader_free, cdp_frame_reader_init,
                                cdp_frame_reader_next)
from cdpcore.log.log cimport Log
from cdpcore.log.ring cimport FRAMES, ring_frame
from cdpcore.log.segment cimport cdp_segment_header_get
from cdpcore.system.os cimport Os
from cdpcore.system.os_table cimport CDP_OPEN_RDONLY, cdp_os
from cdpcore.base.errors import Corruption


cdef enum:
    MOST = 256      # frames that are copied at once


def wait_durable(Log log not None, uint64_t seq, uint32_t ms):
    """The last record up to which all can be sent, once that is more than `seq`, or `ms` have passed, or the log is
    stopped."""
    cdef uint64_t until, now, whole
    with nogil:
        now = cdp_monotonic_ms()
        until = now + ms
        pthread_mutex_lock(&log.ring.mutex)
        log.writer.shipping = True
        while log.writer.durable_whole <= seq and not log.ring.stopping and now < until:
            cdp_cond_wait_ms(&log.writer.shipped, &log.ring.mutex, <uint32_t>(until - now))
            now = cdp_monotonic_ms()
        whole = log.writer.durable_whole
        pthread_mutex_unlock(&log.ring.mutex)
    return whole


def unsealed(Log log not None):
    """[(number, first_seq, last_seq, end)], ascending: of the segment that is being sealed and of the open one, as far
    as they have records that can be sent: these records, and the byte up to which. All of one moment."""
    cdef list found = []
    cdef uint32_t sealing, current, number
    cdef uint64_t tail, end, whole, last, first_sealing, first_current
    with nogil:
        pthread_mutex_lock(&log.ring.mutex)
        sealing, current = log.files.sealing.number, log.files.current.number
        tail, last = log.files.sealing.tail_bytes, log.files.sealing.last_seq
        first_sealing, first_current = log.files.sealing.first_seq, log.files.current.first_seq
        number, end, whole = log.writer.durable_segment, log.writer.durable_end, log.writer.durable_whole
        pthread_mutex_unlock(&log.ring.mutex)
    if sealing and sealing < number:
        found.append((sealing, first_sealing, last, tail))
    elif sealing and sealing == number:
        found.append((sealing, first_sealing, whole, end))
    if current and current == number:
        found.append((current, first_current, whole, end))
    return found


def tails(Log log not None):
    """[(number, bytes)]: how much is in use of the segments that are not sealed, all of one moment."""
    cdef uint32_t sealing, current
    cdef uint64_t n_sealing, n_current
    with nogil:
        pthread_mutex_lock(&log.ring.mutex)
        sealing, current = log.files.sealing.number, log.files.current.number
        n_sealing, n_current = log.files.sealing.tail_bytes, log.files.current.tail_bytes
        pthread_mutex_unlock(&log.ring.mutex)
    return [(number, n) for number, n in ((sealing, n_sealing), (current, n_current)) if number]


def frames(Log log not None, uint32_t number, uint64_t offset, uint64_t end, uint64_t most):
    """Frames of segment `number` from the one at `offset` on, up to byte `end` and not more than `most` bytes (but one
    at least), where they are still in memory; b"": the file has them."""
    cdef uint64_t at[MOST]
    cdef uint32_t n_bytes[MOST]
    cdef uint32_t n = 0, i, token
    cdef uint64_t k, first, want = offset, total = 0
    cdef ring_frame *r
    cdef uint8_t *resident
    cdef uint8_t *out
    cdef bytearray room
    with nogil:
        pthread_mutex_lock(&log.ring.mutex)
        first = log.ring.opened - FRAMES if log.ring.opened > FRAMES else 0
        for k in range(first, log.ring.written):
            r = log.ring.at(k)
            if r.f.segment != number or r.f.file_off != want:
                continue
            if not log.ring.has(k) or r.f.file_off + r.f.total_bytes > end or n == MOST or \
                    n and total + r.f.total_bytes > most:
                break
            at[n], n_bytes[n] = r.f.file_off, r.f.total_bytes
            n += 1
            total += r.f.total_bytes
            want += r.f.total_bytes
        pthread_mutex_unlock(&log.ring.mutex)
    if not n:
        return b""
    room = bytearray(total)
    out = room
    total = 0
    with nogil:
        for i in range(n):
            resident = log.ring.pin(cdp_loc(number, at[i]), &token)
            if resident == NULL:
                break
            memcpy(out + total, resident, n_bytes[i])
            log.ring.unpin(token)
            total += n_bytes[i]
    del room[total:]
    return room


@cython.no_gc_clear   # what it gives back in __dealloc__ goes through `os`
cdef class FrameCheck:
    """The frames of a segment file that grows, each verified once, its data too.

    Args: path, uuid, number: of the file and its volume. Raises Corruption where its header is not valid. Attributes:
    end: behind the last valid frame so far; n_frames; last_seq, last_ts_ns: of the last record in them (0: none);
    first_seq; frame_offset: of the last frame. One thread per object.
    """
    cdef Os os
    cdef const cdp_os *table
    cdef readonly str path
    cdef int fd
    cdef cdp_frame_reader r
    cdef readonly uint64_t first_seq, last_seq, last_ts_ns, frame_offset

    def __cinit__(self, Os os not None, path: str, uuid: bytes, uint32_t number):
        cdef cdp_status st
        cdef cdp_segment_header header
        cdef uint8_t block[4096]
        cdef int64_t rc
        cdef bytes p = path.encode()
        self.fd = -1
        self.os, self.table, self.path = os, os.table, path
        self.fd = self.table.open(self.table.ctx, p, CDP_OPEN_RDONLY)
        if self.fd < 0:
            check(cdp_fail_os(&st, self.fd, 0, b"opening a log segment"), &st, path)
        rc = self.table.pread(self.table.ctx, self.fd, block, CDP_BLOCK, 0)
        if rc < 0:
            check(cdp_fail_os(&st, rc, 0, b"reading a segment header"), &st, path)
        if rc != CDP_BLOCK or not cdp_segment_header_get(block, &header) or header.segment != number or \
                (<const char *>header.volume_uuid)[:16] != uuid:
            raise Corruption(f"{path}: no valid header of segment {number} of this volume", "send it again")
        if cdp_frame_reader_init(&self.r, self.table, self.fd, number, header.salt, CDP_BLOCK, 0) != 0:
            raise MemoryError()

    def __dealloc__(self):
        self.close()

    def close(self):
        """Idempotent."""
        cdp_frame_reader_free(&self.r)
        if self.fd >= 0:
            self.table.close(self.table.ctx, self.fd)
            self.fd = -1

    @property
    def end(self) -> int:
        return self.r.off

    @property
    def n_frames(self) -> int:
        return self.r.frame

    def go_on(self, uint64_t file_bytes):
        """Verify what follows, up to byte `file_bytes` of the file. Stops at what is no valid frame."""
        cdef cdp_status st
        cdef const cdp_record_desc *d
        cdef int rc = 1
        if self.fd < 0:
            raise ValueError("closed")
        self.r.end = file_bytes
        while rc == 1:
            with nogil:
                rc = cdp_frame_reader_next(&self.r, True, &st)
            if rc < 0:
                check(-rc, &st, self.path)
            if rc == 1:
                if not self.first_seq:
                    self.first_seq = self.r.head.first_seq
                d = cdp_frame_reader_desc(&self.r, self.r.head.n_desc - 1)
                self.frame_offset = self.r.frame_off    # the reader's goes on to a frame whose data is wrong
                self.last_seq = self.r.expect_seq - 1
                self.last_ts_ns = d.ts_ns
