"""The end of the log as its readers see it: what is not sealed yet, from memory, without waiting for the device.

A frame that has not been written lies in its slot, the open one included. A frame that has left its slot is in the
file. Both functions hold the io lock for a copy (a directory: 32 bytes a frame; a frame's descriptors: 69 KB at most)
and never the append lock, whose holder may be waiting for the device. So they may show records that are being appended:
a caller asks for the last visible record before the call, and leaves out what is newer.

Threading: any thread.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from cdpcore.base.format cimport CDP_BLOCK, cdp_frame_entry, cdp_record_desc
from cdpcore.base.thread cimport pthread_mutex_lock, pthread_mutex_unlock
from cdpcore.log.frame cimport CDP_FRAME_MAX_DESCS, cdp_frame_descs
from cdpcore.log.log cimport Log
from cdpcore.log.ring cimport FRAMES, ring_frame
from cdpcore.log.segments cimport segment


def directories(Log log not None) -> list:
    """[(number, bytes)] of the segment being sealed, if any, and the open one, if any, as of one moment: their
    directories so far, packed cdp_frame_entry structs, the open frame's as the last. Copies."""
    cdef segment *both[2]
    cdef uint32_t number[2]
    cdef size_t n[2]
    cdef cdp_frame_entry *copy[2]
    cdef cdp_frame_entry *last
    cdef ring_frame *r
    cdef int i
    both[0], both[1] = &log.files.sealing, &log.files.current
    with nogil:
        pthread_mutex_lock(&log.ring.mutex)
        for i in range(2):
            number[i] = both[i].number
            n[i] = both[i].n_frames
            copy[i] = <cdp_frame_entry *>malloc((n[i] + 1) * sizeof(cdp_frame_entry))
            if copy[i] != NULL and n[i]:
                memcpy(copy[i], both[i].frames, n[i] * sizeof(cdp_frame_entry))
        if log.frame_open and log.ring.last().f.n_desc and copy[1] != NULL:
            r = log.ring.last()
            last = &copy[1][n[1]]
            last.first_seq = r.f.first_seq
            last.first_ts_ns = r.f.first_ts_ns
            last.flush_seq = r.f.flush_seq
            last.offset_blocks = <uint32_t>(r.f.file_off // CDP_BLOCK)
            last.n_desc = r.f.n_desc
            n[1] += 1
        pthread_mutex_unlock(&log.ring.mutex)
    try:
        if copy[0] == NULL or copy[1] == NULL:
            raise MemoryError()
        return [(number[i], (<const char *>copy[i])[:n[i] * sizeof(cdp_frame_entry)]) for i in range(2) if number[i]]
    finally:
        free(copy[0])
        free(copy[1])


def descriptors(Log log not None, uint32_t number, uint32_t frame):
    """(first_seq, packed cdp_record_desc structs) of a frame of segment `number` that is still in its slot; None: it is
    in the file."""
    cdef bytearray room = bytearray(CDP_FRAME_MAX_DESCS * sizeof(cdp_record_desc))
    cdef cdp_record_desc *out = <cdp_record_desc *><char *>room
    cdef uint64_t k, first_seq = 0
    cdef uint32_t n = 0
    cdef ring_frame *r
    cdef bint found = False
    with nogil:
        pthread_mutex_lock(&log.ring.mutex)
        k = log.ring.opened
        while k and log.ring.opened - k < FRAMES:
            k -= 1
            r = log.ring.at(k)
            if r.f.segment == number and r.f.frame == frame and log.ring.has(k):
                n = cdp_frame_descs(&r.f, out, CDP_FRAME_MAX_DESCS)
                first_seq = r.f.first_seq
                found = True
                break
        pthread_mutex_unlock(&log.ring.mutex)
    return (first_seq, bytes(room[:n * sizeof(cdp_record_desc)])) if found else None
