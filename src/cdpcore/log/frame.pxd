"""Frames: built in a slot, parsed from a file (log/frame.h)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from cdpcore.base.format cimport cdp_frame_header, cdp_record_desc
from cdpcore.base.status cimport cdp_status
from cdpcore.system.os_table cimport cdp_os


cdef extern from "log/frame.h" nogil:
    enum:
        CDP_FRAME_TAIL_BYTES
        CDP_FRAME_MAX_DESCS
        CDP_FRAME_MIN_SLOT

    # building
    ctypedef struct cdp_frame:
        uint8_t *slot
        uint32_t slot_bytes
        uint32_t used_bytes
        uint32_t n_desc
        uint32_t frame
        uint32_t segment
        uint32_t total_bytes
        uint64_t file_off
        uint64_t salt
        uint64_t first_seq
        uint64_t last_seq
        uint64_t first_ts_ns
        uint64_t flush_seq
    void cdp_frame_start(cdp_frame *f, uint8_t *slot, uint32_t slot_bytes, uint32_t segment, uint32_t frame,
                         uint64_t file_off, uint64_t salt, uint64_t first_seq, uint64_t flush_seq)
    int cdp_frame_fits(const cdp_frame *f, uint32_t bytes)
    uint64_t cdp_frame_add(cdp_frame *f, uint64_t seq, uint64_t ts_ns, uint64_t start, uint64_t sectors, uint16_t kind,
                           uint16_t flags, const void *data, uint32_t bytes, uint32_t crc)
    void cdp_frame_finish(cdp_frame *f, uint64_t durable_seq)
    void cdp_frame_sums(const cdp_frame *f, uint32_t *sums)
    uint64_t cdp_frame_bound(const cdp_frame *f)
    uint64_t cdp_frame_size_with(const cdp_frame *f, uint32_t bytes)
    uint32_t cdp_frame_descs(const cdp_frame *f, cdp_record_desc *out, uint32_t cap)

    # reading
    ctypedef struct cdp_frame_reader:
        uint64_t end
        uint64_t off
        uint32_t frame
        uint64_t expect_seq
        cdp_frame_header head
        uint64_t frame_off
        uint32_t *sums
    int cdp_frame_reader_init(cdp_frame_reader *r, const cdp_os *os, int fd, uint32_t segment, uint64_t salt,
                              uint64_t end, uint64_t expect_seq)
    void cdp_frame_reader_free(cdp_frame_reader *r)
    int cdp_frame_reader_next(cdp_frame_reader *r, int verify_data, cdp_status *st)
    const cdp_record_desc *cdp_frame_reader_desc(const cdp_frame_reader *r, uint32_t i)
    int cdp_frame_reader_data_ok(cdp_frame_reader *r, uint32_t i, cdp_status *st)
    int cdp_frame_reader_later_durable(cdp_frame_reader *r, uint64_t *durable_seq, cdp_status *st)
