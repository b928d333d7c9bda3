"""The descriptors of a few records of a sealed segment, for the history of a range: of each frame that has some of them
what is asked for, and not its other records, of which there may be 1732.

Threading: any; a segment file is one thread's.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from cdpcore.base.errors cimport check
from cdpcore.base.format cimport CDP_BLOCK, CDP_REC_MORE, cdp_frame_entry, cdp_record_desc
from cdpcore.base.status cimport cdp_status
from cdpcore.log.frame cimport (cdp_frame_reader, cdp_frame_reader_desc, cdp_frame_reader_free, cdp_frame_reader_init,
                                cdp_frame_reader_next)
from cdpcore.system.os cimport Os
from cdpcore.base.errors import Corruption

cdef enum:
    OK = 1                  # as of cdp_frame_reader_next()
    NO_MEMORY = 2


cdef struct found:
    uint64_t *seqs
    cdp_record_desc *descs
    size_t n, cap


cdef bint add(found *out, uint64_t seq, const cdp_record_desc *d) noexcept nogil:
    cdef void *grown
    cdef size_t cap
    if out.n == out.cap:
        cap = 2 * out.cap + 64
        grown = realloc(out.seqs, cap * sizeof(uint64_t))
        if grown == NULL:
            return False
        out.seqs = <uint64_t *>grown
        grown = realloc(out.descs, cap * sizeof(cdp_record_desc))
        if grown == NULL:
            return False
        out.descs = <cdp_record_desc *>grown
        out.cap = cap
    out.seqs[out.n] = seq
    out.descs[out.n] = d[0]
    out.n += 1
    return True


cdef uint32_t first_frame(const cdp_frame_entry *f, uint32_t n, uint64_t seq) noexcept nogil:
    """The frame with the first part of record `seq`, or a few before it; `n`: it is before all of them."""
    cdef uint32_t lo = 0, hi = n, mid
    while lo < hi:
        mid = lo + (hi - lo) // 2
        if f[mid].first_seq < seq:
            lo = mid + 1
        else:
            hi = mid
    if lo == n or f[lo].first_seq > seq:
        return lo - 1 if lo else n
    # A frame without records of several parts ends with a whole one: as many seqs as descriptors.
    while lo and f[lo].first_seq == seq and seq < f[lo - 1].first_seq + f[lo - 1].n_desc:
        lo -= 1
    return lo


cdef int pick(cdp_frame_reader *r, const cdp_frame_entry *frames, uint32_t n_frames, const uint64_t *wanted, size_t n,
              found *out, cdp_status *st) noexcept nogil:
    """OK, NO_MEMORY, or what cdp_frame_reader_next() said of a frame."""
    cdef const cdp_record_desc *d
    cdef size_t w = 0, looked_for
    cdef uint64_t seq
    cdef uint32_t frame, i
    cdef int rc
    while w < n:
        looked_for = w
        frame = first_frame(frames, n_frames, wanted[w])
        while frame < n_frames:
            r.off = <uint64_t>frames[frame].offset_blocks * CDP_BLOCK
            r.frame = frame
            r.expect_seq = frames[frame].first_seq
            rc = cdp_frame_reader_next(r, 0, st)
            if rc != OK:
                return rc
            seq = r.head.first_seq
            for i in range(r.head.n_desc):
                d = cdp_frame_reader_desc(r, i)
                while w < n and wanted[w] < seq:
                    w += 1
                if w < n and wanted[w] == seq and not add(out, seq, d):
                    return NO_MEMORY
                seq += not d.flags & CDP_REC_MORE
            while w < n and wanted[w] < seq:
                w += 1
            frame += 1
            if w == n or frame == n_frames or frames[frame].first_seq != wanted[w]:
                break       # the next frame does not begin with one of them, or with a part of one
        w += w == looked_for        # it is not there
    return OK


def descriptors(Os os not None, segment not None, const uint64_t[::1] seqs not None):
    """(seqs, descriptors): those of the records `seqs` (ascending) that a sealed SegmentFile has, each whole; packed
    uint64 and cdp_record_desc, one of each for a descriptor. Reads the directory and the frames with them, without the
    GIL: 20 us for a frame of 1000 records. Raises Corruption."""
    cdef cdp_frame_reader r
    cdef cdp_status st
    cdef found out = found(seqs=NULL, descs=NULL, n=0, cap=0)
    cdef bytes directory = segment.directory()
    cdef const cdp_frame_entry *frames = <const cdp_frame_entry *><const char *>directory
    cdef uint32_t n_frames = len(directory) // sizeof(cdp_frame_entry)
    cdef size_t n = seqs.shape[0]
    cdef int rc = OK
    if cdp_frame_reader_init(&r, os.table, segment.fd, segment.number, segment.salt, segment.end_bytes, 0) != 0:
        raise MemoryError()
    try:
        if n:
            with nogil:
                rc = pick(&r, frames, n_frames, &seqs[0], n, &out, &st)
        if rc == NO_MEMORY:
            raise MemoryError()
        if rc < 0:
            check(-rc, &st, segment.path)
        if rc == 0:
            raise Corruption(f"{segment.path}: no valid frame at byte {r.off}", "run 'cdp check' on the volume")
        return ((<const char *>out.seqs)[:out.n * sizeof(uint64_t)],
                (<const char *>out.descs)[:out.n * sizeof(cdp_record_desc)])
    finally:
        cdp_frame_reader_free(&r)
        free(out.seqs)
        free(out.descs)
