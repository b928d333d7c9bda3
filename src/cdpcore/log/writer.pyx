"""Finished frames written to their segments, and the segments made durable.

A thread that needs I/O does it: it leads, and those that come meanwhile wait for what it does, or lead next. Writing
and syncing have leaders of their own, so a sync keeps no write waiting: a datasync took up to 220 ms on a device that
takes 1 GiB/s meanwhile.

Invariants
 1. ring.written, written_seq and durable_seq only grow. Everything before written_seq is in a file; everything before
    durable_seq is durable.
 2. A sync covers what was written when it began, and no more.
 3. The older of two segments is synced first: what a crash leaves is a prefix.
 4. A failed write or sync is sticky (FrameRing.failed): nothing is written or durable after it.

Threading: any thread; see the fields.
"""
from libc.errno cimport EIO
from libc.stdint cimport int64_t
from cdpcore.base.status cimport CDP_OK, cdp_fail_os
from cdpcore.base.thread cimport (cdp_cond_init, pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_signal,
                                  pthread_cond_wait, pthread_mutex_lock, pthread_mutex_unlock)
from cdpcore.log.ring cimport ring_frame


cdef class LogWriter:
    """Made by Log. ring, files: what is written and where; durable_seq: the last record of the log so far."""

    def __cinit__(self, FrameRing ring not None, LogFiles files not None, uint64_t durable_seq):
        cdp_cond_init(&self.work)
        self.ring = ring
        self.files = files
        self.table = files.table
        self.written_seq = self.durable_seq = durable_seq

    def __dealloc__(self):
        pthread_cond_destroy(&self.work)

    cdef void note_failure(self, int rc, const cdp_status *st) noexcept nogil:
        if rc != CDP_OK and not self.ring.failed:
            self.ring.failed = st.sys_errno if st.sys_errno else EIO

    # --- writing ------------------------------------------------------------------------------------------------------

    cdef int write(self, uint64_t upto, cdp_status *st) noexcept nogil:
        cdef int rc = CDP_OK
        pthread_mutex_lock(&self.ring.mutex)
        while rc == CDP_OK and self.ring.written < upto:
            if self.ring.failed:
                pthread_mutex_unlock(&self.ring.mutex)
                return self.ring.fail_sticky(st)
            if self.write_busy:
                pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
                continue
            self.write_busy = True
            pthread_mutex_unlock(&self.ring.mutex)
            rc = self.write_frames(upto, st)
            pthread_mutex_lock(&self.ring.mutex)
            self.write_busy = False
            self.note_failure(rc, st)
            if self.ring.queued > self.ring.written:
                pthread_cond_signal(&self.work)
            pthread_cond_broadcast(&self.ring.changed)
        pthread_mutex_unlock(&self.ring.mutex)
        return rc

    cdef int write_frames(self, uint64_t upto, cdp_status *st) noexcept nogil:
        """Frames [written, upto), in order. Unwritten slots are not reused."""
        cdef ring_frame *r
        cdef int64_t rc
        cdef uint64_t k = self.ring.written
        while k < upto:
            r = self.ring.at(k)
            rc = self.table.pwrite(self.table.ctx, r.fd, r.f.slot, r.f.total_bytes, r.f.file_off)
            if rc < 0:
                return cdp_fail_os(st, rc, r.f.file_off, b"writing the log")
            k += 1
            pthread_mutex_lock(&self.ring.mutex)
            self.ring.written = k
            self.written_seq = r.whole_seq      # half a record is neither written nor durable
            if r.f.segment == self.files.current.number:
                self.files.current_dirty = True
            else:
                self.files.sealing_dirty = True
            self.bytes_written += r.f.total_bytes
            self.frames_written += 1
            pthread_cond_broadcast(&self.ring.changed)
            pthread_mutex_unlock(&self.ring.mutex)
        return CDP_OK

    # --- making durable -----------------------------------------------------------------------------------------------

    cdef int sync(self, uint64_t seq, cdp_status *st) noexcept nogil:
        cdef uint64_t covered
        cdef int old_fd, new_fd, rc = CDP_OK
        pthread_mutex_lock(&self.ring.mutex)
        while rc == CDP_OK and self.durable_seq < seq:
            if self.ring.failed:
                pthread_mutex_unlock(&self.ring.mutex)
                return self.ring.fail_sticky(st)
            if self.sync_busy:
                pthread_cond_wait(&self.ring.changed, &self.ring.mutex)
                continue
            self.sync_busy = True
            covered = self.written_seq
            # Neither is closed before this sync ends: a segment is sealed when its last record is durable.
            old_fd = self.files.sealing.fd if self.files.sealing_dirty else -1
            new_fd = self.files.current.fd if self.files.current_dirty else -1
            self.files.sealing_dirty = self.files.current_dirty = False
            pthread_mutex_unlock(&self.ring.mutex)
            rc = self.sync_segments(old_fd, new_fd, st)
            pthread_mutex_lock(&self.ring.mutex)
            self.sync_busy = False
            self.note_failure(rc, st)
            if not self.ring.failed:
                self.durable_seq = covered
                self.syncs += 1
            pthread_cond_broadcast(&self.ring.changed)
        pthread_mutex_unlock(&self.ring.mutex)
        return rc

    cdef int sync_segments(self, int old_fd, int new_fd, cdp_status *st) noexcept nogil:
        cdef int rc = 0
        if old_fd >= 0:
            rc = self.table.datasync(self.table.ctx, old_fd)
        if rc >= 0 and new_fd >= 0:
            rc = self.table.datasync(self.table.ctx, new_fd)
        return CDP_OK if rc >= 0 else cdp_fail_os(st, rc, 0, b"making the log durable")
