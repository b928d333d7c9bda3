"""Sealing the segment that the log has set aside: what the maintenance thread does before and after making its run.

    waiting(log) -> finish(log) -> the run is made, catalogued and installed (cdp.store.maintenance) -> done(log)

Threading: one maintenance thread per log; appending and writing go on in the next segment meanwhile.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport cdp_segment_trailer
from cdpcore.base.status cimport CDP_OK, cdp_status
from cdpcore.base.thread cimport pthread_cond_broadcast, pthread_mutex_lock, pthread_mutex_unlock
from cdpcore.log.log cimport Log
from cdpcore.log.segment cimport cdp_segment_seal
from cdpcore.log.segments cimport segment


def waiting(Log log not None):
    """(number, first_seq, last_seq, first_ts_ns, last_ts_ns) of the segment that waits for its run, or None."""
    cdef segment s
    with nogil:
        pthread_mutex_lock(&log.ring.mutex)
        s = log.files.sealing
        if not log.files.sealing_published:
            s.number = 0
        pthread_mutex_unlock(&log.ring.mutex)
    return (s.number, s.first_seq, s.last_seq, s.first_ts_ns, s.last_ts_ns) if s.number else None


def write_out(Log log not None):
    """Write and sync every record of the segment that was set aside, without the append lock: a writer that holds it
    may wait for this very segment."""
    cdef cdp_status st
    cdef int rc
    with nogil:
        rc = write_frames(log, &st)
    check(rc, &st, log.files.directory.decode())


def finish(Log log not None):
    """Write out and sync the segment that was set aside, then its directory and trailer. Returns its file size."""
    cdef cdp_status st
    cdef int rc
    with nogil:
        rc = seal_file(log, &st)
    check(rc, &st, log.files.directory.decode())
    return log.files.sealing.file_bytes


cdef int write_frames(Log log, cdp_status *st) noexcept nogil:
    cdef segment *s = &log.files.sealing      # stable: only done(), called by the same thread, ends it
    cdef int rc = log.writer.write(s.end_frame, False, st)
    log.writer.wait_zeros(s.number)
    return log.writer.sync(s.last_seq, st) if rc == CDP_OK else rc


cdef int seal_file(Log log, cdp_status *st) noexcept nogil:
    cdef segment *s = &log.files.sealing
    cdef cdp_segment_trailer tr
    cdef int rc = write_frames(log, st)
    if rc != CDP_OK:
        return rc
    memset(&tr, 0, sizeof(tr))
    tr.salt = s.salt
    tr.first_seq = s.first_seq
    tr.last_seq = s.last_seq
    tr.first_ts_ns = s.first_ts_ns
    tr.last_ts_ns = s.last_ts_ns
    tr.segment = s.number
    return cdp_segment_seal(log.table, s.fd, s.tail_bytes, s.frames, s.n_frames, s.sums, &tr, &s.file_bytes, st)


def done(Log log not None):
    """The segment's run is installed: let the next roll go on."""
    cdef int fd
    with nogil:
        pthread_mutex_lock(&log.ring.mutex)
        fd = log.files.sealing.fd
        log.files.note_sealed(log.files.sealing.number)
        free(log.files.sealing.frames)
        free(log.files.sealing.sums)
        free(log.files.sealing.activity)
        memset(&log.files.sealing, 0, sizeof(segment))
        log.files.sealing_published = False
        log.files.maintenance_errno = 0
        pthread_cond_broadcast(&log.ring.changed)
        pthread_mutex_unlock(&log.ring.mutex)
        log.table.close(log.table.ctx, fd)


def failed(Log log not None, int errno_):
    """No segment can be sealed for now (0: one can again): writers that need the next one are refused, not kept
    waiting."""
    with nogil:
        pthread_mutex_lock(&log.ring.mutex)
        log.files.maintenance_errno = errno_
        pthread_cond_broadcast(&log.ring.changed)
        pthread_mutex_unlock(&log.ring.mutex)
