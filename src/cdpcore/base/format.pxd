"""What is on disk (base/format.h): constants, locations, structs."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "base/format.h" nogil:
    enum:
        CDP_SECTOR
        CDP_BLOCK
        CDP_FORMAT_VERSION
        CDP_SUMS_PER_PAGE
        CDP_SUMS_UNKNOWN

        CDP_KIND_WRITE
        CDP_KIND_ZERO
        CDP_KIND_TRIM
        CDP_KIND_FLUSH
        CDP_KIND_BOOKMARK
        CDP_KIND_RESTORE
        CDP_KIND_UNBOOKMARK
        CDP_KIND_WRITEBACK
        CDP_KIND_RESTORED
        CDP_KIND_FOREIGN

        CDP_REC_MORE
        CDP_REC_FUA
        CDP_REC_BEFORE
        CDP_REC_HOLE
        CDP_REC_SAME
        CDP_REC_META

        CDP_SEGMENT_BEFORE
    const uint64_t CDP_MAX_SECTORS
    const uint64_t CDP_DISK_MAGIC

    # locations
    const uint64_t CDP_LOC_ZERO
    const uint64_t CDP_LOC_HOLE
    const uint64_t CDP_LOC_BASE
    const uint64_t CDP_LOC_UNKNOWN
    uint64_t cdp_loc(uint32_t segment, uint64_t byte_off)
    bint cdp_loc_is_data(uint64_t loc)
    uint64_t cdp_loc_add(uint64_t loc, uint64_t delta)
    bint cdp_kind_changes(uint16_t kind)

    # log/N.log
    struct cdp_segment_header:
        uint8_t volume_uuid[16]
        uint64_t volume_bytes
        uint64_t created_ns
        uint32_t segment
        uint32_t flags
        uint64_t salt

    struct cdp_record_desc:
        uint64_t ts_ns
        uint64_t start
        uint64_t sectors
        uint32_t data_sector
        uint32_t crc
        uint16_t kind
        uint16_t flags
        uint32_t data_bytes

    struct cdp_frame_header:
        uint64_t first_seq
        uint64_t durable_seq
        uint64_t flush_seq
        uint32_t frame
        uint32_t n_desc

    struct cdp_frame_entry:
        uint64_t first_seq
        uint64_t first_ts_ns
        uint64_t flush_seq
        uint32_t offset_blocks
        uint32_t n_desc

    struct cdp_segment_trailer:
        uint64_t salt
        uint64_t first_seq
        uint64_t last_seq
        uint64_t first_ts_ns
        uint64_t last_ts_ns
        uint64_t directory_offset
        uint32_t n_frames
        uint32_t directory_crc
        uint32_t segment
        uint64_t sums_offset

    # log/N.sums, base.sums, disk.sums
    struct cdp_sums_header:
        uint8_t volume_uuid[16]
        uint32_t segment
        uint64_t salt
        uint64_t n_blocks
        uint64_t seq
        uint64_t known_blocks

    # disk.state
    struct cdp_disk_state:
        uint64_t magic
        uint32_t version
        uint32_t crc
        uint8_t volume_uuid[16]
        uint64_t generation
        uint64_t applied_seq
        uint64_t changed_ns

    # runs/N.run
    struct cdp_run_header:
        uint8_t volume_uuid[16]
        uint64_t first_seq
        uint64_t last_seq
        uint32_t first_segment
        uint32_t last_segment
        uint64_t n_extents
        uint64_t n_versions
        uint64_t n_blocks
        uint64_t file_bytes

    struct cdp_run_version:
        uint64_t seq
        uint64_t loc
