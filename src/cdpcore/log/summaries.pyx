"""Summaries of segments for those who keep and show them: of the segments that are open, from memory, and of others,
from their descriptors.

A summary is (width_ns, place_sectors, cells, stride, samples): cells are packed cdp_activity_cell structs
(base/format.h), samples packed cdp_activity_sample (log/activity.h), every stride-th write; stride 0: there are none,
what was overwritten is in the cells.

Threading: of_segments() from any thread; it holds the io lock for a copy, and never waits for the append lock. A
Summary is of one thread.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from cdpcore.base.format cimport CDP_REC_MORE, cdp_record_desc
from cdpcore.base.thread cimport pthread_mutex_lock, pthread_mutex_unlock
from cdpcore.log.activity cimport (CDP_ACTIVITY_WIDTHS, cdp_activity, cdp_activity_add, cdp_activity_cell,
                                   cdp_activity_sample, cdp_activity_start, cdp_activity_width_ns)
from cdpcore.log.log cimport Log
from cdpcore.log.segments cimport segment
from cdpcore.base.errors import InvalidRequest


WIDTHS_NS = tuple([cdp_activity_width_ns(i) for i in range(CDP_ACTIVITY_WIDTHS)])


cdef tuple packed(const cdp_activity *a):
    return (cdp_activity_width_ns(a.width), 1 << a.place_shift,
            (<const char *>a.cells)[:a.n_cells * sizeof(cdp_activity_cell)], 0 if a.before else a.stride,
            (<const char *>a.samples)[:a.n_samples * sizeof(cdp_activity_sample)])


def of_segments(Log log not None) -> list:
    """[(number, summary)] of the segment being sealed, if any, and the open one, if any: up to about the last record.
    None instead of a summary where there was no memory for one."""
    cdef segment *both[2]
    cdef uint32_t number[2]
    cdef cdp_activity *copy[2]
    cdef int i
    both[0], both[1] = &log.files.sealing, &log.files.current
    copy[0] = copy[1] = NULL
    with nogil:
        pthread_mutex_lock(&log.ring.mutex)
        for i in range(2):
            number[i] = both[i].number
            if number[i] and both[i].activity != NULL:
                copy[i] = <cdp_activity *>malloc(sizeof(cdp_activity))
                if copy[i] != NULL:
                    pthread_mutex_lock(&log.counting)
                    memcpy(copy[i], both[i].activity, sizeof(cdp_activity))
                    pthread_mutex_unlock(&log.counting)
        pthread_mutex_unlock(&log.ring.mutex)
    try:
        return [(number[i], packed(copy[i]) if copy[i] != NULL else None) for i in range(2) if number[i]]
    finally:
        free(copy[0])
        free(copy[1])


cdef class Summary:
    """Of a segment whose records are there to read. Args: volume_bytes; before: of a volume that keeps
    before-images."""
    cdef cdp_activity *a

    def __cinit__(self, uint64_t volume_bytes, bint before):
        self.a = <cdp_activity *>malloc(sizeof(cdp_activity))
        if self.a == NULL:
            raise MemoryError()
        cdp_activity_start(self.a, volume_bytes // 512, before)

    def __dealloc__(self):
        free(self.a)

    def add(self, seqs, descs) -> int:
        """Packed u64 seqs, and as many packed cdp_record_desc structs, in order. Returns how many at their end are the
        beginning of a record: to be given again with the rest of it."""
        cdef const unsigned char[::1] seq_bytes = seqs, desc_bytes = descs
        cdef size_t n = seq_bytes.shape[0] // sizeof(uint64_t), i, begun = 0
        cdef const uint64_t *seq
        cdef const cdp_record_desc *d
        cdef uint64_t sectors = 0, held = 0
        cdef uint16_t kind = 0
        if desc_bytes.shape[0] != <Py_ssize_t>(n * sizeof(cdp_record_desc)):
            raise InvalidRequest("not as many seqs as descriptors")
        if n == 0:
            return 0
        seq, d = <const uint64_t *>&seq_bytes[0], <const cdp_record_desc *>&desc_bytes[0]
        with nogil:
            for i in range(n):
                sectors += d[i].sectors
                held += d[i].data_bytes // 512
                kind = max(kind, d[i].kind)
                if not d[i].flags & CDP_REC_MORE:
                    cdp_activity_add(self.a, seq[i], d[begun].ts_ns, kind, d[begun].start, sectors, held)
                    begun = i + 1
                    sectors = held = 0
                    kind = 0
        return n - begun

    def packed(self) -> tuple:
        return packed(self.a)
