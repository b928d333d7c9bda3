"""The two ends of a segment file (log/segment.h)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from cdpcore.base.format cimport cdp_frame_entry, cdp_segment_header, cdp_segment_trailer
from cdpcore.base.status cimport cdp_status
from cdpcore.system.os_table cimport cdp_os


cdef extern from "log/segment.h" nogil:
    int cdp_segment_create(const cdp_os *os, const char *directory, cdp_segment_header *h, uint64_t bytes, int direct,
                           int *fd, cdp_status *st)
    int cdp_segment_of_reserve(const cdp_os *os, const char *from_, const char *directory, cdp_segment_header *h,
                               int direct, uint64_t *bytes, int *fd, cdp_status *st)
    int cdp_segment_header_get(const uint8_t *block, cdp_segment_header *h)
    int cdp_segment_trailer_get(const uint8_t *block, cdp_segment_trailer *t)
    uint64_t cdp_segment_seal_bytes(uint64_t end, uint32_t n_frames)
    int cdp_segment_seal(const cdp_os *os, int fd, uint64_t end, const cdp_frame_entry *entries, uint32_t n_frames,
                         const uint32_t *sums, cdp_segment_trailer *t, uint64_t *file_bytes, cdp_status *st)
    int cdp_segment_write_again(const cdp_os *os, int fd, uint64_t from_, uint64_t to, cdp_status *st)
